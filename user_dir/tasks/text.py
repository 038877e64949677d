"""Classification and regression on a user's own TSV, CSV or JSONL files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Optional

from fairseq.tasks import register_task

from ..data import Encoded, read_table
from ..data.labels import refuse_look_alikes
from ..data.readers import shown
from ..errors import UserError
from ..flags import option
from ..model_dir import ModelDirectory
from ._heads import Head
from ._sentence import SentenceTask, SentenceTaskConfig, named_like, rows


@dataclass
class TextConfig(SentenceTaskConfig):
    """Flags for files with named columns."""

    steady_text_column: str = option("text", "name of the column with the sentence")
    steady_pair_column: Optional[str] = option(
        None, "name of the column with a second sentence, for pairs"
    )
    steady_label_column: str = option("label", "name of the column with the label")


@dataclass
class TextClassificationConfig(TextConfig):
    """Flags of text_classification."""

    steady_labels: Optional[str] = option(
        None, "comma-separated classes in order; default: the training file's, sorted"
    )


class TextTask(SentenceTask):
    """``train``, ``valid`` (or ``dev``) and ``test`` files in one folder."""

    cfg: TextConfig

    @property
    def columns(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the one or two text columns."""
        pair = self.cfg.steady_pair_column
        return [self.cfg.steady_text_column, *([pair] if pair else [])]

    def read(self, split: str) -> Encoded:
        """The split's own file; with ``--steady-split-dev``, 'test' is half of dev."""
        from_dev = split == "test" and self.cfg.steady_split_dev
        path = named_like(self.cfg.data, "valid" if from_dev else split)
        columns, label = self.columns, self.cfg.steady_label_column
        reader = rows(read_table, columns, label, self.regression)
        encoded = self.encode(path, reader, f"table {columns} {label}")
        return self.dev(split, encoded) if split in ("valid", "test") else encoded


@register_task("text_classification", dataclass=TextClassificationConfig)
class TextClassificationTask(TextTask):
    """Classes from a file of your own."""

    metric: ClassVar[str] = "accuracy"

    def __init__(
        self, cfg: TextClassificationConfig, directory: ModelDirectory
    ) -> None:
        super().__init__(cfg, directory)
        # Saved in each checkpoint, which so needs no training file to be loaded.
        self.state.add_factory("labels", self._find_labels)

    @property
    def labels(self) -> Sequence[str]:  # type: ignore[override]
        """Class names in the order of the model's outputs."""
        return self.state.labels  # type: ignore[no-any-return]

    def _find_labels(self) -> list[str]:
        named = self._named_labels()
        labels = named or self._labels_in_training_file()
        if len(set(labels)) < 2:
            where = "--steady-labels" if named else self.cfg.data
            raise UserError(
                f"only one class ({labels[0]}) in {where}; classification needs two "
                "or more"
            )
        return labels

    def _named_labels(self) -> list[str]:
        if not self.cfg.steady_labels:
            return []
        labels = [label.strip() for label in self.cfg.steady_labels.split(",")]
        for label in labels:
            problem = "is there twice" if label else "is empty"
            if labels.count(label) > 1 or not label:
                raise UserError(
                    f"--steady-labels {self.cfg.steady_labels}: label {shown(label)} "
                    f"{problem}; name each class once, with commas between them"
                )
        refuse_look_alikes(dict.fromkeys(labels, "--steady-labels"))
        return labels

    def adopt(self, head: Head | None) -> None:
        """A checkpoint's classes and order, where the data has no others."""
        old = list(head.labels or ()) if head else []
        if not old or self._named_labels():
            return
        if set(self._labels_in_training_file()) <= set(old):
            self.state.merge_state_dict({"labels": old})

    def _labels_in_training_file(self) -> list[str]:
        path = named_like(self.cfg.data, "train")
        places: dict[str, str] = {}
        for example in read_table(path, self.columns, self.cfg.steady_label_column):
            places.setdefault(example.label, f"{path}:{example.line}")
        refuse_look_alikes(places)
        return sorted(places)


@register_task("text_regression", dataclass=TextConfig)
class TextRegressionTask(TextTask):
    """Scores from a file of your own."""

    metric: ClassVar[str] = "pearson"
