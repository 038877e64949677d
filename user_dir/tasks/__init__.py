"""Tasks registered with fairseq: raw files in, no BPE or binarising steps."""

from . import cola, glue, glue_multitask, summarization, text, uci_sentiment

__all__ = [
    "cola",
    "glue",
    "glue_multitask",
    "summarization",
    "text",
    "uci_sentiment",
]
