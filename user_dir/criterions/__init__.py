"""Criterions registered with fairseq."""

from . import plain, sift

__all__ = ["plain", "sift"]
