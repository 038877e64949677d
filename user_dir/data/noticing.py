"""Texts that are hardly meant so: markup, control characters, turns without words."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from .readers import Where, shown

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_TAGS = "a|b|blockquote|br|code|div|em|h[1-6]|i|img|li|ol|p|pre|script|span|strong|"
_TAGS += "style|table|td|th|tr|u|ul"
_HTML = re.compile(
    rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|&(?:#\d+|#x[\da-f]+|amp|apos|gt|lt|nbsp|quot);",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0e-\x1f\x7f]")
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
            logger.warning(
                "%s:%d: %s, %s, the first of %d; %s",
                *(where, line, kind.name, shown(found), counts[kind.name], kind.mend),
            )
