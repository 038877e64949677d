"""Optimizers registered with fairseq."""

from . import bert_adam

__all__ = ["bert_adam"]
