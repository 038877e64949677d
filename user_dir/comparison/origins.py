"""Were all runs made alike? What differs between them in software and machine."""

from collections.abc import Mapping, Sequence

from .results import Result
from .table import unique

#: Values of a field that are named.
_NAMED = 3


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
    """Methods by value, by field."""
    made = [
        (r.method, {**r.versions, "commit": r.commit, "machine": r.machine})
        for r in results
        if not r.crashed
    ]
    found: dict[str, dict[str, list[str]]] = {}
    for name in unique([name for _, one in made for name in one]):
        by = found[name] = {}
        for method, one in made:
            methods = by.setdefault(one.get(name) or "unknown", [])
            if method not in methods:
                methods.append(method)
    return found


def _said(by_value: Mapping[str, Sequence[str]]) -> str:
    values = [f"{value} ({', '.join(of)})" for value, of in by_value.items()]
    more = len(values) - _NAMED
    return ", ".join(values[:_NAMED]) + (f" and {more} more" if more > 0 else "")
