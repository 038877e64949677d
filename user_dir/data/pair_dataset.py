"""Tokenised articles and summaries, kept on disk and read as they are needed."""

import contextlib
import hashlib
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary, LanguagePairDataset
from torch import Tensor

from ..errors import UserError
from ..files import sha256
from .cache import CACHE_FOLDER
from .dataset import EveryExample
from .pairs import Pair
from .tokenizing import SentenceTokenizer

logger = logging.getLogger(__name__)

#: Version of the stored form; articles tokenised at a time.
_VERSION, _CHUNK = 1, 1000


class Ragged:
    """Sequences of ids end to end in one array, on disk or in memory.

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

    def take(self, rows: np.ndarray) -> "Ragged":
        """Some of them."""
        return Ragged(self.ids, self.ends, self.rows[rows])


@dataclass(frozen=True)
class EncodedPairs:
    """Both sides, and how many of each were cut to the maximum length."""

    source: Ragged
    target: Ragged
    truncated: tuple[int, int]

    def take(self, rows: np.ndarray) -> "EncodedPairs":
        """Some of the pairs."""
        return EncodedPairs(
            self.source.take(rows), self.target.take(rows), self.truncated
        )


def encode_pairs(
    files: Sequence[Path],
    read: Callable[[], Iterable[Pair]],
    description: str,
    tokenizers: tuple[SentenceTokenizer, SentenceTokenizer],
    cache_dir: Path | None,
) -> EncodedPairs:
    """Read, check and tokenise a split, or take the result of an earlier time.

    Args:
        files: of the split, for the cache's key and place.
        read: gives their pairs.
        description: tells this reading from any other.
        tokenizers: of articles and of summaries.
        cache_dir: where results are kept; None for a folder beside the data.

    Raises:
        UserError: a file is wrong. Nothing is cached then.

    """
    first = files[0]
    sides = [(t.digest, t.max_length) for t in tokenizers]
    known = [(str(path), _fingerprint(path)) for path in files]
    key = hashlib.sha256(repr((_VERSION, known, description, sides)).encode())
    folder = cache_dir or first.parent / CACHE_FOLDER
    cached = folder / f"{first.stem}-{key.hexdigest()[:16]}"
    encoded = _load(cached) or _encode(read(), tokenizers, cached)
    for what, count, tokenizer in zip(
        ("articles", "summaries"), encoded.truncated, tokenizers, strict=True
    ):
        if count:
            logger.warning(
                "%s: %d of %d %s cut to %d tokens",
                *(first, count, len(encoded.source), what, tokenizer.max_length),
            )
    return encoded


def _fingerprint(path: Path) -> str:
    """Of a file its content, of a folder names, sizes and times."""
    if path.is_file():
        return sha256(path)
    entries = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in path.iterdir()]
    return hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()


class _Writer:
    """Appends sequences to a file, and remembers where each ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")
        self.lengths: list[int] = []

    def add(self, sequences: Iterable[np.ndarray]) -> None:
        for ids in sequences:
            self.file.write(ids.astype(np.int32).tobytes())
            self.lengths.append(len(ids))

    def close(self) -> None:
        self.file.close()
        ends = np.cumsum(np.array(self.lengths, np.int64))
        np.save(self.path.with_suffix(".ends.npy"), ends)


def _ragged(path: Path) -> Ragged:
    ends = np.load(path.with_suffix(".ends.npy"), allow_pickle=False)
    ids = np.memmap(path, np.int32, mode="r")
    if len(ids) != ends[-1]:
        raise ValueError("cut off")
    return Ragged(ids, ends)


def _encode(
    pairs: Iterable[Pair],
    tokenizers: tuple[SentenceTokenizer, SentenceTokenizer],
    cached: Path,
) -> EncodedPairs:
    """Tokenise a chunk at a time into a scratch folder, then move it into place."""
    parent = _writable(cached.parent)
    scratch = Path(tempfile.mkdtemp(prefix=f".{cached.name}-", dir=parent))
    truncated = [0, 0]
    try:
        writers = [_Writer(scratch / side) for side in ("source.bin", "target.bin")]
        left = iter(pairs)
        while chunk := list(itertools.islice(left, _CHUNK)):
            texts = [[(p.source,) for p in chunk], [(p.target,) for p in chunk]]
            for side in (0, 1):
                ids, cut = tokenizers[side].encode(texts[side])
                writers[side].add(ids)
                truncated[side] += cut
        for writer in writers:
            writer.close()
        np.save(scratch / "truncated.npy", np.array(truncated))
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    target = cached if parent == cached.parent else parent / cached.name
    if _load(target) is None:  # else another worker was faster
        shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(OSError):
            scratch.rename(target)
    shutil.rmtree(scratch, ignore_errors=True)
    loaded = _load(target)
    if loaded is None:
        raise UserError(f"{target} cannot be read back; is the disk full?")
    return loaded


def _writable(folder: Path) -> Path:
    """The folder, or one for temporary files where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
        raise PermissionError(13, "Permission denied")
    except OSError as error:
        logger.warning(
            "cannot cache in %s (%s); name a folder with --steady-cache-dir",
            *(folder, error.strerror),
        )
        return Path(tempfile.mkdtemp(prefix="steady-"))


def _load(folder: Path) -> EncodedPairs | None:
    """A cache entry, or None when there is none or it is damaged."""
    try:
        source, target = (_ragged(folder / f"{s}.bin") for s in ("source", "target"))
        cut = np.load(folder / "truncated.npy", allow_pickle=False)
        return EncodedPairs(source, target, (int(cut[0]), int(cut[1])))
    except (OSError, ValueError, EOFError, IndexError):
        return None


class PairDataset(EveryExample, LanguagePairDataset):
    """Articles and summaries; every one of them in a batch.

    Args:
        pairs: tokenised.
        dictionary: of both sides.
        start: id that the decoder starts from, the last one of a summary's form.
        shuffle: among batches of like length, for training.

    """

    def __init__(
        self, pairs: EncodedPairs, dictionary: Dictionary, start: int, shuffle: bool
    ) -> None:
        super().__init__(
            pairs.source,
            pairs.source.sizes,
            dictionary,
            pairs.target,
            pairs.target.sizes,
            dictionary,
            left_pad_source=False,
            shuffle=shuffle,
            eos=start,
        )
