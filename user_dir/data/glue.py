"""The eight GLUE tasks: how their official files read.

GLUE's TSVs have no quoting: a quote is a quote. A row that does not fit is an error
with its line; nothing is dropped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from .readers import (
    Example,
    checked,
    entries,
    error_at,
    read_columns,
    read_lines,
    shown,
)
from .tables import as_header, as_row

#: GLUE's own dev.tsv and test.tsv, unless a task says otherwise.
_FILES = {"train": ("train.tsv",), "valid": ("dev.tsv",), "test": ("test.tsv",)}


@dataclass(frozen=True)
class Layout:
    """One task.

    Args:
        folder: as GLUE's archive names it.
        texts: columns of the one or two sentences; alternatives separated by ``|``.
        label: column of the label.
        labels: classes in the order of the leaderboard; None for scores.
        metric: of the leaderboard, the one that picks checkpoints.
        files: names by split; the first that exists.
        bare: files without a header, by name, with their columns: how many,
            those of the texts, that of the label.

    """

    folder: str
    texts: Sequence[str]
    label: str
    labels: Sequence[str] | None
    metric: str
    files: dict[str, Sequence[str]] = field(default_factory=lambda: dict(_FILES))
    bare: dict[str, tuple[int, Sequence[int], int]] = field(default_factory=dict)


_COLA = (4, (3,), 1)
_STSB = (7, (5, 6), 4)
_MRPC: dict[str, Sequence[str]] = {
    "train": ("train.tsv", "msr_paraphrase_train.txt"),
    "valid": ("dev.tsv",),
    "test": ("test.tsv", "msr_paraphrase_test.txt"),
}
_STSB_FILES: dict[str, Sequence[str]] = {
    "train": ("train.tsv", "sts-train.csv"),
    "valid": ("dev.tsv", "sts-dev.csv"),
    "test": ("test.tsv", "sts-test.csv"),
}
_MNLI: dict[str, Sequence[str]] = {
    "train": ("train.tsv",),
    "valid": ("dev_matched.tsv",),
    "mismatched": ("dev_mismatched.tsv",),
    "test": ("test_matched.tsv",),
    "test_mismatched": ("test_mismatched.tsv",),
}
_BINARY = ("0", "1")
_ENTAILED = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")
LAYOUTS = {
    "cola": Layout(
        "CoLA",
        texts=["sentence"],
        label="label",
        labels=_BINARY,
        metric="mcc",
        bare={"train.tsv": _COLA, "dev.tsv": _COLA},
    ),
    "sst2": Layout("SST-2", ["sentence|content"], "label", _BINARY, "accuracy"),
    "mrpc": Layout(
        "MRPC",
        texts=["#1 String", "#2 String"],
        label="Quality",
        labels=_BINARY,
        metric="f1",
        files=_MRPC,
    ),
    "stsb": Layout(
        "STS-B",
        texts=_PAIR,
        label="score",
        labels=None,
        metric="pearson",
        files=_STSB_FILES,
        bare=dict.fromkeys(("sts-train.csv", "sts-dev.csv", "sts-test.csv"), _STSB),
    ),
    "qqp": Layout("QQP", ["question1", "question2"], "is_duplicate", _BINARY, "f1"),
    "mnli": Layout(
        "MNLI",
        texts=_PAIR,
        label="gold_label",
        labels=("contradiction", "neutral", "entailment"),
        metric="accuracy",
        files=_MNLI,
    ),
    "qnli": Layout("QNLI", ["question", "sentence"], "label", _ENTAILED, "accuracy"),
    "rte": Layout("RTE", _PAIR, "label", _ENTAILED, "accuracy"),
}


#: What the leaderboard calls a task's predictions, by split.
SUBMISSIONS = {
    "cola": {"test": "CoLA"},
    "sst2": {"test": "SST-2"},
    "mrpc": {"test": "MRPC"},
    "stsb": {"test": "STS-B"},
    "qqp": {"test": "QQP"},
    "mnli": {"test": "MNLI-m", "test_mismatched": "MNLI-mm"},
    "qnli": {"test": "QNLI"},
    "rte": {"test": "RTE"},
}


def find_split(data: Path, layout: Layout, split: str) -> Path:
    """A split's file, in GLUE's folder or in the task's own.

    Raises:
        UserError: there is no such split, or no file of it.

    """
    if split not in layout.files:
        known = ", ".join(layout.files)
        raise UserError(f"{layout.folder} has no split '{split}'; choose from {known}")
    inside = data / layout.folder
    folder = inside if inside.is_dir() else data
    names = layout.files[split]
    for path in entries(folder, [name.lower() for name in names]):
        if path.is_file():
            return path
        raise UserError(f"{path} is a folder, not a file; rename or remove it")
    mend = f"name GLUE's folder, or {layout.folder}'s"
    if split == "valid" and entries(folder, [n.lower() for n in layout.files["test"]]):
        mend += ", or evaluate on 'test', if it has labels: --valid-subset test"
    raise UserError(
        f"{folder} has no {' or '.join(names)} for the split '{split}'; {mend}"
    )


def read_split(path: Path, layout: Layout) -> Iterator[Example]:
    """Labelled sentences or pairs.

    Raises:
        UserError: a row does not fit, or the file has no labels.

    """
    if path.name in layout.bare:
        width, texts, label = layout.bare[path.name]
        if path.suffix == ".csv":
            return _scored(path, width, texts, label)
        return read_columns(path, width, texts, label)
    return _with_header(path, layout)


def _scored(
    path: Path, width: int, texts: Sequence[int], label: int
) -> Iterator[Example]:
    """The original STS benchmark: some rows have two columns more, of sources."""
    for number, line in read_lines(path):
        cells = line.split("\t")
        if len(cells) not in (width, width + 2):
            problem = f"{len(cells)} tab-separated columns in {shown(line)}"
            mend = f"there should be {width} or {width + 2}"
            raise error_at(path, number, problem, mend)
        yield checked(path, number, [cells[i] for i in texts], cells[label])


def _columns(path: Path, header: list[str], names: Sequence[str]) -> list[str]:
    """The file's own name of each column."""
    found = []
    for name in names:
        known = [alias for alias in name.split("|") if alias in header]
        if not known:
            problem = f"no column {shown(name)} among: {', '.join(header)}"
            raise error_at(path, 1, problem, "is this the file of another task?")
        found.append(known[0])
    as_header(path, header, found)
    return found


def _with_header(path: Path, layout: Layout) -> Iterator[Example]:
    lines = read_lines(path)
    header = next(lines)[1].split("\t")
    if layout.label not in header and any("index" in n or n == "id" for n in header):
        raise UserError(
            f"{path} has no labels: it is for the leaderboard; evaluate on another "
            "split"
        )
    *texts, label = _columns(path, header, [*layout.texts, layout.label])
    number = 0
    for number, line in lines:
        row = as_row(path, number, header, line.split("\t"))
        yield checked(path, number, [row[name] for name in texts], row[label])
    if not number:
        raise UserError(f"{path} has a header and no rows; get it again")


def read_unlabelled(path: Path, layout: Layout) -> Iterator[tuple[str, ...]]:
    """The sentences or pairs of the leaderboard's test file.

    Raises:
        UserError: a row does not fit.

    """
    lines = read_lines(path)
    header = next(lines)[1].split("\t")
    columns = _columns(path, header, layout.texts)
    for number, line in lines:
        row = as_row(path, number, header, line.split("\t"))
        yield tuple(row[name] for name in columns)


def reader(layout: Layout) -> Callable[[Path], Iterator[Example]]:
    """A layout's reader, taking only the path."""
    return lambda path: read_split(path, layout)
