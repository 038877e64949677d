"""How the official files of data sets read: one entry of a table each.

GLUE's and NLI's TSVs have no quoting: a quote is a quote. A row that does not fit is an
error with its line; rows are left out where their authors say so, and counted.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from ..errors import UserError
from .cache import classes_cached
from .noticing import remark
from .readers import (
    SHOWN,
    Example,
    checked,
    entries,
    error_at,
    is_table,
    read_lines,
    shown,
)
from .tables import (
    Row,
    as_header,
    as_row,
    columns_of,
    label_cell,
    read_named,
    text_cell,
)

#: GLUE's own dev.tsv and test.tsv, unless a data set says otherwise.
_FILES = {"train": ("train.tsv",), "valid": ("dev.tsv",), "test": ("test.tsv",)}
_ANNOTATOR = re.compile("label[2-5]").fullmatch
_MORE = 2  # columns of sources that some rows of STS-B's original release have


class Bare(NamedTuple):
    """A file without a header.

    Args:
        width: columns in each row.
        texts: positions of those of the texts, from 0.
        label: that of the label.

    """

    width: int
    texts: Sequence[int]
    label: int


@dataclass(frozen=True)
class Parts:
    """How a data set is made of parts that are scored each by itself.

    Every part has a folder of its own, named as it is in any case; or one file has all.

    Args:
        noun: what a part is, for people.
        names: of the official parts.
        column: of a file for all, that says which part a row is of.
        flag: that chooses some, where otherwise every official part has to be there.

    """

    noun: str
    names: Sequence[str]
    column: str = ""
    flag: str = ""


@dataclass(frozen=True)
class Layout:
    """One data set.

    Args:
        folder: as its archive names it.
        texts: columns of the one or two sentences; alternatives separated by ``|``.
        label: column of the label, in the same way.
        labels: classes in the order of the model's outputs; None for scores.
        metric: the one that picks checkpoints.
        files: names by split; the first that exists. Files in .jsonl hold JSON lines,
            others are tab-separated with a header.
        bare: files without a header, by name.
        spelt: what files call classes that have another name here.
        dropped: labels of rows that are left out and counted.
        parts: if it is made of some.
        quoted: cells of a .tsv may stand in quotes, as pandas writes them.
        broken: the official file has rows with cells missing or empty, which are left
            out and counted.

    """

    folder: str
    texts: Sequence[str]
    label: str
    labels: Sequence[str] | None
    metric: str = "accuracy"
    files: Mapping[str, Sequence[str]] = field(default_factory=lambda: dict(_FILES))
    bare: Mapping[str, Bare] = field(default_factory=dict)
    spelt: Mapping[str, str] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    parts: Parts | None = None
    quoted: bool = False
    broken: bool = False

    def headless(self, path: Path) -> Bare | None:
        """The form of a file that has no header, by its name in any case."""
        return self.bare.get(path.name.lower())


# --- which file -----------------------------------------------------------------------


def folder_of(data: Path, layout: Layout) -> Path:
    """The data set's folder, in one that holds it or by itself."""
    names = PurePath(layout.folder).parts
    inside = [data.joinpath(*names[start:]) for start in range(len(names))]
    return next((folder for folder in inside if folder.is_dir()), data)


def find_split(data: Path, layout: Layout, split: str, mend: str = "") -> Path:
    """A split's file, in a folder of data sets or in the data set's own.

    Args:
        data: the folder.
        layout: of the data set.
        split: one of its splits.
        mend: what to do where there is no file.

    Raises:
        UserError: there is no such split, or no file of it.

    """
    if split not in layout.files:
        known = ", ".join(layout.files)
        raise UserError(f"{layout.folder} has no split '{split}'; choose from {known}")
    folder = folder_of(data, layout)
    if path := file_in(folder, layout, split):
        return path
    mend = mend or f"name GLUE's folder, or {layout.folder}'s"
    if split == "valid" and file_in(folder, layout, "test"):
        mend += ", or evaluate on 'test', if it has labels: --valid-subset test"
    names = " or ".join(layout.files[split])
    raise UserError(f"{folder} has no {names} for the split '{split}'; {mend}")


def file_in(folder: Path, layout: Layout, split: str) -> Path | None:
    """A split's file directly in a folder, if there is one.

    Raises:
        UserError: it is a folder.

    """
    for path in entries(folder, layout.files[split]):
        if path.is_file():
            return path
        raise UserError(f"{path} is a folder, not a file; rename or remove it")
    return None


class PartFile(NamedTuple):
    """Where a part of a split is.

    Args:
        path: of the file.
        part: what to read of it; empty for all.

    """

    path: Path
    part: str = ""


def find_parts(
    data: Path,
    layout: Layout,
    split: str,
    wanted: Sequence[str],
    cache_dir: Path | None,
    mend: str,
) -> dict[str, PartFile]:
    """The parts of a split, by name.

    Args:
        data: as :func:`find_split` takes it.
        layout: of a data set that has parts.
        split: one of its splits.
        wanted: names; none for all the official parts that there are, or, where there
            is none, for the others.
        cache_dir: as :func:`.cache.encode_cached` takes it.
        mend: what to do where there is no file.

    Raises:
        UserError: a part, or the split, is not there.

    """
    parts = layout.parts or Parts("part", ())
    folder = folder_of(data, layout)
    if whole := file_in(folder, layout, split):
        return parts_in(whole, layout, wanted, cache_dir)
    there = _parts_below(folder, layout, split)
    if not there:
        files = " or ".join(layout.files[split])
        raise UserError(
            f"{folder} has no {files} for the split '{split}', nor has a folder of a "
            f"{parts.noun} in it ({', '.join(parts.names)}); {mend}"
        )
    return _chosen(there, parts, wanted, f"{folder}, split '{split}',")


def _parts_below(folder: Path, layout: Layout, split: str) -> dict[str, PartFile]:
    """Those that have a folder each."""
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    found = {path.name.lower(): file_in(path, layout, split) for path in below}
    return {name: PartFile(path) for name, path in found.items() if path}


def has_parts(path: Path, layout: Layout) -> bool:
    """Whether a file says of each row which part it is of."""
    column = layout.parts.column if layout.parts else ""
    return bool(column) and column in header_of(path, layout.quoted)


def parts_in(
    path: Path, layout: Layout, wanted: Sequence[str], cache_dir: Path | None
) -> dict[str, PartFile]:
    """The parts of one file for all, by name.

    Raises:
        UserError: one that is wanted is not there, or one that is there not known.

    """
    parts = layout.parts or Parts("part", ())
    if not has_parts(path, layout):
        raise UserError(
            f"{path} does not say which {parts.noun} its rows are of; name the folder "
            f"that holds a folder for each, as {parts.names[0]}"
        )

    def read(path: Path) -> Iterator[Example]:
        for number, row in read_rows(path, [parts.column], layout.quoted):
            name = text_cell(path, number, row, parts.column).strip()
            yield Example((), name, number)

    described = f"parts {parts.column}{' quoted' * layout.quoted}"
    found = classes_cached(path, read, described, cache_dir)
    for name, line in found.items():
        if name not in (*parts.names, *wanted):
            problem = f"{parts.noun} {shown(name)} is none of: {', '.join(parts.names)}"
            raise error_at(path, line, problem, "mend the row")
    there = {name: PartFile(path, name) for name in found}
    return _chosen(there, parts, wanted, str(path))


def _chosen(
    there: Mapping[str, PartFile], parts: Parts, wanted: Sequence[str], where: str
) -> dict[str, PartFile]:
    """What is wanted, or the official parts: a copy beside them is none."""
    needed = wanted or (parts.names if parts.flag else ())
    if missing := [name for name in needed if name not in there]:
        mend = f"choose from {', '.join(there)}"
        if not wanted:
            mend = f"get it, or with {parts.flag} {mend}"
        raise UserError(f"{where} has no {parts.noun} '{missing[0]}'; {mend}")
    official = [name for name in parts.names if name in there]
    return {name: there[name] for name in wanted or official or sorted(there)}


# --- rows -----------------------------------------------------------------------------


class _Row(NamedTuple):
    """What is read of a row; a broken one has no texts."""

    line: int
    texts: Sequence[str]
    label: str
    part: str


def read_split(path: Path, layout: Layout, part: str = "") -> Iterator[Example]:
    """Labelled sentences or pairs.

    Args:
        path: as :func:`find_split` finds it.
        layout: of its data set.
        part: the one to read of a file that has several; all if empty.

    Raises:
        UserError: a row does not fit, or the file has no labels.

    """
    seen = left = 0
    for row in _rows(path, layout, part):
        seen += 1
        if row.label.strip() in layout.dropped or not row.texts:
            left += 1
            continue
        example = checked(path, row.line, row.texts, row.label)
        yield Example(example.texts, _class(path, layout, example), row.line)
    if left:
        _say_left(path, layout, part, left, seen)


def _class(path: Path, layout: Layout, example: Example) -> str:
    """A label as the task calls it.

    Raises:
        UserError: it is none of the data set's.

    """
    label = layout.spelt.get(example.label, example.label)
    if layout.labels is not None and label not in layout.labels:
        problem = f"label {shown(example.label)} is none of: {', '.join(layout.labels)}"
        if layout.spelt:
            problem += f" (or {', '.join(layout.spelt)})"
        mend = "mend the row"
        if example.line == 1 and layout.headless(path):
            mend += ", or remove it if it is a header: this file has none"
        raise error_at(path, example.line, problem, mend)
    return label


def _say_left(path: Path, layout: Layout, part: str, left: int, seen: int) -> None:
    where = f" ({part})" if part else ""
    why = "are without all of their cells"
    if layout.dropped:
        why = f"have the label {shown(layout.dropped[0])}, which stands for no label"
    if left == seen:
        raise UserError(f"{path}{where}: all {seen} rows {why}; get the file again")
    remark(path, f"{where}: {left} of {seen} rows {why}, and are left out")


def _rows(path: Path, layout: Layout, part: str) -> Iterator[_Row]:
    """Rows of a part, or all, whatever the form of the file."""
    if bare := layout.headless(path):
        return _without_header(path, bare)
    column = layout.parts.column if layout.parts else ""
    rows = _by_name(path, layout, column if part else "")
    return (row for row in rows if not part or row.part == part)


def _without_header(path: Path, bare: Bare) -> Iterator[_Row]:
    """By position; the original STS benchmark has sources in two columns more."""
    widths = [bare.width, bare.width + _MORE] if path.suffix == ".csv" else [bare.width]
    for number, line in read_lines(path):
        cells = line.split("\t")
        if len(cells) not in widths:
            problem = f"{len(cells)} tab-separated columns in {shown(line)}"
            mend = f"there should be {' or '.join(map(str, widths))}"
            raise error_at(path, number, problem, mend)
        texts = [cells[place] for place in bare.texts]
        yield _Row(number, texts, cells[bare.label], "")


def _columns(path: Path, header: list[str], names: Sequence[str]) -> list[str]:
    """The file's own name of each column."""
    found = []
    for name in names:
        known = [alias for alias in name.split("|") if alias in header]
        if not known:
            there = ", ".join(one[:SHOWN] for one in header)
            problem = f"no column {shown(name)} among: {there}"
            mend = "is this the file of another task, or without its header?"
            raise error_at(path, 1, problem, mend)
        found.append(known[0])
    return found


def _by_name(path: Path, layout: Layout, column: str) -> Iterator[_Row]:
    """By the names of columns, ``column`` saying which part a row is of."""
    header = header_of(path, layout.quoted)
    labelled = any(alias in header for alias in layout.label.split("|"))
    if not labelled and any("index" in n or n == "id" for n in header):
        raise UserError(
            f"{path} has no labels: it is for the leaderboard; evaluate on another "
            "split"
        )
    more = [column] if column else []
    names = _columns(path, header, [*layout.texts, layout.label, *more])
    *texts, label = names[: len(layout.texts) + 1]
    for number, row in read_rows(path, names, layout.quoted, layout.broken):
        if layout.broken and not all(row.get(name, "").strip() for name in names):
            yield _Row(number, (), "", "")
            continue
        cells = [text_cell(path, number, row, name) for name in texts]
        of = text_cell(path, number, row, column).strip() if column else ""
        found = label_cell(path, number, row, label, layout.labels is None)
        yield _Row(number, cells, found, of)


def header_of(path: Path, quoted: bool = False) -> list[str]:
    """Names of columns: of the first line, or of the first JSON object."""
    if _named(path, quoted):
        return columns_of(path, quoted)
    return next(read_lines(path))[1].split("\t")


def read_rows(
    path: Path, columns: Sequence[str], quoted: bool = False, broken: bool = False
) -> Iterator[Row]:
    """Rows of a file with some columns; .txt is tab-separated as .tsv is.

    Args:
        path: of the file.
        columns: that it must have.
        quoted: cells of a .tsv may stand in quotes.
        broken: a line may have too few cells or too many, and gives an empty row.

    Raises:
        UserError: a row does not fit, or there is none.

    """
    if _named(path, quoted):
        mend = "mend the row, or get the file again"
        yield from read_named(path, columns, mend, quoted)
        return
    lines = read_lines(path)
    header = as_header(path, next(lines)[1].split("\t"), columns)
    number = 0
    for number, line in lines:
        cells = _filled_up(line.split("\t"), header)
        fits = len(cells) == len(header) or not broken
        yield number, as_row(path, number, header, cells) if fits else {}
    if not number:
        raise UserError(f"{path} has a header and no rows; get it again")


def _named(path: Path, quoted: bool) -> bool:
    """Whether rows are as users' tables have them, not plain tab-separated lines."""
    return is_table(path) and (quoted or path.suffix.lower() != ".tsv")


def _filled_up(cells: list[str], header: Sequence[str]) -> list[str]:
    """With the labels of further annotators, which most rows have not."""
    missing = header[len(cells) :]
    return cells + [""] * len(missing) if all(map(_ANNOTATOR, missing)) else cells


def read_unlabelled(path: Path, layout: Layout) -> Iterator[tuple[str, ...]]:
    """The sentences or pairs of the leaderboard's test file.

    Raises:
        UserError: a row does not fit.

    """
    columns = _columns(path, header_of(path), layout.texts)
    for _, row in read_rows(path, columns):
        yield tuple(row[name] for name in columns)


def reader(layout: Layout, part: str = "") -> Callable[[Path], Iterator[Example]]:
    """A layout's reader, taking only the path."""
    return lambda path: read_split(path, layout, part)
