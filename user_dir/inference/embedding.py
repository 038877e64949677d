"""Texts as the hidden states of an encoder, and summaries compared by them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.batching import in_batches
from ..data.forms import ONE_ROW
from ..data.readers import Example
from ..data.tokenizing import SentenceTokenizer
from ..errors import UserError
from ..model_dir import ModelDirectory
from ..models.building import load_encoder
from ..scores.bertscore import bert_score, inverse_frequencies, weights

#: Token ids of a text, and a state of each, shape (T, C); special tokens left out.
Embedded = tuple[list[int], Tensor]


def check_encoder(directory: ModelDirectory) -> None:
    """Refuse a model whose states BERTScore cannot compare.

    Raises:
        UserError: it has a decoder.

    """
    if directory.family.decodes:
        raise UserError(
            f"{directory.path} is an encoder-decoder; BERTScore needs an encoder"
        )


class Embedder:
    """An encoder's states of texts.

    Args:
        directory: of an encoder.
        layer: whose states, from 0 for the embeddings; None for the last.
        cpu: stay on the CPU where there is a GPU.

    Raises:
        UserError: the model has a decoder, or no such layer.

    """

    def __init__(
        self, directory: ModelDirectory, layer: int | None = None, cpu: bool = False
    ) -> None:
        check_encoder(directory)
        form = directory.manifest.architecture
        top = form["encoder_layers"] * form.get("encoder_passes", 1)
        if layer is not None and not 0 <= layer <= top:
            raise UserError(f"--layer {layer} is not in 0 to {top}, what it has")
        self.layer = top if layer is None else layer
        self.dictionary = directory.dictionary()
        longest = form["max_positions"]
        self.tokenizer = SentenceTokenizer(directory, self.dictionary, longest)
        self.device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
        self.model = load_encoder(directory).to(self.device)
        #: texts so far that were longer than the encoder reads
        self.truncated = 0
        self._around = {*self.tokenizer.form(), self.dictionary.pad()}

    def __call__(self, texts: Sequence[str], max_tokens: int = 8192) -> list[Embedded]:
        """Tokens and states of each text, in order; of an empty one none.

        Args:
            texts: any number.
            max_tokens: of a batch, padding included.

        """
        pad = self.dictionary.pad()
        found = in_batches(
            *(texts, self._encode, self._states, pad, max_tokens, ONE_ROW)
        )
        return list(found)

    def _encode(self, texts: Sequence[str]) -> Sequence[Sequence[np.ndarray]]:
        examples = [Example((text.strip(),), "", 0) for text in texts]
        ids, truncated = ONE_ROW.encode("the text", examples, self.tokenizer)
        self.truncated += sum(truncated)
        return ids

    @torch.no_grad()
    def _states(self, net_input: dict[str, Tensor]) -> list[Embedded]:
        tokens = net_input["src_tokens"].to(self.device)
        extra: Any = self.model(tokens, features_only=True, return_all_hiddens=True)[1]
        states = extra["inner_states"][self.layer].transpose(0, 1).float().cpu()
        rows = []
        for ids, row in zip(net_input["src_tokens"].tolist(), states, strict=True):
            kept = [
                place for place, token in enumerate(ids) if token not in self._around
            ]
            rows.append(([ids[place] for place in kept], row[kept]))
        return rows


class BertScores:
    """BERTScore's F1 of summaries, in [-1, 1]; called with N, it gives each's.

    Args:
        embed: gives the states.
        references: of each of N summaries, at least one; embedded once.
        idf: weigh tokens by how rare they are among all references.
        how: ``best`` or ``mean`` of several references.

    """

    def __init__(
        self,
        embed: Embedder,
        references: Sequence[Sequence[str]],
        idf: bool = False,
        how: str = "best",
    ) -> None:
        self.embed, self.how = embed, how
        theirs = iter(embed([one for several in references for one in several]))
        self.references = [[next(theirs) for _ in several] for several in references]
        known = [tokens for several in self.references for tokens, _ in several]
        self.many = len(known)
        self.rare = inverse_frequencies(known) if idf else None

    def __call__(self, summaries: Sequence[str]) -> list[float]:
        """Of each summary."""
        pairs = zip(self.embed(summaries), self.references, strict=True)
        return [self._score(ours, several) for ours, several in pairs]

    def _score(self, ours: Embedded, several: Sequence[Embedded]) -> float:
        (tokens, states), weigh = ours, self._weights
        found = [
            bert_score(states, state, weigh(tokens), weigh(other))
            for other, state in several
        ]
        return max(found) if self.how == "best" else sum(found) / len(found)

    def _weights(self, tokens: list[int]) -> Tensor:
        return weights(tokens, self.rare, self.many)
