"""Summaries from a model: beam search and text."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from omegaconf import OmegaConf
from torch import Tensor

from ..data.batching import in_batches
from ..data.tokenizing import SentenceTokenizer
from ..errors import UserError
from ..flags import NOT_NEGATIVE, at_least, check_flags, option
from ..model_dir import DICTIONARY, MANIFEST, other_dictionary
from ..patches.checkpoints import KEPT_FILES, no_file


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


class Summarizer:
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


def load_trained(
    checkpoint: Path, model: str | None = None, head: str | None = None
) -> tuple[Any, Any]:
    """The model of a fine-tuned checkpoint, in evaluation mode, and its task.

    Args:
        checkpoint: of a task of this plugin.
        model: its model directory, where that has moved.
        head: which task of glue_multitask; None for checkpoints of one task.

    Raises:
        UserError: the checkpoint or the model directory is missing, or the head.

    """
    from .. import tasks as plugin  # noqa: F401  registers everything

    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} {no_file(checkpoint)}")
    moved = {"steady_model": model} if model else {}
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint), moved)
    _check_model(state, checkpoint)
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides=moved, state=state
    )
    return models[0].eval(), _part(task, head, checkpoint)


def _check_model(state: Any, checkpoint: Path) -> None:
    """Say which flag names a model directory that has moved, or is another."""
    named = OmegaConf.select(state.get("cfg") or {}, "task.steady_model")
    if named and not os.path.isfile(os.path.join(str(named), MANIFEST)):
        raise UserError(
            f"{checkpoint} was trained from the model directory {named}, which is not "
            "there; name it with --model"
        )
    kept = (state.get("extra_state") or {}).get(KEPT_FILES, {})
    if named and (problem := other_dictionary(kept, Path(named) / DICTIONARY)):
        raise UserError(f"{checkpoint} {problem}; name its own with --model")


def _part(task: Any, head: str | None, checkpoint: Path) -> Any:
    parts = getattr(task, "parts", {None: task})
    if head not in parts:
        known = ", ".join(str(name) for name in parts if name)
        mend = f"name one of {known}" if known else "leave --head out, it has one task"
        raise UserError(f"{checkpoint} has no head {head or 'of its own'}: {mend}")
    return parts[head]


class Trained:
    """A fine-tuned checkpoint that summarises text.

    Args:
        checkpoint: of task ``summarization``.
        model: its model directory, where that has moved.
        cpu: stay on the CPU where there is a GPU.
        changes: settings of :class:`Decoding` to change.

    Raises:
        UserError: the checkpoint is missing or of another task.

    """

    def __init__(
        self,
        checkpoint: Path,
        model: str | None = None,
        cpu: bool = False,
        **changes: Any,
    ) -> None:
        self.model, task = load_trained(checkpoint, model)
        if not hasattr(task, "summarizer"):
            raise UserError(
                f"{checkpoint} is of task {task.cfg._name}, not of summarization; "
                "fairseq-steady predict predicts with it"
            )
        task.decoding = replace(task.decoding, **changes)
        task.decoding.check("--")
        self.cuda = torch.cuda.is_available() and not cpu
        if self.cuda:
            self.model = self.model.half().cuda()
        self.articles: SentenceTokenizer = task.tokenizers[0]
        self.pad = task.dictionary.pad()
        self.summarizer: Summarizer = task.summarizer(self.model)
        #: articles so far that were longer than the model reads
        self.truncated = 0

    def __call__(self, texts: Iterable[str], max_tokens: int = 8192) -> Iterator[str]:
        """One summary per article, in order.

        Args:
            texts: articles.
            max_tokens: of a batch, padding included.

        """
        yield from in_batches(texts, self._encode, self._batch, self.pad, max_tokens)

    def _encode(self, texts: Sequence[str]) -> Sequence[np.ndarray]:
        # As training reads them: no blanks around.
        ids, truncated = self.articles.encode([(text.strip(),) for text in texts])
        self.truncated += truncated
        return ids

    def _batch(self, net_input: dict[str, Tensor]) -> list[str]:
        if self.cuda:
            net_input = {name: tensor.cuda() for name, tensor in net_input.items()}
        return self.summarizer(net_input)
