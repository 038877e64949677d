"""An encoder-decoder out of two copies of one BERT or RoBERTa."""

import os
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..model_dir import Manifest, ModelDirectory, write_model_directory
from ..models.families import bart, roberta
from ..models.families.base import State, below
from ..models.starting import STD


def bert2bert(
    source: ModelDirectory, out: str | os.PathLike[str], seed: int = 0
) -> ModelDirectory:
    """An encoder-decoder whose halves both start from one encoder.

    Articles and summaries are single sentences: BERT's token types are left out.

    Source: Rothe et al. (arXiv 1907.12461), its BERT2BERT, with a shared word
    table; cross-attention is new, from N(0, 0.02^2) and biases 0.

    Args:
        source: of family ``roberta``.
        out: folder to create.
        seed: of the cross-attention.

    Raises:
        UserError: the source is no encoder, or ``out`` exists.

    """
    if source.family is not roberta.FAMILY:
        raise UserError(f"{source.path} is no encoder of BERT's or RoBERTa's form")
    manifest = Manifest(
        family=bart.FAMILY.name,
        architecture=_doubled(source.manifest.architecture),
        special_tokens=source.manifest.special_tokens,
        source={"name": "bert2bert", "of": source.manifest.source},
        licence=source.manifest.licence,
    )
    body = below(source.weights()[0], f"{roberta.STACK}.")
    body.pop(roberta.SECOND, None)
    tokenizer = source.tokenizer_path.read_text("utf-8")
    state = {name: tensor.clone() for name, tensor in _twice(body, seed).items()}
    return write_model_directory(out, manifest, state, source.dictionary(), tokenizer)


def _twice(body: State, seed: int) -> State:
    """The encoder's weights on both sides, and fresh ones for attention across."""
    state = {f"{s}.{n}": w for s in bart.FAMILY.stacks for n, w in body.items()}
    state["decoder.output_projection.weight"] = body["embed_tokens.weight"]
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in body.items():
        if ".self_attn" in name:
            new = name.replace("self_attn", "encoder_attn")
            state[f"decoder.{new}"] = _fresh(new, tensor, generator)
    return state


def _fresh(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    if "layer_norm" in name:
        return torch.full_like(like, float(name.endswith("weight")))
    if name.endswith("bias"):
        return torch.zeros_like(like)
    return torch.empty_like(like).normal_(0, STD, generator=generator)


def _doubled(encoder: dict[str, Any]) -> dict[str, Any]:
    positions = encoder["max_positions"]
    names = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
    return {
        **{name: value for name, value in encoder.items() if name != "token_types"},
        **{f"decoder_{name}": encoder[f"encoder_{name}"] for name in names},
        "max_source_positions": positions,
        "max_target_positions": positions,
    }
