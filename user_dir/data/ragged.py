"""Tokenised rows: sequences of ids end to end in one array, on disk or in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Ragged:
    """Sequences of ids end to end in one array.

    Args:
        ids: shape (total,).
        ends: where each sequence ends, shape (N,).
        rows: which of them, in order; None for all.

    """

    def __init__(
        self, ids: np.ndarray, ends: np.ndarray, rows: np.ndarray | None = None
    ) -> None:
        self.ids, self.ends = ids, ends
        self.rows = np.arange(len(ends)) if rows is None else rows

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray | Tensor]) -> "Ragged":
        """Sequences in memory."""
        arrays = [np.asarray(sequence, np.int32) for sequence in sequences]
        lengths = [len(array) for array in arrays]
        return cls(np.concatenate(arrays), np.cumsum(lengths, dtype=np.int64))

    def __getstate__(self) -> dict[str, Any]:
        """For workers: ids that are mapped go by the name of their file."""
        return vars(self) | {"ids": _file_of(self.ids) or np.asarray(self.ids)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if isinstance(self.ids, Path):
            self.ids = np.memmap(self.ids, np.int32, mode="r")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        row = self.rows[index]
        start = self.ends[row - 1] if row else 0
        return torch.from_numpy(self.ids[start : self.ends[row]].astype(np.int64))

    @property
    def sizes(self) -> np.ndarray:
        """Length of each sequence."""
        return np.diff(self.ends, prepend=0)[self.rows]

    def keys(self) -> Iterator[bytes]:
        """Of each sequence, bytes that only equal ones have."""
        ids, ends = np.asarray(self.ids), self.ends[self.rows]
        for start, end in zip(ends - self.sizes, ends, strict=True):
            yield ids[start:end].tobytes()

    def take(self, rows: np.ndarray) -> "Ragged":
        """Some of them, in the order given."""
        return Ragged(self.ids, self.ends, self.rows[rows])


def _file_of(ids: np.ndarray) -> Path | None:
    """What ids are mapped from, if that can be found again."""
    if not isinstance(ids, np.memmap) or ids.filename is None:
        return None
    path = Path(ids.filename)
    return path if path.is_file() and path.stat().st_size == ids.nbytes else None


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows of one text each, or of a text and what is made of it.

    Args:
        sides: ids of N texts and, for summarization, of their N summaries.
        targets: class indices (int64) or scores (float64), shape (N,); which of L
            labels hold (bool), shape (N, L); shape (N, 0) where the summaries are the
            targets.
        truncated: how many texts of each side were cut to the maximum length.
        groups: index of the group that each row is scored in, shape (N,), or None.
        names: of the groups.
        remarks: on the data as they were read, each the file, empty for the one that
            all are of, and what is said after its name.

    """

    sides: tuple[Ragged, ...]
    targets: np.ndarray
    truncated: tuple[int, ...]
    groups: np.ndarray | None = None
    names: tuple[str, ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def tokens(self) -> Ragged:
        """What the model reads of each row."""
        return self.sides[0]

    def take(self, rows: np.ndarray) -> "Encoded":
        """Some of the rows, in the order given."""
        sides = tuple(side.take(rows) for side in self.sides)
        groups = None if self.groups is None else self.groups[rows]
        return Encoded(sides, self.targets[rows], self.truncated, groups, self.names)


def repeated(
    parts: Mapping[str, Sequence[Ragged]], among: Sequence[Ragged]
) -> dict[str, int]:
    """How many rows of each part have the ids, of every side, of one of the others.

    Args:
        parts: sides of the rows that are counted, by name.
        among: sides of the others, which are read once and not kept.

    """
    mine = {name: [*_rows(sides)] for name, sides in parts.items()}
    found = set(chain.from_iterable(mine.values())).intersection(_rows(among))
    return {name: sum(row in found for row in rows) for name, rows in mine.items()}


def _rows(sides: Sequence[Ragged]) -> Iterator[tuple[bytes, ...]]:
    return zip(*(side.keys() for side in sides), strict=True)


def concatenate(parts: Sequence[Encoded]) -> Encoded:
    """Several sets as one, in memory; one alone stays where it is."""
    if len(parts) == 1:
        return parts[0]
    sides = zip(*(part.sides for part in parts), strict=True)
    truncated = zip(*(part.truncated for part in parts), strict=True)
    return Encoded(
        tuple(map(_joined, sides)),
        np.concatenate([part.targets for part in parts]),
        tuple(map(sum, truncated)),
    )


def _joined(parts: Sequence[Ragged]) -> Ragged:
    """One after the other, with those of their sequences that nobody wants."""
    ids = [0, *np.cumsum([len(part.ids) for part in parts])]
    sequences = [0, *np.cumsum([len(part.ends) for part in parts])]
    ends = [part.ends + start for part, start in zip(parts, ids, strict=False)]
    rows = [part.rows + start for part, start in zip(parts, sequences, strict=False)]
    whole = np.concatenate([part.ids for part in parts])
    return Ragged(whole, np.concatenate(ends), np.concatenate(rows))


def grouped(parts: Mapping[str, Encoded]) -> Encoded:
    """Several sets as one, each of them a group that is scored by itself too."""
    groups = [np.full(len(part), place) for place, part in enumerate(parts.values())]
    whole = concatenate(list(parts.values()))
    return replace(whole, groups=np.concatenate(groups), names=tuple(parts))
