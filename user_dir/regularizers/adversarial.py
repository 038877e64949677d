"""What SiFT and SMART share: a perturbation found by ascent, then compared."""

import torch
from torch import Tensor

from .ascent import Ascent, ascend
from .cached import PerturbationCache
from .noise import draw
from .view import Penalty, View, masked_rms, rounded_away


def adversarial_penalty(
    view: View,
    base: Tensor,
    start: tuple[str, float],
    ascent: Ascent,
    unit: Tensor | None = None,
) -> Penalty:
    """Climb from a random start, or take a kept perturbation; compare with clean.

    Args:
        view: the batch.
        base: the value that is perturbed, shape (B, T, C); its gradient is kept.
        start: name and scale of the noise to start from.
        ascent: the steps.
        unit: what lengths are multiples of, shape (B, 1, 1); None for 1.

    """
    name, scale = start
    noise = draw(name, view.keys, view.mask, base.shape[-1], scale)
    if view.cache is None:
        delta, refused = _climbed(view, base.detach(), noise, ascent, unit)
        ascents, again = float(ascent.steps), 0.0
    else:
        sought = _Sought(view, base.detach(), noise, ascent, unit)
        delta, refused = sought.perturbation(view.cache)
        ascents, again = sought.ascents, sought.again
    delta = _times(delta, unit) * view.mask.unsqueeze(-1)
    return Penalty(
        view.compared(base + delta),
        {
            "rms": masked_rms(delta, view.mask).sum(),
            "refused": refused / max(1, ascent.steps),
        },
        rounded_away(base.detach().to(view.embedded.dtype), delta, view.mask),
        view.cost(ascents) + again,
    )


def _times(delta: Tensor, unit: Tensor | None) -> Tensor:
    return delta if unit is None else delta * unit


def _climbed(
    view: View, base: Tensor, start: Tensor, how: Ascent, unit: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The perturbation that an ascent finds, and how often it was refused."""
    target, measure = view.clean.detach(), view.climbed or view.divergence

    def objective(delta: Tensor) -> Tensor:
        return measure(view.forward(base + _times(delta, unit)), target).sum()

    return ascend(objective, start, how)


class _Sought:
    """Perturbations of a batch, sought only for the sentences that a cache lacks.

    Args:
        view: the batch.
        base: the value that is perturbed, detached, shape (B, T, C).
        start: where an ascent starts, shape (B, T, C).
        how: the ascent.
        unit: what lengths, those that are kept too, are multiples of.

    """

    def __init__(
        self,
        view: View,
        base: Tensor,
        start: Tensor,
        how: Ascent,
        unit: Tensor | None,
    ) -> None:
        self.view, self.base, self.start, self.how = view, base, start, how
        self.unit = unit
        #: ascents, and clean passes made for them in plain updates, per sentence
        self.ascents, self.again = 0.0, 0.0

    def perturbation(self, cache: PerturbationCache) -> tuple[Tensor, Tensor]:
        """Of every sentence, and how often an ascent was refused."""
        mask, ids = self.view.mask, self.view.ids.tolist()
        entries = (mask.sum(1) * self.base.size(-1)).tolist()
        delta = cache.read(ids, mask, self.base.size(-1))
        fresh = cache.fresh(ids, entries)
        cache.use(i for i, there in zip(ids, fresh, strict=True) if there)
        rows = torch.tensor(fresh).logical_not().nonzero().squeeze(1).to(mask.device)
        if not len(rows):
            return delta, torch.zeros((), device=mask.device)
        if cache.onward:
            old = torch.tensor(cache.known(ids, entries), device=mask.device)
            self.start = torch.where(old[:, None, None], delta, self.start)
        delta[rows], refused = self._found(rows)
        cache.keep([ids[row] for row in rows.tolist()], delta[rows], mask[rows])
        return delta, refused

    def _found(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """By an ascent, for some of the sentences."""
        share = len(rows) / len(self.base)
        self.ascents = self.how.steps * share
        if share == 1:
            return _climbed(self.view, self.base, self.start, self.how, self.unit)
        part, columns = self.view.some(rows)
        self.again = part.repeated * share
        whole = torch.zeros_like(self.start[rows])
        base, start = (x[rows][:, columns] for x in (self.base, self.start))
        unit = None if self.unit is None else self.unit[rows]
        whole[:, columns], refused = _climbed(part, base, start, self.how, unit)
        return whole, refused
