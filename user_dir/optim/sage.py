"""SAGE: learning rates that follow how surprising a parameter's sensitivity is."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..flags import POSITIVE, SHARE, one_of
from .adamax import adamax_, rates
from .base import RANGES, Grouped
from .bert_adam import step_tensors
from .blocks import Piece, blocks
from .lists import Lists

Base = Literal["adam", "adamax"]


class Sage(Grouped):
    """Adam's or Adamax's step times |s - avg| / (avg + guard).

    s = |theta * gradient| and avg is its exponential moving average, this update
    included. Groups with ``in_scope`` false get the base step alone; other keys are as
    in :class:`BertAdam`.

    Source: SAGE (arXiv 2202.02664) algorithm 1, and its authors' code, whose Adam is
    corrected, the average sensitivity too, with an ``eps`` of 1e-6 and a ``guard`` of
    1e-12.
    Deviations: Adamax is bias-corrected like Adam by ``bias_correction``, but for the
    sensitivity; its authors' is not, and adds its epsilon twice.

    Args:
        params: parameters or groups, fp32 or fp64.
        lr: learning rate, >= 0; the paper's is 2 to 5 times the base optimizer's.
        base: ``adam`` or ``adamax``.
        betas: of the base, in [0, 1).
        eps: of the base, > 0.
        weight_decay: decoupled, >= 0.
        bias_correction: of the base, and with Adam of the average sensitivity, without
            which the first steps are longer: three times at the first.
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
        adam = group["base"] == "adam"
        second = "exp_avg_sq" if adam else "exp_inf"
        lists = Lists.of_states(params, states, second, group)
        every = step_tensors(params, states, group) if adam else rates(states, group)
        for block in blocks(params):
            surprises = None
            if group["in_scope"]:
                surprises = _surprises(lists, block, group, _seen(states, block, group))
            lists.pull(block, group)
            own: Any = [every[piece.index] for piece in block]
            step_ = _adam_ if adam else adamax_
            step_(*lists.main(block), own, group, surprises)


def _seen(
    states: Sequence[Mapping[str, Any]], block: list[Piece], group: Mapping[str, Any]
) -> list[float] | None:
    """The weight of what each average sensitivity has seen; None not to correct it."""
    if group["base"] != "adam" or not group["bias_correction"]:
        return None
    return [1 - group["beta"] ** states[piece.index]["step"] for piece in block]


def _surprises(
    lists: Lists,
    block: list[Piece],
    group: Mapping[str, Any],
    seen: list[float] | None,
) -> list[Tensor]:
    """|s - avg| / (avg + guard) of a block, once avg has moved to s."""
    surprises, averages = lists.follow(block, group["beta"])
    if seen:
        averages = list(torch._foreach_div(averages, seen))
    torch._foreach_sub_(surprises, averages)
    torch._foreach_abs_(surprises)
    torch._foreach_div_(surprises, torch._foreach_add(averages, group["guard"]))
    return surprises


def _adam_(
    params: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    group: Mapping[str, Any],
    multipliers: list[Tensor] | None,
) -> None:
    """Adam with a factor on each element's step; decay is not multiplied.

    torch's fused kernel does it in one pass over memory. With factors it moves zeros
    instead of the parameters, which leaves there the step itself.
    """
    beta1, beta2 = group["betas"]
    lr = group["lr"] * group["lr_scale"]
    decay = group["weight_decay"] * group["decay_scale"]
    moved = params
    if multipliers is not None:
        moved = [torch.zeros_like(p) for p in params]
    torch._fused_adamw_(
        moved,
        gradients,
        averages,
        squares,
        [],
        steps,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=decay,
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )
    if multipliers is not None:
        torch._foreach_mul_(params, 1 - lr * decay)
        torch._foreach_addcmul_(params, moved, multipliers)
