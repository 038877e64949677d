"""Were all runs made alike? What differs in files, software and machine."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from .results import Result
from .table import unique

#: Values of a field that are named, and characters of a digest.
_NAMED, _DIGITS = 3, 8


def unlike(results: Sequence[Result]) -> dict[str, str]:
    """What a table says of its runs if they were not all made alike, else nothing.

    Args:
        results: of all methods, made at any time.

    """
    differing = {name: by for name, by in _by_value(results).items() if len(by) > 1}
    if not differing:
        return {}
    parts = "; ".join(f"{name} {_said(by)}" for name, by in differing.items())
    return {
        "runs": f"not all were made alike: {parts}. Where methods differ in these, so "
        "may their scores for it, and times do not compare."
    }


def _by_value(results: Sequence[Result]) -> dict[str, dict[str, list[str]]]:
    """Methods by value, by field; of files only where they are read."""
    results = [result for result in results if not result.crashed]
    made = [
        (r.method, {**r.versions, "commit": r.commit, "machine": r.machine})
        for r in results
    ]
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in unique([name for _, one in made for name in one]):
        for method, one in made:
            found[name][one.get(name) or "unknown"].append(method)
    for r in results:
        for file, digest in r.files.items():
            found[f"{r.setting} {file}".strip()][digest[:_DIGITS]].append(r.method)
    return found


def _said(by_value: Mapping[str, Sequence[str]]) -> str:
    values = [f"{value} ({', '.join(unique(of))})" for value, of in by_value.items()]
    more = len(values) - _NAMED
    return ", ".join(values[:_NAMED]) + (f" and {more} more" if more > 0 else "")
