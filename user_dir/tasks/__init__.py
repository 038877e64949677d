"""Tasks registered with fairseq: raw files in, no BPE or binarising steps."""

from . import cola, glue, summarization, text, uci_sentiment

__all__ = ["cola", "glue", "summarization", "text", "uci_sentiment"]
