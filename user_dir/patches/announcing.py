"""What a training run says: five lines before it, where it is, and how to go on.

Everything else that is logged, fairseq's configuration, its printout of the model and
its own steps, is in ``train.log`` in the save directory. ``FAIRSEQ_STEADY_VERBOSE=1``
and ``--log-format json``, which programs read, show it in place of that file. Runs of
fairseq's own tasks are left alone.
"""

import functools
import logging
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import progress_bar
from omegaconf import DictConfig, OmegaConf
from torch import nn

from .. import fused
from ..files import own_file
from .checkpoints import load_safely
from .durable import standing
from .quiet import verbose

#: Of what is announced, however the plugin was imported.
logger = logging.getLogger("fairseq_steady")
#: What logs the beginning and the end of fairseq's training.
_TRAINING = logging.getLogger("fairseq_cli.train")

LOG = "train.log"
#: Given as ``extra`` with a line of this plugin's that the announcement repeats.
DETAIL = {"detail": True}
#: Beginnings of the lines of fairseq's that are shown.
_TOLD = ("Loaded checkpoint", "early stop", "stopping training because")
_PACKAGES = (__name__.partition(".")[0], logger.name)
#: Checkpoints are large from here on.
_MEGABYTE = 10**6
#: fp32 numbers kept of each parameter: itself and an Adam's two moments.
_MOMENTS = 3


# --- what is shown --------------------------------------------------------------------


class Shown(logging.Filter):
    """Of a run's log lines, those that a terminal shows.

    Args:
        master: whether this is the first worker; the others show errors alone.

    """

    def __init__(self, master: bool) -> None:
        super().__init__()
        self.master = master

    def filter(self, record: logging.LogRecord) -> bool:
        """Warnings, what this plugin says, and fairseq's progress."""
        if record.levelno >= logging.ERROR or not self.master:
            return record.levelno >= logging.ERROR
        if record.name == "py.warnings":
            return False
        if record.levelno >= logging.WARNING or record.module == "progress_bar":
            return True
        ours = record.name.partition(".")[0] in _PACKAGES
        detail = getattr(record, "detail", False)
        return (ours and not detail) or str(record.msg).startswith(_TOLD)


# --- the run --------------------------------------------------------------------------


class Run:
    """The training run of this process, if it is of one of this plugin's tasks."""

    def __init__(self) -> None:
        self.cfg: Any = None
        self.task: Any = None
        self._undo: list[Callable[[], Any]] = []
        self.end()

    def end(self) -> None:
        """Forget the run; its log lines are shown as ever."""
        while self._undo:
            self._undo.pop()()
        self.cfg = self.task = None
        #: updates in an epoch, in all, when this process began
        self.epoch_size, self.planned, self.first = 0, math.inf, 0
        #: says how many updates are done, which may be of epochs of another size
        self.updates: Callable[[], int] | None = None
        self.started: float | None = None
        self.best: tuple[float, int] | None = None
        #: what is to be said of a subset that got one answer, by it and by update
        self.same: dict[tuple[str, int], str] = {}

    @property
    def saves(self) -> bool:
        """Whether it leaves checkpoints."""
        return not self.cfg.checkpoint.no_save

    @property
    def uneven(self) -> bool:
        """Whether some epochs have fewer updates than others, by --update-freq."""
        return len(self.cfg.optimization.get("update_freq", ())) > 1

    @property
    def folder(self) -> Path:
        """Where they go."""
        return Path(self.cfg.checkpoint.save_dir)

    def begin(self, cfg: Any, task: Any = None) -> None:
        """A run with this configuration begins.

        Args:
            cfg: fairseq's whole configuration.
            task: this plugin's, once there is one.

        """
        if self.cfg is not cfg:
            self.end()
            if OmegaConf.select(cfg, "task.steady_model") is None:
                return
            self.cfg = cfg
            self._quieten()
        self.task = task

    def _quieten(self) -> None:
        master = distributed_utils.is_master(self.cfg.distributed_training)
        read_by_programs = master and self.cfg.common.log_format == "json"
        if verbose() or read_by_programs:
            return
        if master and self.saves:
            self._keep_log()
        logging.captureWarnings(True)
        self._undo.append(lambda: logging.captureWarnings(False))
        shown = Shown(master)
        for handler in logging.getLogger().handlers:
            if not isinstance(handler, logging.FileHandler | _LogFile):
                handler.addFilter(shown)
                self._undo.append(functools.partial(handler.removeFilter, shown))

    def _keep_log(self) -> None:
        goes_on = standing(self.folder) is not None
        handler = _LogFile(own_file(self.folder / LOG, "a" if goes_on else "w"))
        handler.setFormatter(
            logging.Formatter(
                "%(asctime)s | %(levelname)s | %(name)s | %(message)s",
                "%Y-%m-%d %H:%M:%S",
            )
        )
        logging.getLogger().addHandler(handler)
        self._undo.append(handler.stream.close)
        self._undo.append(functools.partial(logging.getLogger().removeHandler, handler))

    def evaluated(
        self, subset: str, stats: Mapping[str, Any], same: str | None = None
    ) -> None:
        """Remember the best score, the first of equals, and when it was.

        Args:
            subset: of the data.
            stats: fairseq's, with ``num_updates``.
            same: what is to be said if the model gives all of it one answer.

        """
        if same:
            self.same[subset, int(stats["num_updates"])] = same
        chosen = self.cfg.checkpoint if self.cfg else None
        if not chosen or subset != self.cfg.dataset.valid_subset.split(",")[0]:
            return
        value = stats.get(chosen.best_checkpoint_metric)
        if value is None:
            return
        larger = chosen.maximize_best_checkpoint_metric
        if self.best and not (value > self.best[0] if larger else value < self.best[0]):
            return
        if not math.isnan(value):
            self.best = float(value), int(stats["num_updates"])

    # --- where it is ---

    def enter(self, bar: Any, iterator: Any, epoch: int) -> None:
        """An epoch begins: count the whole run's updates in its progress bar."""
        self.epoch_size = len(iterator)
        past = (epoch - 1) * self.epoch_size + getattr(iterator, "n", 0)
        done = self.updates() if self.updates else past
        self.planned = self._last(done, past)
        if self.started is None:
            self.started, self.first = time.time(), done
            for line in details(self):
                logger.info("%s", line, extra=DETAIL)
            for line in announcement(self):
                logger.info("%s", line)
        if isinstance(bar, progress_bar.TqdmProgressBar) and not bar.tqdm.disable:
            self._stretch(bar.tqdm, done)
        elif isinstance(bar, progress_bar.SimpleProgressBar):
            bar.log = self._placing(bar.log)

    def _last(self, done: int, past: int) -> float:
        """The last update.

        Args:
            done: updates so far.
            past: what they would be in epochs of this one's size.

        """
        length = self.cfg.optimization
        if self.uneven:
            first = self.started is None
            return self.task.updates_in_all() or math.inf if first else self.planned
        left = length.max_epoch * self.epoch_size - past
        epochs = done + left if length.max_epoch else math.inf
        return min(length.max_update or math.inf, epochs)

    def _stretch(self, meter: Any, done: int) -> None:
        """Over the whole run, so that the time left is the run's."""
        meter.total = None if math.isinf(self.planned) else int(self.planned)
        meter.initial, meter.start_t = self.first, self.started
        meter.n = meter.last_print_n = done
        meter.refresh()

    def _placing(self, log: Callable[..., None]) -> Callable[..., None]:
        def placed(stats: Mapping[str, Any], tag: Any = None, step: Any = None) -> None:
            log({**self.place(step or 0), **stats}, tag=tag, step=step)

        return placed

    def place(self, update: int) -> dict[str, str]:
        """Update n of N, and the time left."""
        if math.isinf(self.planned):
            return {"update": str(update)}
        found = {"update": f"{update} of {int(self.planned)}"}
        if self.started and update > self.first:
            each = (time.time() - self.started) / (update - self.first)
            found["left"] = duration(each * (self.planned - update))
        return found


class _LogFile(logging.StreamHandler[Any]):
    """Everything that is logged, in a file that is not opened by its name alone."""


#: Of this process.
RUN = Run()


# --- words ----------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """As people say it: 12 s, 4 min, 1 h 12 min."""
    if seconds < 99.5:
        return f"{max(seconds, 0):.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def announcement(run: Run) -> list[str]:
    """Data, model, method, length, and where results go."""
    return [
        f"data: {run.task.cfg.data}: " + "; ".join(_data(run.task)),
        _model(run.task),
        _method(run.cfg.criterion),
        _length(run),
        _results(run),
    ]


def details(run: Run) -> list[str]:
    """Which fused parts it has, for ``train.log``."""
    return fused.said(lambda: fused.of_run(run.cfg, run.task.model))


def _data(task: Any) -> Iterator[str]:
    """What is trained on, and then the rest, with what of it is trained on too."""
    again = task.trained_on()
    for split in sorted(task.described, key=lambda one: one in again):
        also = f", {again[split]:,} of them in train too" if again.get(split) else ""
        yield f"{split} {task.described[split]}{also}"


def _model(task: Any) -> str:
    parameters = list(task.model.parameters())
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    part = "" if trained == count else f", {trained:,} of them trained"
    name, start = type(task.model).__name__, task.directory.path
    weights = ", random weights" * task.cfg.steady_from_scratch
    return f"model: {name} from {start}{weights}, {count:,} parameters{part}"


def _method(criterion: Any) -> str:
    """Its weight, and what differs from the defaults."""
    name = criterion._name
    made = CRITERION_DATACLASS_REGISTRY.get(name)  # none of an old-fashioned criterion
    usual = {n: f.default for n, f in getattr(made, "__dataclass_fields__", {}).items()}
    given = criterion if isinstance(criterion, Mapping) else vars(criterion)
    flags = [
        _flag(key, value)
        for key, value in given.items()
        if key == f"{name}_lambda"
        or (key.startswith(f"{name}_") and str(value) != str(usual.get(key)))
    ]
    return " ".join([f"method: {name}", *flags])


def _flag(key: str, value: Any) -> str:
    return f"--{key.replace('_', '-')} {value}"


def _length(run: Run) -> str:
    cfg, size = run.cfg, run.epoch_size
    workers = cfg.distributed_training.distributed_world_size
    batch = (
        f"{cfg.dataset.batch_size}"
        if cfg.dataset.batch_size
        else f"up to {cfg.dataset.max_tokens} tokens"
    )
    times = [f"{workers} workers"] * (workers > 1)
    if (freq := cfg.optimization.update_freq) != [1]:
        times.append(f"--update-freq {','.join(map(str, freq))}")
    batch += "".join(f" x {each}" for each in times)
    if math.isinf(run.planned):
        length = f"no end, epochs of {size} updates"
    elif run.uneven:
        length = f"{int(run.planned)} updates"
    else:
        epochs = run.planned / size
        said = f"{epochs:.0f}" if epochs >= 100 else f"{epochs:.3g}"
        said += " epochs" if epochs != 1 else " epoch"
        length = f"{int(run.planned)} updates, {said} of {size}"
    begun = f", {run.first} of them done" if run.first else ""
    rates = ", ".join(f"{rate:g}" for rate in cfg.optimization.lr)
    return (
        f"training: {length}{begun}, batches of {batch}; {cfg.optimizer._name} "
        f"--lr {rates}, {cfg.lr_scheduler._name}"
    )


def _results(run: Run) -> str:
    if not run.saves:
        return "results: nothing is kept (--no-save)"
    chosen = run.cfg.checkpoint
    kinds = ["checkpoint_best.pt"] * (not run.cfg.dataset.disable_validation)
    kinds += ["checkpoint_last.pt"] * (not chosen.no_last_checkpoints)
    kinds += ["one an epoch"] * (not chosen.no_epoch_checkpoints)
    newest = chosen.save_interval_updates > 0 and chosen.keep_interval_updates == 1
    kinds += ["the newest evaluation's"] * newest
    size = checkpoint_bytes(run.task.model, not chosen.no_save_optimizer_state)
    each = f", about {size // _MEGABYTE:,} MB each" if size >= _MEGABYTE else ""
    log = run.folder / LOG
    rest = f"; the rest of the log: {log}" if log.is_file() and not verbose() else ""
    return f"results: {run.folder}: {', '.join(kinds)}{each}{rest}"


def checkpoint_bytes(model: nn.Module, with_optimizer: bool) -> int:
    """About what a checkpoint takes: weights, and what an Adam keeps of them."""
    numbers = sum(p.numel() for p in model.parameters())
    return numbers * 4 * (_MOMENTS if with_optimizer else 1)


def last_lines(run: Run) -> list[str]:
    """What to know of the best model: its score and checkpoint, how to go on.

    First that it gives one answer to all of a subset, where it does.
    """
    run.best = _kept_best(run) or run.best
    at = run.best[1] if run.best else None
    same = [f"{subset}: {s}" for (subset, n), s in run.same.items() if n == at]
    return [*same, *_ended(run)]


def _kept_best(run: Run) -> tuple[float, int] | None:
    """Score and update of checkpoint_best.pt.

    Evaluations between checkpoints may be better; an earlier start's are not known.
    """
    path = run.folder / "checkpoint_best.pt"
    if not (run.saves and path.is_file()):
        return None
    state = load_safely(path, mmap=True)
    score = (state.get("extra_state") or {}).get("val_loss")
    past = state.get("optimizer_history")
    if score is None or not past:
        return None
    return float(score), int(past[-1]["num_updates"])


#: What ends a training, and lets it go on.
_MORE = "a larger --max-epoch, --max-update, --stop-time-hours or --patience"


def _ended(run: Run) -> list[str]:
    metric = run.cfg.checkpoint.best_checkpoint_metric
    said = "no evaluation"
    if run.best:
        said = f"best {metric} {run.best[0]:.4g} at update {run.best[1]}"
    if run.started is None:
        said = f"nothing was left to train ({_MORE} goes on)"
    if not run.saves:
        return [f"done: {said}; nothing is kept (--no-save)"]
    found = [
        path
        for name in ("checkpoint_best.pt", "checkpoint_last.pt")
        if (path := run.folder / name).is_file()
    ]
    if not found:
        return [f"done: {said}; {run.folder} has no checkpoint"]
    return [
        f"done: {said}: {found[0]}",
        f"go on with: {run.task.next_command(shlex.quote(str(found[0])))}",
    ]


# --- where fairseq calls this ---------------------------------------------------------


class _Hearing(logging.Filter):
    """fairseq logs its configuration first and that it is done last: runs' two ends."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the line through."""
        if isinstance(record.msg, DictConfig):
            RUN.begin(record.msg)
        elif str(record.msg).startswith("done training in") and RUN.task:
            for line in last_lines(RUN):
                logger.info("%s", line)
        return True


_HEARING = _Hearing()


def bars(make: Callable[..., Any]) -> Callable[..., Any]:
    """fairseq's progress bars, that of training counting the whole run.

    A meter that saw nothing since the last line has no value, and none is logged.
    """

    @functools.wraps(make)
    def progress_bar(iterator: Any, *args: Any, **kwargs: Any) -> Any:
        made = make(iterator, *args, **kwargs)
        if RUN.task is None:
            return made
        bar = made
        while hasattr(bar, "wrapped_bar"):  # for TensorBoard and its like
            bar = bar.wrapped_bar
        bar._format_stats = _known_only(bar._format_stats)
        if kwargs.get("prefix") is None:
            RUN.enter(bar, iterator, kwargs["epoch"])
        return made

    return progress_bar


def _known_only(form: Callable[..., Any]) -> Callable[..., Any]:
    def without_none(stats: Mapping[str, Any], **more: Any) -> Any:
        return form({k: v for k, v in stats.items() if v is not None}, **more)

    return without_none


def listen() -> None:
    """Hear of the beginning and the end of fairseq's training."""
    _TRAINING.addFilter(_HEARING)
