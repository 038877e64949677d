"""A model card for the method that won, from the results alone."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from .results import Result
from .table import Scored, definitions, markdown, tables, unique


def winner(results: Sequence[Result], scored: Scored) -> str:
    """Method with the best mean score on the selecting subset; the first of equals."""
    sign = 1 if scored.larger else -1

    def mean(method: str) -> float:
        mine = [r for r in results if r.method == method]
        scores = scored.scores(mine, scored.select).values()
        return sign * sum(scores) / len(scores) if scores else float("-inf")

    return max(unique([r.method for r in results]), key=mean)


def _licence(model: str) -> str:
    manifest = Path(model) / "manifest.json"
    if not manifest.is_file():
        return "unknown"
    return json.loads(manifest.read_text("utf-8")).get("licence") or "not stated"


def card(results: Sequence[Result], scored: Scored) -> str:
    """Markdown: task, data, method with its flags, scores, limits, licence."""
    best = winner(results, scored)
    mine = [r for r in results if r.method == best and r.ok]
    one = mine[0]
    task = one.config["task"]
    model = task["steady_model"]
    software = ", ".join(f"{name} {v}" for name, v in one.versions.items())
    tried = ", ".join(unique([r.method for r in results]))
    seeds = unique([str(r.seed) for r in mine])
    return f"""# {task["_name"]}, fine-tuned with {best}

- Task: {task["_name"]}, read from `{task["data"]}`; {_sizes(one)}
- Base model: `{model}`, licence: {_licence(model)}
- Method: {best}, the best of {tried} by mean {scored.metric} on {scored.select}
- Seeds: {", ".join(seeds)}
- Trained on: {one.machine}; {one.seconds or 0:.0f} s a run
- Software: {software}, commit {one.commit}

```bash
{shlex.join(one.command)}
```

## Scores

{markdown(tables(results, scored), definitions(scored))}
## Limits

The method was chosen by its scores on {scored.select}, so these flatter it; subsets
that chose nothing do not. Seeds say how training varies on one sample of data, not
how the scores would vary on another. Nothing was tested beyond the subsets above, nor
for bias against groups of people.
"""


def _sizes(result: Result) -> str:
    counts = [
        f"{len(found['gold'])} {subset}" for subset, found in result.predictions.items()
    ]
    return "evaluated on " + ", ".join(counts)
