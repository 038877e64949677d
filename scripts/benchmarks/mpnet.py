"""MPNet's time and memory beside those of transformers, as ratios in one run.

    python scripts/benchmarks/mpnet.py DATA [--layers 6] [--width 768] [--rounds 5]

As modernbert.py beside it, with MPNet's form: DATA's texts give the lengths, the two
take turns, memory is of a process of each one's own.
"""

from typing import Any

import modernbert
import torch
import transformers
from deberta import as_ours
from fairseq_steady.models.families.mpnet import FAMILY

_WORDS = 2000


def config_of(layers: int, width: int) -> Any:
    """transformers' configuration, of the base model's proportions."""
    return transformers.MPNetConfig(
        vocab_size=_WORDS,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        max_position_embeddings=514,
    )


def theirs(config: Any) -> Any:
    """transformers' model with random weights."""
    torch.manual_seed(0)
    return transformers.MPNetModel(config).train()


def ours(config: Any) -> Any:
    """Ours, with the same weights."""
    return as_ours(FAMILY, theirs(config))


if __name__ == "__main__":
    modernbert.main(config_of, {"ours": ours, "theirs": theirs}, (32, 128, 512))
