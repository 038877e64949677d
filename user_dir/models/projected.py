"""Encoders whose embeddings are narrower than their layers: ELECTRA's and ALBERT's.

Sources: ELECTRA (arXiv 2003.10555), section 3.3, small models; ALBERT (arXiv
1909.11942), section 3.1: factorised embeddings, and layers that share parameters.
"""

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from .packed import OwnEncoder


class ProjectedEncoder(OwnEncoder):
    """Embeds tokens, normalises, and projects them to the width of the layers."""

    def __init__(self, args: argparse.Namespace, dictionary: Any, words: Any) -> None:
        super().__init__(args, dictionary, words)
        self.projection = nn.Linear(words.embedding_dim, args.encoder_embed_dim)

    def forward_embedding(
        self, src_tokens: Tensor, token_embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What enters the first layer, and the word embeddings."""
        x, embedded = super().forward_embedding(src_tokens, token_embedding)
        # Under autocast, what is added to from layer to layer stays in fp32.
        return self.projection(x).to(x.dtype), embedded


class SharedEncoder(ProjectedEncoder):
    """The same layers several times: one for all, or one for each of several groups."""

    def __init__(self, args: argparse.Namespace, dictionary: Any, words: Any) -> None:
        super().__init__(args, dictionary, words)
        groups = len(self.layers)
        count = args.encoder_passes if groups else 0
        # As transformers rounds where groups are no equal shares.
        self.order = [int(i / (count / groups)) for i in range(count)]

    @property
    def passes(self) -> list[nn.Module]:
        """The layers in the order in which a token passes them, those of this pass."""
        kept = torch.ones(len(self.order), dtype=torch.bool)
        if self.training and self.encoder_layerdrop > 0:
            kept = torch.rand(len(self.order)) >= self.encoder_layerdrop
        pairs = zip(self.order, kept.tolist(), strict=True)
        return [self.layers[index] for index, chosen in pairs if chosen]
