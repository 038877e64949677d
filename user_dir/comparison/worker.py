"""Trains one run and writes its result.json.

In a process of its own, so that a run outlives the program that started it, and so that
a cluster can start it elsewhere. The folder's run.json says what to do; a lock on it
is held meanwhile. The training is a fork of that process, which is as good as a new one
and has imported what the process has.
"""

import atexit
import fcntl
import multiprocessing
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, cast

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
#: Characters of a reason that are kept.
_LONGEST = 500
_VERSIONS = ("fairseq-fixed", "fairseq-steady", "numpy", "torch")
#: What the first word of a run's command stands for.
PROGRAMS = {
    "fairseq-train": "fairseq_cli.train:cli_main",
    "probe": "fairseq_steady.inference.probing:main",
    "average": "fairseq_steady.inference.averaging:main",
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
def locked(folder: Path) -> Iterator[bool]:
    """Hold a run's folder; False if another process does.

    Forks hold it too: killed, a worker leaves its training behind, which still writes.
    """
    with own_file(folder / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


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


def call(log: Path, words: Sequence[str]) -> None:
    """Be the program that the first word names, all output in the log; then end."""
    with own_file(log, "w") as file:
        for output in (1, 2):
            os.dup2(file.fileno(), output)
    sys.argv = [*words]
    status: Any = 0
    try:
        resolve_name(PROGRAMS[words[0]])()
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        sys.excepthook(*cast("Any", sys.exc_info()))
        status = 1
    atexit._run_exitfuncs()  # a fork ends without them
    sys.exit(status)


def _train(folder: Path, task: Task, result: Result) -> None:
    """Run the command, its output in the log; fill in status and costs."""
    words = [*task["command"], *_flags(folder, task)]
    process = multiprocessing.get_context("fork").Process(
        target=call, args=(folder / LOG, words)
    )
    process.start()
    process.join()
    result.peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    lines = (folder / LOG).read_text("utf-8", "replace").splitlines()
    if process.exitcode:
        reason = lines[-1].strip() if lines else f"exit status {process.exitcode}"
        kind = DIVERGED if _LOST.search(reason) else "crashed: "
        result.status = f"{kind}{reason[:_LONGEST]}"
    result.seconds_per_update = seconds_per_update(lines)


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
    with locked(folder) as mine:
        if not mine:
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
        _train(folder, task, result)
        result.seconds = time.monotonic() - started
        _judge(folder, task, result)
        shutil.rmtree(folder / RECORD, ignore_errors=True)
        for path in folder.glob("checkpoint_*_*.pt"):  # of an evaluation, not the best
            path.unlink()
        write(folder / RESULT, result)


def begin(folder: Path, variables: Mapping[str, str], failed: Connection) -> None:
    """Train the run of a folder, in a process group of its own.

    Args:
        folder: of the run.
        variables: the environment.
        failed: told why it cannot be done.

    """
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(variables)
    try:
        train(folder)
    except Exception as error:
        failed.send(f"{error}" or type(error).__name__)
        sys.exit(1)
