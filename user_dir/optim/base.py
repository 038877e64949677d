"""What the optimizers share: groups, checks, state and the pull to the start."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from ..flags import NOT_NEGATIVE, POSITIVE, SHARE, Range

#: What every optimizer has; a subclass adds its own.
RANGES = {
    "lr": NOT_NEGATIVE,
    "betas": Range("in [0, 1)", lambda v: all(SHARE.holds(beta) for beta in v)),
    "eps": POSITIVE,
    "weight_decay": NOT_NEGATIVE,
    "anchor": NOT_NEGATIVE,
}


class Grouped(torch.optim.Optimizer):
    """An optimizer that updates all parameters of a group together.

    A subclass gives the state a parameter starts with and the update of a group.
    """

    #: of the arguments that have one
    ranges: ClassVar[Mapping[str, Range]] = RANGES

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        scales = {"lr_scale": 1.0, "decay_scale": 1.0, "anchor_scale": 1.0}
        super().__init__(params, {**scales, **defaults})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; what a group says itself has the arguments' ranges.

        Raises:
            UserError: a value is out of range.

        """
        said = {**self.defaults, **param_group}
        for name, values in self.ranges.items():
            values.check(f"optimizer: {name} =", said.get(name))
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, and with its settings, as torch's optimizers do.

        One of torch's Adam or AdamW is one of BertAdam's, and settings that it lacks
        are as the arguments have them. In those of version 0.1 ``in_scope`` is
        ``noisy``. Steps are numbers. BertAdam's were tensors, which torch leaves on the
        CPU, where the fused kernel of a GPU does not take them.

        Raises:
            UserError: it is another optimizer's.

        """
        super().load_state_dict(state_dict)
        for state in self.state.values():
            if "step" in state:
                state["step"] = int(state["step"])
        for group in self.param_groups:
            if "noisy" in group:
                group["in_scope"] = group.pop("noisy")
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        if lacking := sorted(self.lacking()):
            raise UserError(
                f"the state is no {type(self).__name__}'s: it lacks "
                f"{', '.join(lacking)}; begin without it"
            )

    def lacking(self) -> set[str]:
        """What groups need of a state that was loaded, and that is not there."""
        found: set[str] = set()
        for group in self.param_groups:
            pulled = group["anchor"] * group["anchor_scale"] > 0
            begun = self.start(torch.empty(0, dtype=torch.float32), group)
            needed = {*begun, *(["anchor"] * pulled)}
            states = filter(None, map(self.state.get, group["params"]))
            found |= {name for state in states for name in needed - state.keys()}
        return found

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

    def _begin(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise UserError(f"{type(self).__name__} takes no sparse gradients")
        self.state[parameter].update(self.start(parameter, group))
        if group["anchor"] * group["anchor_scale"] > 0:
            self.state[parameter]["anchor"] = parameter.detach().clone()


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient, laid out in memory as the parameter is."""
    gradient: Tensor = parameter.grad  # type: ignore[assignment]
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def anchors_of(
    states: Sequence[Mapping[str, Any]], group: Mapping[str, Any]
) -> list[Tensor]:
    """Where parameters started; none for a group that is not pulled there.

    Raises:
        UserError: that is not known any more.

    """
    if _pull_share(group) <= 0:
        return []
    if not all("anchor" in state for state in states):
        raise UserError(
            "optimizer: anchor was not set at the first step, and where parameters "
            "started is not known any more; set it before"
        )
    return [state["anchor"] for state in states]


def pull_(
    params: list[Tensor], anchors: list[Tensor], group: Mapping[str, Any]
) -> None:
    """Move parameters towards where they started, if there are anchors.

    Source: Wiese et al. (arXiv 1706.03610), the L2 loss to the first weights;
    decoupled, as weight decay is, by ourselves.
    """
    if anchors:
        torch._foreach_lerp_(params, anchors, _pull_share(group))


def _pull_share(group: Mapping[str, Any]) -> float:
    rate = float(group["lr"] * group["lr_scale"])
    return rate * float(group["anchor"] * group["anchor_scale"])


def clip_each(gradients: list[Tensor], largest: float) -> list[Tensor]:
    """Scale down every gradient whose own L2 norm is above ``largest`` (0: none)."""
    if largest <= 0:
        return gradients
    norms = torch._foreach_norm(gradients)
    factors = [(largest / (norm + 1e-6)).clamp(max=1.0) for norm in norms]
    return list(torch._foreach_mul(gradients, factors))
