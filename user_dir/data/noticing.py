"""What is remarked of data: rows left out, stray quotes, texts hardly meant so."""

import functools
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from .readers import Where, shown

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
#: A file, and what is said after its name.
Remark = tuple[Where, str]
_heard: ContextVar[list[Remark] | None] = ContextVar("heard", default=None)


def remark(where: Where, said: str) -> None:
    """Warn of something in a file, or tell whoever listens.

    Args:
        where: the file.
        said: what follows its name, from a blank or a colon on.

    """
    heard = _heard.get()
    if heard is None:
        say(where, said)
    else:
        heard.append((where, said))


@functools.cache
def say(where: Where, said: str) -> None:
    """Warn once in a process, however often a file is read."""
    logger.warning("%s%s", where, said)


@contextmanager
def listening() -> Iterator[list[Remark]]:
    """Collect what is remarked meanwhile, to be kept; after an error it is said."""
    heard: list[Remark] = []
    before = _heard.set(heard)
    try:
        yield heard
    except BaseException:
        for where, said in heard:
            say(where, said)
        raise
    finally:
        _heard.reset(before)


# --- texts ----------------------------------------------------------------------------

_TAGS = "a|b|blockquote|br|code|div|em|h[1-6]|i|img|li|ol|p|pre|script|span|strong|"
_TAGS += "style|table|td|th|tr|u|ul"
_HTML = re.compile(
    rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|&(?:#\d+|#x[\da-f]+|amp|apos|gt|lt|nbsp|quot);",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0e-\x1f\x7f-\x9f]")
_TURN = re.compile(r"^[ \t]*(#?\w[\w .'-]{0,40}#?):[ \t]*(.*)$", re.MULTILINE)


def _empty_turn(text: str) -> str | None:
    """The first turn of a dialogue that says nothing.

    A dialogue is text most of whose lines, at least two, begin with a name and a colon.
    """
    turns = list(_TURN.finditer(text)) if "\n" in text and ":" in text else []
    if 2 * len(turns) <= text.count("\n") + 1:
        return None
    return next((turn[0] for turn in turns if not turn[2].strip()), None)


def _first(pattern: re.Pattern[str]) -> Callable[[str], str | None]:
    def search(text: str) -> str | None:
        found = pattern.search(text)
        return found[0] if found else None

    return search


@dataclass(frozen=True)
class _Kind:
    """Something that is remarked: what finds it, what it is, and the mend."""

    find: Callable[[str], str | None]
    name: str
    mend: str


_KINDS = (
    _Kind(_first(_HTML), "HTML", "it is read as text: strip tags and entities first"),
    _Kind(_first(_CONTROL), "a control character", "it is read as text: remove it"),
    _Kind(_empty_turn, "a turn without words", "fill it, or remove the turn"),
)


def noticing(
    items: Iterable[Item],
    place: Callable[[Item], tuple[Where, int]],
    texts: Callable[[Item], Iterable[str]],
) -> Iterator[Item]:
    """The same items; at their end a warning for each kind of doubtful text.

    A warning names the first place, what is there, how many texts have it, and the
    mend.

    Args:
        items: of any number; none is kept.
        place: file and line of an item.
        texts: of an item.

    """
    first: dict[str, tuple[Where, int, str]] = {}
    counts = dict.fromkeys((kind.name for kind in _KINDS), 0)
    for item in items:
        for text in texts(item):
            for kind in _KINDS:
                if (found := kind.find(text)) is not None:
                    counts[kind.name] += 1
                    first.setdefault(kind.name, (*place(item), found))
        yield item
    for kind in _KINDS:
        if kind.name in first:
            where, line, found = first[kind.name]
            count = counts[kind.name]
            said = f"{kind.name}, {shown(found)}, the first of {count}; {kind.mend}"
            remark(where, f":{line}: {said}")
