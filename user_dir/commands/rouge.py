"""ROUGE of summaries against references, with 95 % bootstrap intervals.

    fairseq-steady rouge summaries.txt references.txt
    fairseq-steady rouge summaries.txt test.csv --column highlights

F1 by rouge-score in percent, means over articles. Text files have a summary a line;
ROUGE-Lsum splits sentences at newlines, and text without them after . ! and ?
"""

import argparse
import statistics
from pathlib import Path

from ..comparison.significance import interval
from ..data.readers import is_table, read_text
from ..data.tables import read_named, text_cell
from ..errors import UserError
from ..scores.rouge import NAMES, rouge


def read(path: Path, column: str) -> list[str]:
    """Summaries of a file; a line of a text file may be empty.

    Raises:
        UserError: the file cannot be read, or lacks the column.

    """
    if is_table(path):
        rows = read_named(path, (column,), "name yours with --column")
        return [text_cell(path, number, row, column) for number, row in rows]
    return read_text(path).removesuffix("\n").split("\n")


def main() -> None:
    """Read both, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("summaries", type=Path)
    parser.add_argument("references", type=Path)
    parser.add_argument("--column", default="highlights", help="of tables")
    parser.add_argument("--no-stem", action="store_true", help="no Porter stemming")
    args = parser.parse_args()
    ours, theirs = (
        read(path, args.column) for path in (args.summaries, args.references)
    )
    if len(ours) != len(theirs):
        raise UserError(
            f"{args.summaries} has {len(ours)} summaries and {args.references} has "
            f"{len(theirs)}; there must be one for each"
        )
    scores = [rouge(a, b, not args.no_stem) for a, b in zip(ours, theirs, strict=True)]
    stemming = "without" if args.no_stem else "with"
    print(f"{len(scores)} summaries, {stemming} stemming")
    for name in NAMES:
        values = [100 * score[name] for score in scores]
        low, high = interval(values)
        print(f"{name:10} {statistics.mean(values):6.2f}  [{low:.2f}, {high:.2f}]")
