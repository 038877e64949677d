"""Registers everything with fairseq, and changes what fairseq needs changed.

Imported by the package itself where fairseq is there already, as under fairseq-train
with ``--user-dir``, and by whatever loads a fairseq model or task.
"""

from . import criterions, models, optimizers, tasks
from .ground import prepare_fairseq

__all__ = ["criterions", "models", "optimizers", "tasks"]

prepare_fairseq()
