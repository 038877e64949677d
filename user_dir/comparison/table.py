"""Results as rows, and rows as console table, Markdown, CSV and LaTeX."""

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import LATEX_ESCAPE_RULES, tabulate

from .. import escaping
from ..errors import visible
from ..files import write_text
from .results import Result, rank, score
from .significance import (
    FEWEST,
    Difference,
    difference,
    holm,
    majority_baseline,
)

Row = dict[str, str]
#: What names of the groups' metrics begin with.
_OF_GROUP = "accuracy_"

#: The rules that tabulate itself has for cells.
_LATEX = str.maketrans({**LATEX_ESCAPE_RULES, "±": r"$\pm$"})


@dataclass(frozen=True)
class Scored:
    """What results are compared on.

    Args:
        metric: as the task logs it.
        larger: whether more is better.
        select: subset that picks each run's evaluation.

    """

    metric: str
    larger: bool
    select: str

    def scores(self, results: Sequence[Result], subset: str) -> dict[int, float]:
        """Score on a subset by seed, at each run's best evaluation."""
        return {
            r.seed: score(self.best(r), subset, self.metric)
            for r in results
            if r.ok and subset in r.evaluations[0]
        }

    def best(self, result: Result) -> dict[str, Any]:
        """A run's evaluation to report."""
        return result.best(self.select, self.metric, self.larger)

    def rank(self, value: float) -> float:
        """More is better whatever the metric; what is no finite number is worst."""
        return rank(value, self.larger)


def subsets(results: Sequence[Result]) -> list[str]:
    """What the runs were evaluated on, in their order."""
    seen = (n for r in results for one in r.evaluations for n in one if n != "updates")
    return list(dict.fromkeys(seen))


def unique(values: Sequence[str]) -> list[str]:
    """Each once, in order of appearance."""
    return list(dict.fromkeys(values))


def failed(results: Sequence[Result], scored: Scored, subset: str) -> int | None:
    """Runs at or below the majority baseline or without a finite score.

    None where there is no such baseline.
    """
    golds = [r.predictions[subset]["gold"] for r in results if subset in r.predictions]
    if not golds:
        return None
    baseline = majority_baseline(scored.metric, golds[0], subset)
    if math.isnan(baseline):
        return None
    scores = scored.scores(results, subset).values()
    return sum(not baseline + 1e-9 < score < math.inf for score in scores)


def _number(value: float, digits: int = 3) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _spread(scores: Sequence[float]) -> str:
    if not all(map(math.isfinite, scores)):
        return "nan"
    mean = statistics.mean(scores)
    if len(scores) < 2:
        return _number(mean)
    return f"{_number(mean)} ± {_number(statistics.stdev(scores))}"


def _described(scores: Sequence[float], scored: Scored) -> Row:
    """Scores of the runs; a run without a finite one spoils the mean alone."""
    if not scores:
        return {}
    ordered = sorted(scores, key=scored.rank)
    return {
        "mean ± std": _spread(scores),
        "median": _number(_middle(ordered)),
        "best": _number(ordered[-1]),
    }


def _middle(ordered: Sequence[float]) -> float:
    """Median of what is in order."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else sum(ordered[half - 1 : half + 1]) / 2


def _compared(found: Difference | None, p: float) -> Row:
    if found is None or math.isnan(found.mean):
        return {"difference [95 %]": "", "p (Holm)": ""}
    interval = (
        "" if math.isnan(found.low) else f" [{found.low:+.3f}, {found.high:+.3f}]"
    )
    return {
        "difference [95 %]": f"{found.mean:+.3f}{interval}",
        "p (Holm)": "" if math.isnan(p) else f"{found.p:.3f} ({p:.3f})",
    }


def _median(values: Sequence[float | None]) -> float:
    known = [value for value in values if value]
    return statistics.median(known) if known else math.nan


def _costs(mine: Sequence[Result], first: Sequence[Result]) -> Row:
    def ratio(values: Sequence[float | None], base: Sequence[float | None]) -> str:
        quotient = _median(values) / _median(base)
        return "" if math.isnan(quotient) else f"{quotient:.2f}x"

    if not any(result.seconds_per_update for result in mine):  # a probe
        return {}
    pace, pace_of_first = ([r.seconds_per_update for r in rs] for rs in (mine, first))
    memory, memory_of_first = (
        [r.peak_gpu_mb or r.peak_mb for r in rs] for rs in (mine, first)
    )
    return {
        "s/update": _number(_median(pace), 2),
        "time": ratio(pace, pace_of_first),
        "memory": ratio(memory, memory_of_first),
    }


def _rows_of(results: Sequence[Result], scored: Scored, subset: str) -> list[Row]:
    """A row per method, for one setting and subset."""
    methods = unique([r.method for r in results])
    by_method = {m: [r for r in results if r.method == m] for m in methods}
    scores = {m: scored.scores(by_method[m], subset) for m in methods}
    first = methods[0]
    found = {m: difference(scores[m], scores[first]) for m in methods[1:]}
    corrected = dict(zip(found, holm([one.p for one in found.values()]), strict=True))
    rows = []
    for method in methods:
        mine = by_method[method]
        count = failed(mine, scored, subset)
        rows.append(
            {
                "method": method,
                **_described(list(scores[method].values()), scored),
                "n": f"{len(scores[method])} of {len(mine)}",
                "failed": "" if count is None else str(count),
                **_compared(found.get(method), corrected.get(method, math.nan)),
                **_costs(mine, by_method[first]),
            }
        )
    return rows


class Title(NamedTuple):
    """What a table is about."""

    setting: str
    subset: str
    metric: str

    def __str__(self) -> str:
        return ", ".join(
            [*filter(None, [self.setting]), f"{self.metric} on {self.subset}"]
        )


Tables = dict[Title, list[Row]]
Escape = Callable[[str], str]


def tables(results: Sequence[Result], scored: Scored) -> Tables:
    """A table per setting and subset, and one of its groups where it has some."""
    made: Tables = {}
    for setting in unique([r.setting for r in results]):
        mine = [r for r in results if r.setting == setting]
        for subset in subsets(mine):
            made[Title(setting, subset, scored.metric)] = _rows_of(mine, scored, subset)
            if groups := _groups_of(mine, scored, subset):
                made[Title(setting, subset, "accuracy by group")] = groups
    return made


def _groups_of(results: Sequence[Result], scored: Scored, subset: str) -> list[Row]:
    """Accuracy in a subset's groups, such as languages, a row per method."""
    found: dict[str, list[dict[str, float]]] = {}
    for result in results:
        if result.ok and subset in result.evaluations[0]:
            found.setdefault(result.method, []).append(scored.best(result)[subset])
    every = [name for mine in found.values() for one in mine for name in one]
    names = unique([name for name in every if name.startswith(_OF_GROUP)])

    def row(mine: Sequence[Mapping[str, float]]) -> Row:
        of = {name: [one.get(name, math.nan) for one in mine] for name in names}
        return {name.removeprefix(_OF_GROUP): _spread(of[name]) for name in names}

    return [{"method": m, **row(mine)} for m, mine in found.items()] if names else []


def definitions(scored: Scored) -> str:
    """What the columns mean."""
    better = "more is better" if scored.larger else "less is better"
    return (
        f"Scores: {scored.metric} ({better}), each run at the evaluation that is best "
        f"on {scored.select}, the first of equals. mean ± std: over seeds, ddof 1. n: "
        "runs that ended, of those planned; crashed runs are in no other column. "
        "failed: runs at or below what always answering the most frequent class "
        "scores, and those without a finite score, which also make the mean nan and "
        "rank last. difference: mean over seeds of the score minus the first method's "
        "with the same seed, with its 95 % BCa bootstrap interval over seeds; no "
        f"interval below {FEWEST} seeds. p: two-sided paired permutation test of that "
        "difference, 2 / 2^n at the least with n seeds; in brackets after Holm's "
        "correction over the methods of the table. s/update: mean over a "
        "run's log, evaluations left out, then the median over runs. time, memory: "
        "medians (memory: of each run's peak) as multiples of the first method's."
    )


def _columns(rows: Sequence[Row]) -> list[str]:
    """Those that say anything, in order of appearance."""
    columns = unique([name for row in rows for name in row])
    return [name for name in columns if any(row.get(name) for row in rows)]


def _filled(rows: Sequence[Row]) -> list[list[str]]:
    columns = _columns(rows)
    return [[row.get(column, "") for column in columns] for row in rows]


def _tabulated(rows: Sequence[Row], form: str, escape: Escape) -> str:
    cells = [[*map(escape, row)] for row in _filled(rows)]
    columns = [*map(escape, _columns(rows))]
    return str(tabulate(cells, columns, form, disable_numparse=True))


def markdown(made: Tables, described: str) -> str:
    """Every table under its title, the definitions at the end."""
    escape = escaping.markdown
    parts = [
        f"**{escape(str(title))}**\n\n{_tabulated(rows, 'github', escape)}\n"
        for title, rows in made.items()
    ]
    return "\n".join([*parts, escape(described), ""])


def latex(made: Tables, described: str) -> str:
    """Tables with captions, for booktabs."""
    parts = [
        f"\\begin{{table}}\n\\centering\n\\caption{{{_tex(str(title))}}}\n"
        + _tabulated(rows, "latex_booktabs", visible).replace("±", r"$\pm$")
        + "\n\\end{table}\n"
        for title, rows in made.items()
    ]
    return "\n".join([*parts, _tex(described), ""])


def _tex(text: str) -> str:
    return visible(text).translate(_LATEX)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Rows as CSV; columns in order of appearance."""
    text = io.StringIO()
    writer = csv.writer(text)
    for row in (_columns(rows), *_filled(rows)):
        writer.writerow(map(escaping.csv_cell, row))
    write_text(path, text.getvalue())


def runs(results: Sequence[Result], scored: Scored) -> list[Row]:
    """A row per run, for the reader's own statistics."""
    rows = []
    for result in results:
        row = {"setting": result.setting} if result.setting else {}
        row |= {"method": result.method, "seed": str(result.seed)}
        if result.ok:
            best = scored.best(result)
            row["updates"] = str(best["updates"])
            row |= {
                f"{scored.metric} {subset}": repr(score(best, subset, scored.metric))
                for subset in subsets([result])
            }
            row["s/update"] = _number(result.seconds_per_update or math.nan, 4)
            row["peak MB"] = _number(
                result.peak_gpu_mb or result.peak_mb or math.nan, 0
            )
        rows.append(row | {"status": result.status})
    return rows


def write_all(out: Path, results: Sequence[Result], scored: Scored) -> None:
    """runs.csv, table.csv, table.md and table.tex."""
    write_csv(out / "runs.csv", runs(results, scored))
    write_tables(out, tables(results, scored), definitions(scored))


def write_tables(out: Path, made: Tables, described: str) -> None:
    """table.csv, table.md and table.tex."""
    long = [{**title._asdict(), **row} for title, rows in made.items() for row in rows]
    write_csv(out / "table.csv", long)
    write_text(out / "table.md", markdown(made, described))
    write_text(out / "table.tex", latex(made, described))


def show(made: Tables, described: str) -> None:
    """The tables on the console, with their definitions under them."""
    console = Console()
    limit = console.width if console.is_terminal else None
    for title, rows in made.items():
        console.print(printed(str(title)), style="italic")
        for columns in _blocks(rows, limit):
            # As wide as it has to be, so that no name is cut.
            Console(width=_width(rows, columns)).print(_shown(rows, columns))
    console.print(printed(described), style="dim")


def _width(rows: Sequence[Row], columns: Sequence[str]) -> int:
    """Of a table on the console, frames included."""
    cells = [[name, *(row.get(name, "") for row in rows)] for name in columns]
    return 1 + sum(3 + max(cell_len(visible(c)) for c in column) for column in cells)


def _blocks(rows: Sequence[Row], width: int | None) -> list[list[str]]:
    """Columns that fit side by side, the first of all again at the head of each."""
    first, *rest = _columns(rows)
    blocks = [[first]]
    for name in rest:
        wider = _width(rows, [*blocks[-1], name])
        if width is not None and wider > width and len(blocks[-1]) > 1:
            blocks.append([first])
        blocks[-1].append(name)
    return blocks


def _shown(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    table = Table()
    for name in columns:
        side: Any = "left" if name == "method" else "right"
        table.add_column(printed(name), justify=side)
    for row in rows:
        table.add_row(*(printed(row.get(name, "")) for name in columns))
    return table


def printed(text: str) -> Text:
    """Text for rich's console, which reads markup and emoji in strings."""
    return Text(visible(text))
