"""Pictures of a comparison, each as PNG and SVG; of finite scores only."""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from ..errors import visible
from ..files import whole_file
from .results import Result, score
from .significance import expected_best
from .table import Scored, subsets, unique

mpl.use("agg")
# The same file for the same results.
mpl.rcParams["svg.hashsalt"] = "fairseq-steady"
# No text in a picture is TeX.
mpl.rcParams["text.parse_math"] = mpl.rcParams["text.usetex"] = False
_INCHES = 3.4

Panel = Callable[[Any, Sequence[Result], Scored, str], None]


def label(text: str) -> str:
    """Text in a picture; matplotlib keeps a leading underscore out of its legends."""
    shown = visible(text)
    return f" {shown}" if shown.startswith("_") else shown


def _by_method(
    results: Sequence[Result], scored: Scored, subset: str
) -> dict[str, list[float]]:
    """Scores of the methods that have any."""
    found = {
        method: finite(scored, [r for r in results if r.method == method], subset)
        for method in unique([r.method for r in results])
    }
    return {method: scores for method, scores in found.items() if scores}


def finite(scored: Scored, results: Sequence[Result], subset: str) -> list[float]:
    """Scores that a picture can show."""
    return [*filter(math.isfinite, scored.scores(results, subset).values())]


def boxes(axis: Any, results: Sequence[Result], scored: Scored, subset: str) -> None:
    """Box per method, every seed as a point."""
    found = _by_method(results, scored, subset)
    places = list(range(len(found)))
    axis.boxplot(
        list(found.values()),
        positions=places,
        widths=0.5,
        showfliers=False,
        medianprops={"color": "black"},
        boxprops={"color": "grey"},
    )
    for place, scores in enumerate(found.values()):
        width = 0.3 if len(scores) > 1 else 0
        step = width / max(1, len(scores) - 1)
        spread = [place - width / 2 + step * i for i in range(len(scores))]
        axis.plot(spread, scores, "o", ms=4, alpha=0.7)
    axis.set_xticks(places, [*map(label, found)], rotation=30, ha="right")
    axis.set_ylabel(label(scored.metric))


def best_of(axis: Any, results: Sequence[Result], scored: Scored, subset: str) -> None:
    """Expected best of k seeds (arXiv 1909.03004)."""
    sign = 1 if scored.larger else -1
    for method, scores in _by_method(results, scored, subset).items():
        ks = range(1, len(scores) + 1)
        signed = [sign * score for score in scores]
        best = [sign * expected_best(signed, k) for k in ks]
        axis.plot(ks, best, "o-", ms=3, label=label(method))
    axis.set_xlabel("runs k")
    axis.set_ylabel(f"expected best {label(scored.metric)}")


def curves(axis: Any, results: Sequence[Result], scored: Scored, subset: str) -> None:
    """Score against updates: the mean in front of grey seeds."""
    for method in unique([r.method for r in results]):
        mine = [
            {one["updates"]: score(one, subset, scored.metric) for one in r.evaluations}
            for r in results
            if r.method == method and r.ok and subset in r.evaluations[0]
        ]
        for one in mine:
            axis.plot(list(one), list(one.values()), color="0.8", lw=0.7, zorder=1)
        shared = sorted(set.intersection(*map(set, mine))) if mine else []
        means = [statistics.mean(one[updates] for one in mine) for updates in shared]
        axis.plot(shared, means, lw=1.6, label=label(method), zorder=2)
    axis.set_xlabel("updates")
    axis.set_ylabel(label(scored.metric))


def costs(axis: Any, results: Sequence[Result], scored: Scored, subset: str) -> None:
    """Score against the time of a run: mean and standard deviation."""
    for method, scores in _by_method(results, scored, subset).items():
        mine = [r for r in results if r.method == method and r.ok]
        seconds = statistics.median(r.seconds or 0 for r in mine)
        spread = statistics.stdev(scores) if len(scores) > 1 else 0
        mean = statistics.mean(scores)
        axis.errorbar(seconds, mean, spread, fmt="o", ms=5, capsize=3)
        axis.annotate(
            label(method), (seconds, mean), xytext=(5, 3), textcoords="offset points",
            fontsize=7,
        )  # fmt: skip
    axis.set_xlabel("seconds of a run (median)")
    axis.set_ylabel(label(scored.metric))


PANELS: dict[str, Panel] = {
    "scores": boxes,
    "best_of_k": best_of,
    "curves": curves,
    "cost": costs,
}


def draw(path: Path, results: Sequence[Result], scored: Scored, panel: Panel) -> None:
    """One figure: settings downwards, subsets across."""
    from matplotlib import pyplot

    settings = unique([r.setting for r in results])
    across = subsets(results)
    figure, axes = pyplot.subplots(
        len(settings),
        len(across),
        squeeze=False,
        figsize=(1 + _INCHES * len(across), _INCHES * len(settings)),
        layout="constrained",
    )
    for row, setting in zip(axes, settings, strict=True):
        mine = [r for r in results if r.setting == setting]
        for axis, subset in zip(row, across, strict=True):
            panel(axis, mine, scored, subset)
            axis.set_title(label(" ".join(filter(None, [setting, subset]))))
            axis.grid(alpha=0.3)
    if panel in (best_of, curves):
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=8)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write PNG and SVG, and close."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, dict[str, Any]] = {
        "png": {"dpi": 130},
        "svg": {"metadata": {"Date": None}},
    }
    for form, chosen in options.items():
        with whole_file(path.with_suffix(f".{form}")) as file:
            figure.savefig(file, format=form, **chosen)
    pyplot.close(figure)


def draw_all(out: Path, results: Sequence[Result], scored: Scored) -> None:
    """Every figure into a folder."""
    for name, panel in PANELS.items():
        draw(out / name, results, scored, panel)
