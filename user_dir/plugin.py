"""Registers everything with fairseq, and changes what fairseq needs changed.

Imported by the package itself where fairseq is there already, as under fairseq-train
with ``--user-dir``, and by whatever loads a fairseq model or task.
"""

import logging

# As it is imported fairseq asks for tensorboardX, which nothing here needs.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

from . import criterions, models, optimizers, tasks  # noqa: E402
from .ground import prepare_fairseq  # noqa: E402

__all__ = ["criterions", "models", "optimizers", "tasks"]

prepare_fairseq()
