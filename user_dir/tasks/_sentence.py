"""What every sentence task shares: model directory, data, model, defaults."""

import argparse
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Optional

import numpy as np
from fairseq import models
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import II, MISSING

from ..data import Encoded, Example, SentenceDataset, SentenceTokenizer, encode_cached
from ..data.cache import Reader
from ..data.sampling import halves, parse_size, stratified_subset
from ..errors import UserError
from ..metrics import SCATTERED
from ..model_dir import ModelDirectory
from ..models.starting import mix_out, noisy_tune, reinitialise
from ..models.steady import (
    HEAD,
    SteadyModelConfig,
    load_pretrained,
    record_architecture,
    take_pooler,
)
from ..optim import tag_parameters
from ._recipe import UNSAID, Recipe, apply, end_schedule
from ._record import Recorder

logger = logging.getLogger(__name__)


def option(default: Any, text: str) -> Any:
    """A flag with its help."""
    return field(default=default, metadata={"help": text})


@dataclass
class SentenceTaskConfig(FairseqDataclass):
    """Flags of every sentence task."""

    data: str = option(MISSING, "folder that holds the raw files")
    steady_model: str = option("", "model directory, as scripts/import_hf.py makes it")
    steady_from_scratch: bool = option(
        False, "start from random weights; takes only form and tokeniser from the model"
    )
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
    steady_train_size: Optional[str] = option(
        None, "train on a stratified sub-sample: a count (1000) or a fraction (0.1)"
    )
    steady_subset_seed: int = option(
        0, "seed of the sub-sample and of the halves; --seed does not change them"
    )
    steady_split_dev: bool = option(
        False, "split the development set: first half 'valid', second half 'test'"
    )
    steady_cache_dir: Optional[str] = option(
        None, "where tokenised files are kept; default: .steady-cache beside each file"
    )
    steady_layer_decay: float = option(
        1.0,
        "factor on the learning rate from each layer to the one below it, in (0, 1]; "
        "for this plugin's optimizers",
    )
    steady_reinit_layers: int = option(
        0, "re-initialise this many layers from the top, and the head, from 0"
    )
    steady_reinit_head: bool = option(
        False, "give the head BERT's initialisation, N(0, 0.02^2), as with layers"
    )
    steady_noisytune: float = option(
        0.0, "perturb pretrained matrices once by this share of their spread; 0: none"
    )
    steady_mixout: float = option(
        0.0, "probability that a weight is its pretrained value in a pass, in [0, 1)"
    )
    steady_updates: int = option(
        0,
        "recipe: this many updates, a tenth of them warm-up, linear decay, ten "
        "evaluations; 0: no recipe",
    )
    steady_epochs: float = option(
        0.0, "the same, for as many updates as these passes over the data take"
    )
    steady_new_head: bool = option(
        False, "with --finetune-from-model: leave the checkpoint's head behind"
    )
    steady_record: Optional[str] = option(
        None,
        "folder for a JSON file per evaluation: metrics at full precision, outputs and "
        "gold labels in the data's order; and the configuration",
    )
    seed: int = II("common.seed")
    optimizer: Any = II("optimizer._name")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    restore_file: str = II("checkpoint.restore_file")


class SentenceTask(FairseqTask):
    """Predict a class or a score for a sentence or pair, from raw files.

    A subclass says which files make a split and how their rows read; this class owns
    everything from there to the model. It is used from fairseq-train and, for
    checkpoints, through fairseq's own loading.
    """

    #: class names in the order of the model's outputs; None for scores
    labels: Sequence[str] | None = None
    #: metric that picks the best checkpoint; larger is better
    metric: ClassVar[str] = "accuracy"
    #: splits evaluated by default, the first picking the best checkpoint
    valid_subsets: ClassVar[str] = "valid"

    def __init__(self, cfg: SentenceTaskConfig, directory: ModelDirectory) -> None:
        super().__init__(cfg)
        self.directory = directory
        self._model: Any = None
        self._trains = False
        self.recorder: Recorder | None = None
        self._evaluated: Any = None
        self.dictionary: Dictionary = directory.dictionary()
        longest = directory.manifest.architecture["max_positions"]
        self.longest: int = cfg.steady_max_length or longest
        self.tokenizer = SentenceTokenizer(directory, self.dictionary, self.longest)

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add the flags, and choose fairseq's own to suit the task."""
        super().add_args(parser)
        parser.set_defaults(
            criterion="plain",
            best_checkpoint_metric=cls.metric,
            maximize_best_checkpoint_metric=True,
            valid_subset=cls.valid_subsets,
            num_workers=0,
            # fairseq leaves this empty, and then fails on it, with its own default.
            total_num_update=UNSAID,
        )

    @classmethod
    def setup_task(cls, cfg: SentenceTaskConfig, **kwargs: Any) -> "SentenceTask":
        """Check the flags and open the model directory.

        Raises:
            UserError: a flag is missing or out of range.

        """
        if not cfg.steady_model:
            raise UserError(
                "--steady-model is missing: name a model directory, as made by "
                "scripts/import_hf.py or scripts/quickstart.sh"
            )
        directory = ModelDirectory.open(cfg.steady_model)
        longest = directory.manifest.architecture["max_positions"]
        if not 3 <= (cfg.steady_max_length or longest) <= longest:
            raise UserError(
                f"--steady-max-length {cfg.steady_max_length} is not in 3 to "
                f"{longest}, what this model has positions for"
            )
        _check_start(cfg)
        task = cls(cfg, directory)
        task._prepare_training()
        return task

    def _prepare_training(self) -> None:
        """The recipe and the record, if this is a training run."""
        cfg = self.cfg
        root: Any = getattr(cfg, "_get_root", dict)()
        if "optimization" not in root:  # a checkpoint's, to evaluate
            return
        self._apply_length(root)
        if cfg.steady_record:
            self.recorder = Recorder(cfg.steady_record, root)

    def _apply_length(self, root: Any) -> None:
        cfg = self.cfg
        if not (cfg.steady_updates or cfg.steady_epochs):
            end_schedule(root)
            return
        if cfg.steady_updates and cfg.steady_epochs:
            raise UserError("--steady-updates and --steady-epochs: give one of them")
        if cfg.steady_epochs:
            updates = self._updates_of_epochs(root)
            # Checkpoints keep root's copy, and must do without the data.
            for kept in (cfg, root.task):
                kept.steady_updates, kept.steady_epochs = updates, 0.0
        apply(Recipe(cfg.steady_updates), root)

    def _updates_of_epochs(self, root: Any) -> int:
        if not root.dataset.batch_size:
            raise UserError("--steady-epochs needs --batch-size to count updates")
        sentences = len(self._subset(self.read("train")).tokens)
        workers = root.distributed_training.distributed_world_size
        batch = root.dataset.batch_size * workers * root.optimization.update_freq[0]
        return Recipe.of_epochs(self.cfg.steady_epochs, sentences, batch).updates

    @property
    def num_classes(self) -> int:
        """Outputs of the head: classes, or 1 for scores."""
        return len(self.labels) if self.labels else 1

    @property
    def regression(self) -> bool:
        """Whether targets are scores."""
        return self.labels is None

    def read(self, split: str) -> Encoded:
        """Every sentence of a split, before sub-sampling.

        Raises:
            UserError: the task has no such split, or a file is wrong.

        """
        raise NotImplementedError

    def encode(self, path: Path, reader: Reader, description: str) -> Encoded:
        """One file, tokenised and cached."""
        folder = self.cfg.steady_cache_dir
        return encode_cached(
            path,
            reader,
            description,
            self.labels,
            self.tokenizer,
            Path(folder) if folder else None,
        )

    def dev(self, split: str, everything: Encoded) -> Encoded:
        """A development set, or the half of it that ``split`` names."""
        if not self.cfg.steady_split_dev:
            return everything
        first, second = halves(everything.targets, self.cfg.steady_subset_seed)
        return everything.take(second if split == "test" else first)

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Read a split and make it a data set."""
        encoded = self.read(split)
        training = split == "train"
        if training:
            encoded = self._subset(encoded)
        self.datasets[split] = SentenceDataset(
            encoded,
            self.dictionary,
            decoder_input=hasattr(self._model, "decoder"),
            shuffle_seed=self.cfg.seed if training else None,
            recorded=self.recorder is not None,
        )
        logger.info(
            "%s: %d sentences%s", split, len(encoded.tokens), self._mix(encoded)
        )

    def _subset(self, encoded: Encoded) -> Encoded:
        if not self.cfg.steady_train_size:
            return encoded
        size = parse_size(
            self.cfg.steady_train_size, len(encoded.tokens), "--steady-train-size"
        )
        chosen, _ = stratified_subset(
            encoded.targets, size, self.cfg.steady_subset_seed
        )
        return encoded.take(chosen)

    def _mix(self, encoded: Encoded) -> str:
        if self.labels is None:
            return ""
        counts = np.bincount(encoded.targets, minlength=len(self.labels))
        return ", " + ", ".join(
            f"{n} {label}" for n, label in zip(counts, self.labels, strict=True)
        )

    def build_model(self, cfg: SteadyModelConfig, from_checkpoint: bool = False) -> Any:
        """The model with its head and, unless a checkpoint follows, its weights."""
        described = getattr(cfg, "_name", None) == "steady"
        if described and not cfg.architecture:
            record_architecture(cfg, self.directory.manifest)
        pretrained = not (from_checkpoint or self.cfg.steady_from_scratch)
        if pretrained and not described:
            raise UserError(
                "with an --arch of its own the model takes no weights from "
                "--steady-model; leave --arch out, or add --steady-from-scratch (and "
                "--finetune-from-model for weights of that architecture)"
            )
        model = models.build_model(cfg, self, from_checkpoint)
        model.register_classification_head(HEAD, num_classes=self.num_classes)
        if pretrained:
            load_pretrained(model, self.directory)
            if self.cfg.steady_pooler:
                take_pooler(model, self.directory)
        tag_parameters(model, self.cfg.steady_layer_decay)
        if pretrained:
            self._change_start(model)
        self._model, self._trains = model, not from_checkpoint
        return model

    def _change_start(self, model: Any) -> None:
        """Before optimizer and fp32 copies exist, so that nothing undoes it."""
        cfg = self.cfg
        layers, head = cfg.steady_reinit_layers, cfg.steady_reinit_head
        changed = reinitialise(model, layers, head or layers > 0, cfg.seed)
        if changed:
            logger.info("re-initialised: %s", ", ".join(changed))
        if cfg.steady_noisytune > 0:
            noisy_tune(model, cfg.steady_noisytune, cfg.seed)
        if cfg.steady_mixout > 0:
            mix_out(model, cfg.steady_mixout)

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """The criterion, checked against the model before anything is trained."""
        criterion = super().build_criterion(cfg, from_checkpoint)
        if hasattr(criterion, "check_model") and self._trains:
            criterion.check_model(self._model)
        return criterion

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's; remembers the data set that is about to be evaluated."""
        self._evaluated = dataset
        # Otherwise fairseq adds one subset's sums to the next one's.
        metrics.reset_meters("valid")
        return super().get_batch_iterator(dataset, *args, **kwargs)

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        """Called by fairseq after each subset's evaluation."""
        if self.recorder is None:
            return
        subset = next(n for n, d in self.datasets.items() if d is self._evaluated)
        scattered = agg[SCATTERED].sum if SCATTERED in agg else None
        self.recorder.evaluation(subset, stats, scattered)

    def max_positions(self) -> int:
        """Tokens a sentence may have."""
        return self.longest

    @property
    def source_dictionary(self) -> Dictionary:
        """Of the model directory."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """Also the input's: fairseq builds BART's decoder from it."""
        return self.dictionary


#: Optimizers that scale learning rates by layer.
OPTIMIZERS = ("bert_adam", "pats_adamax", "sage")


def _check_start(cfg: SentenceTaskConfig) -> None:
    ranges = {
        "steady_layer_decay": 0 < cfg.steady_layer_decay <= 1,
        "steady_reinit_layers": cfg.steady_reinit_layers >= 0,
        "steady_noisytune": cfg.steady_noisytune >= 0,
        "steady_mixout": 0 <= cfg.steady_mixout < 1,
        "steady_updates": cfg.steady_updates == 0 or cfg.steady_updates >= 10,
        "steady_epochs": cfg.steady_epochs >= 0,
    }
    for name, good in ranges.items():
        if not good:
            flag = name.replace("_", "-")
            raise UserError(
                f"--{flag} {getattr(cfg, name)} is out of range: "
                + SentenceTaskConfig.__dataclass_fields__[name].metadata["help"]
            )
    if cfg.steady_layer_decay != 1 and cfg.optimizer not in OPTIMIZERS:
        raise UserError(
            f"--steady-layer-decay {cfg.steady_layer_decay} has no effect with "
            f"--optimizer {cfg.optimizer}; use one of: {', '.join(OPTIMIZERS)}"
        )
    changed = [
        "--" + name.replace("_", "-")
        for name in ("steady_reinit_layers", "steady_reinit_head", "steady_noisytune")
        if getattr(cfg, name)
    ]
    restored = cfg.restore_file not in ("checkpoint_last.pt", None)
    if changed and (cfg.finetune_from_model or restored):
        raise UserError(
            f"{changed[0]} changes the weights of --steady-model, and the checkpoint "
            "named by --finetune-from-model or --restore-file would overwrite them; "
            "leave one of them out"
        )


def rows(reader: Callable[..., Iterable[Example]], *args: Any) -> Reader:
    """A reader with its options bound, taking only the path."""

    def read(path: Path) -> Iterable[Example]:
        return reader(path, *args)

    return read


def named_like(folder: str, split: str) -> Path:
    """The .tsv, .csv or .jsonl file of a split directly in a folder.

    Raises:
        UserError: there is none.

    """
    names = [f"{stem}{suffix}" for stem in _stems(split) for suffix in SUFFIXES]
    for name in names:
        path = Path(folder) / name
        if path.is_file():
            return path
    raise UserError(
        f"{os.fspath(folder)} holds no {split} file; put one of these there: "
        + ", ".join(names)
    )


SUFFIXES = (".tsv", ".csv", ".jsonl")


def _stems(split: str) -> tuple[str, ...]:
    return ("valid", "dev") if split == "valid" else (split,)
