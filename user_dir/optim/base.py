"""What the optimizers share: groups, checks, state and the pull to the start."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError

_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (lambda v: v >= 0, ">= 0"),
    "betas": (lambda v: all(0 <= b < 1 for b in v), "in [0, 1)"),
    "eps": (lambda v: v > 0, "> 0"),
    "weight_decay": (lambda v: v >= 0, ">= 0"),
    "tensor_clip": (lambda v: v >= 0, ">= 0"),
    "anchor": (lambda v: v >= 0, ">= 0"),
    "noise": (lambda v: v >= 0, ">= 0"),
    "gamma": (lambda v: v >= 0, ">= 0"),
    "beta": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "p": (lambda v: 0 <= v <= 1, "in [0, 1]"),
    "guard": (lambda v: v > 0, "> 0"),
    "noise_scale": (lambda v: v in ("absolute", "lr"), "absolute or lr"),
    "gate": (
        lambda v: v in ("ratio", "sensitivity", "none"),
        "ratio, sensitivity or none",
    ),
    "base": (lambda v: v in ("adam", "adamax"), "adam or adamax"),
}


def check(values: dict[str, Any]) -> None:
    """Refuse values out of range.

    Raises:
        UserError: names the value and its range.

    """
    for name, (good, text) in _RANGES.items():
        if name in values and not good(values[name]):
            raise UserError(f"optimizer: {name} = {values[name]} is not {text}")


class Grouped(torch.optim.Optimizer):
    """An optimizer that updates all parameters of a group together.

    A subclass gives the state a parameter starts with and the update of a group.
    """

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        check(defaults)
        scales = {"lr_scale": 1.0, "decay_scale": 1.0, "anchor_scale": 1.0}
        super().__init__(params, {**scales, **defaults})

    def start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """State of a parameter before its first step."""
        raise NotImplementedError

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step of the parameters of one group that have gradients."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self._begin(p, group)
            if params:
                self.update(params, group)
        return loss

    @staticmethod
    def _pull(
        params: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]
    ) -> None:
        """Move parameters towards where they started.

        Source: Wiese et al. (arXiv 1706.03610); Zhang et al. (arXiv 2006.05987),
        decay towards pretrained weights.
        """
        share = pull_share(group)
        if share > 0:
            torch._foreach_lerp_(params, [s["anchor"] for s in states], share)

    def _begin(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise UserError(f"{type(self).__name__} takes no sparse gradients")
        self.state[parameter].update(self.start(parameter, group))
        if group["anchor"] * group["anchor_scale"] > 0:
            self.state[parameter]["anchor"] = parameter.detach().clone()


def pull_share(group: dict[str, Any]) -> float:
    """Share of the way to its start that a step of decay moves a parameter."""
    rate = float(group["lr"] * group["lr_scale"])
    return rate * float(group["anchor"] * group["anchor_scale"])


def clip_each(gradients: list[Tensor], largest: float) -> list[Tensor]:
    """Scale down every gradient whose own L2 norm is above ``largest`` (0: none)."""
    if largest <= 0:
        return gradients
    norms = torch._foreach_norm(gradients)
    factors = [(largest / (norm + 1e-6)).clamp(max=1.0) for norm in norms]
    return list(torch._foreach_mul(gradients, factors))
