"""fairseq-train with this plugin: its flags, without --user-dir."""

import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1]


def main() -> None:
    """Become fairseq-train: in a fresh process the plugin is imported as ever."""
    program = [sys.executable, "-m", "fairseq_cli.train"]
    command = [*program, *sys.argv[1:], "--user-dir", str(FOLDER)]
    os.execv(sys.executable, command)  # noqa: S606  no shell is wanted
