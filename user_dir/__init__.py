"""Regularised fine-tuning as a fairseq user-dir plugin.

Importing this package registers its criterions, models and tasks with fairseq and
makes fairseq's checkpoints load on torch >= 2.6 (see :mod:`.ground`).
"""

from . import criterions, models, optimizers, tasks
from .errors import install_excepthook
from .ground import prepare_fairseq

__version__ = "0.1.0"
__all__ = ["__version__", "criterions", "models", "optimizers", "tasks"]

install_excepthook()
prepare_fairseq()
