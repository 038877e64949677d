"""What classes weigh in the loss, and scores of a single class."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fairseq.logging import metrics

from ..data.readers import plain_number, shown
from ..errors import UserError
from ..scores.metrics import COUNTS, each_class

logger = logging.getLogger(__name__)

WEIGHTS = "--steady-class-weights"
_MEND = "give 'balanced', a number for each class in their order, or NAME=NUMBER pairs"
#: Beginnings of the names of one class's scores.
_OF_A_CLASS = ("precision_", "recall_")


# --- weights --------------------------------------------------------------------------


def class_weights(
    given: str, labels: Sequence[str] | None, count: Callable[[], np.ndarray]
) -> list[float]:
    """What each class counts in the loss.

    Args:
        given: ``balanced``, numbers in the classes' order, or ``NAME=NUMBER`` pairs, of
            which those left out are 1.
        labels: the K classes; None for scores.
        count: gives the sentences of each in the training set, shape (K,).

    Raises:
        UserError: names the part that is wrong.

    """
    if labels is None:
        raise UserError(f"{WEIGHTS} {given} is for classes; leave it out")
    if given == "balanced":
        found = balanced(count(), labels)
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


def balanced(counts: np.ndarray, labels: Sequence[str]) -> list[float]:
    """N / (K n_k): all classes count the same, and the mean over sentences is 1.

    Source: scikit-learn's ``compute_class_weight``, after King and Zeng (2001).
    """
    for label, n in zip(labels, counts, strict=True):
        if not n:
            raise UserError(
                f"{WEIGHTS} balanced: class {shown(label)} is nowhere in the training "
                "set; give numbers instead, or leave the class out"
            )
    weights: list[float] = (counts.sum() / (len(counts) * counts)).tolist()
    return weights


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


def log_score(metric: str, labels: Sequence[str]) -> None:
    """Let fairseq log what :func:`of_a_class` found, so that it can pick by it."""

    def score(meters: Any) -> float:
        return each_class(meters[COUNTS].sum, labels)[metric]

    metrics.log_derived(metric, score)
