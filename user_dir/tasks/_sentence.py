"""What every sentence task shares: classes or scores from raw files."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Optional

from ..data import (
    Encoded,
    Example,
    SentenceDataset,
    SentenceTokenizer,
    encode_cached,
    forms,
)
from ..data.cache import Reader
from ..data.readers import STEMS, TABLES, entries, the_only
from ..data.sampling import (
    balanced_subset,
    halves,
    parse_size,
    stratified_subset,
)
from ..errors import UserError
from ..flags import NOT_NEGATIVE, option
from ..model_dir import ModelDirectory
from ..models.steady import HEAD, take_pooler
from ..patches.announcing import DETAIL
from ..scores.metrics import f1_of
from ._also import AlsoConfig, Form, check_there, further, reading
from ._classes import check_score, class_weights, how_many, log_score, of_a_class
from ._groups import check_picking, log_groups
from ._heads import Head, Start, renamed
from ._steady import SteadyTask, SteadyTaskConfig

logger = logging.getLogger(__name__)


@dataclass
class SentenceTaskConfig(AlsoConfig, SteadyTaskConfig):
    """Flags of every sentence task."""

    steady_pooler: bool = option(
        False,
        "start the head's dense layer from BERT's pooler; sentence encoders such as "
        "MiniLM carry an untrained one that slows the start",
    )
    steady_max_length: Optional[int] = option(
        None,
        "tokens kept of a sentence or pair, special ones included, from 3; default: "
        "as many as the model has positions for",
    )
    steady_split_dev: bool = option(
        False, "split the development set: first half 'valid', second half 'test'"
    )
    steady_new_head: bool = option(
        False,
        "with --finetune-from-model, or a model that has a head: leave that behind",
    )
    steady_label_map: Optional[str] = option(
        None,
        "with --finetune-from-model, or a model that has a head: what this run calls "
        "its classes, as neg=ham,pos=spam; unmapped ones keep their names",
    )
    steady_train_balanced: bool = option(
        False,
        "train on as many sentences of each class as there are of the rarest, before "
        "--steady-train-size",
    )
    steady_class_weights: Optional[str] = option(
        None,
        "what each class counts in the loss: balanced, numbers in the classes' order "
        "as 1,5, or ham=1,spam=5; classes left out count 1",
    )
    steady_focal_gamma: float = option(
        0.0,
        "focal loss: sentences count (1 - p)^gamma, p being what the right class gets; "
        "0: cross-entropy",
        NOT_NEGATIVE,
    )


class SentenceTask(SteadyTask):
    """Predict a class or a score for a sentence or pair, from raw files.

    A subclass says which files make a split and how their rows read; this class owns
    everything from there to the model's head.
    """

    #: class names in the order of the model's outputs; None for scores
    labels: Sequence[str] | None = None
    #: whether any number of them hold for a sentence, rather than one
    several: bool = False
    metric: ClassVar[str] = "accuracy"
    #: what its classes belong to, so that equal names of another task are not the
    #: same; empty where the user names them
    subject: str = ""
    #: what to do about a label that is none of them
    unknown: ClassVar[str] = "mend the row"
    #: name of the head in the model
    head: str = HEAD
    #: names of the one or two text columns, as tables to predict on have them
    columns: Sequence[str] = ("text",)
    #: what files to predict on may call each of them instead
    aliases: Mapping[str, Sequence[str]] = MappingProxyType({})
    #: name of the column with the label in such tables
    label_column: str = "label"
    #: reads the task's own files, where those name no columns
    bare: Reader | None = None
    #: names of its splits, beside train, valid and test
    splits: Sequence[str] = ()
    #: whether it reads tables of people's own, of which a .tsv may be quoted
    own_tables: ClassVar[bool] = False
    #: rows of tokens that an example becomes
    form: forms.Form = forms.ONE_ROW
    #: whether the model has a decoder, as BART, which its batches are for
    decodes: bool = False

    def __init__(self, cfg: SentenceTaskConfig, directory: ModelDirectory) -> None:
        super().__init__(cfg, directory)
        longest = directory.manifest.architecture["max_positions"]
        self.longest: int = cfg.steady_max_length or longest
        self.tokenizer = SentenceTokenizer(
            directory, self.dictionary, self.longest, cfg.steady_special_tokens
        )
        # Saved in each checkpoint, which so needs no training file to be evaluated.
        self.state.add_factory("class_weights", self._weigh)
        #: what picks checkpoints, if it is a score of one class
        self._class_metric: str | None = None
        #: the subset and the metric that pick checkpoints, where any are
        self._picking = "", ""
        #: files read for the latest split
        self._sources: list[str] = []
        #: what was read so far, for the schedule first and the data set then
        self._encoded: dict[object, Encoded] = {}
        #: files of --steady-also, by the name of their subset
        self.also = further(cfg)

    @classmethod
    def check(cls, cfg: Any, directory: ModelDirectory) -> None:
        """The length must fit the model, and the head the text."""
        if cfg.steady_quoted_tsv and not (cls.own_tables or cfg.steady_also):
            raise UserError(
                "--steady-quoted-tsv is for tables of your own, and a quote in this "
                "task's files is text; leave it out, or name yours with --steady-also"
            )
        cls.check_lengths(cfg, directory)
        cls.check_ends(cfg, directory.family.decodes)
        super().check(cfg, directory)

    @staticmethod
    def check_ends(cfg: Any, decodes: bool) -> None:
        """Refuse text that says where it ends, where the head looks for the end.

        Raises:
            UserError: names the flag.

        """
        if cfg.steady_special_tokens and decodes:
            raise UserError(
                "--steady-special-tokens does not go with BART's head, which reads the "
                "one place where a sentence ends; leave the flag out"
            )

    @staticmethod
    def check_lengths(cfg: Any, directory: ModelDirectory) -> None:
        """Refuse more tokens than there are positions.

        Raises:
            UserError: names the range.

        """
        longest = directory.manifest.architecture["max_positions"]
        if not 3 <= (cfg.steady_max_length or longest) <= longest:
            raise UserError(
                f"--steady-max-length {cfg.steady_max_length} is not in 3 to "
                f"{longest}, what this model has positions for"
            )

    def _prepare_training(self) -> None:
        root: Any = getattr(self.cfg, "_get_root", dict)()
        if "dataset" in root:
            check_there(self.also, self.splits)
            subsets = root.dataset.valid_subset.split(",")
            named = [*subsets, *(name for name in self.also if name not in subsets)]
            root.dataset.valid_subset = ",".join(named)
        super()._prepare_training()
        if "optimization" in root:
            metric = root.checkpoint.best_checkpoint_metric
            self._class_metric = of_a_class(metric, self.labels)
            whole = bool(self.score_of(""))
            check_score(metric, self.labels, self.several, bool(self.also), whole)
            self._picking = root.dataset.valid_subset.split(",")[0], metric

    def training_set(self) -> SentenceDataset:
        """Sentences to train on."""
        return self._dataset(self._subset(self.read("train")), training=True)

    @property
    def num_classes(self) -> int:
        """Outputs of the head: classes, or 1 for scores."""
        return len(self.labels) if self.labels else 1

    @property
    def regression(self) -> bool:
        """Whether targets are scores."""
        return self.labels is None

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        """What each class counts in the loss; None for 1."""
        return (
            tuple(self.state.class_weights) if self.cfg.steady_class_weights else None
        )

    def _weigh(self) -> list[float]:
        given: str = self.cfg.steady_class_weights
        # The same for every worker, each of which has all of the training set.
        return class_weights(
            given, self.labels, lambda: self._subset(self.read("train")).targets
        )

    def reduce_metrics(self, logging_outputs: Any, criterion: Any) -> None:
        """In evaluations also scores of groups, and the one class's that is asked."""
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training:
            return
        log_groups(self._evaluated.encoded.names, logging_outputs)
        if self._class_metric and self.labels:
            log_score(self._class_metric, self.labels)

    def heads(self) -> dict[str, Head]:
        """The only head."""
        labels = None if self.labels is None else tuple(self.labels)
        return {self.head: Head(labels, self.subject, self.several)}

    def _inherit(self, start: Start | None) -> None:
        told = self.cfg.steady_label_map
        if told and (start is None or self.cfg.steady_new_head):
            raise UserError(
                "--steady-label-map renames the classes of a checkpoint's head: give "
                "it with --finetune-from-model, or a model that has a head, and "
                "without --steady-new-head"
            )
        if start and not (self.cfg.steady_new_head and not start.resumes):
            start = renamed(start, self.head, told)
            self.adopt(start.heads.get(self.head))
        super()._inherit(start)

    def adopt(self, head: Head | None) -> None:
        """Take a checkpoint's classes and their order where a task has none yet."""

    def read(self, split: str) -> Encoded:
        """Every sentence of a split, before sub-sampling.

        Raises:
            UserError: the task has no such split, or a file is wrong.

        """
        raise NotImplementedError

    def encode(self, path: Path, reader: Reader, description: str) -> Encoded:
        """One file, tokenised and cached."""
        self._sources.append(str(path))
        labels = None if self.labels is None else tuple(self.labels)
        known = path, description, labels, self.several
        if known not in self._encoded:
            self.reads(path)
            self._encoded[known] = encode_cached(
                path,
                reader,
                description,
                labels,
                self.tokenizer,
                self.cache_dir,
                self.several,
                self.form,
                self.unknown,
            )
        return self._encoded[known]

    def dev(self, split: str, everything: Encoded) -> Encoded:
        """A development set, or the half of it that ``split`` names."""
        if not self.cfg.steady_split_dev:
            return everything
        seed = self.cfg.steady_subset_seed
        first, second = halves(everything.targets, seed, self.labels)
        return everything.take(second if split == "test" else first)

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Read a split and make it a data set."""
        self._sources = []
        encoded, pairs = self._read_any(split)
        sources = ", ".join(self._sources)
        training = split == "train"
        if training:
            encoded = self._subset(encoded)
        if not len(encoded):
            raise UserError(f"the {split} set is empty: {sources} has nothing for it")
        self.datasets[split] = self._dataset(encoded, training, pairs)
        first, metric = self._picking
        if split == first:
            check_picking(metric, split, encoded.names, pairs)
        said = f"{len(encoded):,} sentences ({self._mix(encoded)})"
        self.described[split] = said
        logger.info("%s: %s: %s", split, sources, said, extra=DETAIL)
        if training and self.labels and not self.several:
            logger.info("f1 is of: %s", f1_of(self.labels), extra=DETAIL)

    def _dataset(
        self, encoded: Encoded, training: bool, pairs: bool = False
    ) -> SentenceDataset:
        return SentenceDataset(
            encoded,
            self.dictionary,
            decoder_input=self.decodes,
            shuffle_seed=self.cfg.seed if training else None,
            recorded=self.recorder is not None,
            form=self.form,
            pairs=pairs,
        )

    def _read_any(self, split: str) -> tuple[Encoded, bool]:
        """A split, or a file of ``--steady-also``; and whether it is minimal pairs."""
        if split not in self.also:
            return self.read(split), False
        quoted = self.cfg.steady_quoted_tsv
        task = self.subject or str(getattr(self.cfg, "_name", ""))
        columns, label = self.columns, self.label_column
        own = not self.subject
        form = Form(columns, label, self.labels, quoted, task, self.bare, own)
        path, told = self.also[split], self.cfg.steady_also_labels
        reader, description, pairs = reading(path, form, told)
        return self.encode(path, reader, description), pairs

    def labels_of(self, subset: str) -> Sequence[str] | None:
        """The same for every split."""
        return self.labels

    def _subset(self, encoded: Encoded) -> Encoded:
        if self.cfg.steady_train_balanced:
            encoded = self._balance(encoded)
        if not self.cfg.steady_train_size:
            return encoded
        size = parse_size(
            self.cfg.steady_train_size, len(encoded), "--steady-train-size"
        )
        chosen, _ = stratified_subset(
            encoded.targets, size, self.cfg.steady_subset_seed, self.labels
        )
        return encoded.take(chosen)

    def _balance(self, encoded: Encoded) -> Encoded:
        flag, seed = "--steady-train-balanced", self.cfg.steady_subset_seed
        if not self.labels or self.several:
            raise UserError(f"{flag} is for one class a sentence; leave it out")
        return encoded.take(balanced_subset(encoded.targets, seed, self.labels, flag))

    def _mix(self, encoded: Encoded) -> str:
        if self.labels is None:
            low, high = encoded.targets.min(), encoded.targets.max()
            return f"scores: {low:g} to {high:g}"
        counts = how_many(encoded.targets, len(self.labels))
        kind, none = "classes", ""
        if self.several:
            kind, none = "labels", f"; none: {(~encoded.targets.any(1)).sum():,}"
        if len(self.labels) > _LISTED:
            least, most = counts.min(), counts.max()
            return f"{len(counts)} {kind}: {least:,} to {most:,} each{none}"
        pairs = zip(self.labels, counts, strict=True)
        return ", ".join(f"{label}: {n:,}" for label, n in pairs) + none

    def check_built(self, model: Any) -> None:
        """As every task's; and a decoder, of an ``--arch``, reads where text ends."""
        super().check_built(model)
        self.decodes = hasattr(model, "decoder")
        self.check_ends(self.cfg, self.decodes)

    def finish_model(self, model: Any, pretrained: bool) -> None:
        """Add the head, then load the weights."""
        self.add_head(model)
        super().finish_model(model, pretrained)
        if pretrained and self.cfg.steady_pooler:
            take_pooler(model, self.directory)

    def add_head(self, model: Any) -> None:
        """A new classification head of the task's size."""
        model.register_classification_head(self.head, num_classes=self.num_classes)

    def max_positions(self) -> int:
        """Tokens a sentence may have."""
        return self.longest


def rows(reader: Callable[..., Iterable[Example]], *args: Any) -> Reader:
    """A reader with its options bound, taking only the path."""

    def read(path: Path) -> Iterable[Example]:
        return reader(path, *args)

    return read


def named_like(folder: str, split: str) -> Path:
    """The table of a split directly in a folder.

    Raises:
        UserError: there is none, or there are several that differ.

    """
    stems = STEMS.get(split, (split,))
    names = [f"{stem}{suffix}" for stem in stems for suffix in TABLES]
    found = entries(Path(folder), names)
    if not found:
        near = [p.name for p in Path(folder).iterdir() if p.name.startswith(split)]
        but = f" but {', '.join(sorted(near)[:3])}" if near else ""
        raise UserError(
            f"{os.fspath(folder)} holds no {split} file{but}; put {split}.csv, .tsv or "
            ".jsonl there"
        )
    return the_only([[path] for path in found], split)[0]


#: Classes whose sizes are said one by one.
_LISTED = 12
