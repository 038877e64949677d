"""Regularised fine-tuning as a fairseq user-dir plugin.

Under fairseq, importing this package registers its criterions, models and tasks and
makes fairseq's checkpoints load on torch >= 2.6 (see :mod:`.plugin`); without fairseq
it imports nothing heavy, so that :mod:`.files` and the pure parts cost little.
"""

import logging
import sys

from .errors import install_excepthook

__version__ = "0.1.0"

install_excepthook()
# As it is imported fairseq asks for tensorboardX, which nothing here needs.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

if "fairseq" in sys.modules:
    from . import plugin  # noqa: F401
