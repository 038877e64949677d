"""Runs what is missing, here or on a cluster, and shows how far everything is."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import read_json, write_json, write_text
from .plan import Run
from .results import (
    BEST,
    LOG,
    RECORD,
    RESULT,
    Result,
    numbers,
    of_run,
    read_log_line,
    standing,
)
from .table import printed
from .worker import TASK, gpus, locked, train

_POLL = 0.3
#: So many runs that crash in one way, and none that does not, end a comparison.
_ALIKE = 3


class Job(Protocol):
    """A run that has been started."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""

    def stop(self) -> None:
        """End it now."""

    def reason(self) -> str:
        """Why it left no result."""


class Executor(Protocol):
    """Where runs are trained."""

    #: runs at the same time
    jobs: int

    def start(self, run: Run, slot: int) -> Job:
        """Begin a run; ``slot`` from 0 tells the ones running together apart."""


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def done(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # it has just ended
            os.killpg(self.process.pid, signal.SIGTERM)

    def outlived(self) -> bool:
        """Whether its training, which is in its group, goes on without it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, 0)
            return True
        return False

    def reason(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").splitlines()
        said = f": {lines[-1].strip()}" if lines else ""
        return f"the worker ended with status {self.process.returncode}{said}"


class _Elsewhere:
    """A run that another process is training.

    Args:
        folder: the run's.
        worker: ours, if it was killed and that process is its training.

    """

    def __init__(self, folder: Path, worker: _Process | None = None) -> None:
        self.folder, self.worker = folder, worker

    def done(self) -> bool:
        with locked(self.folder) as mine:
            return mine is not None

    def stop(self) -> None:
        """End it if it is ours."""
        if self.worker:
            self.worker.stop()


def _cores() -> int:
    """Those that this process may use, as a job of a cluster has a few."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Local:
    """Processes of this machine, its threads and GPUs shared out among them."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.devices = (
            visible.split(",")
            if visible is not None
            else [str(index) for index in range(len(gpus()))]
        )

    def _environment(self, slot: int) -> dict[str, str]:
        threads = str(max(1, _cores() // self.jobs))
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        if len(self.devices) > 1 and self.jobs > 1:
            # As many for each: fairseq's batch grows with them.
            each = max(1, len(self.devices) // self.jobs)
            first = slot * each % len(self.devices)
            mine = self.devices[first : first + each]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        return environment

    def start(self, run: Run, slot: int) -> Job:
        """A worker in a process group of its own."""
        command = [
            sys.executable,
            "-m",
            "fairseq_steady.comparison.worker",
            str(run.folder),
        ]
        errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the job
        process = subprocess.Popen(
            command,
            env=self._environment(slot),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        return _Process(process, errors)


@dataclass
class _Submitted:
    job: Any

    def done(self) -> bool:
        return bool(self.job.done())

    def stop(self) -> None:
        self.job.cancel()

    def reason(self) -> str:
        return f"SLURM job {self.job.job_id} ended as {self.job.state}"


class Slurm:
    """Jobs of a SLURM cluster, through submitit.

    Args:
        jobs: at most this many in the queue at once.
        settings: of submitit, as ``slurm_partition``, ``timeout_min``,
            ``gpus_per_node``.

    """

    def __init__(self, jobs: int, settings: Mapping[str, Any]) -> None:
        import submitit

        self.jobs = jobs
        self.settings = settings
        self.submitit = submitit

    def start(self, run: Run, slot: int) -> Job:
        """Submit, or find the job that an earlier call submitted."""
        folder, note = run.folder / "submitit", run.folder / "submitit" / "job"
        if note.is_file():
            job: Any = self.submitit.SlurmJob(folder, _job_id(note))
            if not job.done():
                return _Submitted(job)
        try:
            executor = self.submitit.AutoExecutor(folder, cluster="slurm")
            executor.update_parameters(name=run.method, **self.settings)
            job = executor.submit(train, run.folder)
        except (
            NameError,
            TypeError,
            ValueError,
            RuntimeError,
            AssertionError,
        ) as error:
            reason = [*str(error).splitlines(), type(error).__name__][0]
            raise UserError(f"--slurm: submitit refuses it ({reason})") from None
        write_text(note, job.job_id)
        return _Submitted(job)


def _job_id(note: Path) -> str:
    found = note.read_text("utf-8", "replace").strip()
    if not re.fullmatch(r"[0-9]{1,20}(_[0-9]{1,20})?", found):
        raise UserError(f"{note} names no SLURM job; remove it to submit the run again")
    return found


def prepare(run: Run) -> None:
    """Write what the worker needs to know."""
    task = {
        "setting": run.setting,
        "method": run.method,
        "seed": run.seed,
        "command": run.command,
        "keep": run.keep,
        "after": str(run.after.folder / BEST) if run.after else None,
    }
    write_json(run.folder / TASK, task)


def crashed(run: Run, reason: str) -> Result:
    """A result for a run that left none."""
    return Result(
        run.setting,
        run.method,
        run.seed,
        list(run.command),
        status=f"crashed: {reason}",
    )


class Display:
    """Runs on the console: a line for each in flight, and one for all of them."""

    def __init__(self, progress: Progress, total: int, finished: int) -> None:
        self.progress = progress
        self.whole = progress.add_task(
            "all runs", total=total, completed=finished, score=""
        )
        self.lines: dict[Path, TaskID] = {}
        self.read: dict[Path, int] = {}

    def update(self, run: Run) -> None:
        """Show what a run's log has grown by."""
        if run.folder not in self.lines:
            line = self.progress.add_task(run.name, total=None, score="")
            self.lines[run.folder] = line
        line, log = self.lines[run.folder], run.folder / LOG
        if not log.is_file():
            return
        with log.open(encoding="utf-8", errors="replace") as file:
            read = self.read.get(run.folder, 0)
            file.seek(read if read <= log.stat().st_size else 0)  # begun again
            for entry in filter(None, map(read_log_line, file.readlines())):
                self._show(line, *entry)
            self.read[run.folder] = file.tell()
        if self.progress.tasks[self._index(line)].total is None:
            self.progress.update(line, total=_planned(run))

    def _index(self, line: TaskID) -> int:
        return next(i for i, t in enumerate(self.progress.tasks) if t.id == line)

    def _show(self, line: TaskID, tag: str, values: dict[str, Any]) -> None:
        if tag == "train_inner":
            for done in numbers(values, "num_updates") or ():
                self.progress.update(line, completed=int(done))
            return
        scores = [k for k in values if k.startswith(f"{tag}_best_")]
        if scores:
            name = scores[0].removeprefix(f"{tag}_best_")
            self.progress.update(line, score=f"{name} {values.get(f'{tag}_{name}')}")

    def finish(self, run: Run, result: Result) -> None:
        """Take a run's line away and leave a sentence."""
        if run.folder in self.lines:
            self.progress.remove_task(self.lines.pop(run.folder))
        self.progress.advance(self.whole)
        seconds = f" ({result.seconds:.0f} s)" if result.seconds else ""
        text = f"{run.name}: {result.status}{seconds}"
        if not result.ok:
            text += f" (log: {run.folder / LOG})"
        self.progress.console.print(printed(text))


class _Optimization(TypedDict):
    max_update: int


class _Planned(TypedDict):
    optimization: _Optimization


def _planned(run: Run) -> int | None:
    """Updates that a run will have, once it has written its configuration."""
    with suppress(UserError):  # not there yet; the worker judges what is
        config = read_json(run.folder / RECORD / "config.json", _Planned, "")
        return config["optimization"]["max_update"] or None
    return None


@contextmanager
def interruptible() -> Iterator[None]:
    """Stop on SIGTERM as on Ctrl-C, also where a shell has a job ignore the latter."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[score]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def run_all(
    runs: Sequence[Run],
    executor: Executor,
    trained: bool = False,
    check: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Every run's result, old or new, in order.

    A run that starts ``after`` another waits for it, and crashes with it.

    Args:
        runs: to be made where they are not yet.
        executor: where.
        trained: runs like these have been trained, so that all of them are tried.
        check: raises where what a run ended with makes the others useless.

    Raises:
        UserError: a folder holds a result of another plan, or the first runs crashed
            in one way before they trained, so that all of them would.
        KeyboardInterrupt: after stopping what was running.

    """
    known = standing(runs)
    if check:
        for result in known.values():
            check(result)
    waiting = [run for run in runs if run.folder not in known]
    with interruptible(), _progress() as progress:
        display = Display(progress, len(runs), len(runs) - len(waiting))
        if lost := [run for run in waiting if run.keep and _had_ended(run)]:
            progress.console.print(
                "runs that had ended without the checkpoint that is to be kept, or "
                f"whose is gone, and are trained again: {len(lost)}"
            )
        _Loop(executor, display, known, trained, check).work(waiting)
    return [known[run.folder] for run in runs]


def _had_ended(run: Run) -> bool:
    made = of_run(run)
    return made is not None and made.ok


def _written(run: Run) -> int | None:
    path = run.folder / RESULT
    return path.stat().st_mtime_ns if path.is_file() else None


class _Loop:
    """Keeps as many runs going as the executor takes."""

    def __init__(
        self,
        executor: Executor,
        display: Display,
        known: dict[Path, Result],
        trained: bool,
        check: Callable[[Result], None] | None = None,
    ) -> None:
        self.executor = executor
        self.display = display
        self.known = known
        self.running: dict[int, tuple[Run, Job | _Elsewhere]] = {}
        self.trained = trained or bool(known)
        self.check = check
        self.first: list[Path] = []
        #: when results that are to be made again were written
        self.old: dict[Path, int] = {}

    def work(self, waiting: list[Run]) -> None:
        written = {run.folder: _written(run) for run in waiting}
        self.old = {folder: at for folder, at in written.items() if at is not None}
        try:
            while waiting or self.running:
                self._start(waiting)
                for slot, (run, job) in list(self.running.items()):
                    self.display.update(run)
                    if job.done():
                        del self.running[slot]
                        self._finish(slot, run, job)
                time.sleep(_POLL)
        except BaseException:
            for _, job in self.running.values():
                job.stop()
            raise

    def _start(self, waiting: list[Run]) -> None:
        for run in list(waiting):
            free = [s for s in range(self.executor.jobs) if s not in self.running]
            if not free:
                return
            if run.after and run.after.folder not in self.known:
                continue
            waiting.remove(run)
            if run.after and not self.known[run.after.folder].ok:
                self._record(run, crashed(run, f"{run.after.name} did"))
                continue
            self._begin(run, free[0])

    def _begin(self, run: Run, slot: int) -> None:
        """Start a run, unless another process has made it meanwhile, or is at it."""
        run.folder.mkdir(parents=True, exist_ok=True)
        with locked(run.folder) as mine:
            if not mine:
                self.running[slot] = run, _Elsewhere(run.folder)
                return
            again = run.folder in self.old and self.old[run.folder] == _written(run)
            made = None if again else of_run(run)
            if made and not made.crashed:
                self._record(run, made)
                return
            (run.folder / RESULT).unlink(missing_ok=True)
            prepare(run)
        if run.folder not in self.first:
            self.first = [*self.first, run.folder][:_ALIKE]
        self.running[slot] = run, self.executor.start(run, slot)

    def _finish(self, slot: int, run: Run, job: Job | _Elsewhere) -> None:
        killed = job if isinstance(job, _Process) and job.outlived() else None
        result, other = of_run(run), _Elsewhere(run.folder, killed)
        if result is None and not other.done():  # which was faster, or outlives ours
            self.running[slot] = run, other
            return
        if result is None:
            if isinstance(job, _Elsewhere):  # stopped or killed
                self._begin(run, slot)
                return
            result = crashed(run, job.reason())
        self._record(run, result)
        self._judge(run)

    def _record(self, run: Run, result: Result) -> None:
        self.known[run.folder] = result
        self.display.finish(run, result)

    def _judge(self, run: Run) -> None:
        """Give up where the first runs all crash alike; one that trains settles it."""
        result = self.known[run.folder]
        if self.check:
            self.check(result)
        self.trained |= not result.crashed or result.seconds_per_update is not None
        said = [self.known[f].status for f in self.first if f in self.known]
        if self.trained or len(said) < _ALIKE or len({*said}) > 1:
            return
        raise UserError(
            f"the first {_ALIKE} runs {result.status} (log: {run.folder / LOG}); mend "
            "that and give the same command again"
        )
