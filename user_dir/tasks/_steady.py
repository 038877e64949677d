"""What every task shares: model directory, start, recipe, record."""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Optional

import numpy as np
import torch
from fairseq import models
from fairseq.data import Dictionary, FairseqDataset
from fairseq.dataclass import FairseqDataclass
from fairseq.distributed.utils import is_master
from fairseq.logging import metrics
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.tasks import FairseqTask
from omegaconf import II, MISSING, DictConfig

from ..data.cache import digest_of
from ..data.ragged import repeated
from ..errors import UserError
from ..files import sha256
from ..flags import (
    FACTOR,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Flags,
    Range,
    at_least,
    check_flags,
    one_of,
    option,
)
from ..model_dir import DICTIONARY, WEIGHTS, ModelDirectory
from ..models.starting import mix_out, noisy_tune, reinitialise
from ..models.steady import (
    HEAD,
    SteadyModelConfig,
    load_pretrained,
    record_architecture,
    take_head,
)
from ..optim import tag_parameters
from ..patches.announcing import RUN
from ..precision import CHOICES, Autocast, autocast, prepare
from ..presets import NAMES
from ..scores.metrics import (
    COUNTS,
    LABELED,
    SCATTERED,
    larger_is_better,
    one_class,
    one_labelling,
    one_score,
)
from ..scores.summaries import SAID
from . import _heads
from ._ranges import check_criterion, check_head, check_ranges
from ._recipe import (
    UNSAID,
    Recipe,
    apply,
    count_updates,
    end_schedule,
    length_of,
    name_schedule,
    warn_of_schedule,
)
from ._record import Recorder

logger = logging.getLogger(__name__)


@dataclass
class SteadyTaskConfig(Flags, FairseqDataclass):
    """Flags of every task."""

    data: str = option(MISSING, "folder that holds the raw files")
    steady_model: str = option("", "model directory, as fairseq-steady import makes it")
    steady_from_scratch: bool = option(
        False, "start from random weights; takes only form and tokeniser from the model"
    )
    steady_train_size: Optional[str] = option(
        None, "train on a sub-sample, stratified by class: a count (1000) or part (0.1)"
    )
    steady_subset_seed: int = option(
        0, "seed of the sub-sample and of the halves; --seed does not change them"
    )
    steady_special_tokens: bool = option(
        False,
        "text may spell special tokens: </s> in a sentence ends it; default: text is "
        "text, and special tokens come from the template alone",
    )
    steady_cache_dir: Optional[str] = option(
        None,
        "where tokenised files are kept; default: $XDG_CACHE_HOME/fairseq-steady, or "
        "~/.cache/fairseq-steady",
    )
    steady_epoch_checkpoints: bool = option(
        False,
        "keep a checkpoint of every epoch, not only the best and the last; so does a "
        "--save-interval above 1, or --keep-last-epochs",
    )
    steady_autocast: str = option(
        "none",
        "precision of matrix products in training and evaluation; weights and the rest "
        "stay fp32, fp16 needs a GPU",
        one_of(*CHOICES),
    )
    steady_layer_decay: float = option(
        1.0,
        "factor on the learning rate from each layer to the one below it; for this "
        "plugin's optimizers",
        FACTOR,
    )
    steady_new_lr_scale: float = option(
        1.0,
        "factor on the learning rate of what is not pretrained: heads, and BERT2BERT's "
        "cross-attention; for this plugin's optimizers",
        POSITIVE,
    )
    steady_reinit_layers: int = option(
        0, "re-initialise this many layers from the top, and the head", NOT_NEGATIVE
    )
    steady_reinit_head: bool = option(
        False, "give the head BERT's initialisation, N(0, 0.02^2), as with layers"
    )
    steady_noisytune: float = option(
        0.0,
        "perturb pretrained matrices once by this share of their spread; 0: none",
        NOT_NEGATIVE,
    )
    steady_mixout: float = option(
        0.0, "probability that a weight is its pretrained value in a pass", SHARE
    )
    steady_updates: int = option(
        0,
        "recipe: this many updates, a tenth of them warm-up, linear decay, ten "
        "evaluations; 0: no recipe",
        Range(">= 10 or 0", lambda v: v == 0 or v >= 10),
    )
    steady_epochs: float = option(
        0.0,
        "the same, for as many updates as these passes over the data take",
        NOT_NEGATIVE,
    )
    steady_preset: str = option(
        "steady",
        "flags of the criterion and of the optimizer that are not given: steady, this "
        "plugin's defaults, or paper, the values of the method's own paper",
        one_of(*NAMES),
    )
    steady_record: Optional[str] = option(
        None,
        "folder for a JSON file per evaluation: metrics at full precision, outputs and "
        "gold labels in the data's order; and the configuration",
    )
    steady_peer_timeout: int = option(
        300,
        "seconds that a worker waits for the others in one exchange, before it says "
        "which is lost and stops",
        at_least(1),
    )
    seed: int = II("common.seed")
    optimizer: Any = II("optimizer._name")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    restore_file: str = II("checkpoint.restore_file")


class SteadyTask(FairseqTask):
    """Raw files and a model directory in, a model ready to train out.

    A subclass says what the files hold. It is used from fairseq-train and, for
    checkpoints, through fairseq's own loading.
    """

    #: metric that picks the best checkpoint
    metric: ClassVar[str]
    #: splits evaluated by default, the first picking the best checkpoint
    valid_subsets: ClassVar[str] = "valid"
    #: flag that cuts long texts
    cuts: ClassVar[str] = "--steady-max-length"
    #: subcommand that uses a checkpoint, and what it is given
    next: ClassVar[str] = "predict {checkpoint} FILE"
    #: how a training run multiplies, in its evaluations too
    _autocast = Autocast()

    def __init__(self, cfg: SteadyTaskConfig, directory: ModelDirectory) -> None:
        super().__init__(cfg)
        self.directory = directory
        self.dictionary: Dictionary = directory.dictionary()
        self.recorder: Recorder | None = None
        #: what each split that was loaded holds
        self.described: dict[str, str] = {}
        #: digest of the dictionary, and of each data file read so far, by folder and
        #: name
        self.files: dict[str, str] = {DICTIONARY: sha256(directory.path / DICTIONARY)}
        #: where these are
        self.places: dict[str, Path] = {}
        self._moves: _heads.Moves = {}
        #: whether they are of the model directory's head, and of no checkpoint's
        self._own_head = False
        self._evaluated: Any = None
        self._remarked: set[str] = set()
        self._master = True
        self._model: Any = None
        self._trains = False

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
            log_interval=10,
            # fairseq leaves this empty, and then fails on it, with its own default.
            total_num_update=UNSAID,
            # It would look for files named as fairseq's own tasks name them.
            ignore_unused_valid_subsets=True,
        )

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "SteadyTask":
        """Check the flags and open the model directory.

        Raises:
            UserError: a flag is missing or out of range.

        """
        if not cfg.steady_model:
            raise UserError(
                "--steady-model is missing: name a model directory, as made by "
                "fairseq-steady import or scripts/quickstart.sh"
            )
        directory = ModelDirectory.open(cfg.steady_model)
        cls.check(cfg, directory)
        root: Any = getattr(cfg, "_get_root", dict)()
        if "checkpoint" in root:
            cls.complete(cfg, root)
        task = cls(cfg, directory)
        if not kwargs.get("from_checkpoint"):  # that is only evaluated
            task._prepare_training()
        return task

    @classmethod
    def check(cls, cfg: Any, directory: ModelDirectory) -> None:
        """Refuse flags that cannot be meant.

        Raises:
            UserError: names the flag and the mend.

        """
        check_flags(cfg, getattr(cls, "__dataclass", SteadyTaskConfig))
        _check_start(cfg)

    @classmethod
    def complete(cls, cfg: Any, root: Any) -> None:
        """Fill in what flags that passed decide of fairseq's configuration ``root``."""

    def _prepare_training(self) -> None:
        """Heads, direction, recipe and record, if this is a training run."""
        cfg = self.cfg
        root: Any = getattr(cfg, "_get_root", dict)()
        if "optimization" not in root:
            return
        _check_dropped(cfg, root)
        root.dataset.ignore_unused_valid_subsets = True
        RUN.begin(root, self)
        name_schedule(root)
        check_ranges(root)
        gpu = torch.cuda.is_available() and not root.common.cpu
        self._autocast = autocast(
            str(cfg.steady_autocast), "cuda" if gpu else "cpu", root.common
        )
        leave_out_epochs(root)
        self.settle_data()
        if hasattr(cfg, "steady_new_head"):
            start = _heads.find_start(root.checkpoint)
            self._own_head = start is None
            self._inherit(start or self._start_of_model())
        follow_metric(root)
        self._master = is_master(root.distributed_training)
        self._apply_length(root)
        warn_of_schedule(root, self._updates_of(root))
        if cfg.steady_record:
            places: dict[str, Path] = {}
            models = {
                _key(one.path / WEIGHTS, places): one.manifest.files.get(
                    WEIGHTS, "unknown"
                )
                for one in self.models()
            }
            self.recorder = Recorder(cfg.steady_record, root, self.files, models)

    def settle_data(self) -> None:
        """Find out, before the data are used, what a task can tell of them."""

    @property
    def model(self) -> Any:
        """The latest that was built."""
        return self._model

    def next_command(self, checkpoint: str) -> str:
        """What to do with a checkpoint of this task, as a shell takes it."""
        return f"fairseq-steady {self.next.format(checkpoint=checkpoint)}"

    def heads(self) -> dict[str, _heads.Head]:
        """What each head of the model predicts, by its name; none without heads."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of a task: its heads' classes, and sizes of subsets."""
        heads = {name: head.stored() for name, head in self.heads().items()}
        rows = {split: len(data) for split, data in self.datasets.items()}
        kept = {"rows": rows, **({_heads.HEADS: heads} if heads else {})}
        return {**super().state_dict(), **kept}

    def _start_of_model(self) -> _heads.Start | None:
        """The model directory as what heads start from, if it has one."""
        own = self.directory.manifest.head
        if own is None or self.cfg.steady_from_scratch:
            return None
        labels = own["labels"]
        names = None if labels is None else tuple(labels)
        head = _heads.Head(names, several=own.get("several", False))
        return _heads.Start(self.directory.path, {HEAD: head}, resumes=False)

    def _inherit(self, start: _heads.Start | None) -> None:
        """Settle what becomes of a checkpoint's heads, before a model is built."""
        if start and (heads := self.heads()):
            new = self.cfg.steady_new_head and not start.resumes
            self._moves = dict.fromkeys(heads) if new else _heads.moves(start, heads)
            self._check_pooler(start, heads)

    def _check_pooler(self, start: _heads.Start, heads: Mapping[str, Any]) -> None:
        """Refuse a pooler where every head goes on with what it has learnt."""
        goes_on = all(self._moves.get(name) is not None for name in heads)
        if goes_on and self.cfg.steady_pooler and not start.resumes:
            raise UserError(
                f"--steady-pooler is for a new head, and that of {start.path} goes on; "
                "add --steady-new-head, or leave it out"
            )

    def adapt_heads(
        self, heads: Any, state: dict[str, Any], prefix: str, *_: Any
    ) -> None:
        """Change a checkpoint's heads as settled, as torch is about to load them."""
        _heads.apply(self._moves, heads, state, prefix)

    def _apply_length(self, root: Any) -> None:
        cfg = self.cfg
        if not (cfg.steady_updates or cfg.steady_epochs):
            end_schedule(root, self._updates_of(root))
            return
        if cfg.steady_updates and cfg.steady_epochs:
            raise UserError("--steady-updates and --steady-epochs: give one of them")
        if cfg.steady_epochs:
            counted = self._updates_of(root)(cfg.steady_epochs)
            updates = Recipe.of_epochs(counted).updates
            # Checkpoints keep root's copy, and must do without the data.
            for kept in (cfg, root.task):
                kept.steady_updates, kept.steady_epochs = updates, 0.0
        apply(Recipe(cfg.steady_updates), root)

    def _updates_of(self, root: Any) -> Callable[[float], int]:
        """Counts the updates of some passes over the training data."""

        def count(epochs: float) -> int:
            data = self.training_set()
            if root.dataset.max_tokens is not None:
                self._check_fits(data, root.dataset.max_tokens, "train")
            return count_updates(epochs, data, root)

        return count

    def updates_in_all(self) -> int:
        """Updates of the whole training, 0 where no flag ends it."""
        root: Any = getattr(self.cfg, "_get_root", dict)()
        return length_of(root, self._updates_of(root))

    def training_set(self) -> FairseqDataset:
        """What is trained on, to be counted before there is a model."""
        raise NotImplementedError

    def trained_on(self) -> dict[str, int]:
        """How many texts of each split are in the training set too, token for token."""
        inputs = {split: data.inputs for split, data in self.datasets.items()}
        return repeated(inputs, inputs.pop("train"))

    @property
    def cache_dir(self) -> Path | None:
        """Where tokenised files are kept, if not with the user's other caches."""
        folder = self.cfg.steady_cache_dir
        return Path(folder) if folder else None

    def reads(self, path: Path, digest: str = "") -> None:
        """Remember what a file held, or a folder whose digest is given.

        Checkpoints keep it.
        """
        if digest or path.is_file():
            self.files[_key(path, self.places)] = digest or digest_of(path)

    def models(self) -> list[ModelDirectory]:
        """What the scores depend on."""
        return [self.directory]

    def check_built(self, model: Any) -> None:
        """Refuse a model, of an ``--arch`` of its own, that the task has no use for.

        Raises:
            UserError: it has no place for heads.

        """
        if not hasattr(model, "register_classification_head"):
            raise UserError(
                "--arch: this architecture has no classification heads, which the "
                "task needs; leave --arch out, or name one of an encoder that has them"
            )

    def finish_model(self, model: Any, pretrained: bool) -> None:
        """Complete a freshly built model and load its weights."""
        if pretrained:
            load_pretrained(model, self.directory)
            order = self._moves.get(HEAD) if self._own_head else None
            if order is not None:
                take_head(model, self.directory, order)

    def build_model(self, cfg: SteadyModelConfig, from_checkpoint: bool = False) -> Any:
        """The model and, unless a checkpoint follows, its weights."""
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
        self.check_built(model)
        self.finish_model(model, pretrained)
        tag_parameters(
            *(model, self.cfg.steady_layer_decay, self.cfg.steady_new_lr_scale),
            self._new_parts(model),
        )
        if pretrained:
            self._change_start(model)
        if self._autocast.dtype:
            prepare(model)
        self._model, self._trains = model, not from_checkpoint
        return model

    def _new_parts(self, model: Any) -> set[str]:
        """Names of the parameters that ``--steady-new-lr-scale`` is about.

        Raises:
            UserError: it is given and there are none, or there is nothing else.

        """
        scale, directory = self.cfg.steady_new_lr_scale, self.directory
        if scale == 1:
            return set()
        flag = f"--steady-new-lr-scale {scale:g} has no effect"
        if self.cfg.steady_from_scratch:
            raise UserError(
                f"{flag} with --steady-from-scratch, where every part is new; set --lr"
            )
        found = directory.new_parts(name for name, _ in model.named_parameters())
        if not found:
            raise UserError(
                f"{flag}: every part of {directory.path} is pretrained; leave it out"
            )
        return found

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
        check_criterion(self, cfg)
        criterion = super().build_criterion(cfg, from_checkpoint)
        if self._trains:
            check_head(self._model, criterion)
        if hasattr(criterion, "check_model") and self._trains:
            criterion.check_model(self._model)
            criterion.prepare_model(self._model)
        return criterion

    def train_step(
        self, sample: Any, model: Any, criterion: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As fairseq's, its forward passes under ``--steady-autocast``."""
        under = self._autocast.around(criterion)
        return super().train_step(sample, model, under, *args, **kwargs)

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """As fairseq's; the last that happens before it counts memory anew."""
        super().optimizer_step(optimizer, model, update_num)
        if self.recorder:
            self.recorder.measure()

    def valid_step(self, sample: Any, model: Any, criterion: Any) -> Any:
        """As fairseq's, under ``--steady-autocast``."""
        return super().valid_step(sample, model, self._autocast.around(criterion))

    def has_sharded_data(self, split: str) -> bool:
        """No: a colon in a path of this plugin's tasks is a colon."""
        return False

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's; remembers the data set that is about to be evaluated.

        Raises:
            UserError: a sentence is longer than ``--max-tokens``, so that fairseq would
                leave it out or stop.

        """
        self._evaluated = dataset
        most = args[0] if args else kwargs.get("max_tokens")
        if most is not None:
            self._check_fits(dataset, most, self.evaluated)
        # Otherwise fairseq adds one subset's sums to the next one's.
        metrics.reset_meters("valid")
        return super().get_batch_iterator(dataset, *args, **kwargs)

    def _check_fits(self, dataset: Any, most: int, split: str) -> None:
        lengths = np.reshape(dataset.sizes, (len(dataset), -1)).max(1)
        lengths = lengths * getattr(dataset, "rows", 1)
        if not len(lengths) or lengths.max() <= most:
            return
        root: Any = getattr(self.cfg, "_get_root", dict)()
        own = "dataset" in root and root.dataset.max_tokens != most
        flag = "--max-tokens-valid" if own else "--max-tokens"
        longest = int(lengths.argmax())
        raise UserError(
            f"the longest sentence of {split} (number {longest + 1} of "
            f"{len(lengths)}, from {self.cfg.data}) has {lengths[longest]} tokens, "
            f"more than {flag} {most}: raise it to {lengths[longest]} or more, use "
            f"--batch-size, or cut sentences with {self.cuts}"
        )

    @property
    def evaluated(self) -> str:
        """The split that is being evaluated."""
        found = (name for name, d in self.datasets.items() if d is self._evaluated)
        return str(next(found))

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        """Called by fairseq after each subset's evaluation."""
        subset = self.evaluated
        sums = {n: agg[n].sum for n in (COUNTS, LABELED, SCATTERED, SAID) if n in agg}
        labels = self.labels_of(subset)
        same = _same_answer(sums, labels) or self.remarkable(agg)
        RUN.evaluated(subset, stats, same)
        self._remark(subset, same)
        if self.recorder:
            of = getattr(self._evaluated, "encoded", None)
            whole = self.score_of(subset)
            self.recorder.evaluation(subset, stats, sums, labels, of, whole)
        metrics.reset_meters("valid")  # else checkpoints keep every prediction

    def remarkable(self, agg: Mapping[str, Any]) -> str | None:
        """What else is to be said of an evaluation, from its meters."""
        return None

    def _remark(self, subset: str, said: str | None) -> None:
        """Warn of a subset that gets one answer; once, until it gets more."""
        if said and self._master and subset not in self._remarked:
            logger.warning("%s: %s", subset, said)
        (self._remarked.add if said else self._remarked.discard)(subset)

    def labels_of(self, subset: str) -> Sequence[str] | None:
        """Classes of a split that is evaluated; None for scores and sequences."""
        return None

    def score_of(self, subset: str) -> Sequence[str]:
        """The metrics whose mean is logged as ``score``; none where nothing is."""
        return ()

    @property
    def source_dictionary(self) -> Dictionary:
        """Of the model directory."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """Also the input's: fairseq builds BART's decoder from it."""
        return self.dictionary


#: What helps a model that gives everything one answer.
_SAME = (
    "it tells nothing apart: train longer, or try another --lr (smaller, with warm-up) "
    "or --seed, or a weaker regulariser"
)


def _key(path: Path, places: dict[str, Path]) -> str:
    """Folder and name; more of a path where another of those is taken."""
    for count in range(2, len(path.parts) + 1):
        key = "/".join(path.parts[-count:])
        if places.setdefault(key, path) == path:
            return key
    return str(path)


def _same_answer(sums: Mapping[str, Any], labels: Sequence[str] | None) -> str | None:
    """What to say of a subset that gets one answer, and what helps."""
    said = None
    if COUNTS in sums and labels:
        said = one_class(sums[COUNTS], labels)
    elif LABELED in sums and labels:
        said = one_labelling(sums[LABELED], labels)
    elif SCATTERED in sums:
        said = one_score(sums[SCATTERED])
    return said and f"{said}; {_SAME}"


def follow_metric(root: Any) -> None:
    """Let the metric that picks checkpoints say which of two values is better.

    Whatever a flag or a YAML file says: fairseq's flag can only be set, and the
    smallest accuracy or the largest loss is nobody's best.
    """
    metric = root.checkpoint.best_checkpoint_metric
    larger = larger_is_better(metric)
    key = "maximize_best_checkpoint_metric"
    if root.checkpoint[key] != larger:
        word = "largest" if larger else "smallest"
        logger.info("the best checkpoint is that of the %s %s", word, metric)
    root.checkpoint[key] = larger
    schedule = root.get("lr_scheduler")
    if isinstance(schedule, DictConfig) and key in schedule:
        schedule[key] = larger


def leave_out_epochs(root: Any) -> None:
    """Keep the best and the last checkpoint alone, unless more are asked for."""
    saving = root.checkpoint
    asked = saving.save_interval > 1 or saving.keep_last_epochs > 0
    if not (asked or root.task.steady_epoch_checkpoints):
        saving.no_epoch_checkpoints = True


#: What changes pretrained weights before the first update.
_CHANGES = ("steady_reinit_layers", "steady_reinit_head", "steady_noisytune")


def _given(cfg: Any, names: Sequence[str]) -> list[str]:
    """The flags among these that ask for something."""
    return ["--" + n.replace("_", "-") for n in names if getattr(cfg, n, None)]


def _check_dropped(cfg: Any, root: Any) -> None:
    """Refuse what a training's start would leave out, or take from elsewhere.

    Raises:
        UserError: names the flags.

    """
    about = _given(cfg, (*_CHANGES, "steady_mixout", "steady_pooler"))
    if about and cfg.steady_from_scratch:
        raise UserError(
            f"{about[0]} is about pretrained weights, and has no effect with "
            "--steady-from-scratch; leave one of them out"
        )
    anew = _given(cfg, ("steady_reinit_layers", "steady_reinit_head"))
    if anew and getattr(cfg, "steady_pooler", False):
        raise UserError(
            f"{anew[0]} draws the head anew, and --steady-pooler starts it from the "
            "pretrained pooler; leave one of them out"
        )
    changed, once = _given(cfg, _CHANGES), root.checkpoint.get("continue_once")
    if changed and once:
        raise UserError(
            f"{changed[0]} changes the weights of --steady-model, and --continue-once "
            f"{once} would overwrite them; leave one of them out"
        )
    if cfg.steady_mixout and cfg.finetune_from_model:
        raise UserError(
            "--steady-mixout mixes in the weights of --steady-model, and not those of "
            f"--finetune-from-model {cfg.finetune_from_model}; leave one of them out"
        )


def _check_start(cfg: SteadyTaskConfig) -> None:
    made = OPTIMIZER_REGISTRY.items()
    scaling = [name for name, kind in made if getattr(kind, "scales_layers", False)]
    for name in ("steady_layer_decay", "steady_new_lr_scale"):
        if getattr(cfg, name) != 1 and cfg.optimizer not in scaling:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(cfg, name)} has no effect with "
                f"--optimizer {cfg.optimizer}; use one of: {', '.join(scaling)}"
            )
    changed = _given(cfg, _CHANGES)
    restored = cfg.restore_file not in ("checkpoint_last.pt", None)
    if changed and (cfg.finetune_from_model or restored):
        raise UserError(
            f"{changed[0]} changes the weights of --steady-model, and the checkpoint "
            "named by --finetune-from-model or --restore-file would overwrite them; "
            "leave one of them out"
        )
