"""Tables with named columns: TSV, CSV and JSON lines, as people have them.

Every error names the file, the line, the offending value and the mend.
"""

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from .noticing import remark
from .readers import (
    BOM,
    SHOWN,
    TABLES,
    Example,
    checked,
    error_at,
    filled,
    is_table,
    plain_number,
    read_lines,
    shown,
    text_lines,
    unpaired,
)

csv.field_size_limit(10_000_000)

#: Rows that a guess is from, or different ones that are remembered.
_LOOKED_AT = 1000
#: Line number, and the line's cells by column.
Row = tuple[int, dict[str, Any]]


def read_named(
    path: Path, columns: Sequence[str], mend: str = "", quoted: bool = False
) -> Iterator[Row]:
    """Rows of a TSV (no quoting), CSV (quoted) or JSON-lines file with some columns.

    Args:
        path: its suffix, .tsv, .csv, .jsonl or .json, tells the form.
        columns: that each row must have.
        mend: what to do about a missing one.
        quoted: a .tsv is quoted as well, as pandas writes it.

    Raises:
        UserError: another suffix, a missing or doubled column, a malformed row, or no
            rows.

    """
    forms: dict[str, Callable[[Path, Sequence[str]], Iterator[Row]]] = {
        ".tsv": partial(_csv_rows, separator="\t") if quoted else _tsv_rows,
        ".csv": _csv_rows,
        ".jsonl": _jsonl_rows,
        ".json": _jsonl_rows,
    }
    if not is_table(path):
        raise UserError(f"{path} is none of {', '.join(TABLES)}; rename or convert it")
    empty = True
    for number, row in forms[path.suffix.lower()](path, columns):
        for name in columns:
            if name not in row:
                raise _no_column(path, number, name, row, mend)
            if row[name] is None:
                problem = f"column {shown(name)} is null"
                raise error_at(path, number, problem, "fill it or remove the row")
        empty = False
        yield number, row
    if empty:
        raise UserError(f"{path} has a header and no rows; add some")


def columns_of(path: Path, quoted: bool = False) -> list[str]:
    """Names of a table's columns: its header, or its first object's.

    Raises:
        UserError: as :func:`read_named`.

    """
    return list(next(read_named(path, (), quoted=quoted))[1])


class NoHeaderError(UserError):
    """A table begins with a row, not with names."""


def guess_columns(
    path: Path, scores: bool, quoted: bool = False
) -> tuple[str, str] | None:
    """The text and the label of a table that has two columns.

    A label is a score, or one of few values that come again and again.

    Args:
        path: as :func:`read_named` takes it.
        scores: labels are numbers.
        quoted: as :func:`read_named` takes it.

    Returns:
        Names of both, or None where it is not plain which is which.

    Raises:
        NoHeaderError: what stands where the label's name would be is a label.

    """
    everything = read_named(path, (), quoted=quoted)
    rows = [row for _, row in itertools.islice(everything, _LOOKED_AT)]
    if len(rows[0]) != 2:
        return None
    first, second = rows[0]
    cells = {name: [str(row.get(name)) for row in rows] for name in (first, second)}

    def weight(name: str) -> float:
        if scores:
            return -sum(map(math.isfinite, map(plain_number, cells[name])))
        return len(set(cells[name]))

    if weight(first) == weight(second):
        return None
    label = min(first, second, key=weight)
    known = math.isfinite(plain_number(label)) if scores else label in cells[label]
    if known and path.suffix.lower() in (".tsv", ".csv"):
        raise NoHeaderError(
            f"{path}, line 1: {shown(label)} is a label, as of a file without a "
            "header; put a line above it that names the columns, such as: text, label "
            "(or, if it is that line, call that column otherwise)"
        )
    return (second if label == first else first), label


def _no_column(
    path: Path, number: int, name: str, row: dict[str, Any], mend: str
) -> UserError:
    """A table's header is its first line; each JSON object has names of its own."""
    names = list(row)
    problem = f"no column {shown(name)} among: {', '.join(names)}"
    if path.suffix.lower() not in (".tsv", ".csv"):
        return error_at(path, number, problem, mend or "name yours")
    own = error_at(path, 1, problem, mend or "name yours")
    return _otherwise_parted(path, names) or own


def _otherwise_parted(path: Path, header: Sequence[str]) -> UserError | None:
    """What to say of a header of one cell that looks like several."""
    parted = next((sep for sep in ",\t;|" if len(header) == 1 and sep in header[0]), "")
    if not parted:
        return None
    own = {",": ".csv", "\t": ".tsv"}.get(parted)
    mend = f"rename the file to {own}" if own else "write it as CSV, with commas"
    problem = f"{shown(header[0])} is one column; is it parted by {parted!r}?"
    return error_at(path, 1, problem, mend)


def text_cell(path: Path, number: int, row: dict[str, Any], column: str) -> str:
    """A cell that must be text.

    Raises:
        UserError: JSON has something else there, or half a character.

    """
    value = row[column]
    if not isinstance(value, str):
        problem = f"column {shown(column)} holds {_json(value)}, not text"
        quoted = f", as in {json.dumps(_json(value))}" if _is_number(value) else ""
        raise error_at(path, number, problem, f"write a string{quoted}")
    if "\0" in value:
        problem = f"column {shown(column)} holds a NUL character"
        raise error_at(path, number, problem, "remove it")
    half = unpaired(value)
    if half:
        problem = f"column {shown(column)} holds {half}"
        raise error_at(path, number, problem, "remove it or write the whole character")
    return value


def label_cell(
    path: Path, number: int, row: dict[str, Any], column: str, scores: bool
) -> str:
    """A cell that must be a class, a string or an integer, or a score.

    Raises:
        UserError: JSON has something else there: 1, 1.0 and true are not one class.

    """
    value = row[column]
    if isinstance(value, str):
        return text_cell(path, number, row, column)
    if _is_number(value) and (scores or isinstance(value, int)):
        return repr(value)
    if scores:
        mend = "write a number"
    elif isinstance(value, float) and value.is_integer():
        mend = f'write the class as {int(value)} or "{int(value)}"'
    else:
        mend = "write a string or an integer"
    problem = f"column {shown(column)} holds {_json(value)}"
    raise error_at(path, number, problem, mend)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json(value: object) -> str:
    """As the file has it."""
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def read_table(
    path: Path,
    text: Sequence[str],
    label: str,
    scores: bool = False,
    quoted: bool = False,
    mend: str = "name yours with --steady-text-column and --steady-label-column",
) -> Iterator[Example]:
    """Labelled sentences by named columns.

    Args:
        path: as :func:`read_named` takes it.
        text: names of one or two text columns.
        label: name of the label column.
        scores: labels are numbers, not classes.
        quoted: as :func:`read_named` takes it.
        mend: what to do about a missing column.

    Raises:
        UserError: as :func:`read_named`; or a cell is empty or of a wrong kind.

    """
    for number, row in read_named(path, (*text, label), mend, quoted):
        texts = [text_cell(path, number, row, name) for name in text]
        yield checked(path, number, texts, label_cell(path, number, row, label, scores))


def read_parted(
    path: Path, text: Sequence[str], label: str, separator: str, quoted: bool = False
) -> Iterator[Example]:
    """Sentences with any number of labels, all in one cell.

    Args:
        path: as :func:`read_named` takes it.
        text: names of one or two text columns.
        label: name of the label column; JSON may have a list of labels there.
        separator: between two labels; an empty cell has none.
        quoted: as :func:`read_named` takes it.

    Raises:
        UserError: as :func:`read_table`; or a label is empty or there twice.

    """
    mend = "name yours with --steady-text-column and --steady-label-column"
    for number, row in read_named(path, (*text, label), mend, quoted):
        texts = [text_cell(path, number, row, name) for name in text]
        labels = _parted(path, number, row, label, separator)
        yield Example(filled(path, number, texts), "", number, labels)


def _parted(
    path: Path, number: int, row: dict[str, Any], column: str, separator: str
) -> tuple[str, ...]:
    value = row[column]
    if isinstance(value, list):
        each = [label_cell(path, number, {column: v}, column, False) for v in value]
    else:
        cell = label_cell(path, number, row, column, False)
        # A blank at the end may be part of a separator, or all of it.
        inside = cell if separator.strip() else cell.strip()
        each = inside.split(separator) if cell.strip() else []
    names = tuple(name.strip() for name in each)
    if "" in names:
        problem = f"an empty label in {shown(value)}"
        mend = f"write one {separator!r} between two labels, and nothing for none"
        raise error_at(path, number, problem, mend)
    for name in names:
        if names.count(name) > 1:
            problem = f"label {shown(name)} is twice in {shown(value)}"
            raise error_at(path, number, problem, "remove one")
    return names


def read_indicators(
    path: Path, text: Sequence[str], labels: Sequence[str], quoted: bool = False
) -> Iterator[Example]:
    """Sentences with any number of labels, each a column of 0 and 1.

    Args:
        path: as :func:`read_named` takes it.
        text: names of one or two text columns.
        labels: names of the labels' columns.
        quoted: as :func:`read_named` takes it.

    Raises:
        UserError: as :func:`read_table`; or a cell is neither 0 nor 1.

    """
    mend = "name yours with --steady-text-column and --steady-label-columns"
    for number, row in read_named(path, (*text, *labels), mend, quoted):
        texts = filled(path, number, [text_cell(path, number, row, n) for n in text])
        holding = tuple(name for name in labels if _holds(path, number, row, name))
        yield Example(texts, "", number, holding)


def _holds(path: Path, number: int, row: dict[str, Any], column: str) -> bool:
    value = row[column]
    given = plain_number(value) if isinstance(value, str) else value
    if not isinstance(given, int | float) or given not in (0, 1):
        problem = f"column {shown(column)} holds {_json(value)}, not 0 or 1"
        mend = "write 1 where the label holds and 0 where it does not"
        raise error_at(path, number, problem, mend)
    return bool(given)


#: Columns of minimal pairs: sentences that differ in one thing, which makes one wrong.
PAIR = ("sentence_good", "sentence_bad")


def read_minimal_pairs(
    path: Path, good: str, bad: str, quoted: bool = False
) -> Iterator[Example]:
    """Each row's acceptable sentence, then the other.

    Args:
        path: as :func:`read_named` takes it, with the columns :data:`PAIR`.
        good: label of the acceptable sentences.
        bad: label of the others.
        quoted: as :func:`read_named` takes it.

    Raises:
        UserError: as :func:`read_named`; or a cell is empty or no text.

    Source: BLiMP (arXiv 1912.00582).

    """
    for number, row in read_named(path, PAIR, quoted=quoted):
        for name, label in zip(PAIR, (good, bad), strict=True):
            yield checked(path, number, [text_cell(path, number, row, name)], label)


def _tsv_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    lines, warned = read_lines(path), False
    header = as_header(path, next(lines)[1].split("\t"), columns)
    if all(len(name) > 1 and name[0] == name[-1] == '"' for name in header):
        problem = f"{shown(header[0])} and every other name stand in quotes"
        raise error_at(path, 1, problem, _UNQUOTED)
    for number, line in lines:
        cells = line.split("\t")
        if not warned and any(map(_looks_quoted, cells)):
            warned = True
            remark(
                path,
                f":{number}: a cell in doubled quotes, as pandas writes them, which "
                f"stay in the text; {_UNQUOTED}",
            )
        yield number, as_row(path, number, header, cells)


#: Of a .tsv with quotes around cells.
_UNQUOTED = (
    "a .tsv has no quoting here: read it with --steady-quoted-tsv, which tasks of "
    "sentences have, or write the table as .csv"
)


def _looks_quoted(cell: str) -> bool:
    return len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1]


def _opens_quote(cell: str) -> bool:
    return cell.startswith('"') and not cell.endswith('"')


def _csv_lines(path: Path) -> Iterator[str]:
    r"""Lines as CSV has them: a "\r" ends one too."""
    for line in text_lines(path):
        yield from io.StringIO(line, newline="") if "\r" in line else (line,)


def _csv_rows(
    path: Path, columns: Sequence[str], separator: str = ","
) -> Iterator[Row]:
    reader = csv.reader(_csv_lines(path), delimiter=separator, strict=True)
    blank, last, lost = 0, 0, _Swallowed(path, separator)
    header: list[str] = []
    try:
        header = as_header(path, next(reader), columns)
        if not header:
            raise error_at(path, 1, "an empty line", "remove it")
        last = reader.line_num
        for cells in reader:
            if blank and cells:
                raise error_at(path, blank, "an empty line", "remove it")
            if cells:
                lost.see(cells, last + 1, reader.line_num)
                yield reader.line_num, as_row(path, reader.line_num, header, cells)
            else:
                blank = blank or reader.line_num
            last = reader.line_num
    except csv.Error as error:
        # Where the row begins: the quote that is never closed is there.
        problem = f"not {'CSV' if separator == ',' else 'a quoted TSV'} ({error})"
        wrong = error_at(path, last + 1, problem, "mend the quotes")
        # Of cells that are parted by something else quotes stand anywhere.
        raise _otherwise_parted(path, header) or wrong from None
    lost.warn()


class _Swallowed:
    """Rows of a CSV file within a quoted cell, as a stray quote makes them.

    A line within a cell counts as a row if it has as many cells, and one of them is
    what another row has in that column: a label, as a rule. Few are remembered of what
    is not a label, so that memory does not grow with the file.

    Args:
        path: the file.
        separator: of its cells.

    """

    def __init__(self, path: Path, separator: str) -> None:
        self.path, self.separator = path, separator
        self._known: dict[int, set[str]] = {}
        self._inner: list[tuple[int, int, list[str]]] = []

    def see(self, cells: Sequence[str], first: int, last: int) -> None:
        """Take a row that spans these lines."""
        for column, cell in enumerate(cells if first == last else ()):
            known = self._known.setdefault(column, set())
            if len(cell) <= SHOWN and len(known) < _LOOKED_AT:
                known.add(cell)
        for cell in cells if last > first + 1 else ():
            for line in cell.split("\n")[1:-1]:
                inner = line.split(self.separator)
                if len(inner) == len(cells) and len(self._inner) < _LOOKED_AT:
                    self._inner.append((first, last, inner))

    def warn(self) -> None:
        """Say where the first of them are."""
        for first, last, inner in self._inner:
            if any(c and c in self._known.get(i, ()) for i, c in enumerate(inner)):
                row = shown(self.separator.join(inner))
                remark(
                    self.path,
                    f":{first}: a quoted cell spans {last - first + 1} lines, to line "
                    f"{last}, and has rows within it, as {row}; is there a stray "
                    "quote?",
                )
                return


def as_header(path: Path, names: list[str], columns: Sequence[str]) -> list[str]:
    """A file's first line, each wanted column in it no more than once.

    Raises:
        UserError: a wanted column is there twice.

    """
    for name in columns:
        if names.count(name) > 1:
            problem = f"the header has column {shown(name)} {names.count(name)} times"
            raise error_at(path, 1, problem, "rename or remove all but one")
    return names


def as_row(
    path: Path, number: int, header: Sequence[str], cells: Sequence[str]
) -> dict[str, str]:
    """Cells by column.

    Raises:
        UserError: there are more or fewer than the header has, or they are the header.

    """
    if cells[0].startswith(BOM):
        cells = [cells[0].lstrip(BOM), *cells[1:]]
        remark(
            path,
            f":{number}: a byte order mark, which is left out; are these two files, "
            "one after the other?",
        )
    if len(cells) != len(header):
        problem = f"{len(cells)} columns where the header has {len(header)}"
        mend = "mend the row's separators"
        if path.suffix.lower() == ".tsv" and any(map(_opens_quote, cells)):
            mend = f"if a cell in quotes goes on in the next line: {_UNQUOTED}"
        wrong = error_at(path, number, problem, mend)
        raise _otherwise_parted(path, header) or wrong
    if list(cells) == list(header):
        mend = "are these two files, one after the other? remove the line"
        raise error_at(path, number, "the header again", mend)
    return dict(zip(header, cells, strict=True))


class _DoubledError(ValueError):
    """A name that is twice in one JSON object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise _DoubledError(name)
    return dict(pairs)


def _jsonl_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    for number, line in read_lines(path):
        try:
            row = json.loads(line.lstrip(BOM), object_pairs_hook=_object)
        except _DoubledError as error:
            problem = f"column {shown(str(error))} is there twice"
            raise error_at(path, number, problem, "remove one") from None
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            listed = number == 1 and line.lstrip().startswith("[")
            whole = "write one object a line, as with: jq -c '.[]'"
            mend = whole if listed else "mend the line; it should be one whole object"
            raise error_at(path, number, f"{shown(line)} is not a JSON object", mend)
        yield number, row
