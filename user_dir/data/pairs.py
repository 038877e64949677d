"""Articles with summaries, in the forms they are published in.

Every error names the file, the line (or article), the offending value and the mend.
"""

import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .readers import (
    TABLES,
    entries,
    error_at,
    is_table,
    read_text,
    text_lines,
    the_only,
    unpaired,
)
from .tables import read_named, text_cell

#: Other names that files of a split go by.
STEMS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}
#: Suffixes of line-aligned files: articles, summaries.
ALIGNED = (
    (".source", ".target"),
    (".src", ".tgt"),
    (".article.txt", ".title.txt"),
    (".article.filter.txt", ".title.filter.txt"),
)
_HIGHLIGHT = "@highlight"


@dataclass(frozen=True)
class Pair:
    """An article and its summary, sentences of the summary on lines of their own.

    Args:
        source: the article, not empty.
        target: the summary, not empty.
        line: line of the file it ends on, or number of the article, from 1.

    """

    source: str
    target: str
    line: int


def checked(path: Path, line: int, source: str, target: str) -> Pair:
    """A pair whose texts are there.

    Raises:
        UserError: the article or the summary is empty.

    """
    for what, text in (("article", source), ("summary", target)):
        if not text.strip():
            raise error_at(path, line, f"an empty {what}", "remove the row or fill it")
    return Pair(source.strip(), target.strip(), line)


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
    for stem in stems:
        for files in _candidates(folder, stem):
            if files and all(path.exists() for path in files):
                return files
    tables = [p for p in sorted(folder.glob("*")) if is_table(p)]
    if len(tables) == 1 and split in STEMS and not named_after_split(tables[0]):
        return tables
    raise UserError(
        f"{folder} has no {split} set: neither {stems[0]}.csv, .tsv, .jsonl nor "
        f"{stems[0]}.source with {stems[0]}.target, nor a folder or .bin of CNN/DM's "
        "stories"
    )


def named_after_split(path: Path) -> bool:
    """Whether a table is that of one split, not of all of them."""
    return path.stem.lower() in {stem for stems in STEMS.values() for stem in stems}


def _named(folder: Path, stem: str, suffixes: Sequence[str]) -> list[Path]:
    return entries(folder, [f"{stem}{suffix}" for suffix in suffixes])


def _candidates(folder: Path, stem: str) -> Iterator[list[Path]]:
    """CNN/DM's own forms, as its makers leave them side by side."""
    for base in (folder, folder / "finished_files"):
        yield [base / f"{stem}.bin"]
        yield sorted((base / "chunked").glob(f"{stem}_*.bin"))
        yield [base / stem]
    yield [folder / f"all_{stem}.txt", folder]


def read_pairs(files: list[Path], source: str, target: str) -> Iterator[Pair]:
    """Pairs of the files that :func:`find_pairs` found.

    Args:
        files: of one split.
        source: column of the article, in tables.
        target: column of the summary.

    Raises:
        UserError: a file, row or article is wrong.

    """
    first = files[0]
    if is_table(first):
        return _table(first, source, target)
    if first.suffix == ".bin":
        return itertools.chain.from_iterable(map(_examples, files))
    if first.is_dir():
        return _stories(sorted(first.iterdir()))
    if len(files) == 2 and files[1].is_dir():
        return _stories(_listed(*files))
    return _aligned(*files)


def _table(path: Path, source: str, target: str) -> Iterator[Pair]:
    mend = "name yours with --summarization-source-column and -target-column"
    for line, row in read_named(path, (source, target), mend):
        article, summary = (text_cell(path, line, row, c) for c in (source, target))
        yield checked(path, line, article, summary)


def _aligned(source: Path, target: Path) -> Iterator[Pair]:
    articles, summaries = (sum(1 for _ in text_lines(p)) for p in (source, target))
    if articles != summaries:
        raise UserError(
            f"{source} has {articles} lines and {target} has {summaries}; "
            "line n of one belongs to line n of the other: mend or fetch them again"
        )
    sides = zip(text_lines(source), text_lines(target), strict=True)
    for line, (article, summary) in enumerate(sides, 1):
        empty = target if article.strip() else source
        yield checked(empty, line, article, summary)


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


def _stories(paths: list[Path]) -> Iterator[Pair]:
    readers: dict[str, Callable[[Path], tuple[str, str]]] = {
        ".story": _story,
        ".json": _json_story,
    }
    known = [path for path in paths if path.suffix in readers]
    if not known:
        where = paths[0].parent if paths else "the folder"
        raise UserError(f"{where} holds no .story or .json files; see the README")
    for number, path in enumerate(known, 1):
        article, summary = readers[path.suffix](path)
        found = checked(path, 1, article, summary)
        yield Pair(found.source, found.target, number)


def _story(path: Path) -> tuple[str, str]:
    """Paragraphs, then highlights, each announced by a line of its own."""
    article, *highlights = read_text(path).split(_HIGHLIGHT)
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


def _examples(path: Path) -> Iterator[Pair]:
    """Length-prefixed tf.train.Examples with ``article`` and ``abstract``."""
    from google.protobuf.message import DecodeError  # of this form of file alone

    example_class, data, position, number = _example_class(), path.read_bytes(), 0, 0
    while position < len(data):
        number += 1
        start = position + 8
        (size,) = struct.unpack("<q", data[position:start].ljust(8, b"\0"))
        position = start + size
        try:
            if size < 0 or position > len(data):
                raise DecodeError("it is cut off")
            article, abstract = _sides(example_class.FromString(data[start:position]))
        except (DecodeError, KeyError, IndexError, UnicodeDecodeError) as error:
            mend = "make or fetch the file again"
            raise error_at(path, number, f"not an article ({error})", mend) from None
        yield checked(path, number, article, abstract)


def _sides(example: Any) -> tuple[str, str]:
    found = {entry.key: entry.value.bytes_list for entry in example.features.feature}
    article, abstract = (
        found[name].value[0].decode() for name in ("article", "abstract")
    )
    sentences = abstract.replace("</s>", "\n").replace("<s>", " ")
    return article, _joined(sentences, "\n")
