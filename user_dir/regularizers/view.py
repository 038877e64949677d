"""What a regulariser sees of one batch, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..errors import UserError
from .cached import PerturbationCache
from .divergence import Divergence
from .noise import check_mask

#: Types whose rounding can swallow a perturbation.
HALF = (torch.float16, torch.bfloat16)

#: Which side of the divergence is held fixed in backward.
Stopped = Literal["none", "clean", "perturbed"]


def _no_part(rows: Tensor) -> tuple["View", Tensor]:
    raise UserError(
        "a View with a cache needs `some`: perturbations of a part of the batch are "
        "sought, with a View of it"
    )


@dataclass(frozen=True)
class View:
    """One batch after its clean pass.

    Args:
        forward: an extra pass with a value of shape (B, T, C), fp32, at the injection
            point, giving logits of shape (B, ..., K).
        embedded: what the clean pass had at that point, shape (B, T, C), live.
        mask: True at real tokens, shape (B, T).
        clean: logits of the clean pass, shape (B, ..., K), live.
        keys: noise keys of the sentences, shape (B,).
        divergence: compares two sets of logits, one value per sentence, shape (B,).
        climbed: what an ascent maximises, of the same form; None for ``divergence``.
        stopped: side of the divergence that is held fixed in backward; with
            ``perturbed`` the last pass needs no backward.
        repeated: cost per sentence of a clean pass that only the regulariser needs, in
            plain updates.
        ids: the sentences' indices in the data set, shape (B,).
        cache: of perturbations by these indices; None where each is sought anew.
        some: the view of some of the sentences, given as indices of shape (R,), with
            the columns of T that they need, a mask of shape (T,).

    Raises:
        UserError: the mask is not one of truth values.

    """

    forward: Callable[[Tensor], Tensor]
    embedded: Tensor
    mask: Tensor
    clean: Tensor
    keys: Tensor
    divergence: Divergence
    climbed: Divergence | None = None
    stopped: Stopped = "none"
    repeated: float = 0.0
    ids: Tensor = field(default_factory=lambda: torch.empty(0))
    cache: PerturbationCache | None = None
    some: Callable[[Tensor], tuple["View", Tensor]] = field(default=_no_part)

    def __post_init__(self) -> None:
        check_mask(self.mask)

    def compared(self, value: Tensor) -> Tensor:
        """Divergence of the pass with ``value`` from the clean one, shape (B,)."""
        with torch.set_grad_enabled(self.stopped != "perturbed"):
            perturbed = self.forward(value)
        clean = self.clean.detach() if self.stopped == "clean" else self.clean
        return self.divergence(perturbed, clean)

    def cost(self, ascents: float = 0.0) -> float:
        """Extra passes per sentence, in plain updates: a forward and twice its cost.

        Args:
            ascents: forwards with a backward to the embeddings alone, per sentence.

        """
        last = 1 if self.stopped == "perturbed" else 3
        return self.repeated + (last + 2 * ascents) / 3


@dataclass(frozen=True)
class Penalty:
    """What a regulariser adds to the loss, and what to log about it.

    Args:
        value: divergence per sentence, shape (B,), differentiable.
        logged: sums over the sentences, by name; each named in the ``logs`` of the
            regulariser's class, by which a worker without sentences logs zeros.
        lost: share of the perturbation's entries that rounding removed, or None where
            it cannot.
        cost: of its passes, in plain updates.

    """

    value: Tensor
    logged: dict[str, Tensor] = field(default_factory=dict)
    lost: Tensor | None = None
    cost: float = 1.0


def masked_rms(delta: Tensor, mask: Tensor) -> Tensor:
    """Root mean square over real tokens and channels, (B, T, C) to (B,)."""
    energy = delta.square().sum((1, 2))
    return (energy / (mask.sum(1).clamp(min=1) * delta.shape[-1])).sqrt()


def embeddings_rms(embedded: Tensor, mask: Tensor) -> Tensor:
    """Root mean square of each sentence's embeddings, (B, T, C) to (B, 1, 1).

    Of the sentence alone, so that no other one of the batch has a say, nor padding.
    """
    real = embedded.detach().float().masked_fill(~mask.unsqueeze(-1), 0)
    return masked_rms(real, mask)[:, None, None]


def multiplied(x: Tensor) -> torch.dtype:
    """The type that products with a tensor are made in: its own, or autocast's."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def rounded_away(embedded: Tensor, delta: Tensor, mask: Tensor) -> Tensor | None:
    """Share of entries at real tokens that adding ``delta`` leaves bit-identical.

    Only half precision is looked at, autocast's too, whose first product rounds what is
    still fp32: in fp32 a useful perturbation is far above the spacing of embeddings.
    """
    dtype = multiplied(embedded)
    if dtype not in HALF:
        return None
    moved = (embedded.float() + delta).to(dtype) != embedded.to(dtype)
    perturbed = moved[mask & delta.abs().amax(-1).gt(0)]
    return (~perturbed).sum() / max(1, perturbed.numel())
