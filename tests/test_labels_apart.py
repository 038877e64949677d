"""No text in a picture lies over another, or outside: boxes from the renderer."""

import itertools
from typing import Any

import numpy as np
import pytest
from fairseq_steady.comparison import figures
from fairseq_steady.comparison.results import Result
from helpers import MCC, result
from matplotlib import pyplot
from matplotlib.path import Path as Outline
from matplotlib.text import Text

METHODS = [
    "plain", "sift", "smart", "r3f", "r4f", "r_drop", "hype", "freelb", "pats_adamax",
    "bert_adam-uncorrected", "re-init", "noisytune", "mixout", "smart-cache8-quarter",
]  # fmt: skip


def texts(figure: Any) -> list[Text]:
    """What is really drawn."""
    seen: dict[int, Text] = {}
    real = Text.draw

    def draw(self: Text, renderer: Any) -> None:
        if self.get_visible() and self.get_text():
            seen[id(self)] = self
        real(self, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        figure.canvas.draw()
    return [*seen.values()]


def outline(text: Text) -> Any:
    """The four corners of a text, turned as it is."""
    middle = np.mean(text.get_window_extent().get_points(), 0)
    angle = np.radians(text.get_rotation())
    text.set_rotation(0)
    box = text.get_window_extent()
    text.set_rotation(np.degrees(angle))
    x, y = box.width / 2 - 0.1, box.height / 2 - 0.1
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.array([[-x, -y], [x, -y], [x, y], [-x, y], [-x, -y]]) @ turn + middle


def overlaps(figure: Any) -> list[str]:
    """Pairs of texts that lie over each other, and texts that are cut off."""
    drawn = texts(figure)
    lines = [(text.get_text(), Outline(outline(text))) for text in drawn]
    assert len(lines) > 2
    over = [
        f"{a} / {b}"
        for (a, one), (b, other) in itertools.combinations(lines, 2)
        if one.intersects_path(other, filled=True)
    ]
    inside = figure.bbox.padded(1)
    cut = [a for a, one in lines if not all(inside.contains(*p) for p in one.vertices)]
    pyplot.close(figure)
    return over + cut


def runs(names: list[str], gap: float, setting: str = "") -> list[Result]:
    """Methods whose costs are equal, or a gap apart, and whose scores nearly are."""
    return [
        result(
            name, seed, 0.5 + 0.001 * i * gap + 0.01 * seed,
            seconds=130 + i * gap, setting=setting,
        )
        for i, name in enumerate(names)
        for seed in (1, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("count", [2, 10, 14])
def test_labels_of_costs_do_not_overlap(count: int) -> None:
    made = [*runs(METHODS[:count], 0, "equal"), *runs(METHODS[:count], 0.3, "close")]
    assert overlaps(figures.drawn(made, MCC, figures.costs)) == []


LONG = "a-{}-with-a-name-of-sixty-letters-that-says-all-of-itself-{:02}"


@pytest.mark.parametrize(
    ("names", "setting"),
    [
        (METHODS, ""),
        ([LONG.format("method", i) for i in range(14)], LONG.format("setting", 1)),
    ],
)
def test_nor_do_names_under_and_over_boxes(names: list[str], setting: str) -> None:
    made = runs(names, 0.3, setting)
    assert overlaps(figures.drawn(made, MCC, figures.boxes)) == []


def test_the_boxes_are_those_of_the_texts() -> None:
    figure, axis = pyplot.subplots()
    axis.text(0.5, 0.5, "one")
    axis.text(0.5, 0.5, "two", rotation=45)
    axis.text(0.9, 0.5, "much too long for the picture")
    assert overlaps(figure) == ["one / two", "much too long for the picture"]
