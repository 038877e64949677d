"""Results on standard output, which may stop being read; the rest on standard error."""

import os
import sys
from collections.abc import Iterable, Iterator

from ..errors import UserError

#: What a shell says of a program that a closed pipe ended: 128 + SIGPIPE.
CLOSED = 141


def write_lines(lines: Iterable[str]) -> None:
    """Print each line as it comes, in UTF-8.

    Raises:
        SystemExit: nobody reads on, as with ``| head``; the status is :data:`CLOSED`.
        UserError: it goes to a file that takes no more.

    """
    for line in lines:
        try:
            sys.stdout.buffer.write(f"{line}\n".encode())
            sys.stdout.buffer.flush()
        except OSError as error:
            # Python flushes once more as it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                raise SystemExit(CLOSED) from None
            raise UserError(
                f"standard output cannot be written to ({error.strerror}): free some "
                "space, and start again"
            ) from None


def with_progress(lines: Iterable[str], what: str, total: int) -> Iterator[str]:
    """The same lines, with a bar where somebody is watching and knows the total."""
    if total < 2 or not sys.stderr.isatty():
        yield from lines
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(lines, what, total=total, console=console, transient=True)


def say_what_is_read(what: str) -> None:
    """Tell a person at a terminal what is waited for."""
    if sys.stdin.isatty():
        print(f"reading {what} from here, one a line; Ctrl-D ends", file=sys.stderr)
