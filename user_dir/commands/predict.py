"""Labels and probabilities, or scores, of new texts.

    fairseq-steady predict runs/cola/checkpoint_best.pt --text "The cat sat."
    fairseq-steady predict runs/cola/checkpoint_best.pt a.txt > predictions.jsonl
    some-program | fairseq-steady predict CHECKPOINT --tsv > predictions.tsv
    fairseq-steady predict models/sentiment a.txt  # imported with its head

Text files and standard input have a sentence a line, or two with a tab between them
where the checkpoint was trained on pairs; .tsv, .csv and .jsonl have named columns, by
default those of the training. The model directory of the training must still be there:
it has the tokeniser. --model says where it is now. A model directory that has a head
takes sentences or pairs, as the first text is; --pair-column NAME says pairs, as it has
to of standard input and pipes.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import UserError
from ..escaping import tsv_cell
from .output import say_what_is_read, with_progress, write_lines
from .page import Page, add_model, page

if TYPE_CHECKING:
    from ..data.readers import Example, Where
    from ..inference.predicting import Prediction, Predictor, Text

USAGE = "CHECKPOINT [FILE ... | --text SENTENCE] [options]"
OUT = """\
what comes out, on standard output:
  a line for each text, in order: {"label": "1", "probabilities": {"0": 0.02, ...}}
  or, from a checkpoint that was trained on scores, {"score": 3.1}; on any number of
  labels, {"labels": ["a", "b"], "probabilities": {...}}, those above 0.5. With --tsv a
  header line comes first. Progress and notes are on standard error.

from Python:
  from fairseq_steady.inference.predicting import Predictor
  labels = [found.label for found in Predictor("CHECKPOINT")(["The cat sat."])]
"""


def parser() -> Page:
    """The page of predict."""
    found = page("predict", __doc__, USAGE, OUT)
    add = found.add_argument_group("what to read").add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="of a task with labels or scores; or a model directory with a head",
    )
    add("inputs", nargs="*", type=Path, metavar="FILE", help="default: standard input")
    add("--text", action="append", metavar="SENTENCE", help="this one; may be repeated")
    add("--text-column", metavar="NAME", help="of tables; default: as in training")
    add(
        "--pair-column",
        metavar="NAME",
        help="of tables, for pairs; default: as in training",
    )
    add = found.add_argument_group("what to write").add_argument
    add("--tsv", action="store_true", help="TSV with a header instead of JSON lines")
    add("--with-text", action="store_true", help="repeat each text beside its answer")
    add = add_model(found)
    add("--head", metavar="TASK", help="which one, for checkpoints of glue_multitask")
    return found


def as_text(where: "Where", number: int, line: str, pairs: bool) -> "Text":
    """A sentence, or the two that a tab parts.

    Raises:
        UserError: the line has another form than the checkpoint's texts.

    """
    from ..data.readers import error_at, filled, shown

    cells = line.split("\t")
    if len(cells) != 1 + pairs:
        form = "pairs, a tab between the two" if pairs else "sentences without tabs"
        mend = f"the checkpoint reads {form}; a table is named .tsv and has a header"
        problem = f"{len(cells) - 1} tabs in {shown(line)}"
        raise error_at(where, number, problem, mend)
    return one_or_two(filled(where, number, cells))


def one_or_two(texts: Sequence[str]) -> "Text":
    """A sentence or a pair."""
    return (texts[0], texts[1]) if len(texts) == 2 else texts[0]


def read_texts(
    path: Path | None,
    columns: Sequence[str],
    quoted: bool = False,
    aliases: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Iterator["Text"]:
    """The sentences or pairs of a file, or of standard input.

    Raises:
        UserError: the file cannot be read, or lacks a column, or is a table without
            a table's name.

    """
    from ..data.readers import filled, is_table, stream_inputs
    from ..data.tables import columns_of as table_columns
    from ..data.tables import read_named, text_cell

    if path is None or not is_table(path):
        for where, number, line in stream_inputs(path):
            text = as_text(where, number, line, len(columns) == 2)
            if number == 1:
                check_no_table(where, line, [columns[0], *aliases.get(columns[0], ())])
            yield text
        return
    mend = "name yours with --text-column and --pair-column"
    there = table_columns(path, quoted)
    columns = [
        next((one for one in aliases.get(name, ()) if one in there), name)
        for name in columns
    ]
    for number, row in read_named(path, columns, mend, quoted):
        cells = [text_cell(path, number, row, name) for name in columns]
        yield one_or_two(filled(path, number, cells))


def check_no_table(where: "Where", line: str, names: Sequence[str]) -> None:
    """Refuse JSON, and remark on a header, where each line is a text.

    Args:
        where: the line is from.
        line: the first one.
        names: that the column of texts may have.

    Raises:
        UserError: the line is a JSON object with such a column.

    """
    from ..data.readers import error_at, shown

    mend = "a table is read from a file that is named .tsv, .csv or .jsonl"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict) and not row.keys().isdisjoint(names):
        problem = f"{shown(line)} is a row of a table, not a text"
        raise error_at(where, 1, problem, mend)
    if {cell.strip(' "') for cell in re.split("[,;\t]", line)} & {*names}:
        print(
            f"{where}:1: {shown(line)} is answered as a text; {mend}", file=sys.stderr
        )


def every_text(
    args: argparse.Namespace, predictor: "Predictor", columns: Sequence[str]
) -> list["Text | Example"]:
    """What the command line gives or names, in order.

    Raises:
        UserError: the checkpoint reads rows of a table, or a column of one is named,
            and no table is.

    """
    from ..data.readers import is_table

    if predictor.by_rows:
        if args.text or args.text_column or args.pair_column or not args.inputs:
            raise UserError(
                f"{args.checkpoint} reads rows of several columns "
                f"({', '.join(predictor.row)}): name a .jsonl file that has them, "
                "and leave out --text, --text-column and --pair-column"
            )
        return [row for path in args.inputs for row in predictor.examples(path)]
    if not any(map(is_table, args.inputs)):
        _check_columns(args, predictor)
    if args.text:
        pairs = len(columns) == 2
        return [
            as_text("--text", place, text, pairs)
            for place, text in enumerate(args.text, 1)
        ]
    if not args.inputs:
        say_what_is_read("texts")
    return [
        text
        for path in args.inputs or [None]
        for text in read_texts(path, columns, predictor.quoted, predictor.aliases)
    ]


def _check_columns(args: argparse.Namespace, predictor: "Predictor") -> None:
    """Refuse names of columns where there is no table.

    That of a pair tells of a model directory that texts are pairs.
    """
    named = {"--text-column": args.text_column, "--pair-column": args.pair_column}
    for flag, column in named.items():
        if column and (flag == "--text-column" or predictor.columns is not None):
            raise UserError(
                f"{flag} {column} is a column of a table: name a .tsv, .csv or .jsonl "
                "file, or leave it out"
            )


def columns_of(
    args: argparse.Namespace, trained: Sequence[str] | None
) -> Sequence[str]:
    """The checkpoint's columns, or what the command line calls them.

    Raises:
        UserError: it asks for pairs of a checkpoint that reads sentences.

    """
    if trained is None:
        trained = ("text", "pair") if args.pair_column or in_pairs(args) else ("text",)
    if args.pair_column and len(trained) == 1:
        raise UserError(
            f"{args.checkpoint} was trained on single sentences; leave --pair-column "
            f"{args.pair_column} out"
        )
    given = (args.text_column, args.pair_column)
    named = [own or name for own, name in zip(given, trained, strict=False)]
    return [*named, *trained[2:]]


def in_pairs(args: argparse.Namespace) -> bool:
    """Whether the first text is a pair; not seen of a pipe, which is read only once."""
    from ..data.readers import is_table

    if args.text or not args.inputs or is_table(args.inputs[0]):
        return "\t" in (args.text or [""])[0]
    try:
        with args.inputs[0].open("rb") as file:
            return file.seekable() and b"\t" in file.readline()
    except OSError:  # said when it is read
        return False


def as_json(found: "Prediction", texts: Sequence[str]) -> str:
    """One line of JSON, after its texts where they are wanted."""
    begin = {"text": texts[0] if len(texts) == 1 else texts} if texts else {}
    if found.score is not None:
        return json.dumps({**begin, "score": found.score})
    answer: dict[str, object] = {"label": found.label}
    if found.labels is not None:
        answer = {"labels": list(found.labels)}
    return json.dumps({**begin, **answer, "probabilities": found.probabilities})


def as_tsv(found: "Prediction", texts: Sequence[str]) -> str:
    """Label and probabilities in order, or the score; after the texts if wanted."""
    cells = [*map(tsv_cell, texts)]
    if found.score is not None:
        return "\t".join([*cells, repr(found.score)])
    given = found.label if found.labels is None else ",".join(found.labels)
    return "\t".join([*cells, given or "", *map(repr, found.probabilities.values())])


def header(predictor: "Predictor", columns: Sequence[str]) -> str:
    """The first line of a TSV.

    Raises:
        UserError: a label would be two cells, or two lines.

    """
    from ..data.readers import shown

    for label in predictor.labels or ():
        if len(label.split("\t")) + len(label.splitlines()) > 2:
            raise UserError(f"label {shown(label)} does not fit into a TSV; omit --tsv")
        if predictor.several and "," in label:
            raise UserError(
                f"label {shown(label)} has a comma, which parts labels in a TSV; omit "
                "--tsv"
            )
    name = "labels" if predictor.several else "label"
    answer = [name, *predictor.labels] if predictor.labels else ["score"]
    return "\t".join([*map(tsv_cell, columns), *answer])


def texts_of(text: "Text | Example") -> Sequence[str]:
    """The one or two texts, or those of an example."""
    if isinstance(text, str):
        return [text]
    return text if isinstance(text, tuple) else text.texts


def answers(
    predictor: "Predictor",
    texts: Sequence["Text | Example"],
    columns: Sequence[str],
    args: argparse.Namespace,
) -> Iterator[str]:
    """A line for each text, after the header of a TSV."""
    if args.tsv:
        if args.with_text and any(
            tsv_cell(t) != t for one in texts for t in texts_of(one)
        ):
            print(
                "a tab, newline or backslash in a text is written as \\t, \\n, \\\\; "
                "without --tsv texts are as they were",
                file=sys.stderr,
            )
        yield header(predictor, columns if args.with_text else ())
    write = as_tsv if args.tsv else as_json
    found = predictor(texts, args.max_tokens)
    lines = (
        write(one, texts_of(text) if args.with_text else ())
        for text, one in zip(texts, found, strict=True)
    )
    yield from with_progress(lines, "predicting", len(texts))


def main(argv: Sequence[str] | None = None) -> int:
    """Read, predict, write as they come."""
    page = parser()
    args = page.parse_intermixed_args(argv)
    if args.text and args.inputs:
        page.error(f"--text and {args.inputs[0]}: give one of them")
    from ..inference.predicting import Predictor

    predictor = Predictor(args.checkpoint, args.model, args.cpu, args.head)
    columns = columns_of(args, predictor.columns)
    texts = every_text(args, predictor, columns)
    write_lines(answers(predictor, texts, columns, args))
    if predictor.truncated:
        print(f"{predictor.truncated} texts were cut to fit", file=sys.stderr)
    return 0
