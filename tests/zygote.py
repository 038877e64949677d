"""Runs fairseq commands in forks of one process that has everything imported.

Reads a JSON list of argument lists a line from standard input, runs them at the same
time, each in a process of its own, and answers with a JSON list of [status, output].
Importing fairseq takes seconds; this pays for it once.
"""

import ast
import builtins
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable

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


def run(arguments: list[str], files: tuple[int, int]) -> int:
    """In the child: the command, its output in files; returns the exit status."""
    sys.stdin = open(os.devnull)  # noqa: SIM115
    apart = arguments[0] in ("fairseq-steady", "elsewhere")
    os.dup2(files[0 if apart else 1], 1)
    os.dup2(files[1], 2)
    if arguments[0] == "guarded":
        guard()
        arguments = arguments[1:]
    sys.argv = arguments
    try:
        COMMANDS[arguments[0]]()
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def unnamed() -> int:
    """A file that is gone when it is closed."""
    output, path = tempfile.mkstemp()
    os.unlink(path)
    return output


def start(arguments: list[str]) -> tuple[int, tuple[int, int]]:
    """Fork one command; returns its process and the files of its output."""
    files = unnamed(), unnamed()
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT)
        status = 99
        # None finds what another has tokenised.
        caches = os.environ["XDG_CACHE_HOME"]
        os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=caches)
        try:
            status = run(arguments, files)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child, files


def content(output: int) -> str:
    """Of a file, from its start."""
    os.lseek(output, 0, os.SEEK_SET)
    with os.fdopen(output, errors="replace") as file:
        return file.read()


def finish(child: int, files: tuple[int, int]) -> tuple[int, str, str]:
    """Wait; returns exit status, standard output (of scripts) and error output."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, content(files[0]), content(files[1])


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        running = [start(arguments) for arguments in json.loads(line)]
        answers.write(json.dumps([finish(*each) for each in running]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
