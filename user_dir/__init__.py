"""Regularised fine-tuning as a fairseq user-dir plugin.

Under fairseq, importing this package registers its criterions, models and tasks and
makes fairseq's checkpoints load on torch >= 2.6 (see :mod:`.plugin`); without fairseq
it imports nothing heavy, so that :mod:`.files` and the pure parts cost little.
"""

import sys

from .errors import install_excepthook

__version__ = "0.1.0"

install_excepthook()

if "fairseq" in sys.modules:
    from . import plugin  # noqa: F401
