"""Looking after every seed without being wrong more often: alpha spending.

Each method is judged anew after each further seed. A share of the error that is allowed
is spent at each look, so that all looks together spend no more than 5 %; methods share
it by Holm's correction.

Source: Lan and DeMets 1983 (spending functions); Armitage, McPherson and Rowe 1969 (the
integrals); Jennison and Turnbull 2000, section 4.4 (levels from the normal
distribution, for the p-values of t tests); Ye et al. 2013 (Holm's correction).
"""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, stats

from .power import ERROR

#: Points of the integrals between two bounds.
_POINTS = 300


def spent(share: float, level: float) -> float:
    """Error that may be spent when a share of the seeds has been seen.

    Source: Lan and DeMets 1983, of O'Brien and Fleming's type, two-sided.
    """
    return float(2 * stats.norm.sf(stats.norm.isf(level / 2) / math.sqrt(share)))


@functools.cache
def levels(looks: tuple[int, ...], level: float) -> tuple[float, ...]:
    """Level of significance at each look, which together spend ``level``.

    Args:
        looks: seeds seen at each, rising; the last are all.
        level: of all looks.

    """
    found: list[float] = []
    seen, places, density = 0, np.zeros(1), np.ones(1)
    for look in looks:
        new = spent(look / looks[-1], level) - (
            spent(seen / looks[-1], level) if seen else 0.0
        )
        step = math.sqrt(look - seen)
        bound = _bound(places, density, step, new)
        places, density = _go_on(places, density, step, bound)
        found.append(float(2 * stats.norm.sf(bound / math.sqrt(look))))
        seen = look
    return tuple(found)


def _bound(
    places: np.ndarray, density: np.ndarray, step: float, leaving: float
) -> float:
    """Sum of so far undecided normal numbers that a share ``leaving`` of all passes."""

    def surplus(bound: float) -> float:
        above = stats.norm.sf((bound - places) / step)
        below = stats.norm.cdf((-bound - places) / step)
        return float(np.sum(density * (above + below)) - leaving)

    top = step
    while surplus(top) > 0:
        top *= 2
    return float(optimize.brentq(surplus, 0, top, xtol=1e-9))


def _go_on(
    places: np.ndarray, density: np.ndarray, step: float, bound: float
) -> tuple[np.ndarray, np.ndarray]:
    """Places within the bounds, and the weight of each after one more step."""
    nodes, weights = _gauss(_POINTS)
    new = bound * nodes
    kernel = stats.norm.pdf((new[:, None] - places) / step) / step
    return new, bound * weights * (kernel @ density)


@functools.cache
def _gauss(points: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return nodes, weights


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
