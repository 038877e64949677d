"""Labels and scores from a fine-tuned checkpoint.

from fairseq_steady.inference.predicting import Predictor
predict = Predictor("runs/cola/checkpoint_best.pt")
labels = [found.label for found in predict(["The cat sat.", "Cat the sat."])]
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..criterions.kinds import Choices, Classes
from ..data.forms import OneRow
from ..data.readers import Example, shown
from ..errors import UserError
from .loading import Trained

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one text or pair.

    Args:
        label: the most probable class; None for scores and several labels.
        probabilities: of each class or label by name; empty for scores.
        score: the predicted number; None for classes.
        labels: those more probable than not, where there may be any number; else None.

    """

    label: str | None
    probabilities: dict[str, float]
    score: float | None = None
    labels: tuple[str, ...] | None = None


class Predictor(Trained):
    """A fine-tuned classifier or regressor.

    Args:
        checkpoint: of one of this plugin's sentence tasks, or a model directory that
            was imported with its head.
        model: its model directory, where that has moved.
        cpu: stay on the CPU where there is a GPU.
        head: the task, for checkpoints of glue_multitask.

    Raises:
        UserError: the checkpoint is missing, damaged or of another task.

    """

    def __init__(
        self,
        checkpoint: str | Path,
        model: str | Path | None = None,
        cpu: bool = False,
        head: str | None = None,
    ) -> None:
        super().__init__(checkpoint, model, cpu, head)
        self.labels: Sequence[str] | None = self.task.labels
        #: whether any number of them hold for a text
        self.several: bool = self.task.several
        #: names of the text columns it was trained on: one, or two for pairs; None
        #: where that is not known, of an imported head
        imported = Path(checkpoint).is_dir()
        self.columns: Sequence[str] | None = None if imported else self.task.columns
        #: what other files call those columns
        self.aliases: Mapping[str, Sequence[str]] = self.task.aliases
        #: whether .tsv files had quotes around cells
        self.quoted = bool(getattr(self.task.cfg, "steady_quoted_tsv", False))
        self.tokenizer = self.task.tokenizer
        self.form = self.task.form
        kind = Choices if self.form.rows > 1 else Classes
        self.kind = kind(self.task.head, self.task.num_classes)

    def check(self, checkpoint: Path) -> None:
        """Refuse checkpoints of tasks without labels and scores."""
        if not hasattr(self.task, "num_classes"):
            raise UserError(
                f"{checkpoint} is of task {self.task.cfg._name}, which has no labels "
                "or scores; fairseq-steady summarize summarises with it"
            )

    def __call__(
        self, texts: Iterable[Text | Example], max_tokens: int = 8192
    ) -> Iterator[Prediction]:
        """One prediction per text or pair, in order.

        Args:
            texts: sentences, or pairs of them, as the checkpoint was trained on; or
                examples, as :meth:`examples` reads them.
            max_tokens: of a batch, padding included.

        Raises:
            UserError: a pair for a checkpoint of sentences, or the other way round.

        """
        seq2seq = hasattr(self.model, "decoder")
        found = self.answers(texts, self._logits, max_tokens, seq2seq)
        yield from map(self._prediction, found)

    @property
    def by_rows(self) -> bool:
        """Whether it reads more than a text or pair, so that rows need columns."""
        return not isinstance(self.form, OneRow)

    @property
    def row(self) -> Sequence[str]:
        """The columns of such rows."""
        found: Sequence[str] = self.task.layout.columns
        return found

    def examples(self, path: Path) -> Iterator[Example]:
        """What such rows say.

        Raises:
            UserError: a row does not fit.

        """
        found: Iterator[Example] = self.task.examples(path)
        return found

    def parts(self, text: Text) -> tuple[str, ...]:
        """A sentence or a pair as training reads it: no blanks around."""
        if self.by_rows:
            raise UserError(
                f"{shown(text)}: the checkpoint reads rows of several columns "
                f"({', '.join(self.row)}); name a .jsonl file that has them"
            )
        parts = text if isinstance(text, tuple | list) else (text,)
        right = (1, 2) if self.columns is None else (len(self.columns),)
        if len(parts) not in right or not all(isinstance(part, str) for part in parts):
            form = "pairs: give (first, second)"
            if right[0] == 1:
                form = "single sentences: give a string"
            raise UserError(f"{shown(text)}: the checkpoint was trained on {form}")
        return tuple(part.strip() for part in parts)

    @torch.no_grad()
    def _logits(self, net_input: dict[str, Tensor]) -> list[list[float]]:
        logits = self.kind.logits(self.model, {"net_input": net_input}).float()
        found = logits.softmax(-1) if self.labels else logits
        if self.several:
            found = logits.sigmoid()
        rows: list[list[float]] = found.tolist()
        return rows

    def _prediction(self, row: Sequence[float]) -> Prediction:
        if not self.labels:
            return Prediction(None, {}, row[0])
        probabilities = dict(zip(self.labels, row, strict=True))
        if self.several:
            likely = tuple(label for label, p in probabilities.items() if p > 0.5)
            return Prediction(None, probabilities, labels=likely)
        best = max(probabilities, key=lambda label: probabilities[label])
        return Prediction(best, probabilities)
