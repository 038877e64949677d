"""What the commands share: where runs are trained, and how errors end."""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UserError, visible
from .execution import Executor, Local, Slurm
from .plan import Run
from .results import Result, standing


def make_executor(args: argparse.Namespace) -> Executor:
    """Where runs are trained.

    Raises:
        UserError: a SLURM setting is not KEY=VALUE, or is for another executor.

    """
    if args.executor == "local":
        if args.slurm:
            raise UserError("--slurm is for --executor slurm; add it")
        return Local(args.jobs)
    settings: dict[str, Any] = {}
    for text in args.slurm:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--slurm {text} is not KEY=VALUE")
        settings[key] = int(value) if re.fullmatch(r"[0-9]{1,9}", value) else value
    return Slurm(args.jobs, settings)


def check(runs: Sequence[Run], subsets: Mapping[str, str] | None = None) -> None:
    """:func:`read` what is to be trained."""
    known = standing(runs)
    read([run for run in runs if run.folder not in known], subsets)


def read(runs: Sequence[Run], subsets: Mapping[str, str] | None = None) -> None:
    """Let fairseq read one command of each kind.

    Args:
        runs: of a plan.
        subsets: that all of them have to be evaluated on, by the flags that name them.

    Raises:
        UserError: it refuses one, or a run is not evaluated on a subset.

    """
    # Seeds apart, every run of a grid point has the same flags.
    kinds = {r.folder.parent: r for r in runs}
    if not kinds:
        return
    commands = [(f"{r.setting} {r.method}", r.command[1:]) for r in kinds.values()]
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_steady.comparison.reading"],
        input=json.dumps({"commands": commands, "subsets": subsets or {}}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UserError(said[-1] if said else f"fairseq ended with {done.returncode}")


def reasons(results: Sequence[Result]) -> str:
    """Why runs crashed, each reason once."""
    return said_of([result for result in results if result.crashed])


def said_of(results: Sequence[Result]) -> str:
    """Why runs did not end, each reason once."""
    found = [visible(r.status) for r in results if not r.ok]
    return "; ".join(f"{found.count(one)} {one}" for one in dict.fromkeys(found))


def run(report: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Exit status of a command: 1 for an error, 130 if interrupted."""
    try:
        return report(args)
    except UserError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(visible(f"error: {where}{error.strerror}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
