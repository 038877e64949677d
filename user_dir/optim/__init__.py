"""Optimizers in pure torch, for any training loop: nothing here imports fairseq."""

from .bert_adam import BertAdam
from .pats import PRESETS, PatsAdamax
from .sage import Sage
from .tags import Tag, tag_of, tag_parameters

__all__ = [
    "PRESETS",
    "BertAdam",
    "PatsAdamax",
    "Sage",
    "Tag",
    "tag_of",
    "tag_parameters",
]
