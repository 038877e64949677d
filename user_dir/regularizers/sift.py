"""SiFT: virtual adversarial training on normalised embeddings."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from .adversarial import adversarial_penalty
from .ascent import Ascent
from .view import Penalty, View


def normalise_embeddings(x: Tensor) -> Tensor:
    """Zero mean and unit variance over channels in fp32, no learned scale.

    Epsilon is 1e-7 as in the source, small enough that scaling an embedding table
    leaves the result unchanged.
    """
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-7)


@dataclass(frozen=True)
class SiFT:
    """Scale-invariant fine-tuning: l_s(f(LN0(e) + delta), f(e)), delta adversarial.

    LN0 is a LayerNorm without parameters, so delta's size is relative to the
    normalised embedding and not to the norms of particular words. The view's point is
    the one before the embedding LayerNorm.

    Source: DeBERTa (arXiv 2006.03654) section 5 and its authors' code.
    Deviations: the clean pass and evaluation see no LN0; l_s is the symmetric KL
    itself, live on both sides, where the source adds two cross-entropies with
    detached targets (its lambda is worth half as much here); the step is divided by
    ||g||_inf exactly, without 1e-6; an L-infinity projection is on offer.

    Args:
        init: standard deviation of the start, in units of the normalised embedding.
        ascent: steps, step size and radius, in the same units.

    """

    logs: ClassVar = ("rms", "refused")

    init: float
    ascent: Ascent

    def scaled(self, factor: float) -> "SiFT":
        """The same with the ascent's ``gradient_scale`` changed."""
        return replace(self, ascent=self.ascent.scaled(factor))

    def __call__(self, view: View) -> Penalty:
        """Perturb and compare."""
        base = normalise_embeddings(view.embedded.detach())
        start = ("clipped_normal", self.init)
        return adversarial_penalty(view, base, start, self.ascent)
