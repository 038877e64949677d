"""Summaries from a model: beam search, and its tokens as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from ..data.tokenizing import SentenceTokenizer
from ..errors import UserError


@dataclass(frozen=True)
class Decoding:
    """How summaries are searched for.

    Args:
        beam: hypotheses kept, >= 1.
        length_penalty: exponent of the length that a hypothesis's score is divided by.
        min_length: tokens before it may end, >= 0.
        max_length: tokens after which it must.
        no_repeat: length of n-grams that may not occur twice; 0 for none.

    """

    beam: int = 4
    length_penalty: float = 1.0
    min_length: int = 0
    max_length: int = 128
    no_repeat: int = 3

    def check(self, prefix: str) -> None:
        """Refuse what no search can be.

        Raises:
            UserError: names the flag, which begins like this.

        """
        ranges = {
            "beam": self.beam >= 1,
            "min_length": 0 <= self.min_length <= self.max_length,
            "max_length": self.max_length >= 1,
            "no_repeat": self.no_repeat >= 0,
        }
        for name, good in ranges.items():
            if not good:
                flag = f"{prefix}{name.replace('_', '-')}"
                raise UserError(f"{flag} {getattr(self, name)} is out of range")


#: By name. CNN/DM's are BART's and R3F's; the papers print none for the others.
DECODINGS = {
    "cnn_dm": Decoding(4, 2.0, 55, 140, 3),
    "gigaword": Decoding(4, 1.0, 0, 48, 3),
    "reddit_tifu": Decoding(4, 1.0, 0, 128, 3),
    "custom": Decoding(),
}


class BeamSearch:
    """Beam search with a model directory's tokeniser.

    Args:
        model: an encoder-decoder.
        dictionary: its dictionary.
        tokenizer: of summaries.
        decoding: how to search.

    """

    def __init__(
        self,
        model: Any,
        dictionary: Dictionary,
        tokenizer: SentenceTokenizer,
        decoding: Decoding,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        form = tokenizer.form()
        self.start, end = form[-1], form.index(dictionary.eos())
        self.prefix = form[:end]
        self.generator = SequenceGenerator(
            [model],
            dictionary,
            beam_size=decoding.beam,
            max_len_b=decoding.max_length + len(self.prefix),
            min_len=decoding.min_length + len(self.prefix),
            len_penalty=decoding.length_penalty,
            no_repeat_ngram_size=decoding.no_repeat,
        )

        _set_beam(model, 1)

    @torch.no_grad()
    def __call__(self, net_input: dict[str, Tensor]) -> list[str]:
        """One summary per article.

        Args:
            net_input: ``src_tokens`` and ``src_lengths`` of B articles.

        """
        tokens = net_input["src_tokens"]
        prefix = tokens.new_tensor(self.prefix).expand(len(tokens), -1)
        _set_beam(self.model, self.generator.beam_size)
        try:
            found = self.generator.generate(
                [],
                {"net_input": {k: net_input[k] for k in ("src_tokens", "src_lengths")}},
                prefix_tokens=prefix if self.prefix else None,
                bos_token=self.start,
            )
        finally:
            _set_beam(self.model, 1)
        return [self.tokenizer.decode(best[0]["tokens"].tolist()) for best in found]


def _set_beam(model: Any, beam: int) -> None:
    """Tell cross-attention how many hypotheses share an article.

    fairseq sets this for decoding and leaves it so: training then reads every
    ``beam``-th article's states for its neighbours', or fails.
    """
    model.set_beam_size(beam)
    if beam == 1:
        vars(model.encoder).pop("reorder_encoder_out", None)


def select(net_input: dict[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Some articles of a batch, without the padding that only others needed."""
    chosen = {k: net_input[k][list(rows)] for k in ("src_tokens", "src_lengths")}
    longest = int(chosen["src_lengths"].max())
    return chosen | {"src_tokens": chosen["src_tokens"][:, :longest]}
