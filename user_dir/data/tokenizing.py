"""Text to fairseq ids, through the tokenizers library."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from fairseq.data import Dictionary
from tokenizers import Tokenizer

from ..errors import UserError
from ..files import sha256
from ..model_dir import ModelDirectory


class SentenceTokenizer:
    """A model directory's tokeniser, giving ids of its fairseq dictionary.

    Args:
        directory: the model directory.
        dictionary: its dictionary.
        max_length: tokens kept of a sentence or pair, special tokens included.

    Raises:
        UserError: the tokeniser's vocabulary and the dictionary disagree.

    """

    def __init__(
        self, directory: ModelDirectory, dictionary: Dictionary, max_length: int
    ) -> None:
        self.digest = sha256(directory.tokenizer_path)
        self.max_length = max_length
        self._tokenizer = load_tokenizer(directory.tokenizer_path)
        self._tokenizer.enable_truncation(max_length)
        #: fairseq's id of each of the tokeniser's, -1 where it has none
        self.ids = _fairseq_ids(self._tokenizer, dictionary, directory)
        self._pad = dictionary.pad()
        #: how many ids the dictionary has
        self.symbols = len(dictionary)

    def encode(self, texts: Sequence[tuple[str, ...]]) -> tuple[list[np.ndarray], int]:
        """Ids with special tokens for each text or pair.

        Returns:
            One int32 array per text, and how many were truncated.

        """
        batch = [pair if len(pair) == 2 else pair[0] for pair in texts]
        encodings = self._tokenizer.encode_batch(batch)
        truncated = sum(bool(encoding.overflowing) for encoding in encodings)
        return [self.ids[encoding.ids] for encoding in encodings], truncated

    def form(self) -> list[int]:
        """Ids that stand around a text: those of an empty one."""
        return [int(index) for index in self.ids[self._tokenizer.encode("").ids]]

    @cached_property
    def _text_ids(self) -> dict[int, int]:
        """The tokeniser's id of each of fairseq's but those that stand around text."""
        around = {*self.form(), self._pad}
        found = {int(ours): theirs for theirs, ours in enumerate(self.ids)}
        return {ours: theirs for ours, theirs in found.items() if ours not in around}

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        known = [self._text_ids[i] for i in ids if i in self._text_ids]
        text: str = self._tokenizer.decode(known, skip_special_tokens=True)
        return text.strip()


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokeniser that neither pads nor truncates.

    Raises:
        UserError: the file is not a tokeniser.

    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f"{path} is not a tokenizers file ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _fairseq_ids(
    tokenizer: Tokenizer, dictionary: Dictionary, directory: ModelDirectory
) -> np.ndarray:
    names = {v: k for k, v in directory.manifest.special_tokens.items()}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    ids = np.full(max(vocabulary.values()) + 1, -1, np.int32)
    for token, index in vocabulary.items():
        ids[index] = dictionary.indices.get(names.get(token, token), -1)
    unknown = [t for t, i in vocabulary.items() if ids[i] < 0]
    if unknown:
        raise UserError(
            f"{directory.path}: the dictionary lacks {len(unknown)} of the tokeniser's "
            f"tokens, as {unknown[0]!r}; import the model again"
        )
    return ids
