"""The second sentence of a pair, told from the first as BERT was taught to.

BERT adds an embedding of type 0 to every token of the first sentence and one of type 1
to those of the second. Type 0 is the same for every token of a single sentence, so
imported models carry it in their positions; what type 1 adds to it is kept here.
"""

from typing import Any

import torch
from fairseq.modules import LearnedPositionalEmbedding
from torch import Tensor, nn


class PairedPositions(LearnedPositionalEmbedding):
    """fairseq's learned positions; after the first ``</s>``, ``second`` is added."""

    second: nn.Parameter
    end: int

    def forward(
        self,
        input: Tensor,
        incremental_state: Any = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Embeddings of shape (B, T, C) for token ids of shape (B, T)."""
        found: Tensor = super().forward(input, incremental_state, positions)
        ends = input.eq(self.end)
        later = ends.cumsum(1).gt(ends) & input.ne(self.padding_idx)
        # In training it always takes part, so that every worker has its gradient; a
        # GPU is not asked, it would have to wait.
        if not self.training and later.device.type == "cpu" and not bool(later.any()):
            return found
        return torch.addcmul(found, later.unsqueeze(-1).to(found.dtype), self.second)


def add_segments(encoder: Any) -> None:
    """Let an encoder's positions tell a pair's sentences apart; at first by nothing."""
    positions = encoder.embed_positions
    positions.__class__ = PairedPositions
    positions.second = nn.Parameter(torch.zeros(positions.embedding_dim))
    positions.end = encoder.dictionary.eos()
