"""Pictures of a comparison, each as PNG and SVG; of finite scores only."""

import math
import statistics
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.ticker import MaxNLocator

from ..errors import visible
from ..files import whole_file
from .answers import seconds
from .results import Result, score
from .significance import FEWEST, expected_best
from .table import Scored, unique

mpl.use("agg")
# The same file for the same results.
mpl.rcParams["svg.hashsalt"] = "fairseq-steady"
# No text in a picture is TeX.
mpl.rcParams["text.parse_math"] = mpl.rcParams["text.usetex"] = False
_INCHES = 3.4
#: Letters that fit under a panel, and that are shown of one name there.
_LETTERS, _NAME = 40, 20
#: Letters in a line over a panel.
_TITLE = 30
#: Methods beside an inch of a panel, and inches that each takes in one.
_ROWS_AN_INCH, _BOX_WIDE = 5, 0.3
#: Inches that a letter of a slanted name takes downwards.
_LETTER_HIGH = 0.06
_MARKERS = "osD^v"
_BOX: dict[str, Any] = {
    "widths": 0.5,
    "showfliers": False,
    "medianprops": {"color": "black"},
    "boxprops": {"color": "grey"},
    "manage_ticks": False,
}

Panel = Callable[[Any, Sequence[Result], Scored, str], None]


def label(text: str) -> str:
    """Text in a picture; matplotlib keeps a leading underscore out of its legends."""
    shown = visible(text)
    return f" {shown}" if shown.startswith("_") else shown


class Point(NamedTuple):
    """What is said of a marker, and the runs that it shows."""

    text: str
    of: Sequence[Result]


def told(line: Any, points: Sequence[Point]) -> None:
    """Say what each marker of a line shows; the report reads it."""
    line.points = points


def _by_method(
    results: Sequence[Result], scored: Scored, subset: str
) -> dict[str, tuple[list[float], list[Result]]]:
    """Finite scores of the methods that have any, and the runs they are of."""
    found = {}
    for method in unique([r.method for r in results]):
        mine = [r for r in results if r.method == method and r.ok]
        scores = scored.scores(mine, subset)
        runs = [r for r in mine if math.isfinite(scores.get(r.seed, math.nan))]
        if runs:
            found[method] = [scores[r.seed] for r in runs], runs
    return found


def finite(scored: Scored, results: Sequence[Result], subset: str) -> list[float]:
    """Scores that a picture can show."""
    return [*filter(math.isfinite, scored.scores(results, subset).values())]


def styles(results: Sequence[Result]) -> dict[str, dict[str, str]]:
    """Colour and marker of each method, the same in every picture of a comparison."""
    return {
        method: {"color": f"C{place % 10}", "marker": _MARKERS[place // 10 % 5]}
        for place, method in enumerate(unique([r.method for r in results]))
    }


def boxes(axis: Any, results: Sequence[Result], scored: Scored, subset: str) -> None:
    """Every seed as a point, the median as a line; a box where seeds are enough."""
    found, style = _by_method(results, scored, subset), styles(results)
    for place, (method, (scores, runs)) in enumerate(found.items()):
        width = 0.3 if len(scores) > 1 else 0
        step = width / max(1, len(scores) - 1)
        spread = [place - width / 2 + step * i for i in range(len(scores))]
        (line,) = axis.plot(spread, scores, **style[method], ls="", ms=4, alpha=0.7)
        told(line, [_single(*one, scored) for one in zip(runs, scores, strict=True)])
        if len(scores) < FEWEST:
            middle = statistics.median(scores)
            axis.hlines(middle, place - 0.25, place + 0.25, color="black", lw=1)
        else:
            axis.boxplot([scores], positions=[place], **_BOX)
    _name_ticks(axis, _ticks(found, results))
    axis.set_xlim(-0.6, max(0, len(found) - 1) + 0.6)


def _single(run: Result, value: float, scored: Scored, place: str = "") -> Point:
    """A run's score."""
    return Point(
        f"{run.method} seed {run.seed}: {scored.metric} {value:.4f}{place}", [run]
    )


def _name_ticks(axis: Any, shown: Sequence[str]) -> None:
    """Names under an axis, slanted where they would touch."""
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(range(len(shown)), shown, **(turned if _slanted(shown) else {}))


def _lost(method: str, results: Sequence[Result]) -> str:
    """What a method's name is followed by where some of its runs are in no picture."""
    mine = [r for r in results if r.method == method]
    lost = sum(r.diverged for r in mine)
    return f" ({lost} of {len(mine)} diverged)" * (lost > 0)


def _ticks(methods: Iterable[str], results: Sequence[Result]) -> list[str]:
    """Names of methods below a panel."""
    names = [*methods]
    pairs = zip(_short(names), names, strict=True)
    return [short + _lost(name, results) for short, name in pairs]


def _short(names: Sequence[str]) -> list[str]:
    return [n if len(n) <= _NAME else f"{n[:_NAME]}…" for n in map(label, names)]


def _slanted(shown: Sequence[str]) -> bool:
    """Whether names are too long to lie side by side."""
    return len(shown) * max(map(len, shown), default=0) > _LETTERS


def best_of(axis: Any, results: Sequence[Result], scored: Scored, subset: str) -> None:
    """Expected best of k seeds (arXiv 1909.03004)."""
    sign, style = 1 if scored.larger else -1, styles(results)
    for method, (scores, runs) in _by_method(results, scored, subset).items():
        ks = range(1, len(scores) + 1)
        signed = [sign * score for score in scores]
        best = [sign * expected_best(signed, k) for k in ks]
        name = label(method) + _lost(method, results)
        (line,) = axis.plot(ks, best, **style[method], ms=4, label=name)
        begin = f"{method}: expected best {scored.metric} of"
        said = (f"{begin} {k}: {b:.4f}" for k, b in zip(ks, best, strict=True))
        told(line, [Point(text, runs) for text in said])
    axis.set_xlabel("runs k")
    _whole_numbers(axis)


def _whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only, at the one there is if there is but one."""
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    places = {float(x) for line in axis.lines for x in line.get_xdata()}
    if len(places) == 1:
        axis.set_xticks(list(places), [f"{place:.0f}" for place in places])


def curves(axis: Any, results: Sequence[Result], scored: Scored, subset: str) -> None:
    """Score against updates: the mean in front of pale seeds."""
    style = styles(results)
    for method in style:
        runs = [r for r in results if r.method == method and scored.has(r, subset)]
        mine = [
            {
                one["updates"]: value
                for one in r.evaluations
                if math.isfinite(value := score(one, subset, scored.metric))
            }
            for r in runs
        ]
        pale = {**style[method], "alpha": 0.25, "ms": 3, "lw": 0.7}
        for run, one in zip(runs, mine, strict=True):
            (line,) = axis.plot(list(one), list(one.values()), **pale, zorder=1)
            places = (
                (value, f" at {updates} updates") for updates, value in one.items()
            )
            told(line, [_single(run, value, scored, place) for value, place in places])
        shared = sorted(set.intersection(*map(set, mine))) if mine else []
        means = [statistics.mean(one[updates] for one in mine) for updates in shared]
        name = label(method) + _lost(method, results)
        front = {**style[method], "ms": 5, "label": name}
        (line,) = axis.plot(shared, means, **front, zorder=2)
        begin = f"{method}: mean {scored.metric}"
        pairs = zip(shared, means, strict=True)
        told(line, [Point(f"{begin} {m:.4f} at {u} updates", runs) for u, m in pairs])
    axis.set_xlabel("updates")
    _whole_numbers(axis)


def costs(axis: Any, results: Sequence[Result], scored: Scored, subset: str) -> None:
    """Score against the time of a run: mean and standard deviation."""
    style = styles(results)
    for method, (scores, runs) in _by_method(results, scored, subset).items():
        mine = [r for r in results if r.method == method and r.ok]
        took = seconds(mine)
        if math.isnan(took):  # no place on the axis
            continue
        mean = statistics.mean(scores)
        spread = statistics.stdev(scores) if len(scores) > 1 else 0
        name = label(method) + _lost(method, results)
        shown = {**style[method], "label": name, "ls": "", "ms": 5}
        line, *_ = axis.errorbar(took, mean, spread, capsize=3, **shown)
        said = f"{scored.metric} {mean:.4f} ± {spread:.4f}, {took:.0f} s a run"
        told(line, [Point(f"{method}: {said}", runs)])
    axis.set_xlabel("seconds of a run (median)")
    axis.margins(x=0.1)


PANELS: dict[str, Panel] = {
    "scores": boxes,
    "best_of_k": best_of,
    "curves": curves,
    "cost": costs,
}


def drawn(results: Sequence[Result], scored: Scored, panel: Panel) -> Any:
    """One figure: settings downwards, subsets across."""
    from matplotlib import pyplot

    settings = unique([r.setting for r in results])
    across = scored.subsets(results)
    names = _ticks(styles(results), results) if panel is boxes else []
    deep = _LETTER_HIGH * max(map(len, names)) if _slanted(names) else 0
    figure, axes = pyplot.subplots(
        len(settings),
        len(across),
        squeeze=False,
        figsize=(
            max(_INCHES, len(names) * _BOX_WIDE) * len(across),
            (_INCHES + deep) * len(settings),
        ),
        layout="constrained",
    )
    for row, setting in zip(axes, settings, strict=True):
        mine = [r for r in results if r.setting == setting]
        for axis, subset in zip(row, across, strict=True):
            panel(axis, mine, scored, subset)
            title = label(" ".join(filter(None, [setting, subset])))
            axis.set_title("\n".join(textwrap.wrap(title, _TITLE)))
            axis.grid(alpha=0.3)
        expected = "expected best " if panel is best_of else ""
        row[0].set_ylabel(f"{expected}{label(scored.metric)}")
    _legend(figure)
    return figure


def draw(path: Path, results: Sequence[Result], scored: Scored, panel: Panel) -> None:
    """One figure into files."""
    save(drawn(results, scored, panel), path)


def _legend(figure: Any) -> None:
    """Every method that any panel names, once, beside the panels."""
    named: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    if not named:
        return
    columns = math.ceil(len(named) / (figure.get_figheight() * _ROWS_AN_INCH))
    wide = columns * (0.5 + 0.08 * max(map(len, named)))
    figure.set_figwidth(figure.get_figwidth() + wide)
    place = "outside right center"
    figure.legend(named.values(), named, loc=place, fontsize=8, ncols=columns)


def save(figure: Any, path: Path) -> None:
    """Write PNG and SVG, and close."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, dict[str, Any]] = {
        "png": {"dpi": 130},
        "svg": {"metadata": {"Date": None}},
    }
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.simplefilter("ignore", UserWarning)
        for form, chosen in options.items():
            with whole_file(path.with_suffix(f".{form}")) as file:
                figure.savefig(file, format=form, **chosen)
    pyplot.close(figure)


def draw_all(out: Path, results: Sequence[Result], scored: Scored) -> None:
    """Every figure into a folder."""
    for name, panel in PANELS.items():
        draw(out / name, results, scored, panel)
