"""A sign of life from what takes long, and waiting for others who do the same."""

import fcntl
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
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


@contextmanager
def one_at_a_time(lock: Path, what: str) -> Iterator[bool]:
    """Wait until no other process is in here with the same lock.

    The system takes the lock back when its holder ends, however that may be. Where
    there are no locks, as in a folder that cannot be written, nobody waits.

    Args:
        lock: a file, made and removed here, in a folder of this user alone.
        what: is done, for the log.

    Returns:
        Whether there is no other; False where there are no locks.

    """
    held = _held(lock, what)
    try:
        yield held is not None
    finally:
        if held is not None:
            with suppress(OSError):
                lock.unlink()
            os.close(held)


def _held(lock: Path, what: str) -> int | None:
    """Take a lock; None where there are none."""
    try:
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        _take(held, what)
        if os.path.samestat(os.fstat(held), lock.lstat()):
            return held
    except FileNotFoundError:
        pass
    except OSError:  # of a file system without locks
        os.close(held)
        return None
    os.close(held)  # its last holder has removed it, and there may be a new one
    return _held(lock, what)


def _take(held: int, what: str) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("%s: another process does it, and this one waits", what)
        fcntl.flock(held, fcntl.LOCK_EX)
