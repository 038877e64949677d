"""Are two methods different? scipy's and statsmodels' answers, for paired seeds."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
)

from ..errors import UserError

#: Resamples of bootstrap and permutations; fewer permutations than this are all tried.
_RESAMPLES = 9999
_CONFIDENCE = 0.95
#: Seeds without which there is no interval.
FEWEST = 5
#: Numbers of resamples held at a time.
_AT_ONCE = 2**22


@dataclass(frozen=True)
class Difference:
    """A method against the first one, over the seeds both have.

    Args:
        mean: mean of the paired differences.
        low: lower end of the 95 % bootstrap interval; nan below 5 pairs.
        high: upper end.
        p: two-sided p-value of the paired permutation test.
        pairs: seeds both have.

    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % bias-corrected and accelerated bootstrap interval of the mean.

    Source: scipy.stats.bootstrap. Equal differences give an interval of width 0,
    fewer than five give nan: resampling so few says nothing of other seeds.
    """
    if len(differences) < FEWEST:
        return math.nan, math.nan
    if np.ptp(differences) == 0:
        return differences[0], differences[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.asarray(differences),),
            np.mean,
            n_resamples=_RESAMPLES,
            confidence_level=_CONFIDENCE,
            batch=max(1, _AT_ONCE // len(differences)),
            rng=np.random.default_rng(0),
        ).confidence_interval
    return float(found.low), float(found.high)


def permutation_p(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p-value of exchanging the members of pairs; all 2^n up to 13 pairs.

    Source: scipy.stats.permutation_test, permutation_type ``samples``. Fewer than two
    pairs give nan.
    """
    if len(one) < 2:
        return math.nan

    def statistic(x: Any, y: Any, axis: int) -> Any:
        return np.mean(x - y, axis=axis)

    found = stats.permutation_test(
        (np.asarray(one), np.asarray(other)),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def difference(
    method: Mapping[int, float], baseline: Mapping[int, float]
) -> Difference:
    """Compare scores by seed; nan where one is no finite number."""
    seeds = [seed for seed in method if seed in baseline]
    one = [method[seed] for seed in seeds]
    other = [baseline[seed] for seed in seeds]
    gaps = [a - b for a, b in zip(one, other, strict=True)]
    if not all(map(math.isfinite, gaps)):
        return Difference(math.nan, math.nan, math.nan, math.nan, len(seeds))
    mean = float(np.mean(gaps)) if gaps else math.nan
    return Difference(mean, *interval(gaps), permutation_p(one, other), len(seeds))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for asking several questions; nan stays nan."""
    asked = [p for p in p_values if not math.isnan(p)]
    if not asked:
        return list(p_values)
    # Two seconds, and of an extra; nothing else here needs it.
    from statsmodels.stats.multitest import multipletests

    corrected = iter(multipletests(asked, method="holm")[1])
    return [p if math.isnan(p) else float(next(corrected)) for p in p_values]


def majority_baseline(
    metric: str,
    gold: Sequence[Any],
    subset: str = "the data",
) -> float:
    """What always giving the most frequent class (any one score) earns.

    Args:
        metric: as a task logs it.
        gold: labels, class indices where the metric is one of classes, or whether each
            of several labels holds, of which the commonest set is always given.
        subset: what they are of, for the error.

    Returns:
        The score; nan for a metric without such a baseline, as a loss.

    Raises:
        UserError: there is one class only.

    """
    if isinstance(gold[0], list):
        return _commonest_labels(metric, gold)
    if len(set(gold)) < 2:
        raise UserError(
            f"{subset} has one class only ({gold[0]:g}); no score can tell methods "
            "apart there, so evaluate on other data"
        )
    if metric in ("pearson", "spearman"):
        return 0.0
    labels = [int(label) for label in gold]
    answer = [max(set(labels), key=labels.count)] * len(labels)
    average = "binary" if len(set(labels)) == 2 else "macro"
    scores: dict[str, Any] = {
        "accuracy": accuracy_score,
        "mcc": matthews_corrcoef,
        "balanced_accuracy": balanced_accuracy_score,
        "macro_f1": lambda g, a: f1_score(g, a, average="macro", zero_division=0),
        "f1": lambda g, a: f1_score(g, a, average=average, zero_division=0),
    }
    return float(scores[metric](labels, answer)) if metric in scores else math.nan


def _commonest_labels(metric: str, gold: Sequence[Any]) -> float:
    """What always giving the most frequent set of labels earns."""
    always = Counter(map(tuple, gold)).most_common(1)[0][0]
    scores: dict[str, Any] = {
        "micro_f1": lambda g, a: f1_score(g, a, average="micro", zero_division=0),
        "macro_f1": lambda g, a: f1_score(g, a, average="macro", zero_division=0),
        "subset_accuracy": accuracy_score,
    }
    if metric not in scores:
        return math.nan
    return float(scores[metric](np.array(gold), np.array([always] * len(gold))))


def expected_best(scores: Sequence[float], k: int) -> float:
    """Expected largest of k scores drawn from these with replacement.

    Source: Dodge et al. (arXiv 1909.03004), equation 7.
    """
    ordered = np.sort(scores)
    below = np.arange(len(ordered) + 1) / len(ordered)
    return float(np.sum(ordered * (below[1:] ** k - below[:-1] ** k)))
