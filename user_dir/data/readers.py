"""Reading labelled sentences from the files people really have.

Every error names the file, the line, the offending value and the mend.
"""

import codecs
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import sha256

#: Long enough for any sentence, short enough to name a file that is not text.
SHOWN = 60

#: Suffixes of files with named columns, in any case.
TABLES = (".tsv", ".csv", ".jsonl", ".json")
#: Names that the file of a split goes by.
STEMS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}
#: What an error names: a file, or standard input.
Where = Path | str
STDIN = "standard input"
#: The byte order mark, which belongs at the start of a file alone.
BOM = "\ufeff"


@dataclass(frozen=True)
class Example:
    """One labelled sentence, or pair of sentences.

    Args:
        texts: one or two non-empty texts; of multiple choice the choices come last.
        label: as written in the file; empty where there is none, or ``labels``.
        line: line of the file it ends on, from 1.
        labels: all that hold, where there may be any number; None where one does.
        spans: where a word begins and ends in each text, where that matters.

    """

    texts: tuple[str, ...]
    label: str
    line: int
    labels: tuple[str, ...] | None = None
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The one label, or those that hold."""
        return (self.label,) if self.labels is None else self.labels


def shown(value: object) -> str:
    """A value as an error message shows it: quoted, short, nothing hidden in it."""
    text = repr(value)
    if not unicodedata.is_normalized("NFC", text):
        text = ascii(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def error_at(where: Where, line: int, problem: str, mend: str) -> UserError:
    """The one form of every data error."""
    return UserError(f"{where}:{line}: {problem}; {mend}")


def is_table(path: Path) -> bool:
    """Whether a file has named columns, by its suffix."""
    return path.suffix.lower() in TABLES


#: ASCII digits, a point, an exponent: no underscores, hexadecimals, "inf" or "nan".
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def plain_number(text: str) -> float:
    """A decimal or scientific number; NaN for anything else."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else float("nan")


def unpaired(text: str) -> str | None:
    """The first half of a character without its other half, as JSON can write it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a character, {text[error.start]!a}"
    return None


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
            "get it with fairseq-steady get-data or name the right folder"
        )
    if len(found) > 1 and len(set(map(sha256, found))) > 1:
        places = ", ".join(str(path) for path in found)
        raise UserError(f"several different files could be meant: {places}; keep one")
    return found[0]


# --- files ---------------------------------------------------------------------------


def entries(folder: Path, names: Sequence[str]) -> list[Path]:
    """What a folder holds under some names, in any case, in the names' order.

    Raises:
        UserError: it is no folder.

    """
    if folder.is_file():
        raise UserError(f"{folder} is a file; name the folder that holds it")
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; name the folder with the data")
    there = sorted(folder.iterdir())
    wanted = map(str.lower, names)
    return [path for name in wanted for path in there if path.name.lower() == name]


def the_only(found: Sequence[Sequence[Path]], split: str) -> Sequence[Path]:
    """The first of several candidates for a split, all of the same content.

    Args:
        found: the files of each, at least one.
        split: named in the error.

    Raises:
        UserError: they differ, so that one of them is stale; or one is a folder.

    """
    for path in (path for files in found for path in files):
        if path.is_dir():
            raise UserError(f"{path} is a folder, not a file; rename or remove it")
    if len(found) > 1 and len({tuple(map(sha256, files)) for files in found}) > 1:
        places = ", ".join(" with ".join(map(str, files)) for files in found)
        raise UserError(
            f"several different files could be the {split} set: {places}; keep one"
        )
    return found[0]


# --- bytes ---------------------------------------------------------------------------

#: How files that are no UTF-8 text begin, what they are, and what makes them text.
_BEGINNINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32 text", "iconv -f UTF-32 -t UTF-8 {file} > NEW"),
    (codecs.BOM_UTF16_LE, "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {file} > NEW"),
    (codecs.BOM_UTF16_BE, "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {file} > NEW"),
    (b"\x1f\x8b", "compressed by gzip", "gzip -dc {file} > NEW"),
    (b"BZh", "compressed by bzip2", "bzip2 -dc {file} > NEW"),
    (b"\xfd7zXZ\0", "compressed by xz", "xz -dc {file} > NEW"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd -dc {file} > NEW"),
    (b"PK\x03\x04", "a zip archive or a workbook", "unzip {file}, or save it as CSV"),
    (b"PAR1", "a Parquet file", "write it as CSV or JSON lines with pandas"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "git lfs pull"),
)

_OTHER_FORMS = tuple(beginning for beginning, _, _ in _BEGINNINGS)


def _file(where: Where) -> str:
    """As a shell takes it."""
    return shlex.quote(str(where)) if isinstance(where, Path) else "-"


def _refuse_other_forms(where: Where, data: bytes) -> None:
    file = _file(where)
    for beginning, what, mend in _BEGINNINGS:
        if data.startswith(beginning):
            raise UserError(
                f"{where} is {what}; make it text: {mend.format(file=file)}"
            )
    for order, start in (("LE", 1), ("BE", 0)):
        half = data[start:1000:2]
        if half and half.count(0) > 0.4 * len(half):
            mend = f"iconv -f UTF-16{order} -t UTF-8 {file} > NEW"
            raise UserError(f"{where} looks like UTF-16 text; make it UTF-8: {mend}")


def _not_utf8(where: Where, data: bytes, error: UnicodeDecodeError) -> UserError:
    """What a byte that UTF-8 has not says of the file."""
    file = _file(where)
    line = data.count(b"\n", 0, error.start) + 1
    problem = f"byte {data[error.start]:#04x} is not UTF-8"
    if error.reason == "unexpected end of data":
        return error_at(where, line, "the file ends within a character", "get it again")
    if not data[: error.start].isascii():
        return error_at(where, line, f"{problem}, the text before is", "mend the line")
    mend = f"find the file's encoding, as with: file --mime-encoding {file}"
    try:
        data.decode("cp1252")
        mend = f"convert the file, if Western, with: iconv -f cp1252 -t UTF-8 {file}"
    except UnicodeDecodeError:
        pass
    return error_at(where, line, problem, mend)


def _refuse_returns(where: Where, text: str) -> None:
    if "\r" in text.strip() and "\n" not in text:
        mend = f"make them line feeds: tr '\\r' '\\n' < {_file(where)} > NEW"
        raise UserError(f"{where}: its lines end in carriage returns alone; {mend}")


def decoded(where: Where, data: bytes, blank: bool = False) -> str:
    r"""Bytes as text, a byte-order mark removed, line ends as "\n".

    Raises:
        UserError: they are not UTF-8, or empty where they may not be ``blank``.

    """
    _refuse_other_forms(where, data)
    try:
        text = data.decode("utf-8").lstrip(BOM)
    except UnicodeDecodeError as error:
        raise _not_utf8(where, data, error) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error_at(where, line, "a NUL character", "is this a text file?")
    if not (blank or text.strip()):
        raise UserError(f"{where} is empty; it should hold sentences")
    _refuse_returns(where, text)
    return text.replace("\r\n", "\n")


def read_text(path: Path, blank: bool = False) -> str:
    """The whole file, :func:`decoded`.

    Raises:
        UserError: it is missing, not UTF-8, or empty where it may not be ``blank``.

    """
    try:
        return decoded(path, path.read_bytes(), blank)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


# --- lines ---------------------------------------------------------------------------

#: Bytes looked through at a time.
_PIECE = 2**20


def _is_plain(path: Path) -> bool:
    """Whether a file is text of lines beyond doubt, so that none need read it whole."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    ended = filled = False
    with path.open("rb") as file:
        try:
            while piece := file.read(_PIECE):
                text = decode(piece)
                if "\0" in text or piece.startswith(_OTHER_FORMS):
                    return False
                ended = ended or "\n" in text
                filled = filled or bool(text.lstrip(BOM).strip())
            decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return ended and filled


def text_lines(path: Path) -> Iterator[str]:
    r"""Lines of :func:`read_text`, with "\n" at the end, read as they are wanted.

    All of the file is looked through before the first of them is given.

    Raises:
        UserError: as :func:`read_text`.

    """
    try:
        if not _is_plain(path):
            read_text(path)  # says what is wrong, if anything is
        with path.open(encoding="utf-8", newline="\n") as file:
            first = next(file, None)
            if first is None:
                raise UserError(f"{path} can be read only once; name a file")
            yield first.lstrip(BOM).replace("\r\n", "\n")
            for line in file:
                yield line.replace("\r\n", "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Numbered lines, split at "\n" only: data hold other line separators.

    Raises:
        UserError: as :func:`read_text`; or a line before the last is empty.

    """
    empty = 0  # the first of those that may end the file
    for number, line in enumerate(text_lines(path), 1):
        if line == "\n":
            empty = empty or number
        elif empty or not line.strip():
            raise error_at(path, empty or number, "an empty line", "remove it")
        else:
            yield number, line.removesuffix("\n")


def stream_inputs(path: Path | None) -> Iterator[tuple[Where, int, str]]:
    """Lines to answer one by one: where each is, its number and its text.

    A file that can be read again is looked through before the first line is given;
    standard input and pipes are not, so that an error may come after some lines.

    Args:
        path: a text file or pipe; None for standard input.

    Raises:
        UserError: as :func:`read_text`; or a line is empty, even the last.

    """
    where: Where = path or STDIN
    lines = text_lines(path) if path and path.is_file() else _piped(path)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            mend = "each line has an answer: remove it or fill it"
            raise error_at(where, number, "an empty line", mend)
        yield where, number, line.removesuffix("\n")


def _piped(path: Path | None) -> Iterator[str]:
    """Lines that come once, each checked as it comes."""
    where: Where = path or STDIN
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb")) if path else sys.stdin.buffer
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        number = 0
        for number, data in enumerate(file, 1):
            yield _line(where, number, data)
        if not number:
            raise UserError(f"{where} is empty; it should hold sentences")


def _line(where: Where, number: int, data: bytes) -> str:
    if number == 1:
        _refuse_other_forms(where, data)
        data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {data[error.start]:#04x} is not UTF-8"
        raise error_at(where, number, problem, "make it UTF-8, as iconv does") from None
    if "\0" in text:
        raise error_at(where, number, "a NUL character", "is this a text file?")
    if number == 1:
        _refuse_returns(where, text)
    return text.replace("\r\n", "\n")


def filled(
    where: Where, line: int, texts: Sequence[str], what: str = "sentence"
) -> tuple[str, ...]:
    """Texts without the blanks around them.

    Args:
        where: the file.
        line: of it.
        texts: there.
        what: each of them is, in the message.

    Raises:
        UserError: there is nothing else in one.

    """
    stripped = tuple(text.strip() for text in texts)
    if not all(stripped):
        raise error_at(where, line, f"an empty {what}", "remove the row or fill it")
    return stripped


def checked(path: Path, line: int, texts: Sequence[str], label: str) -> Example:
    """An example whose texts and label are there.

    Raises:
        UserError: a text or the label is empty.

    """
    stripped = filled(path, line, texts)
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
