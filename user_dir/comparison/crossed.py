"""Would other sentences say the same? Seeds and test sentences, crossed.

Every seed judges the same sentences, so the scores vary with both. A sentence's share
in a run's score is its jackknife pseudo-value, which for accuracy is whether it was
right; a two-way analysis of variance of the shares gives what seeds, sentences and
their interaction contribute.

Source: Dorfman, Berbaum and Metz 1992 (readers and patients), with the degrees of
freedom of Hillis 2007.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ..scores.metrics import (
    CLASSIFICATION,
    CORRELATION,
    COUNTS,
    LABELED,
    LABELLING,
    class_counts,
    classification_scores,
    label_counts,
    label_scores,
)
from .results import Predictions, Summaries
from .significance import CONFIDENCE

#: What is known of each sentence or article.
Recorded = Predictions | Summaries
#: By how much a score of recorded predictions may differ from the recorded score.
_SAME = 1e-6
#: A variance that is this share of another is what rounding left.
_ROUNDING = 1e-9


class NotBySentenceError(Exception):
    """Why there are no shares of sentences."""


@dataclass(frozen=True)
class Crossed:
    """A mean difference over seeds and sentences.

    Args:
        low: lower end of the 95 % interval.
        high: upper end.
        p: two-sided p-value of the mean.
        floor: the standard error that these sentences leave however many the seeds.
        sentences: how many there are.

    """

    low: float
    high: float
    p: float
    floor: float
    sentences: int


def shares(found: Recorded, metric: str, recorded: float) -> np.ndarray:
    """Each sentence's share in a run's score, shape (M,); their mean is near the score.

    Source: the jackknife's pseudo-values (Tukey 1958); of correlations the limit of
    these for many sentences, the score plus the influence function.

    Args:
        found: of a run.
        metric: as a task logs it.
        recorded: the run's score.

    Raises:
        NotBySentenceError: predictions do not give the recorded score, or the metric
            is not made of predictions alone.

    """
    score, values = _known(_Same(found), metric)
    if not abs(score - recorded) <= _SAME:
        raise NotBySentenceError(
            "the recorded predictions are not of the evaluation that is compared"
        )
    return values


class _Same:
    """Predictions, known by being the same object: a table is made several times."""

    def __init__(self, found: Recorded) -> None:
        self.found: Mapping[str, Any] = found

    def __hash__(self) -> int:
        return id(self.found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.found is other.found


@functools.lru_cache(maxsize=2**12)
def _known(same: _Same, metric: str) -> tuple[float, np.ndarray]:
    if len(same.found["gold"]) < 2:
        raise NotBySentenceError("one alone says nothing of others")
    if "scores" in same.found:
        return _written(same.found["scores"], metric)
    outputs, gold = (_array(same.found[name]) for name in ("outputs", "gold"))
    if outputs.ndim != 2 or not np.isfinite(outputs).all():
        raise NotBySentenceError("a run's predictions are not finite")
    of = same.found.get("score_of", ()) if metric == "score" else ()
    found = [sentence_shares(name, outputs, gold) for name in of or (metric,)]
    scores, values = zip(*found, strict=True)
    return float(np.mean(scores)), np.mean(values, 0)


def _written(
    scores: Mapping[str, list[float]], metric: str
) -> tuple[float, np.ndarray]:
    """Summaries' scores, of which a run's is the mean."""
    if metric not in scores:
        raise NotBySentenceError(f"{metric} is no mean over summaries")
    values = _array(scores[metric])
    if not np.isfinite(values).all():
        raise NotBySentenceError("a run's scores of summaries are not finite")
    return float(values.mean()), values


def _array(rows: Sequence[Any]) -> np.ndarray:
    try:
        return np.array(rows, float)
    except ValueError:
        raise NotBySentenceError("predictions are not as many of each") from None


def sentence_shares(
    metric: str, outputs: np.ndarray, gold: np.ndarray
) -> tuple[float, np.ndarray]:
    """The score of predictions, and the sentences' shares in it.

    Args:
        metric: as a task logs it.
        outputs: logits or scores, shape (M, K).
        gold: classes or scores, shape (M,), or whether labels hold, shape (M, K).

    Raises:
        NotBySentenceError: the metric is not made of these.

    """
    width = outputs.shape[1]
    if gold.shape == outputs.shape and metric in LABELLING:
        return _left_out(metric, _labelled(width), outputs > 0, gold)
    if gold.ndim == 1 and width == 1 and metric in CORRELATION:
        return _correlated(outputs[:, 0], gold, ranked=metric == "spearman")
    classes = gold.ndim == 1 and np.isin(gold, np.arange(width)).all()
    if classes and width > 1 and metric in CLASSIFICATION:
        return _left_out(metric, _classified(width), outputs.argmax(1), gold)
    raise NotBySentenceError(f"a sentence's share in {metric} is not known")


# --- scores of counts: each sentence left out once ------------------------------------


@dataclass(frozen=True)
class _Counting:
    """A score that is made of counts of predicted and gold labels."""

    count: Callable[[np.ndarray], Any]
    score: Callable[[Any], dict[str, float]]


def _classified(classes: int) -> _Counting:
    """Rows of the predicted and the gold class."""
    import torch

    def count(rows: np.ndarray) -> Any:
        given, gold = torch.from_numpy(rows).unbind(1)
        return class_counts(given, gold, classes)[COUNTS]

    return _Counting(count, classification_scores)


def _labelled(labels: int) -> _Counting:
    """Rows of whether each label is given, and then whether it holds."""
    import torch

    def count(rows: np.ndarray) -> Any:
        given, gold = torch.from_numpy(rows).bool().split(labels, 1)
        return label_counts(given, gold)[LABELED]

    return _Counting(count, label_scores)


def _left_out(
    metric: str, of: _Counting, given: np.ndarray, gold: np.ndarray
) -> tuple[float, np.ndarray]:
    """Sentences with the same gold and predicted labels have the same share."""
    rows = np.ascontiguousarray(np.column_stack([given, gold]), np.int64)
    # A row as one item: ten times as fast as np.unique along an axis.
    items = rows.view(np.dtype((np.void, rows.strides[0]))).ravel()
    _, first, place = np.unique(items, return_index=True, return_inverse=True)
    whole, many = of.count(rows), len(rows)
    score = of.score(whole)[metric]
    without = [of.score(whole - of.count(rows[[one]]))[metric] for one in first]
    return score, (many * score - (many - 1) * np.array(without))[place]


# --- correlations: their influence functions ------------------------------------------


def _correlated(
    given: np.ndarray, gold: np.ndarray, ranked: bool
) -> tuple[float, np.ndarray]:
    """Pearson's correlation, or Spearman's, which is that of the ranks; 0 if flat."""
    if np.ptp(given) == 0 or np.ptp(gold) == 0:
        return 0.0, np.zeros(len(gold))
    raw = [given, gold]
    x, y = (_centred(stats.rankdata(one) if ranked else one) for one in raw)

    def moved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """What a sentence changes in the mean of a * b."""
        change: np.ndarray = a * b - np.mean(a * b)
        if ranked:
            change += _lifted(a, b) + _lifted(b, a)
        return change

    xy, xx, yy = (np.mean(a * b) for a, b in ((x, y), (x, x), (y, y)))
    score = float(xy / math.sqrt(xx * yy))
    influence = moved(x, y) / math.sqrt(xx * yy)
    influence -= score / 2 * (moved(x, x) / xx + moved(y, y) / yy)
    return score, score + influence


def _centred(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = values - values.mean()
    return found


def _lifted(rank: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What a sentence changes in the mean of rank * other by lifting higher ranks.

    A sentence lifts every rank above its own by 1, and equal ones by 1/2.
    """
    ordered = np.sort(rank)
    sums = np.concatenate([[0.0], np.cumsum(other[np.argsort(rank, kind="stable")])])
    below = sums[np.searchsorted(ordered, rank, "left")]
    through = sums[np.searchsorted(ordered, rank, "right")]
    above = sums[-1] - (below + through) / 2
    found: np.ndarray = above - np.mean(rank * other)
    return found


# --- seeds and sentences together -----------------------------------------------------


def paired(
    method: Mapping[int, Recorded],
    baseline: Mapping[int, Recorded],
    metric: str,
    scores: tuple[Mapping[int, float], Mapping[int, float]],
) -> np.ndarray:
    """Differences of the sentences' shares, shape (N seeds, M sentences).

    Args:
        method: predictions by seed.
        baseline: of the first method.
        metric: as a task logs it.
        scores: of both, by seed.

    Raises:
        NotBySentenceError: says why there are none.

    """
    seeds = [seed for seed in scores[0] if seed in scores[1]]
    if not all(seed in method and seed in baseline for seed in seeds):
        raise NotBySentenceError("no predictions were recorded")
    found = [(method[seed], baseline[seed]) for seed in seeds]
    if any(one["gold"] != found[0][0]["gold"] for pair in found for one in pair):
        raise NotBySentenceError("the seeds have different sentences")
    rows = [
        shares(one, metric, scores[0][seed]) - shares(other, metric, scores[1][seed])
        for seed, (one, other) in zip(seeds, found, strict=True)
    ]
    return np.array(rows)


def crossed(shares: np.ndarray, mean: float, confidence: float = CONFIDENCE) -> Crossed:
    """Interval of a mean difference over seeds and sentences.

    Source: Dorfman, Berbaum and Metz 1992; Hillis 2007, equation for ddf_H. As few
    sentences as there are end the degrees of freedom. Where chance gives every seed the
    same mean, seeds vary as single answers do.

    Args:
        shares: differences of the sentences' shares, shape (N seeds, M sentences).
        mean: the difference of the scores, in the middle.
        confidence: of the interval.

    """
    seeds, sentences = shares.shape
    of_seed = _centred(shares.mean(1))
    of_sentence = _centred(shares.mean(0))
    rest = shares - shares.mean() - of_seed[:, None] - of_sentence
    by_seed = sentences * np.sum(of_seed**2) / (seeds - 1)
    by_sentence = seeds * np.sum(of_sentence**2) / (sentences - 1)
    by_both = np.sum(rest**2) / (seeds - 1) / (sentences - 1)
    if by_seed < _ROUNDING * by_both:
        by_seed = by_both
    lasting = by_sentence - by_both
    if lasting < _ROUNDING * by_both:  # or it is below 0
        lasting = 0.0
    total = by_seed + lasting
    ratio = total / by_seed if by_seed else math.inf
    freedom = min((seeds - 1) * ratio**2, sentences - 1)
    error, floor = math.sqrt(total / shares.size), math.sqrt(lasting / shares.size)
    half = stats.t.isf((1 - confidence) / 2, freedom) * error
    t = abs(mean) / error if error else math.inf if mean else 0.0
    p = float(2 * stats.t.sf(t, freedom))
    return Crossed(float(mean - half), float(mean + half), p, floor, sentences)
