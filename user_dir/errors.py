"""Errors that a user can mend, shown in one line instead of a traceback."""

import re
import sys
from types import TracebackType

#: What fairseq and numpy say of a flag that cannot be meant, and the mend.
_KNOWN = (
    (
        r"^The dataset is empty",
        "no sentence fits into a batch: raise --max-tokens, or use --batch-size",
    ),
    (r"^Seed must be between", "--seed is not in 0 to 4294967295"),
)


class UserError(ValueError):
    """Bad input or a bad flag: says what is wrong, where, and what mends it."""


def _show(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    known = [said for pattern, said in _KNOWN if re.search(pattern, str(error))]
    if isinstance(error, UserError) or known:
        print(f"error: {known[0] if known else error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def install_excepthook() -> None:
    """Print an uncaught :class:`UserError` as one line; the exit status stays 1."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show
