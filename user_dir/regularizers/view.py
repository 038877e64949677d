"""What a regulariser sees of one batch, and what it gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .divergence import Divergence


@dataclass(frozen=True)
class View:
    """One batch after its clean pass.

    Args:
        forward: an extra pass with a value of shape (B, T, C) at the injection point,
            giving logits of shape (B, ..., K).
        embedded: what the clean pass had at that point, shape (B, T, C), live.
        mask: True at real tokens, shape (B, T).
        clean: logits of the clean pass, shape (B, ..., K), live.
        keys: one noise key per sentence.
        divergence: compares two sets of logits, one value per sentence, shape (B,).
        climbed: what an ascent maximises, of the same form; None for ``divergence``.

    """

    forward: Callable[[Tensor], Tensor]
    embedded: Tensor
    mask: Tensor
    clean: Tensor
    keys: Sequence[int]
    divergence: Divergence
    climbed: Divergence | None = None


@dataclass(frozen=True)
class Penalty:
    """What a regulariser adds to the loss, and what to log about it.

    Args:
        value: divergence per sentence, shape (B,), differentiable.
        logged: sums over the sentences, by name.
        lost: share of the perturbation's entries that rounding removed, or None where
            it cannot.

    """

    value: Tensor
    logged: dict[str, Tensor] = field(default_factory=dict)
    lost: Tensor | None = None


def masked_rms(delta: Tensor, mask: Tensor) -> Tensor:
    """Root mean square over real tokens and channels, (B, T, C) to (B,)."""
    energy = delta.square().sum((1, 2))
    return (energy / (mask.sum(1).clamp(min=1) * delta.shape[-1])).sqrt()


def rounded_away(embedded: Tensor, delta: Tensor, mask: Tensor) -> Tensor | None:
    """Share of entries at real tokens that adding ``delta`` leaves bit-identical.

    Only half precision is looked at, autocast's too, whose first product rounds what is
    still fp32: in fp32 a useful perturbation is far above the spacing of embeddings.
    """
    device, dtype = embedded.device.type, embedded.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if dtype not in (torch.float16, torch.bfloat16):
        return None
    moved = (embedded.float() + delta).to(dtype) != embedded.to(dtype)
    return 1 - moved[mask & delta.abs().amax(-1).gt(0)].float().mean()
