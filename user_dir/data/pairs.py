"""Articles with summaries, in the forms they are published in.

Every error names the file, the line (or article), the offending value and the mend.
"""

import hashlib
import itertools
import json
import os
import re
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..errors import UserError
from ..files import read_json
from . import readers
from .noticing import remark
from .readers import (
    TABLES,
    entries,
    error_at,
    is_table,
    read_text,
    shown,
    text_lines,
    the_only,
    unpaired,
)
from .tables import columns_of, read_named, text_cell

#: Names that files of a split go by, DialogSum's among them.
STEMS = {
    split: (*readers.STEMS[split], f"dialogsum.{own}")
    for split, own in (("train", "train"), ("valid", "dev"), ("test", "test"))
}
#: Suffixes of line-aligned files: articles, summaries.
ALIGNED = (
    (".source", ".target"),
    (".src", ".tgt"),
    (".document", ".summary"),
    (".article.txt", ".title.txt"),
    (".article.filter.txt", ".title.filter.txt"),
)
#: Suffixes of files that hold an article or its summary, anywhere below a folder.
ARTICLES = (".story", ".document", ".summary", ".data")
_HIGHLIGHT = "@highlight"
#: XSum's own list of articles by split, and where its articles are.
_XSUM = "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json"
_XSUM_FOLDERS = (
    *("bbc-summary-data", "xsum-extracts-from-downloads", "xsum-preprocessed"),
)


@dataclass(frozen=True)
class Columns:
    """Where tables have articles and summaries.

    Args:
        source: column of the articles.
        targets: columns of the summaries, of each file the first of these that it has;
            several columns are references of one article.
        partial: whether there are articles without a summary, which are left out.
        sentences: whether an article may be a list of sentences.

    """

    source: str
    targets: tuple[tuple[str, ...], ...]
    partial: bool = False
    sentences: bool = False

    def of(self, there: Container[str]) -> tuple[str, ...]:
        """The summaries' columns, of a table that has these."""
        found = (c for c in self.targets if all(name in there for name in c))
        return next(found, self.targets[0])


CUSTOM = Columns("source", (("target",),))


@dataclass(frozen=True)
class Pair:
    """An article and its summary, sentences of the summary on lines of their own.

    Args:
        source: the article, not empty.
        target: the summary, not empty.
        line: line of the file it ends on, or number of the article there, from 1.
        path: that file.
        others: further summaries, to compare with and not to train on.

    """

    source: str
    target: str
    line: int
    path: Path
    others: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        """All summaries."""
        return (self.target, *self.others)


def checked(path: Path, line: int, source: str, target: str, *others: str) -> Pair:
    """A pair whose texts are there.

    Raises:
        UserError: the article or the first summary is empty.

    """
    for what, text in (("article", source), ("summary", target)):
        if not text.strip():
            raise error_at(path, line, f"an empty {what}", "remove the row or fill it")
    more = tuple(text.strip() for text in others if text.strip())
    return Pair(source.strip(), target.strip(), line, path, more)


#: An article's file, its line or number there, its text and summary.
_Found = tuple[Path, int, str, str]


def _filled(found: Iterable[_Found], where: Path, split: str) -> Iterator[Pair]:
    """Pairs of the articles that have both texts; the others are counted."""
    there = missing = 0
    for path, line, article, summary in found:
        if article.strip() and summary.strip():
            there += 1
            yield checked(path, line, article, summary)
        else:
            missing += 1
    if missing:
        remark(
            where,
            f": {missing} of the {there + missing} articles of {split} are not there "
            "or empty, and are left out",
        )


def find_pairs(folder: Path, split: str) -> list[Path]:
    """The files of a split: one table, two aligned files, or CNN/DM's own forms.

    A folder's only table, named after no split, is every split's.

    Raises:
        UserError: there are none, or several tables or aligned files that differ.

    """
    stems = STEMS.get(split, (split,))
    alone = [[path] for stem in stems for path in _named(folder, stem, TABLES)]
    aligned = [_named(folder, stem, sides) for stem in stems for sides in ALIGNED]
    found = [*alone, *(files for files in aligned if len(files) == 2)]
    if found:
        return list(the_only(found, split))
    if (folder / _XSUM).is_file():
        return [folder / _XSUM, *_xsum_folder(folder)]
    for stem in stems:
        if files := next(filter(None, _candidates(folder, stem)), None):
            return files
    tables = [p for p in sorted(folder.glob("[!.]*")) if is_table(p)]
    if len(tables) == 1 and split in STEMS and not named_after_split(tables[0]):
        return tables
    raise UserError(
        f"{folder} has no {split} set: neither {stems[0]}.csv, .tsv, .jsonl nor "
        f"{stems[0]}.source with {stems[0]}.target, nor a folder or .bin of CNN/DM's "
        "stories"
    )


def by_list(files: Sequence[Path]) -> bool:
    """Whether the files are every split's, and one of them lists which has what."""
    return files[0].name == _XSUM


def of_all_splits(files: Sequence[Path], split: str) -> bool:
    """Whether the files of a split are a table that nothing splits yet."""
    first = files[0]
    known = split not in STEMS or by_list(files) or named_after_split(first)
    return is_table(first) and not known


def named_after_split(path: Path) -> bool:
    """Whether a table is that of one split, not of all of them."""
    return path.stem.lower() in {stem for stems in STEMS.values() for stem in stems}


def _named(folder: Path, stem: str, suffixes: Sequence[str]) -> list[Path]:
    return entries(folder, [f"{stem}{suffix}" for suffix in suffixes])


def _candidates(folder: Path, stem: str) -> Iterator[list[Path]]:
    """CNN/DM's own forms, as its makers leave them side by side."""
    for base in (folder, folder / "finished_files"):
        yield list(filter(Path.is_file, [base / f"{stem}.bin"]))
        yield sorted((base / "chunked").glob(f"{stem}_*.bin"))
        yield list(filter(Path.is_dir, [base / stem]))
    urls = folder / f"all_{stem}.txt"
    yield [urls, folder] if urls.is_file() else []


def read_pairs(
    files: list[Path], columns: Columns = CUSTOM, split: str = "train"
) -> Iterator[Pair]:
    """Pairs of the files that :func:`find_pairs` found.

    Args:
        files: of one split.
        columns: of articles and summaries, in tables.
        split: which, where :func:`by_list` files are of several.

    Raises:
        UserError: a file, row or article is wrong.

    """
    first = files[0]
    if by_list(files):
        return _filled(_xsum(first, files[1], split), files[1], split)
    if is_table(first):
        return _table(first, columns)
    if first.suffix == ".bin":
        examples = itertools.chain.from_iterable(map(_examples, files))
        return _filled(examples, first if len(files) == 1 else first.parent, split)
    if first.is_dir():
        return _filled(_stories(sorted(first.iterdir())), first, split)
    if len(files) == 2 and files[1].is_dir():
        return _filled(_stories(_listed(*files)), first, split)
    return _aligned(*files)


def _table(path: Path, columns: Columns) -> Iterator[Pair]:
    mend = "name yours with --summarization-source-column and -target-column"
    source, left_out, seen = columns.source, 0, 0
    targets = columns.of(columns_of(path))
    required = (source,) if columns.partial else (source, *targets)
    for line, row in read_named(path, required, mend):
        seen += 1
        cells = [row.get(name) for name in (source, *targets)]
        if columns.partial and not all(map(_is_there, cells)):
            left_out += 1
            continue
        read = texts_cell if columns.sentences else _text_cell
        article = " ".join(read(path, line, row, source))
        summaries = [t for name in targets for t in texts_cell(path, line, row, name)]
        yield checked(path, line, article, *(summaries or [""]))
    if left_out:
        remark(path, f": {left_out} of {seen} rows have no summary, and are left out")


def _is_there(cell: Any) -> bool:
    """Whether there is more in a cell than blanks."""
    return bool(cell.strip() if isinstance(cell, str) else cell)


def _text_cell(path: Path, line: int, row: dict[str, Any], column: str) -> list[str]:
    return [text_cell(path, line, row, column)]


def texts_cell(path: Path, line: int, row: dict[str, Any], column: str) -> list[str]:
    """A cell that is text, or in JSON lines a list of texts.

    Raises:
        UserError: it is something else.

    """
    value = row[column]
    if not isinstance(value, list):
        return [text_cell(path, line, row, column)]
    return [text_cell(path, line, {column: text}, column) for text in value]


def _aligned(source: Path, target: Path) -> Iterator[Pair]:
    articles, summaries = (sum(1 for _ in text_lines(p)) for p in (source, target))
    if articles != summaries:
        raise UserError(
            f"{source} has {articles} lines and {target} has {summaries}; "
            "line n of one belongs to line n of the other: mend or fetch them again"
        )
    sides = zip(text_lines(source), text_lines(target), strict=True)
    for line, (article, summary) in enumerate(sides, 1):
        empty = target if article.strip() and not summary.strip() else source
        yield checked(empty, line, article, summary)


# --- XSum's own forms ----------------------------------------------------------------

#: What separates the parts of an article, with the name of the part that follows.
_PARTS = re.compile(r"\[(?:SN|XSUM)\]([A-Z-]+)\[(?:SN|XSUM)\]")
#: Lines of the web page, not of the article; GEM's reader leaves them out too.
_PAGE = frozenset(
    {
        *("Share this with", "Email", "Facebook", "Messenger", "Twitter", "Pinterest"),
        *("WhatsApp", "Linkedin", "LinkedIn", "Copy this link"),
        "These are external links and will open in a new window",
    }
)


def _xsum_folder(folder: Path) -> list[Path]:
    """Where XSum's articles are, beside the list of them.

    Raises:
        UserError: nowhere.

    """
    for name in _XSUM_FOLDERS:
        if (folder / name).is_dir():
            return [folder / name]
    raise UserError(
        f"{folder} has {_XSUM} and none of {', '.join(_XSUM_FOLDERS)}; unpack XSum's "
        "articles there, or make tables of them"
    )


def _xsum(listed: Path, folder: Path, split: str) -> Iterator[_Found]:
    """The articles that XSum's list has for a split.

    Raises:
        UserError: the list is not one.

    """
    splits = read_json(listed, dict[str, list[str]], "get it from XSum's repository")
    names = next((splits[s] for s in STEMS.get(split, ()) if s in splits), None)
    if names is None:
        raise UserError(f"{listed} has no {split} split; get it from XSum's repository")
    for name in names:
        yield _xsum_article(folder, name)


def _xsum_article(folder: Path, name: str) -> _Found:
    """An article and its first sentence; empty where there is no file.

    Raises:
        UserError: its name leads out of the folder.

    """
    if PurePath(name).name != name:
        raise UserError(f"{folder}: {shown(name)} is no article's name; mend the list")
    sides = [folder / s / f"{name}.{s}" for s in ("document", "summary")]
    if sides[0].is_file() and sides[1].is_file():
        article, summary = (read_text(side, blank=True) for side in sides)
        return sides[0], 1, _joined(article, " "), _joined(summary, "\n")
    for path in (folder / f"{name}.summary", folder / f"{name}.data"):
        if path.is_file():
            _, *parts = _PARTS.split(read_text(path, blank=True))
            found = dict(zip(parts[::2], parts[1::2], strict=True))
            summary = found.get("FIRST-SENTENCE") or found.get("INTRODUCTION", "")
            article = _of_page(found.get("RESTBODY", ""), " ")
            return path, 1, article, _of_page(summary, "\n")
    return folder / name, 1, "", ""


def _of_page(text: str, separator: str) -> str:
    lines = _joined(text, "\n").split("\n")
    return separator.join(line for line in lines if line not in _PAGE)


# --- CNN/DM's own forms --------------------------------------------------------------


def _listed(urls: Path, folder: Path) -> list[Path]:
    """Stories named by the sha1 of their addresses, as the url lists give them."""
    stories = {path.name: path for path in folder.rglob("*.story")}
    found = []
    for line, url in enumerate(read_text(urls).split("\n"), 1):
        if url.strip():
            name = hashlib.sha1(url.strip().encode()).hexdigest() + ".story"  # noqa: S324
            if name not in stories:
                problem = f"no story of {url.strip()}"
                raise error_at(urls, line, problem, f"put {name} below {folder}")
            found.append(stories[name])
    return found


def _stories(paths: list[Path]) -> Iterator[_Found]:
    readers: dict[str, Callable[[Path], tuple[str, str]]] = {
        ".story": _story,
        ".json": _json_story,
    }
    known = [path for path in paths if path.suffix in readers]
    if not known:
        where = paths[0].parent if paths else "the folder"
        raise UserError(f"{where} holds no .story or .json files; see the README")
    for path in known:
        yield path, 1, *readers[path.suffix](path)


def _story(path: Path) -> tuple[str, str]:
    """Paragraphs, then highlights, each announced by a line of its own."""
    article, *highlights = read_text(path, blank=True).split(_HIGHLIGHT)
    return _joined(article, " "), _joined("\n".join(highlights), "\n")


def _json_story(path: Path) -> tuple[str, str]:
    """``article`` and ``abstract``, each a list of sentences."""
    try:
        content = json.loads(read_text(path))
        sides = [content["article"], content["abstract"]]
        texts = [" ".join(sides[0]), "\n".join(sides[1])]  # TypeError: no strings
        if not all(isinstance(side, list) for side in sides):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f'{path} is not {{"article": [...], "abstract": [...]}}; mend or remove it'
        ) from None
    for half in filter(None, map(unpaired, texts)):
        raise error_at(path, 1, half, "remove it")
    return texts[0], texts[1]


def _joined(text: str, separator: str) -> str:
    return separator.join(line.strip() for line in text.split("\n") if line.strip())


#: Messages of tf.train.Example, as much as text needs: fields with number, label
#: (1 once, 3 repeated), type (9 string, 11 message, 12 bytes) and its message.
_MESSAGES: dict[str, list[tuple[str, int, int, int, str | None]]] = {
    "BytesList": [("value", 1, 3, 12, None)],
    "Feature": [("bytes_list", 1, 1, 11, ".steady.BytesList")],
    "Entry": [("key", 1, 1, 9, None), ("value", 2, 1, 11, ".steady.Feature")],
    "Features": [("feature", 1, 3, 11, ".steady.Entry")],
    "Example": [("features", 1, 1, 11, ".steady.Features")],
}


def _example_class() -> Any:
    """tf.train.Example without tensorflow; its map is a list of entries on the wire."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="steady.proto", package="steady")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, label, kind, of in fields:
            message.field.add(
                name=field, number=number, label=label, type=kind, type_name=of
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("steady.Example")
    return message_factory.GetMessageClass(found)


def _examples(path: Path) -> Iterator[_Found]:
    """Length-prefixed tf.train.Examples with ``article`` and ``abstract``."""
    from google.protobuf.message import DecodeError  # of this form of file alone

    example_class = _example_class()
    for number, data in enumerate(_records(path), 1):
        try:
            if data is None:
                raise DecodeError("it is cut off")
            yield path, number, *_sides(example_class.FromString(data))
        except (DecodeError, KeyError, IndexError, UnicodeDecodeError) as error:
            mend = "make or fetch the file again"
            raise error_at(path, number, f"not an article ({error})", mend) from None


def _records(path: Path) -> Iterator[bytes | None]:
    """Each record as it is wanted; None for one that is longer than the file."""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while prefix := file.read(8):
            (size,) = struct.unpack("<q", prefix.ljust(8, b"\0"))
            left -= 8 + size
            yield file.read(size) if size >= 0 and left >= 0 else None


def _sides(example: Any) -> tuple[str, str]:
    found = {entry.key: entry.value.bytes_list for entry in example.features.feature}
    article, abstract = (
        found[name].value[0].decode() for name in ("article", "abstract")
    )
    sentences = abstract.replace("</s>", "\n").replace("<s>", " ")
    return article, _joined(sentences, "\n")
