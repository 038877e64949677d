"""Several GLUE tasks at once: one encoder, a head each."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fairseq.logging import metrics
from fairseq.tasks import register_task
from omegaconf import OmegaConf

from ..data import SentenceDataset
from ..data.glue import LAYOUTS
from ..data.mixture import Mixture, shares
from ..errors import UserError
from ..flags import at_least, option
from ..model_dir import ModelDirectory
from ..models.steady import take_pooler
from ..patches.announcing import DETAIL
from ._classes import check_score, log_score, of_a_class
from ._heads import Head
from ._sentence import SentenceTaskConfig
from ._steady import SteadyTask
from .glue import AUTO, GlueTask

logger = logging.getLogger(__name__)


@dataclass
class MultitaskConfig(SentenceTaskConfig):
    """Flags of glue_multitask."""

    multitask_names: str = option("", "comma-separated GLUE tasks: cola,sst2,stsb")
    multitask_temperature: float = option(
        1.0,
        "T; a task's share of the batches is proportional to its size ** (1 / T); 1 as "
        "MT-DNN, larger favours small tasks",
        at_least(1),
    )


@register_task("glue_multitask", dataclass=MultitaskConfig)
class MultitaskTask(SteadyTask):
    """Batches of one task at a time, in proportion to size.

    Splits: train; each task's name for its dev set (``mnli`` is matched), and
    ``mnli.mismatched`` or, with ``--steady-split-dev``, ``cola.test`` and so on. The
    first task's leaderboard metric on its dev set picks checkpoints.

    Source: MT-DNN (arXiv 1901.11504), Algorithm 1; SMART (arXiv 1911.03437), 5.3.
    """

    valid_subsets: ClassVar[str] = AUTO
    #: each task's own metric of the leaderboard, under one name, as fairseq wants it
    metric: ClassVar[str] = "score"
    cfg: MultitaskConfig

    def __init__(self, cfg: MultitaskConfig, directory: ModelDirectory) -> None:
        super().__init__(cfg, directory)
        self.parts = {
            name: _part(cfg, directory, name, self)
            for name in _names(cfg.multitask_names)
        }
        #: the score of one class that picks checkpoints, and the first subset
        self._class_metric = "", ""

    @classmethod
    def check(cls, cfg: Any, directory: ModelDirectory) -> None:
        """The tasks must be named, and what they share must fit the model."""
        _names(cfg.multitask_names)
        if cfg.steady_label_map:
            raise UserError("--steady-label-map is for one head; leave it out")
        if cfg.steady_class_weights:
            raise UserError("--steady-class-weights is for one head; leave it out")
        for flag in ("also", "quoted_tsv"):
            if getattr(cfg, f"steady_{flag}"):
                name = flag.replace("_", "-")
                raise UserError(
                    f"--steady-{name} is for tasks with one head; leave it out"
                )
        GlueTask.check_lengths(cfg, directory)
        GlueTask.check_ends(cfg, directory.family.decodes)
        super().check(cfg, directory)

    @classmethod
    def complete(cls, cfg: Any, root: Any) -> None:
        """Every task's development set, where nobody says others."""
        if root.dataset.valid_subset == AUTO:
            root.dataset.valid_subset = ",".join(_names(cfg.multitask_names))

    def heads(self) -> dict[str, Head]:
        """One a task."""
        return {name: part.heads()[name] for name, part in self.parts.items()}

    def training_set(self) -> Mixture:
        """Every task's training set."""
        return self._mixture({n: part.training_set() for n, part in self.parts.items()})

    def _mixture(self, found: dict[str, SentenceDataset]) -> Mixture:
        sizes = {name: len(data) for name, data in found.items()}
        drawn = shares(sizes, self.cfg.multitask_temperature)
        return Mixture(found, drawn, self.cfg.seed)

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Every task's training set, or one split of one task."""
        if split == "train":
            for part in self.parts.values():
                part.load_dataset("train")
            found = {name: part.datasets["train"] for name, part in self.parts.items()}
            mixture = self.datasets[split] = self._mixture(found)
            self.described |= {
                f"{name} {split}": part.described[split]
                for name, part in self.parts.items()
            }
            drawn = (mixture.shares or {}).items()
            said = ", ".join(f"{count:,} of {name}" for name, count in drawn)
            logger.info("examples in an epoch: %s", said, extra=DETAIL)
            return
        name, _, inside = split.partition(".")
        if name not in self.parts:
            raise UserError(
                f"there is no split '{split}'; choose train or, of each task, "
                + ", ".join(self.parts)
            )
        part = self.parts[name]
        part.recorder = self.recorder
        part.load_dataset(inside or "valid")
        self.described[split] = part.described[inside or "valid"]
        self.datasets[split] = Mixture({name: part.datasets[inside or "valid"]})

    def trained_on(self) -> dict[str, int]:
        """As each task's."""
        found = {name: part.trained_on() for name, part in self.parts.items()}
        splits = {s: s.partition(".") for s in self.datasets if s != "train"}
        return {
            s: found[name][inside or "valid"] for s, (name, _, inside) in splits.items()
        }

    def next_command(self, checkpoint: str) -> str:
        """Of the first task."""
        return super().next_command(f"{checkpoint} --head {next(iter(self.parts))}")

    def reduce_metrics(self, logging_outputs: Any, criterion: Any) -> None:
        """The evaluated task's own metric also as ``score``."""
        super().reduce_metrics(logging_outputs, criterion)
        if not criterion.training:
            (own,) = self.score_of(self.evaluated)
            metrics.log_derived("score", lambda meters: meters.get_smoothed_value(own))
            metric, first = self._class_metric
            if self.evaluated == first:
                log_score(metric, self.labels_of(first) or ())

    def _part_of(self, subset: str) -> GlueTask:
        return self.parts[subset.partition(".")[0]]

    def score_of(self, subset: str) -> Sequence[str]:
        """The metric of the task that the split is of."""
        return (self._part_of(subset).layout.metric,)

    def settle_data(self) -> None:
        """Refuse at once what picks checkpoints and the first split does not log.

        And to look for heads without a gradient, of which here there are none.
        """
        root: Any = getattr(self.cfg, "_get_root", dict)()
        workers = root.distributed_training
        if workers.find_unused_parameters and workers.distributed_world_size > 1:
            raise UserError(
                "--find-unused-parameters is not for several heads, which all get a "
                "gradient from every batch here; leave it out"
            )
        first = root.dataset.valid_subset.partition(",")[0]
        if first.partition(".")[0] in self.parts:
            metric = root.checkpoint.best_checkpoint_metric
            labels = self.labels_of(first)
            check_score(metric, labels, False, False, whole=True)
            if of_a_class(metric, labels):
                self._class_metric = metric, first

    def labels_of(self, subset: str) -> Sequence[str] | None:
        """Those of the task that the split is of."""
        return self._part_of(subset).labels

    def check_built(self, model: Any) -> None:
        """As each task's."""
        for part in self.parts.values():
            part.check_built(model)

    def finish_model(self, model: Any, pretrained: bool) -> None:
        """Add the heads, then load the weights."""
        for part in self.parts.values():
            part.add_head(model)
        super().finish_model(model, pretrained)
        if pretrained and self.cfg.steady_pooler:
            take_pooler(model, self.directory)

    def max_positions(self) -> int:
        """Tokens a sentence may have."""
        return min(part.longest for part in self.parts.values())


def _part(
    cfg: Any, directory: ModelDirectory, name: str, whole: SteadyTask
) -> GlueTask:
    """One task, reading GLUE's folder with the same flags."""
    own: Any = copy.copy(cfg)
    if OmegaConf.is_config(cfg):
        own = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    own.glue_task = name
    part = GlueTask(own, directory)
    part.head, part.files, part.places = name, whole.files, whole.places
    return part


def _names(given: str) -> list[str]:
    names = [name.strip() for name in (given or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in LAYOUTS]
    if unknown or len(set(names)) != len(names) or len(names) < 2:
        raise UserError(
            f"--multitask-names '{given}' should name two or more of "
            + ", ".join(LAYOUTS)
        )
    return names
