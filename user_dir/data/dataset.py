"""Tokenised sentences as a fairseq data set."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset

from .forms import ONE_ROW, Form
from .ragged import Encoded, Ragged


class EveryExample:
    """Put before a fairseq data set's class: batches that leave nothing out."""

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> Any:
        """Every example in a batch.

        fairseq asks for batches of a multiple of 8 by default, and then drops the last
        one when it is not: in evaluation the longest.
        """
        batches: Any = super()
        return batches.batch_by_size(indices, max_tokens, max_sentences, 1)


class SentenceDataset(EveryExample, FairseqDataset):
    """Sentences with one target each.

    Args:
        encoded: ids and targets.
        dictionary: for the padding id.
        decoder_input: also give ``prev_output_tokens``, as BART needs.
        shuffle_seed: reshuffle every epoch by this seed; None sorts by length, which
            pads least and suits evaluation.
        recorded: tell the criterion that every output is wanted.
        pairs: sentences are minimal pairs, side by side, the acceptable one first.
        form: what an example's tokens are to the model.

    """

    def __init__(
        self,
        encoded: Encoded,
        dictionary: Dictionary,
        decoder_input: bool = False,
        shuffle_seed: int | None = None,
        recorded: bool = False,
        pairs: bool = False,
        form: Form = ONE_ROW,
    ) -> None:
        self.encoded, self.form = encoded, form
        self.sizes: np.ndarray = form.sizes(encoded.sides)
        self.pad = dictionary.pad()
        self.decoder_input = decoder_input
        self.shuffle_seed = shuffle_seed
        self.recorded, self.pairs = recorded, pairs
        self.epoch = 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "id": int(index),
            "tokens": self.form.item(self.encoded.sides, index),
            "target": self.encoded.targets[index],
        }

    def __len__(self) -> int:
        return len(self.sizes)

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad to the longest; empty for no samples."""
        if not samples:
            return {}
        tokens = [sample["tokens"] for sample in samples]
        net_input = self.form.padded(tokens, self.pad, self.decoder_input)
        ids = [sample["id"] for sample in samples]
        return {
            "id": torch.tensor(ids),
            "net_input": net_input,
            "target": torch.from_numpy(np.array([s["target"] for s in samples])),
            "nsentences": len(samples),
            "ntokens": int(net_input["src_lengths"].sum()),
            "total": len(self),
            "recorded": self.recorded,
            "pairs": self.pairs,
            **self._groups(ids),
        }

    def _groups(self, ids: list[int]) -> dict[str, Any]:
        """Of each sentence, its group; and how many there are."""
        if self.encoded.groups is None:
            return {}
        group = torch.from_numpy(self.encoded.groups[ids])
        return {"group": group, "groups": len(self.encoded.names)}

    @property
    def inputs(self) -> Sequence[Ragged]:
        """What the model reads of each sentence."""
        return self.encoded.sides

    @property
    def rows(self) -> int:
        """Rows of tokens that a sentence has; more than one in multiple choice."""
        return self.form.rows

    def num_tokens(self, index: int) -> int:
        """Tokens of one sentence, special ones included, each row as its longest."""
        return int(self.sizes[index]) * self.rows

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """The same of many sentences."""
        lengths: np.ndarray = self.sizes[indices]
        return lengths * self.rows

    def size(self, index: int) -> int:
        """Tokens of one sentence, special ones included."""
        return int(self.sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """A new order each epoch in training; by length otherwise."""
        if self.shuffle_seed is None:
            return np.argsort(self.sizes, kind="stable")
        rng = np.random.default_rng((self.shuffle_seed, self.epoch))
        return rng.permutation(len(self))

    def set_epoch(self, epoch: int) -> None:
        """Called by fairseq before the batches of an epoch are made."""
        self.epoch = epoch

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Training batches are made anew each epoch."""
        return self.shuffle_seed is None
