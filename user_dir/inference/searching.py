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
from ..flags import NOT_NEGATIVE, at_least, check_flags, option


@dataclass(frozen=True)
class Decoding:
    """How summaries are searched for."""

    beam: int = option(4, "hypotheses kept", at_least(1))
    length_penalty: float = option(
        1.0, "exponent of the length that a hypothesis's score is divided by"
    )
    min_length: int = option(0, "tokens before a summary may end", NOT_NEGATIVE)
    max_length: int = option(128, "tokens after which it must", at_least(1))
    no_repeat: int = option(
        3, "length of n-grams that may not occur twice; 0: none", NOT_NEGATIVE
    )

    def check(self, prefix: str) -> None:
        """Refuse what no search can be.

        Raises:
            UserError: names the flag, which begins like this.

        """
        check_flags(self, Decoding, prefix)
        if self.min_length > self.max_length:
            raise UserError(
                f"{prefix}min-length {self.min_length} is out of range: more than "
                f"{prefix}max-length {self.max_length}"
            )


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
