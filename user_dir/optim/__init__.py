"""Optimizers in pure torch, for any training loop: nothing here imports fairseq."""

from .bert_adam import BertAdam
from .tags import Tag, tag_of, tag_parameters

__all__ = ["BertAdam", "Tag", "tag_of", "tag_parameters"]
