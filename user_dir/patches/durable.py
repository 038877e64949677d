"""What a run survives: signals, full disks, damaged checkpoints, changed data."""

import atexit
import functools
import logging
import math
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil
import torch
from fairseq import checkpoint_utils
from fairseq.data.iterators import BackgroundConsumer
from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import (
    ReduceLROnPlateauLRSchedule,
)
from torch.multiprocessing.spawn import ProcessExitedException

from ..errors import UserError, on_interrupt
from ..files import foreign, sweep, whole_file
from .change import put
from .workers import check_workers, naming_the_lost, set_timeout

logger = logging.getLogger(__name__)

#: Exit status of a run that a signal stopped and that goes on when started again:
#: sysexits' EX_TEMPFAIL.
REQUEUE = 75
#: What a scheduler sends before it takes the machine away.
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
#: Seconds in which signals are one and the same.
_SAME = 2.0
_LAST = "checkpoint_last.pt"
#: What fairseq writes before it raises an error of its own, which must be heard.
_CRASH = "crash.pt"

# --- whole checkpoints or none -------------------------------------------------------


def _replacing(write: Callable[[IO[bytes]], Any], path: str) -> None:
    """Write beside a file, then put the result in its place."""
    try:
        with whole_file(Path(path)) as file:
            write(file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as the latter
        raise UserError(
            f"{path} could not be written ({str(error).splitlines()[0]}); the one "
            "before it is intact: free some space, or name another --save-dir, and "
            "start again"
        ) from None


def save_whole(obj: Any, filename: str, async_write: bool = False) -> None:
    """In place of fairseq's ``torch_persistent_save``; never asynchronous.

    Raises:
        UserError: the file cannot be written; the one before it is intact.

    """
    try:
        _replacing(lambda file: torch.save(obj, file), filename)
    except UserError as error:
        if Path(filename).name != _CRASH:
            raise
        logger.warning("%s", error)


def copy_whole(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    """In place of fairseq's copy to ``checkpoint_last.pt`` and ``checkpoint_best.pt``.

    Raises:
        UserError: the copy cannot be written; the one before it is intact.

    """
    with open(src_path, "rb") as source:
        _replacing(lambda file: shutil.copyfileobj(source, file, 2**20), dst_path)
    return True


def first_of_equals(save: Callable[..., Any]) -> Callable[..., Any]:
    """Let a score that is only reached again leave ``checkpoint_best.pt`` as it is.

    fairseq compares with its ``best``, equals included; that is moved up by the least
    that a number can be, and stays there, so that a run that goes on has it too.
    """

    @functools.wraps(save)
    def save_checkpoint(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> Any:
        known = vars(save_checkpoint)
        score = None if val_loss is None else float(val_loss)  # fp32 has no such step
        if score is not None and score == known.get("best"):
            better = math.inf if cfg.maximize_best_checkpoint_metric else -math.inf
            known["best"] = math.nextafter(score, better)
        return save(cfg, trainer, epoch_itr, score)

    return save_checkpoint


def is_whole(path: Path) -> bool:
    """Whether a checkpoint has its end: torch writes its table of contents last."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _newest(folder: Path) -> Path | None:
    """The newest whole checkpoint beside a damaged last one."""
    others = [p for p in folder.glob("checkpoint*.pt") if p.name != _LAST]
    whole = [path for path in others if is_whole(path)]
    return max(whole, key=lambda path: path.stat().st_mtime_ns, default=None)


def standing(folder: Path) -> Path | None:
    """The checkpoint that a run in this folder goes on from, if there is one."""
    last = folder / _LAST
    if not last.is_file():
        return None
    return last if is_whole(last) else _newest(folder)


def fall_back(folder: Path) -> None:
    """Put the newest whole checkpoint in the place of a damaged last one.

    Raises:
        UserError: there is none, or the last one is a link to nothing.

    """
    last = folder / _LAST
    if last.is_symlink() and not last.exists():
        raise UserError(
            f"{last} is a link to {os.readlink(last)}, which is not there; put that "
            "back, or remove the link to start anew"
        )
    newest = standing(folder)
    if newest == last or not last.is_file():
        return
    if newest is None:
        raise UserError(
            f"{last} is damaged and there is no other checkpoint beside it; remove it "
            "to start anew"
        )
    # Copied, not moved: killed in between, the next start must find it damaged again.
    copy_whole(str(last), f"{last}.damaged")
    copy_whole(str(newest), str(last))
    logger.warning("%s is damaged; going on from %s", last, newest)


def check_writable(folder: str | Path, flag: str = "--save-dir") -> None:
    """Refuse a folder that takes no files, before anything is trained.

    Raises:
        UserError: names the folder.

    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise UserError(
            f"{flag} {folder} cannot be written to ({error.strerror}); name another"
        ) from None


def warn_of_others(folder: Path) -> None:
    """Say who else could have written what a run is about to go on from."""
    for path in (folder, folder / _LAST):
        who = foreign(path) if path.exists() else None
        if who:
            logger.warning(
                "%s can be written by %s: go on from it only if you trust them",
                path,
                who,
            )


# --- data ----------------------------------------------------------------------------


def check_unchanged(
    now: Mapping[str, str], then: Mapping[str, str], checkpoint: str
) -> None:
    """Refuse to go on with other data.

    Args:
        now: digest of each data file by folder and name; a folder may have moved.
        then: the same, when the run began.
        checkpoint: named in the error.

    Raises:
        UserError: names the first file that differs.

    """
    for path, digest in then.items():
        found = _found(path, now)
        if path in found and found[path] != digest:
            raise UserError(
                f"{path} has changed since the run in {checkpoint} began; put it "
                "back, or start anew with another --save-dir"
            )
        if found and digest not in found.values():
            raise UserError(
                f"{', '.join(found)} is not the {path} that the run in {checkpoint} "
                "began with; name that one, or start anew with another --save-dir"
            )


def _found(path: str, now: Mapping[str, str]) -> dict[str, str]:
    """A file, or those of its name where its folder is another, with their digests."""
    if path in now:
        return {path: now[path]}
    name = path.rpartition("/")[2]
    return {p: digest for p, digest in now.items() if p.rpartition("/")[2] == name}


# --- signals -------------------------------------------------------------------------


class Stop:
    """Remembers that a signal asked the run to end.

    A later one ends it at once, unless several workers are saving.
    """

    def __init__(self) -> None:
        self.asked = False
        self._same = 0.0

    def listen(self) -> None:
        """Take SIGTERM and SIGUSR1 from now on."""
        for number in _SIGNALS:
            signal.signal(number, self._hear)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.asked:
            # A launcher that hears what its whole group hears passes it on besides.
            if time.monotonic() > self._same:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        name = signal.Signals(number).name
        # A log that the signal came in the middle of must not be written to.
        if not (torch.distributed.is_initialized() and torch.distributed.get_rank()):
            os.write(2, f"{name}: saving after this update, then stopping\n".encode())
        self.asked, self._same = True, time.monotonic() + _SAME

    def deafen(self) -> None:
        """Take no more."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def agreed(self, device: torch.device) -> bool:
        """Whether any worker was asked; every worker calls this after each update."""
        if not torch.distributed.is_initialized():
            return self.asked
        flag = torch.tensor(float(self.asked), device=device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)


STOP = Stop()


def sparing_readers(set_handlers: Callable[..., Any]) -> Callable[..., Any]:
    """Let a process that reads batches outlive the signal that its run takes.

    A scheduler sends it to all of a run's processes; without them no update ends.
    """

    @functools.wraps(set_handlers)
    def set_worker_signal_handlers(*args: Any) -> Any:
        taken = signal.getsignal(signal.SIGTERM) == STOP._hear
        set_handlers(*args)
        if taken:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            # The next one is from the run itself, which ends them so.
            signal.signal(
                signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL)
            )

    return set_worker_signal_handlers


def keeps(cfg: Any) -> bool:
    """Whether a run leaves a last checkpoint, by fairseq's ``checkpoint`` section."""
    return not (cfg.no_save or cfg.no_last_checkpoints)


def begins_again(cfg: Any) -> str:
    """Flags for which the same command does not go on from the last checkpoint."""
    here = (Path(_LAST), Path(cfg.save_dir) / _LAST)
    flags = ["--restore-file"] * (Path(cfg.restore_file) not in here)
    flags += ["--reset-optimizer"] * cfg.reset_optimizer
    flags += ["--reset-dataloader"] * cfg.reset_dataloader
    return " and ".join(flags)


def stopping(validate_and_save: Callable[..., Any]) -> Callable[..., Any]:
    """After the update in which a signal came: save, and leave with :data:`REQUEUE`.

    Raises:
        UserError: it is saved, and the same command would not go on from there.

    """

    @functools.wraps(validate_and_save)
    def wrapped(
        cfg: Any, trainer: Any, task: Any, epoch_itr: Any, subsets: Any, ended: bool
    ) -> Any:
        given = cfg, trainer, task, epoch_itr, subsets, ended
        with naming_the_lost(), naming_the_metric(cfg.checkpoint):
            losses, done = validate_and_save(*given)
            goes_on = keeps(cfg.checkpoint) and not done
            asked = goes_on and STOP.agreed(trainer.device)
        if asked:
            if ended and isinstance(trainer.lr_scheduler, ReduceLROnPlateauLRSchedule):
                # What comes next; a checkpoint without the loss could not catch up.
                trainer.lr_step(epoch_itr.epoch, losses[0])
            with saving_together():
                # Evaluates nothing that an uninterrupted run would not.
                save = checkpoint_utils.save_checkpoint
                save(cfg.checkpoint, trainer, epoch_itr, None)
            if flags := begins_again(cfg.checkpoint):
                raise UserError(
                    f"stopped by a signal; {Path(cfg.checkpoint.save_dir) / _LAST} is "
                    f"kept: leave out {flags} to go on from there"
                )
            logger.warning("stopped by a signal; started again, the run goes on")
            sys.exit(REQUEUE)
        return losses, done

    return wrapped


@contextmanager
def saving_together() -> Iterator[None]:
    """Leave no earlier than the worker that saves.

    A launcher ends the others as soon as one has left.
    """
    if not torch.distributed.is_initialized():
        yield
        return
    STOP.deafen()
    yield
    with naming_the_lost():
        torch.distributed.barrier()


class _HandingOn:
    """Hands signals on to workers that this process spawns.

    Without any, the program's own handlers have them.
    """

    def __init__(self, spawns: Callable[[], bool]) -> None:
        self.spawns = spawns
        self.heard: set[int] = set()
        self.before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take SIGTERM and SIGUSR1, where Python lets a thread do that."""
        if threading.current_thread() is threading.main_thread():
            self.before = {n: signal.signal(n, self._hear) for n in _SIGNALS}

    def give_back(self) -> None:
        """Leave signals to whom they were before, or to whom has them by now."""
        for number, handler in self.before.items():
            if signal.getsignal(number) == self._hear:
                signal.signal(number, handler or signal.SIG_DFL)

    def _hear(self, number: int, _: FrameType | None) -> None:
        workers = _spawned() if self.spawns() else set()
        if not workers:
            self.give_back()
            signal.raise_signal(number)
            return
        self.heard.add(number)
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, number)


def _spawned() -> set[int]:
    """Processes that this one has started; a fork knows its parent's besides."""
    own = {child.pid for child in psutil.Process().children()}
    return own & {one.pid for one in multiprocessing.active_children() if one.pid}


@contextmanager
def stopped_as_one(spawns: Callable[[], bool]) -> Iterator[None]:
    """Hand a stop on to workers that this process spawns, and end as they do.

    Args:
        spawns: whether it does; a single worker listens in its turn.

    """
    ears = _HandingOn(spawns)
    ears.listen()
    try:
        yield
    except ProcessExitedException as error:
        ears.give_back()
        if -error.exit_code in ears.heard:  # before they listened themselves
            signal.raise_signal(-error.exit_code)
        if error.exit_code != REQUEUE:
            raise
        sys.exit(REQUEUE)
    finally:
        ears.give_back()


def stop_reading(patience: float = 5.0) -> None:
    """Let fairseq's threads that read batches ahead end, for some seconds at most.

    They are daemons: one that Python, as it ends, cuts off inside a torch operation
    aborts the process, whose exit status is lost.
    """
    until = time.monotonic() + patience
    for thread in threading.enumerate():
        if isinstance(thread, BackgroundConsumer):
            thread._max_len = 0
            while thread.is_alive() and time.monotonic() < until:
                with suppress(queue.Empty):
                    thread._queue.get(timeout=0.01)


def stop_reading_at_the_end() -> None:
    """Have :func:`stop_reading` called, once."""
    atexit.unregister(stop_reading)
    atexit.register(stop_reading)


@contextmanager
def naming_the_metric(cfg: Any) -> Iterator[None]:
    """Turn fairseq's KeyError into one line.

    Raises:
        UserError: the metric that picks checkpoints is not among those logged.

    """
    try:
        yield
    except KeyError as error:
        if error.args != (cfg.best_checkpoint_metric,):
            raise
        raise UserError(
            f"--best-checkpoint-metric {cfg.best_checkpoint_metric} is not in what "
            "the evaluation logs; name one of the values in its line of the log"
        ) from None


class _Later(dict[str, Any]):
    """What a subset after the first one logs: None for what only others have."""

    def __missing__(self, name: str) -> None:
        return None


def picked_by_the_first(get_valid_stats: Callable[..., Any]) -> Callable[..., Any]:
    """Let subsets after the first do without the metric that picks checkpoints."""

    def wrapped(cfg: Any, trainer: Any, stats: Any, tracking_best: bool) -> Any:
        found = get_valid_stats(cfg, trainer, stats, tracking_best)
        return found if tracking_best else _Later(found)

    return wrapped


def _kept(cfg: Any) -> str:
    """What is left of a run that Ctrl-C ended."""
    if cfg.distributed_training.distributed_rank:
        return ""
    last = Path(cfg.checkpoint.save_dir) / _LAST
    if cfg.checkpoint.no_save or not last.is_file():
        return "interrupted; nothing was saved: the same command starts anew"
    if flags := begins_again(cfg.checkpoint):
        return f"interrupted; {last} is kept: leave out {flags} to go on from there"
    return f"interrupted; {last} is kept: the same command goes on from there"


# --- where fairseq calls this ---------------------------------------------------------


def prepare(cfg: Any) -> None:
    """Before a training run loads its checkpoint, when its loop must be there.

    Raises:
        UserError: the workers are alone, or the save directory is of no use.

    """
    parallel, saves = cfg.distributed_training, not cfg.checkpoint.no_save
    check_workers(parallel.distributed_world_size)
    if saves and parallel.distributed_rank == 0:
        check_writable(Path(cfg.checkpoint.save_dir))
        warn_of_others(Path(cfg.checkpoint.save_dir))
        sweep(Path(cfg.checkpoint.save_dir))
        if cfg.checkpoint.restore_file == _LAST:
            fall_back(Path(cfg.checkpoint.save_dir))
    if torch.distributed.is_initialized():
        set_timeout(getattr(cfg.task, "steady_peer_timeout", 300))
        torch.distributed.barrier()
    on_interrupt(functools.partial(_kept, cfg))
    _forget()
    if watch_loop() and keeps(cfg.checkpoint):
        STOP.listen()


def _loops() -> list[Any]:
    """Fairseq's training loop under each name that it is loaded by.

    Under ``python -m fairseq_cli.train`` that is the running program's.
    """
    names = ("fairseq_cli.train", "__main__")
    modules: list[Any] = [sys.modules[name] for name in names if name in sys.modules]
    return [module for module in modules if hasattr(module, "validate_and_save")]


def watch_loop() -> bool:
    """Change fairseq's training loop.

    Returns:
        Whether there is one. A signal that no loop looks for must keep its meaning.

    """
    loops = _loops()
    for loop in loops:
        put(loop, "validate_and_save", stopping)
        put(loop, "get_valid_stats", picked_by_the_first)
    return bool(loops)


def _forget() -> None:
    """Drop what fairseq has on its functions of an earlier run of this process."""
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    restore_waited({})


def waited() -> dict[str, Any]:
    """What fairseq has counted for --patience; nothing without it."""
    return next((dict(vars(loop.should_stop_early)) for loop in _loops()), {})


def restore_waited(counted: Mapping[str, Any]) -> None:
    """Go on counting from there."""
    for loop in _loops():
        vars(loop.should_stop_early).clear()
        vars(loop.should_stop_early).update(counted)
