"""Tasks registered with fairseq: raw files in, no BPE or binarising steps."""

from . import cola, text, uci_sentiment

__all__ = ["cola", "text", "uci_sentiment"]
