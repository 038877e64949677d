"""report.html: one file, parsed as text and opened in a browser."""

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from conftest import ROOT
from fairseq_steady.comparison import figures, instability, report, table
from fairseq_steady.comparison.results import Result
from fairseq_steady.errors import visible
from helpers import MCC, result

EVIL = (
    "<script>alert(1)</script>", '"><img src=//e.x onerror=x>', "'\" onfocus=x y=\"",
    "</style><b>", "{{ 7 * 7 }}", "&lt;i&gt;", "a\nb", "\x1b[31m", "]]>", "<!--",
)  # fmt: skip


LR = (("1e-4", ""), ("2e-4", "yes"))


def runs(names: tuple[str, ...], seeds: int = 2) -> list[Result]:
    """Each method has a flag of its own."""
    made = []
    for place, name in enumerate(names):
        for seed in range(1, seeds + 1):
            own = ["--criterion", name, "--seed", str(seed)]
            scores = (0.1 * seed, 0.15 * seed + 0.01 * place)
            command = ["fairseq-train", "data/cola", "--lr", "1e-4", *own]
            changed = {"seconds": 9.0 + place, "command": command}
            made.append(result(name, seed, *scores, **changed))
    return made


def crashed() -> Result:
    one, _ = runs(("bad",))
    return replace(one, status="crashed: x", evaluations=[], predictions={})


def write(out: Path, made: list[Result], tuning: Sequence[table.Row] = ()) -> str:
    tables = table.tables(made, MCC), instability.tables(made, MCC)
    notes = table.notes(made, MCC)
    report.write(out, made, MCC, tables, table.definitions(MCC), notes, tuning)
    return (out / "report.html").read_text("utf-8")


class Parsed(HTMLParser):
    """Elements with their attributes and the text directly in them."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        assert not self.open, "everything is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(len(self.found) - 1)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.found.append((tag, {k: v or "" for k, v in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self.found[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.found[place][2].append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        return [
            (attrs, "".join(text))
            for name, attrs, text in self.found
            if name == tag and wanted.items() <= attrs.items()
        ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    made = runs(("plain", "sift"))
    made.insert(2, crashed())
    write(out, made)
    return out / "report.html"


def test_every_run_is_there_with_its_settings(plain: Path) -> None:
    page = Parsed(plain.read_text("utf-8"))
    said = [attrs["aria-label"] for attrs, _ in page.all("g", **{"class": "point"})]
    # Two subsets: a point per seed; best of 1 and 2; two evaluations of each seed and
    # their mean; the mean score.
    assert len(said) == 2 * (4 + 4 + 2 * 4 + 4 + 2)
    score = "plain seed 1: mcc 0.1500; --criterion plain --seed 1"
    assert said.count(score) == 1
    assert "sift seed 2: mcc 0.2000 at 10 updates; --criterion sift --seed 2" in said
    assert "sift: expected best mcc of 2: 0.2725; --criterion sift" in said
    assert "plain: mean mcc 0.1500 at 10 updates; --criterion plain" in said
    assert "sift: mcc 0.2350 ± 0.1061, 10 s a run; --criterion sift" in said
    titles = [text for _, text in page.all("title")]
    assert set(said) < set(titles)  # for a mouse where no script runs
    cells = [text for _, text in page.all("td")]
    for method in ("plain", "sift"):
        for seed in (1, 2):
            assert f"--criterion {method} --seed {seed}" in cells
            whole = (
                "fairseq-steady train data/cola --lr 1e-4 "
                f"--criterion {method} --seed {seed}"
            )
            assert [text for _, text in page.all("code")].count(whole) == 1
    assert "crashed: x" in cells
    names = [text for _, text in page.all("dt")]
    meanings = [text for _, text in page.all("dd")]
    assert meanings[names.index("mean ± std")] == "over seeds, ddof 1."
    assert "disagreement" in names  # those of instability
    assert "data/cola --lr 1e-4" in "".join(text for _, text in page.all("code"))


def test_what_was_tried_is_there_where_something_was(
    plain: Path, tmp_path: Path
) -> None:
    tried = [{"method": "sift", "flags": f"--lr {r}", "chosen": c} for r, c in LR]
    page = Parsed(write(tmp_path, runs(("plain", "sift")), tried))
    assert [text for _, text in page.all("caption")].count("Grid points") == 1
    cells = [text for _, text in page.all("td")]
    assert [cells[cells.index(f"--lr {r}") + 1] for r, _ in LR] == ["", "yes"]
    assert page.all("a", href="#tuning")
    assert "#tuning" not in plain.read_text("utf-8")


def test_it_can_be_heard_and_needs_no_mouse(plain: Path) -> None:
    page = Parsed(plain.read_text("utf-8"))
    for tag in ("header", "nav", "main", "footer", "h1"):
        assert len(page.all(tag)) == 1
    assert page.all("html")[0][0]["lang"] == "en"
    tables, heads = page.all("table"), page.all("th", scope="col")
    assert len(tables) == len(page.all("caption")) == len(page.all("thead")) == 5
    assert all(attrs["aria-sort"] == "none" for attrs, _ in heads)
    assert len(page.all("button", type="button")) == len(heads)
    rows = len(page.all("tr")) - len(tables)
    assert len(page.all("th", scope="row")) == rows
    ids = [attrs["id"] for _, attrs, _ in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs, _ in page.found:
        if "aria-labelledby" in attrs:
            assert attrs["aria-labelledby"] in ids
        if "href" in attrs:
            assert attrs["href"].removeprefix("#") in ids
    # One stop for the Tab key in each picture, and one for each table's scroll bar.
    stops = [attrs for _, attrs, _ in page.found if attrs.get("tabindex") == "0"]
    assert len(stops) == len(figures.PANELS) + len(tables)


def test_nothing_comes_from_the_network(plain: Path) -> None:
    text = plain.read_text("utf-8")
    page = Parsed(text)
    assert not {"img", "link", "iframe", "object", "base"} & {
        t for t, _, _ in page.found
    }
    for _, attrs, _ in page.found:
        assert not {"src", "srcset", "data", "action", "xlink:href"} & attrs.keys()
    assert not set(re.findall("#ffffff|#000000", text.partition("<main")[2]))
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert "@import" not in text
    assert "default-src 'none'" in page.all("meta")[2][0]["content"]


def test_names_are_text(plain: Path, tmp_path: Path) -> None:
    made = runs(EVIL)
    for one in made:
        one.setting = EVIL[0]
        one.machine = one.commit = one.versions["torch"] = EVIL[1]
    made.append(replace(crashed(), setting=EVIL[0], status=EVIL[2], method=EVIL[1]))
    page, harmless = Parsed(write(tmp_path, made)), Parsed(plain.read_text("utf-8"))
    assert {t for t, _, _ in page.found} <= {t for t, _, _ in harmless.found}
    assert len(page.all("script")) == len(page.all("style")) == 1
    known = {name for _, attrs, _ in harmless.found for name in attrs}
    assert {name for _, attrs, _ in page.found for name in attrs} <= known
    heads = [text for _, text in page.all("th", scope="row")]
    labels = [attrs["aria-label"] for attrs, _ in page.all("g", **{"class": "point"})]
    for name in map(visible, EVIL):
        assert heads.count(name) >= 4
        assert any(label.startswith(f"{name} seed 1: mcc") for label in labels)
    assert visible(EVIL[2]) in [text for _, text in page.all("td")]
    assert visible(EVIL[1]) in page.all("footer")[0][1]


def luminance(colour: str) -> float:
    """Of #rrggbb, as WCAG 2.2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted(map(luminance, (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_can_be_told_in_light_and_in_dark() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    style = (Path(report.__file__).parent / "report.css").read_text()
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    )
    assert light.keys() == dark.keys() >= {f"c{i}" for i in range(10)}
    for scheme in (light, dark):
        for ground in (scheme["page"], scheme["raised"]):
            for text in ("text", "faint", "link"):
                assert contrast(scheme[text], ground) >= 4.5
        for mark in (*(f"c{i}" for i in range(10)), "focus"):
            assert contrast(scheme[mark], scheme["page"]) >= 3


# --- in a browser -----------------------------------------------------------------

#: Where screenshots are kept.
ARTEFACTS = ROOT / ".pytest_cache" / "artefacts"
#: What is focused: its class, what it says, the id of its picture.
FOCUS = """(() => { const at = document.activeElement;
return [at.getAttribute("class"), at.getAttribute("aria-label")]; })()"""
TIP = "document.getElementById('tip').hidden ? null : tip.textContent"
COLUMN = """[...document.querySelectorAll("#runs tbody tr")].map(
  (row) => row.cells[3].textContent)"""


def test_a_browser_shows_it_without_network(plain: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.size(1200)
        browser.open(plain)
        # A click or Enter sorts by a column's numbers, again turns them round.
        assert browser.js("document.querySelectorAll('#runs th button').length") > 5
        head = "document.querySelectorAll('#runs th')[3]"
        assert browser.js(f"{head}.textContent") == "mcc valid"
        before = browser.js(COLUMN)
        browser.js(f"{head}.querySelector('button').focus()")
        for direction in ("ascending", "descending"):
            browser.press("Enter")
            assert browser.js(f"{head}.getAttribute('aria-sort')") == direction
            known = sorted(map(float, filter(None, before)))
            known = known[::-1] if direction == "descending" else known
            shown = browser.js(COLUMN)
            assert [*map(float, shown[:-1])] == known
            assert shown[-1] == ""  # the crashed run, either way
        # Tab goes into a picture, an arrow to its next point, Escape hides the text.
        browser.js("document.querySelector('#cost-title').tabIndex = 0")
        browser.js("document.querySelector('#cost-title').focus()")
        browser.press("Tab")
        said = "plain: mcc 0.2250 ± 0.1061, 9 s a run; --criterion plain"
        assert browser.js(FOCUS) == ["point", said]
        assert browser.js(TIP) == said
        browser.press("ArrowRight")
        said = "sift: mcc 0.2350 ± 0.1061, 10 s a run; --criterion sift"
        assert browser.js(FOCUS) == ["point", said]
        assert browser.js(TIP) == said
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        browser.screenshot(ARTEFACTS / "report-light.png")
        browser.press("Escape")
        assert browser.js(TIP) is None
        # What a screen reader is told.
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
        told = {(n["role"]["value"], n.get("name", {}).get("value")) for n in nodes}
        assert {("main", ""), ("navigation", "Sections"), ("image", said)} <= told
        assert ("table", "mcc on valid") in told
        assert {("columnheader", "mean ± std"), ("rowheader", "sift")} <= told
        # Dark, and on a telephone: nothing sticks out.
        colour = "getComputedStyle(document.body).backgroundColor"
        assert browser.js(colour) == "rgb(255, 255, 255)"
        browser.prefer("dark")
        assert browser.js(colour) == "rgb(20, 23, 26)"
        browser.screenshot(ARTEFACTS / "report-dark.png")
        browser.size(360)
        wide = "document.documentElement.scrollWidth"
        assert browser.js(wide) == 360
        # Nothing was asked for but the file, nothing went wrong.
        asked = {
            one["request"]["url"] for one in browser.of("Network.requestWillBeSent")
        }
        assert asked == {plain.as_uri()}
        assert browser.of("Runtime.exceptionThrown") == []
        assert browser.of("Log.entryAdded") == []
