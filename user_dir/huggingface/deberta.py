"""Hugging Face's DeBERTa, versions 1 to 3, as this plugin's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError

#: Hugging Face's model types: version 1, and versions 2 and 3.
KINDS = ("deberta", "deberta-v2")
#: Hugging Face's name of each projection of versions 2 and 3, and ours.
SECOND = {
    "query_proj": "q_proj",
    "key_proj": "k_proj",
    "value_proj": "v_proj",
    "pos_key_proj": "position_k_proj",
    "pos_query_proj": "position_q_proj",
}
#: Version 1's projections of positions.
FIRST = {"pos_proj": "position_k_proj", "pos_q_proj": "position_q_proj"}

_TERM_OF = {"k": "c2p", "q": "p2c"}

Weights = Callable[..., Tensor]


def _terms(config: dict[str, Any]) -> list[str]:
    terms = config.get("pos_att_type") or []
    return terms.lower().split("|") if isinstance(terms, str) else list(terms)


def _relative_norm(config: dict[str, Any]) -> str:
    return str(config.get("norm_rel_ebd", "none")).lower()


def check(config: dict[str, Any], path: Path) -> None:
    """Refuse forms that no published DeBERTa has.

    Raises:
        UserError: names the setting.

    """
    width, heads = config["hidden_size"], config["num_attention_heads"]
    wanted = {
        "relative_attention": bool(config.get("relative_attention")),
        "pos_att_type": set(_terms(config)) in ({"c2p"}, {"p2c"}, {"c2p", "p2c"}),
        "norm_rel_ebd": _relative_norm(config) in ("none", "layer_norm"),
        "embedding_size": config.get("embedding_size", width) == width,
        "attention_head_size": config.get("attention_head_size", width // heads)
        == width // heads,
        "type_vocab_size": config.get("position_biased_input", True)
        or not config.get("type_vocab_size"),
        "talking_head": not config.get("talking_head"),
    }
    for name, good in wanted.items():
        if not good:
            raise UserError(
                f"{path}: {name} {config.get(name)!r} is no published DeBERTa's and "
                "cannot be imported"
            )


def architecture(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments that make a DeBERTa, on top of an encoder's."""
    second = config["model_type"] == "deberta-v2"
    furthest = config.get("max_relative_positions", -1)
    return {
        "no_token_positional_embeddings": not config.get("position_biased_input", True),
        "pooler_activation_fn": config.get("pooler_hidden_act", "gelu"),
        "deberta_terms": ",".join(sorted(_terms(config))),
        "deberta_buckets": max(0, config.get("position_buckets", -1)) * second,
        "deberta_max_distance": furthest
        if furthest > 0
        else config["max_position_embeddings"],
        "deberta_share_projections": bool(second and config.get("share_att_key")),
        "deberta_relative_norm": second and _relative_norm(config) == "layer_norm",
        "deberta_key_bias": second,
        "deberta_conv_kernel": config.get("conv_kernel_size", 0) * second,
        "deberta_conv_groups": config.get("conv_groups", 1),
        "deberta_conv_activation": config.get("conv_act", "tanh"),
    }


def restore_architecture(form: dict[str, Any]) -> dict[str, Any]:
    """Hugging Face's settings from fairseq's arguments."""
    return {
        "relative_attention": True,
        "position_biased_input": not form["no_token_positional_embeddings"],
        "pos_att_type": form["deberta_terms"].split(","),
        "max_relative_positions": form["deberta_max_distance"],
        "position_buckets": form["deberta_buckets"] or -1,
        "share_att_key": form["deberta_share_projections"],
        "norm_rel_ebd": "layer_norm" if form["deberta_relative_norm"] else "none",
        "conv_kernel_size": form["deberta_conv_kernel"],
        "conv_groups": form["deberta_conv_groups"],
        "conv_act": form["deberta_conv_activation"],
        "pooler_hidden_act": form["pooler_activation_fn"],
        "pooler_dropout": form["pooler_dropout"],
        "cls_dropout": form["pooler_dropout"],
    }


def convert_weights(weights: Weights, form: dict[str, Any]) -> dict[str, Tensor]:
    """What RoBERTa's encoder does not have: attention, relative positions, convolution.

    Args:
        weights: gives a tensor by its Hugging Face name.
        form: as :func:`architecture` gives it, with ``encoder_layers``.

    """
    state = {"relative.embedding.weight": weights("encoder.rel_embeddings.weight")}
    for part in ("weight", "bias"):
        if form["deberta_relative_norm"]:
            state[f"relative.layer_norm.{part}"] = weights(f"encoder.LayerNorm.{part}")
        if form["deberta_conv_kernel"]:
            for theirs, ours in (("conv", "conv"), ("LayerNorm", "layer_norm")):
                found = weights(f"encoder.conv.{theirs}.{part}")
                state[f"layers.0.conv.{ours}.{part}"] = found
    for i in range(form["encoder_layers"]):
        prefix = f"encoder.layer.{i}.attention.self."
        attention = _attention(lambda n, *s, p=prefix: weights(p + n, *s), form)  # type: ignore[misc]
        state |= {f"layers.{i}.self_attn.{n}": w for n, w in attention.items()}
    return state


def _attention(weights: Weights, form: dict[str, Any]) -> dict[str, Tensor]:
    names = SECOND if form["deberta_key_bias"] else FIRST
    terms = form["deberta_terms"]
    absent = {f"position_{n}_proj": t not in terms for n, t in _TERM_OF.items()}
    state = {} if form["deberta_key_bias"] else _split(weights, form)
    for theirs, ours in names.items():
        if ours in absent and (form["deberta_share_projections"] or absent[ours]):
            continue
        state[f"{ours}.weight"] = weights(f"{theirs}.weight")
        if theirs != "pos_proj":
            state[f"{ours}.bias"] = weights(f"{theirs}.bias")
    return state


def _split(weights: Weights, form: dict[str, Any]) -> dict[str, Tensor]:
    """Version 1 keeps query, key and value of each head in one matrix."""
    heads = form["encoder_attention_heads"]
    width = form["encoder_embed_dim"]
    matrix = weights("in_proj.weight", 3 * width, width)
    joined = matrix.view(heads, 3, -1, matrix.size(1))
    names = ("q_proj", "k_proj", "v_proj")
    parts = {f"{n}.weight": joined[:, i].flatten(0, 1) for i, n in enumerate(names)}
    biases = {"q_proj.bias": weights("q_bias"), "v_proj.bias": weights("v_bias")}
    return parts | biases


def restore_weights(ours: dict[str, Tensor], form: dict[str, Any]) -> dict[str, Tensor]:
    """The way back from :func:`convert_weights`."""
    state = {"encoder.rel_embeddings.weight": ours["relative.embedding.weight"]}
    renamed = {
        "relative.layer_norm.": "encoder.LayerNorm.",
        "layers.0.conv.conv.": "encoder.conv.conv.",
        "layers.0.conv.layer_norm.": "encoder.conv.LayerNorm.",
    }
    for own, theirs in renamed.items():
        found = {n.removeprefix(own): t for n, t in ours.items() if n.startswith(own)}
        state |= {theirs + part: tensor for part, tensor in found.items()}
    second = form["deberta_key_bias"]
    for i in range(form["encoder_layers"]):
        own, theirs = f"layers.{i}.self_attn.", f"encoder.layer.{i}.attention.self."
        layer = {n.removeprefix(own): t for n, t in ours.items() if n.startswith(own)}
        if not second:
            state |= {theirs + n: t for n, t in _joined(layer, form).items()}
        for name, ours_name in (SECOND if second else FIRST).items():
            for part in ("weight", "bias"):
                if f"{ours_name}.{part}" in layer:
                    state[f"{theirs}{name}.{part}"] = layer[f"{ours_name}.{part}"]
    return state


def _joined(layer: dict[str, Tensor], form: dict[str, Any]) -> dict[str, Tensor]:
    three = [layer[f"{name}_proj.weight"] for name in "qkv"]
    biases = {f"{n}_bias": layer[f"{n}_proj.bias"] for n in "qv"}
    return {"in_proj.weight": join(three, form["encoder_attention_heads"]), **biases}


def join(three: Sequence[Tensor], heads: int) -> Tensor:
    """Query, key and value weights of shape (C, C) as version 1's one matrix."""
    parts = [w.view(heads, -1, w.size(1)) for w in three]
    return torch.stack(parts, dim=1).flatten(0, 2)
