"""Encoders that spend no time on padding.

Batches of short sentences are half padding. Real tokens are put in one matrix before
the first layer and given their places back after the last. Sorting sentences by length
would avoid padding too, and ruins training on small data.
"""

from functools import cached_property
from typing import Any

import torch
from fairseq.models import FairseqEncoder
from fairseq.models.roberta.model import RobertaEncoder
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerEncoder,
    TransformerEncoderBase,
)
from fairseq.modules import gelu
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, Blocks, Padded, Varlen, packs
from .dropout import use_words


class Packing:
    """A batch as one matrix of its N real tokens.

    Args:
        padding: True at padding, shape (B, T).
        packs: whether to; else N is B * T, and a GPU need not wait to be told.

    """

    def __init__(self, padding: Tensor, packs: bool = True) -> None:
        self.padding, self._packs = padding, packs
        #: whether there may be padding
        self.padded = not packs or bool(padding.any())
        self.real: Tensor | None = None
        if packs and self.padded:
            self.real = (~padding).flatten().nonzero().squeeze(1)

    @cached_property
    def lengths(self) -> Tensor:
        """Of the sentences, shape (B,)."""
        return (~self.padding).sum(1)

    @cached_property
    def starts(self) -> bool:
        """Whether every sentence has its first token at position 0."""
        return not bool(self.padding[:, 0].any())

    def pack(self, x: Tensor) -> Tensor:
        """Shape (B, T, C) to (N, C)."""
        flat = x.flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)

    def spread(self, x: Tensor) -> Tensor:
        """Shape (N, C) to (B, T, C), 0 at padding."""
        if self.real is not None:
            empty = x.new_zeros(self.padding.numel(), x.size(-1))
            x = empty.index_copy_(0, self.real, x)
        return x.view(*self.padding.shape, -1)

    def first(self, x: Tensor) -> Tensor:
        """The first tokens alone, shape (N, C) to (B, C)."""
        if self.real is None:
            return x.view(*self.padding.shape, -1)[:, 0]
        return x.index_select(0, self.lengths.cumsum(0) - self.lengths)

    def spread_first(self, x: Tensor) -> Tensor:
        """Shape (B, C) to (B, T, C), 0 at all other positions."""
        return F.pad(x.unsqueeze(1), (0, 0, 0, self.padding.size(1) - 1))

    @cached_property
    def attention(self) -> Any:
        """Attention within each sentence; see :class:`.attention.Blocks`."""
        if not self._packs:
            return Padded(self.padding)
        kind = Blocks if self.padding.device.type == "cpu" else Varlen
        return kind(self.lengths[self.lengths > 0])

    def through(
        self, layer: nn.Module, x: Tensor, *extra: Any, first: bool = False
    ) -> Tensor:
        """One layer, from packed tokens to packed tokens.

        Args:
            layer: with a method ``packed``; it is called instead, on (T, B, C), where
                somebody hooks or wraps it.
            x: shape (N, C).
            extra: what else the layer takes.
            first: whether first tokens alone come out, shape (B, C).

        """
        hooks = (
            *(layer._forward_hooks, layer._forward_pre_hooks),
            *(layer._backward_hooks, layer._backward_pre_hooks),
        )
        if not any(hooks) and "forward" not in vars(layer):
            return layer.packed(x, self, *extra, first=first)  # type: ignore[operator, no-any-return]
        out = layer(self.spread(x).transpose(0, 1), self.padding, *extra)
        packed = self.pack(out.transpose(0, 1))
        return self.first(packed) if first else packed


def through_layers(
    encoder: Any, x: Tensor, packing: Packing, keep: bool, *extra: Any
) -> tuple[Tensor, list[Tensor]]:
    """All layers of an encoder, and the LayerNorm after the last where it has one.

    Args:
        encoder: with ``layers``, ``layer_norm``, and ``first_only``: whether only the
            first position of each sentence will be read. The last layer then leaves out
            the others, which come out as 0.
        x: what enters the first, shape (B, T, C).
        packing: of the batch.
        keep: whether to return what is between layers.
        extra: what else each layer takes.

    Returns:
        What leaves the last layer, of shape (T, B, C), 0 at padding; of the same shape,
        what enters each layer and leaves the last, or nothing.

    """
    # With layerdrop those of this pass.
    layers = list(getattr(encoder, "passes", encoder.layers))
    first = bool(layers) and encoder.first_only and not keep and packing.starts
    x = packing.pack(x)
    states = [x] if keep else []
    for layer in layers[:-1] if first else layers:
        x = packing.through(layer, x, *extra)
        states += [x] if keep else []
    if first:
        x = packing.through(layers[-1], x, *extra, first=True)
    if encoder.layer_norm is not None:
        x = encoder.layer_norm(x)
        states[-1:] = [x] if keep else []
    if first:
        return packing.spread_first(x).transpose(0, 1), []
    kept = [packing.spread(state).transpose(0, 1) for state in states]
    return kept[-1] if kept else packing.spread(x).transpose(0, 1), kept


def after_attention(
    layer: TransformerEncoderLayerBase, x: Tensor, out: Tensor
) -> Tensor:
    """The rest of a post-norm layer, from its input and its attention's output."""
    x = layer.self_attn_layer_norm(x + layer.dropout_module(out))
    inner = layer.activation_dropout_module(layer.activation_fn(layer.fc1(x)))
    result: Tensor = layer.final_layer_norm(x + layer.dropout_module(layer.fc2(inner)))
    return result


class PackedEncoderLayer(TransformerEncoderLayerBase):
    """Fairseq's post-norm layer on packed tokens.

    Equal to fairseq's own up to rounding; padded positions come out as 0. What this
    form does not cover (pre-norm, an attention mask, most GPUs) goes through fairseq's
    own forward.
    """

    def covers(self, x: Tensor) -> bool:
        """Whether tokens like these are packed."""
        return packs(x) and not self.normalize_before and not self.return_fc

    def forward(
        self,
        x: Tensor,
        encoder_padding_mask: Tensor | None,
        attn_mask: Tensor | None = None,
    ) -> Any:
        """Hidden states of shape (T, B, C) and padding, True there, of shape (B, T)."""
        padding = encoder_padding_mask
        if padding is None or attn_mask is not None or not self.covers(x):
            return super().forward(x, encoder_padding_mask, attn_mask)
        packing = Packing(padding)
        packed = packing.pack(x.transpose(0, 1))
        return packing.spread(self.packed(packed, packing)).transpose(0, 1)

    def packed(
        self,
        x: Tensor,
        packing: Packing,
        attend: Attention | None = None,
        first: bool = False,
    ) -> Tensor:
        """Packed tokens of shape (N, C); of ``first`` ones alone (B, C) comes out.

        With ``attend`` in place of the packing's attention.
        """
        attention = self.self_attn
        own = packing.first(x) if first else x
        mixed = (attend or packing.attention)(
            attention.q_proj(own),
            attention.k_proj(x),
            attention.v_proj(x),
            attention.num_heads,
            attention.dropout_module.p if self.training else 0.0,
        )
        return after_attention(self, own, attention.out_proj(mixed))


class PackedEncoder(TransformerEncoderBase):
    """Fairseq's encoder; tokens are packed once, before its first layer."""

    first_only = False

    def forward_scriptable(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
    ) -> dict[str, list[Any]]:
        """Token ids of shape (B, T); as fairseq's encoder."""
        padding = src_tokens.eq(self.padding_idx)
        layers = self.layers.children()
        covers = [getattr(one, "covers", None) for one in layers]
        probe = self.embed_tokens.weight
        if not all(one and one(probe) for one in covers) or self.layer_norm is not None:
            return super().forward_scriptable(  # type: ignore[no-any-return]
                src_tokens, src_lengths, return_all_hiddens, token_embeddings
            )
        x, embedded = self.forward_embedding(src_tokens, token_embeddings)
        keep, packing = return_all_hiddens, Packing(padding)
        x, states = through_layers(self, x, packing, keep)
        return {
            "encoder_out": [x],
            "encoder_padding_mask": [padding],
            "encoder_embedding": [embedded],
            "encoder_states": states,
            "fc_results": [None for _ in states[1:]],
            "src_tokens": [],
            "src_lengths": [packing.lengths.to(torch.int32).unsqueeze(1)],
        }


def packed_on_cpu(padding: Tensor) -> Packing:
    """On a GPU all positions: no kernel there takes a bias and sentences packed."""
    return Packing(padding, packs=padding.device.type == "cpu")


class Stack(FairseqEncoder):
    """The way of a batch through an encoder of ours, on packed tokens."""

    embed_tokens: Any
    padding_idx: int
    forward_embedding: Any
    first_only = False

    def packing(self, padding: Tensor) -> Packing:
        """Of a batch with this padding."""
        return Packing(padding, packs(self.embed_tokens.weight))

    def shared(self, packing: Packing) -> tuple[Any, ...]:
        """What all layers are given of a batch."""
        return ()

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
    ) -> dict[str, Any]:
        """Token ids of shape (B, T); as fairseq's encoder."""
        padding = src_tokens.eq(self.padding_idx)
        x, _ = self.forward_embedding(src_tokens, token_embeddings)
        packing = self.packing(padding)
        shared = self.shared(packing)
        x, states = through_layers(self, x, packing, return_all_hiddens, *shared)
        return {
            "encoder_out": [x],
            "encoder_padding_mask": [padding],
            "encoder_states": states,
        }


class OwnEncoder(Stack, TransformerEncoder):
    """An encoder whose embeddings or layers are not fairseq's."""

    def build_encoder_layer(self, cfg: Any) -> nn.Module:
        """In place of fairseq's own."""
        return PackedEncoderLayer(TransformerConfig.from_namespace(cfg))


def roberta_around(stack: type[Stack]) -> type[RobertaEncoder]:
    """fairseq's RoBERTa around an encoder of ours; its embeddings may be narrower."""

    class Around(RobertaEncoder):
        def build_embedding(self, rows: int, width: int, padding: int) -> Any:
            narrow = getattr(self.args, "embedding_size", width)
            return super().build_embedding(rows, narrow, padding)

        def build_encoder(self, args: Any, dictionary: Any, embed_tokens: Any) -> Any:
            encoder = stack(args, dictionary, embed_tokens)
            encoder.apply(init_bert_params)
            return encoder

    return Around


def pack(encoder: Any) -> None:
    """Let an encoder of fairseq's or ours be quick; weights and names stay."""
    use_words(encoder)
    # Looped over in training, layers with --encoder-layerdrop are some of them.
    for layer in getattr(encoder, "layers", nn.ModuleList()).children():
        if layer.activation_fn is gelu:
            # Bit for bit the same; fairseq's copies half precision to fp32 and back.
            layer.activation_fn = F.gelu
        if type(layer) is TransformerEncoderLayerBase:
            layer.__class__ = PackedEncoderLayer
            encoder.__class__ = PackedEncoder
