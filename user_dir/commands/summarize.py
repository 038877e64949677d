"""Summaries of articles, one a line, from a checkpoint of task summarization.

    fairseq-steady summarize runs/cnn_dm/checkpoint_best.pt test.csv > summaries.txt
    fairseq-steady summarize models/bart-large-cnn test.csv --column article > bart.txt
    some-program | fairseq-steady summarize CHECKPOINT > summaries.txt
    fairseq-steady summarize --lead 3 test.csv --column article > lead3.txt
    fairseq-steady summarize --random train.csv --summary-column highlights test.csv

Text files and standard input have an article a line; .csv, .tsv and .jsonl a column
of them; a .story file is one article. Files of any size are read as they are used.
A model directory of a BART that was trained to summarise elsewhere may stand in the
checkpoint's place; it searches as the files that it was imported from say.
Two baselines need no checkpoint: --lead N, the first N sentences (of an article with
lines, as a dialogue's turns, the first N lines), is hard to beat; --random FILE, a
summary drawn from those of another file, is what knowing no article scores.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from .output import say_what_is_read, with_progress, write_lines
from .page import Page, add_model, page, positive

USAGE = (
    "CHECKPOINT [FILE ...] [options]\n       %(prog)s --lead N [FILE ...]"
    "\n       %(prog)s --random FILE [FILE ...]"
)
OUT = """\
what comes out, on standard output:
  a line for each article, in order. fairseq-steady rouge scores such a file. On
  standard error how many summaries of a checkpoint are different.
"""
#: The flags of the search, as :class:`..inference.searching.Decoding` names them.
DECODING = ("beam", "length_penalty", "min_length", "max_length", "no_repeat")
#: Of articles in tables, where no checkpoint says another.
_COLUMN = "article"


class Article(NamedTuple):
    """One to summarise, and where it is."""

    where: Path | str
    line: int
    text: str


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
        "--column",
        metavar="NAME",
        help="of the articles, in tables; default: as in the checkpoint's training, "
        f"else {_COLUMN}",
    )
    _add_baselines(found)
    _add_search(found)
    add_model(found)
    return found


def _add_baselines(found: Page) -> None:
    """Flags of what needs no checkpoint."""
    add = found.add_argument_group("baselines, in place of a checkpoint").add_argument
    add(
        "--lead",
        type=positive,
        metavar="N",
        help="the first N sentences, or lines where an article has lines",
    )
    add(
        "--random",
        type=Path,
        metavar="FILE",
        help="summaries drawn from a file of them",
    )
    add(
        "--summary-column",
        default="summary",
        metavar="NAME",
        help="of the summaries in that file, if a table; default %(default)s",
    )
    add("--seed", type=int, metavar="N", help="of --random; default 0")


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


def read_articles(path: Path | None, column: str) -> Iterator[Article]:
    """The articles of one file, or of standard input, as they are wanted.

    Raises:
        UserError: the file cannot be read, lacks the column, or has an empty article.

    """
    from ..data.pairs import texts_cell
    from ..data.readers import is_table, read_text, stream_inputs
    from ..data.tables import read_named

    if path is not None and path.suffix.lower() == ".story":
        text = read_text(path).partition("@highlight")[0]
        yield _article(path, 1, " ".join(text.split()))
    elif path is not None and is_table(path):
        for number, row in read_named(path, (column,), "name yours with --column"):
            text = " ".join(texts_cell(path, number, row, column))
            yield _article(path, number, text)
    else:
        yield from (Article(*found) for found in stream_inputs(path))


def _article(path: Path, line: int, text: str) -> Article:
    """One that is not empty."""
    from ..data.readers import filled

    return Article(path, line, filled(path, line, [text], "article")[0])


def count(paths: Sequence[Path | None], column: str) -> int:
    """How many articles there are, all looked at; 0 where that would use them up.

    Raises:
        UserError: as :func:`read_articles`; nothing is written then.

    """
    if any(path is None or (path.exists() and not path.is_file()) for path in paths):
        return 0
    return sum(1 for path in paths for _ in read_articles(path, column))


def lead(texts: Iterable[str], sentences: int) -> Iterator[str]:
    """The first sentences of each article; its first lines where it has lines."""
    from ..scores.rouge import as_lines

    for text in texts:
        lines = filter(str.strip, as_lines(text).split("\n"))
        yield " ".join(islice(lines, sentences))


def drawn(texts: Iterable[str], path: Path, column: str, seed: int) -> Iterator[str]:
    """A summary of a file for each article, whatever that is about; none is empty.

    Raises:
        UserError: the file cannot be read, lacks the column, or has no summary.

    """
    import numpy as np

    from .rouge import read

    found = read(path, column, "--summary-column")
    known = [several[0] for several in found if several[0].strip()]
    if not known:
        raise UserError(f"{path} holds no summary that is not empty")
    draw = np.random.default_rng(seed)
    yield from (known[draw.integers(len(known))] for _ in texts)


def summaries(
    args: argparse.Namespace, summarize: Any, texts: Iterable[str]
) -> Iterator[str]:
    """One per article."""
    if args.lead:
        yield from lead(texts, args.lead)
    elif args.random:
        yield from drawn(texts, args.random, args.summary_column, args.seed or 0)
    else:
        yield from of_checkpoint(args, summarize, texts)


def loaded(args: argparse.Namespace) -> Any:
    """The trained model, which searches as is asked for."""
    from ..inference.summarising import Summarizer

    given = {name: getattr(args, name) for name in DECODING}
    changes: dict[str, Any] = {n: v for n, v in given.items() if v is not None}
    return Summarizer(args.checkpoint, args.model, args.cpu, **changes)


def of_checkpoint(
    args: argparse.Namespace, summarize: Any, texts: Iterable[str]
) -> Iterator[str]:
    """Summaries of a trained model; says what was cut, and how many are different."""
    from ..scores.summaries import Sameness

    same = Sameness()
    yield from same.watch(summarize(texts, args.max_tokens))
    if summarize.truncated:
        print(
            f"{summarize.truncated} of {same.count} articles were cut to the "
            f"{summarize.tokenizer.max_length} tokens that the model reads",
            file=sys.stderr,
        )
    for said in same.report():
        print(said, file=sys.stderr)


def check(page: Page, args: argparse.Namespace) -> None:
    """Refuse flags that have no effect on what is asked for."""
    if args.lead and args.random:
        page.error("--lead and --random: give one of them")
    baseline = "--lead" if args.lead else "--random" if args.random else ""
    useless: dict[str, str] = {}
    if baseline:
        names = (*DECODING, "model", "max_tokens", "cpu")
        useless |= dict.fromkeys(names, f"is for a checkpoint, not for {baseline}")
    if not args.random:
        useless |= dict.fromkeys(("summary_column", "seed"), "is for --random FILE")
    for name, why in useless.items():
        if getattr(args, name) != page.get_default(name):
            page.error(f"--{name.replace('_', '-')} {why}: leave it out")
    if (args.seed or 0) < 0:
        page.error(f"--seed {args.seed} is not a number from 0")


def main(argv: Sequence[str] | None = None) -> int:
    """Read, summarise, write as they come."""
    page = parser()
    args = page.parse_intermixed_args(argv)
    check(page, args)
    from ..data.noticing import noticing
    from ..data.readers import is_table

    summarize, column = None, args.column or _COLUMN
    trained = not (args.lead or args.random)
    if trained:
        if not args.inputs:
            page.error("name a checkpoint, --lead N or --random FILE")
        args.checkpoint, *args.inputs = args.inputs
    if args.column and not any(map(is_table, args.inputs)):
        page.error("--column is for tables, and these are texts: leave it out")
    if trained:
        summarize = loaded(args)
        if args.checkpoint.is_file():
            column = args.column or summarize.task.tables.source
    if not args.inputs:
        say_what_is_read("articles")
    paths = args.inputs or [None]
    total = count(paths, column)
    articles = (found for path in paths for found in read_articles(path, column))
    seen = noticing(articles, lambda found: found[:2], lambda found: (found.text,))
    shown = summaries(args, summarize, (found.text for found in seen))
    shown = with_progress(shown, "summarising", total)
    write_lines(" ".join(summary.split()) for summary in shown)
    return 0
