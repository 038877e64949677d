"""Predictions for GLUE's leaderboard from a checkpoint of task glue.

    fairseq-steady submission CHECKPOINT data/glue submission

Writes submission/RTE.tsv (or CoLA, SST-2, MRPC, STS-B, QQP, QNLI; for MNLI both MNLI-m
and MNLI-mm), index and prediction, as the leaderboard takes them: zip the folder.
"""

import argparse
from pathlib import Path

from ..data.glue import LAYOUTS, SUBMISSIONS, find_split, read_unlabelled
from ..errors import UserError
from ..escaping import tsv_cell
from ..files import write_text
from ..inference.predicting import Prediction, Predictor

#: STS-B's scores are within these.
_LOWEST, _HIGHEST = 0.0, 5.0


def shown(found: Prediction) -> str:
    """A prediction as the leaderboard reads it."""
    if found.label is not None:
        return tsv_cell(found.label)
    return f"{min(_HIGHEST, max(_LOWEST, found.score or 0.0)):.3f}"


def main() -> None:
    """Predict every test set of the checkpoint's task, then write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="GLUE's folder, or the task's")
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--model", help="model directory, where it has moved")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    predictor = Predictor(args.checkpoint, args.model, args.cpu)
    name = str(getattr(predictor.task.cfg, "glue_task", None))
    if name not in LAYOUTS:
        raise UserError(f"{args.checkpoint} is not of task glue")
    written = {}
    for split, file in SUBMISSIONS[name].items():
        path = find_split(args.data, LAYOUTS[name], split)
        rows = list(read_unlabelled(path, LAYOUTS[name]))
        found = predictor(
            [row[0] if len(row) == 1 else (row[0], row[1]) for row in rows]
        )
        lines = [f"{index}\t{shown(one)}" for index, one in enumerate(found)]
        written[args.out / f"{file}.tsv"] = "\n".join(["index\tprediction", *lines, ""])
    for path, text in written.items():
        try:
            write_text(path, text)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from None
        print(path)
