"""An encoder-decoder out of two copies of one BERT or RoBERTa."""

import os
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..model_dir import (
    BERT2BERT,
    Manifest,
    ModelDirectory,
    write_model_directory,
)
from ..models.building import load_encoder
from ..models.families import bart, roberta
from ..models.families.base import State, below
from ..models.starting import STD

#: Where the decoder's attention to the article starts from.
CrossAttention = Literal["new", "self"]


def bert2bert(
    source: ModelDirectory,
    out: str | os.PathLike[str],
    seed: int = 0,
    cross_attention: CrossAttention = "new",
    separate: bool = False,
) -> ModelDirectory:
    """An encoder-decoder whose halves both start from one encoder.

    Articles and summaries are single sentences: BERT's token types are left out.

    Source: Rothe et al. (arXiv 1907.12461), its BERT2BERT, with a shared word
    table; cross-attention is new, from N(0, 0.02^2) and biases 0.
    Deviations: ``cross_attention`` and ``separate`` are not the paper's.

    Args:
        source: of family ``roberta``.
        out: folder to create.
        seed: of the cross-attention.
        cross_attention: ``new``, or ``self`` for a copy of the same layer's
            self-attention with its LayerNorm.
        separate: the decoder has a word table of its own, its output's too.

    Raises:
        UserError: the source is no encoder, or ``out`` exists.

    """
    if source.family is not roberta.FAMILY:
        raise UserError(f"{source.path} is no encoder of BERT's or RoBERTa's form")
    architecture = _doubled(source.manifest.architecture)
    if separate:
        architecture["share_all_embeddings"] = False
    manifest = Manifest(
        family=bart.FAMILY.name,
        architecture=architecture,
        special_tokens=source.manifest.special_tokens,
        source={"name": BERT2BERT, "of": source.manifest.source},
        licence=source.manifest.licence,
    )
    # By the model's own names: releases have older ones.
    body = below(load_encoder(source).state_dict(), f"{roberta.STACK}.")
    body.pop(roberta.SECOND, None)
    tokenizer = source.tokenizer_path.read_text("utf-8")
    doubled = _twice(body, None if cross_attention == "self" else seed)
    state = {name: tensor.clone() for name, tensor in doubled.items()}
    return write_model_directory(out, manifest, state, source.dictionary(), tokenizer)


def _twice(body: State, seed: int | None) -> State:
    """The encoder's weights on both sides, and attention across: fresh, or copied."""
    state = {f"{s}.{n}": w for s in bart.FAMILY.stacks for n, w in body.items()}
    state["decoder.output_projection.weight"] = body["embed_tokens.weight"]
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for name, tensor in body.items():
        if ".self_attn" in name:
            new = name.replace("self_attn", "encoder_attn")
            made = tensor if generator is None else _fresh(new, tensor, generator)
            state[f"decoder.{new}"] = made
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
