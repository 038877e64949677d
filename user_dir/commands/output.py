"""Lines of text for the next program, which may stop reading."""

import os
import sys
from collections.abc import Iterable

#: What a shell says of a program that a closed pipe ended: 128 + SIGPIPE.
CLOSED = 141


def write_lines(lines: Iterable[str]) -> None:
    """Print each line as it comes, in UTF-8.

    Raises:
        SystemExit: nobody reads on, as with ``| head``; the status is :data:`CLOSED`.

    """
    output = sys.stdout.buffer
    try:
        for line in lines:
            output.write(f"{line}\n".encode())
            output.flush()
    except BrokenPipeError:
        # Python flushes once more as it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(CLOSED) from None
