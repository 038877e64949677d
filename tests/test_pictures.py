"""Pictures and tables of a comparison show what there is, whole."""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from fairseq_steady.comparison import figures, table
from fairseq_steady.comparison.definitions import Definitions
from fairseq_steady.comparison.results import Result
from helpers import MCC, result
from matplotlib import pyplot
from rich.console import Console


def drawn(panel: figures.Panel, made: list[Result]) -> Any:
    figure, axis = pyplot.subplots()
    panel(axis, made, MCC, "valid")
    figure.canvas.draw()
    pyplot.close(figure)
    return axis


def ticks(axis: Any) -> list[str]:
    low, high = axis.get_xlim()
    return [
        text.get_text()
        for place, text in zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
        if low <= place <= high
    ]


def seeds(name: str, count: int) -> list[Result]:
    return [result(name, s, 0.1 * s) for s in range(1, count + 1)]


def test_one_evaluation_is_a_marker_at_its_update() -> None:
    made = seeds("plain", 3)
    for one in made:
        one.evaluations[0]["updates"] = 60
    axis = drawn(figures.curves, made)
    shown = [line for line in axis.lines if line.get_label() == "plain"]
    assert [list(line.get_xydata()[0]) for line in shown] == [[60, pytest.approx(0.2)]]
    assert all(line.get_marker() == "o" for line in axis.lines)
    assert ticks(axis) == ["60"]


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_runs_are_whole_numbers(count: int) -> None:
    axis = drawn(figures.best_of, seeds("plain", count))
    assert ticks(axis) == [str(k) for k in range(1, count + 1)]


def test_a_box_needs_five_seeds() -> None:
    few, many = (drawn(figures.boxes, seeds("plain", n)) for n in (4, 5))
    points = [line for line in few.lines if line.get_linestyle() == "None"]
    assert len(points) == len(few.lines) == 1  # no box, no whiskers
    assert few.collections[0].get_segments()[0][0][1] == pytest.approx(0.25)
    assert not many.collections
    assert len(many.lines) > 5


def test_cost_names_methods_in_a_legend_of_all_panels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name beside a point crosses the frame or another name."""
    only_ood = result("late", 1, evaluations=[{"updates": 1, "ood": {"mcc": 0.5}}])
    kept: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
    made = [*seeds("plain", 2), only_ood]
    monkeypatch.setattr(
        table.Scored, "best", lambda self, one: one.evaluations[-1], raising=True
    )
    figures.draw(tmp_path / "cost", made, MCC, figures.costs)
    (figure,) = kept
    pyplot.close(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["plain", "late"]
    assert not any(axis.texts for axis in figure.axes)


def test_a_method_keeps_its_colour_where_another_has_no_score() -> None:
    crashed = result("bad", 1, status="crashed: x")
    for panel in (figures.best_of, figures.curves, figures.costs):
        axis = drawn(panel, [crashed, *seeds("plain", 2)])
        handles, labels = axis.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))["plain"]
        assert mpl.colors.same_color(
            getattr(shown, "lines", [shown])[0].get_color(), "C1"
        )


@pytest.mark.parametrize(
    "names", [["日本語", "_x", "a" * 59], [f"m{i}" for i in range(25)]]
)
def test_any_names_are_drawn_without_a_word(
    names: list[str], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    made = [result(name, 1, 0.5) for name in names]
    figures.draw_all(tmp_path, made, MCC)
    assert len(list(tmp_path.iterdir())) == 2 * len(figures.PANELS)
    assert [str(w.message) for w in recwarn if w.category is UserWarning] == []


NOTHING = Definitions("")
LONG = "a-method-with-a-name-of-sixty-letters-that-says-all-of-itself"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_console_cuts_no_name(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal of 80 columns in blocks side by side, elsewhere in one."""
    monkeypatch.setattr(Console, "is_terminal", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    made = [*seeds("plain", 5), *seeds("sift", 5)]
    table.show(table.tables(made, MCC), NOTHING)
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "…" not in said
    assert said.count("┃ method ┃") == (4 if terminal else 2)
    assert "+0.000 [+0.000, +0.000]" in said
    widest = max(map(len, said.splitlines()))
    assert (widest <= 80) is terminal
    table.show(table.tables(seeds(LONG, 1), MCC), NOTHING)
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert f"│ {LONG} │" in said
