"""Summaries from a fine-tuned checkpoint.

from fairseq_steady.inference.summarising import Summarizer
summarize = Summarizer("runs/cnn_dm/checkpoint_best.pt", beam=6)
summaries = list(summarize(["First article.", "Second article."]))
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from .loading import Trained, load_summarizer


class Summarizer(Trained):
    """A fine-tuned summariser of articles; half precision on a GPU.

    Args:
        checkpoint: of task ``summarization``, or the model directory of a BART that
            was trained to summarise elsewhere.
        model: its model directory, where that has moved.
        cpu: stay on the CPU where there is a GPU.
        changes: settings of :class:`.searching.Decoding` to change.

    Raises:
        UserError: the checkpoint is missing, damaged or of another task, or it has no
            positions for such summaries.

    """

    of_directory = staticmethod(load_summarizer)

    def __init__(
        self,
        checkpoint: str | Path,
        model: str | Path | None = None,
        cpu: bool = False,
        **changes: Any,
    ) -> None:
        super().__init__(checkpoint, model, cpu)
        self.task.decoding = replace(self.task.decoding, **changes)
        self.task.decoding.check("--")
        self.task.check_room("--", changes)
        if self.cuda:
            self.model = self.model.half()
        self.tokenizer = self.task.tokenizers[0]
        self.search = self.task.summarizer(self.model)

    def check(self, checkpoint: Path) -> None:
        """Refuse checkpoints of tasks that do not summarise."""
        if not hasattr(self.task, "summarizer"):
            raise UserError(
                f"{checkpoint} is of task {self.task.cfg._name}, not of summarization; "
                "fairseq-steady predict predicts with it"
            )

    def parts(self, text: str) -> tuple[str, ...]:
        """An article as training reads it: no blanks around."""
        return (text.strip(),)

    def __call__(self, texts: Iterable[str], max_tokens: int = 8192) -> Iterator[str]:
        """One summary per article, in order.

        Args:
            texts: articles.
            max_tokens: of a batch, padding included.

        """
        yield from self.answers(texts, self.search, max_tokens)
