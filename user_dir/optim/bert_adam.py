"""Adam as BERT was fine-tuned with: no bias correction unless asked for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..flags import NOT_NEGATIVE
from .base import RANGES, Grouped, anchors_of, clip_each, gradient_of, pull_

#: A step count at which bias correction is gone; in fp32 it plus 1 is itself.
LATE = 1e30


class BertAdam(Grouped):
    """m / (sqrt(v) + eps) + decay * theta, with or without bias correction.

    Uses torch's fused AdamW kernel, one pass over memory. Group keys besides the
    arguments: ``lr_scale``, ``decay_scale`` and ``anchor_scale``, factors on ``lr``,
    ``weight_decay`` and ``anchor``, all 1 by default.

    Source: Devlin et al.'s AdamWeightDecayOptimizer (arXiv 1810.04805); with
    ``bias_correction`` Kingma and Ba (arXiv 1412.6980) algorithm 1, where eps is added
    to the corrected root.
    Deviations: no schedule and, by default, no clipping inside.

    Args:
        params: parameters or groups, fp32 or fp64, of one kind in a group.
        lr: learning rate, >= 0.
        betas: decay rates of the two averages, in [0, 1).
        eps: added to the root of the second average, > 0.
        weight_decay: decoupled, times ``lr``, >= 0.
        bias_correction: divide the averages by 1 - beta ** t.
        tensor_clip: largest L2 norm of each parameter's gradient, > 0; 0 for none.
        anchor: decoupled pull towards each parameter's value at its first step, times
            ``lr``, >= 0.

    Raises:
        UserError: a value is out of range.

    """

    ranges: ClassVar = {**RANGES, "tensor_clip": NOT_NEGATIVE}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = False,
        tensor_clip: float = 0.0,
        anchor: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=tuple(betas),
            eps=eps,
            weight_decay=weight_decay,
            bias_correction=bias_correction,
            tensor_clip=tensor_clip,
            anchor=anchor,
        )

    def start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Averages at 0."""
        return {
            "step": 0,
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step of the parameters of one group that have gradients."""
        states = [self.state[p] for p in params]
        for state in states:
            state["step"] += 1
        lr = group["lr"] * group["lr_scale"]
        pull_(params, anchors_of(states, group), group)
        torch._fused_adamw_(
            params,
            clip_each([gradient_of(p) for p in params], group["tensor_clip"]),
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            step_tensors(params, states, group),
            lr=lr,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"] * group["decay_scale"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def step_tensors(
    params: Sequence[Tensor],
    states: Sequence[Mapping[str, Any]],
    group: Mapping[str, Any],
) -> list[Tensor]:
    """Step count of each parameter, a tensor as the fused kernel wants it."""
    counts = [state["step"] if group["bias_correction"] else LATE for state in states]
    made = {n: torch.full((), float(n), device=params[0].device) for n in set(counts)}
    return [made[n] for n in counts]
