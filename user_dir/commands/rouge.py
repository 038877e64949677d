"""ROUGE of summaries against references, with 95 % t intervals over articles, and more.

    fairseq-steady rouge summaries.txt references.txt
    fairseq-steady rouge summaries.txt test.csv --column highlights
    fairseq-steady rouge out.txt dialogsum.test.jsonl --references mean \\
        --column summary1,summary2,summary3 --source-column dialogue
    fairseq-steady rouge out.txt test.jsonl --column references --bertscore models/bert

F1 by rouge-score in percent, means over articles. Text files have a summary a line;
ROUGE-Lsum splits sentences at newlines, and text without them after . ! and ?
Several columns, or a list in JSON lines, are references of one article.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .output import write_lines
from .page import Page, page

if TYPE_CHECKING:
    from ..inference.embedding import BertScores

USAGE = "SUMMARIES REFERENCES [options]"
OUT = """\
what comes out, on standard output:
  the number of articles, then a line for each of rouge1, rouge2 and rougeLsum (and
  bertscore): its mean and, from five articles on, [low, high]; then how long the
  summaries are in words, by the references' length, how many percent of them are
  different, and, where the articles are known, how many percent of their n-grams of
  1 to 4 words the article does not have; with --against the differences.
"""
References = list[tuple[str, ...]]


def parser() -> Page:
    """The page of rouge."""
    found = page("rouge", __doc__, USAGE, OUT)
    add = found.add_argument_group("arguments").add_argument
    add("summaries", type=Path, metavar="SUMMARIES", help="file with those to score")
    add(
        "references", type=Path, metavar="REFERENCES", help="as many, in the same order"
    )
    add(
        "--column", default="highlights", metavar="NAME[,NAME]",
        help="of the summaries, in tables; default %(default)s",
    )  # fmt: skip
    add("--no-stem", action="store_true", help="no Porter stemming")
    add(
        "--references", dest="how", choices=("best", "mean"), default="best",
        help="of several: the scores of that with the largest ROUGE-1, or the mean; "
        "default %(default)s",
    )  # fmt: skip
    add(
        "--against", type=Path, metavar="SUMMARIES",
        help="others of the same articles: also by how much these are better, from "
        "the differences article by article",
    )  # fmt: skip
    add = found.add_argument_group("the articles, for novel n-grams").add_argument
    add("--source", type=Path, metavar="FILE", help="default: REFERENCES, if a table")
    add("--source-column", metavar="NAME", help="of the articles, in a table")
    add = found.add_argument_group("BERTScore").add_argument
    add("--bertscore", type=Path, metavar="DIR", help="model directory of an encoder")
    add(
        "--layer", type=int, metavar="N",
        help="whose states are compared, 0 for embeddings; default: the last",
    )  # fmt: skip
    add("--idf", action="store_true", help="rare words of the references count more")
    add("--cpu", action="store_true", help="stay on the CPU where there is a GPU")
    return found


def read(path: Path, column: str, flag: str = "--column") -> References:
    """Texts of a file, one or several an article; only a single one may be empty.

    Raises:
        UserError: the file cannot be read, has nothing, or lacks the column.

    """
    from ..data.pairs import texts_cell
    from ..data.readers import is_table, read_text
    from ..data.tables import read_named

    if not is_table(path):
        text = read_text(path, blank=True)  # a model may write nothing at all
        if not text:
            raise UserError(f"{path} is empty; it should have a line for each article")
        return [(line,) for line in text.removesuffix("\n").split("\n")]
    names, found = column.split(","), []
    for number, row in read_named(path, names, f"name yours with {flag}"):
        texts = [t for name in names for t in texts_cell(path, number, row, name)]
        found.append(tuple(filter(str.strip, texts)) or ("",))
    return found


def read_sources(args: argparse.Namespace) -> list[str] | None:
    """The articles, if anything names them.

    Raises:
        UserError: the file cannot be read, lacks the column, or is no table.

    """
    from ..data.readers import is_table

    path, column = args.source, args.source_column
    if path is None and column is None:
        return None
    path = path or args.references
    if column is None and is_table(path):
        raise UserError(f"{path} is a table; name its articles with --source-column")
    if column is not None and not is_table(path):
        mend = "leave it out" if args.source else "name the articles with --source"
        raise UserError(
            f"--source-column {column} is of a table, and {path} is none; {mend}"
        )
    return [" ".join(texts) for texts in read(path, column or "", "--source-column")]


def line(name: str, values: Sequence[float]) -> str:
    """A mean, with its interval where there is one."""
    from ..comparison.significance import interval

    low, high = interval(values)
    shown = "" if math.isnan(low) else f"  [{low:.2f}, {high:.2f}]"
    return f"{name:10} {statistics.mean(values):6.2f}{shown}"


def report(
    args: argparse.Namespace,
    ours: Sequence[str],
    theirs: References,
    articles: Sequence[str] | None,
    against: Sequence[str] | None,
    similar: "BertScores | None",
) -> Iterator[str]:
    """Lines of scores."""
    scores = scored(args, ours, theirs, similar)
    stemming = "without" if args.no_stem else "with"
    several = max(map(len, theirs))
    which = f", {args.how} of up to {several} references" if several > 1 else ""
    yield f"{len(scores)} summaries, {stemming} stemming{which}"
    for name in scores[0]:
        yield line(name, [100 * score[name] for score in scores])
    yield from others(ours, theirs, articles)
    if against is not None:
        before = scored(args, against, theirs, similar)
        yield f"better than {args.against} by"
        for name in before[0]:
            pairs = zip(scores, before, strict=True)
            yield line(name, [100 * (a[name] - b[name]) for a, b in pairs])


def scored(
    args: argparse.Namespace,
    ours: Sequence[str],
    theirs: References,
    similar: "BertScores | None",
) -> list[dict[str, float]]:
    """ROUGE of each summary, and BERTScore where there is an encoder."""
    from ..scores.rouge import best_or_mean

    pairs = zip(ours, theirs, strict=True)
    found = [best_or_mean(a, b, args.how, not args.no_stem) for a, b in pairs]
    if similar:
        for scores, one in zip(found, similar(ours), strict=True):
            scores["bertscore"] = one
    return found


def similarity(args: argparse.Namespace, theirs: References) -> "BertScores | None":
    """BERTScore against these references; None without an encoder.

    Raises:
        UserError: it is none, or has no such layer.

    """
    if not args.bertscore:
        return None
    from .. import tasks as plugin  # noqa: F401  registers everything
    from ..inference.embedding import BertScores, Embedder
    from ..model_dir import ModelDirectory

    embed = Embedder(ModelDirectory.open(args.bertscore), args.layer, args.cpu)
    return BertScores(embed, theirs, args.idf, args.how)


def warn(ours: Sequence[str], theirs: References) -> None:
    """Say what makes scores less than they seem."""
    from ..scores.summaries import few_outputs

    empty = sum(not any(map(str.strip, several)) for several in theirs)
    if empty:
        said = f"{empty} of {len(theirs)} articles have no reference, and score 0"
        print(said, file=sys.stderr)
    if few := few_outputs(len({*ours}), len(ours)):
        print(few, file=sys.stderr)


def others(
    ours: Sequence[str], theirs: References, articles: Sequence[str] | None
) -> Iterator[str]:
    """Lines of what ROUGE does not see."""
    from ..scores.summaries import measured_sums, shares

    sums = measured_sums(ours, theirs, articles)
    found = {"unique": 100 * len({*ours}) / len(ours), **shares(sums)}
    for name, value in found.items():
        yield f"{name.removesuffix('_ratio'):10} {value:6.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Read all, score, print."""
    args = parser().parse_args(argv)
    if args.bertscore is None and (args.idf or args.cpu or args.layer is not None):
        raise UserError("--idf, --layer and --cpu are for --bertscore DIR; add it")
    ours, against = (
        path and [several[0] for several in read(path, args.column)]
        for path in (args.summaries, args.against)
    )
    theirs, articles = read(args.references, args.column), read_sources(args)
    counts = {args.references: len(theirs)}
    if against is not None:
        counts[args.against] = len(against)
    if articles is not None:
        counts[args.source or args.references] = len(articles)
    for path, count in counts.items():
        if len(ours) != count:
            raise UserError(
                f"{args.summaries} has {len(ours)} summaries and {path} has {count}; "
                "there must be one for each"
            )
    similar = similarity(args, theirs)
    warn(ours, theirs)
    write_lines(report(args, ours, theirs, articles, against, similar))
    if similar and (cut := similar.embed.truncated):
        said = f"{cut} texts were cut to what {args.bertscore} reads"
        print(f"{said}: their BERTScore is of the beginning", file=sys.stderr)
    return 0
