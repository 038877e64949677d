"""Results as rows, and rows as console table, Markdown, CSV and LaTeX."""

import csv
import io
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from ..scores.groups import OF_GROUP
from .answers import HUGE, Answer, Stop, answers, chance, sentence
from .answers import row as answer_row
from .crossed import Crossed
from .definitions import Definitions, Escape
from .power import ERROR, POWER
from .recorded import majority_baseline
from .results import Result, rank, score
from .significance import FEWEST

Row = dict[str, str]
#: In the folder of results: what each table decided.
DECISIONS = "decisions.csv"
#: The interval over both.
OTHER = "seeds x sentences [95 %]"

#: The rules that tabulate itself has for cells.
_LATEX = str.maketrans({**LATEX_ESCAPE_RULES, "±": r"$\pm$"})


@dataclass(frozen=True)
class Scored:
    """What results are compared on.

    Args:
        metric: as the task logs it.
        larger: whether more is better.
        select: subset that picks each run's evaluation.
        tuning_runs: that chose each method's flags.
        stops: where adding seeds ended, by setting and method; empty where the seeds
            were fixed.
        looked: whether these results were looked at otherwise, too: by --until-decided
            before a table of fixed seeds, or in such a table before --until-decided.

    """

    metric: str
    larger: bool
    select: str
    tuning_runs: int = 0
    stops: Mapping[tuple[str, str], Stop] = field(default_factory=dict)
    looked: bool = False

    def subsets(self, results: Sequence[Result]) -> list[str]:
        """What the runs were evaluated on by this metric, in their order."""
        return [n for n in subsets(results) if any(self.has(r, n) for r in results)]

    def has(self, result: Result, subset: str) -> bool:
        """Whether a run ended and has the metric on a subset."""
        if not result.ok or subset not in result.evaluations[0]:
            return False
        metrics: Any = result.evaluations[0]
        return self.metric in metrics[subset]

    def scores(self, results: Sequence[Result], subset: str) -> dict[int, float]:
        """Score on a subset by seed, at each run's best evaluation.

        nan of a run that diverged; none of one that crashed, or has no such metric.
        """
        return {
            r.seed: score(self.best(r), subset, self.metric) if r.ok else math.nan
            for r in results
            if r.diverged or self.has(r, subset)
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


def ended(results: Sequence[Result]) -> list[Result]:
    """Runs that were trained to their end."""
    return [result for result in results if result.ok]


def unique(values: Sequence[str]) -> list[str]:
    """Each once, in order of appearance."""
    return list(dict.fromkeys(values))


def failed(results: Sequence[Result], scored: Scored, subset: str) -> int | None:
    """Runs at or below the majority baseline or without a finite score.

    None where there is no such baseline and no run diverged.
    """
    found = [r.predictions[subset] for r in results if subset in r.predictions]
    baseline = majority_baseline(scored.metric, found[0]) if found else math.nan
    if math.isnan(baseline):
        return sum(r.diverged for r in results) or None
    scores = scored.scores(results, subset).values()
    return sum(not baseline + 1e-9 < score < math.inf for score in scores)


def number(value: float, digits: int = 3, sign: str = "") -> str:
    """Of a cell; empty where there is none. ``sign`` + is shown of what is positive."""
    kind = "f" if abs(value) < HUGE else "e"
    return "" if math.isnan(value) else f"{value:{sign}.{digits}{kind}}"


def _spread(scores: Sequence[float]) -> str:
    if not all(map(math.isfinite, scores)):
        return "nan"
    mean = statistics.mean(scores)
    if len(scores) < 2:
        return number(mean)
    return f"{number(mean)} ± {number(statistics.stdev(scores))}"


def _described(scores: Sequence[float], scored: Scored) -> Row:
    """Scores of the runs; a run without a finite one spoils the mean alone."""
    if not scores:
        return {}
    ordered = sorted(scores, key=scored.rank)
    return {
        "mean ± std": _spread(scores),
        "median": number(_middle(ordered)),
        "best": number(ordered[-1]),
    }


def _middle(ordered: Sequence[float]) -> float:
    """Median of what is in order."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else sum(ordered[half - 1 : half + 1]) / 2


def _ends(low: float, high: float) -> str:
    return f"[{number(low, sign='+')}, {number(high, sign='+')}]"


def _compared(found: Answer | None, adding: bool) -> Row:
    """Difference, intervals and what came of them; adding seeds leaves no plain p."""
    row = {"difference [95 %]": "", OTHER: "", "decision" if adding else "p (Holm)": ""}
    if found is None:
        return row
    one, other = found.difference, found.other
    row["difference [95 %]"] = number(one.mean, sign="+")
    if not math.isnan(one.low):
        row["difference [95 %]"] += f" {_ends(one.low, one.high)}"
        if isinstance(other, Crossed):
            row[OTHER] = _ends(other.low, other.high)
    if adding:
        row["decision"] = found.said
    elif not math.isnan(found.p):
        row["p (Holm)"] = f"{_chance(one.p)} ({_chance(found.p)})"
    return row


def _chance(p: float) -> str:
    return chance(p).removeprefix("p ").replace(" ", "")


def _median(values: Sequence[float | None]) -> float:
    known = [value for value in values if value]
    return statistics.median(known) if known else math.nan


def _costs(mine: Sequence[Result], first: Sequence[Result]) -> Row:
    def ratio(values: Sequence[float | None], base: Sequence[float | None]) -> str:
        quotient = _median(values) / _median(base)
        return "" if math.isnan(quotient) else f"{quotient:.2f}x"

    mine, first = ended(mine), ended(first)  # what was cut short took less
    if not any(result.seconds_per_update for result in mine):  # a probe
        return {}
    pace = [r.seconds_per_update for r in mine]
    time, time_of_first = ([r.training_seconds for r in rs] for rs in (mine, first))
    memory, memory_of_first = (
        [r.peak_gpu_mb or r.peak_mb for r in rs] for rs in (mine, first)
    )
    return {
        "s/update": number(_median(pace), 2),
        "time": ratio(time, time_of_first),
        "memory": ratio(memory, memory_of_first),
    }


def by_name(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results of each method, in order of appearance."""
    methods = unique([r.method for r in results])
    return {m: [r for r in results if r.method == m] for m in methods}


def _rows_of(results: Sequence[Result], scored: Scored, subset: str) -> list[Row]:
    """A row per method, for one setting and subset."""
    by_method = by_name(results)
    first = next(iter(by_method.values()))
    found = answers(by_method, scored, subset)
    rows = []
    for method, mine in by_method.items():
        scores = list(scored.scores(mine, subset).values())
        count = failed(mine, scored, subset)
        rows.append(
            {
                "method": method,
                **_described(scores, scored),
                "n": f"{len(scores)} of {len(mine)}",
                "failed": "" if count is None else str(count),
                **_compared(found.get(method), bool(scored.stops)),
                **_costs(mine, first),
                "tuning runs": str(scored.tuning_runs or ""),
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
#: What stands under each table.
Notes = Mapping[Title, Sequence[str]]


def tables(results: Sequence[Result], scored: Scored) -> Tables:
    """A table per setting and subset, and one of its groups where it has some."""
    made: Tables = {}
    for setting in unique([r.setting for r in results]):
        mine = [r for r in results if r.setting == setting]
        for subset in subsets(mine):
            if any(scored.has(r, subset) for r in mine):
                title = Title(setting, subset, scored.metric)
                made[title] = _rows_of(mine, scored, subset)
            if groups := _groups_of(mine, scored, subset):
                made[Title(setting, subset, "accuracy by group")] = groups
    return made


def _judged(
    results: Sequence[Result], scored: Scored
) -> Iterator[tuple[Title, str, dict[str, Answer]]]:
    """Each table's title, its first method and the answers of the others."""
    for setting in unique([r.setting for r in results]):
        mine = [r for r in results if r.setting == setting]
        by_method = by_name(mine)
        for subset in scored.subsets(mine):
            title = Title(setting, subset, scored.metric)
            yield title, next(iter(by_method)), answers(by_method, scored, subset)


def notes(results: Sequence[Result], scored: Scored) -> Notes:
    """Under each table: what was decided, and what it would take."""
    return {
        title: [sentence(method, first, one) for method, one in found.items()]
        for title, first, found in _judged(results, scored)
    }


def decisions(results: Sequence[Result], scored: Scored) -> list[Row]:
    """The same as rows."""
    return [
        {**title._asdict(), **answer_row(method, one)}
        for title, _, found in _judged(results, scored)
        for method, one in found.items()
    ]


def _groups_of(results: Sequence[Result], scored: Scored, subset: str) -> list[Row]:
    """Accuracy in a subset's groups, such as languages, a row per method.

    A run that diverged spoils the means, as in the table above.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for result in results:
        has = scored.has(result, scored.select) and subset in result.evaluations[0]
        if has or result.diverged:
            one = scored.best(result)[subset] if has else {}
            found.setdefault(result.method, []).append(one)
    every = [name for mine in found.values() for one in mine for name in one]
    names = unique([name for name in every if name.startswith(OF_GROUP)])

    def row(mine: Sequence[Mapping[str, float]]) -> Row:
        of = {name: [one.get(name, math.nan) for one in mine] for name in names}
        return {name.removeprefix(OF_GROUP): _spread(of[name]) for name in names}

    return [{"method": m, **row(mine)} for m, mine in found.items()] if names else []


def definitions(scored: Scored) -> Definitions:
    """What the columns mean."""
    better = "more is better" if scored.larger else "less is better"
    about = (
        f"Scores: {scored.metric} ({better}), each run at the evaluation that is best "
        f"on {scored.select}, the first of equals. Under each table: the smallest "
        f"difference that so many seeds show with a chance of {100 * POWER:.0f} % "
        f"(paired t test at {ERROR} over the number of methods, and the standard "
        "deviation of these differences), and what half of it takes; for other "
        "sentences the test over both has to find it, too. Hours are those of runs, "
        "added up."
    )
    columns = {**_OF_SCORES, **_rule(scored), **_OF_COST}
    return Definitions(about, columns | (_TUNED if scored.tuning_runs else {}))


_OF_SCORES = {
    "mean ± std": "over seeds, ddof 1.",
    "n": "runs that ended or diverged, of those planned; crashed runs are in no other "
    "column.",
    "failed": "runs at or below what always answering the most frequent class scores, "
    "and those without a finite score, as after diverging, which also make the mean "
    "nan and rank last.",
    "difference": "mean over seeds of the score minus the first method's with the same "
    f"seed, with its 95 % t interval over seeds; none below {FEWEST} seeds. It speaks "
    "of other seeds on these sentences, after the training sentences that all runs "
    "have.",
    OTHER.partition(" [")[0]: "the interval of the same difference for other seeds and "
    "other sentences like these (two-way analysis of variance of each sentence's share "
    "in the score, Dorfman, Berbaum and Metz 1992, degrees of freedom by Hillis 2007).",
}
_OF_COST = {
    "s/update": "mean over a run's log, evaluations left out, then the median over "
    "runs.",
    "time, memory": "of a training (s/update times its updates), and a run's peak: "
    "medians as multiples of the first method's.",
}
_TUNED = {
    "tuning runs": "those that chose each method's flags; their seeds are not among "
    "the runs of the table unless --count-tuning-seeds says so."
}
_LOOKED = (
    " --until-decided was used here, too; these p and intervals, of a fixed number of "
    "seeds, take no account of it and are too sure."
)
_READ = (
    " A table of these runs was made before. That look is not counted: with it up to "
    "10 % of such comparisons tell methods apart that do not differ."
)


def _rule(scored: Scored) -> dict[str, str]:
    """How it was decided."""
    if not scored.stops:
        tested = (
            "two-sided paired t test of the difference over seeds; in brackets after "
            "Holm's correction over the methods of the table. Under each table the "
            "same for other sentences. Seeds that are added after a look at the table "
            "are a second look; --until-decided counts its own, and is to be chosen "
            "before there is a table."
        )
        return {"p": tested + (_LOOKED if scored.looked else "")}
    decided = (
        "seeds were added until a method was told from the first, so no p of a fixed "
        "number of seeds is given; alpha spending of O'Brien and Fleming's type (Lan "
        "and DeMets 1983) and Holm's correction keep all looks at all methods at about "
        f"{100 * ERROR:.0f} %, and the intervals are those of the last look at its "
        "level, so that they hold wherever it stopped. Where predictions were "
        "recorded, both intervals have to agree."
    )
    return {"decision": decided + (_READ if scored.looked else "")}


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Those that say anything, in order of appearance."""
    columns = unique([name for row in rows for name in row])
    return [name for name in columns if any(row.get(name) for row in rows)]


def _filled(rows: Sequence[Row]) -> list[list[str]]:
    columns = columns_of(rows)
    return [[row.get(column, "") for column in columns] for row in rows]


def _tabulated(rows: Sequence[Row], form: str, escape: Escape) -> str:
    cells = [[*map(escape, row)] for row in _filled(rows)]
    columns = [*map(escape, columns_of(rows))]
    return str(tabulate(cells, columns, form, disable_numparse=True))


def markdown(made: Tables, described: Definitions, said: Notes | None = None) -> str:
    """Every table under its title and above its notes, the definitions at the end."""
    escape = escaping.markdown
    parts = [
        f"**{escape(str(title))}**\n\n{_tabulated(rows, 'github', escape)}\n"
        + "".join(f"\n- {escape(line)}" for line in (said or {}).get(title, ()))
        + "\n" * (title in (said or {}))
        for title, rows in made.items()
    ]
    return "\n".join([*parts, described.markdown(), ""])


def latex(made: Tables, described: Definitions, said: Notes | None = None) -> str:
    """Tables with captions, for booktabs, their notes under them."""
    parts = [
        f"\\begin{{table}}\n\\centering\n\\caption{{{_tex(str(title))}}}\n"
        + _tabulated(rows, "latex_booktabs", visible).replace("±", r"$\pm$")
        + "\n\\end{table}\n"
        + "".join(f"\n{_tex(line)}\n" for line in (said or {}).get(title, ()))
        for title, rows in made.items()
    ]
    return "\n".join([*parts, described.latex(_tex), ""])


def _tex(text: str) -> str:
    return visible(text).translate(_LATEX)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Rows as CSV; columns in order of appearance."""
    text = io.StringIO()
    writer = csv.writer(text)
    for row in (columns_of(rows), *_filled(rows)):
        writer.writerow(map(escaping.csv_cell, row))
    write_text(path, text.getvalue())


def runs(results: Sequence[Result], scored: Scored) -> list[Row]:
    """A row per run, for the reader's own statistics."""
    rows = []
    for result in results:
        row = {"setting": result.setting} if result.setting else {}
        row |= {"method": result.method, "seed": str(result.seed)}
        if scored.has(result, scored.select):
            best = scored.best(result)
            row["updates"] = str(best["updates"])
            row |= {
                f"{scored.metric} {subset}": repr(score(best, subset, scored.metric))
                for subset in scored.subsets([result])
            }
            row["s/update"] = number(result.seconds_per_update or math.nan, 4)
            row["peak MB"] = number(result.peak_gpu_mb or result.peak_mb or math.nan, 0)
        rows.append(row | {"status": result.status})
    return rows


def write_rows(out: Path, results: Sequence[Result], scored: Scored) -> None:
    """runs.csv and decisions.csv."""
    write_csv(out / "runs.csv", runs(results, scored))
    write_csv(out / DECISIONS, decisions(results, scored))


def write_tables(
    out: Path, made: Tables, described: Definitions, said: Notes | None = None
) -> None:
    """table.csv, table.md and table.tex."""
    long = [{**title._asdict(), **row} for title, rows in made.items() for row in rows]
    write_csv(out / "table.csv", long)
    write_text(out / "table.md", markdown(made, described, said))
    write_text(out / "table.tex", latex(made, described, said))


def show(made: Tables, described: Definitions, said: Notes | None = None) -> None:
    """The tables on the console, with their notes and definitions under them."""
    console = Console()
    limit = console.width if console.is_terminal else None
    for title, rows in made.items():
        console.print(printed(str(title)), style="italic")
        for columns in _blocks(rows, limit):
            # As wide as it has to be, so that no name is cut.
            Console(width=_width(rows, columns)).print(_shown(rows, columns))
        for line in (said or {}).get(title, ()):
            console.print(printed(line))
    for line in [described.about, *described.lines()]:
        console.print(printed(line), style="dim")


def _width(rows: Sequence[Row], columns: Sequence[str]) -> int:
    """Of a table on the console, frames included."""
    cells = [[name, *(row.get(name, "") for row in rows)] for name in columns]
    return 1 + sum(3 + max(cell_len(visible(c)) for c in column) for column in cells)


def _blocks(rows: Sequence[Row], width: int | None) -> list[list[str]]:
    """Columns that fit side by side, the first of all again at the head of each."""
    first, *rest = columns_of(rows)
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
