"""Text to fairseq ids, through the tokenizers library.

Text is text: a special token's spelling in it is read as the characters it is made of.
Special tokens come from the tokeniser's template alone.
"""

import hashlib
import itertools
import json
import logging
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from fairseq.data import Dictionary
from tokenizers import Encoding, Tokenizer, decoders

from ..errors import UserError
from ..files import sha256
from ..model_dir import ModelDirectory
from .readers import shown, unpaired
from .waiting import Pace

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
#: Of each text of an example, where a word begins and ends in it.
Spans = Sequence[tuple[int, int]]
#: Texts tokenised at a time.
_CHUNK = 1000


def chunked(items: Iterable[Item]) -> Iterator[list[Item]]:
    """As many items at a time as are tokenised at a time."""
    left = iter(items)
    while chunk := list(itertools.islice(left, _CHUNK)):
        yield chunk


class SentenceTokenizer:
    """A model directory's tokeniser, giving ids of its fairseq dictionary.

    Args:
        directory: the model directory.
        dictionary: its dictionary.
        max_length: tokens kept of a sentence or pair, special tokens included.
        spelled: whether text may spell special tokens, as transformers reads it.

    Raises:
        UserError: the tokeniser's vocabulary and the dictionary disagree.

    """

    def __init__(
        self,
        directory: ModelDirectory,
        dictionary: Dictionary,
        max_length: int,
        spelled: bool = False,
    ) -> None:
        self.max_length = max_length
        tokenizer = load_tokenizer(directory.tokenizer_path)
        #: fairseq's id of each of the tokeniser's, -1 where it has none
        self.ids = _fairseq_ids(tokenizer, dictionary, directory)
        known = hashlib.sha256(self.ids.tobytes()).hexdigest()
        #: of all that decides about ids, but for ``max_length``
        self.digest = f"{sha256(directory.tokenizer_path)} {known} spelled {spelled}"
        self._special = _special_tokens(tokenizer, directory)
        #: special tokens that text cannot spell and has not been seen to
        self._unseen = set() if spelled else set(self._special)
        self._tokenizer = (
            tokenizer if spelled else _unspeakable(tokenizer, self._special)
        )
        self._tokenizer.enable_truncation(max_length)
        self._joins = joins_apostrophes(tokenizer)
        self._pad = dictionary.pad()
        #: how many ids the dictionary has
        self.symbols = len(dictionary)

    def encode(self, texts: Sequence[tuple[str, ...]]) -> tuple[list[np.ndarray], int]:
        """Ids with special tokens for each text or pair.

        Returns:
            One int32 array per text, and how many were truncated.

        Raises:
            UserError: a text holds half a character, which no encoding has, or gives
                no ids, as a blank may without special tokens; or pairs have no room.

        """
        self._check(texts)
        found: list[np.ndarray] = []
        truncated, pace = 0, Pace("tokenised", len(texts))
        # All at once, 400,000 sentences take gigabytes, and a quarter longer.
        for chunk in chunked(texts):
            batch = [pair if len(pair) == 2 else pair[0] for pair in chunk]
            encodings = self._tokenizer.encode_batch_fast(batch)
            truncated += sum(bool(encoding.overflowing) for encoding in encodings)
            rows = [self.ids[encoding.ids] for encoding in encodings]
            _all_there(chunk, rows)
            found += rows
            pace.reach(len(found))
        return found, truncated

    def encode_words(
        self, texts: Sequence[tuple[str, ...]], spans: Sequence[Spans]
    ) -> tuple[list[np.ndarray], list[np.ndarray], int]:
        """Ids for each text or pair, and which tokens a word of it is in.

        Args:
            texts: few.
            spans: of each, where the word begins and ends in each of its texts.

        Returns:
            Ids as :meth:`encode` has them; of the same length, 1 at tokens of the first
            text's word, 2 at those of the second's and 0 elsewhere; how many were cut.

        Raises:
            UserError: a text holds half a character, or pairs have no room.

        """
        self._check(texts)
        batch = [pair if len(pair) == 2 else pair[0] for pair in texts]
        encodings = self._tokenizer.encode_batch(batch)
        pairs = zip(encodings, spans, strict=True)
        return (
            [self.ids[encoding.ids] for encoding in encodings],
            [_words(encoding, places) for encoding, places in pairs],
            sum(bool(encoding.overflowing) for encoding in encodings),
        )

    def _check(self, texts: Sequence[tuple[str, ...]]) -> None:
        """Refuse pairs whose special tokens take all room: they would not be cut."""
        least = self._tokenizer.num_special_tokens_to_add(is_pair=True) + 2
        if self.max_length < least and any(len(pair) == 2 for pair in texts):
            raise UserError(
                f"{self.max_length} tokens leave a pair no room: {least - 2} are "
                f"special; raise --steady-max-length to {least} or more"
            )
        self._notice(texts)

    def _notice(self, texts: Sequence[tuple[str, ...]]) -> None:
        """Say once of each special token that text spells it."""
        for text in (text for pair in texts for text in pair):
            half = unpaired(text)
            if half:
                raise UserError(f"text {shown(text)} holds {half}; remove it")
            for token in [token for token in self._unseen if token in text]:
                self._unseen.remove(token)
                logger.warning(
                    "%s in %s is read as text; --steady-special-tokens makes such "
                    "spellings the tokens they name",
                    *(token, shown(text)),
                )

    def kept(self, text: str) -> str:
        """The part of a text that is not cut away."""
        ends = [end for _, end in self._tokenizer.encode(text).offsets]
        return text[: max(ends, default=0)]

    def form(self) -> list[int]:
        """Ids that stand around a text: those of an empty one."""
        return [int(index) for index in self.ids[self._tokenizer.encode("").ids]]

    @cached_property
    def _text_ids(self) -> dict[int, int]:
        """The tokeniser's id of each of fairseq's but those that stand around text."""
        special = self.ids[list(self._special.values())].tolist()
        around = {*self.form(), self._pad, *special}
        found = {int(ours): theirs for theirs, ours in enumerate(self.ids)}
        return {ours: theirs for ours, theirs in found.items() if ours not in around}

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        known = [self._text_ids[i] for i in ids if i in self._text_ids]
        text: str = self._tokenizer.decode(known, skip_special_tokens=True)
        if self._joins:
            text = text.replace(" ' ", "'")
        return text.strip()


def _words(encoding: Encoding, spans: Spans) -> np.ndarray:
    """Which text's word each token is in, counted from 1; 0 for none."""
    found = np.zeros(len(encoding), np.int32)
    tokens = zip(encoding.sequence_ids, encoding.offsets, strict=True)
    for place, (text, (start, end)) in enumerate(tokens):
        if text is not None and start < spans[text][1] and spans[text][0] < end:
            found[place] = text + 1
    return found


def _all_there(texts: Sequence[tuple[str, ...]], rows: Sequence[np.ndarray]) -> None:
    for text, ids in zip(texts, rows, strict=True):
        if not len(ids):
            raise UserError(f"text {shown(text[0])} gives no tokens; remove it")


def joins_apostrophes(tokenizer: Tokenizer) -> bool:
    """Whether ``it ' s`` is to become ``it's``.

    As transformers has it where a BERT's tokenizer_config.json says
    ``clean_up_tokenization_spaces``.
    """
    decoder = tokenizer.decoder
    return isinstance(decoder, decoders.WordPiece) and bool(decoder.cleanup)


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


def symbol_of(token: str, special: Mapping[str, str]) -> str:
    """fairseq's symbol for a token of a tokeniser.

    Args:
        token: a token.
        special: the tokeniser's token for each of fairseq's; MPNet's ``<unk>`` is
            spelled ``[UNK]``, and another token of it ``<unk>``.

    """
    names = {theirs: ours for ours, theirs in special.items()}
    return names.get(token) or (f"other:{token}" if token in special else token)


def _special_tokens(tokenizer: Tokenizer, directory: ModelDirectory) -> dict[str, int]:
    """Id of each token that is no text: marked so, or with a part in fairseq."""
    marked = {
        added.content: index
        for index, added in tokenizer.get_added_tokens_decoder().items()
        if added.special
    }
    named = directory.manifest.special_tokens.values()
    found = {token: tokenizer.token_to_id(token) for token in named}
    return marked | {token: i for token, i in found.items() if i is not None}


def _unspeakable(tokenizer: Tokenizer, special: Collection[str]) -> Tokenizer:
    """The same tokeniser, its special tokens under names that no text can hold.

    The library's ``encode_special_tokens`` is not enough: vocabularies of words, of
    WordPiece and of Unigram hold special tokens as entries like others, and find them.
    """
    names = {token: f"\uffff{secrets.token_hex(8)}\uffff" for token in special}
    form = json.loads(tokenizer.to_str())
    for added in form["added_tokens"]:
        added["content"] = names.get(added["content"], added["content"])
    model = form["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(t, t): i for t, i in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(t, t), score] for t, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        prefix = model["continuing_subword_prefix"] or ""
        model["merges"] = [
            (a, b)
            for a, b in model["merges"]
            if not names.keys() & {a, b, a + b.removeprefix(prefix)}
        ]
    return Tokenizer.from_str(json.dumps(form))


def _fairseq_ids(
    tokenizer: Tokenizer, dictionary: Dictionary, directory: ModelDirectory
) -> np.ndarray:
    special = directory.manifest.special_tokens
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    ids = np.full(max(vocabulary.values()) + 1, -1, np.int32)
    for token, index in vocabulary.items():
        ids[index] = dictionary.indices.get(symbol_of(token, special), -1)
    unknown = [t for t, i in vocabulary.items() if ids[i] < 0]
    if unknown:
        raise UserError(
            f"{directory.path}: the dictionary lacks {len(unknown)} of the tokeniser's "
            f"tokens, as {unknown[0]!r}; import the model again"
        )
    return ids
