"""Does fine-tuning make an encoder forget? Three probes of representational collapse.

    fairseq-steady probe chain --out runs/probe --seeds 1 2 3 --methods plain r3f \\
        --tasks 'cola=data/cola --task cola' \\
        'rte=data/glue --task glue --glue-task rte' \\
        -- --steady-model models/minilm --steady-epochs 3

generalization  fine-tune on the first task; freeze the encoder; fit a linear model to
                its features on each of the others
chain           fine-tune on each task in turn, from the best checkpoint so far; probe
                the first task after each
cycle           the same, --cycles times round; before each task, probe it on the model
                fine-tuned on the task before

Designs: Aghajanyan et al. (arXiv 2008.03156, section 4). Deviation: the linear model is
fitted to its optimum (logistic or ridge regression, penalty by cross-validation), not
trained by gradient descent.

A task is NAME=DATA and flags of fairseq-train; flags after -- are for every task.
Methods are as in fairseq-steady compare, and so are result folders: run again, the
command fills gaps only. Needs pip install 'fairseq-steady[compare]'.
"""

from collections.abc import Sequence

from .extras import require
from .page import Page, page, positive
from .runs import FOR_TABLES, add_execution, add_out, add_plan, add_train

USAGE = (
    "DESIGN --out DIR --tasks TASK ... --methods METHOD ...\n"
    "       --seeds SEED ... [options] -- FLAGS"
)
OUT = """\
what comes out:
  a table for each probe, on standard output, and in DIR as CSV, Markdown and LaTeX,
  with pictures and a folder for each run.

exit status:
  1 if a run crashed, 130 after Ctrl-C; the same command goes on from there.
"""


def parser() -> Page:
    """The page of probe."""
    found = page("probe", __doc__, USAGE, OUT)
    add = found.add_argument_group("what to probe").add_argument
    designs = ("generalization", "chain", "cycle")
    add("design", choices=designs, metavar="DESIGN", help=", ".join(designs))
    add_out(add)
    add(
        "--tasks", nargs="+", required=True, metavar="TASK",
        help="NAME=DATA and flags, two or more",
    )  # fmt: skip
    add_plan(add)
    add(
        "--cycles", type=positive, default=3, metavar="N",
        help="of cycle; default %(default)s",
    )  # fmt: skip
    add_train(found)
    add_execution(found)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then write and print."""
    args = parser().parse_args(argv)
    require("compare", *FOR_TABLES[args.executor])
    from ..comparison.command import run
    from ..comparison.forgetting import report

    return run(report, args)
