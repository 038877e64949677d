"""Predictions for GLUE's or SuperGLUE's leaderboard, from a checkpoint of such a task.

    fairseq-steady submission runs/rte/checkpoint_best.pt data/glue submission
    fairseq-steady submission runs/copa/checkpoint_best.pt data/SuperGLUE submission

Of task glue it writes submission/RTE.tsv (or CoLA, SST-2, MRPC, STS-B, QQP, QNLI; for
MNLI both MNLI-m and MNLI-mm), index and prediction; of task superglue
submission/COPA.jsonl (or BoolQ, CB, RTE, WiC), idx and label. The leaderboards take
them so: zip the folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..escaping import tsv_cell
from .page import Page, page

if TYPE_CHECKING:
    from ..inference.predicting import Prediction, Predictor

#: STS-B's scores are within these.
_LOWEST, _HIGHEST = 0.0, 5.0
USAGE = "CHECKPOINT DATA OUT [options]"
OUT = """\
what comes out:
  a file for each test set, in OUT; their names on standard output.
"""


def parser() -> Page:
    """The page of submission."""
    found = page("submission", __doc__, USAGE, OUT)
    add = found.add_argument_group("arguments").add_argument
    add(
        "checkpoint", type=Path, metavar="CHECKPOINT",
        help="of task glue, glue_multitask or superglue",
    )  # fmt: skip
    add(
        "data", type=Path, metavar="DATA",
        help="GLUE's or SuperGLUE's folder, or the task's",
    )  # fmt: skip
    add("out", type=Path, metavar="OUT", help="folder to write into")
    add(
        "--model", metavar="DIR",
        help="its model directory; default: where it was in training",
    )  # fmt: skip
    add("--head", metavar="TASK", help="which one, for checkpoints of glue_multitask")
    add("--cpu", action="store_true", help="stay on the CPU where there is a GPU")
    return found


def shown(found: "Prediction") -> str:
    """A prediction as the leaderboard reads it."""
    if found.label is not None:
        return tsv_cell(found.label)
    return f"{min(_HIGHEST, max(_LOWEST, found.score or 0.0)):.3f}"


def glue(predictor: "Predictor", data: Path) -> dict[str, str]:
    """The files of a submission to GLUE, by name."""
    from ..data.glue import LAYOUTS, SUBMISSIONS
    from ..data.layouts import find_split, read_unlabelled

    name = str(predictor.task.cfg.glue_task)
    made = {}
    for split, file in SUBMISSIONS[name].items():
        path = find_split(data, LAYOUTS[name], split)
        rows = list(read_unlabelled(path, LAYOUTS[name]))
        found = predictor(
            [row[0] if len(row) == 1 else (row[0], row[1]) for row in rows]
        )
        lines = [f"{index}\t{shown(one)}" for index, one in enumerate(found)]
        made[f"{file}.tsv"] = "\n".join(["index\tprediction", *lines, ""])
    return made


def superglue(predictor: "Predictor", data: Path) -> dict[str, str]:
    """The file of a submission to SuperGLUE, by name."""
    from ..data.superglue import answer, find, read_test

    layout = predictor.task.layout
    rows = list(read_test(find(data, layout, "test"), layout))
    found = predictor([example for _, example in rows])
    pairs = zip(rows, found, strict=True)
    lines = [answer(idx, str(one.label)) for (idx, _), one in pairs]
    return {f"{layout.folder}.jsonl": "\n".join([*lines, ""])}


def main(argv: Sequence[str] | None = None) -> int:
    """Predict every test set of the checkpoint's task, then write."""
    args = parser().parse_args(argv)
    from ..files import write_text
    from ..inference.predicting import Predictor

    predictor = Predictor(args.checkpoint, args.model, args.cpu, args.head)
    makers = {"glue": glue, "glue_multitask": glue, "superglue": superglue}
    make = makers.get(str(predictor.task.cfg._name))
    if make is None:
        raise UserError(
            f"{args.checkpoint} is not of task glue, glue_multitask or superglue"
        )
    for name, text in make(predictor, args.data).items():
        path = args.out / name
        try:
            write_text(path, text)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from None
        print(path)
    return 0
