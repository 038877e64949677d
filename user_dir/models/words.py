"""A classification head that reads words, not the sentence alone."""

from argparse import Namespace

import torch
from fairseq import utils
from torch import Tensor, nn


class WordsHead(nn.Module):
    """The first position beside the mean of each word's tokens, then as RoBERTa's head.

    Source: SuperGLUE (arXiv 1905.00537), its BERT baseline for WiC: the vectors of
    [CLS] and of both words, put together.
    Deviations: a word is the mean of its tokens, not the first; a hidden layer.

    Args:
        form: of the model, as RoBERTa's arguments have it.
        outputs: number of classes.
        words: how many there are.

    """

    def __init__(self, form: Namespace, outputs: int, words: int = 2) -> None:
        super().__init__()
        width, self.words = form.encoder_embed_dim, words
        self.dense = nn.Linear((1 + words) * width, width)
        self.activation_fn = utils.get_activation_fn(form.pooler_activation_fn)
        self.dropout = nn.Dropout(form.pooler_dropout)
        self.out_proj = nn.Linear(width, outputs)

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        """Logits.

        Args:
            features: of the last layer, shape (B, T, C).
            words: which word each token is in, counted from 1; 0 for none, (B, T).

        """
        parts = [features[:, 0]]
        for word in range(1, self.words + 1):
            inside = words.eq(word).unsqueeze(-1).to(features.dtype)
            parts.append((features * inside).sum(1) / inside.sum(1))
        hidden = self.dense(self.dropout(torch.cat(parts, -1)))
        found: Tensor = self.out_proj(self.dropout(self.activation_fn(hidden)))
        return found
