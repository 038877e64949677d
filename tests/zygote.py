"""Runs fairseq commands in forks of one process that has everything imported.

Reads a JSON list of argument lists a line from standard input, runs them at the same
time, each in a process of its own, and answers with a JSON list of [status, output].
A line may also start a command without waiting for it, or wait for one: see `answer`.
Importing fairseq takes seconds; this pays for it once.
"""

import ast
import builtins
import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fairseq_cli.train
import fairseq_cli.validate
import fairseq_steady.commands.hydra_train
import fairseq_steady.tasks
import torch
import torch._dynamo

if not torch.cuda.is_available():
    # After an fp16 overflow fairseq's trainer sends a zero to the GPU, even with --cpu.
    torch.Tensor.cuda = lambda tensor: tensor


#: What every string of the tests that would run code carries.
MARK = "HOSTILE"


def guard(replace: Callable[[object, str, object], object] = setattr) -> None:
    """Make whatever runs code fail where the code carries the mark."""

    def guarded(original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            parsed_only = len(args) > 3 and args[3] == ast.PyCF_ONLY_AST
            if MARK in repr((args, kwargs)) and not parsed_only:
                raise AssertionError(f"{original.__name__} was given {MARK}")
            return original(*args, **kwargs)

        return call

    for module, name in (
        *((builtins, name) for name in ("eval", "exec", "compile")),
        *((os, name) for name in ("system", "popen", "execv", "posix_spawn")),
        (subprocess, "_fork_exec"),
    ):
        replace(module, name, guarded(getattr(module, name)))


#: Where installed commands are.
PROGRAMS = Path(sys.executable).parent


def python_program(words: list[str]) -> Callable[[], object] | None:
    """What runs a command of this environment's Python; None of any other command."""
    if words[:2] == [sys.executable, "-m"]:
        return lambda: run_module(words[2])
    if words[0].startswith(f"{PROGRAMS}/fairseq-"):
        return lambda: runpy.run_path(words[0], run_name="__main__")
    return None


def run_module(name: str) -> None:
    """As ``python -m`` does."""
    sys.modules.pop(name, None)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def fork_python() -> None:
    """Make forks of this process of the Python programs that it starts.

    They import nothing anew and see no ``PYTHONPATH``; all else is as Popen has it.
    """
    original = subprocess._fork_exec  # type: ignore[attr-defined]

    def start(given: Any, *rest: Any) -> int:
        words = [os.fspath(word) for word in given]
        program = python_program(words)
        if program is None:
            return int(original(given, *rest))
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            become(words, *rest[3:15])
            in_child(lambda: program)
        return child

    subprocess._fork_exec = start  # type: ignore[attr-defined]


def become(words: list[str], folder: Any, variables: Any, *rest: int) -> None:
    """In a fork: take on what a new process is given.

    Args:
        words: the command.
        folder: to change to, unless None.
        variables: the environment, unless None.
        rest: pipes and whether it has a session, as ``_posixsubprocess.fork_exec``
            takes them.

    """
    p2cread, _, _, c2pwrite, _, errwrite, *_, new_session = rest
    only_files(p2cread, c2pwrite, errwrite)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    if new_session:
        os.setsid()
    os.chdir(folder or ".")
    if variables is not None:
        os.environb.clear()
        os.environb.update(line.split(b"=", 1) for line in variables)
    sys.argv = words[2:] if words[1:2] == ["-m"] else words


def only_files(*standard: int) -> None:
    """Have these for input, output and errors, unless -1, and none that is private."""
    for place, number in enumerate(standard):
        if number != -1:
            os.dup2(number, place)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            if not os.get_inheritable(int(name)):
                os.close(int(name))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115


def preprocess() -> object:
    """Imported late: it would set up logging its own way."""
    from fairseq_cli.preprocess import cli_main

    return cli_main()


def steady() -> None:
    """A subcommand, as ``fairseq-steady predict ...``."""
    sys.exit(fairseq_steady.commands.main())


def elsewhere() -> None:
    """The same in a folder of its own, where any name may be written."""
    os.chdir(tempfile.mkdtemp())
    steady()


#: Seconds until a command that hangs is ended by a signal.
LIMIT = 150

COMMANDS: dict[str, Callable[[], object]] = {
    "fairseq-preprocess": preprocess,
    "fairseq-train": fairseq_cli.train.cli_main,
    "fairseq-validate": fairseq_cli.validate.cli_main,
    "fairseq-steady": steady,
    "elsewhere": elsewhere,
    "hydra": fairseq_steady.commands.hydra_train.main,
}


def script() -> None:
    """A Python program by its path."""
    runpy.run_path(sys.argv[0], run_name="__main__")


#: Said before a command: do this first. ``NAME=VALUE`` sets a variable.
FIRST = {"guarded": guard, "forking": fork_python}


def command(arguments: list[str], files: tuple[int, int]) -> Callable[[], object]:
    """In the child: what to call, its output in files."""
    sys.stdin = open(os.devnull)  # noqa: SIM115
    while arguments[0] in FIRST or "=" in arguments[0]:
        first, *arguments = arguments
        if first in FIRST:
            FIRST[first]()
        else:
            os.environ.update([first.split("=", 1)])
    apart = arguments[0] in ("fairseq-steady", "elsewhere")
    os.dup2(files[0 if apart else 1], 1)
    os.dup2(files[1], 2)
    sys.argv = arguments
    return COMMANDS.get(arguments[0], script)


def status_of(call: Callable[[], object]) -> int:
    """What a process that does only this ends with."""
    try:
        call()
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stdout.flush()
        sys.stderr.flush()
        if isinstance(error, KeyboardInterrupt):  # as Python does
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def in_child(get: Callable[[], Callable[[], object]]) -> None:
    """Call what a function returns, and end this fork with its status."""
    # A shell has its background jobs ignore Ctrl-C, tests among them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(LIMIT)
    status = 99
    try:
        status = status_of(get())
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def unnamed() -> int:
    """A file that is gone when it is closed."""
    output, path = tempfile.mkstemp()
    os.unlink(path)
    return output


def own_cache() -> None:
    """None finds what another has tokenised."""
    caches = os.environ["XDG_CACHE_HOME"]
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=caches)


def start(arguments: list[str]) -> tuple[int, tuple[int, int]]:
    """Fork one command; returns its process and the files of its output."""
    files = unnamed(), unnamed()
    child = os.fork()
    if child == 0:
        own_cache()
        in_child(lambda: command(arguments, files))
    return child, files


def leave(arguments: list[str], pipe: str) -> int:
    """Fork one command in a session of its own, its output in a named pipe."""
    child = os.fork()
    if child == 0:
        os.setsid()
        own_cache()
        output = os.open(pipe, os.O_WRONLY)
        in_child(lambda: command(arguments, (output, output)))
    return child


def content(output: int) -> str:
    """Of a file, from its start."""
    os.lseek(output, 0, os.SEEK_SET)
    with os.fdopen(output, errors="replace") as file:
        return file.read()


def finish(child: int, files: tuple[int, int]) -> tuple[int, str, str]:
    """Wait; returns exit status, standard output (of scripts) and error output."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, content(files[0]), content(files[1])


def answer(asked: Any) -> Any:
    """To commands: how each ended; to a start: the process; to a wait: its status."""
    if isinstance(asked, list):
        running = [start(arguments) for arguments in asked]
        return [finish(*each) for each in running]
    if "start" in asked:
        return leave(asked["start"], asked["pipe"])
    ended, status = os.waitpid(asked["wait"], 0 if asked["long"] else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
