"""Encoder layers that spend no time on padding, for the CPU.

Batches of short sentences are half padding. A GPU computes it for nothing; a CPU pays
for every position. Sorting sentences by length would avoid it too, and ruins training
on small data.
"""

from typing import Any

import torch
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn
from torch.nn import functional as F


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
        by_sentence = x.transpose(0, 1).reshape(-1, x.size(-1))
        real = (~padding).flatten().nonzero().squeeze(1)
        packed = self._packed(by_sentence.index_select(0, real), padding, real)
        spread = torch.zeros_like(by_sentence).index_copy(0, real, packed)
        padded: Tensor = spread.view(*padding.shape, -1).transpose(0, 1)
        return padded

    def _packed(self, x: Tensor, padding: Tensor, real: Tensor) -> Tensor:
        attended = self.dropout_module(self._attend(x, padding, real))
        x = self.self_attn_layer_norm(x + attended)
        inner = self.activation_dropout_module(self.activation_fn(self.fc1(x)))
        out: Tensor = self.final_layer_norm(x + self.dropout_module(self.fc2(inner)))
        return out

    def _attend(self, x: Tensor, padding: Tensor, real: Tensor) -> Tensor:
        attention = self.self_attn
        batch, steps = padding.shape

        def heads(projection: nn.Module) -> Tensor:
            projected: Tensor = projection(x)
            spread = projected.new_zeros(batch * steps, projected.size(-1))
            spread = spread.index_copy(0, real, projected)
            return spread.view(batch, steps, attention.num_heads, -1).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            heads(attention.q_proj),
            heads(attention.k_proj),
            heads(attention.v_proj),
            attn_mask=~padding[:, None, None, :],
            dropout_p=attention.dropout_module.p if self.training else 0.0,
        )
        flat = mixed.transpose(1, 2).reshape(batch * steps, -1)
        output: Tensor = attention.out_proj(flat.index_select(0, real))
        return output


def pack(encoder: nn.Module) -> None:
    """Let an encoder's layers skip padding; their weights and names stay."""
    for layer in getattr(encoder, "layers", ()):
        if isinstance(layer, TransformerEncoderLayerBase):
            layer.__class__ = PackedEncoderLayer
