"""Does fairseq understand these commands?

``python -m fairseq_steady.comparison.reading < JSON``
"""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Mapping
from types import SimpleNamespace

from ..errors import UserError

#: By the flag that names it, a subset.
Subsets = Mapping[str, str]


def refusal(flags: list[str], subsets: Subsets | None = None) -> str | None:
    """What fairseq-train's parser says against some flags, or None.

    Args:
        flags: of one run.
        subsets: it has to be evaluated on these, each named by a flag.

    """
    from fairseq import options

    from .. import tasks  # noqa: F401  registers everything

    said = io.StringIO()
    sys.argv = ["fairseq-train", *flags]  # where fairseq looks for --user-dir
    try:
        with contextlib.redirect_stderr(said):
            args = options.parse_args_and_arch(options.get_training_parser())
    except SystemExit:
        lines = said.getvalue().strip().splitlines() or ["refused"]
        reason = lines[-1].partition("error: ")[2] or lines[-1]
        return f"fairseq-train refuses it: {reason}"
    try:
        return _unevaluated(_evaluated(args), subsets or {})
    except UserError as error:
        return str(error)


def _evaluated(args: argparse.Namespace) -> list[str]:
    """The subsets of a run, its further files included.

    Raises:
        UserError: a further file is not there, or the task's own flags do not fit.

    """
    from fairseq.tasks import TASK_REGISTRY

    from ..tasks._also import check_there, further
    from ..tasks.glue import AUTO

    task = TASK_REGISTRY[args.task]
    if args.valid_subset == AUTO == getattr(task, "valid_subsets", None):
        task.complete(args, SimpleNamespace(checkpoint=args, dataset=args))
    also = further(args) if hasattr(args, "steady_also") else {}
    check_there(also, ())
    return list(dict.fromkeys([*args.valid_subset.split(","), *also]))


def _unevaluated(there: list[str], subsets: Subsets) -> str | None:
    """That a subset is none of the run's."""
    for flag, subset in subsets.items():
        if subset not in there:
            said = f"{flag} {subset}: it is evaluated on {', '.join(there)}"
            return f"{said}; name one of them"
    return None


def main() -> int:
    """Read commands by name from standard input; stop at the first that is refused."""
    given = json.load(sys.stdin)
    for name, flags in given["commands"]:
        if reason := refusal(flags, given["subsets"]):
            print(f"{name.strip()}: {reason}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
