"""Projected gradient ascent on a perturbation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ascent:
    """How far and how often to climb.

    Args:
        steps: gradient steps, >= 0.
        step_size: length of a step in the L-infinity norm of each token, > 0.
        radius: L-infinity ball the perturbation is projected onto, or None for no
            projection.
        gradient_scale: factor on the objective while differentiating, undone by the
            normalisation; keeps fp16 gradients from underflowing.

    """

    steps: int
    step_size: float
    radius: float | None = None
    gradient_scale: float = 1.0


def project(delta: Tensor, radius: float | None) -> Tensor:
    """The nearest point of the L-infinity ball of ``radius`` (None: unchanged)."""
    return delta if radius is None else delta.clamp(-radius, radius)


def _direction(gradient: Tensor) -> Tensor:
    """The gradient over its largest entry per token; 0 where it is 0."""
    largest = gradient.abs().amax(-1, keepdim=True)
    return gradient / largest.masked_fill(largest == 0, 1)


def ascend(
    objective: Callable[[Tensor], Tensor], start: Tensor, how: Ascent
) -> tuple[Tensor, Tensor]:
    """Climb ``objective`` from ``start``.

    Each step adds step_size * g / ||g||_inf per token and projects. A sentence whose
    gradient is not finite goes back to its start and stays there for that step.
    Parameters get no gradient.

    Source: SMART (arXiv 1911.03437) Algorithm 1, lines 6 to 9.
    Deviations: ||g||_inf is taken per token, as all public code does.

    Args:
        objective: maps a perturbation of shape (B, T, C) to one scalar that is a sum
            over sentences.
        start: shape (B, T, C), fp32.
        how: the steps and the ball.

    Returns:
        The perturbation, detached, and how many (sentence, step) pairs were refused
        for a non-finite gradient, as a scalar tensor.

    """
    start = project(start, how.radius)
    delta, refused = start, torch.zeros((), device=start.device)
    for _ in range(how.steps):
        variable = delta.detach().requires_grad_()
        with torch.enable_grad():
            value = objective(variable) * how.gradient_scale
            (gradient,) = torch.autograd.grad(value, variable)
        finite = gradient.isfinite().flatten(1).all(1)
        stepped = project(delta + how.step_size * _direction(gradient), how.radius)
        delta = torch.where(finite[:, None, None], stepped, start)
        refused = refused + (~finite).sum()
    return delta.detach(), refused
