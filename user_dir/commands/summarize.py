"""Summarise articles with a fine-tuned checkpoint, one summary a line.

    fairseq-steady summarize CHECKPOINT articles.txt test.csv a.story > summaries.txt
    some-program | fairseq-steady summarize CHECKPOINT > summaries.txt
    fairseq-steady summarize --lead 3 test.csv --column article > lead3.txt

Text files and standard input have an article a line; .csv, .tsv and .jsonl a column
of them; a .story file is one article. Beam search is as in training unless flags say
otherwise. --lead N needs no checkpoint: the first N sentences, a hard baseline to beat.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ..data.readers import filled, is_table, read_inputs, read_text
from ..data.tables import read_named, text_cell
from ..inference.summarising import Trained
from ..scores.rouge import as_lines
from .output import write_lines


def read_articles(path: Path | None, column: str) -> Iterator[str]:
    """The articles of one file, or of standard input.

    Raises:
        UserError: the file cannot be read, lacks the column, or has an empty article.

    """
    if path is not None and path.suffix.lower() == ".story":
        text = read_text(path).partition("@highlight")[0]
        yield filled(path, 1, [" ".join(text.split())])[0]
    elif path is not None and is_table(path):
        for number, row in read_named(path, (column,), "name yours with --column"):
            yield filled(path, number, [text_cell(path, number, row, column)])[0]
    else:
        yield from (line for _, _, line in read_inputs(path))


def lead(text: str, sentences: int) -> str:
    """The first sentences of an article."""
    return " ".join(as_lines(text).split("\n")[:sentences])


def summaries(args: argparse.Namespace, texts: Sequence[str]) -> Iterator[str]:
    """One per article."""
    if args.lead:
        yield from (lead(text, args.lead) for text in texts)
        return
    names = ("beam", "length_penalty", "min_length", "max_length", "no_repeat")
    changes: dict[str, Any] = {
        name: getattr(args, name) for name in names if getattr(args, name) is not None
    }
    trained = Trained(args.checkpoint, args.model, args.cpu, **changes)
    yield from trained(texts, args.max_tokens)
    if trained.truncated:
        print(f"{trained.truncated} articles were cut to fit", file=sys.stderr)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("inputs", nargs="*", type=Path, help="checkpoint, then files")
    add("--lead", type=int, default=0, help="no model: the first N sentences")
    add("--column", default="article", help="of the articles, in tables")
    add("--model", help="model directory, where it has moved since the training")
    add("--max-tokens", type=int, default=8192, help="of a batch, padding included")
    add("--cpu", action="store_true")
    add("--beam", type=int)
    add("--length-penalty", type=float)
    add("--min-length", type=int)
    add("--max-length", type=int)
    add("--no-repeat", type=int, help="length of n-grams that may not occur twice")
    args = parser.parse_args()
    args.checkpoint = None
    if not args.lead:
        if not args.inputs:
            parser.error("name a checkpoint, or --lead N")
        args.checkpoint, *args.inputs = args.inputs
    return args


def main() -> None:
    """Read, summarise, write as they come."""
    args = parse()
    paths = args.inputs or [None]
    texts = [text for path in paths for text in read_articles(path, args.column)]
    shown = track(
        summaries(args, texts),
        "summarising",
        total=len(texts),
        console=Console(stderr=True),
    )
    write_lines(" ".join(summary.split()) for summary in shown)
