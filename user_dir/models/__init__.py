"""Models registered with fairseq."""

from . import families, steady

__all__ = ["families", "steady"]
