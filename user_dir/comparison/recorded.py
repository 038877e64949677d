"""What runs recorded of a subset's sentences: outputs, and the answers they give."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import expit, softmax

from ..scores.groups import GROUPS, OF_GROUP, group_counts, group_scores
from ..scores.metrics import scores_of
from .results import Predictions, Result

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Answers:
    """What one model says of N sentences.

    Args:
        outputs: logits of K classes or choices, (N, K), of L labels, (N, L), or scores,
            (N, 1).
        gold: class indices or scores, (N,), or which labels hold, (N, L).
        groups: names of the G groups that sentences are in, if they are.
        group: index of each sentence's, (N,); None without groups.
        score_of: the metrics whose mean is ``score``, if there are such.

    """

    outputs: Array
    gold: Array
    groups: tuple[str, ...] = ()
    group: Array | None = None
    score_of: tuple[str, ...] = ()

    @property
    def scores(self) -> bool:
        """Whether the answer to a sentence is a number."""
        return self.gold.ndim == 1 and self.outputs.shape[1] == 1

    @property
    def several(self) -> bool:
        """Whether any number of labels may hold for a sentence."""
        return self.gold.ndim == 2

    @property
    def probabilities(self) -> Array:
        """Of each class, (N, K), or that each label holds, (N, L); not for scores."""
        found = expit(self.outputs) if self.several else softmax(self.outputs, axis=1)
        return np.asarray(found)

    @property
    def given(self) -> Array:
        """Class indices or scores, (N,), or whether each label is given, (N, L)."""
        if self.several:
            return np.asarray(self.probabilities > 0.5)
        return self.outputs[:, 0] if self.scores else self.outputs.argmax(1)


def metric_of(given: Array, like: Answers, metric: str) -> float:
    """What answers score.

    Args:
        given: as :attr:`Answers.given`.
        like: has the gold answers and the number of classes.
        metric: as a task logs it.

    Returns:
        The score; nan for a metric that is not of the answers alone, as a loss.

    """
    answers, gold = torch.from_numpy(given), torch.from_numpy(like.gold)
    classes = like.outputs.shape[1]
    found = scores_of(answers, gold, classes)
    if like.group is not None:
        of = gold.long(), torch.from_numpy(like.group), len(like.groups), classes
        counts = group_counts(answers, *of)[GROUPS]
        scores = group_scores(counts, like.groups).items()
        found |= {f"{OF_GROUP}{name}": score for name, score in scores}
    if like.score_of:
        found["score"] = sum(found[name] for name in like.score_of) / len(like.score_of)
    return found.get(metric, math.nan)


def _answers(outputs: Array, found: Predictions) -> Answers:
    """Outputs for the sentences of a record."""
    group = found.get("group")
    return Answers(
        outputs,
        np.array(found["gold"]),
        tuple(found.get("groups", ())),
        None if group is None else np.array(group),
        tuple(found.get("score_of", ())),
    )


def majority_baseline(metric: str, found: Predictions) -> float:
    """What always giving the most frequent answer (any one score) earns.

    Args:
        metric: as a task logs it.
        found: the gold answers are read, and how many classes or labels there are.

    Returns:
        The score, the best of equally frequent answers'; nan for a metric without such
        a baseline, as a loss, and where all gold answers are the same.

    """
    gold = np.array(found["gold"])
    like = _answers(np.zeros((len(gold), len(found["outputs"][0]))), found)
    answers, counts = np.unique(gold, axis=0, return_counts=True)
    if len(answers) < 2:
        return math.nan
    frequent = answers[:1] if like.scores else answers[counts == counts.max()]
    dtype = float if like.scores else bool if like.several else int
    return max(
        metric_of(np.array([one] * len(gold), dtype), like, metric) for one in frequent
    )


def _reason(found: Predictions | None) -> str | None:
    """Why predictions cannot be used, or None."""
    if found is None:
        return "no predictions were recorded"
    outputs, gold = found["outputs"], found["gold"]
    if len({len(row) for row in outputs}) > 1 or not outputs[0]:
        return "its outputs are of different numbers of classes"
    if not np.isfinite(outputs).all():
        return "its outputs are not all finite"
    classes = len(outputs[0])
    rows = [row for row in gold if isinstance(row, list)]
    if rows:
        fits = len(rows) == len(gold) and all(len(row) == classes for row in rows)
    else:
        fits = classes == 1 or all(g in range(classes) for g in gold)
    return None if fits else "its gold answers are none of its classes"


def usable(
    results: Sequence[Result], subset: str
) -> tuple[dict[int, Answers], list[str]]:
    """Answers of one method's runs on a subset, by seed, and who is left out, and why.

    Args:
        results: of one method in one setting; those that crashed are passed over.
        subset: its name; runs that were not evaluated on it are passed over.

    """
    found: dict[int, Answers] = {}
    left_out = []
    for result in results:
        if not result.ok or not any(subset in one for one in result.evaluations):
            continue
        if subset in result.summaries:  # which have scores, and no answers to count
            continue
        predictions = result.predictions.get(subset)
        reason = _reason(predictions)
        if predictions and not reason:
            one = _answers(np.array(predictions["outputs"]), predictions)
            first = next(iter(found.values()), one)
            if _same(one, first):
                found[result.seed] = one
                continue
            reason = "it was evaluated on other sentences"
        left_out.append(f"{result.method} seed {result.seed} on {subset}: {reason}")
    return found, left_out


def _same(one: Answers, other: Answers) -> bool:
    """Whether two models answered the same sentences."""
    return one.outputs.shape == other.outputs.shape and np.array_equal(
        one.gold, other.gold
    )
