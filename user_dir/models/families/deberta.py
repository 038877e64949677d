"""DeBERTa, versions 1 to 3; its network is in :mod:`..disentangled`."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.roberta import RobertaModel
from pydantic import Field
from torch import Tensor

from ...errors import UserError
from ..architectures import Activation, Count, Encoder, Positions, Rate
from ..disentangled import DisentangledEncoder
from ..packed import roberta_around
from .base import BRACKETS, Kind, State, Weights, below, set_layer_norm_eps
from .roberta import FAMILY as ROBERTA
from .roberta import LAYER, EncoderConfig, EncoderFamily, SteadyRoberta, completing

#: transformers' types: version 1, and versions 2 and 3.
_TYPES = ("deberta", "deberta-v2")
#: Of pooler and convolution: the same names on both sides.
_SameName = Literal["gelu", "relu", "tanh", "linear"]


class DebertaConfig(EncoderConfig, total=False):
    """config.json of versions 1 to 3; -1 stands for a default where a range has it."""

    relative_attention: bool
    position_biased_input: bool
    pos_att_type: str | list[str] | None
    max_relative_positions: Annotated[int, Field(ge=-1, le=10**7)]
    position_buckets: Annotated[int, Field(ge=-1, le=10**6)]
    norm_rel_ebd: str
    share_att_key: bool
    talking_head: bool
    embedding_size: Count
    attention_head_size: Count
    conv_kernel_size: Annotated[int, Field(ge=0, le=1000)]
    conv_groups: Count
    conv_act: _SameName
    cls_dropout: Rate | None
    pooler_hidden_act: _SameName


class Deberta(Encoder, total=False):
    """fairseq's arguments of a DeBERTa."""

    deberta_terms: Literal["c2p", "p2c", "c2p,p2c", "p2c,c2p"]
    deberta_buckets: Annotated[int, Field(ge=0, le=10**6)]
    deberta_max_distance: Positions
    deberta_share_projections: bool
    deberta_relative_norm: bool
    deberta_key_bias: bool
    deberta_conv_kernel: Annotated[int, Field(ge=0, le=1000)]
    deberta_conv_groups: Count
    deberta_conv_activation: Activation


# --- the model in fairseq, with its sizes ---------------------------------------------

#: Default and meaning of what makes a DeBERTa, on top of RoBERTa's arguments.
_FORM: dict[str, tuple[Any, str]] = {
    "deberta_terms": ("c2p,p2c", "content to position, position to content, or both"),
    "deberta_buckets": (256, "buckets of relative positions; 0: one per distance"),
    "deberta_max_distance": (512, "distance of the last relative position"),
    "deberta_share_projections": (True, "positions use content's projections"),
    "deberta_relative_norm": (True, "LayerNorm after the embeddings of positions"),
    "deberta_key_bias": (True, "whether keys have a bias"),
    "deberta_conv_kernel": (0, "width of the convolution beside layer 1; 0: none"),
    "deberta_conv_groups": (1, "its groups"),
    "deberta_conv_activation": ("gelu", "its activation"),
}


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text} is neither true nor false")
    return text.lower() == "true"


@register_model("deberta")
class SteadyDeberta(SteadyRoberta):
    """DeBERTa, versions 1 to 3, with RoBERTa's interface and classification head."""

    around = roberta_around(DisentangledEncoder)

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """Flags of RoBERTa and of DeBERTa's form."""
        RobertaModel.add_args(parser)
        for name, (default, text) in _FORM.items():
            kind = _flag if isinstance(default, bool) else type(default)
            flag = "--" + name.replace("_", "-")
            parser.add_argument(flag, type=kind, help=f"{text} (default: {default})")

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "SteadyDeberta":
        """A model with random weights."""
        deberta_v3_base(args)
        if getattr(args, "max_positions", None) is None:
            args.max_positions = task.max_positions()
        model = cls(args, cls.around(args, task.source_dictionary))
        set_layer_norm_eps(model, args.layer_norm_eps)
        return model


def _architecture(name: str, **sizes: Any) -> Callable[[Any], None]:
    """Register a size by name; what the user chose stays."""
    form = {key: default for key, (default, _) in _FORM.items()}
    complete = completing(**{**_DEBERTA, **form, **sizes})
    registered: Callable[[Any], None]
    registered = register_model_architecture("deberta", name)(complete)
    return registered


def _size(layers: int, width: int, heads: int) -> dict[str, int]:
    return {
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": 4 * width,
        "encoder_attention_heads": heads,
    }


_EPSILON = 1e-7
#: DeBERTa's own, of RoBERTa's arguments.
_DEBERTA = {
    "no_token_positional_embeddings": True,
    "pooler_activation_fn": "gelu",
    "layer_norm_eps": _EPSILON,
}
_FIRST = {
    "deberta_buckets": 0,
    "deberta_share_projections": False,
    "deberta_relative_norm": False,
    "deberta_key_bias": False,
}
_BASE = _size(12, 768, 12)
_LARGE = _size(24, 1024, 16)
_SECOND = {"deberta_conv_kernel": 3}

deberta_v3_base = _architecture("deberta_v3_base", **_BASE)
_architecture("deberta_v3_xsmall", **_size(12, 384, 6))
_architecture("deberta_v3_small", **_size(6, 768, 12))
_architecture("deberta_v3_large", **_LARGE)
_architecture("deberta_v2_xlarge", **_size(24, 1536, 24), **_SECOND)
_architecture("deberta_v2_xxlarge", **_size(48, 1536, 24), **_SECOND)
_architecture("deberta_base", **_BASE, **_FIRST)
_architecture("deberta_large", **_LARGE, **_FIRST)
_architecture("deberta_xlarge", **_size(48, 1024, 16), **_FIRST)


# --- in from transformers, and out ----------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DebertaFamily(EncoderFamily):
    """BERT's names but for attention, relative positions and the convolution."""

    layer: ClassVar[Mapping[str, str]] = LAYER

    def model_type(self, source: Mapping[str, Any], form: Mapping[str, Any]) -> str:
        """Version 1 alone has keys without bias."""
        return _TYPES[form["deberta_key_bias"]]

    def check_config(self, config: dict[str, Any], path: Path) -> None:
        """Refuse forms that no published DeBERTa has.

        Raises:
            UserError: names the setting.

        """
        for name, good in _published(config).items():
            if not good:
                raise UserError(
                    f"{path}: {name} {config.get(name)!r} is no published DeBERTa's "
                    "and cannot be imported"
                )

    def arguments(self, config: dict[str, Any], first: int) -> dict[str, Any]:
        """An encoder's, and what makes a DeBERTa of it."""
        own = {"classifier_dropout": config.get("cls_dropout")}
        given = {"layer_norm_eps": _EPSILON} | config | own
        return super().arguments(given, first) | _arguments(config)

    def read_body(self, weights: Weights, form: dict[str, Any]) -> State:
        """An encoder's, and what BERT does not have."""
        return super().read_body(weights, form) | read_own(weights, form)

    def write_body(self, ours: State, form: dict[str, Any]) -> State:
        """The way back from :meth:`read_body`."""
        return super().write_body(ours, form) | write_own(ours, form)

    def settings(self, form: dict[str, Any], kind: Kind) -> dict[str, Any]:
        """An encoder's, and what makes a DeBERTa of it."""
        return super().settings(form, kind) | _settings(form)


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


def _terms(config: dict[str, Any]) -> list[str]:
    terms = config.get("pos_att_type") or []
    return terms.lower().split("|") if isinstance(terms, str) else list(terms)


def _relative_norm(config: dict[str, Any]) -> str:
    return str(config.get("norm_rel_ebd", "none")).lower()


def _published(config: dict[str, Any]) -> dict[str, bool]:
    """Whether each setting is one that a published DeBERTa has."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    terms = set(_terms(config))
    absolute = config.get("position_biased_input", True)
    return {
        "relative_attention": bool(config.get("relative_attention")),
        "pos_att_type": terms in ({"c2p"}, {"p2c"}, {"c2p", "p2c"}),
        "norm_rel_ebd": _relative_norm(config) in ("none", "layer_norm"),
        "embedding_size": config.get("embedding_size", width) == width,
        "attention_head_size": config.get("attention_head_size", width // heads)
        == width // heads,
        "type_vocab_size": absolute or not config.get("type_vocab_size"),
        "talking_head": not config.get("talking_head"),
    }


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments that make a DeBERTa, on top of an encoder's."""
    second = config["model_type"] == _TYPES[1]
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


def _settings(form: dict[str, Any]) -> dict[str, Any]:
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


def read_own(weights: Weights, form: dict[str, Any]) -> State:
    """What RoBERTa's encoder does not have: attention, relative positions, convolution.

    Args:
        weights: gives a tensor by its Hugging Face name.
        form: as :func:`_arguments` gives it, with ``encoder_layers``.

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
        attention = _attention(weights, f"encoder.layer.{i}.attention.self.", form)
        state |= {f"layers.{i}.self_attn.{n}": w for n, w in attention.items()}
    return state


def _attention(weights: Weights, prefix: str, form: dict[str, Any]) -> State:
    names = SECOND if form["deberta_key_bias"] else FIRST
    terms = form["deberta_terms"]
    absent = {f"position_{n}_proj": t not in terms for n, t in _TERM_OF.items()}
    state = {} if form["deberta_key_bias"] else _split(weights, prefix, form)
    for theirs, ours in names.items():
        if ours in absent and (form["deberta_share_projections"] or absent[ours]):
            continue
        state[f"{ours}.weight"] = weights(f"{prefix}{theirs}.weight")
        if theirs != "pos_proj":
            state[f"{ours}.bias"] = weights(f"{prefix}{theirs}.bias")
    return state


def _split(weights: Weights, prefix: str, form: dict[str, Any]) -> State:
    """Version 1 keeps query, key and value of each head in one matrix."""
    heads = form["encoder_attention_heads"]
    width = form["encoder_embed_dim"]
    matrix = weights(f"{prefix}in_proj.weight", 3 * width, width)
    joined = matrix.view(heads, 3, -1, matrix.size(1))
    names = ("q_proj", "k_proj", "v_proj")
    parts = {f"{n}.weight": joined[:, i].flatten(0, 1) for i, n in enumerate(names)}
    biases = {f"{n}_proj.bias": weights(f"{prefix}{n}_bias") for n in "qv"}
    return parts | biases


def write_own(ours: State, form: dict[str, Any]) -> State:
    """The way back from :func:`read_own`."""
    state = {"encoder.rel_embeddings.weight": ours["relative.embedding.weight"]}
    renamed = {
        "relative.layer_norm.": "encoder.LayerNorm.",
        "layers.0.conv.conv.": "encoder.conv.conv.",
        "layers.0.conv.layer_norm.": "encoder.conv.LayerNorm.",
    }
    for own, theirs in renamed.items():
        state |= {theirs + part: tensor for part, tensor in below(ours, own).items()}
    second = form["deberta_key_bias"]
    for i in range(form["encoder_layers"]):
        own, theirs = f"layers.{i}.self_attn.", f"encoder.layer.{i}.attention.self."
        layer = below(ours, own)
        if not second:
            state |= {theirs + n: t for n, t in _joined(layer, form).items()}
        for name, ours_name in (SECOND if second else FIRST).items():
            for part in ("weight", "bias"):
                if f"{ours_name}.{part}" in layer:
                    state[f"{theirs}{name}.{part}"] = layer[f"{ours_name}.{part}"]
    return state


def _joined(layer: State, form: dict[str, Any]) -> State:
    three = [layer[f"{name}_proj.weight"] for name in "qkv"]
    biases = {f"{n}_bias": layer[f"{n}_proj.bias"] for n in "qv"}
    return {"in_proj.weight": join(three, form["encoder_attention_heads"]), **biases}


def join(three: Sequence[Tensor], heads: int) -> Tensor:
    """Query, key and value weights of shape (C, C) as version 1's one matrix."""
    parts = [w.view(heads, -1, w.size(1)) for w in three]
    return torch.stack(parts, dim=1).flatten(0, 2)


_POOLED = {"dense": "pooler.dense", "out_proj": "classifier"}

FAMILY = DebertaFamily(
    name="deberta",
    kinds={
        "deberta": Kind("Deberta", "deberta.", BRACKETS, "transformers", _POOLED),
        "deberta-v2": Kind("DebertaV2", "deberta.", BRACKETS, "transformers", _POOLED),
    },
    config=DebertaConfig,
    architecture=Deberta,
    model=SteadyDeberta,
    complete=deberta_v3_base,
    stacks=ROBERTA.stacks,
    words=ROBERTA.words,
    unmissed=ROBERTA.unmissed,
    typed=True,
)
