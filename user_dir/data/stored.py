"""Tokenised rows on disk: written in pieces, mapped into memory, believed if whole."""

import functools
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import foreign, read_json, sweep_folder, whole_folder, write_json
from .noticing import Remark, listening, say
from .ragged import Encoded, Ragged, concatenate
from .waiting import one_at_a_time

logger = logging.getLogger(__name__)

_ABOUT, _TARGETS = "about.json", "targets.npy"
#: Bytes checked at a time; a multiple of an id's.
_PIECE = 2**22
Number = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Entry:
    """A folder of the cache.

    Args:
        source: the file or folder with the data, for messages.
        folder: holds ids, where they end, targets, and what is said about them.
        key: digest of the data's content and of all that decides how it is read.
        symbols: of the dictionary.
        sides: texts of a row that are kept apart.
        classes: of the targets; None for scores, 0 where there are no targets.
        several: whether any number of the classes hold, so that targets are of each.

    """

    source: Path
    folder: Path
    key: str
    symbols: int
    sides: int
    classes: int | None
    several: bool = False


class Chunk(NamedTuple):
    """Some rows, as :class:`.ragged.Encoded` has them all.

    Args:
        sides: of each side, the ids of each row.
        targets: shape (n,), (n, L), or (n, 0).
        truncated: of each side, how many were cut.

    """

    sides: Sequence[Sequence[np.ndarray]]
    targets: np.ndarray
    truncated: Sequence[int]


@with_config(ConfigDict(extra="forbid"))
class _About(TypedDict):
    """What an entry says about itself."""

    key: str
    truncated: list[Number]
    remarks: list[tuple[str, str]]
    checksums: dict[str, int]


def kept(entry: Entry, chunks: Callable[[], Iterable[Chunk]]) -> Encoded:
    """What an entry holds; made first where it is missing, damaged or of other data.

    What was remarked of the data as they were read is said each time.

    Args:
        entry: where it is or will be.
        chunks: reads, checks and tokenises the data.

    Raises:
        UserError: the data are wrong, and nothing is kept.

    """
    found = _there_or_made(entry, chunks)
    for where, said in found.remarks:
        say(Path(where) if where else entry.source, said)
    return found


def _there_or_made(entry: Entry, chunks: Callable[[], Iterable[Chunk]]) -> Encoded:
    """The same, silently.

    Of several processes that want the same one makes it, and all map it. In a folder
    where others can write it is not made, for they could change it meanwhile.
    """
    found, folder = _load(entry), entry.folder
    if found is not None:
        return found
    if why := _unfit(folder.parent):
        _warn(_NO_CACHE, folder.parent, why)
        return _made_for_now(entry, chunks)
    lock = folder.with_name(f".{folder.name}.lock")
    with one_at_a_time(lock, f"{entry.source}: tokenising") as alone:
        found = _load(entry)  # another may have made it meanwhile
        if found is None and alone:
            sweep_folder(folder)
        return _made(entry, chunks) if found is None else found


_NO_CACHE = "cannot cache in %s (%s); name a folder with --steady-cache-dir"


def _unfit(place: Path) -> str | None:
    """Why nothing is kept in a folder, which is made where it is missing."""
    try:
        place.mkdir(0o700, parents=True, exist_ok=True)
        who = foreign(place)
    except OSError as error:
        return error.strerror or str(error)
    return who and f"{who} can write there"


@functools.cache
def _warn(message: str, *about: object) -> None:
    """Once, however often it is met."""
    logger.warning(message, *about)


# --- reading --------------------------------------------------------------------------


def believed(path: Path) -> bool:
    """Whether a cache entry is there and only this user can have written it."""
    if not path.exists():
        return False
    inside = sorted(path.iterdir()) if path.is_dir() else []
    for place in (path.parent, path, *inside):
        if who := foreign(place):
            _warn("%s can be written by %s and is not believed; made again", place, who)
            return False
    return True


#: What numpy says of a file that is damaged, or made to do damage.
_DAMAGES = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, SyntaxError),
    *(RuntimeError,),
)


def _load(entry: Entry) -> Encoded | None:
    """What an entry holds, or None where it is missing, damaged or of other data."""
    try:
        if not believed(entry.folder):
            return None
        about = read_json(entry.folder / _ABOUT, _About, "make it again")
        if about["key"] != entry.key:
            raise ValueError("of other data")
        for path in _files(entry.folder, entry.sides):
            if about["checksums"][path.name] != _checksum(path, entry.symbols):
                raise ValueError("changed")
        found = _mapped(entry.folder, entry.sides, about)
        _check(found, entry)
    except _DAMAGES:
        return None
    return found


def _files(folder: Path, sides: int) -> list[Path]:
    """All that an entry holds but what it says about itself."""
    names = [name for side in range(sides) for name in _names(side)]
    return [folder / name for name in (*names, _TARGETS)]


def _names(side: int) -> tuple[str, str]:
    """Of the file of a side's ids, and of that of where they end."""
    return f"ids-{side}.bin", f"ends-{side}.npy"


def _checksum(path: Path, symbols: int) -> int:
    """Of a file, a piece at a time; ids must be of the dictionary.

    Raises:
        ValueError: an id is out of range, or the file is no row of ids.

    """
    found = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found = zlib.crc32(piece, found)
            if path.suffix == ".bin":
                check_ids(np.frombuffer(piece, np.int32), symbols)
    return found


def check_ids(ids: np.ndarray, symbols: int) -> None:
    """Refuse ids that a dictionary of so many symbols has not.

    Raises:
        ValueError: there is one.

    """
    if not (ids.min() >= 0 and ids.max() < symbols):
        raise ValueError("an id outside the dictionary")


def _mapped(folder: Path, sides: int, about: _About) -> Encoded:
    """Arrays whose ids stay on disk; they outlive the names of their files."""
    found = []
    for side in range(sides):
        ids, ends = (folder / name for name in _names(side))
        found.append(Ragged(np.memmap(ids, np.int32, mode="r"), _array(ends)))
    return Encoded(
        tuple(found),
        _array(folder / _TARGETS),
        tuple(about["truncated"]),
        remarks=tuple(about["remarks"]),
    )


def _array(path: Path) -> np.ndarray:
    """A copy; mapped first, so that no header can ask for more than the file has."""
    return np.array(np.lib.format.open_memmap(path, mode="r"))


def _check(found: Encoded, entry: Entry) -> None:
    """Refuse what no data of this kind are tokenised to.

    Raises:
        ValueError: a shape, type or range is wrong.

    """
    for side in found.sides:
        _check_ends(side.ends, len(side.ids), len(found))
    if entry.several:
        _check_labels(found.targets, entry.classes)
    else:
        _check_targets(found.targets, entry.classes)
    if len(found.truncated) != entry.sides or max(found.truncated) > len(found):
        raise ValueError("truncated")


def _check_ends(ends: np.ndarray, ids: int, rows: int) -> None:
    if ends.shape != (rows,) or ends.dtype.kind != "i":
        raise ValueError("shape or type")
    if rows and (np.diff(ends, prepend=0).min() < 1 or ends[-1] != ids):
        raise ValueError("an empty sequence, or one cut off")


def _check_labels(targets: np.ndarray, classes: int | None) -> None:
    """Whether each of ``classes`` labels holds."""
    if targets.dtype != np.bool_ or targets.shape[1:] != (classes,):
        raise ValueError("labels")


def _check_targets(targets: np.ndarray, classes: int | None) -> None:
    """Classes below ``classes``, finite scores, or none."""
    shape, kind = targets.shape[1:], "f" if classes is None else "i"
    if targets.dtype.kind != kind or shape != ((0,) if classes == 0 else ()):
        raise ValueError("targets")
    if not np.isfinite(targets).all():
        raise ValueError("a score that is not finite")
    if classes and not (targets.min() >= 0 and targets.max() < classes):
        raise ValueError("a class that is not there")


# --- writing --------------------------------------------------------------------------


def _made(entry: Entry, chunks: Callable[[], Iterable[Chunk]]) -> Encoded:
    """What an entry will hold, written where it belongs if that is possible."""
    folder = entry.folder
    try:
        _remove(folder)
        with whole_folder(folder) as scratch:
            about = _written(entry, chunks(), scratch)
        return _mapped(folder, entry.sides, about)
    except (OSError, UserError) as error:
        found = _load(entry)  # without locks another may have been faster
        if found is not None:
            return found
        if isinstance(error, UserError):
            raise
        _warn(_NO_CACHE, folder.parent, error.strerror)
    return _made_for_now(entry, chunks)


def _remove(folder: Path) -> None:
    """Make room: what is there is damaged, or somebody else's.

    Raises:
        OSError: it cannot be removed.

    """
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _made_for_now(entry: Entry, chunks: Callable[[], Iterable[Chunk]]) -> Encoded:
    """The same among temporary files, whose room is free when the process ends."""
    try:
        why = _unfit(Path(tempfile.gettempdir()))
        if why is None:
            with tempfile.TemporaryDirectory(
                prefix="steady-", ignore_cleanup_errors=True
            ) as folder:
                about = _written(entry, chunks(), Path(folder))
                return _mapped(Path(folder), entry.sides, about)
    except OSError as error:
        why = error.strerror
    _warn(_NO_ROOM, entry.source, why)
    return _in_memory(entry, chunks())


_NO_ROOM = (
    "%s: its tokens are kept in memory, there being no place for temporary files (%s); "
    "free some space, or name a folder with --steady-cache-dir"
)


def _in_memory(entry: Entry, chunks: Iterable[Chunk]) -> Encoded:
    """The same without any file."""
    with listening() as heard:
        parts = [
            Encoded(tuple(map(Ragged.of, sides)), targets, tuple(truncated))
            for sides, targets, truncated in chunks
        ]
    if not parts:
        raise _nothing(entry)
    return replace(concatenate(parts), remarks=tuple(_kept_of(heard, entry)))


def _nothing(entry: Entry) -> UserError:
    return UserError(f"{entry.source} holds no rows; get it again")


def _kept_of(heard: Iterable[Remark], entry: Entry) -> list[tuple[str, str]]:
    """Remarks without the name of the data, which may be called otherwise later."""
    return [("" if w == entry.source else str(w), said) for w, said in heard]


def _written(entry: Entry, chunks: Iterable[Chunk], folder: Path) -> _About:
    """Write a chunk at a time; memory holds a length and a target of each row."""
    targets, truncated = [], [0] * entry.sides
    with listening() as heard, ExitStack() as stack:
        sides = [stack.enter_context(_Side(folder, n)) for n in range(entry.sides)]
        for chunk in chunks:
            for side, rows in zip(sides, chunk.sides, strict=True):
                side.add(rows)
            targets.append(chunk.targets)
            truncated = [a + b for a, b in zip(truncated, chunk.truncated, strict=True)]
    if not targets:
        raise _nothing(entry)
    np.save(folder / _TARGETS, np.concatenate(targets))
    files = _files(folder, entry.sides)
    sums = {path.name: _checksum(path, entry.symbols) for path in files}
    about = _About(
        key=entry.key,
        truncated=truncated,
        remarks=_kept_of(heard, entry),
        checksums=sums,
    )
    write_json(folder / _ABOUT, about)
    return about


class _Side:
    """Appends sequences to a file, and writes at the end where each of them ends."""

    def __init__(self, folder: Path, side: int) -> None:
        ids, self.ends = (folder / name for name in _names(side))
        self.file, self.lengths = ids.open("wb"), [np.empty(0, np.int64)]

    def __enter__(self) -> "_Side":
        return self

    def add(self, rows: Sequence[np.ndarray]) -> None:
        self.file.write(np.concatenate(rows).astype(np.int32).tobytes())
        self.lengths.append(np.array([len(ids) for ids in rows]))

    def __exit__(self, *_: object) -> None:
        self.file.close()
        np.save(self.ends, np.cumsum(np.concatenate(self.lengths)))
