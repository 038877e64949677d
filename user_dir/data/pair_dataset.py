"""Tokenised articles and summaries, kept on disk and read as they are needed."""

import hashlib
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.data.data_utils import numpy_seed
from pydantic import ConfigDict, Field
from torch import Tensor
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import read_json, sha256, whole_folder, write_json
from .cache import DAMAGES, believed, check_ids, default_folder
from .dataset import EveryExample
from .pairs import Pair
from .tokenizing import SentenceTokenizer
from .waiting import counted

logger = logging.getLogger(__name__)

#: Version of the stored form; articles tokenised at a time.
_VERSION, _CHUNK = 2, 1000
_ABOUT = "about.json"
Number = Annotated[int, Field(ge=0)]


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
        cache_dir: where results are kept; None for :func:`.cache.default_folder`.

    Raises:
        UserError: a file is wrong. Nothing is cached then.

    """
    first = files[0]
    sides = [(t.digest, t.max_length) for t in tokenizers]
    known = [(str(path), _fingerprint(path)) for path in files]
    recipe = repr((_VERSION, known, description, sides)).encode()
    key = hashlib.sha256(recipe).hexdigest()
    folder = cache_dir or default_folder()
    cached = Entry(folder / f"{first.stem}-{key[:16]}", key, tokenizers[0].symbols)
    encoded = _load(cached)
    if encoded is None:
        pairs = counted(read(), f"{first}: articles tokenised")
        encoded = _encode(pairs, tokenizers, cached)
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
    """Of the content, also of each file of a folder."""
    if path.is_file():
        return sha256(path)
    inside = sorted(p for p in path.iterdir() if p.is_file())
    entries = [(p.name, sha256(p)) for p in inside]
    return hashlib.sha256(repr(entries).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A cache entry: a folder.

    Args:
        folder: holds the two sides.
        key: digest of the data's content and of all that decides how it is read.
        symbols: of the dictionary.

    """

    folder: Path
    key: str
    symbols: int


class _About(TypedDict):
    """What an entry says about itself."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    key: str
    truncated: tuple[Number, Number]


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


def _ragged(path: Path, symbols: int) -> Ragged:
    ends = np.load(path.with_suffix(".ends.npy"), mmap_mode="r", allow_pickle=False)
    ids = np.memmap(path, np.int32, mode="r")
    check_ids(ids, np.diff(ends, prepend=0), symbols)
    return Ragged(ids, np.array(ends))


def _encode(
    pairs: Iterable[Pair],
    tokenizers: tuple[SentenceTokenizer, SentenceTokenizer],
    cached: Entry,
) -> EncodedPairs:
    """Tokenise a chunk at a time into a scratch folder, then move it into place."""
    target = replace(cached, folder=_free(cached.folder))
    try:
        with whole_folder(target.folder) as scratch:
            truncated = _write(pairs, tokenizers, scratch)
            write_json(scratch / _ABOUT, {"key": target.key, "truncated": truncated})
    except OSError as error:  # unless another worker was faster
        if (found := _load(target)) is None:
            raise UserError(f"{target.folder} cannot be written ({error})") from None
        return found
    loaded = _load(target, ours=True)
    if loaded is None:
        raise UserError(f"{target.folder} cannot be read back; is the disk full?")
    return loaded


def _write(
    pairs: Iterable[Pair],
    tokenizers: tuple[SentenceTokenizer, SentenceTokenizer],
    folder: Path,
) -> list[int]:
    """Both sides into a folder; how many of each were cut."""
    truncated = [0, 0]
    writers = [_Writer(folder / side) for side in ("source.bin", "target.bin")]
    left = iter(pairs)
    while chunk := list(itertools.islice(left, _CHUNK)):
        texts = [[(p.source,) for p in chunk], [(p.target,) for p in chunk]]
        for side in (0, 1):
            ids, cut = tokenizers[side].encode(texts[side])
            writers[side].add(ids)
            truncated[side] += cut
    for writer in writers:
        writer.close()
    return truncated


def _free(folder: Path) -> Path:
    """Where an entry can be made: what is there is damaged, or somebody else's."""
    wanted = _writable(folder.parent) / folder.name
    shutil.rmtree(wanted, ignore_errors=True)
    return Path(tempfile.mkdtemp()) / folder.name if wanted.exists() else wanted


def _writable(folder: Path) -> Path:
    """The folder, or one for temporary files where it cannot be written."""
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
        raise PermissionError(13, "Permission denied")
    except OSError as error:
        logger.warning(
            "cannot cache in %s (%s); name a folder with --steady-cache-dir",
            *(folder, error.strerror),
        )
        return Path(tempfile.mkdtemp(prefix="steady-"))


def _load(cached: Entry, ours: bool = False) -> EncodedPairs | None:
    """A cache entry, or None when there is none, or it is damaged or of other data.

    ``ours`` says that it was written just now, wherever others may write too.
    """
    folder = cached.folder
    try:
        if not (ours or believed(folder)):
            return None
        about = read_json(folder / _ABOUT, _About, "make it again")
        source, target = (
            _ragged(folder / f"{side}.bin", cached.symbols)
            for side in ("source", "target")
        )
        if about["key"] != cached.key or len(source) != len(target):
            raise ValueError("of other data")
    except DAMAGES:
        return None
    return EncodedPairs(source, target, about["truncated"])


class PairDataset(EveryExample, LanguagePairDataset):
    """Articles and summaries; every one of them in a batch.

    Args:
        pairs: tokenised.
        dictionary: of both sides.
        start: id that the decoder starts from, the last one of a summary's form.
        shuffle_seed: decides which pairs of one length are in a batch together, for
            training; None keeps their order.

    """

    def __init__(
        self,
        pairs: EncodedPairs,
        dictionary: Dictionary,
        start: int,
        shuffle_seed: int | None = None,
    ) -> None:
        self.shuffle_seed = shuffle_seed
        super().__init__(
            pairs.source,
            pairs.source.sizes,
            dictionary,
            pairs.target,
            pairs.target.sizes,
            dictionary,
            left_pad_source=False,
            shuffle=shuffle_seed is not None,
            eos=start,
        )

    def ordered_indices(self) -> Any:
        """By length, and the same in every epoch.

        fairseq makes batches once a run and seeds them by the epoch it begins with, so
        that a run that goes on would have others than one that was never interrupted.
        """
        seed = None if self.shuffle_seed is None else self.shuffle_seed + 1
        with numpy_seed(seed):  # as in a run that begins with epoch 1
            return super().ordered_indices()
