"""Fine-tune a pretrained encoder: fairseq-train with this plugin.

    fairseq-steady train data/cola --task cola --steady-model models/minilm \\
        --criterion sift --steady-epochs 3 --save-dir runs/cola
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .page import Page, page

FOLDER = Path(__file__).parents[1]
USAGE = "DATA [flags of fairseq-train]"
OUT = """\
The plugin's flags: fairseq-steady list; fairseq's own: fairseq-train --help.
"""


def parser() -> Page:
    """The page of train."""
    return page("train", __doc__, USAGE, OUT)


def main(argv: Sequence[str] | None = None) -> int:  # noqa: RET503
    """Become fairseq-train: in a fresh process the plugin is imported as ever."""
    words = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(words):
        parser().print_help()
        return 0
    command = [sys.executable, "-m", "fairseq_cli.train", *words]
    command += ["--user-dir", str(FOLDER)]
    os.execv(sys.executable, command)  # noqa: S606  no shell is wanted
