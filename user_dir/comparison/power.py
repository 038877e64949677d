"""What it would take: the power of the paired t test, and the seeds that give it."""

import bisect
import functools
import math
from dataclasses import dataclass

from scipy import optimize, stats

from .significance import FEWEST, Difference

#: Chance of finding a difference that is there.
POWER = 0.8
#: Of all the questions of a table together.
ERROR = 0.05
#: Seeds beyond which nobody goes.
MOST = 10**6
#: Difference in standard errors that is seen whatever the level; far larger ones
#: overflow.
_SEEN = 2e3
#: Level that only an absurd difference passes.
_NOTHING = 1e-6
#: Chance that a standard deviation from few pairs is below its upper limit.
_SURE = 0.8


@dataclass(frozen=True)
class Lasting:
    """What the sentences add to the error, however many the seeds.

    Args:
        error: standard error, in standard deviations of the differences over seeds.
        sentences: how many there are.

    """

    error: float = 0.0
    sentences: float = math.inf


#: Of what is asked of these sentences alone.
NOTHING = Lasting()


def power(effect: float, pairs: int, level: float, lasting: Lasting = NOTHING) -> float:
    """Chance that a two-sided test of paired seeds finds a difference.

    Source: t squared has the noncentral F distribution, scipy.stats.ncf; with sentences
    the degrees of freedom that :func:`.crossed.crossed` has (Hillis 2007).

    Args:
        effect: mean difference, in standard deviations of the differences.
        pairs: n, 2 or more.
        level: of significance.
        lasting: of other sentences.

    """
    ratio = 1 + pairs * lasting.error**2
    freedom = min((pairs - 1) * ratio**2, lasting.sentences - 1)
    limit = stats.f.isf(level, 1, freedom)
    centre = min(effect * math.sqrt(pairs / ratio), _SEEN)
    return float(stats.ncf.sf(limit, 1, freedom, centre**2))


def smallest(pairs: int, level: float, lasting: Lasting = NOTHING) -> float:
    """Effect that so many pairs find with a chance of 80 %."""

    def surplus(effect: float) -> float:
        return power(effect, pairs, level, lasting) - POWER

    top = 1.0
    while surplus(top) < 0:
        top *= 2
    return float(optimize.brentq(surplus, 0, top))


def pairs_for(effect: float, level: float, lasting: Lasting = NOTHING) -> int:
    """Pairs, five or more, that find an effect with a chance of 80 %.

    A million stands for that and more.
    """
    counts = range(FEWEST, MOST)
    chance = functools.partial(power, effect, level=level, lasting=lasting)
    return FEWEST + bisect.bisect_left(counts, POWER, key=chance)


def upper_spread(spread: float, pairs: int) -> float:
    """Standard deviation that the true one is below with a chance of 80 %.

    Source: Browne 1995, for the planning of trials from pilot studies.
    """
    freedom = pairs - 1
    return float(spread * math.sqrt(freedom / stats.chi2.ppf(1 - _SURE, freedom)))


def floor(error: float, level: float) -> float:
    """Difference found with a chance of 80 % where the standard error is known."""
    return float(error * (stats.norm.isf(level / 2) + stats.norm.isf(1 - POWER)))


@dataclass(frozen=True)
class Need:
    """What seeds can show with a chance of 80 %, and what half of it takes.

    Args:
        seeds: so many, five at least.
        shown: the smallest difference that they show.
        half: seeds that show half of it.
        own: whether in a comparison of its own, and not added to these.
        hours: of runs of both methods that are still to be made; nan if not known.

    """

    seeds: int
    shown: float
    half: int
    own: bool
    hours: float


def need(
    found: Difference,
    methods: int,
    seconds: float,
    level: float | None = None,
    lasting: Lasting = NOTHING,
) -> Need | None:
    """What it would take, from the spread of the differences.

    None without one, and at looks so early that they are to show nothing.

    Args:
        found: a method against the first.
        methods: that are compared with the first, and share the error.
        seconds: of a run of each of the two.
        level: of the last look, where seeds were added; further ones would be looks
            too, so that half of it takes a comparison of its own.
        lasting: of other sentences.

    """
    own, whole = level is not None, ERROR / methods
    level = whole if level is None else level
    if not found.spread > 0 or level < _NOTHING:
        return None
    seeds = max(found.pairs, FEWEST)
    effect = smallest(seeds, level, lasting)
    half = pairs_for(effect / 2, whole, lasting)
    time = hours(half if own else half - found.pairs, seconds)
    return Need(seeds, effect * found.spread, half, own, time)


def hours(seeds: int, seconds: float) -> float:
    """Of so many further seeds."""
    return max(seeds, 0) * seconds / 3600
