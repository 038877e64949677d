"""DeBERTa's encoder: attention to content and to relative position, apart.

Sources: DeBERTa (arXiv 2006.03654), eq. 4, and DeBERTaV3 (arXiv 2111.09543) with the
code that trained the published weights, where the papers leave the form open.
"""

import argparse
import math
from dataclasses import dataclass
from typing import Any

import torch
from fairseq import utils
from fairseq.models.transformer import TransformerConfig
from fairseq.modules import FairseqDropout, LayerNorm
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from .attention import attend
from .packed import OwnEncoder, Packing, after_attention, packed_on_cpu


def bucket(distance: Tensor, buckets: int, furthest: int) -> Tensor:
    """Small distances as they are, larger ones by their logarithm.

    Args:
        distance: query position minus key position, integers of any shape.
        buckets: number of them on both sides together; 0 for none.
        furthest: the distance that reaches the last one.

    Returns:
        Integers of the same shape, odd in ``distance``; beyond ``furthest`` they go on.

    """
    middle = buckets // 2
    far = distance.abs()
    if buckets < 1 or furthest < 2 or not bool((far > middle).any()):
        return distance
    # In fp32, as published models were trained: ceil at a boundary depends on it.
    share = torch.log(far.clamp(min=middle) / middle) / math.log(
        (furthest - 1) / middle
    )
    logarithmic = torch.ceil(share * (middle - 1)) + middle
    return torch.where(far <= middle, distance, (logarithmic * distance.sign()).long())


@dataclass(frozen=True)
class Relative:
    """Embeddings of the distances in a batch.

    Args:
        table: one row for each distance bucket that occurs, shape (R, C).
        rows: row of each distance -(T - 1) to T - 1, query minus key, shape (2T - 1,).

    """

    table: Tensor
    rows: Tensor


class RelativePositions(nn.Module):
    """The embeddings of relative positions that all layers share.

    Args:
        width: C.
        buckets: on both sides together; 0 for one embedding per distance.
        furthest: distance of the last embedding, or of the last bucket.
        norm: whether a LayerNorm follows.

    """

    def __init__(self, width: int, buckets: int, furthest: int, norm: bool) -> None:
        super().__init__()
        self.buckets, self.furthest = buckets, furthest
        self.span = buckets or furthest
        self.embedding = nn.Embedding(2 * self.span, width)
        self.layer_norm = LayerNorm(width) if norm else None

    def forward(self, steps: int) -> Relative:
        """What sentences of ``steps`` positions need."""
        weight = self.embedding.weight
        distance = torch.arange(1 - steps, steps)  # on the CPU: a GPU need not wait
        rows = bucket(distance, self.buckets, self.furthest) + self.span
        rows = rows.clamp(0, 2 * self.span - 1)
        first, last = int(rows[0]), int(rows[-1])
        table = weight[first : last + 1]
        return Relative(
            table if self.layer_norm is None else self.layer_norm(table),
            (rows - first).to(weight.device),
        )


def by_distance(own: Tensor, distances: Tensor) -> Tensor:
    """Products of positions with distances, by own and other position.

    Each own position needs T of the 2T - 1 distances, the next one starting one
    earlier: a view of the products. Long sentences go in blocks of own positions,
    which leave out most of what is not needed.

    Args:
        own: shape (B, H, T, D).
        distances: shape (H, D, 2T - 1); column c is the distance c - (T - 1), other
            position minus own.

    Returns:
        Shape (B, H, T, T).

    """
    steps = own.size(2)
    size = steps if steps < _BLOCKED else -(-steps // _BLOCKS)
    blocks = []
    for start in range(0, steps, size):
        rows = own[:, :, start : start + size]
        count = rows.size(2)
        columns = distances[..., steps - start - count : 2 * steps - 1 - start]
        blocks.append(_skewed(rows, columns, steps))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)


#: Sentences from this length on go in so many blocks.
_BLOCKED, _BLOCKS = 256, 4


def _skewed(rows: Tensor, columns: Tensor, steps: int) -> Tensor:
    """One block of own positions, shape (B, H, R, D), as (B, H, R, T)."""
    batch, heads, count, _ = rows.shape
    # One product per head, the batch folded into its rows.
    scores = rows.transpose(0, 1).flatten(1, 2) @ columns
    width = columns.size(-1)
    strides = (count * width, batch * count * width, width - 1, 1)
    return scores.as_strided((batch, heads, count, steps), strides, count - 1)


class DisentangledAttention(nn.Module):
    """Content to content, content to position and position to content.

    Deviations: the paper's eq. 4 looks up position to content by the distance from key
    to query; published weights were trained with that from query to key, as here.

    Args:
        width: C.
        heads: H.
        terms: which of ``c2p`` and ``p2c`` take part.
        shared: whether positions go through the projections of content.
        key_bias: whether keys have a bias; the first version's have none.
        dropout: of attention weights.
        position_dropout: of the embeddings of relative positions.

    """

    def __init__(
        self,
        width: int,
        heads: int,
        terms: list[str],
        shared: bool,
        key_bias: bool,
        dropout: float,
        position_dropout: float,
    ) -> None:
        super().__init__()
        self.heads, self.terms = heads, terms
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=key_bias)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        own = not shared
        if own and "c2p" in terms:
            self.position_k_proj = nn.Linear(width, width, bias=key_bias)
        if own and "p2c" in terms:
            self.position_q_proj = nn.Linear(width, width)
        self.dropout_module = FairseqDropout(dropout, type(self).__name__)
        self.position_dropout = FairseqDropout(position_dropout, type(self).__name__)
        self.scale = 1 / math.sqrt(width // heads * (1 + len(terms)))

    def forward(
        self, x: Tensor, packing: Packing, relative: Relative, first: bool = False
    ) -> Tensor:
        """Packed tokens, shape (N, C); of ``first`` ones alone (B, C) comes out."""
        padding = packing.padding

        def by_head(projection: nn.Module) -> Tensor:
            spread = packing.spread(projection(x))
            return spread.view(*padding.shape, self.heads, -1).transpose(1, 2)

        q, k, v = (by_head(p) for p in (self.q_proj, self.k_proj, self.v_proj))
        mixed = attend(
            q,
            k,
            v,
            self._bias(q, k, padding if packing.padded else None, relative),
            self.scale,
            self.dropout_module.p if self.training else 0.0,
        )
        packed = packing.pack(mixed.transpose(1, 2).flatten(2))
        output: Tensor = self.out_proj(packing.first(packed) if first else packed)
        return output

    def _bias(
        self, q: Tensor, k: Tensor, padding: Tensor | None, relative: Relative
    ) -> Tensor:
        """What positions add to the scaled scores; minus infinity at padding."""
        table = self.position_dropout(relative.table)
        bias = q.new_zeros(())
        if "c2p" in self.terms:
            projection = getattr(self, "position_k_proj", self.k_proj)
            keys = self._positions(projection, table, relative.rows.flip(0))
            bias = bias + by_distance(q, keys)
        if "p2c" in self.terms:
            projection = getattr(self, "position_q_proj", self.q_proj)
            queries = self._positions(projection, table, relative.rows)
            found = by_distance(k, queries)
            bias = bias + found.transpose(2, 3)
        if padding is None:
            return bias
        return bias.masked_fill_(padding[:, None, None, :], -math.inf)

    def _positions(self, projection: nn.Module, table: Tensor, rows: Tensor) -> Tensor:
        """One scaled column for each distance, shape (H, C / H, 2T - 1)."""
        projected: Tensor = projection(table) * self.scale
        return projected[rows].view(len(rows), self.heads, -1).permute(1, 2, 0)


class LocalConvolution(nn.Module):
    """A convolution over neighbours of the input, beside the first layer (version 2).

    Args:
        width: C.
        kernel: positions seen, odd.
        groups: of channels.
        activation: fairseq's name of it.
        dropout: probability.

    """

    def __init__(
        self, width: int, kernel: int, groups: int, activation: str, dropout: float
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
        self.layer_norm = LayerNorm(width)
        self.activation_fn = utils.get_activation_fn(activation)
        self.dropout_module = FairseqDropout(dropout, type(self).__name__)

    def forward(self, x: Tensor, out: Tensor, packing: Packing) -> Tensor:
        """The layer's input, 0 at padding, and output, both of shape (N, C)."""
        seen = self.conv(packing.spread(x).transpose(1, 2)).transpose(1, 2)
        added = self.activation_fn(self.dropout_module(packing.pack(seen)))
        normed: Tensor = self.layer_norm(out + added)
        return normed


class DisentangledLayer(TransformerEncoderLayerBase):
    """A post-norm layer with disentangled attention, no time spent on padding on a CPU.

    Args:
        cfg: fairseq's.
        form: the ``deberta_`` arguments of the model.

    """

    def __init__(self, cfg: TransformerConfig, form: argparse.Namespace) -> None:
        self.form = form
        super().__init__(cfg)
        #: the model's convolution, given to its first layer
        self.conv: LocalConvolution | None = None

    def build_self_attention(self, embed_dim: int, cfg: Any) -> nn.Module:
        """In place of fairseq's own."""
        return DisentangledAttention(
            embed_dim,
            cfg.encoder.attention_heads,
            self.form.deberta_terms.split(","),
            self.form.deberta_share_projections,
            self.form.deberta_key_bias,
            cfg.attention_dropout,
            cfg.dropout,
        )

    def forward(self, x: Tensor, padding: Tensor, relative: Relative) -> Tensor:
        """Hidden states of shape (T, B, C) and padding, True there, of shape (B, T)."""
        packing = packed_on_cpu(padding)
        packed = self.packed(packing.pack(x.transpose(0, 1)), packing, relative)
        return packing.spread(packed).transpose(0, 1)

    def packed(
        self, x: Tensor, packing: Packing, relative: Relative, first: bool = False
    ) -> Tensor:
        """Packed tokens, shape (N, C); of ``first`` ones alone (B, C) comes out."""
        early = first and self.conv is None  # which needs neighbours
        attended = self.self_attn(x, packing, relative, early)
        out = after_attention(self, packing.first(x) if early else x, attended)
        if self.conv is not None:
            out = self.conv(x, out, packing)
        return packing.first(out) if first and not early else out


class DisentangledEncoder(OwnEncoder):
    """Embeds tokens, then layers that see relative positions."""

    def __init__(self, args: argparse.Namespace, dictionary: Any, words: Any) -> None:
        self.form = args
        super().__init__(args, dictionary, words)
        if args.deberta_conv_kernel:
            self.layers[0].conv = LocalConvolution(
                words.embedding_dim,
                args.deberta_conv_kernel,
                args.deberta_conv_groups,
                args.deberta_conv_activation,
                args.dropout,
            )
        self.relative = RelativePositions(
            words.embedding_dim,
            args.deberta_buckets,
            args.deberta_max_distance,
            args.deberta_relative_norm,
        )

    def build_encoder_layer(self, cfg: Any) -> nn.Module:
        """In place of fairseq's own."""
        return DisentangledLayer(TransformerConfig.from_namespace(cfg), self.form)

    def forward_embedding(
        self, src_tokens: Tensor, token_embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What enters the first layer, 0 at padding, and the word embeddings."""
        x, embedded = super().forward_embedding(src_tokens, token_embedding)
        padding = src_tokens.eq(self.padding_idx)
        return x.masked_fill(padding.unsqueeze(-1), 0.0), embedded

    def packing(self, padding: Tensor) -> Packing:
        """Of a batch with this padding."""
        return packed_on_cpu(padding)

    def shared(self, packing: Packing) -> tuple[Relative]:
        """Relative positions of this batch."""
        return (self.relative(packing.padding.size(1)),)
