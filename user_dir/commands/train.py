"""Fine-tune a pretrained encoder: fairseq-train with this plugin.

    fairseq-steady train data/cola --task cola --steady-model models/minilm \\
        --criterion sift --save-dir runs/cola
    fairseq-steady train mine.csv --task text_classification \\
        --steady-text-column sentence --steady-label-column topic \\
        --steady-model models/minilm --save-dir runs/mine

Every flag of fairseq-train is taken, and most need no value from you. The same command,
started again, goes on from the last checkpoint.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from .page import Page, page

FOLDER = Path(__file__).parents[1]
USAGE = "DATA [flags of fairseq-train]"
OUT = """\
arguments, with defaults in brackets:
  DATA                 the folder with the training data; one file will do for
                       text_classification and text_regression
  --task NAME          what to learn: cola, glue, text_classification,
                       text_regression, summarization, ...
  --steady-model DIR   the pretrained encoder, from fairseq-steady import
  --criterion NAME     the method: plain (the default), sift, smart, r3f, ...
  --save-dir DIR       where checkpoints go (checkpoints)
  --max-epoch N        passes over the data (3); with an --optimizer of your own
                       --steady-epochs N, so that the rate warms up and decays
  --batch-size N       sentences in a batch (32)
  --lr RATE            the peak learning rate (5e-05)
  --seed N             of shuffling and of what is drawn at random (1)
  --cpu                train on the CPU where there is a GPU

Tasks, methods and optimizers with their flags: fairseq-steady list, or
fairseq-steady list sift for one. fairseq's own flags: fairseq-train --help.

what comes out:
  the log, and checkpoint_best.pt and checkpoint_last.pt in --save-dir;
  fairseq-steady predict takes either.

exit status:
  75 if a signal stopped the run and it can go on.
"""


def parser() -> Page:
    """The page of train."""
    return page("train", __doc__, USAGE, OUT)


def main(argv: Sequence[str] | None = None) -> int:
    """Train; flags, signals and exit status as in fairseq-train."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    if not words:
        parser().error("DATA is missing")
    if {"-h", "--help"} & set(words):
        parser().print_help()
        return 0
    flags = {word.partition("=")[0] for word in words}
    if "--task" not in flags:  # fairseq would take translation
        parser().error("--task is missing: for example --task text_classification")
    if "--user-dir" not in flags:
        words += ["--user-dir", str(FOLDER)]  # a checkpoint remembers it
    sys.argv = ["fairseq-train", *words]  # fairseq reads it more than once
    # First, since it sets up logging.
    from fairseq_cli.train import cli_main

    from .. import tasks as plugin  # noqa: F401  registers everything

    cli_main()
    return 0
