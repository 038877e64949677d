"""Models registered with fairseq."""

from . import steady

__all__ = ["steady"]
