"""Summaries of articles, one a line, from a checkpoint of task summarization.

    fairseq-steady summarize runs/cnn_dm/checkpoint_best.pt test.csv > summaries.txt
    some-program | fairseq-steady summarize CHECKPOINT > summaries.txt
    fairseq-steady summarize --lead 3 test.csv --column article > lead3.txt

Text files and standard input have an article a line; .csv, .tsv and .jsonl a column
of them; a .story file is one article. --lead N needs no checkpoint: the first N
sentences, a hard baseline to beat.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .output import say_what_is_read, with_progress, write_lines
from .page import Page, add_model, page, positive

USAGE = "CHECKPOINT [FILE ...] [options]\n       %(prog)s --lead N [FILE ...]"
OUT = """\
what comes out, on standard output:
  a line for each article, in order. fairseq-steady rouge scores such a file.
"""
#: The flags of the search, as :class:`..inference.searching.Decoding` names them.
DECODING = ("beam", "length_penalty", "min_length", "max_length", "no_repeat")


def parser() -> Page:
    """The page of summarize."""
    found = page("summarize", __doc__, USAGE, OUT)
    add = found.add_argument_group("what to read").add_argument
    add(
        "inputs",
        nargs="*",
        type=Path,
        metavar="CHECKPOINT [FILE ...]",
        help="files; default: standard input",
    )
    add(
        "--lead",
        type=positive,
        metavar="N",
        help="no checkpoint: the first N sentences",
    )
    add(
        "--column",
        default="article",
        metavar="NAME",
        help="of the articles, in tables; default %(default)s",
    )
    _add_search(found)
    add_model(found)
    return found


def _add_search(found: Page) -> None:
    """The flags of :data:`DECODING`."""
    add = found.add_argument_group("the search; by default as in training").add_argument
    add("--beam", type=int, metavar="N", help="hypotheses kept, from 1")
    add(
        "--length-penalty",
        type=float,
        metavar="X",
        help="exponent of the length that a score is divided by",
    )
    add("--min-length", type=int, metavar="N", help="tokens before a summary may end")
    add("--max-length", type=int, metavar="N", help="tokens after which it must")
    add(
        "--no-repeat",
        type=int,
        metavar="N",
        help="length of n-grams that may not occur twice; 0: none",
    )


def read_articles(path: Path | None, column: str) -> Iterator[str]:
    """The articles of one file, or of standard input.

    Raises:
        UserError: the file cannot be read, lacks the column, or has an empty article.

    """
    from ..data.readers import filled, is_table, read_inputs, read_text
    from ..data.tables import read_named, text_cell

    if path is not None and path.suffix.lower() == ".story":
        text = read_text(path).partition("@highlight")[0]
        yield filled(path, 1, [" ".join(text.split())])[0]
    elif path is not None and is_table(path):
        for number, row in read_named(path, (column,), "name yours with --column"):
            yield filled(path, number, [text_cell(path, number, row, column)])[0]
    else:
        yield from (line for _, _, line in read_inputs(path))


def lead(texts: Sequence[str], sentences: int) -> Iterator[str]:
    """The first sentences of each article."""
    from ..scores.rouge import as_lines

    for text in texts:
        yield " ".join(as_lines(text).split("\n")[:sentences])


def summaries(args: argparse.Namespace, texts: Sequence[str]) -> Iterator[str]:
    """One per article."""
    if args.lead:
        yield from lead(texts, args.lead)
        return
    from ..inference.summarising import Summarizer

    given = {name: getattr(args, name) for name in DECODING}
    changes: dict[str, Any] = {n: v for n, v in given.items() if v is not None}
    summarize = Summarizer(args.checkpoint, args.model, args.cpu, **changes)
    yield from summarize(texts, args.max_tokens)
    if summarize.truncated:
        print(f"{summarize.truncated} articles were cut to fit", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Read, summarise, write as they come."""
    page = parser()
    args = page.parse_args(argv)
    args.checkpoint = None
    if not args.lead:
        if not args.inputs:
            page.error("name a checkpoint, or --lead N")
        args.checkpoint, *args.inputs = args.inputs
    if not args.inputs:
        say_what_is_read("articles")
    paths = args.inputs or [None]
    texts = [text for path in paths for text in read_articles(path, args.column)]
    shown = with_progress(summaries(args, texts), "summarising", len(texts))
    write_lines(" ".join(summary.split()) for summary in shown)
    return 0
