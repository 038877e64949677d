"""ROUGE of summaries against references, with 95 % t intervals over articles.

    fairseq-steady rouge summaries.txt references.txt
    fairseq-steady rouge summaries.txt test.csv --column highlights

F1 by rouge-score in percent, means over articles. Text files have a summary a line;
ROUGE-Lsum splits sentences at newlines, and text without them after . ! and ?
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .page import Page, page

USAGE = "SUMMARIES REFERENCES [options]"
OUT = """\
what comes out, on standard output:
  the number of articles, then a line for each of rouge1, rouge2 and rougeLsum:
  its mean and, from five articles on, [low, high].
"""


def parser() -> Page:
    """The page of rouge."""
    found = page("rouge", __doc__, USAGE, OUT)
    add = found.add_argument_group("arguments").add_argument
    add("summaries", type=Path, metavar="SUMMARIES", help="file with those to score")
    add(
        "references", type=Path, metavar="REFERENCES", help="as many, in the same order"
    )
    add(
        "--column", default="highlights", metavar="NAME",
        help="of the summaries, in tables; default %(default)s",
    )  # fmt: skip
    add("--no-stem", action="store_true", help="no Porter stemming")
    return found


def read(path: Path, column: str) -> list[str]:
    """Summaries of a file; a line of a text file may be empty.

    Raises:
        UserError: the file cannot be read, or lacks the column.

    """
    from ..data.readers import is_table, read_text
    from ..data.tables import read_named, text_cell

    if is_table(path):
        rows = read_named(path, (column,), "name yours with --column")
        return [text_cell(path, number, row, column) for number, row in rows]
    return read_text(path).removesuffix("\n").split("\n")


def report(ours: Sequence[str], theirs: Sequence[str], stem: bool) -> None:
    """Score and print."""
    from ..comparison.significance import interval
    from ..scores.rouge import NAMES, rouge

    scores = [rouge(a, b, stem) for a, b in zip(ours, theirs, strict=True)]
    stemming = "with" if stem else "without"
    print(f"{len(scores)} summaries, {stemming} stemming")
    for name in NAMES:
        values = [100 * score[name] for score in scores]
        low, high = interval(values)
        shown = "" if math.isnan(low) else f"  [{low:.2f}, {high:.2f}]"
        print(f"{name:10} {statistics.mean(values):6.2f}{shown}")


def main(argv: Sequence[str] | None = None) -> int:
    """Read both, score, print."""
    args = parser().parse_args(argv)
    ours, theirs = (
        read(path, args.column) for path in (args.summaries, args.references)
    )
    if len(ours) != len(theirs):
        raise UserError(
            f"{args.summaries} has {len(ours)} summaries and {args.references} has "
            f"{len(theirs)}; there must be one for each"
        )
    report(ours, theirs, not args.no_stem)
    return 0
