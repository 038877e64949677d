"""How an example becomes what a model reads: one row of tokens, or several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from fairseq.data import data_utils
from torch import Tensor

from .batching import NetInput, padded
from .ragged import Ragged
from .readers import Example, error_at, shown
from .tokenizing import SentenceTokenizer


class Sides(NamedTuple):
    """What some examples are tokenised to.

    Args:
        ids: of each side, the ids of each example.
        truncated: of each side, how many were cut.

    """

    ids: Sequence[Sequence[np.ndarray]]
    truncated: Sequence[int]


class Form(Protocol):
    """One way to do it; an item is what it keeps of one example."""

    @property
    def sides(self) -> int:
        """Sequences of ids that an example is kept as."""

    @property
    def rows(self) -> int:
        """Rows of tokens that the model reads of an example."""

    def encode(
        self, where: Path | str, examples: Sequence[Example], tokenizer: Any
    ) -> Sides:
        """Ids of some examples, which are at ``where``."""

    def item(self, sides: Sequence[Ragged], index: int) -> Any:
        """One example of those that were kept."""

    def sizes(self, sides: Sequence[Ragged]) -> np.ndarray:
        """Tokens of each example's longest row."""

    def padded(self, items: Sequence[Any], pad: int, decoder_input: bool) -> NetInput:
        """What a model reads of some; see :func:`.batching.padded`."""


class OneRow:
    """A text or a pair is a row."""

    sides = 1
    rows = 1

    def encode(
        self,
        where: Path | str,
        examples: Sequence[Example],
        tokenizer: SentenceTokenizer,
    ) -> Sides:
        """Ids of some examples."""
        ids, truncated = tokenizer.encode([example.texts for example in examples])
        return Sides([ids], [truncated])

    def item(self, sides: Sequence[Ragged], index: int) -> Tensor:
        """Ids of one example."""
        return sides[0][index]

    def sizes(self, sides: Sequence[Ragged]) -> np.ndarray:
        """Tokens of each."""
        return sides[0].sizes

    def padded(self, items: Sequence[Any], pad: int, decoder_input: bool) -> NetInput:
        """Ids of B sentences, the longest of length T."""
        return padded(items, pad, decoder_input)


#: What nearly every task has.
ONE_ROW = OneRow()


@dataclass(frozen=True)
class ChoiceRows:
    """Multiple choice: the first text with each of the others, a row a pair.

    Args:
        choices: C.

    """

    choices: int

    @property
    def sides(self) -> int:
        """One a choice."""
        return self.choices

    @property
    def rows(self) -> int:
        """One a choice."""
        return self.choices

    def encode(
        self,
        where: Path | str,
        examples: Sequence[Example],
        tokenizer: SentenceTokenizer,
    ) -> Sides:
        """Ids of each pair, by choice."""
        found = [
            tokenizer.encode([(e.texts[0], e.texts[1 + choice]) for e in examples])
            for choice in range(self.choices)
        ]
        ids, truncated = zip(*found, strict=True)
        return Sides(ids, truncated)

    def item(self, sides: Sequence[Ragged], index: int) -> list[Tensor]:
        """Ids of each pair of one example."""
        return [side[index] for side in sides]

    def sizes(self, sides: Sequence[Ragged]) -> np.ndarray:
        """Tokens of each example's longest row."""
        longest: np.ndarray = np.max([side.sizes for side in sides], 0)
        return longest

    def padded(self, items: Sequence[Any], pad: int, decoder_input: bool) -> NetInput:
        """Rows side by side, (B, C * T), all padded to one T; lengths (B, C)."""
        rows = padded([row for item in items for row in item], pad, decoder_input)
        return {name: value.reshape(len(items), -1) for name, value in rows.items()}


class WordRows:
    """A pair is a row, and a word of each of its texts matters."""

    sides = 2
    rows = 1

    def encode(
        self,
        where: Path | str,
        examples: Sequence[Example],
        tokenizer: SentenceTokenizer,
    ) -> Sides:
        """Ids, and which word each of them is in.

        Raises:
            UserError: a word has no token left.

        """
        texts, spans = [e.texts for e in examples], [e.spans for e in examples]
        ids, words, truncated = tokenizer.encode_words(texts, spans)
        for example, found in zip(examples, words, strict=True):
            for number, (text, span) in enumerate(_pairs(example), 1):
                if number not in found:
                    raise error_at(
                        where,
                        example.line,
                        f"the word {shown(text[slice(*span)])} of text {number} is not "
                        f"among the {len(found)} tokens that are kept",
                        "raise --steady-max-length, or shorten the text",
                    )
        return Sides([ids, words], [truncated, 0])

    def item(self, sides: Sequence[Ragged], index: int) -> tuple[Tensor, Tensor]:
        """Ids of one example, and which word each is in."""
        return sides[0][index], sides[1][index]

    def sizes(self, sides: Sequence[Ragged]) -> np.ndarray:
        """Tokens of each."""
        return sides[0].sizes

    def padded(self, items: Sequence[Any], pad: int, decoder_input: bool) -> NetInput:
        """Ids, and in ``words`` which word each is in, both of shape (B, T)."""
        ids, words = zip(*items, strict=True)
        found = padded(ids, pad, decoder_input)
        return {**found, "words": data_utils.collate_tokens(words, 0)}


def _pairs(example: Example) -> Iterator[tuple[str, tuple[int, int]]]:
    return zip(example.texts, example.spans, strict=True)
