"""FreeLB: adversarial training on the task loss, every ascent step's gradient used."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .ascent import Ascent, climb, inner_gradient, project
from .noise import draw


class _Stored(torch.autograd.Function):
    """A value whose gradients are already known; each is used up by one backward."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradients: Any, scale: float, *_: Tensor
    ) -> Tensor:
        ctx.gradients, ctx.scale = gradients, scale
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        factor = float(outer[0]) / ctx.scale
        known = [g for g in ctx.gradients if g is not None]
        if factor != 1:
            torch._foreach_mul_(known, factor)
        return None, None, None, *ctx.gradients


def with_gradients(
    value: Tensor,
    gradients: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    scale: float = 1.0,
) -> Tensor:
    """``value``; its one backward adds ``gradients`` / ``scale`` to ``parameters``."""
    known = list(gradients)
    result: Tensor = _Stored.apply(  # type: ignore[no-untyped-call]
        value.detach(), known, scale, *parameters
    )
    return result


def _owned(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Each in memory of its own, so that it can be changed.

    Parameters that are only added have one gradient in common, and that of a sum is
    one number seen many times.
    """
    found, seen = list(gradients), set()
    for place, gradient in enumerate(found):
        if gradient is None or gradient.layout != torch.strided:
            continue
        memory = gradient.untyped_storage().data_ptr()
        if memory in seen or 0 in gradient.stride():
            found[place] = gradient.clone(memory_format=torch.contiguous_format)
        seen.add(memory)
    return found


def _add(one: list[Tensor | None], other: Sequence[Tensor | None]) -> None:
    """Add gradients in place; what no loss of a pass needed is None there."""
    both = []
    for place, (a, b) in enumerate(zip(one, other, strict=True)):
        if a is None:
            one[place] = b
        elif b is not None:
            both.append((a, b))
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])


def sentence_start(
    noise: str, size: float, keys: Tensor, mask: Tensor, channels: int
) -> Tensor:
    """Noise of rms ``size`` / sqrt(3 * real tokens * C): a radius free of length."""
    z = draw(noise, keys, mask, channels, 1.0)
    tokens = mask.sum(1).clamp(min=1)
    return z * (size / (tokens * channels).sqrt())[:, None, None]


@dataclass(frozen=True)
class FreeLB:
    """Mean task loss along K ascent steps, (1 / (K + 1)) sum_k L(f(e + delta_k)).

    The gradient of each pass serves both the step and the weights, so K steps cost
    K + 1 forwards and K + 1 backwards.

    Source: FreeLB (arXiv 1909.11764) Algorithm 1 and its authors' fairseq code.

    Args:
        ascent: K and the ball; the paper's is L2 per sentence.

    """

    ascent: Ascent

    def scaled(self, factor: float) -> "FreeLB":
        """The same with the ascent's ``gradient_scale`` changed."""
        return replace(self, ascent=self.ascent.scaled(factor))

    def __call__(
        self,
        losses: Callable[[Tensor, int], Tensor],
        start: Tensor,
        parameters: Iterable[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Walk and average.

        Args:
            losses: the summed task loss under a perturbation of shape (B, T, C); the
                second argument counts the passes from 0.
            start: delta_0, shape (B, T, C), fp32, 0 at padding.
            parameters: what the loss trains; others get the last pass's gradient only.

        Returns:
            The mean loss, the last perturbation, and how many (sentence, step) pairs
            were refused for a non-finite gradient.

        """
        how, parameters = self.ascent, list(parameters)
        delta = start = project(start, how)
        refused = torch.zeros((), device=start.device)
        share = 1 / (how.steps + 1)
        total = torch.zeros((), device=start.device)
        summed: list[Tensor | None] = []
        for k in range(how.steps):
            variable = delta.detach().requires_grad_()
            value = losses(variable, k) * share
            into_delta, *found = inner_gradient(
                value * how.gradient_scale, [variable, *parameters], allow_unused=True
            )
            total = total + value.detach()
            if summed:
                _add(summed, _owned(found))
            else:
                summed = _owned(found)
            delta, stopped = climb(delta, into_delta, start, how)
            refused = refused + stopped
        last = losses(delta.detach(), how.steps) * share
        if summed:
            total = with_gradients(total, summed, parameters, how.gradient_scale)
        return total + last, delta.detach(), refused
