"""ModernBERT; its network is in :mod:`..rotary`."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Required

import numpy as np
import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.roberta import RobertaModel
from pydantic import ConfigDict, Field
from torch import Tensor
from typing_extensions import TypedDict

from ...errors import UserError
from ..architectures import Activation, Count, Epsilon, Layers, Positions, Rate
from ..packed import roberta_around
from ..rotary import ModernbertHead, RotaryEncoder, pool
from .base import (
    ACTIVATIONS,
    BRACKETS,
    Config,
    Family,
    Imported,
    Kind,
    State,
    Weights,
    activation_back,
    below,
)
from .roberta import STACK, SteadyRoberta, completing

_Theta = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
_Window = Annotated[int, Field(ge=0, le=10**7)]
_Some = Annotated[int, Field(ge=1, le=1000)]
_Pooling = Literal["cls", "mean"]
#: transformers' names of the two kinds of layers, by our letter.
_KINDS = {"g": "full_attention", "l": "sliding_attention"}
_LETTERS = {name: letter for letter, name in _KINDS.items()}


class _Rope(TypedDict, total=False):
    """Rotary positions of one kind of layers."""

    rope_type: str
    rope_theta: _Theta


class ModernbertConfig(Config, total=False):
    """config.json of ModernBERT, of transformers 5 and of earlier ones."""

    num_hidden_layers: Required[_Some]
    hidden_size: Required[Count]
    intermediate_size: Required[Count]
    num_attention_heads: Required[Count]
    head_dim: Count | None
    max_position_embeddings: Positions
    hidden_activation: str
    norm_eps: Epsilon
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    attention_dropout: Rate
    embedding_dropout: Rate
    mlp_dropout: Rate
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None
    global_attn_every_n_layers: _Some
    local_attention: _Window
    rope_parameters: (
        dict[Literal["full_attention", "sliding_attention"], _Rope | None] | None
    )
    rope_scaling: dict[str, Any] | None
    global_rope_theta: _Theta
    local_rope_theta: _Theta | None
    classifier_pooling: _Pooling
    classifier_dropout: Rate
    classifier_bias: bool
    classifier_activation: str
    sparse_prediction: bool


class Modernbert(TypedDict, total=False):
    """fairseq's arguments of a ModernBERT."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    encoder_layers: Required[Layers]
    encoder_embed_dim: Required[Count]
    encoder_ffn_embed_dim: Required[Count]
    encoder_attention_heads: Required[Count]
    encoder_layerdrop: Rate
    max_positions: Required[Positions]
    activation_fn: Activation
    pooler_activation_fn: Activation
    dropout: Rate
    attention_dropout: Rate
    activation_dropout: Rate
    pooler_dropout: Rate
    layer_norm_eps: Epsilon
    modernbert_pattern: Annotated[str, Field(pattern=r"^[gl]{1,1000}$")]
    modernbert_window: _Window
    modernbert_global_theta: _Theta
    modernbert_local_theta: _Theta
    modernbert_biases: Annotated[str, Field(pattern=r"^(\w+(,\w+)*)?$", max_length=99)]
    modernbert_pooling: _Pooling


# --- the model in fairseq, with its sizes ---------------------------------------------

#: Default and meaning of what makes a ModernBERT, on top of RoBERTa's arguments.
_FORM: dict[str, tuple[Any, str]] = {
    "modernbert_pattern": (
        "gll",
        "kinds of layers from the input on, again and again: g looks at all tokens, l "
        "at neighbours",
    ),
    "modernbert_window": (128, "tokens that a layer of kind l sees on both sides"),
    "modernbert_global_theta": (160_000.0, "base of wave lengths in layers of kind g"),
    "modernbert_local_theta": (10_000.0, "base of wave lengths in layers of kind l"),
    "modernbert_biases": ("", "what has biases, of norm,attention,mlp,head"),
    "modernbert_pooling": ("cls", "what the head reads: cls, or the mean of tokens"),
}
#: ModernBERT's own, of RoBERTa's arguments: dropout is for the user to choose.
_MODERNBERT = {
    "max_positions": 8192,
    "layer_norm_eps": 1e-5,
    "activation_fn": "gelu",
    "pooler_activation_fn": "gelu",
    "encoder_layerdrop": 0.0,
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
    "pooler_dropout": 0.0,
}


@register_model("modernbert")
class SteadyModernbert(SteadyRoberta):
    """ModernBERT with RoBERTa's interface and its own classification head."""

    around = roberta_around(RotaryEncoder)

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """Flags of RoBERTa and of ModernBERT's form."""
        RobertaModel.add_args(parser)
        for name, (default, text) in _FORM.items():
            flag, said = "--" + name.replace("_", "-"), f"{text} (default: {default})"
            parser.add_argument(flag, type=type(default), help=said)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "SteadyModernbert":
        """A model with random weights."""
        modernbert_base(args)
        return cls(args, cls.around(args, task.source_dictionary))

    def register_classification_head(
        self, name: str, num_classes: int = 2, inner_dim: int | None = None, **_: Any
    ) -> None:
        """ModernBERT's, as wide as the model, in place of fairseq's."""
        self.classification_heads[name] = ModernbertHead(self.args, num_classes)

    def forward(
        self,
        src_tokens: Tensor,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        classification_head_name: str | None = None,
        words: Tensor | None = None,
        **extra: Any,
    ) -> Any:
        """As RoBERTa's; its classification head is given what it reads alone."""
        name, stack = classification_head_name, self.encoder.sentence_encoder
        head = None if name is None else self.classification_heads[name]
        pools, how = isinstance(head, ModernbertHead), self.args.modernbert_pooling
        stack.first_only = pools and how == "cls"
        try:
            features, more = self.encoder(src_tokens, True, return_all_hiddens, **extra)
        finally:
            stack.first_only = False
        if head is None:
            return features, more
        if pools:
            real = src_tokens.ne(stack.padding_idx)
            return head(pool(features, real, how)), more
        return head(features, *([] if words is None else [words])), more


def _architecture(name: str, **sizes: int) -> Callable[[Any], None]:
    """Register a size by name; what the user chose stays."""
    form = {key: default for key, (default, _) in _FORM.items()}
    complete = completing(**{**_MODERNBERT, **form, **sizes})
    registered: Callable[[Any], None]
    registered = register_model_architecture("modernbert", name)(complete)
    return registered


def _size(layers: int, width: int, inner: int) -> dict[str, int]:
    return {
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": inner,
        "encoder_attention_heads": width // 64,
    }


modernbert_base = _architecture("modernbert_base", **_size(22, 768, 1152))
_architecture("modernbert_large", **_size(28, 1024, 2624))


# --- in from transformers, and out ----------------------------------------------------

#: Which setting gives which part biases.
_BIASES = {
    "norm": "norm_bias",
    "attention": "attention_bias",
    "mlp": "mlp_bias",
    "head": "classifier_bias",
}
#: Hugging Face's name of each setting of one meaning and ours, with its default.
_SAME: dict[str, tuple[str, Any]] = {
    "max_position_embeddings": ("max_positions", 8192),
    "norm_eps": ("layer_norm_eps", 1e-5),
    "embedding_dropout": ("dropout", 0.0),
    "attention_dropout": ("attention_dropout", 0.0),
    "mlp_dropout": ("activation_dropout", 0.0),
    "classifier_dropout": ("pooler_dropout", 0.0),
    "local_attention": ("modernbert_window", 128),
    "classifier_pooling": ("modernbert_pooling", "cls"),
}
_SIZES = {
    "num_hidden_layers": "encoder_layers",
    "hidden_size": "encoder_embed_dim",
    "intermediate_size": "encoder_ffn_embed_dim",
    "num_attention_heads": "encoder_attention_heads",
}
#: Hugging Face's names in a layer and ours; query, key and value apart.
_LAYER = {
    "attn_norm": "self_attn_layer_norm",
    "attn.Wo": "self_attn.out_proj",
    "mlp_norm": "final_layer_norm",
    "mlp.Wi": "fc1",
    "mlp.Wo": "fc2",
}
_THREE = [f"self_attn.{name}_proj" for name in "qkv"]
#: What has biases where which part of a form has.
_PART = {"attn": "attention", "mlp": "mlp"}
#: Of each kind of layers: the setting before transformers 5, and its default.
_THETAS = {"g": ("global_rope_theta", 160_000.0), "l": ("local_rope_theta", 10_000.0)}


@dataclass(frozen=True, kw_only=True)
class ModernbertFamily(Family):
    """Encoders whose weights are named as ModernBERT's."""

    def check_config(self, config: dict[str, Any], path: Path) -> None:
        """Refuse what ModernBERT's network does not have.

        Raises:
            UserError: names the setting.

        """
        for name, (good, meant) in _supported(config).items():
            if not good:
                raise UserError(
                    f"{path}: {name} {config.get(name)!r} cannot be imported; only "
                    f"{meant}"
                )

    def read(
        self, weights: Weights, config: dict[str, Any], rows: np.ndarray, paired: bool
    ) -> Imported:
        """Hugging Face's weights as ours; see :meth:`Family.read`."""
        form = _arguments(config)
        order, width = torch.from_numpy(rows), form["encoder_embed_dim"]
        words = weights(self.words, -1, width)[order.clamp(0)]
        state = {"embed_tokens.weight": words * order.ge(0)[:, None]}
        for theirs, ours in _names(form).items():
            state[ours] = weights(theirs)
        for theirs, three in _joined(form).items():
            joined = weights(theirs, 3 * width, *([-1] * theirs.endswith("weight")))
            state |= dict(zip(three, joined.chunk(3), strict=True))
        named = {f"{STACK}.{name}": tensor for name, tensor in state.items()}
        return Imported(form, named, self._read_pooler(weights, form))

    def _read_pooler(self, weights: Weights, form: dict[str, Any]) -> State:
        """The inner layer of a head, of pretraining or not, whole or nothing."""
        names = {"dense": "head.dense", "layer_norm": "head.norm"}
        found = {}
        for own, shape in self.head_shapes(form).items():
            module, _, part = own.rpartition(".")
            if module in names:
                found[own] = weights.get(f"{names[module]}.{part}", *shape)
        whole = {name: tensor for name, tensor in found.items() if tensor is not None}
        return whole if len(whole) == len(found) else {}

    def write(
        self, ours: State, form: dict[str, Any], kind: Kind, rows: Tensor
    ) -> State:
        """The way back; see :meth:`Family.write`."""
        own = below(ours, f"{STACK}.")
        state = {self.words: own["embed_tokens.weight"][rows]}
        state |= {theirs: own[name] for theirs, name in _names(form).items()}
        for theirs, three in _joined(form).items():
            state[theirs] = torch.cat([own[name] for name in three])
        return state

    def settings(self, form: dict[str, Any], kind: Kind) -> dict[str, Any]:
        """What config.json says, to transformers 5 and to earlier ones."""
        pattern = _pattern(form)
        biases = form["modernbert_biases"].split(",")
        said = {theirs: form[ours] for theirs, ours in _SIZES.items()}
        said |= {theirs: form[ours] for theirs, (ours, _) in _SAME.items()}
        said |= {theirs: ours in biases for ours, theirs in _BIASES.items()}
        thetas = {
            "g": form["modernbert_global_theta"],
            "l": form["modernbert_local_theta"],
        }
        said |= {_THETAS[letter][0]: theta for letter, theta in thetas.items()}
        said["rope_parameters"] = {
            _KINDS[letter]: {"rope_type": "default", "rope_theta": theta}
            for letter, theta in thetas.items()
        }
        bend = {"activation_fn": form["pooler_activation_fn"]}
        every = len(form["modernbert_pattern"])
        regular = form["modernbert_pattern"] == "g" + "l" * (every - 1)
        return {
            **said,
            "hidden_activation": activation_back(form),
            "classifier_activation": activation_back(bend),
            "layer_types": [_KINDS[letter] for letter in pattern],
            **({"global_attn_every_n_layers": every} if regular else {}),
        }

    def head_shapes(self, form: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """Its own head's; see :meth:`Family.head_shapes`."""
        shapes, width = super().head_shapes(form), form["encoder_embed_dim"]
        biases = form["modernbert_biases"].split(",")
        shapes["layer_norm.weight"] = (width,)
        if "norm" in biases:
            shapes["layer_norm.bias"] = (width,)
        if "head" not in biases:
            del shapes["dense.bias"]
        return shapes


def _supported(config: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    """Whether each setting is one of ours, and what is."""
    layers, types = config["num_hidden_layers"], config.get("layer_types")
    width = config["hidden_size"] // config["num_attention_heads"]
    ropes = (config.get("rope_parameters") or {}).values()
    kinds = {(rope or {}).get("rope_type", "default") for rope in ropes}
    known = f"one of {', '.join(ACTIVATIONS)}"
    bends = {
        name: (config.get(name, "gelu") in ACTIVATIONS, known)
        for name in ("hidden_activation", "classifier_activation")
    }
    return bends | {
        "layer_types": (
            types is None or len(types) == layers,
            f"{layers}, one a layer",
        ),
        "rope_parameters": (kinds <= {"default"}, "rope_type 'default'"),
        "rope_scaling": (not config.get("rope_scaling"), "none"),
        "head_dim": (config.get("head_dim") in (None, width), f"{width}"),
        "hidden_size": (width % 2 == 0, "an even number of channels a head"),
        "sparse_prediction": (not config.get("sparse_prediction"), "false"),
    }


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """fairseq's arguments for a config.json."""
    biases = [part for part, name in _BIASES.items() if config.get(name, False)]
    return {
        **{ours: config[theirs] for theirs, ours in _SIZES.items()},
        **{ours: config.get(name, value) for name, (ours, value) in _SAME.items()},
        "activation_fn": ACTIVATIONS[config.get("hidden_activation", "gelu")],
        "pooler_activation_fn": ACTIVATIONS[
            config.get("classifier_activation", "gelu")
        ],
        "modernbert_pattern": _shortest(_kinds(config)),
        "modernbert_global_theta": _theta(config, "g"),
        "modernbert_local_theta": _theta(config, "l"),
        "modernbert_biases": ",".join(biases),
    }


def _kinds(config: dict[str, Any]) -> str:
    """The kind of each layer, a letter each; transformers 5 lists them."""
    types, every = (
        config.get("layer_types"),
        config.get("global_attn_every_n_layers", 3),
    )
    if types is not None:
        return "".join(_LETTERS[name] for name in types)
    return "".join(
        "l" if i % every else "g" for i in range(config["num_hidden_layers"])
    )


def _shortest(kinds: str) -> str:
    """What gives the kinds of all layers when it is repeated."""
    for size in range(1, len(kinds)):
        if (kinds[:size] * len(kinds))[: len(kinds)] == kinds:
            return kinds[:size]
    return kinds or "g"


def _pattern(form: dict[str, Any]) -> str:
    """The kind of each layer of a form."""
    layers: int = form["encoder_layers"]
    kinds: str = form["modernbert_pattern"]
    return (kinds * layers)[:layers]


def _theta(config: dict[str, Any], letter: str) -> float:
    ropes = config.get("rope_parameters") or {}
    name, default = _THETAS[letter]
    rope = ropes.get(_KINDS[letter]) or {}
    theta: float | None = rope.get("rope_theta", config.get(name, default))
    # transformers 4 takes the global one where the local one is null.
    return _theta(config, "g") if theta is None else theta


def _names(form: dict[str, Any]) -> dict[str, str]:
    """Hugging Face's names of tensors and ours; words and joined projections apart."""
    modules = {"embeddings.norm": "layernorm_embedding", "final_norm": "layer_norm"}
    for i in range(form["encoder_layers"]):
        modules |= {f"layers.{i}.{t}": f"layers.{i}.{o}" for t, o in _LAYER.items()}
    modules.pop("layers.0.attn_norm", None)  # what it gets is normed already
    return {
        f"{theirs}.{part}": f"{ours}.{part}"
        for theirs, ours in modules.items()
        for part in _parts(theirs, form)
    }


def _joined(form: dict[str, Any]) -> dict[str, list[str]]:
    """Hugging Face's name of query, key and value in one, and ours of the three."""
    return {
        f"layers.{i}.attn.Wqkv.{part}": [f"layers.{i}.{n}.{part}" for n in _THREE]
        for i in range(form["encoder_layers"])
        for part in _parts("attn.Wqkv", form)
    }


def _parts(module: str, form: dict[str, Any]) -> tuple[str, ...]:
    """Whether a module, by Hugging Face's name, has a bias beside its weight."""
    kind = "norm" if module.endswith("norm") else _PART[module.split(".")[-2]]
    biases = form["modernbert_biases"].split(",")
    return ("weight", "bias") if kind in biases else ("weight",)


FAMILY = ModernbertFamily(
    name="modernbert",
    kinds={
        "modernbert": Kind(
            "ModernBert",
            prefix="model.",
            special=BRACKETS,
            vocabulary="transformers",
            head={"dense": "head.dense", "layer_norm": "head.norm"}
            | {"out_proj": "classifier"},
        )
    },
    config=ModernbertConfig,
    architecture=Modernbert,
    named_positions=False,
    model=SteadyModernbert,
    complete=modernbert_base,
    stacks=(STACK,),
    words="embeddings.tok_embeddings.weight",
    unmissed=("head.", "decoder."),
    pools=False,
    special_ids=(
        *(("pad", "<pad>"), ("bos", "<s>"), ("eos", "</s>")),
        *(("cls", "<s>"), ("sep", "</s>")),
    ),
)
