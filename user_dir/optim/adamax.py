"""The Adamax step that PATS and SAGE stand on."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def adamax_(
    params: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    largest: list[Tensor],
    rates: Sequence[float],
    group: Mapping[str, Any],
    multipliers: list[Tensor] | None = None,
) -> None:
    """One step in place, operation by operation as fairseq's ``adamax``.

    Source: Kingma and Ba (arXiv 1412.6980) algorithm 2.
    Deviations: eps is added to the infinity norm, and decay is decoupled, as in
    fairseq.

    Args:
        params: theta, flat or not.
        gradients: of each.
        averages: m of each, updated.
        largest: u of each, updated.
        rates: learning rate of each, bias correction included.
        group: betas, eps, lr, lr_scale, weight_decay, decay_scale.
        multipliers: factors on each element's step, or None.

    """
    beta1, beta2 = group["betas"]
    torch._foreach_mul_(averages, beta1)
    torch._foreach_add_(averages, gradients, alpha=1 - beta1)
    torch._foreach_mul_(largest, beta2)
    torch._foreach_maximum_(largest, torch._foreach_abs(gradients))
    decay = group["weight_decay"] * group["decay_scale"]
    if decay != 0:
        torch._foreach_add_(
            params, params, alpha=-decay * float(group["lr"]) * group["lr_scale"]
        )
    steps = averages
    if multipliers is not None:
        steps = list(torch._foreach_mul(averages, multipliers))
    denominators = torch._foreach_add(largest, group["eps"])
    torch._foreach_addcdiv_(params, steps, denominators, [-rate for rate in rates])


def rates(states: Sequence[Mapping[str, Any]], group: Mapping[str, Any]) -> list[float]:
    """Learning rate of each parameter at its own step."""
    lr, beta1 = float(group["lr"]) * group["lr_scale"], group["betas"][0]
    if not group["bias_correction"]:
        return [lr] * len(states)
    return [lr / (1 - beta1 ** state["step"]) for state in states]
