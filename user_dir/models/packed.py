"""Encoder layers that spend no time on padding, for the CPU.

Batches of short sentences are half padding. A CPU takes time for every position; a GPU
takes them at once, and would have to wait to be told which are real. Sorting sentences
by length would avoid padding too, and ruins training on small data.
"""

from typing import Any

from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn
from torch.nn import functional as F


class Packing:
    """A batch as one matrix of tokens: the real ones alone, if it is on the CPU.

    N is the number of real tokens there, and B * T on a GPU.

    Args:
        padding: True at padding, shape (B, T).

    """

    def __init__(self, padding: Tensor) -> None:
        self.shape = padding.shape
        self.real: Tensor | None = None
        #: whether there may be padding; a GPU is not asked, it would have to wait
        self.padded = padding.device.type != "cpu" or bool(padding.any())
        if self.padded and padding.device.type == "cpu":
            self.real = (~padding).flatten().nonzero().squeeze(1)

    def pack(self, x: Tensor) -> Tensor:
        """Shape (B, T, C) to (N, C)."""
        flat = x.flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)

    def spread(self, x: Tensor) -> Tensor:
        """Shape (N, C) to (B, T, C), 0 at padding."""
        if self.real is not None:
            empty = x.new_zeros(self.shape.numel(), x.size(-1))
            x = empty.index_copy(0, self.real, x)
        return x.view(*self.shape, -1)


def after_attention(
    layer: TransformerEncoderLayerBase, x: Tensor, out: Tensor
) -> Tensor:
    """The rest of a post-norm layer, from its input and its attention's output."""
    x = layer.self_attn_layer_norm(x + layer.dropout_module(out))
    inner = layer.activation_dropout_module(layer.activation_fn(layer.fc1(x)))
    result: Tensor = layer.final_layer_norm(x + layer.dropout_module(layer.fc2(inner)))
    return result


class PackedEncoderLayer(TransformerEncoderLayerBase):
    """Fairseq's post-norm layer, its real tokens packed into one matrix.

    Equal to fairseq's own up to rounding; padded positions come out as 0. Attention
    alone sees padding, and masks it. Whatever this form does not cover (a GPU,
    pre-norm, an attention mask, no padding) goes through fairseq's own forward.
    """

    def forward(
        self,
        x: Tensor,
        encoder_padding_mask: Tensor | None,
        attn_mask: Tensor | None = None,
    ) -> Any:
        """Hidden states of shape (T, B, C) and padding, True there, of shape (B, T)."""
        padding = encoder_padding_mask
        other = attn_mask is not None or self.normalize_before or self.return_fc
        if padding is None or other or x.device.type != "cpu":
            return super().forward(x, encoder_padding_mask, attn_mask)
        packing = Packing(padding)
        packed = packing.pack(x.transpose(0, 1))
        attended = self._attend(packed, padding, packing)
        return packing.spread(after_attention(self, packed, attended)).transpose(0, 1)

    def _attend(self, x: Tensor, padding: Tensor, packing: Packing) -> Tensor:
        attention = self.self_attn

        def by_head(projection: nn.Module) -> Tensor:
            spread = packing.spread(projection(x))
            return spread.view(*padding.shape, attention.num_heads, -1).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            by_head(attention.q_proj),
            by_head(attention.k_proj),
            by_head(attention.v_proj),
            attn_mask=~padding[:, None, None, :],
            dropout_p=attention.dropout_module.p if self.training else 0.0,
        )
        output: Tensor = attention.out_proj(
            packing.pack(mixed.transpose(1, 2).flatten(2))
        )
        return output


def pack(encoder: nn.Module) -> None:
    """Let fairseq's own layers skip padding; their weights and names stay."""
    for layer in getattr(encoder, "layers", ()):
        if type(layer) is TransformerEncoderLayerBase:
            layer.__class__ = PackedEncoderLayer
