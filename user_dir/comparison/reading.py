"""Does fairseq understand these commands?

``python -m fairseq_steady.comparison.reading < JSON``
"""

import contextlib
import io
import json
import sys


def refusal(flags: list[str]) -> str | None:
    """What fairseq-train's parser says against some flags, or None."""
    from fairseq import options

    from .. import tasks  # noqa: F401  registers everything

    said = io.StringIO()
    sys.argv = ["fairseq-train", *flags]  # where fairseq looks for --user-dir
    try:
        with contextlib.redirect_stderr(said):
            options.parse_args_and_arch(options.get_training_parser())
    except SystemExit:
        lines = said.getvalue().strip().splitlines() or ["refused"]
        return lines[-1].partition("error: ")[2] or lines[-1]
    return None


def main() -> int:
    """Read flags by name from standard input; stop at the first that is refused."""
    for name, flags in json.load(sys.stdin):
        if reason := refusal(flags):
            print(
                f"{name.strip()}: fairseq-train refuses it: {reason}", file=sys.stderr
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
