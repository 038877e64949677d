"""Tokenised articles and summaries, kept on disk and read as they are needed."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.data.data_utils import numpy_seed

from ..scores.summaries import words
from .cache import VERSION, default_folder, digest_of, key_of
from .dataset import EveryExample
from .noticing import remark
from .pairs import ARTICLES, Pair
from .ragged import Encoded, Ragged
from .stored import Chunk, Entry, kept
from .tokenizing import SentenceTokenizer, chunked
from .waiting import counted

logger = logging.getLogger(__name__)


def encode_pairs(
    files: Sequence[Path],
    read: Callable[[], Iterable[Pair]],
    description: str,
    tokenizers: tuple[SentenceTokenizer, SentenceTokenizer],
    cache_dir: Path | None,
    digests: Sequence[str] = (),
) -> Encoded:
    """Read, check and tokenise a split, or take the result of an earlier time.

    Args:
        files: of the split, for the cache's key and place.
        read: gives their pairs.
        description: tells this reading from any other.
        tokenizers: of articles and of summaries.
        cache_dir: where results are kept; None for :func:`.cache.default_folder`.
        digests: :func:`fingerprint` of each file, if it is known.

    Raises:
        UserError: a file is wrong. Nothing is cached then.

    """
    first = files[0]
    sides = [(t.digest, t.max_length) for t in tokenizers]
    names = map(str, files)
    known = list(zip(names, digests or map(fingerprint, files), strict=True))
    key = key_of(VERSION, known, description, sides)
    folder = (cache_dir or default_folder()) / f"{first.stem}-{key[:16]}"
    entry = Entry(first, folder, key, tokenizers[0].symbols, sides=2, classes=0)
    what = f"{first}: articles tokenised"
    encoded = kept(entry, lambda: _chunks(counted(read(), what), tokenizers, first))
    for what, count, tokenizer in zip(
        ("articles", "summaries"), encoded.truncated, tokenizers, strict=True
    ):
        if count:
            logger.warning(
                "%s: %d of %d %s cut to %d tokens",
                *(first, count, len(encoded), what, tokenizer.max_length),
            )
    return encoded


def _chunks(
    pairs: Iterable[Pair],
    tokenizers: tuple[SentenceTokenizer, SentenceTokenizer],
    where: Path,
) -> Iterator[Chunk]:
    """Both sides of some pairs at a time; says how many lose what they are about."""
    lost = cut_off = 0
    for some in chunked(pairs):
        texts = [[(pair.source,) for pair in some], [(pair.target,) for pair in some]]
        found = [t.encode(side) for t, side in zip(tokenizers, texts, strict=True)]
        ids, cut = zip(*found, strict=True)
        for pair, row in zip(some, ids[0], strict=True) if cut[0] else ():
            if len(row) == tokenizers[0].max_length and cut_off < _LOOKED_AT:
                cut_off += 1
                lost += _answer_is_cut(pair, tokenizers[0])
        yield Chunk(ids, np.empty((len(some), 0), np.int64), cut)
    if lost:
        remark(
            where,
            f": of the first {cut_off} articles that fill {tokenizers[0].max_length} "
            f"tokens, {lost} are cut before most of the words that their summaries "
            "take from them; raise --summarization-source-length, or take a model with "
            "more positions",
        )


#: Articles that are looked into: they are tokenised again.
_LOOKED_AT = 1000
#: Letters that a word of the article must have to be told from all others'.
_LONG = 4


def _answer_is_cut(pair: Pair, tokenizer: SentenceTokenizer) -> bool:
    """Whether the part that is kept has less than half of what a summary takes."""
    wanted = {word for word in words(pair.target) if len(word) >= _LONG}
    whole = wanted.intersection(words(pair.source))
    left = whole.intersection(words(tokenizer.kept(pair.source)))
    return 2 * len(left) < len(whole)


def fingerprint(path: Path) -> str:
    """Of the content; of a folder, of its files and of all articles below it."""
    if not path.is_dir():
        return digest_of(path)
    below = {*path.rglob("*"), *path.glob("*/*")}  # rglob follows no links to folders
    inside = sorted(
        p for p in below if (p.suffix in ARTICLES or p.parent == path) and p.is_file()
    )
    return key_of([(str(p.relative_to(path)), digest_of(p)) for p in inside])


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
        pairs: Encoded,
        dictionary: Dictionary,
        start: int,
        shuffle_seed: int | None = None,
    ) -> None:
        self.shuffle_seed = shuffle_seed
        source, target = pairs.sides
        super().__init__(
            source,
            source.sizes,
            dictionary,
            target,
            target.sizes,
            dictionary,
            left_pad_source=False,
            shuffle=shuffle_seed is not None,
            eos=start,
        )

    @property
    def inputs(self) -> Sequence[Ragged]:
        """The articles."""
        return (self.src,)

    def ordered_indices(self) -> Any:
        """By length, and the same in every epoch.

        fairseq makes batches once a run and seeds them by the epoch it begins with, so
        that a run that goes on would have others than one that was never interrupted.
        """
        seed = None if self.shuffle_seed is None else self.shuffle_seed + 1
        with numpy_seed(seed):  # as in a run that begins with epoch 1
            return super().ordered_indices()
