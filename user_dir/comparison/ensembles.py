"""Ensembles and averages of runs that have ended: further rows, nothing trained."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .plan import Run
from .recorded import Answers, Array, metric_of, usable
from .results import BEST, RESULT, Result, load
from .table import Row, Scored, Tables, unique

#: The run of a method's averaged weights, in a folder beside its seeds.
AVERAGE = "average"
SOUP = "average of weights"


def majority_vote(answers: Sequence[Answers]) -> Array:
    """The class, or for each label the side, that most models give.

    Of equally many, the one with the larger mean probability.

    Args:
        answers: of S models, of classes or labels.

    """
    first, p = answers[0], np.mean([one.probabilities for one in answers], 0)
    if first.several:
        votes = np.mean([one.given for one in answers], 0)
        return np.asarray(np.where(votes == 0.5, p > 0.5, votes > 0.5))
    classes = np.arange(first.outputs.shape[1])
    votes = np.sum([one.given[:, None] == classes for one in answers], 0)
    # A vote counts more than any probability.
    found: Array = (votes + p / 2).argmax(1)
    return found


def mean_answer(answers: Sequence[Answers]) -> Array:
    """What the mean over S models says: of probabilities, or of scores."""
    if answers[0].scores:
        return np.asarray(np.mean([one.given for one in answers], 0))
    p = np.mean([one.probabilities for one in answers], 0)
    return np.asarray(p > 0.5 if answers[0].several else p.argmax(1))


def together(answers: Sequence[Answers]) -> dict[str, Array]:
    """Answers of each kind of ensemble, by name; two models have no majority."""
    if answers[0].scores:
        return {"mean score": mean_answer(answers)}
    voted = {"majority vote": majority_vote(answers)} if len(answers) > 2 else {}
    return {**voted, "mean probability": mean_answer(answers)}


def _row(method: str, kind: str, score: float, members: int, planned: int) -> Row:
    """Of one model made of several: no spread, and nothing to test."""
    some = f"{members} seeds" if members == planned else f"{members} of {planned} seeds"
    name = f"{method}: {kind} of {some}"
    return {"method": name, "mean ± std": f"{score:.3f}", "n": f"made of {members}"}


def _rows(
    results: Sequence[Result], scored: Scored, subset: str
) -> tuple[list[Row], list[str]]:
    """Of one method on one subset, and who is left out."""
    found, notes = usable(results, subset)
    answers = [*found.values()]
    if len(answers) < 2:
        return [], notes
    scores = {
        kind: metric_of(given, answers[0], scored.metric)
        for kind, given in together(answers).items()
    }
    known = {kind: score for kind, score in scores.items() if not math.isnan(score)}
    if not known:
        notes.append(f"{subset}: {scored.metric} is not of answers alone")
    method, counts = results[0].method, (len(answers), len(results))
    return [_row(method, k, s, *counts) for k, s in known.items()], notes


# --- averages of weights --------------------------------------------------------------


def averages(out: Path, results: Sequence[Result]) -> list[Run]:
    """Runs that evaluate the mean of each method's best checkpoints, where kept.

    Earlier evaluations of other checkpoints are removed. What was evaluated on other
    sentences than the first is left out: it may have been trained on the first's.

    Source: uniform soup, Wortsman et al. (arXiv 2203.05482). Deviation: theirs share a
    head's start, these have one each.
    """
    found: dict[Path, list[Result]] = {}
    for result in results:
        folder = out / result.setting / result.method
        if result.ok and (folder / f"seed{result.seed}" / BEST).is_file():
            found.setdefault(folder, []).append(result)
    alike = {
        folder: [one for one in of if _judged(one) == _judged(of[0])]
        for folder, of in found.items()
    }
    return [_average(folder, of) for folder, of in alike.items() if len(of) > 1]


def _judged(result: Result) -> dict[str, Any]:
    """Gold answers, or digests of references, by subset."""
    recorded = {**result.predictions, **result.summaries}
    return {subset: found["gold"] for subset, found in recorded.items()}


def _average(folder: Path, members: Sequence[Result]) -> Run:
    first = members[0]
    paths = [folder / f"seed{member.seed}" / BEST for member in members]
    run = Run(
        first.setting,
        f"{first.method}: {SOUP} of {len(members)}",
        first.seed,
        folder / AVERAGE,
        (AVERAGE, *map(str, paths), "--", *first.command[1:]),
        keep=True,
    )
    _drop_other(run, paths)
    return run


def _drop_other(run: Run, members: Sequence[Path]) -> None:
    """Remove an evaluation that is of other checkpoints."""
    path = run.folder / RESULT
    if not path.is_file():
        return
    newest = max(member.stat().st_mtime for member in members)
    if tuple(load(path).command) != run.command or path.stat().st_mtime < newest:
        path.unlink()


def _averaged(
    averaged: Sequence[Result], mine: Sequence[Result], scored: Scored, subset: str
) -> list[Row]:
    """The row of a method's averaged weights, if they were evaluated."""
    rows = []
    result, planned = mine[0], len(mine)
    for one in averaged:
        method, _, kind = one.method.partition(f": {SOUP} of ")
        if one.ok and (one.setting, method) == (result.setting, result.method):
            scores = scored.scores([one], subset)
            members = int(kind)
            rows += [_row(method, SOUP, s, members, planned) for s in scores.values()]
    return rows


def _other_evaluations(mine: Sequence[Result], scored: Scored) -> str | None:
    """That what runs kept is of other evaluations than the table's, or None."""
    for one in mine:
        if one.ok and one.kept != scored.best(one)["updates"]:
            metric, _ = one.own_metric
            return f"runs keep what is best by {metric}, at other updates than these"
    return None


# --- further rows ---------------------------------------------------------------------


def extended(
    made: Tables,
    results: Sequence[Result],
    scored: Scored,
    averaged: Sequence[Result] = (),
) -> tuple[Tables, dict[str, str]]:
    """Tables with a row for each ensemble, and what these rows are.

    Args:
        made: of :func:`.table.tables`.
        results: single runs.
        scored: what they are compared on.
        averaged: results of :func:`averages`.

    """
    longer, notes = (
        dict(made),
        [f"{r.method}: {r.status}" for r in averaged if not r.ok],
    )
    added = 0
    for title, rows in made.items():
        if title.metric != scored.metric:
            continue
        more: list[Row] = []
        for method in unique([r.method for r in results]):
            mine = [
                r for r in results if (r.setting, r.method) == (title.setting, method)
            ]
            if reason := _other_evaluations(mine, scored):
                notes.append(f"{method}: {reason}")
            elif mine:
                found, left_out = _rows(mine, scored, title.subset)
                more += [*found, *_averaged(averaged, mine, scored, title.subset)]
                notes += left_out
        longer[title], added = [*rows, *more], added + len(more)
    said = _described(averaged) if added else {}
    if notes:
        said["ensembles left out"] = "; ".join(unique(notes)) + "."
    return longer, said


def _described(averaged: Sequence[Result]) -> dict[str, str]:
    said = {
        "of n seeds": "one model made of the runs above, so that it has no spread and "
        "is never tested against single runs; of the recorded predictions, at the "
        "evaluation that a run's own metric calls best.",
        "majority vote": "the class that most seeds give, of equally many the more "
        "probable; from three seeds on.",
        "mean probability": "of softmax or sigmoid, over seeds.",
        "mean score": "of regression, over seeds.",
    }
    if averaged:
        said[SOUP] = (
            "uniform mean of the seeds' best checkpoints, evaluated by a run (soup: "
            "Wortsman et al., arXiv 2203.05482; theirs share a head's start, these "
            "have one each)."
        )
    return said
