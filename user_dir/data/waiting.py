"""A sign of life from what takes long: how far reading or tokenising is."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
#: Seconds between two signs.
_EVERY = 3.0


class Pace:
    """Says how many are done, every few seconds.

    Args:
        what: is done, as ``data/train.csv: tokenised``.
        total: how many there are; None where that is not known.

    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total = what, total
        self._last = time.monotonic()

    def reach(self, done: int) -> None:
        """So many are done."""
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            of = "" if self.total is None else f" of {self.total:,}"
            logger.info("%s: %s%s so far", self.what, f"{done:,}", of)


def counted(items: Iterable[Item], what: str) -> Iterator[Item]:
    """The same items, with a sign of life every few seconds."""
    pace = Pace(what)
    for done, item in enumerate(items):
        pace.reach(done)
        yield item
