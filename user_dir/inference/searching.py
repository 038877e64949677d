"""Summaries from a model: beam search, and its tokens as text.

The search is fairseq's with transformers' rules, so that a model gives the same
summaries in both: a token that is forced costs nothing, and no n-gram occurs twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.search import BeamSearch as Beams
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
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
        if not math.isfinite(self.length_penalty):
            raise UserError(
                f"{prefix}length-penalty {self.length_penalty} is out of range: finite"
            )
        if self.min_length > self.max_length:
            raise UserError(
                f"{prefix}min-length {self.min_length} is out of range: more than "
                f"{prefix}max-length {self.max_length}"
            )


#: By name. CNN/DM's and XSum's are BART's (fairseq's examples/bart/summarize.py);
#: SciTLDR's those of its evaluate.py and, for BART on abstracts, decoder_params.md;
#: DialogSum's those of its repository's BART (Baseline/bart_train.py), with the n-grams
#: of BART's own settings; TIFU-long's PEGASUS's (arXiv 1912.08777) as transformers has
#: them. No paper prints any for the others.
DECODINGS = {
    "cnn_dm": Decoding(4, 2.0, 55, 140, 3),
    "gigaword": Decoding(4, 1.0, 0, 48, 3),
    "reddit_tifu": Decoding(4, 1.0, 0, 128, 3),
    "reddit_tifu_long": Decoding(8, 0.6, 0, 128, 0),
    "reddit_tifu_short": Decoding(4, 1.0, 0, 32, 3),
    "xsum": Decoding(6, 1.0, 10, 60, 3),
    "dialogsum": Decoding(5, 1.0, 0, 128, 3),
    "scitldr": Decoding(6, 1.0, 5, 30, 3),
    "custom": Decoding(),
}
#: What is made of several references, where it is not the best: see
#: :data:`..scores.rouge.HOW`. SciTLDR takes the best, DialogSum the mean.
REFERENCES = {"dialogsum": "mean"}


class _Rules(Beams):
    """Which tokens may follow, and what they cost.

    fairseq's own blocker compares the end of its buffer, which is padding, with the
    n-grams before, so that it blocks none.

    Args:
        dictionary: of the model.
        no_repeat: length of n-grams that may not occur twice; 0: none.
        forced: tokens that every summary begins with.

    """

    def __init__(self, dictionary: Dictionary, no_repeat: int, forced: int) -> None:
        super().__init__(dictionary)
        self.no_repeat = no_repeat
        self.forced = forced
        #: step at which nothing but the end is left
        self.last = -1

    def step(
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor | None,
        prev_output_tokens: Tensor | None = None,
        original_batch_idxs: Tensor | None = None,
    ) -> Any:
        """The best continuations; see fairseq's.

        Args:
            step: tokens so far, the one that decoding starts from left out.
            lprobs: log-probabilities of the next token, shape (B, beam, V); -inf for
                those that may not follow.
            scores: of the hypotheses so far.
            prev_output_tokens: those, shape (B * beam, step + 1).
            original_batch_idxs: which sentences are left.

        """
        if step < self.forced or step == self.last:
            lprobs = lprobs.where(lprobs.isneginf(), 0)
        elif self.no_repeat and prev_output_tokens is not None:
            banned = repeats(prev_output_tokens, self.no_repeat, lprobs.size(-1))
            lprobs = lprobs.masked_fill(banned.view_as(lprobs), -math.inf)
        return super().step(
            step, lprobs, scores, prev_output_tokens, original_batch_idxs
        )


def repeats(tokens: Tensor, size: int, vocabulary: int) -> Tensor:
    """Tokens that would end an n-gram that is there already, a mask of shape (N, V).

    Args:
        tokens: of N hypotheses, shape (N, T).
        size: n.
        vocabulary: V.

    """
    found = torch.zeros(len(tokens), vocabulary, dtype=torch.bool, device=tokens.device)
    if tokens.size(1) < size:
        return found
    ngrams = tokens.unfold(1, size, 1)
    begun = tokens[:, tokens.size(1) - size + 1 :].unsqueeze(1)
    rows, places = (ngrams[..., :-1] == begun).all(-1).nonzero(as_tuple=True)
    found[rows, ngrams[rows, places, -1]] = True
    return found


class _Stepping(EnsembleModel):
    """fairseq's steps of a model, with less moved in memory.

    Args:
        model: an encoder-decoder.
        beam: hypotheses of an article.

    """

    def __init__(self, model: Any, beam: int) -> None:
        super().__init__([model])
        self._beam, self._rows = beam, 0

    def forward_decoder(
        self, tokens: Tensor, encoder_outs: Any, states: Any, temperature: float = 1.0
    ) -> Any:
        """Log-probabilities of the next token; see fairseq's."""
        found = super().forward_decoder(tokens, encoder_outs, states, temperature)
        self._rows = len(tokens)
        # The encoder's keys stand by position, where a head's are far from each other.
        for kept in states[0].values():
            for name in ("prev_key", "prev_value"):
                if name in kept:
                    kept[name] = kept[name].contiguous()
        return found

    def reorder_incremental_state(self, states: Any, order: Tensor) -> None:
        """Move what each hypothesis goes on with to its place."""
        if not self._stays(order):
            super().reorder_incremental_state(states, order)

    def reorder_encoder_out(self, outs: Any, order: Tensor) -> Any:
        """The same, of the encoder's."""
        return outs if self._stays(order) else super().reorder_encoder_out(outs, order)

    def _stays(self, order: Tensor) -> bool:
        """A single hypothesis an article goes on in its place, unless one has ended."""
        return self._beam == 1 and len(order) == self._rows


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
        rules = _Rules(dictionary, decoding.no_repeat, len(self.prefix))
        longest = decoding.max_length + len(self.prefix)
        self.generator = SequenceGenerator(
            _Stepping(model, decoding.beam),
            dictionary,
            beam_size=decoding.beam,
            max_len_b=longest,
            min_len=decoding.min_length + len(self.prefix),
            len_penalty=decoding.length_penalty,
            search_strategy=rules,
        )
        rules.last = min(longest, self.generator.max_len - 1)

        _set_beam(model, 1)

    def __call__(self, net_input: dict[str, Tensor]) -> list[str]:
        """One summary per article.

        Args:
            net_input: ``src_tokens`` and ``src_lengths`` of B articles.

        """
        return [self.tokenizer.decode(ids) for ids in self.tokens(net_input)]

    @torch.no_grad()
    def tokens(self, net_input: dict[str, Tensor]) -> list[list[int]]:
        """The same as ids, the end with them and the start not."""
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
        return [best[0]["tokens"].tolist() for best in found]


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
