"""SuperGLUE: its tasks of sentences, from the official files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Optional

from fairseq.logging import metrics
from fairseq.tasks import register_task

from ..data import Encoded, Example
from ..data.forms import OneRow, WordRows
from ..data.superglue import TASKS, find, read_unlabelled, reader
from ..errors import UserError
from ..flags import one_of, option
from ..model_dir import ModelDirectory
from ..models.words import WordsHead
from ._heads import Head
from ._sentence import SentenceTask, SentenceTaskConfig
from .glue import AUTO

#: Name of the head that reads words, which no other task's fits.
WORDS = "words_classification_head"


@dataclass
class SuperGlueConfig(SentenceTaskConfig):
    """Flags of superglue."""

    superglue_task: Optional[str] = option(
        None, "which of SuperGLUE's tasks", one_of(*TASKS)
    )


@register_task("superglue", dataclass=SuperGlueConfig)
class SuperGlueTask(SentenceTask):
    """One task of SuperGLUE; the data are its folder, or the task's own.

    Splits: train, valid (val) and, with ``--steady-split-dev``, test as the second half
    of val. Checkpoints are picked by the leaderboard's metric; CB's, the mean of macro
    F1 and accuracy, is logged as ``score``.
    """

    metric: ClassVar[str] = AUTO
    cfg: SuperGlueConfig

    def __init__(self, cfg: SuperGlueConfig, directory: ModelDirectory) -> None:
        super().__init__(cfg, directory)
        self.layout = TASKS[str(cfg.superglue_task)]
        self.labels, self.subject = self.layout.labels, str(cfg.superglue_task)
        self.columns, self.form = self.layout.texts, self.layout.form
        if self.by_words:
            self.head = WORDS

    @classmethod
    def check(cls, cfg: Any, directory: ModelDirectory) -> None:
        """The task must be named."""
        if cfg.superglue_task is None:
            known = ", ".join(TASKS)
            raise UserError(f"--superglue-task is missing; choose from {known}")
        if isinstance(TASKS[str(cfg.superglue_task)].form, WordRows):
            cls._check_words(cfg, str(directory.path), directory.family.decodes)
        elif TASKS[str(cfg.superglue_task)].form.rows > 1 and cfg.steady_class_weights:
            raise UserError(
                f"--steady-class-weights is for classes, and {cfg.superglue_task} "
                "chooses among texts; leave it out"
            )
        super().check(cfg, directory)

    def check_built(self, model: Any) -> None:
        """As every task's; a head that reads words needs an encoder."""
        super().check_built(model)
        if self.by_words:
            self._check_words(self.cfg, "--arch", self.decodes)

    @staticmethod
    def _check_words(cfg: Any, model: str, decodes: bool) -> None:
        """Refuse what does not go with a head that reads words."""
        if decodes:
            raise UserError(
                "--superglue-task wic reads words where an encoder leaves them, and "
                f"{model} is an encoder-decoder; name an encoder"
            )
        if cfg.steady_pooler:
            raise UserError(
                "--steady-pooler does not fit the head of wic, which reads two words "
                "beside the sentence; leave the flag out"
            )

    @classmethod
    def complete(cls, cfg: Any, root: Any) -> None:
        """The metric of the task, where nobody says another."""
        if root.checkpoint.best_checkpoint_metric == AUTO:
            layout = TASKS[str(cfg.superglue_task)]
            root.checkpoint.best_checkpoint_metric = layout.metric

    def read(self, split: str) -> Encoded:
        """Rows of the split's file."""
        half = split == "test" and self.cfg.steady_split_dev
        name = "valid" if half else split
        path = find(Path(self.cfg.data), self.layout, name)
        read, folder = reader(self.layout), self.layout.folder
        encoded = self.encode(path, read, f"superglue {folder}")
        return self.dev(split, encoded) if name == "valid" else encoded

    def examples(self, path: Path) -> Iterator[Example]:
        """Rows without labels, as a checkpoint of this task is asked about them."""
        return read_unlabelled(path, self.layout)

    @property
    def by_words(self) -> bool:
        """Whether the head reads words."""
        return isinstance(self.form, WordRows)

    def _read_any(self, split: str) -> tuple[Encoded, bool]:
        """As its own also the JSON lines of ``--steady-also``."""
        path, told = self.also.get(split), self.cfg.steady_also_labels
        if path is None or (isinstance(self.form, OneRow) and (told or not _own(path))):
            return super()._read_any(split)
        if told:
            raise UserError(
                f"--steady-also-labels {told} does not go with --superglue-task "
                f"{self.subject}, whose labels are {', '.join(self.labels or ())}; "
                "write them so in the file"
            )
        folder = self.layout.folder
        return self.encode(path, reader(self.layout), f"superglue {folder}"), False

    @property
    def choices(self) -> int:
        """Of multiple choice, how many; else 0."""
        return self.form.rows if self.form.rows > 1 else 0

    def heads(self) -> dict[str, Head]:
        """The only head; of multiple choice it gives each choice a score."""
        if self.choices:
            return {self.head: Head(None, self.subject)}
        return super().heads()

    def add_head(self, model: Any) -> None:
        """A new head: one output for multiple choice, or of words."""
        if self.by_words:
            head = WordsHead(model.args, self.num_classes)
            model.classification_heads[self.head] = head
            return
        outputs = 1 if self.choices else self.num_classes
        model.register_classification_head(self.head, num_classes=outputs)

    def reduce_metrics(self, logging_outputs: Any, criterion: Any) -> None:
        """The leaderboard's metric also where it is a mean of two."""
        super().reduce_metrics(logging_outputs, criterion)
        if self.score_of("") and not criterion.training:
            metrics.log_derived("score", _mean_of_two)

    def score_of(self, subset: str) -> Sequence[str]:
        """Of CB two."""
        return _TWO if self.layout.metric == "score" else ()


#: What SuperGLUE takes the mean of.
_TWO = ("macro_f1", "accuracy")


def _own(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _mean_of_two(meters: Any) -> float:
    """Macro F1 and accuracy, as SuperGLUE scores CB."""
    f1, accuracy = map(meters.get_smoothed_value, _TWO)
    return float(f1 + accuracy) / 2
