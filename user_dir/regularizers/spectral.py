"""Linear layers whose spectral norm is bounded by 1."""

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..flags import one_of

Bound = Literal["bound", "exact"]
BOUNDS = one_of("bound", "exact")

#: Power iterations on fresh vectors; afterwards one per update follows the weight.
_WARM_UP = 15
_INNER = "parametrizations.weight."
#: Keys beside ``weight`` in a checkpoint; ``weight`` holds the bounded matrix.
EXTRA = ("spectral_original", "spectral_u", "spectral_v")


class SpectralBound(nn.Module):
    """W / max(1, sigma), or W / sigma for ``exact``; sigma = u^T W v.

    u and v stay fp32 and move only in :meth:`advance`, so all passes between two
    updates see the same matrix.

    Source: Miyato et al. (arXiv 1802.05957), its power iteration; R4F
    (arXiv 2008.03156), the constraint Lip(g) <= 1 in its objective.
    Deviations: division by max(1, sigma), as Lip(g) <= 1 asks, where public code
    divides by sigma.

    Args:
        weight: the matrix, shape (out, in).
        bound: ``bound`` or ``exact``.

    Raises:
        UserError: the bound is another.

    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, bound: Bound = "bound") -> None:
        super().__init__()
        BOUNDS.check("bound =", bound)
        self.bound = bound
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(weight.shape[1], generator=generator).to(weight.device)
        self.register_buffer("u", torch.zeros(weight.shape[0], device=weight.device))
        self.register_buffer("v", F.normalize(v, dim=0))
        self.advance(weight, _WARM_UP)

    @torch.no_grad()
    def advance(self, weight: Tensor, iterations: int = 1) -> None:
        """Power iterations on ``weight``; at a matrix of zeros v stays what it was."""
        with torch.autocast(weight.device.type, enabled=False):
            for _ in range(iterations):
                self.u.copy_(F.normalize(weight.float() @ self.v, dim=0))
                v = F.normalize(weight.float().T @ self.u, dim=0)
                self.v.copy_(torch.where(v.any(), v, self.v))

    def sigma(self, weight: Tensor) -> Tensor:
        """The largest singular value as far as u and v know it, in fp32."""
        with torch.autocast(weight.device.type, enabled=False):
            return self.u @ (weight.float() @ self.v)

    def forward(self, weight: Tensor) -> Tensor:
        """The bounded matrix, in the type of ``weight``."""
        sigma = self.sigma(weight)
        exact = self.bound == "exact"
        divisor = sigma + (sigma == 0) if exact else sigma.clamp(min=1)
        return (weight.float() / divisor).to(weight.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> "SpectralBound":
        """Follow the module to a device but never to half precision."""
        u, v = self.u, self.v
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.u, self.v = u.to(self.u.device), v.to(self.v.device)
        return self


def spectral_bound(linear: nn.Linear) -> SpectralBound | None:
    """The bound on a layer, if it has one."""
    if not parametrize.is_parametrized(linear, "weight"):
        return None
    return cast(SpectralBound, linear.parametrizations.weight[0])  # type: ignore[index,union-attr]


def _save(linear: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Write the bounded matrix under the plain name, and what resuming needs."""
    inner = prefix + _INNER
    names = (inner + "original", inner + "0.u", inner + "0.v")
    for extra, name in zip(EXTRA, names, strict=True):
        state[prefix + extra] = state.pop(name)
    state[prefix + "weight"] = cast(Tensor, linear.weight).detach()


def _load(
    linear: nn.Module, state: dict[str, Any], prefix: str, *_: Any, **__: Any
) -> None:
    """Resume from a bounded layer, or start from a plain one."""
    plain, inner = state.pop(prefix + "weight", None), prefix + _INNER
    if prefix + EXTRA[0] in state:
        original, u, v = (state.pop(prefix + extra) for extra in EXTRA)
    elif plain is not None:
        fresh = SpectralBound(plain)
        original, u, v = plain, fresh.u, fresh.v
    else:
        return
    state.update({inner + "original": original, inner + "0.u": u, inner + "0.v": v})


def bound_linear(linear: nn.Linear, bound: Bound = "bound") -> None:
    """Bound a layer from here on, in place.

    Its state dict holds the bounded matrix as ``weight``, which a plain layer can
    load, and the free matrix and vectors beside it.
    """
    parametrize.register_parametrization(
        linear, "weight", SpectralBound(linear.weight.detach(), bound)
    )
    linear.register_state_dict_post_hook(_save)
    linear.register_load_state_dict_pre_hook(_load)
