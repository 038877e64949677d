"""Errors that a user can mend, shown in one line instead of a traceback."""

import sys
from types import TracebackType


class UserError(ValueError):
    """Bad input or a bad flag: says what is wrong, where, and what mends it."""


def _show(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def install_excepthook() -> None:
    """Print an uncaught :class:`UserError` as one line; the exit status stays 1."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show
