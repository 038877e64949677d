"""Several data sets as one, each batch from one of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from fairseq.data import FairseqDataset, data_utils

from .dataset import SentenceDataset


class Mixture(FairseqDataset):
    """Batches of one task at a time, as often as its share of the mixture.

    Source: MT-DNN (arXiv 1901.11504), Algorithm 1: all tasks' mini-batches are merged
    and shuffled, which fairseq does with the batches of any data set.

    Args:
        parts: data sets by task; their samples get the task's name as ``head``.
        shares: examples of each in an epoch; None takes every one, in their own order.
        seed: of what is drawn; with ``shares``.

    """

    def __init__(
        self,
        parts: Mapping[str, SentenceDataset],
        shares: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.names, self.parts = list(parts), list(parts.values())
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.sizes = np.concatenate([part.sizes for part in self.parts])
        self.shares, self.seed, self.epoch = shares, seed, 1

    def _place(self, index: int) -> tuple[int, int]:
        part = int(np.searchsorted(self.starts, index, "right")) - 1
        return part, index - int(self.starts[part])

    def __getitem__(self, index: int) -> tuple[int, dict[str, Any]]:
        part, inside = self._place(index)
        return part, self.parts[part][inside]

    def __len__(self) -> int:
        return len(self.sizes)

    def collater(self, samples: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
        """As the task's own; all samples are of one task."""
        if not samples:
            return {}
        part = samples[0][0]
        batch = self.parts[part].collater([sample for _, sample in samples])
        return batch | {"head": self.names[part]}

    def num_tokens(self, index: int) -> int:
        """Tokens of one sentence, special ones included."""
        return int(self.sizes[index])

    def size(self, index: int) -> int:
        """Tokens of one sentence, special ones included."""
        return int(self.sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """Task after task; in training a new draw each epoch."""
        orders = []
        for place, (name, part) in enumerate(zip(self.names, self.parts, strict=True)):
            if self.shares is None:
                order = part.ordered_indices()
            else:
                order = self._drawn(place, len(part), self.shares[name])
            orders.append(order + self.starts[place])
        return np.concatenate(orders)

    def _drawn(self, place: int, size: int, count: int) -> np.ndarray:
        """Whole passes over a task and, for the rest, as many as are wanted."""
        rng = np.random.default_rng((self.seed, self.epoch, place))
        passes = [rng.permutation(size) for _ in range(-(-count // size))]
        return np.concatenate(passes)[:count]

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> Any:
        """Batches of one task each, no example left out."""
        which = np.searchsorted(self.starts, indices, "right") - 1
        batches: list[Any] = []
        for place in range(len(self.parts)):
            own = indices[which == place]
            batches += data_utils.batch_by_size(
                own,
                self.num_tokens,
                self.sizes[own],
                max_tokens=max_tokens,
                max_sentences=max_sentences,
                required_batch_size_multiple=1,
            )
        return batches

    def set_epoch(self, epoch: int) -> None:
        """Called by fairseq before the batches of an epoch are made."""
        self.epoch = epoch
        for part in self.parts:
            part.set_epoch(epoch)

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Training batches are made anew each epoch."""
        return self.shares is None


def shares(sizes: Mapping[str, int], temperature: float) -> dict[str, int]:
    """Examples of each task in an epoch of as many as there are in all.

    Args:
        sizes: examples of each task.
        temperature: T >= 1; a task's share is proportional to size ** (1 / T).

    """
    weights = {name: size ** (1 / temperature) for name, size in sizes.items()}
    total, everything = sum(weights.values()), sum(sizes.values())
    return {n: max(1, round(everything * w / total)) for n, w in weights.items()}
