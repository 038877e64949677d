"""Trains one run and writes its result.json.

``python -m fairseq_steady.comparison.worker FOLDER``

A process of its own, so that a run outlives the program that started it, and so that
a cluster can start it elsewhere. The folder's run.json says what to do; a lock on it
is held meanwhile.
"""

import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, Annotated

from pydantic import Field
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import own_file, read_json
from .plan import names_plugin
from .results import (
    BEST,
    DIVERGED,
    LOG,
    RECORD,
    RESULT,
    Result,
    collect,
    seconds_per_update,
    write,
)

#: What --user-dir names when a command does not.
_PLUGIN = Path(__file__).parents[1]
TASK, LOCK = "run.json", "lock"
_KEPT = (TASK, LOCK, "submitit")
#: What a run says last whose loss, gradient or weights are no numbers any more.
_LOST = re.compile(r"\bupdate [0-9]+ of --criterion [^:]*: ")
_SHORT = (
    "; so the kernel does where memory is short: give fewer --jobs, or less to a batch"
)
#: Characters of a reason that are kept.
_LONGEST = 500
_VERSIONS = ("fairseq-fixed", "fairseq-steady", "numpy", "torch")
#: Large temporaries stay in the heap: fewer page faults, faster steps on the CPU.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}

#: What the first word of a run's command stands for.
PROGRAMS = {
    "fairseq-train": [str(Path(sys.executable).with_name("fairseq-train"))],
    "probe": [sys.executable, "-m", "fairseq_steady.inference.probing"],
    "average": [sys.executable, "-m", "fairseq_steady.inference.averaging"],
}


class Task(TypedDict):
    """What run.json says; see :class:`.plan.Run`."""

    setting: str
    method: str
    seed: int
    command: Annotated[list[str], Field(min_length=1)]
    keep: bool
    after: str | None


@contextmanager
def locked(folder: Path) -> Iterator[IO[str] | None]:
    """Hold a run's folder by the file given; None if another process does.

    A process that is given the file holds the folder too, until it ends.
    """
    with own_file(folder / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file


def _commit() -> str:
    """Of the checkout that this package is in, if there is one, and git."""
    git, here = shutil.which("git"), Path(__file__)

    def said(*words: str) -> str:
        command = [git or "", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=here.parent
        )
        return done.stdout.strip()

    # An environment may lie in another project's checkout.
    if not git or not said("ls-files", here.name):
        return ""
    return said("describe", "--always", "--dirty")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a checkout on Python's path
        return "not installed"


def _machine() -> str:
    cores = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return "; ".join([cores, *gpus()])


def gpus() -> list[str]:
    """Names of the machine's GPUs."""
    if not shutil.which("nvidia-smi"):
        return []
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def _task(path: Path) -> Task:
    mend = "start the comparison again"
    task = read_json(path, Task, mend)
    if task["command"][0] not in PROGRAMS:
        raise UserError(f"{path}: field 'command' starts with no program; {mend}")
    return task


def _flags(folder: Path, task: Task) -> list[str]:
    """What a run needs besides its command: plugin, logs, records, checkpoints."""
    saving = ["--no-epoch-checkpoints", "--no-last-checkpoints"]
    saving += ["--keep-interval-updates", "1"]
    return [
        *("--log-format", "json", "--log-interval", "10", "--save-dir", str(folder)),
        *("--steady-record", str(folder / RECORD)),
        *([] if names_plugin(task["command"]) else ["--user-dir", str(_PLUGIN)]),
        *([*saving, "--no-save-optimizer-state"] if task["keep"] else ["--no-save"]),
        *(["--finetune-from-model", task["after"]] if task["after"] else []),
    ]


def _train(folder: Path, task: Task, result: Result, lock: IO[str]) -> None:
    """Run the command, its output in the log; fill in status and costs."""
    program, *flags = task["command"]
    with (
        own_file(folder / LOG, "w") as log,
        subprocess.Popen(
            [*PROGRAMS[program], *flags, *_flags(folder, task)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**_MALLOC, **os.environ},
            # Killed, a worker leaves its training behind, which still writes here.
            pass_fds=[lock.fileno()],
        ) as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    result.peak_mb = usage.ru_maxrss / 1024
    lines = (folder / LOG).read_text("utf-8", "replace").splitlines()
    if process.returncode:
        reason = _reason(process.returncode, lines)
        kind = DIVERGED if _LOST.search(reason) else "crashed: "
        result.status = f"{kind}{reason[:_LONGEST]}"
    result.seconds_per_update = seconds_per_update(lines)


def _reason(code: int, lines: Sequence[str]) -> str:
    """Why a training ended; what was killed had no time to say it."""
    if code < 0:
        said = f"ended by signal {-code} ({signal.strsignal(-code)})"
        return said + (_SHORT if code == -signal.SIGKILL else "")
    return lines[-1].strip() if lines else f"exit status {code}"


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in _KEPT:
            folded = path.is_dir() and not path.is_symlink()
            shutil.rmtree(path) if folded else path.unlink()


def _judge(folder: Path, task: Task, result: Result) -> None:
    """Take what a run recorded, and say what is missing."""
    try:
        collect(result, folder / RECORD)
    except UserError as error:
        if result.ok:  # else its own reason says more
            result.status = f"crashed: {error}"
    if result.ok and not result.evaluations:
        result.status = (
            "crashed: no evaluation was recorded; name a task of this plugin"
        )
    if result.ok and task["keep"] and not (folder / BEST).is_file():
        result.status = f"crashed: no {BEST} was written"


def train(folder: Path) -> None:
    """Train the run of a folder, unless another process is at it.

    A run that was cut off starts afresh: its log cannot be told from a whole one.
    """
    with locked(folder) as lock:
        if not lock:
            return
        _clear(folder)
        task = _task(folder / TASK)
        result = Result(
            task["setting"],
            task["method"],
            task["seed"],
            task["command"],
            versions={name: _version(name) for name in _VERSIONS},
            commit=_commit(),
            machine=_machine(),
        )
        started = time.monotonic()
        _train(folder, task, result, lock)
        result.seconds = time.monotonic() - started
        _judge(folder, task, result)
        shutil.rmtree(folder / RECORD, ignore_errors=True)
        for path in folder.glob("checkpoint_*_*.pt"):  # of an evaluation, not the best
            path.unlink()
        write(folder / RESULT, result)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
