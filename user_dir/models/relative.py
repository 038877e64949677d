"""MPNet's encoder: relative positions add to scores, from one table for all layers.

Sources: MPNet (arXiv 2004.09297), section 3.1, after T5 (arXiv 1910.10683), section
2.1; how distances share buckets is from T5's code, the papers leave it open.
"""

import argparse
import math
from typing import Any

import torch
from fairseq.models.transformer import TransformerConfig
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention
from .packed import OwnEncoder, PackedEncoderLayer, Packing, packed_on_cpu

#: Buckets, and the distance from which all are in the last: transformers' model has
#: these whatever its configuration says.
BUCKETS, FURTHEST = 32, 128


def bucket(distance: Tensor) -> Tensor:
    """Small distances as they are, larger ones by their logarithm.

    Args:
        distance: key position minus query position, integers of any shape.

    Returns:
        Of the same shape, below BUCKETS; keys after the query have the upper half.

    """
    half = BUCKETS // 2
    exact = half // 2
    far = distance.abs()
    # In fp32, as published models were trained: what is cut off depends on it.
    share = torch.log(far.clamp(min=exact).float() / exact) / math.log(FURTHEST / exact)
    large = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, large) + half * distance.gt(0)


class RelativeBias(nn.Module):
    """One number for each bucket of distances and head.

    Args:
        heads: H.

    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BUCKETS, heads)

    def forward(self, steps: int) -> Tensor:
        """What is added to scores of ``steps`` positions, shape (H, T, T)."""
        distance = torch.arange(1 - steps, steps)  # on the CPU: a GPU need not wait
        weight = self.embedding.weight
        each = F.embedding(bucket(distance).to(weight.device), weight)
        # Position i needs T of the 2T - 1 distances, from -i on.
        return each.t().unfold(1, steps, 1).flip(1)


class RelativeLayer(PackedEncoderLayer):
    """fairseq's post-norm layer, its attention given to it."""

    def forward(  # type: ignore[override]
        self, x: Tensor, padding: Tensor, attend: Attention
    ) -> Tensor:
        """Hidden states of shape (T, B, C) and padding, True there, of shape (B, T)."""
        packing = packed_on_cpu(padding)
        packed = self.packed(packing.pack(x.transpose(0, 1)), packing, attend)
        return packing.spread(packed).transpose(0, 1)


class RelativeEncoder(OwnEncoder):
    """Embeds tokens, then layers that see relative positions."""

    def __init__(self, args: argparse.Namespace, dictionary: Any, words: Any) -> None:
        super().__init__(args, dictionary, words)
        self.heads = args.encoder_attention_heads
        self.relative = RelativeBias(self.heads)

    def build_encoder_layer(self, cfg: Any) -> nn.Module:
        """In place of fairseq's own."""
        return RelativeLayer(TransformerConfig.from_namespace(cfg))

    def packing(self, padding: Tensor) -> Packing:
        """Of a batch with this padding."""
        return packed_on_cpu(padding)

    def shared(self, packing: Packing) -> tuple[Attention]:
        """Attention of this batch."""
        return (packing.attention.adding(self.heads, self.relative),)
