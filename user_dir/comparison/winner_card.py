"""A model card for the method that won, from the results alone."""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from .. import escaping
from ..escaping import code
from ..escaping import markdown as text
from ..files import read_json
from .origins import unlike
from .plan import typed
from .results import Result
from .table import (
    Scored,
    definitions,
    ended,
    markdown,
    notes,
    subsets,
    tables,
    unique,
)


def winner(results: Sequence[Result], scored: Scored) -> str:
    """Method with the best mean score on the selecting subset; the first of equals.

    Of several settings it is the mean of their means, and a method that has runs in
    fewer of them than others is none of them.
    """
    methods = unique([r.method for r in ended(results)])
    by_method = {m: [r for r in results if r.method == m] for m in methods}
    means = {m: _means(mine, scored) for m, mine in by_method.items()}
    most = max(map(len, means.values()))
    whole = [m for m in methods if len(means[m]) == most]
    return max(whole, key=lambda m: scored.rank(statistics.fmean(means[m])))


def _means(mine: Sequence[Result], scored: Scored) -> list[float]:
    """Mean score of a method's runs in each setting that it has any in."""
    found = []
    for setting in unique([r.setting for r in mine]):
        runs = [r for r in mine if r.setting == setting]
        if scores := scored.scores(runs, scored.select).values():
            found.append(statistics.fmean(scores))
    return found


class _Manifest(TypedDict):
    licence: NotRequired[str | None]


def _licence(model: str) -> str:
    path = os.path.join(model, "manifest.json")
    if not os.path.isfile(path):
        return "unknown"
    manifest = read_json(Path(path), _Manifest, "import the model again")
    return manifest.get("licence") or "not stated"


def describe(results: Sequence[Result], scored: Scored) -> str:
    """Markdown: task, data, method with its flags, scores, limits, licence."""
    best = winner(results, scored)
    mine = ended([r for r in results if r.method == best])
    one = mine[0]
    task = one.config["task"]
    model = task["steady_model"]
    software = ", ".join(f"{name} {v}" for name, v in one.versions.items())
    seeds = unique([str(r.seed) for r in mine])
    chosen = _chosen(one, results, scored)
    select = text(scored.select)
    described = definitions(scored).also(unlike(results))
    return f"""# {text(f"{task['_name']}, fine-tuned with {best}")}

- Task: {text(task["_name"])}, read from {code(task["data"])}; {text(_sizes(one))}
- Base model: {code(model)}, licence: {text(_licence(model))}
- Method: {text(chosen)}
- Seeds: {", ".join(seeds)}
- Trained on: {text(one.machine)}; {one.seconds or 0:.0f} s a run
- Software: {text(f"{software}, commit {one.commit}")}

{escaping.code_block(escaping.command(typed(one.command)), "bash")}

## Scores

{markdown(tables(results, scored), described, notes(results, scored))}
## Limits

The method was chosen by its scores on {select}, so these flatter it; subsets
that chose nothing do not. Standard deviations and intervals over seeds say how training
varies on one sample of data; the intervals over seeds and sentences, where there are
some, also how scores would vary on other sentences like these. Nothing was
tested beyond the subsets above, nor for bias against groups of people.
"""


def _chosen(one: Result, results: Sequence[Result], scored: Scored) -> str:
    """What the method of a run was the best of."""
    tried = ", ".join(unique([r.method for r in results]))
    said = f"{one.method}, the best of {tried} by mean {scored.metric}"
    settings = unique([r.setting for r in results])
    several = f", over all of {', '.join(settings)}; the command is {one.setting}'s"
    return f"{said} on {scored.select}" + several * (len(settings) > 1)


def _sizes(result: Result) -> str:
    recorded = {**result.predictions, **result.summaries}
    counts = [f"{len(found['gold'])} {subset}" for subset, found in recorded.items()]
    return "evaluated on " + (", ".join(counts) or ", ".join(subsets([result])))
