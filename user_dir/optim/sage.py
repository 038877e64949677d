"""SAGE: learning rates that follow how surprising a parameter's sensitivity is."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..flags import POSITIVE, SHARE, one_of
from .adamax import adamax_, rates
from .base import RANGES, Grouped
from .sensitivity import follow_

Base = Literal["adam", "adamax"]


class Sage(Grouped):
    """Adam's or Adamax's step times |s - avg| / (avg + guard).

    s = |theta * gradient| and avg is its exponential moving average, this update
    included. Groups with ``in_scope`` false get the base step alone.

    Source: SAGE (arXiv 2202.02664) algorithm 1, and its authors' code.
    Deviations: Adamax is bias-corrected like Adam by ``bias_correction``; its authors'
    is not, and adds its epsilon twice.

    Args:
        params: parameters or groups, fp32 or fp64.
        lr: learning rate, >= 0; the paper's is 2 to 5 times the base optimizer's.
        base: ``adam`` or ``adamax``.
        betas: of the base, in [0, 1).
        eps: of the base, > 0.
        weight_decay: decoupled, >= 0.
        bias_correction: of the base.
        anchor: decoupled pull towards each parameter's value at its first step, >= 0.
        beta: decay of the average sensitivity, in [0, 1).
        guard: added to it in the ratio, > 0.

    Raises:
        UserError: a value is out of range.

    """

    ranges: ClassVar = {
        **RANGES,
        "base": one_of("adam", "adamax"),
        "beta": SHARE,
        "guard": POSITIVE,
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        base: Base = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        anchor: float = 0.0,
        beta: float = 0.75,
        guard: float = 1e-16,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            base=base,
            betas=tuple(betas),
            eps=eps,
            weight_decay=weight_decay,
            bias_correction=bias_correction,
            anchor=anchor,
            beta=beta,
            guard=guard,
            in_scope=True,
        )

    def start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Averages at 0."""
        second = "exp_inf" if group["base"] == "adamax" else "exp_avg_sq"
        names = ["exp_avg", second, *(["sensitivity"] if group["in_scope"] else [])]
        return {"step": 0} | {name: torch.zeros_like(parameter) for name in names}

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step of the parameters of one group that have gradients."""
        states = [self.state[p] for p in params]
        for state in states:
            state["step"] += 1
        gradients: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        multipliers = self._surprise(params, gradients, states, group)
        self._pull(params, states, group)
        averages = [s["exp_avg"] for s in states]
        if group["base"] == "adamax":
            largest = [s["exp_inf"] for s in states]
            every = rates(states, group)
            adamax_(params, gradients, averages, largest, every, group, multipliers)
        else:
            squares = [s["exp_avg_sq"] for s in states]
            _adam(params, gradients, averages, squares, states, group, multipliers)

    @staticmethod
    def _surprise(
        params: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Any]],
        group: dict[str, Any],
    ) -> list[Tensor] | None:
        if not group["in_scope"]:
            return None
        averages = [s["sensitivity"] for s in states]
        surprise = follow_(averages, params, gradients, group["beta"])
        torch._foreach_sub_(surprise, averages)
        torch._foreach_abs_(surprise)
        torch._foreach_div_(surprise, torch._foreach_add(averages, group["guard"]))
        return surprise


def _adam(
    params: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    states: list[dict[str, Any]],
    group: dict[str, Any],
    multipliers: list[Tensor] | None,
) -> None:
    """Adam with a factor on each element's step; decay is not multiplied."""
    beta1, beta2 = group["betas"]
    lr = group["lr"] * group["lr_scale"]
    torch._foreach_lerp_(averages, gradients, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
    torch._foreach_mul_(params, 1 - lr * group["weight_decay"] * group["decay_scale"])
    roots = list(torch._foreach_sqrt(squares))
    if group["bias_correction"]:
        corrections = [(1 - beta2 ** s["step"]) ** 0.5 for s in states]
        torch._foreach_div_(roots, corrections)
    torch._foreach_add_(roots, group["eps"])
    steps = averages
    if multipliers is not None:
        steps = list(torch._foreach_mul(averages, multipliers))
    torch._foreach_addcdiv_(params, steps, roots, [-r for r in rates(states, group)])
