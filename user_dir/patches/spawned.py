"""What a worker that fairseq spawns imports before it does anything else."""

import logging
import multiprocessing
import sys
from collections.abc import Callable
from typing import Any

if (
    multiprocessing.current_process().name != "MainProcess"
    and "fairseq_cli.train" not in sys.modules
):
    # It sets up logging, unless another part of fairseq has logged already. In the
    # process that spawns, logging is the program's.
    logging.root.handlers.clear()
    import fairseq_cli.train  # noqa: F401

from .. import tasks as plugin  # noqa: F401  registers everything


def run(main: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call fairseq's program; to read this function's name is to import the plugin."""
    return main(*args, **kwargs)
