"""Projected gradient ascent on a perturbation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..flags import NOT_NEGATIVE, one_of

Norm = Literal["linf", "l2"]
Level = Literal["token", "sentence"]
Projection = Literal["clamp", "normalize"]
NORMS, LEVELS = one_of("linf", "l2"), one_of("token", "sentence")
PROJECTIONS = one_of("clamp", "normalize")

#: Keeps a division finite in MT-DNN's form of the projection.
_GUARD = 1e-6
_RANGES = {
    "steps": NOT_NEGATIVE,
    "step_size": NOT_NEGATIVE,
    "radius": NOT_NEGATIVE,
    "norm": NORMS,
    "level": LEVELS,
    "projection": PROJECTIONS,
}


@dataclass(frozen=True)
class Ascent:
    """How far and how often to climb.

    Args:
        steps: gradient steps, >= 0.
        step_size: length of a step in ``norm``, >= 0.
        radius: of the ball, >= 0, or None for no projection.
        gradient_scale: factor on the objective while differentiating, undone before
            the gradient is used; keeps fp16 gradients from underflowing.
        norm: L-infinity or L2.
        level: whether a norm is taken over each token's channels or over a sentence.
        projection: ``clamp`` onto the ball (the nearest point), or ``normalize`` onto
            its surface with the raw gradient as step, as MT-DNN does.

    Raises:
        UserError: a value is none of these.

    """

    steps: int
    step_size: float
    radius: float | None = None
    gradient_scale: float = 1.0
    norm: Norm = "linf"
    level: Level = "token"
    projection: Projection = "clamp"

    def __post_init__(self) -> None:
        for name, values in _RANGES.items():
            values.check(f"Ascent: {name} =", getattr(self, name))

    def scaled(self, factor: float) -> "Ascent":
        """The same with another ``gradient_scale``, as a model's precision asks for."""
        return replace(self, gradient_scale=factor)

    def longer(self, factor: float) -> "Ascent":
        """The same with step and ball this many times as large."""
        radius = None if self.radius is None else self.radius * factor
        return replace(self, step_size=self.step_size * factor, radius=radius)


def length(x: Tensor, how: Ascent) -> Tensor:
    """The norm of each token or sentence, (B, T, C) to (B, T or 1, 1)."""
    over = (-1,) if how.level == "token" else (-2, -1)
    if how.norm == "linf":
        return x.abs().amax(over, keepdim=True)
    return x.square().sum(over, keepdim=True).sqrt()


def _unit(x: Tensor, how: Ascent) -> Tensor:
    """``x`` over its norm; 0 where it is 0."""
    size = length(x, how)
    return x / size.masked_fill(size == 0, 1)


def project(delta: Tensor, how: Ascent) -> Tensor:
    """The nearest point of the ball, or its surface for ``normalize``."""
    if how.radius is None:
        return delta
    if how.projection == "normalize":
        return delta * (how.radius / (length(delta, how) + _GUARD))
    if how.norm == "linf":
        return delta.clamp(-how.radius, how.radius)
    outside = length(delta, how) > how.radius
    return torch.where(outside, _unit(delta, how) * how.radius, delta)


def _step(gradient: Tensor, how: Ascent) -> Tensor:
    if how.projection == "normalize":
        return gradient * (how.step_size / how.gradient_scale)
    return _unit(gradient, how) * how.step_size


def climb(
    delta: Tensor, gradient: Tensor, start: Tensor, how: Ascent
) -> tuple[Tensor, Tensor]:
    """One step from ``delta``, back to ``start`` where a gradient is not finite.

    Returns:
        The new perturbation and how many sentences were refused, a scalar tensor.

    """
    finite = gradient.isfinite().flatten(1).all(1)
    stepped = project(delta + _step(gradient, how), how)
    return torch.where(finite[:, None, None], stepped, start), (~finite).sum()


def inner_gradient(
    value: Tensor, inputs: Sequence[Tensor], allow_unused: bool = False
) -> tuple[Tensor, ...]:
    """Torch's, outside of autocast: each backward product as precise as its forward."""
    with torch.autocast(value.device.type, enabled=False):
        return torch.autograd.grad(value, inputs, allow_unused=allow_unused)


def ascend(
    objective: Callable[[Tensor], Tensor], start: Tensor, how: Ascent
) -> tuple[Tensor, Tensor]:
    """Climb ``objective`` from ``start``.

    Each step adds step_size * g / ||g|| and projects. A sentence whose gradient is not
    finite goes back to its start for that step. Parameters get no gradient.

    Source: SMART (arXiv 1911.03437) Algorithm 1, its inner loop; for ``normalize``
    MT-DNN's and smart-pytorch's public code.
    Deviations: ||g|| is taken per token, as all public code does.

    Args:
        objective: maps a perturbation of shape (B, T, C) to one scalar that is a sum
            over sentences.
        start: shape (B, T, C), fp32.
        how: the steps and the ball.

    Returns:
        The perturbation, detached, and how many (sentence, step) pairs were refused
        for a non-finite gradient, as a scalar tensor.

    """
    if how.projection == "clamp":
        start = project(start, how)
    delta, refused = start, torch.zeros((), device=start.device)
    for _ in range(how.steps):
        variable = delta.detach().requires_grad_()
        with torch.enable_grad():
            value = objective(variable) * how.gradient_scale
            (gradient,) = inner_gradient(value, [variable])
        delta, stopped = climb(delta, gradient, start, how)
        refused = refused + stopped
    return delta.detach(), refused
