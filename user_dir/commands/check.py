"""Is this environment fit to train? One line per thing, with the mend if not.

    fairseq-steady check

Python, torch, fairseq and what of it is compiled, this plugin, and the GPU, if any;
then which fused parts training has here, and why not the others.
"""

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata

from .page import Page, page

SETUP = "run: bash scripts/setup.sh"
COMPILED = ("data.data_utils_fast", "data.token_block_utils_fast", "libbleu")


class ProblemError(Exception):
    """What is missing, and the mend."""


def python() -> str:
    """3.11 to 3.14."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        raise ProblemError(f"Python {sys.version.split()[0]}: install 3.11 to 3.14")
    return sys.version.split()[0]


def torch() -> str:
    """2.6 or later."""
    try:
        import torch
    except Exception as error:  # OSError or ValueError where a library of CUDA's lacks
        raise ProblemError(f"torch does not import ({error}): {SETUP}") from None
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 6):
        raise ProblemError(f"torch {torch.__version__} is older than 2.6: {SETUP}")
    return str(torch.__version__)


def fairseq() -> str:
    """The fixed fork, importable."""
    try:
        importlib.import_module("fairseq.tasks")
        return metadata.version("fairseq-fixed")
    except metadata.PackageNotFoundError:
        raise ProblemError(
            "this is another fairseq: pip uninstall fairseq, then " + SETUP
        ) from None
    except Exception as error:  # the original fails with ValueError on 3.11
        raise ProblemError(f"fairseq does not import ({error}): {SETUP}") from None


def compiled() -> str:
    """Fairseq's Cython and C++ extensions."""
    for name in COMPILED:
        try:
            importlib.import_module(f"fairseq.{name}")
        except ImportError as error:
            raise ProblemError(
                f"fairseq.{name} is not compiled ({error}): install g++ and Python's "
                f"headers, pip uninstall fairseq-fixed, then {SETUP}"
            ) from None
    return ", ".join(COMPILED)


def torchaudio() -> str:
    """Absent, or loadable: a CUDA build beside a CPU torch breaks transformers."""
    try:
        importlib.import_module("torchaudio")
    except ImportError:
        return "not installed, not needed"
    except Exception:  # it raises RuntimeError itself where CUDA's versions differ
        raise ProblemError(
            "torchaudio does not fit this torch: pip uninstall torchaudio"
        ) from None
    return "loads"


def plugin() -> str:
    """This package, installed."""
    try:
        return str(importlib.import_module("fairseq_steady").__version__)
    except ImportError as error:
        raise ProblemError(
            f"fairseq_steady does not import ({error}): {SETUP}"
        ) from None


def gpu() -> str:
    """Never a problem: everything runs on the CPU too."""
    import torch

    if not torch.cuda.is_available():
        return "none, training runs on the CPU"
    return str(torch.cuda.get_device_name())


def fused() -> list[str]:
    """The fused parts of training; attention in bf16 too, as it may be another."""
    import torch

    from .. import fused
    from ..patches import attention

    attention.without_plans()
    setting = fused.Setting(fused.device())
    half = replace(setting, dtype=torch.bfloat16)
    first, *rest = fused.parts(setting)
    return [str(p) for p in (first, *fused.parts(half, [fused.attention]), *rest)]


CHECKS: tuple[Callable[[], str], ...] = (
    python,
    torch,
    fairseq,
    compiled,
    torchaudio,
    plugin,
    gpu,
)


OUT = """\
what comes out, on standard output:
  a line for each thing: ok and its version, or PROBLEM and what mends it;
  then a line for each fused part: in use, or not used and why. A training run
  says the same of itself in train.log.

exit status:
  1 if there is a problem.
"""


def parser() -> Page:
    """The page of check."""
    return page("check", __doc__, "", OUT)


def main(argv: Sequence[str] | None = None) -> int:
    """Print every check; 1 if any failed."""
    parser().parse_args(argv)
    logging.disable(logging.INFO)
    failed = 0
    for check in CHECKS:
        try:
            print(f"ok       {check.__name__}: {check()}")
        except ProblemError as problem:
            failed = 1
            print(f"PROBLEM  {problem}")
            if check in (python, torch):
                break
    if not failed:
        print(*fused(), sep="\n")
    return failed
