"""What every subcommand has: a page of help, and complaints of one line.

A subcommand is a module with ``parser() -> Page`` and ``main(argv=None) -> int``, the
exit status. Importing it is light: what needs torch or fairseq is imported by ``main``.
"""

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from ..errors import visible

_UNKNOWN = re.compile(r"unrecognized arguments: (--[\w-]+).*", re.DOTALL)


class Page(argparse.ArgumentParser):
    """A parser whose complaints are one line, with the flag that may be meant."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line; the exit status is 2."""
        unknown = _UNKNOWN.fullmatch(message)
        flags = self._option_string_actions if unknown else ()
        word = unknown[1] if unknown else ""
        advice = did_you_mean(word, flags, f"see {self.prog} --help")
        self.exit(2, visible(f"error: {message}; {advice}") + "\n")


def page(name: str, doc: str | None, usage: str, out: str) -> Page:
    """A page without arguments yet.

    Args:
        name: of the subcommand.
        doc: of its module: what it does in a line, examples, what else to know.
        usage: what follows the name.
        out: what comes out, and the exit status where it says something.

    """
    found = Page(
        prog=f"fairseq-steady {name}",
        usage=f"%(prog)s {usage}".rstrip(),
        description=(doc or "").strip(),
        epilog=out.strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    found.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    return found


def positive(text: str) -> int:
    """A whole number from 1, for ``type=``."""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1")
    return int(text)


def add_model(found: Page) -> Any:
    """Flags of whatever runs a trained checkpoint; gives what adds to their group."""
    add = found.add_argument_group("the model").add_argument
    add(
        "--model", metavar="DIR",
        help="its model directory; default: where it was in training",
    )  # fmt: skip
    add(
        "--max-tokens", type=positive, default=8192, metavar="N",
        help="of a batch, padding included; default %(default)s",
    )  # fmt: skip
    add("--cpu", action="store_true", help="stay on the CPU where there is a GPU")
    return add


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """The known word that may be meant, or else other advice."""
    near = get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}?" if near else otherwise
