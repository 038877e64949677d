"""Predict with a fine-tuned checkpoint: labels and probabilities, or scores.

    fairseq-steady predict CHECKPOINT sentences.txt > predictions.jsonl
    some-program | fairseq-steady predict CHECKPOINT --tsv > predictions.tsv
    fairseq-steady predict CHECKPOINT dev.csv --text-column a --pair-column b

Text files and standard input have a sentence a line, or two with a tab between them
where the checkpoint was trained on pairs; .tsv, .csv and .jsonl have named columns, by
default those of the training. One line comes out for each that goes in.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ..data.readers import Where, error_at, filled, is_table, read_inputs, shown
from ..data.tables import read_named, text_cell
from ..errors import UserError
from ..inference.predicting import Prediction, Predictor, Text
from .output import write_lines


def as_text(where: Where, number: int, line: str, pairs: bool) -> Text:
    """A sentence, or the two that a tab parts.

    Raises:
        UserError: the line has another form than the checkpoint's texts.

    """
    cells = line.split("\t")
    if len(cells) != 1 + pairs:
        form = "pairs, a tab between the two" if pairs else "sentences without tabs"
        mend = f"the checkpoint reads {form}; a table is named .tsv and has a header"
        problem = f"{len(cells) - 1} tabs in {shown(line)}"
        raise error_at(where, number, problem, mend)
    return one_or_two(filled(where, number, cells))


def one_or_two(texts: Sequence[str]) -> Text:
    """A sentence or a pair."""
    return (texts[0], texts[1]) if len(texts) == 2 else texts[0]


def read_texts(path: Path | None, columns: Sequence[str]) -> Iterator[Text]:
    """The sentences or pairs of a file, or of standard input.

    Raises:
        UserError: the file cannot be read, or lacks a column.

    """
    if path is None or not is_table(path):
        for where, number, line in read_inputs(path):
            yield as_text(where, number, line, len(columns) == 2)
        return
    mend = "name yours with --text-column and --pair-column"
    for number, row in read_named(path, columns, mend):
        cells = [text_cell(path, number, row, name) for name in columns]
        yield one_or_two(filled(path, number, cells))


def columns_of(args: argparse.Namespace, trained: Sequence[str]) -> Sequence[str]:
    """The checkpoint's columns, or what the command line calls them.

    Raises:
        UserError: it asks for pairs of a checkpoint that reads sentences.

    """
    if args.pair_column and len(trained) == 1:
        raise UserError(
            f"{args.checkpoint} was trained on single sentences; leave --pair-column "
            f"{args.pair_column} out"
        )
    given = (args.text_column, args.pair_column)
    return [own or name for own, name in zip(given, trained, strict=False)]


def as_json(found: Prediction) -> str:
    """One line of JSON."""
    if found.label is None:
        return json.dumps({"score": found.score})
    return json.dumps({"label": found.label, "probabilities": found.probabilities})


def as_tsv(found: Prediction) -> str:
    """Label and probabilities in order, or the score."""
    if found.label is None:
        return repr(found.score)
    return "\t".join([found.label, *map(repr, found.probabilities.values())])


def header(predictor: Predictor) -> str:
    """The first line of a TSV.

    Raises:
        UserError: a label would be two cells, or two lines.

    """
    for label in predictor.labels or ():
        if len(label.split("\t")) + len(label.splitlines()) > 2:
            raise UserError(f"label {shown(label)} does not fit into a TSV; omit --tsv")
    return "\t".join(["label", *predictor.labels]) if predictor.labels else "score"


def answers(predictor: Predictor, texts: Sequence[Text], args: Any) -> Iterator[str]:
    """A line for each text, after the header of a TSV."""
    if args.tsv:
        yield header(predictor)
    console = Console(stderr=True)
    found = predictor(texts, args.max_tokens)
    for one in track(found, "predicting", total=len(texts), console=console):
        yield as_tsv(one) if args.tsv else as_json(one)


def main() -> None:
    """Read, predict, write as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path)
    add("inputs", nargs="*", type=Path, help="files; default: standard input")
    add("--text-column", help="of tables; default: as in training")
    add("--pair-column", help="of tables, for pairs; default: as in training")
    add("--tsv", action="store_true", help="TSV with a header instead of JSON lines")
    add("--model", help="model directory, where it has moved since the training")
    add("--max-tokens", type=int, default=8192, help="of a batch, padding included")
    add("--head", help="which task, for glue_multitask's checkpoints")
    add("--cpu", action="store_true")
    args = parser.parse_args()
    predictor = Predictor(args.checkpoint, args.model, args.cpu, args.head)
    columns = columns_of(args, predictor.columns)
    paths = args.inputs or [None]
    texts = [text for path in paths for text in read_texts(path, columns)]
    write_lines(answers(predictor, texts, args))
    if predictor.truncated:
        print(f"{predictor.truncated} texts were cut to fit", file=sys.stderr)
