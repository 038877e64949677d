"""Predict with a fine-tuned checkpoint: labels and probabilities, or scores.

    python scripts/predict.py CHECKPOINT sentences.txt > predictions.jsonl
    some-program | python scripts/predict.py CHECKPOINT --tsv > predictions.tsv
    python scripts/predict.py CHECKPOINT dev.csv --text-column a --pair-column b

Text files and standard input have a sentence a line (a tab parts the two of a pair);
.tsv, .csv and .jsonl have named columns. One line comes out for each that goes in.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq_steady.data.pairs import TABLES
from fairseq_steady.data.readers import read_lines, read_named
from fairseq_steady.errors import UserError
from fairseq_steady.predicting import Prediction, Predictor, Text
from rich.console import Console
from rich.progress import track


def as_text(line: str) -> Text:
    """A sentence, or the two that a tab parts."""
    first, tab, second = line.partition("\t")
    return (first, second) if tab else first


def read_texts(path: Path, text: str, pair: str | None) -> list[Text]:
    """The sentences or pairs of a file.

    Raises:
        UserError: the file cannot be read, or lacks a column.

    """
    if path.suffix not in TABLES:
        return [as_text(line) for _, line in read_lines(path)]
    columns = [text, *([pair] if pair else [])]
    mend = "name yours with --text-column and --pair-column"
    rows = [row for _, row in read_named(path, columns, mend)]
    if pair:
        return [(str(row[text]), str(row[pair])) for row in rows]
    return [str(row[text]) for row in rows]


def texts_of(args: argparse.Namespace) -> Sequence[Text]:
    """From files, or from standard input."""
    if args.inputs:
        read = [read_texts(p, args.text_column, args.pair_column) for p in args.inputs]
        return [text for texts in read for text in texts]
    return [as_text(line) for line in sys.stdin.read().split("\n") if line.strip()]


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
    """The first line of a TSV."""
    return "\t".join(["label", *predictor.labels]) if predictor.labels else "score"


def main() -> None:
    """Read, predict, write as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path)
    add("inputs", nargs="*", type=Path, help="files; default: standard input")
    add("--text-column", default="text", help="of tables")
    add("--pair-column", help="of tables, for pairs")
    add("--tsv", action="store_true", help="TSV with a header instead of JSON lines")
    add("--model", help="model directory, where it has moved since the training")
    add("--max-tokens", type=int, default=8192, help="of a batch, padding included")
    add("--head", help="which task, for glue_multitask's checkpoints")
    add("--cpu", action="store_true")
    args = parser.parse_args()
    texts = texts_of(args)
    if not texts:
        raise UserError("there is nothing to predict")
    predictor = Predictor(args.checkpoint, args.model, args.cpu, args.head)
    if args.tsv:
        print(header(predictor))
    console = Console(stderr=True)
    found = predictor(texts, args.max_tokens)
    for one in track(found, "predicting", total=len(texts), console=console):
        print(as_tsv(one) if args.tsv else as_json(one), flush=True)
    if predictor.truncated:
        print(f"{predictor.truncated} texts were cut to fit", file=sys.stderr)


if __name__ == "__main__":
    main()
