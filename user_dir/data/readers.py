"""Reading labelled sentences from the files people really have.

Every error names the file, the line, the offending value and the mend.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError

#: Long enough for any sentence, short enough to name a file that is not text.
_SHOWN = 60
csv.field_size_limit(10_000_000)


#: Line number, and the line's cells by column.
Row = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Example:
    """One labelled sentence, or pair of sentences.

    Args:
        texts: one or two non-empty texts.
        label: as written in the file.
        line: line of the file it ends on, from 1.

    """

    texts: tuple[str, ...]
    label: str
    line: int


def shown(value: object) -> str:
    """A value as an error message shows it: quoted and short."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def error_at(path: Path, line: int, problem: str, mend: str) -> UserError:
    """The one form of every data error."""
    return UserError(f"{path}:{line}: {problem}; {mend}")


def find_file(folder: Path, *names: str) -> Path:
    """The one file of these names in a folder or below it.

    Raises:
        UserError: there is none, or there are several with different content.

    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name the one that holds {names[0]}")
    found = [path for name in names for path in sorted(folder.rglob(name))]
    if not found:
        raise UserError(
            f"{folder} holds no {' or '.join(names)}, at any depth; "
            "get it with scripts/get_data.py or name the right folder"
        )
    if len({path.read_bytes() for path in found}) > 1:
        places = ", ".join(str(path) for path in found)
        raise UserError(f"several different files could be meant: {places}; keep one")
    return found[0]


def read_text(path: Path) -> str:
    r"""The whole file as text, a byte-order mark removed, line ends as "\n".

    Raises:
        UserError: it is missing, empty or not UTF-8.

    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"byte {data[error.start]:#04x} is not UTF-8"
        raise error_at(
            path, line, problem, "convert the file, as with: iconv -f latin1 -t utf8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error_at(path, line, "a NUL character", "is this a text file?")
    if not text.strip():
        raise UserError(f"{path} is empty; it should hold labelled sentences")
    return text.replace("\r\n", "\n")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Numbered lines, split at "\n" only: data hold other line separators.

    Raises:
        UserError: as :func:`read_text`; or a line before the last is empty.

    """
    lines = read_text(path).rstrip("\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise error_at(path, number, "an empty line", "remove it")
        yield number, line


def checked(path: Path, line: int, texts: Sequence[str], label: str) -> Example:
    """An example whose texts and label are there.

    Raises:
        UserError: a text or the label is empty.

    """
    stripped = tuple(text.strip() for text in texts)
    if not all(stripped):
        raise error_at(path, line, "an empty sentence", "remove the row or fill it")
    if not label.strip():
        raise error_at(path, line, "an empty label", "remove the row or fill it")
    return Example(stripped, label.strip(), line)


def read_columns(
    path: Path, width: int, text: Sequence[int], label: int
) -> Iterator[Example]:
    """Tab-separated columns by position, without header or quoting.

    Args:
        path: the file.
        width: columns in each row.
        text: positions of the text columns, from 0.
        label: position of the label column, from 0.

    Raises:
        UserError: a row has another number of columns, or an empty one that matters.

    """
    for number, line in read_lines(path):
        cells = line.split("\t")
        if len(cells) != width:
            raise error_at(
                path,
                number,
                f"{len(cells)} tab-separated columns in {shown(line)}",
                f"there should be {width}",
            )
        yield checked(path, number, [cells[i] for i in text], cells[label])


def read_sentence_tab_label(path: Path) -> Iterator[Example]:
    """``sentence TAB label``; the sentence may hold quotes and tabs."""
    for number, line in read_lines(path):
        sentence, tab, label = line.rpartition("\t")
        if not tab:
            raise error_at(
                path, number, f"no tab in {shown(line)}", "write: sentence TAB label"
            )
        yield checked(path, number, [sentence], label)


def read_named(path: Path, columns: Sequence[str], mend: str = "") -> Iterator[Row]:
    """Rows of a TSV (no quoting), CSV (quoted) or JSON-lines file with some columns.

    Args:
        path: its suffix, .tsv, .csv, .jsonl or .json, tells the form.
        columns: that each row must have.
        mend: what to do about a missing one.

    Raises:
        UserError: another suffix, a missing column, a malformed row, or no rows.

    """
    forms: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".tsv": _tsv_rows,
        ".csv": _csv_rows,
        ".jsonl": _jsonl_rows,
        ".json": _jsonl_rows,
    }
    if path.suffix.lower() not in forms:
        known = ", ".join(forms)
        raise UserError(f"{path} is none of {known}; rename or convert it")
    empty = True
    for number, row in forms[path.suffix.lower()](path):
        missing = [name for name in columns if row.get(name) is None]
        if missing:
            has = ", ".join(str(name) for name in row)
            problem = f"no column {shown(missing[0])} among: {has}"
            raise error_at(path, number, problem, mend or "name yours")
        empty = False
        yield number, row
    if empty:
        raise UserError(f"{path} has a header and no rows; add some")


def read_table(path: Path, text: Sequence[str], label: str) -> Iterator[Example]:
    """Labelled sentences by named columns.

    Args:
        path: as :func:`read_named` takes it.
        text: names of one or two text columns.
        label: name of the label column.

    Raises:
        UserError: as :func:`read_named`; or a cell is empty.

    """
    mend = "name yours with --steady-text-column and --steady-label-column"
    for number, row in read_named(path, (*text, label), mend):
        yield checked(path, number, [str(row[t]) for t in text], str(row[label]))


def _tsv_rows(path: Path) -> Iterator[Row]:
    lines = read_lines(path)
    header = next(lines)[1].split("\t")
    for number, line in lines:
        yield number, _row(path, number, header, line.split("\t"))


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader)
        for cells in reader:
            if cells:
                yield reader.line_num, _row(path, reader.line_num, header, cells)
    except csv.Error as error:
        raise error_at(
            path, reader.line_num, f"not CSV ({error})", "mend the quotes"
        ) from None


def _row(
    path: Path, number: int, header: list[str], cells: list[str]
) -> dict[str, str]:
    if len(cells) != len(header):
        raise error_at(
            path,
            number,
            f"{len(cells)} columns where the header has {len(header)}",
            "mend the row's separators",
        )
    return dict(zip(header, cells, strict=True))


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise error_at(
                path, number, f"{shown(line)} is not a JSON object", "mend the line"
            )
        yield number, row
