"""What compare and probe share: flags for fairseq-train, and where runs are trained."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .page import positive

#: What the tables and pictures need, by --executor.
FOR_TABLES = {
    "local": ("matplotlib",),
    "slurm": ("matplotlib", "submitit"),
}


def add_out(add: Callable[..., Any]) -> None:
    """Where results go."""
    add("--out", type=Path, required=True, metavar="DIR", help="results folder")


def add_plan(add: Callable[..., Any]) -> None:
    """Methods and seeds."""
    add(
        "--methods", nargs="+", required=True, metavar="METHOD",
        help="criterion, or NAME=FLAGS",
    )  # fmt: skip
    add("--seeds", nargs="+", type=int, required=True, metavar="SEED", help="of each")


def add_train(parser: argparse.ArgumentParser) -> None:
    """What follows ``--``."""
    parser.add_argument_group("what to train with, after --").add_argument(
        "train", nargs="+", metavar="FLAGS",
        help="of fairseq-train; --user-dir may be left out",
    )  # fmt: skip


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Where runs are trained."""
    add = parser.add_argument_group("how to run it").add_argument
    add(
        "--jobs", type=positive, default=1, metavar="N",
        help="runs at the same time; default %(default)s",
    )  # fmt: skip
    add(
        "--executor", choices=["local", "slurm"], default="local",
        help="default %(default)s",
    )  # fmt: skip
    add(
        "--slurm", nargs="+", default=[], metavar="KEY=VALUE",
        help="submitit's settings, as slurm_partition=gpu timeout_min=60",
    )  # fmt: skip
