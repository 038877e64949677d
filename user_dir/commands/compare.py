"""Which method helps on my task, and at what price? Methods x seeds, side by side.

    fairseq-steady compare --out runs/cola --methods plain sift --seeds 1 2 3 -- \\
        data/cola --task cola --steady-model models/minilm --steady-epochs 3

Everything after -- goes to fairseq-train; for your own files name --task
text_classification there. A method is the name of a criterion, or NAME=FLAGS for
anything else, as 'sift-far=--criterion sift --sift-step 1e-2'; {seed} in FLAGS stands
for the seed. The first method is what the others are compared with. Seed s has the same
data order, sub-sample and initial head for every method.

Values in braces are a grid: 'sift=--criterion sift --sift-lambda {1,2,5}', or
--lr {1e-4,2e-4} after the --. Each method needs as many points as the others; the best
on --select is chosen with --tuning-seeds, which see no other data and do not count in
the table, and then run with every seed.

How many seeds? From a pilot, --plan --expect 0.01 says how many show a difference of
0.01. With --until-decided seeds are added where nothing is decided yet, and about as
often wrong as with a fixed number, if it is chosen before there is a table.

Needs pip install 'fairseq-steady[compare]'.
"""

import argparse
import contextlib
import math
import re
from collections.abc import Sequence

from .extras import require
from .page import Page, page, positive
from .runs import FOR_TABLES, add_execution, add_out, add_plan, add_train

USAGE = "--out DIR --methods METHOD ... --seeds SEED ...\n       [options] -- FLAGS"
OUT = """\
what comes out:
  the table, on standard output, and in DIR as CSV, Markdown and LaTeX, with what
  was decided and what it would take (decisions.csv), how much the seeds of each method
  differ (instability.md), pictures, the winner's card (card.md), everything in one
  page for a browser (report.html), and a folder for each run: its log and one
  result.json (configuration, scores, predictions, versions, costs), and with --keep
  its checkpoint_best.pt, of whose averages over seeds there is a row. Run again, the
  command fills gaps only; killed, it loses nothing that had ended, and runs still
  going are waited for.

exit status:
  1 if a run crashed, 130 after Ctrl-C; the same command goes on from there.
"""


def parser() -> Page:
    """The page of compare."""
    found = page("compare", __doc__, USAGE, OUT)
    add = found.add_argument_group("what to compare").add_argument
    add_out(add)
    add_plan(add)
    add(
        "--settings", nargs="+", default=["all="], metavar="NAME=FLAGS",
        help="run everything in each of these; a table each",
    )  # fmt: skip
    add_train(found)
    add = found.add_argument_group("what to compare by").add_argument
    add("--metric", help="default: what the task picks checkpoints by")
    add(
        "--select", metavar="SUBSET",
        help="it picks evaluations and grid points; default: valid, or of evaluations "
        "the first where there is none",
    )  # fmt: skip
    add(
        "--tuning-seeds", nargs="+", type=int, metavar="SEED",
        help="of grid points; default: 1000, or the first after it not in --seeds",
    )  # fmt: skip
    add(
        "--count-tuning-seeds", action="store_true",
        help="let seeds of --tuning-seeds be among --seeds too, which flatters",
    )  # fmt: skip
    _add_seeds(found)
    add_execution(found)
    add = found.add_argument_group("what to keep").add_argument
    add("--keep", action="store_true", help="leave the best checkpoint of each run")
    return found


def _add_seeds(found: Page) -> None:
    """How many seeds."""
    add = found.add_argument_group("how many seeds").add_argument
    add(
        "--plan", action="store_true",
        help="only say how many; --seeds are those of a pilot, new or in DIR",
    )  # fmt: skip
    add(
        "--expect", type=above_zero, metavar="DIFFERENCE",
        help="with --plan: what they are to show, as 0.01",
    )  # fmt: skip
    add(
        "--until-decided", nargs="?", const="", metavar="SUBSET",
        help="add seeds after the last, one at a time, to methods that are not told "
        "from the first on SUBSET; default: that of --select",
    )  # fmt: skip
    add(
        "--at-most", type=positive, metavar="N",
        help="with --until-decided: seeds of a method; default 20",
    )  # fmt: skip
    add(
        "--budget", type=hours, metavar="TIME",
        help="with --until-decided: of all runs added up, tuning too, as 6h or 90m",
    )  # fmt: skip


def above_zero(text: str) -> float:
    """A positive number, for ``type=``."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number above 0")


def hours(text: str) -> float:
    """A time such as 6h, 1.5h or 90m, in hours, for ``type=``."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([hm])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} is no time such as 6h or 90m")
    return float(found[1]) / {"h": 1, "m": 60}[found[2]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then write and print everything."""
    args = parser().parse_args(argv)
    require("compare", *FOR_TABLES[args.executor])
    from ..comparison.command import run
    from ..comparison.comparing import report

    return run(report, args)
