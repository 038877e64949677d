"""How much a method's outcome depends on the seed, as the field measures it."""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import write_text
from ..scores.groups import OF_GROUP
from . import table
from .definitions import Definitions
from .recorded import Answers, Array, usable
from .results import Result
from .table import (
    Row,
    Scored,
    Tables,
    Title,
    failed,
    number,
    unique,
)

#: Bins of the confidence (Guo et al. use 15).
_BINS = 15
#: Rows that the console shows; more are in the file.
_SHORT = 24


def disagreement(answers: Sequence[Answers]) -> float:
    """Mean over pairs of models of the share of sentences that they answer differently.

    Of scores, the mean absolute difference. nan for fewer than two models.

    Source: Milani Fard et al. 2016 (Launch and iterate: reducing prediction churn),
    section 2, averaged over pairs as Du and Nguyen (arXiv 2302.07778) do.
    """
    given = [one.given for one in answers]
    gaps = [float(_apart(a, b).mean()) for a, b in itertools.combinations(given, 2)]
    return statistics.mean(gaps) if gaps else math.nan


def _apart(one: Array, other: Array) -> Array:
    """How far two models' answers to each sentence are apart, (N,)."""
    if one.dtype.kind == "f":
        return np.asarray(np.abs(one - other))
    differs = np.asarray(one != other)
    return np.asarray(differs.any(1)) if differs.ndim == 2 else differs


def calibration_error(answers: Answers) -> float:
    """Expected calibration error; nan of scores.

    The share of answers in each of 15 bins of equal width, times how far the bin's
    accuracy is from its mean confidence. Where several labels may hold, each is an
    answer of two classes.

    Source: Guo et al. (arXiv 1706.04599), equation 3.
    """
    if answers.scores:
        return math.nan
    p = answers.probabilities
    if answers.several:
        confidence = np.maximum(p, 1 - p).ravel()
        right = (answers.given == answers.gold.astype(bool)).ravel()
    else:
        confidence, right = p.max(1), answers.given == answers.gold
    # The bins are open below, ((m - 1) / M, m / M].
    bins = np.ceil(confidence * _BINS).astype(int)
    gaps = np.bincount(bins, right - confidence, _BINS + 1)
    return float(np.abs(gaps).sum() / len(confidence))


def _spread(scores: Sequence[float]) -> Row:
    """Mean and standard deviation; nan if a score is no finite number."""
    if not scores:
        return {}
    finite = all(map(math.isfinite, scores))
    spread = statistics.stdev(scores) if finite and len(scores) > 1 else math.nan
    mean = number(statistics.mean(scores)) if finite else "nan"
    return {"n": str(len(scores)), "mean": mean, "std": number(spread)}


def _row(results: Sequence[Result], scored: Scored, subset: str) -> Row:
    """One method on one subset."""
    scores = [*scored.scores(results, subset).values()]
    answers, _ = usable(results, subset)
    count = failed(results, scored, subset)
    errors = [calibration_error(one) for one in answers.values()]
    return {
        **_spread(scores),
        "failed": "" if count is None or not scores else f"{count / len(scores):.2f}",
        "disagreement": number(disagreement([*answers.values()])),
        "calibration error": number(statistics.mean(errors) if errors else math.nan),
    }


def _parts(one: dict[str, dict[str, float]], scored: Scored) -> dict[str, float]:
    """An evaluation's scores on subsets, and on their groups where they have some."""
    parts = {}
    for subset, metrics in one.items():
        if isinstance(metrics, dict) and scored.metric in metrics:
            parts[subset] = float(metrics[scored.metric])
            if scored.metric == "accuracy":
                parts |= {
                    f"{subset} {name.removeprefix(OF_GROUP)}": value
                    for name, value in metrics.items()
                    if name.startswith(OF_GROUP)
                    and name.removeprefix(OF_GROUP) not in ("mean", "worst")
                }
    return parts


def _worst(results: Sequence[Result], scored: Scored) -> Row:
    """The lowest score that each run has on any subset or group; none of one alone."""
    has = [r for r in results if scored.has(r, scored.select)]
    each = [_parts(scored.best(r), scored) for r in has]
    if not each or min(map(len, each)) < 2:
        return {}
    lowest = [min(one, key=lambda name: scored.rank(one[name])) for one in each]
    scores = [one[name] for one, name in zip(each, lowest, strict=True)]
    scores += [math.nan for r in results if r.diverged]
    (name, _), *_ = Counter(lowest).most_common(1)
    return {"subset": f"worst ({name})", **_spread(scores)}


def tables(results: Sequence[Result], scored: Scored) -> Tables:
    """A table per setting: a row for each method on each subset, and on its worst."""
    made: Tables = {}
    for setting in unique([r.setting for r in results]):
        rows = []
        for method in unique([r.method for r in results]):
            mine = [r for r in results if (r.setting, r.method) == (setting, method)]
            if all(r.crashed for r in mine):
                continue
            # A method that diverged with every seed has no subsets of its own.
            ended = any(r.ok for r in mine)
            for subset in scored.subsets(mine if ended else results):
                row = {"method": method, "subset": subset}
                rows.append(row | _row(mine, scored, subset))
            if worst := _worst(mine, scored):
                rows.append({"method": method} | worst)
        if rows:
            title = Title(setting, "every subset", f"instability of {scored.metric}")
            made[title] = rows
    return made


def definitions(scored: Scored) -> Definitions:
    """What the columns mean, and whose they are."""
    about = (
        f"Instability over seeds, of {scored.metric} and of the predictions recorded "
        "at the evaluation that a run's own metric calls best."
    )
    return Definitions(about, _COLUMNS)


_COLUMNS = {
    "n, mean, std": "of the runs that ended or diverged, ddof 1.",
    "failed": "share of these at or below what always answering the most frequent "
    "class scores, or without a finite score (Mosbach et al., arXiv 2006.04884).",
    "disagreement": "mean over pairs of seeds of the share of sentences that get "
    "different answers, of scores the mean absolute difference (churn: Milani Fard et "
    "al. 2016; over pairs: Du and Nguyen, arXiv 2302.07778).",
    "calibration error": "mean over seeds of the expected calibration error in 15 bins "
    "of equal width of the largest probability (Guo et al., arXiv 1706.04599); scores "
    "have none.",
    "worst": "each run's poorest score on any subset or group, with the one that it is "
    "on most often (Sagawa et al., arXiv 1911.08731).",
}


def write(out: Path, made: Tables, scored: Scored) -> None:
    """instability.md and instability.csv, of :func:`tables`."""
    long = [{**title._asdict(), **row} for title, rows in made.items() for row in rows]
    described = definitions(scored)
    write_text(out / "instability.md", table.markdown(made, described))
    table.write_csv(out / "instability.csv", long)


def show(made: Tables, scored: Scored) -> None:
    """The same on the console, if it is short."""
    if sum(map(len, made.values())) <= _SHORT:
        table.show(made, definitions(scored))
