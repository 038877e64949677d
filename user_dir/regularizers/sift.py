"""SiFT: virtual adversarial training on normalised embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .ascent import Ascent, ascend
from .divergence import Divergence
from .noise import clipped_normal


class Penalty(NamedTuple):
    """What a regulariser adds to the loss, and what to log about it."""

    value: Tensor  #: divergence per sentence, shape (B,), differentiable
    perturbation_rms: Tensor  #: root mean square of the perturbation, shape (B,)
    refused: Tensor  #: share of ascent steps with a non-finite gradient, scalar


def normalise_embeddings(x: Tensor) -> Tensor:
    """Zero mean and unit variance over channels in fp32, no learned scale.

    Epsilon is 1e-7 as in the source, small enough that scaling an embedding table
    leaves the result unchanged.
    """
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-7)


def masked_rms(delta: Tensor, mask: Tensor) -> Tensor:
    """Root mean square over real tokens and channels, (B, T, C) to (B,)."""
    energy = delta.square().sum((1, 2))
    return (energy / (mask.sum(1).clamp(min=1) * delta.shape[-1])).sqrt()


@dataclass(frozen=True)
class SiFT:
    """Scale-invariant fine-tuning: l_s(f(LN0(e) + delta), f(e)), delta adversarial.

    LN0 is a LayerNorm without parameters, so delta's size is relative to the
    normalised embedding and not to the norms of particular words.

    Source: DeBERTa (arXiv 2006.03654) section 5 and its authors' code.
    Deviations: the clean pass and evaluation see no LN0; l_s is the symmetric KL
    itself, live on both sides, where the source adds two cross-entropies with
    detached targets (its lambda is worth half as much here); the step is divided by
    ||g||_inf exactly, without 1e-6; an L-infinity projection is on offer.

    Args:
        divergence: l_s for the ascent and for the penalty, (B, K) twice to (B,).
        init: standard deviation of the start, in units of the normalised embedding.
        ascent: steps, step size and radius, in the same units.

    """

    divergence: Divergence
    init: float
    ascent: Ascent

    def __call__(
        self,
        forward: Callable[[Tensor], Tensor],
        embedded: Tensor,
        mask: Tensor,
        clean: Tensor,
        keys: Sequence[int],
    ) -> Penalty:
        """Perturb and compare.

        Args:
            forward: maps a value for the point before the embedding LayerNorm,
                shape (B, T, C), to logits (B, K).
            embedded: what the clean pass had at that point, shape (B, T, C).
            mask: True at real tokens, shape (B, T).
            clean: logits of the clean pass, shape (B, K); gradients flow into them.
            keys: one noise key per sentence.

        """
        base = normalise_embeddings(embedded.detach())
        start = clipped_normal(keys, mask, base.shape[-1], self.init)
        target = clean.detach()

        def objective(delta: Tensor) -> Tensor:
            return self.divergence(forward(base + delta), target).sum()

        delta, refused = ascend(objective, start, self.ascent)
        delta = delta * mask.unsqueeze(-1)
        steps = max(1, self.ascent.steps) * max(1, len(keys))
        return Penalty(
            self.divergence(forward(base + delta), clean),
            masked_rms(delta, mask),
            torch.as_tensor(refused / steps),
        )
