"""Sensitivity of parameters: what the loss would lose without them."""

import torch
from torch import Tensor


def follow_(
    averages: list[Tensor], params: list[Tensor], gradients: list[Tensor], beta: float
) -> list[Tensor]:
    """Move each average towards |theta * gradient|, in place.

    Source: PATS (arXiv 2210.12403) and SAGE (arXiv 2202.02664), algorithm 1 of each:
    the first-order sensitivity and its exponential moving average.

    Args:
        averages: exponential moving averages of the sensitivity.
        params: theta before the update and before decay.
        gradients: averaged, unscaled and clipped.
        beta: decay of the average, in [0, 1).

    Returns:
        The sensitivities themselves.

    """
    sensitivities = list(torch._foreach_mul(params, gradients))
    torch._foreach_abs_(sensitivities)
    torch._foreach_mul_(averages, beta)
    torch._foreach_add_(averages, sensitivities, alpha=1 - beta)
    return sensitivities
