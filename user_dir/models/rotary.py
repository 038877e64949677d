"""ModernBERT's encoder: rotary positions, and attention to neighbours in most layers.

Sources: ModernBERT (arXiv 2412.13663), section 2, with the configuration of the
published weights; rotary positions from RoFormer (arXiv 2104.09864), section 3.2.
"""

import argparse
from typing import Any

import torch
from fairseq import utils
from fairseq.modules import FairseqDropout, LayerDropModuleList
from torch import Tensor, nn

from .neighbours import attention_of
from .packed import Packing, Stack


class _Rotate(torch.autograd.Function):
    """Turn pairs of channels, half a head apart, by an angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Shape (N, H, D), with angles of shape (N, 1, D / 2)."""
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """By minus the angle."""
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """In fp32, as published models were trained, whatever the type of ``x``."""
    out = torch.empty_like(x, dtype=cos.dtype, memory_format=torch.contiguous_format)
    (a, b), (left, right) = x.to(cos.dtype).chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=left).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=right).addcmul_(a, sin)
    return out.to(x.dtype)


class Batch:
    """What all layers share about one batch.

    Args:
        packing: of its tokens.
        width: D, channels of a head.

    """

    def __init__(self, packing: Packing, width: int) -> None:
        self.packing, self.width = packing, width
        self._angles: dict[float, tuple[Tensor, Tensor]] = {}
        self._attention: dict[int | None, Any] = {}

    def rotated(self, x: Tensor, theta: float, first: bool = False) -> Tensor:
        """Heads of packed tokens by their positions; of ``first`` tokens alone, too.

        Args:
            x: shape (N, H, D), or (B, H, D) of first tokens.
            theta: base of the wave lengths.
            first: which it is.

        """
        if theta not in self._angles:
            self._angles[theta] = self._table(theta)
        angles = self._angles[theta]
        if first:
            cos, sin = (self.packing.first(a.flatten(1)).unsqueeze(1) for a in angles)
        else:
            cos, sin = angles
        found: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
        return found

    def _table(self, theta: float) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each token's angles, shape (N, 1, D / 2)."""
        padding = self.packing.padding
        channels = torch.arange(0, self.width, 2, device=padding.device).float()
        speeds = 1.0 / (theta ** (channels / self.width))
        steps = torch.arange(padding.size(1), device=padding.device).float()
        angles = steps[:, None] * speeds
        spread = angles.expand(len(padding), -1, -1)
        packed = self.packing.pack(spread).unsqueeze(1)
        return packed.cos(), packed.sin()

    def attention(self, reach: int | None) -> Any:
        """See :func:`.neighbours.attention_of`."""
        if reach not in self._attention:
            self._attention[reach] = attention_of(self.packing, reach)
        return self._attention[reach]


class RotaryAttention(nn.Module):
    """Attention whose queries and keys are turned by their positions.

    Args:
        width: C.
        heads: H.
        bias: whether projections have biases.
        theta: base of the wave lengths.
        reach: how many positions away a token looks; None for any.
        dropout: of attention weights, and of what comes out.

    """

    def __init__(
        self,
        width: int,
        heads: int,
        bias: bool,
        theta: float,
        reach: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.heads, self.theta, self.reach = heads, theta, reach
        self.q_proj = nn.Linear(width, width, bias)
        self.k_proj = nn.Linear(width, width, bias)
        self.v_proj = nn.Linear(width, width, bias)
        self.out_proj = nn.Linear(width, width, bias)
        self.dropout_module = FairseqDropout(dropout, type(self).__name__)

    def forward(self, x: Tensor, batch: Batch, first: bool = False) -> Tensor:
        """Packed tokens, shape (N, C); of ``first`` ones alone (B, C) comes out."""
        own = batch.packing.first(x) if first else x

        def turned(projected: Tensor, first: bool = False) -> Tensor:
            by_head = projected.view(len(projected), self.heads, -1)
            return batch.rotated(by_head, self.theta, first).flatten(1)

        mixed = batch.attention(self.reach)(
            turned(self.q_proj(own), first),
            turned(self.k_proj(x)),
            self.v_proj(x),
            self.heads,
            self.dropout_module.p if self.training else 0.0,
        )
        out: Tensor = self.dropout_module(self.out_proj(mixed))
        return out


class RotaryLayer(nn.Module):
    """A pre-norm layer with a gated feed-forward part (GeGLU).

    Args:
        form: the arguments of the model.
        index: of the layer; the first has no norm before its attention, for what it
            gets is normed already.

    """

    def __init__(self, form: argparse.Namespace, index: int) -> None:
        super().__init__()
        width, inner = form.encoder_embed_dim, form.encoder_ffn_embed_dim
        pattern, biases = form.modernbert_pattern, biased(form)
        everywhere = pattern[index % len(pattern)] == "g"
        self.self_attn_layer_norm = norm(form) if index else None
        self.self_attn = RotaryAttention(
            width,
            form.encoder_attention_heads,
            "attention" in biases,
            form.modernbert_global_theta if everywhere else form.modernbert_local_theta,
            None if everywhere else form.modernbert_window // 2,
            form.attention_dropout,
        )
        self.final_layer_norm = norm(form)
        self.activation_fn = utils.get_activation_fn(form.activation_fn)
        self.fc1 = nn.Linear(width, 2 * inner, "mlp" in biases)
        self.fc2 = nn.Linear(inner, width, "mlp" in biases)
        self.activation_dropout_module = FairseqDropout(
            form.activation_dropout, type(self).__name__
        )

    def forward(self, x: Tensor, padding: Tensor, batch: Batch) -> Tensor:
        """Hidden states of shape (T, B, C) and padding, True there, of shape (B, T)."""
        packing = batch.packing
        packed = self.packed(packing.pack(x.transpose(0, 1)), packing, batch)
        return packing.spread(packed).transpose(0, 1)

    def packed(
        self, x: Tensor, packing: Packing, batch: Batch, first: bool = False
    ) -> Tensor:
        """Packed tokens, shape (N, C); of ``first`` ones alone (B, C) comes out."""
        before = self.self_attn_layer_norm
        normed = x if before is None else before(x)
        early = first and self.self_attn.reach is None
        attended = self.self_attn(normed, batch, early)
        if first:  # flash-attn's windows count from the end: queries have to be whole
            x, attended = (
                packing.first(x),
                attended if early else packing.first(attended),
            )
        x = x + attended
        inner, gate = self.fc1(self.final_layer_norm(x)).chunk(2, -1)
        gated = self.activation_dropout_module(self.activation_fn(inner) * gate)
        out: Tensor = x + self.fc2(gated)
        return out


def biased(form: argparse.Namespace) -> list[str]:
    """Which parts of a model have biases."""
    names: list[str] = form.modernbert_biases.split(",")
    return names


def norm(form: argparse.Namespace) -> nn.LayerNorm:
    """A LayerNorm of the model's form."""
    width, eps = form.encoder_embed_dim, form.layer_norm_eps
    return nn.LayerNorm(width, eps, bias="norm" in biased(form))


class RotaryEncoder(Stack):
    """Embeds tokens and norms them, then layers that know positions by angles.

    Args:
        form: the arguments of the model.
        dictionary: of its tokens.
        words: their embeddings.

    """

    def __init__(self, form: argparse.Namespace, dictionary: Any, words: Any) -> None:
        super().__init__(dictionary)
        self.padding_idx = words.padding_idx
        self.head_width = form.encoder_embed_dim // form.encoder_attention_heads
        self.embed_tokens = words
        self.layernorm_embedding = norm(form)
        self.dropout_module = FairseqDropout(form.dropout, type(self).__name__)
        layers = [RotaryLayer(form, index) for index in range(form.encoder_layers)]
        drops = form.encoder_layerdrop > 0
        self.layers: nn.ModuleList = (
            LayerDropModuleList(form.encoder_layerdrop, layers)
            if drops
            else nn.ModuleList(layers)
        )
        self.layer_norm = norm(form)

    def forward_embedding(
        self, src_tokens: Tensor, token_embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What enters the first layer, and the word embeddings."""
        embedded = token_embedding
        if embedded is None:
            embedded = self.embed_tokens(src_tokens)
        return self.dropout_module(self.layernorm_embedding(embedded)), embedded

    def shared(self, packing: Packing) -> tuple[Batch]:
        """Angles and attention of this batch."""
        return (Batch(packing, self.head_width),)


class ModernbertHead(nn.Module):
    """The classification head of ModernBERT's family, on pooled hidden states.

    Args:
        form: the arguments of the model.
        outputs: number of classes.

    """

    def __init__(self, form: argparse.Namespace, outputs: int) -> None:
        super().__init__()
        width = form.encoder_embed_dim
        self.dense = nn.Linear(width, width, "head" in biased(form))
        self.activation_fn = utils.get_activation_fn(form.pooler_activation_fn)
        self.layer_norm = norm(form)
        self.dropout = nn.Dropout(form.pooler_dropout)
        self.out_proj = nn.Linear(width, outputs)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits, from shape (B, C)."""
        hidden = self.layer_norm(self.activation_fn(self.dense(pooled)))
        logits: Tensor = self.out_proj(self.dropout(hidden))
        return logits


def pool(features: Tensor, real: Tensor, how: str) -> Tensor:
    """The first position of each sentence, or the mean of its tokens, shape (B, C).

    Args:
        features: of the last layer, shape (B, T, C).
        real: False at padding, shape (B, T).
        how: ``cls`` or ``mean``.

    """
    if how == "cls":
        return features[:, 0]
    weights = real.unsqueeze(-1).to(features.dtype)
    return (features * weights).sum(1) / weights.sum(1)
