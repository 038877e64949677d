"""Regularised fine-tuning as a fairseq user-dir plugin.

Importing this package registers its criterions, models and tasks with fairseq and
makes fairseq's checkpoints load on torch >= 2.6 (see :mod:`.ground`).
"""

import logging

# As it is imported fairseq asks for tensorboardX, which nothing here needs.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

from . import criterions, models, optimizers, tasks  # noqa: E402
from .errors import install_excepthook  # noqa: E402
from .ground import prepare_fairseq  # noqa: E402

__version__ = "0.1.0"
__all__ = ["__version__", "criterions", "models", "optimizers", "tasks"]

install_excepthook()
prepare_fairseq()
