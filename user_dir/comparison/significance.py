"""Are two methods different? Answers for paired seeds, most of them scipy's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
#: Seeds without which there is neither interval nor p.
FEWEST = 5
#: Spread of differences, of their size, that is rounding alone.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """A method against the first one, over the seeds both have.

    Args:
        mean: mean of the paired differences.
        low: lower end of the 95 % interval; nan below 5 pairs.
        high: upper end.
        p: two-sided p-value of the paired t test; nan below 5 pairs.
        pairs: seeds both have.
        spread: standard deviation of the differences, ddof 1; nan below 2 pairs.

    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int
    spread: float


def _equal(differences: Sequence[float]) -> bool:
    """Whether only rounding tells them apart."""
    size = max(map(abs, differences), default=0.0)
    return bool(np.ptp(differences) <= _ROUNDING * size)


def interval(
    differences: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Student's t interval of the mean, 95 % unless said otherwise.

    Of five to twenty normal differences it holds what it promises, where bootstrap
    intervals hold 85 to 92 % (scripts/simulate_comparison.py). Equal differences give
    an interval of width 0, fewer than five give nan.

    Source: scipy.stats.ttest_1samp.
    """
    if len(differences) < FEWEST:
        return math.nan, math.nan
    if _equal(differences):
        return differences[0], differences[0]
    found = stats.ttest_1samp(differences, 0).confidence_interval(confidence)
    return float(found.low), float(found.high)


def p_value(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t test; nan below five pairs.

    Equal differences have no spread to judge them by: theirs is the sign test's,
    2 / 2^n, or 1 if they are 0.

    Source: scipy.stats.ttest_1samp.
    """
    if len(differences) < FEWEST:
        return math.nan
    if _equal(differences):
        return float(2.0 ** (1 - len(differences))) if differences[0] else 1.0
    return float(stats.ttest_1samp(differences, 0).pvalue)


def difference(
    method: Mapping[int, float],
    baseline: Mapping[int, float],
    confidence: float = CONFIDENCE,
) -> Difference:
    """Compare scores by seed; nan where one is no finite number."""
    gaps = [method[seed] - baseline[seed] for seed in method if seed in baseline]
    pairs = len(gaps)
    if not gaps or not all(map(math.isfinite, gaps)):
        nan = math.nan
        return Difference(nan, nan, nan, nan, pairs, nan)
    mean, p = float(np.mean(gaps)), p_value(gaps)
    return Difference(mean, *interval(gaps, confidence), p, pairs, _spread(gaps))


def _spread(differences: Sequence[float]) -> float:
    if len(differences) < 2:
        return math.nan
    return 0.0 if _equal(differences) else float(np.std(differences, ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for asking several questions; nan stays nan.

    Source: Holm 1979.
    """
    found = np.array(p_values, float)
    # nan sorts last, and is no question.
    order = np.argsort(found)[: np.count_nonzero(~np.isnan(found))]
    times = np.arange(len(order), 0, -1)
    found[order] = np.maximum.accumulate(found[order] * times).clip(max=1)
    return [float(p) for p in found]


def expected_best(scores: Sequence[float], k: int) -> float:
    """Expected largest of k scores drawn from these with replacement.

    Source: Dodge et al. (arXiv 1909.03004), equation 7.
    """
    ordered = np.sort(scores)
    below = np.arange(len(ordered) + 1) / len(ordered)
    return float(np.sum(ordered * (below[1:] ** k - below[:-1] ** k)))
