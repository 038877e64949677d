"""Divergences between two sets of logits, in a form that survives small steps.

Every function takes ``perturbed`` and ``clean`` of shape (..., K), works in fp32
(fp64 when given fp64) and returns one value in nats per item, shape (...).

With d = perturbed - clean and t = log p - log q, the usual sum of p log(p / q)
cancels to noise once d is near 1e-5. Here t comes from log1p and expm1, and the
sums run over terms that are never negative, so the relative error stays near the
format's own rounding however small the perturbation.
"""

from collections.abc import Callable, Sequence

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


#: A perturbed logit may grow by this much above the mean before p is taken from its own
#: softmax: past it q, rounded to 0 or not, would no longer tell.
FAR = 60.0


class SymmetricKL:
    """The symmetric KL and its gradients in closed form, for many classes.

    With d = a - b - shift, x = expm1 d and S0 = E_q[x], S1 = E_q[d], S2 = E_q[x d]:

        log p - log q = t = d - log(1 + S0),    expm1 t = (x - S0) / (1 + S0)
        D = (S2 - S0 S1) / (1 + S0),    E_q[t] = S1 - log(1 + S0) = E_p[t] - D
        dD/da = p (t - E_p[t]) + p - q,    dD/db = -q (t - E_q[t]) - (p - q)

    whatever the shift. It is E_q[a - b]: then S1 is no more than rounding, S2 has no
    term below 0, and p = q (1 + expm1 t) and p - q = q expm1 t cancel nothing.
    """

    @staticmethod
    def values(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The divergence, and what its gradients need again.

        Args:
            a: logits of p, shape (R, K).
            b: logits of q, shape (R, K).

        Returns:
            Values in nats, shape (R,), and shift, S0 and S1, shape (R, 3). S0 is
            infinite where a logit has grown by FAR, and the value ``symmetric_kl``'s.

        """
        a, b = _at_least_fp32(a), _at_least_fp32(b)
        q, d = b.softmax(-1), a - b
        shift = (q * d).sum(-1, keepdim=True)
        d -= shift
        far = d.amax(-1, keepdim=True) >= FAR
        s1 = (q * d).sum(-1, keepdim=True)
        q *= d.expm1()
        s0 = q.sum(-1, keepdim=True)
        s2 = q.mul_(d).sum(-1, keepdim=True)
        value = ((s2 - s0 * s1) / (1 + s0)).clamp(min=0).squeeze(1)
        if far.any():
            value = torch.where(far.squeeze(1), symmetric_kl(a, b), value)
            s0 = torch.where(far, torch.inf, s0)
        return value, torch.cat([shift, s0, s1], 1)

    @staticmethod
    def gradients(
        a: Tensor,
        b: Tensor,
        values: Tensor,
        kept: Tensor,
        outer: Tensor,
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Of the wanted sides, shape (R, K), the values' gradient being ``outer``."""
        a, b = _at_least_fp32(a), _at_least_fp32(b)
        values, outer = values[:, None], outer[:, None]
        shift, s0, s1 = kept.split(1, -1)
        q, d = b.softmax(-1), (a - b).sub_(shift)
        moved = d.expm1().sub_(s0).div_(1 + s0).mul_(q)
        far = s0.isinf()
        if far.any():
            moved = torch.where(far, a.softmax(-1) - q, moved)
        d -= s1
        of_a = of_b = None
        if wanted[1]:
            of_b = torch.addcmul(moved, q, d).mul_(-outer)
        if wanted[0]:
            of_a = q.add_(moved).mul_(d.sub_(values)).add_(moved).mul_(outer)
        return [of_a, of_b]


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
