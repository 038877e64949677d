"""A model card for the method that won, from the results alone."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from .. import escaping
from ..escaping import code
from ..escaping import markdown as text
from ..files import read_json
from .plan import names_plugin
from .results import Result
from .table import Scored, definitions, markdown, notes, tables, unique


def winner(results: Sequence[Result], scored: Scored) -> str:
    """Method with the best mean score on the selecting subset; the first of equals."""

    def mean(method: str) -> float:
        mine = [r for r in results if r.method == method]
        scores = scored.scores(mine, scored.select).values()
        return scored.rank(sum(scores) / len(scores)) if scores else float("-inf")

    return max(unique([r.method for r in results]), key=mean)


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
    mine = [r for r in results if r.method == best and r.ok]
    one = mine[0]
    task = one.config["task"]
    model = task["steady_model"]
    software = ", ".join(f"{name} {v}" for name, v in one.versions.items())
    tried = ", ".join(unique([r.method for r in results]))
    seeds = unique([str(r.seed) for r in mine])
    chosen = f"{best}, the best of {tried} by mean {scored.metric} on {scored.select}"
    select = text(scored.select)
    _, *flags = one.command
    program = ["fairseq-train"] if names_plugin(flags) else ["fairseq-steady", "train"]
    return f"""# {text(f"{task['_name']}, fine-tuned with {best}")}

- Task: {text(task["_name"])}, read from {code(task["data"])}; {text(_sizes(one))}
- Base model: {code(model)}, licence: {text(_licence(model))}
- Method: {text(chosen)}
- Seeds: {", ".join(seeds)}
- Trained on: {text(one.machine)}; {one.seconds or 0:.0f} s a run
- Software: {text(f"{software}, commit {one.commit}")}

{escaping.code_block(escaping.command([*program, *flags]), "bash")}

## Scores

{markdown(tables(results, scored), definitions(scored), notes(results, scored))}
## Limits

The method was chosen by its scores on {select}, so these flatter it; subsets
that chose nothing do not. Standard deviations and intervals over seeds say how training
varies on one sample of data, not how the scores would vary on another. Nothing was
tested beyond the subsets above, nor for bias against groups of people.
"""


def _sizes(result: Result) -> str:
    counts = [
        f"{len(found['gold'])} {subset}" for subset, found in result.predictions.items()
    ]
    return "evaluated on " + ", ".join(counts)
