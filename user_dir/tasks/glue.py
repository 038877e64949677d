"""GLUE: eight tasks of sentences and pairs, from the official files."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Optional

from fairseq.tasks import register_task

from ..data import Encoded, Example
from ..data.cache import Reader
from ..data.glue import LAYOUTS
from ..data.layouts import Layout, find_split, read_split, reader
from ..errors import UserError
from ..flags import one_of, option
from ..model_dir import ModelDirectory
from ._sentence import SentenceTask, SentenceTaskConfig

#: Until the task is known.
AUTO = "auto"


@dataclass
class GlueConfig(SentenceTaskConfig):
    """Flags of glue."""

    glue_task: Optional[str] = option(None, "which of the eight", one_of(*LAYOUTS))


@register_task("glue", dataclass=GlueConfig)
class GlueTask(SentenceTask):
    """One task of GLUE; the data are GLUE's folder, or the task's own.

    Splits: train, valid (dev; MNLI's matched one), mismatched (MNLI's other), test
    where it has labels and, with ``--steady-split-dev``, test as the second half of
    dev. Checkpoints are picked by the leaderboard's metric, its F1 where it has two.
    """

    valid_subsets: ClassVar[str] = AUTO
    metric: ClassVar[str] = AUTO
    cfg: GlueConfig

    def __init__(self, cfg: GlueConfig, directory: ModelDirectory) -> None:
        super().__init__(cfg, directory)
        self.layout = _layout(cfg)
        self.labels, self.subject = self.layout.labels, str(cfg.glue_task)
        self.columns = [name.split("|")[0] for name in self.layout.texts]
        self.label_column = self.layout.label
        self.splits = tuple(self.layout.files)
        if self.layout.bare:
            self.bare = _without_header(self.layout)

    @classmethod
    def check(cls, cfg: Any, directory: ModelDirectory) -> None:
        """The task must be named."""
        _layout(cfg)
        super().check(cfg, directory)

    @classmethod
    def complete(cls, cfg: Any, root: Any) -> None:
        """The metric and the splits of the task, where nobody says others."""
        layout = _layout(cfg)
        if root.checkpoint.best_checkpoint_metric == AUTO:
            root.checkpoint.best_checkpoint_metric = layout.metric
        if root.dataset.valid_subset == AUTO:
            both = "mismatched" in layout.files
            root.dataset.valid_subset = "valid,mismatched" if both else "valid"

    def read(self, split: str) -> Encoded:
        """Rows of the split's file."""
        half = split == "test" and self.cfg.steady_split_dev
        name = "valid" if half else split
        path = find_split(Path(self.cfg.data), self.layout, name)
        encoded = self.encode(path, reader(self.layout), f"glue {self.layout.folder}")
        return self.dev(split, encoded) if name == "valid" else encoded


def _layout(cfg: Any) -> Layout:
    if cfg.glue_task is None:
        raise UserError(f"--glue-task is missing; choose from {', '.join(LAYOUTS)}")
    return LAYOUTS[str(cfg.glue_task)]


def _without_header(layout: Layout) -> Reader:
    """The form of a task's files without a header, whatever a file is called."""
    form = next(iter(layout.bare.values()))

    def read(path: Path) -> Iterator[Example]:
        return read_split(path, replace(layout, bare={path.name.lower(): form}))

    return read
