"""report.html: everything of a comparison in one file that needs no network."""

import base64
import hashlib
import io
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..errors import visible
from ..escaping import command as as_bash
from ..files import write_text
from . import figures, instability, table
from .definitions import Definitions
from .figures import Point
from .origins import unlike
from .plan import typed
from .results import Result
from .table import Notes, Row, Scored, Tables, unique

_HERE = Path(__file__).parent
#: A cell that is a number, a mean with its deviation, a difference, a ratio.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|nan|inf)(e[+-]?\d+)?\b.*|")
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_USE, _METADATA, _STYLE = f"{_SVG}use", f"{_SVG}metadata", f"{_SVG}style"
#: matplotlib's colours as the style sheet has them, in light and in dark.
_COLOURS = {
    colour: f"var(--c{place})"
    for place, colour in enumerate(mpl.color_sequences["tab10"])
}
_TITLES = {
    "scores": "Scores of every seed",
    "best_of_k": "Expected best of k runs",
    "curves": "Scores during training",
    "cost": "Score against cost",
}


@dataclass(frozen=True)
class Shown:
    """A table: its title, cells by column, and what is said under it."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """Those that say anything, in order of appearance."""
        return table.columns_of(self.rows)

    @property
    def numbers(self) -> list[str]:
        """Columns of numbers; the first names the row."""
        return [
            name
            for name in self.columns[1:]
            if all(_NUMBER.fullmatch(row.get(name, "")) for row in self.rows)
        ]


@dataclass(frozen=True)
class Picture:
    """An SVG and what is above it."""

    id: str
    title: str
    svg: Markup


@dataclass(frozen=True)
class Command:
    """What a shell takes, under a title."""

    title: str
    text: str
    folded: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the page, in the order of its fields."""

    id: str
    title: str
    before: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Shown] = ()
    after: Sequence[str] = ()
    commands: Sequence[Command] = ()
    meanings: Sequence[Definitions] = ()


# --- what tells runs apart ------------------------------------------------------------


def _flags(command: Sequence[str]) -> list[str]:
    """Each flag with its values, as ``--lr 1e-4``; the program left out."""
    found: list[list[str]] = []
    for word in command[1:]:
        if word.startswith("--") or not found:
            found.append([])
        found[-1].append(word)
    return [as_bash(words) for words in found]


@dataclass
class Settings:
    """What each run has that not every run has.

    Args:
        results: every run.

    """

    results: Sequence[Result]
    shared: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.flags = {id(r): dict.fromkeys(_flags(r.command)) for r in self.results}
        self.shared = self._common(self.results)

    def _common(self, runs: Sequence[Result]) -> list[str]:
        first, *rest = (self.flags[id(run)] for run in runs)
        return [flag for flag in first if all(flag in other for other in rest)]

    def of(self, runs: Sequence[Result]) -> str:
        """Flags that all of some runs have and not every run."""
        return " ".join(f for f in self._common(runs) if f not in self.shared)

    def of_point(self, point: Point) -> str:
        """What is said of a marker."""
        flags = self.of(point.of)
        return visible(f"{point.text}; {flags}" if flags else point.text)


# --- pictures -------------------------------------------------------------------------


def picture(
    name: str, results: Sequence[Result], scored: Scored, settings: Settings
) -> Picture:
    """One of the pictures, as SVG whose points say what they are."""
    from matplotlib import pyplot

    figure = figures.drawn(results, scored, figures.PANELS[name])
    lines = figure.findobj(lambda artist: hasattr(artist, "points"))
    for number, line in enumerate(lines):
        line.set_gid(f"line{number}")
    drawn = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    root = ET.fromstring(drawn.getvalue())  # noqa: S314  of our own making
    for number, line in enumerate(lines):
        said = [*map(settings.of_point, line.points)]
        _say(root.find(f".//*[@id='line{number}']"), said)
    _adapt(root, name)
    title = _TITLES.get(name, name)
    root.attrib |= {"role": "group", "aria-label": title}
    if (first := root.find(".//*[@class='point']")) is not None:
        first.set("tabindex", "0")
    return Picture(name, title, Markup(ET.tostring(root, "unicode")))  # noqa: S704


def _say(line: Any, said: Sequence[str]) -> None:
    """Put each marker of a line into a group that can be pointed at and focused."""
    pairs = [
        (parent, use) for parent in line.iter() for use in parent.findall(f"{_SVG}use")
    ]
    for (parent, use), text in zip(pairs, said, strict=True):
        place = list(parent).index(use)
        parent.remove(use)
        group = ET.Element(
            "g", {"class": "point", "role": "img", "tabindex": "-1", "aria-label": text}
        )
        ET.SubElement(group, "title").text = text
        group.append(use)
        centre = {"cx": use.get("x", ""), "cy": use.get("y", ""), "r": "7"}
        ET.SubElement(group, "circle", {"class": "ring", **centre})
        parent.insert(place, group)


def _adapt(root: Any, name: str) -> None:
    """Make an SVG of its own a part of a page: no namespaces, ids that are its own."""
    for parent in root.iter():  # what it says of itself, and of the whole page
        for other in (*parent.findall(_METADATA), *parent.findall(_STYLE)):
            parent.remove(other)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if target := element.attrib.pop(_LINK, None):
            element.set("href", f"#{name}-{target[1:]}")
        if own := element.get("id"):
            element.set("id", f"{name}-{own}")
        for key in {"style", "clip-path", "fill", "stroke"} & element.attrib.keys():
            element.set(key, _restyled(element.get(key), name))


def _restyled(value: str, name: str) -> str:
    for colour, variable in _COLOURS.items():
        value = value.replace(mpl.colors.to_hex(colour), variable)
    for colour, variable in (("#000000", "currentColor"), ("#ffffff", "var(--page)")):
        value = value.replace(colour, variable)
    return value.replace("url(#", f"url(#{name}-")


# --- sections -------------------------------------------------------------------------


def _tables(made: Tables, said: Notes, unstable: Tables) -> list[Section]:
    """The tables that answer the question."""

    def of(tables: Tables, notes: Notes) -> list[Shown]:
        return [
            Shown(str(title), rows, notes.get(title, ()))
            for title, rows in tables.items()
        ]

    hint = "The head of a column is a button that sorts by it."
    return [
        Section("results", "Results", [hint], tables=of(made, said)),
        Section("instability", "Instability", tables=of(unstable, {})),
    ]


def _plan(results: Sequence[Result], scored: Scored, settings: Settings) -> Section:
    """What was to be run."""
    rows = []
    for setting in unique([r.setting for r in results]):
        for method in unique([r.method for r in results]):
            mine = [r for r in results if (r.setting, r.method) == (setting, method)]
            if mine:
                rows.append(
                    {
                        "method": method,
                        "setting": setting,
                        "seeds": ", ".join(str(r.seed) for r in mine),
                        "crashed": str(sum(r.crashed for r in mine)),
                        "flags": settings.of(mine),
                    }
                )
    said = (
        f"The first method is what the others are compared with, seed by seed. "
        f"{scored.metric} on {scored.select} picks each run's evaluation."
    )
    shared = Command("Flags of every run", " ".join(settings.shared), folded=False)
    made = [Shown("Methods", rows)]
    return Section("plan", "What was run", [said], (), made, (), [shared])


def _tuning(tried: Sequence[Row]) -> list[Section]:
    """What each method's flags were chosen from, where they were."""
    said = "The mean over the tuning seeds; the results are those of the chosen points."
    shown = [Shown("Grid points", tried)]
    return [Section("tuning", "Tuning", [said], tables=shown)] if tried else []


def _runs(results: Sequence[Result], scored: Scored, settings: Settings) -> Section:
    """A row for every run."""
    rows = table.runs(results, scored)
    for row, result in zip(rows, results, strict=True):
        row["settings"] = settings.of([result])
    return Section("runs", "Runs", tables=[Shown("Every run", rows)])


def _commands(results: Sequence[Result], command: str) -> Section:
    """What makes all of this again, and each run alone."""
    again = [Command("The comparison", command, folded=False)] if command else []
    each = [
        Command(" ".join(filter(None, [r.setting, r.method, f"seed {r.seed}"])), text)
        for r in results
        for text in [as_bash(typed(r.command))]
    ]
    return Section("commands", "Commands", commands=[*again, *each])


def page(context: Mapping[str, Any]) -> str:
    """The template, filled; all text is escaped but style, script and pictures."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda v: visible(v) if type(v) is str else v,
    )
    style, script = (
        (_HERE / f"report.{end}").read_text("utf-8") for end in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"style": Markup(style), "script": Markup(script), "digest": digest}  # noqa: S704
    return environment.get_template("report.html.jinja").render({**context, **own})


def _typed() -> str:
    """The command line that is being run, if it is one of this program."""
    program, *words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return as_bash([program, *words]) if program == "fairseq-steady" else ""


def write(
    out: Path,
    results: Sequence[Result],
    scored: Scored,
    made: tuple[Tables, Tables],
    described: Definitions,
    said: Notes,
    tuning: Sequence[Row] = (),
) -> None:
    """report.html.

    Args:
        out: results folder.
        results: every run, one of which ended at least.
        scored: what they are compared on.
        made: the tables, with all their rows, and those of instability.
        described: what their columns mean.
        said: what stands under each.
        tuning: a row for each grid point that was tried.

    """
    settings, ended = Settings(results), table.ended(results)
    pictures = [picture(name, results, scored, settings) for name in figures.PANELS]
    meanings = [described, instability.definitions(scored)]
    sections = [
        *_tables(made[0], said, made[1]),
        Section("pictures", "Pictures", pictures=pictures),
        _plan(results, scored, settings),
        *_tuning(tuning),
        _runs(results, scored, settings),
        Section("definitions", "Definitions", meanings=meanings),
        _commands(results, _typed()),
    ]
    software = ", ".join(f"{name} {v}" for name, v in ended[0].versions.items())
    crashes = sum(r.crashed for r in results)
    counts = f"{len(results)} runs, {crashes} of them crashed"
    context = {
        "title": f"Comparison {out.resolve().name}",
        "summary": f"{counts}; compared by {scored.metric}.",
        "sections": sections,
        "made_by": f"{software}; commit {ended[0].commit}; {ended[0].machine}"
        + ("; not all runs: see Definitions" if unlike(results) else ""),
    }
    write_text(out / "report.html", page(context))
