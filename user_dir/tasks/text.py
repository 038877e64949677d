"""Classification and regression on a user's own TSV, CSV or JSONL files."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Optional

from fairseq.tasks import register_task

from ..data import Encoded, Example, read_table
from ..data.cache import Reader, classes_cached
from ..data.labels import refuse_look_alikes
from ..data.readers import error_at, shown
from ..data.sampling import stratified_subset
from ..data.tables import columns_of, guess_columns, read_indicators, read_parted
from ..errors import UserError
from ..flags import option
from ..model_dir import Labels, ModelDirectory
from ._heads import Head
from ._sentence import SentenceTask, SentenceTaskConfig, named_like, rows
from .glue import AUTO

logger = logging.getLogger(__name__)

#: What picks checkpoints of one class a text, and of any number of labels.
_METRICS = ("accuracy", "micro_f1")


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
    steady_label_separator: Optional[str] = option(
        None,
        "any number of labels a text: what stands between them in a cell, as a comma; "
        "an empty cell has none",
    )
    steady_label_columns: Optional[str] = option(
        None,
        "any number of labels a text: comma-separated names of columns, a label each, "
        "that hold 1 or 0",
    )


class TextTask(SentenceTask):
    """``train``, ``valid`` (or ``dev``) and ``test`` files in one folder, or one file.

    One file is divided: a tenth of it, in proportion of the classes, is 'valid'.
    """

    own_tables: ClassVar[bool] = True
    cfg: TextConfig

    def settle_data(self) -> None:
        """Say what a single file and unnamed columns are taken for."""
        self._name_columns()
        if Path(self.cfg.data).is_file():
            logger.info(
                "%s is one file: a tenth of its rows%s is 'valid' and the rest "
                "'train', drawn by --steady-subset-seed %d",
                self.cfg.data,
                self._proportion,
                self.cfg.steady_subset_seed,
            )

    @property
    def _proportion(self) -> str:
        if self.regression:
            return ""
        kept = "each row's rarest label" if self.several else "the classes"
        return f", in proportion of {kept},"

    def _name_columns(self) -> None:
        """Find the text and the label of two columns that nobody has named."""
        cfg, path = self.cfg, self.file("train")
        names = columns_of(path, cfg.steady_quoted_tsv)
        said = cfg.steady_text_column, cfg.steady_label_column
        if cfg.steady_pair_column or len(names) != 2 or set(said) <= set(names):
            return
        found = _two(path, names, said, self.regression, cfg.steady_quoted_tsv)
        if not found:
            return
        text, label = found
        root: Any = getattr(cfg, "_get_root", dict)()
        for kept in (cfg, root.get("task", cfg)):  # checkpoints keep root's copy
            kept.steady_text_column, kept.steady_label_column = text, label
        logger.info(
            "%s has two columns: %s is taken for the text and %s for the label; if "
            "not, name them with --steady-text-column and --steady-label-column",
            *(path, shown(text), shown(label)),
        )

    def file(self, split: str) -> Path:
        """The file that holds a split."""
        data = Path(self.cfg.data)
        return data if data.is_file() else named_like(self.cfg.data, split)

    @property
    def label_column(self) -> str:  # type: ignore[override]
        """Name of the column with the label."""
        return self.cfg.steady_label_column

    @property
    def columns(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the one or two text columns."""
        pair = self.cfg.steady_pair_column
        return [self.cfg.steady_text_column, *([pair] if pair else [])]

    def read(self, split: str) -> Encoded:
        """The split's own file; with ``--steady-split-dev``, 'test' is half of dev."""
        from_dev = split == "test" and self.cfg.steady_split_dev
        path = self.file("valid" if from_dev else split)
        encoded = self.encode(path, *self._reading())
        if path == Path(self.cfg.data):
            encoded = self._part("valid" if from_dev else split, encoded)
        return self.dev(split, encoded) if split in ("valid", "test") else encoded

    def _reading(self) -> tuple[Reader, str]:
        """How files are read, and what tells it from other ways."""
        columns, label = self.columns, self.cfg.steady_label_column
        quoted = self.cfg.steady_quoted_tsv
        reader = rows(read_table, columns, label, self.regression, quoted)
        return reader, f"table {columns} {label}{' quoted' * quoted}"

    def _part(self, split: str, everything: Encoded) -> Encoded:
        """A split of the one file that there is."""
        if split not in ("train", "valid"):
            raise UserError(
                f"{self.cfg.data} is one file, divided into train and valid, and has "
                f"no split '{split}': name a folder with a file for each split, or "
                "give --steady-split-dev, with which 'test' is half of 'valid'"
            )
        targets, seed = everything.targets, self.cfg.steady_subset_seed
        tenth = max(round(len(targets) / 10), self.num_classes)
        labels, instead = self.labels, "name a folder with a file for each split"
        try:
            held_out, kept = stratified_subset(targets, tenth, seed, labels, instead)
        except UserError as error:
            raise UserError(
                f"{self.cfg.data} is to be divided into train and valid: {error}"
            ) from None
        return everything.take(held_out if split == "valid" else kept)


def _two(
    path: Path, names: Sequence[str], said: tuple[str, str], scores: bool, quoted: bool
) -> tuple[str, str] | None:
    """Text and label among two columns, given what they are called if at all.

    Args:
        path: of the table.
        names: its columns, two.
        said: names of text and label as configured, not both of them there.
        scores: labels are numbers.
        quoted: cells of a .tsv may stand in quotes.

    Returns:
        None where a name was given that is not there, or it is not plain.

    """
    unnamed = [
        name == TextConfig.__dataclass_fields__[f"steady_{what}_column"].default
        for name, what in zip(said, ("text", "label"), strict=True)
    ]
    there = [name in names for name in said]
    if not all(a or b for a, b in zip(unnamed, there, strict=True)):
        return None
    if not any(there):
        return guess_columns(path, scores, quoted)
    other = next(name for name in names if name not in said)
    return (said[0], other) if there[0] else (other, said[1])


@register_task("text_classification", dataclass=TextClassificationConfig)
class TextClassificationTask(TextTask):
    """Classes from a file of your own, one for each text or any number of them."""

    unknown: ClassVar[str] = "mend the row or name the labels with --steady-labels"
    metric: ClassVar[str] = AUTO
    cfg: TextClassificationConfig

    def __init__(
        self, cfg: TextClassificationConfig, directory: ModelDirectory
    ) -> None:
        super().__init__(cfg, directory)
        # Saved in each checkpoint, which so needs no training file to be loaded.
        self.state.add_factory("labels", self._find_labels)

    @classmethod
    def check(cls, cfg: Any, directory: ModelDirectory) -> None:
        """There is one way to give several labels."""
        if cfg.steady_label_separator and cfg.steady_label_columns:
            raise UserError(
                "--steady-label-separator is for labels in one cell and "
                "--steady-label-columns for one column a label; give one of them"
            )
        if cfg.steady_label_separator == "":
            raise UserError(
                "--steady-label-separator is empty; give what stands between labels"
            )
        if _several(cfg) and cfg.steady_also_labels:
            raise UserError(
                "--steady-also-labels is for one class a text; leave it out, and name "
                "the labels alike in all files"
            )
        if cfg.steady_label_columns and cfg.steady_labels:
            raise UserError(
                "--steady-label-columns names the labels already, in order; leave "
                "--steady-labels out"
            )
        super().check(cfg, directory)

    @classmethod
    def complete(cls, cfg: Any, root: Any) -> None:
        """The metric, where nobody says another."""
        if root.checkpoint.best_checkpoint_metric == AUTO:
            root.checkpoint.best_checkpoint_metric = _METRICS[_several(cfg)]

    @property
    def several(self) -> bool:  # type: ignore[override]
        """Whether a text may have any number of the labels."""
        return _several(self.cfg)

    def _name_columns(self) -> None:
        if not self.cfg.steady_label_columns:
            super()._name_columns()

    @property
    def labels(self) -> Sequence[str]:  # type: ignore[override]
        """Class names in the order of the model's outputs."""
        return self.state.labels  # type: ignore[no-any-return]

    @property
    def regression(self) -> bool:
        """No; known before the classes are."""
        return False

    def _reading(self) -> tuple[Reader, str]:
        """With all labels of a text, where there may be several."""
        cfg, columns, quoted = self.cfg, self.columns, self.cfg.steady_quoted_tsv
        if not self.several:
            return super()._reading()
        if cfg.steady_label_columns:
            named = self._named_labels()
            reader = rows(read_indicators, columns, named, quoted)
            return reader, f"labels {columns} {named} {quoted}"
        column, separator = cfg.steady_label_column, cfg.steady_label_separator
        reader = rows(read_parted, columns, column, separator, quoted)
        return reader, f"labels {columns} {column!r} {separator!r} {quoted}"

    def _read_any(self, split: str) -> tuple[Encoded, bool]:
        """Further files have their labels as the task's own."""
        if self.several and split in self.also:
            return self.encode(self.also[split], *self._reading()), False
        return super()._read_any(split)

    def _find_labels(self) -> list[str]:
        named = self._named_labels()
        labels = named or self._labels_in_training_file()
        if len(set(labels)) < 2:
            where = self._naming if named else self.cfg.data
            raise UserError(
                f"only one class ({labels[0]}) in {where}; classification needs two "
                "or more"
            )
        return labels

    @property
    def _naming(self) -> str:
        """The flag that names the labels, if one does."""
        columns = self.cfg.steady_label_columns
        return "--steady-label-columns" if columns else "--steady-labels"

    def _named_labels(self) -> list[str]:
        given = self.cfg.steady_label_columns or self.cfg.steady_labels
        if not given:
            return []
        labels = [label.strip() for label in given.split(",")]
        for label in labels:
            problem = "is there twice" if label else "is empty"
            if labels.count(label) > 1 or not label:
                raise UserError(
                    f"{self._naming} {given}: label {shown(label)} {problem}; name "
                    "each class once, with commas between them"
                )
        refuse_look_alikes(dict.fromkeys(labels, self._naming))
        return labels

    def adopt(self, head: Head | None) -> None:
        """A checkpoint's classes and order, where the data has no others."""
        old = list(head.labels or ()) if head else []
        if not old or self._named_labels():
            return
        if set(self._labels_in_training_file()) <= set(old):
            self.state.merge_state_dict({"labels": old})

    def _labels_in_training_file(self) -> list[str]:
        path = self.file("train")
        reader, description = self._reading()
        if self.several:
            reader = partial(_parted_somewhere, reader=reader, cfg=self.cfg)
        lines = classes_cached(path, reader, description, self.cache_dir)
        places = {label: f"{path}:{line}" for label, line in lines.items()}
        refuse_look_alikes(places)
        return sorted(places)


def _several(cfg: Any) -> bool:
    return bool(cfg.steady_label_separator or cfg.steady_label_columns)


def _parted_somewhere(
    path: Path, reader: Reader, cfg: TextClassificationConfig
) -> Iterator[Example]:
    """Examples of a training file that has more than one label in some cell.

    Raises:
        UserError: it has in none.

    """
    first, parted = None, False
    for example in reader(path):
        first = first or (example if example.names else None)
        parted = parted or len(example.names) > 1
        yield example
    if parted:
        return
    if first is None:
        raise UserError(
            f"{path}: column {shown(cfg.steady_label_column)} has no label at all; "
            "fill it, or name the right one with --steady-label-column"
        )
    problem = (
        f"label {shown(first.names[0])}, as every other, is without "
        f"{shown(cfg.steady_label_separator)}"
    )
    mend = (
        "name what parts labels with --steady-label-separator; leave it out if each "
        "text has one class; name the labels with --steady-labels if no text has two"
    )
    raise error_at(path, first.line, problem, mend)


@register_task("text_regression", dataclass=TextConfig)
class TextRegressionTask(TextTask):
    """Scores from a file of your own."""

    metric: ClassVar[str] = "pearson"


def of_model(directory: ModelDirectory, head: Labels) -> TextTask:
    """The task that a model directory's own head is for; it has no data."""
    known: Any = {
        "data": str(directory.path),
        "steady_max_length": head.get("longest"),
    }
    if head["labels"] is None:
        scores = TextConfig(_name="text_regression", **known)
        return TextRegressionTask(scores, directory)
    cfg = TextClassificationConfig(_name="text_classification", **known)
    if head.get("several"):
        cfg.steady_label_separator = ","
    task = TextClassificationTask(cfg, directory)
    task.state.merge_state_dict({"labels": head["labels"]})
    return task
