"""What classes weigh in the loss, and scores of a single class."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fairseq.logging import metrics
from torch import Tensor

from ..data.readers import plain_number, shown
from ..errors import UserError
from ..scores.metrics import (
    CLASSIFICATION,
    CORRELATION,
    COUNTS,
    LABELED,
    LABELLING,
    each_class,
)
from ..scores.summaries import DESCRIBING, SCORES

logger = logging.getLogger(__name__)

WEIGHTS = "--steady-class-weights"
_MEND = "give 'balanced', a number for each class in their order, or NAME=NUMBER pairs"
#: Beginnings of the names of one class's scores.
_OF_A_CLASS = ("precision_", "recall_")


# --- weights --------------------------------------------------------------------------


def class_weights(
    given: str, labels: Sequence[str] | None, targets: Callable[[], np.ndarray]
) -> list[float]:
    """What each class counts in the loss; of several labels, each where it holds.

    Args:
        given: ``balanced``, numbers in the classes' order, or ``NAME=NUMBER`` pairs, of
            which those left out are 1.
        labels: the K classes; None for scores.
        targets: gives those of the training set, shape (N,), or (N, K) of labels.

    Raises:
        UserError: names the part that is wrong.

    """
    if labels is None:
        raise UserError(f"{WEIGHTS} {given} is for classes; leave it out")
    if given == "balanced":
        found = balanced(targets(), labels)
    elif "=" in given:
        found = _named(given, labels)
    else:
        found = [_weight(part, given) for part in given.split(",")]
        if len(found) != len(labels):
            raise UserError(
                f"{WEIGHTS} {given} has {len(found)} numbers for {len(labels)} "
                f"classes ({', '.join(labels)}); {_MEND}"
            )
    said = ", ".join(f"{n} {w:.4g}" for n, w in zip(labels, found, strict=True))
    logger.info("in the loss classes weigh: %s", said)
    return found


def how_many(targets: np.ndarray, classes: int) -> np.ndarray:
    """Sentences of each class, shape (K,), or that each label holds for."""
    if targets.ndim == 2:
        found: np.ndarray = targets.sum(0)
        return found
    return np.bincount(targets, minlength=classes)


def balanced(targets: np.ndarray, labels: Sequence[str]) -> list[float]:
    """Weights with which all classes count the same.

    N / (K n_k) for classes, of which the mean over sentences is 1; for labels, what
    makes those that hold count as much as those that do not: (N - n_k) / n_k.

    Source: scikit-learn's ``compute_class_weight``, after King and Zeng (2001);
    ``pos_weight`` of torch's ``BCEWithLogitsLoss``.
    """
    counts, total = how_many(targets, len(labels)), len(targets)
    for label, n in zip(labels, counts, strict=True):
        if not n or (targets.ndim == 2 and n == total):
            where = "on every sentence of" if n else "nowhere in"
            raise UserError(
                f"{WEIGHTS} balanced: {shown(label)} is {where} the training set; "
                "give numbers instead, or leave it out"
            )
    if targets.ndim == 2:
        each: list[float] = ((total - counts) / counts).tolist()
    else:
        each = (total / (len(counts) * counts)).tolist()
    return each


def _named(given: str, labels: Sequence[str]) -> list[float]:
    found: dict[str, float] = {}
    for part in given.split(","):
        name, equals, number = (piece.strip() for piece in part.rpartition("="))
        if name not in labels or name in found or not equals:
            problem = "is there twice" if name in found else "is no class"
            raise UserError(
                f"{WEIGHTS} {given}: {shown(name or number)} {problem}; the classes "
                f"are {', '.join(labels)}"
            )
        found[name] = _weight(number, given)
    return [found.get(label, 1.0) for label in labels]


def _weight(text: str, given: str) -> float:
    number = plain_number(text)
    if not 0 < number < np.inf:
        raise UserError(
            f"{WEIGHTS} {given}: {shown(text.strip())} is no number above 0; {_MEND}"
        )
    return number


# --- one class's scores ---------------------------------------------------------------


def of_a_class(metric: str, labels: Sequence[str] | None) -> str | None:
    """The metric, if it is one class's precision or recall, as ``recall_spam``.

    Raises:
        UserError: there is no such class.

    """
    if not metric.startswith(_OF_A_CLASS):
        return None
    name = metric.partition("_")[2]
    if name not in (labels or ()):
        of = f"the classes are {', '.join(labels)}" if labels else "there are scores"
        raise UserError(
            f"--best-checkpoint-metric {metric}: {shown(name)} is no class; {of}"
        )
    return metric


def check_score(
    metric: str,
    labels: Sequence[str] | None,
    several: bool,
    also: bool,
    whole: bool = False,
) -> None:
    """Refuse at once what picks checkpoints and no evaluation of the task logs.

    Args:
        metric: of ``--best-checkpoint-metric``.
        labels: the classes; None for scores.
        several: whether any number of them hold for a text.
        also: whether further files are evaluated.
        whole: whether one of its metrics, or the mean of some, is its ``score``.

    Raises:
        UserError: names what there is.

    """
    own = LABELLING if several else CLASSIFICATION if labels else CORRELATION
    check_logged(metric, (*own, *["score"] * whole), ["ranked"] * also)


def check_logged(metric: str, own: Sequence[str], hidden: Sequence[str] = ()) -> None:
    """The same of a task that logs these metrics, and others that are not named.

    Raises:
        UserError: names what there is.

    """
    others = {*LABELLING, *CLASSIFICATION, *CORRELATION, *SCORES, *DESCRIBING}
    others |= {"score", "ranked"}
    if metric in others - {*own, *hidden}:
        raise UserError(
            f"--best-checkpoint-metric {metric} is nothing that evaluations of this "
            f"task log; choose from {', '.join(own)}, loss"
        )


def log_score(metric: str, labels: Sequence[str]) -> None:
    """Let fairseq log what :func:`of_a_class` found, so that it can pick by it."""

    def score(meters: Any) -> float:
        summed = next(name for name in (COUNTS, LABELED) if name in meters)
        counts = meters[summed].sum
        # A meter that was reset and saw no batch since holds 0.
        known = isinstance(counts, Tensor)
        return each_class(counts, labels)[metric] if known else math.nan

    metrics.log_derived(metric, score)
