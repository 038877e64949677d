"""Divergences between two sets of logits, in a form that survives small steps.

Every function takes ``perturbed`` and ``clean`` of shape (..., K), works in fp32
(fp64 when given fp64) and returns one value in nats per item, shape (...).

With d = perturbed - clean and t = log p - log q, the usual sum of p log(p / q)
cancels to noise once d is near 1e-5. Here t comes from log1p and expm1, and the
sums run over terms that are never negative, so the relative error stays near the
format's own rounding however small the perturbation.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Divergence = Callable[[Tensor, Tensor], Tensor]


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """Log softmax(a) - log softmax(b), shape (..., K)."""
    d = a - b
    d = d - d.mean(-1, keepdim=True).detach()
    # log1p keeps tiny differences, logsumexp keeps large ones from overflowing.
    small = d.detach().abs().amax(-1, keepdim=True) < 1
    near = torch.where(small, d, 0.0)
    shift_near = (b.softmax(-1) * near.expm1()).sum(-1, keepdim=True).log1p()
    far = torch.where(small, 0.0, d)
    shift_far = (b.log_softmax(-1) + far).logsumexp(-1, keepdim=True)
    return d - torch.where(small, shift_near, shift_far)


def symmetric_kl(perturbed: Tensor, clean: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p), also called the Jeffreys divergence.

    Source: l_s in R_s of SMART (arXiv 1911.03437); KL_S in the objective L_R3F
    (arXiv 2008.03156). Gradients flow to both arguments; detach one to hold it fixed.

    Args:
        perturbed: logits of p, shape (..., K).
        clean: logits of q, shape (..., K).

    Returns:
        Values >= 0 in nats, shape (...).

    """
    a, b = _at_least_fp32(perturbed), _at_least_fp32(clean)
    t = _log_ratio(a, b)
    # (p - q) t, written so that the exponential never overflows.
    weight = torch.where(t > 0, a.softmax(-1), b.softmax(-1))
    return (weight * -(-t.abs()).expm1() * t.abs()).sum(-1)


def _expm1_minus(t: Tensor) -> Tensor:
    """exp(t) - 1 - t without cancellation near 0."""
    small = t.detach().abs() < 0.03
    near = torch.where(small, t, 0.0)
    tail = 1 + near / 4 * (1 + near / 5 * (1 + near / 6))
    series = near**2 / 2 * (1 + near / 3 * tail)
    far = torch.where(small, 0.0, t)
    return torch.where(small, series, far.expm1() - far)


def kl(perturbed: Tensor, clean: Tensor) -> Tensor:
    """KL(q || p), the clean distribution being the reference.

    Args:
        perturbed: logits of p, shape (..., K).
        clean: logits of q, shape (..., K).

    Returns:
        Values >= 0 in nats, shape (...).

    """
    a, b = _at_least_fp32(perturbed), _at_least_fp32(clean)
    t = _log_ratio(a, b)
    q = b.softmax(-1)
    # sum q t and sum q (t - expm1 t) differ by sum (p - q) = 0. Past t = 80 the
    # exponential would overflow although q is already 0 there.
    return torch.where(t < 80, q * _expm1_minus(t.clamp(max=80)), a.softmax(-1)).sum(-1)


def squared_difference(perturbed: Tensor, clean: Tensor) -> Tensor:
    """Squared difference summed over outputs, for regression.

    Source: l_s for regression in R_s of SMART (arXiv 1911.03437).

    Args:
        perturbed: predictions, shape (..., K).
        clean: predictions, shape (..., K).

    Returns:
        Values >= 0 in squared target units, shape (...).

    """
    return (_at_least_fp32(perturbed) - _at_least_fp32(clean)).square().sum(-1)


DIVERGENCES: dict[str, Divergence] = {
    "sym_kl": symmetric_kl,
    "kl": kl,
    "mse": squared_difference,
}
