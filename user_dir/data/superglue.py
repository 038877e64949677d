"""SuperGLUE's sentence tasks: how their official JSON lines read.

Source: SuperGLUE (arXiv 1905.00537), its data and its table of metrics.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from .forms import ONE_ROW, ChoiceRows, Form, WordRows
from .layouts import Layout, find_split
from .readers import Example, error_at, filled, shown
from .tables import read_named, text_cell

_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_FALSE_TRUE = ("false", "true")


class Row(NamedTuple):
    """One object of a file.

    Args:
        path: of the file.
        line: from 1.
        cells: by name.

    """

    path: Path
    line: int
    cells: dict[str, Any]

    def text(self, column: str) -> str:
        """A cell that must be text."""
        return text_cell(self.path, self.line, self.cells, column)

    def error(self, problem: str, mend: str) -> UserError:
        """What is wrong with it."""
        return error_at(self.path, self.line, problem, mend)


@dataclass(frozen=True)
class Task(Layout):
    """One task; its folder also names its submission.

    Args:
        form: rows of tokens that an example becomes.
        more: columns that are read besides, but for the label.
        said: gives the texts of a row; by default its columns.
        spans: gives where a word begins and ends in each text.

    """

    form: Form = ONE_ROW
    more: Sequence[str] = ()
    said: Callable[[Row], Sequence[str]] | None = None
    spans: Callable[[Row], tuple[tuple[int, int], ...]] = lambda _: ()

    @property
    def columns(self) -> Sequence[str]:
        """All that is read but the label."""
        return (*self.texts, *self.more)

    def example(self, row: Row, label: str = "") -> Example:
        """What a row says.

        Raises:
            UserError: a cell does not fit.

        """
        said = self.said or (lambda row: [row.text(name) for name in self.texts])
        texts = filled(row.path, row.line, said(row))
        return Example(texts, label, row.line, spans=self.spans(row))


#: What COPA asks of a premise, in its authors' words.
_QUESTIONS = {
    "cause": "What was the cause of this?",
    "effect": "What happened as a result?",
}


def _choices(row: Row) -> list[str]:
    """The premise with its question, and the two choices."""
    others = [n for n in row.cells if n.startswith("choice") and n not in _COPA]
    if others:
        mend = "COPA has choice1 and choice2; remove the others, or the row"
        raise row.error(f"a column {shown(others[0])}", mend)
    question = row.text("question")
    if question not in _QUESTIONS:
        raise row.error(f"question {shown(question)}", "write cause or effect")
    (premise,) = filled(row.path, row.line, [row.text("premise")])
    asked = f"{premise} {_QUESTIONS[question]}"
    return [asked, row.text("choice1"), row.text("choice2")]


def _spans(row: Row) -> tuple[tuple[int, int], ...]:
    """Where the word is in each sentence, without the blanks before it."""
    return _span(row, 1), _span(row, 2)


def _span(row: Row, number: int) -> tuple[int, int]:
    names = [f"{name}{number}" for name in ("start", "end")]
    start, end = (row.cells[name] for name in names)
    text = row.text(f"sentence{number}")
    said = f"{names[0]} {json.dumps(start)}, {names[1]} {json.dumps(end)}"
    if not type(start) is type(end) is int:
        raise row.error(said, "write two whole numbers")
    if not 0 <= start < end <= len(text):
        problem = f"{said} is outside a sentence of {len(text)} characters"
        raise row.error(problem, "count characters from 0; the end is after the last")
    found = text[start:end]
    within = text[max(0, start - 1) : start + 1].isalnum() and start > 0
    if found != found.strip() or within:
        problem = f"{said} is {shown(found)}, not the word {shown(row.text('word'))}"
        raise row.error(problem, "count characters from 0; the end is after the last")
    blanks = len(text) - len(text.lstrip())
    return start - blanks, end - blanks


_PAIR = ("premise", "hypothesis")
_COPA = ("premise", "choice1", "choice2")


def _task(
    folder: str, texts: Sequence[str], labels: Sequence[str], **more: Any
) -> Task:
    files = {split: (f"{name}.jsonl",) for split, name in _SPLITS.items()}
    return Task(folder, texts, "label", labels, files=files, **more)


TASKS = {
    "boolq": _task("BoolQ", ("passage", "question"), _FALSE_TRUE),
    "cb": _task(
        "CB", _PAIR, ("contradiction", "neutral", "entailment"), metric="score"
    ),
    "rte": _task("RTE", _PAIR, ("entailment", "not_entailment")),
    "wic": _task(
        "WiC",
        ("sentence1", "sentence2"),
        _FALSE_TRUE,
        form=WordRows(),
        more=("word", "start1", "end1", "start2", "end2"),
        spans=_spans,
    ),
    "copa": _task(
        "COPA",
        _COPA,
        ("0", "1"),
        form=ChoiceRows(2),
        more=("question",),
        said=_choices,
    ),
}


def find(data: Path, task: Task, split: str) -> Path:
    """A split's file, in SuperGLUE's folder or in the task's own.

    Raises:
        UserError: there is no such split, or no file of it.

    """
    mend = f"name SuperGLUE's folder, or {task.folder}'s"
    return find_split(data, task, split, mend)


def read_split(path: Path, task: Task) -> Iterator[Example]:
    """Labelled examples.

    Raises:
        UserError: a row does not fit, or has no label.

    """
    columns = (*task.columns, "label")
    mend = f"{task.folder}'s rows have {', '.join(columns)}, the leaderboard's no label"
    for number, cells in read_named(path, columns, mend):
        row = Row(path, number, cells)
        yield task.example(row, _label(row, task.labels or ()))


def _label(row: Row, labels: Sequence[str]) -> str:
    value = row.cells["label"]
    label = value if isinstance(value, str) else json.dumps(value)
    if label not in labels:
        known = ", ".join(labels)
        raise row.error(f"label {shown(label)} is none of: {known}", "mend the row")
    return label


def read_unlabelled(path: Path, task: Task) -> Iterator[Example]:
    """Examples of the leaderboard's test file, or of one to predict on.

    Raises:
        UserError: a row does not fit.

    """
    mend = f"{task.folder}'s rows have {', '.join(task.columns)}"
    for number, cells in read_named(path, task.columns, mend):
        yield task.example(Row(path, number, cells))


def read_test(path: Path, task: Task) -> Iterator[tuple[int, Example]]:
    """Examples of the leaderboard's test file, each with its number.

    Raises:
        UserError: a row does not fit, or has no number of its own.

    """
    lines: dict[int, int] = {}
    for number, cells in read_named(path, (*task.columns, "idx")):
        row, idx = Row(path, number, cells), cells["idx"]
        if type(idx) is not int:
            raise row.error(f"idx {shown(idx)}", "write a whole number")
        if lines.setdefault(idx, number) != number:
            problem = f"idx {idx} is that of line {lines[idx]}, too"
            raise row.error(problem, "get the file again")
        yield idx, task.example(row)


def answer(idx: int, label: str) -> str:
    """A line of a submission: "true" and "false" are strings, COPA's 0 and 1 not."""
    found = int(label) if label.isdecimal() else label
    return json.dumps({"idx": idx, "label": found})


def reader(task: Task) -> Callable[[Path], Iterator[Example]]:
    """A task's reader, taking only the path."""
    return lambda path: read_split(path, task)
