"""Fine-tune a pretrained encoder: fairseq-train with this plugin.

    fairseq-steady train DATA --task cola --steady-model models/minilm --criterion sift

  DATA                 the folder (or file) with the training data
  --task NAME          what to learn: cola, glue, text_classification,
                       text_regression, summarization, ...
  --steady-model DIR   the pretrained encoder, from fairseq-steady import
  --criterion NAME     the method: plain (the default), sift, smart, r3f, r4f,
                       r_drop, freelb or hype
  --save-dir DIR       where checkpoints go (checkpoints)
  --max-epoch N        passes over the data (3)
  --batch-size N       sentences in a batch (32)
  --lr RATE            the peak learning rate (5e-05)
  --seed N             of shuffling and of what is drawn at random (1)
  --cpu                train on the CPU where there is a GPU

Every other flag of fairseq-train is taken too, and most need no value from you.
Tasks, methods and optimizers with their flags: fairseq-steady list, or
fairseq-steady list sift for one. fairseq's own flags: fairseq-train --help.
The same command, started again, goes on from the last checkpoint. Status 75 says that
a signal stopped the run and that it can go on.
"""

import sys
from pathlib import Path

from ..patches.later import sklearn_later

FOLDER = Path(__file__).parents[1]


def main() -> None:
    """Train; flags, signals and exit status as in fairseq-train."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(str(__doc__).strip())
        return
    if not any(word.split("=")[0] == "--user-dir" for word in words):
        sys.argv += ["--user-dir", str(FOLDER)]  # a checkpoint remembers it
    with sklearn_later():  # first, since it sets up logging
        from fairseq_cli.train import cli_main

    from .. import tasks as plugin  # noqa: F401  registers everything

    cli_main()
