"""Looking after every seed without being wrong more often: alpha spending.

Each method is judged anew after each further seed. A share of the error that is allowed
is spent at each look, so that all looks together spend no more than 5 %; methods share
it by Holm's correction.

The levels are those of t tests, exact where differences are normal. That the error can
be carried over one number, the last t, follows from this: the length of such
differences is independent of their direction, on which alone all t statistics so far
depend. The next difference by the length of those before is thus Student's whatever
these statistics were, and with the last of them it gives the next one: they are a
Markov chain.

Source: Lan and DeMets 1983 (spending functions); Jennison and Turnbull 2000, section
4.4 (the problem of t tests), and 1991 (exact sequential t tests); Armitage, McPherson
and Rowe 1969 (carrying the error from look to look, where the variance is known); Ye et
al. 2013 (Holm's correction). The chain and its integrals are worked out here.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import optimize, stats

from .power import ERROR

#: Share of all that is undecided so far and lies beyond each bound. Bounds are normal
#: scores, of a t the normal number of the same p: no tail is too thin for these.
_Beyond = Callable[[np.ndarray], np.ndarray]
#: Between 0 and a bound. Levels at 5 to 20 seeds are off by 0.1 % of themselves.
_CELLS = 200
#: Farther no bound is, for p is 2e-19 there.
_FAR = 9.0


def spent(share: float, level: float) -> float:
    """Error that may be spent when a share of the seeds has been seen.

    Source: Lan and DeMets 1983, of O'Brien and Fleming's type, two-sided.
    """
    return float(2 * stats.norm.sf(stats.norm.isf(level / 2) / math.sqrt(share)))


@functools.cache
def levels(looks: tuple[int, ...], level: float) -> tuple[float, ...]:
    """Level of significance at each look, which together spend ``level``.

    Args:
        looks: seeds seen at each, rising, from 2 on; the last are all.
        level: of all looks.

    """
    found: list[float] = []
    before = 0.0
    beyond: _Beyond = _at_first
    for seeds in range(looks[0], looks[-1] + 1):
        bound = _FAR
        if seeds in looks:
            now = spent(seeds / looks[-1], level)
            bound = _bound(beyond, now - before)
            before = now
            found.append(float(_at_first(bound)))
        beyond = _go_on(beyond, bound, seeds)
    return tuple(found)


def _at_first(bounds: np.ndarray | float) -> np.ndarray:
    """Two-sided p of normal scores."""
    return np.asarray(2 * stats.norm.sf(bounds))


def _bound(beyond: _Beyond, leaving: float) -> float:
    """What a share ``leaving`` of all passes; the farthest where that is less."""

    def surplus(bound: float) -> float:
        return float(beyond(np.array([bound]))[0]) - leaving

    if surplus(_FAR) >= 0:
        return _FAR
    return float(optimize.brentq(surplus, 0, _FAR, xtol=1e-9))


def _go_on(beyond: _Beyond, bound: float, seeds: int) -> _Beyond:
    """The same after one more seed, of what is within the bound after so many."""
    edges = np.linspace(0, bound, _CELLS + 1)
    shares = -np.diff(beyond(edges))
    places = (edges[1:] + edges[:-1]) / 2
    return lambda bounds: np.asarray(_passing(bounds, places, seeds) @ shares)


def _passing(bounds: np.ndarray, places: np.ndarray, seeds: int) -> np.ndarray:
    """Chance to be beyond each bound one seed later, from each place after so many.

    With r the sum of the differences by their length, r' that of one more, and w the
    new one by the length, r' = (r + w) / sqrt(1 + w^2). So r'^2 > c^2 where
    (c^2 - 1) w^2 - 2 r w + c^2 - r^2 < 0: between two roots, or outside where c < 1.
    """
    square, left = _squares(places, seeds)
    bound, bound_left = (each[:, None] for each in _squares(bounds, seeds + 1))
    # r' is at most sqrt(1 + r^2). Bounds beyond that have no roots: near is above far
    # then, and the chance below 0.
    root = np.sqrt(bound * (bound_left - left).clip(0))
    r = np.sqrt(square)
    with np.errstate(divide="ignore"):
        near, far = (bound - square) / (r + root), (r + root) / abs(bound - 1)
    student = stats.t(seeds, scale=1 / math.sqrt(seeds))
    chance = student.sf(near) - np.sign(bound - 1) * student.sf(far)
    return np.asarray(chance.clip(0))


def _squares(scores: np.ndarray, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """r^2 of normal scores, and what it is less than the number of seeds."""
    t = stats.t.isf(stats.norm.sf(scores), seeds - 1)
    whole = t**2 + seeds - 1
    return seeds * t**2 / whole, seeds * (seeds - 1) / whole


def decided(
    p_values: Mapping[str, Sequence[float]], looks: Sequence[int]
) -> dict[str, int]:
    """The look at which each method was told from the first; the others are left out.

    Args:
        p_values: by method, at the looks there were; nan decides nothing.
        looks: seeds seen at each, planned ones included.

    """
    found: dict[str, int] = {}
    for place in range(len(looks)):
        now = {
            method: ps[place]
            for method, ps in p_values.items()
            if place < len(ps) and not math.isnan(ps[place])
        }
        _step_down(found, now, place, len(p_values), tuple(looks))
    return found


def _step_down(
    found: dict[str, int],
    now: Mapping[str, float],
    place: int,
    methods: int,
    looks: tuple[int, ...],
) -> None:
    """Holm's correction at one look: what one method needs no more, the others have."""
    for method in sorted(now, key=now.__getitem__):
        if method not in found:
            limit = levels(looks, ERROR / (methods - len(found)))[place]
            if now[method] < limit:
                found[method] = place
