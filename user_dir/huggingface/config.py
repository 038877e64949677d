"""What a Hugging Face config.json may say, for each kind of model."""

from pathlib import Path
from typing import Annotated, Any, Literal, Required

from pydantic import Field
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import read_json
from . import deberta as importing_deberta
from .sources import DAMAGED, needed

Count = Annotated[int, Field(ge=1, le=100_000)]
Layers = Annotated[int, Field(ge=0, le=1000)]
Positions = Annotated[int, Field(ge=1, le=10**7)]
Rate = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
#: Of DeBERTa's pooler and convolution: the same names on both sides.
Activation = Literal["gelu", "relu", "tanh", "linear"]

#: Hugging Face's activation names and fairseq's for the same function.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_accurate",
    "gelu_pytorch_tanh": "gelu_accurate",
    "relu": "relu",
    "silu": "swish",
}


class Config(TypedDict, total=False):
    """Of every kind; what else a config.json says is not read."""

    model_type: Required[str]
    architectures: list[str] | None
    id2label: dict[str, Any] | None
    license: str | None
    _name_or_path: str | None
    position_embedding_type: str | None
    is_decoder: bool | None
    hidden_act: str | None
    activation_function: str | None


class Encoder(Config, total=False):
    """BERT and RoBERTa."""

    num_hidden_layers: Required[Layers]
    hidden_size: Required[Count]
    intermediate_size: Required[Count]
    num_attention_heads: Required[Count]
    max_position_embeddings: Required[Positions]
    layer_norm_eps: Epsilon
    type_vocab_size: Annotated[int, Field(ge=0, le=1000)]
    hidden_dropout_prob: Rate
    attention_probs_dropout_prob: Rate


class Deberta(Encoder, total=False):
    """DeBERTa, versions 1 to 3; -1 stands for a default where a range allows it."""

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
    conv_act: Activation
    pooler_hidden_act: Activation


class Bart(Config, total=False):
    """BART and mBART."""

    d_model: Required[Count]
    encoder_layers: Required[Layers]
    decoder_layers: Required[Layers]
    encoder_attention_heads: Required[Count]
    decoder_attention_heads: Required[Count]
    encoder_ffn_dim: Required[Count]
    decoder_ffn_dim: Required[Count]
    max_position_embeddings: Required[Positions]
    dropout: Required[Rate]
    attention_dropout: Required[Rate]
    activation_dropout: Required[Rate]
    classifier_dropout: Rate | None
    scale_embedding: bool
    normalize_before: bool


#: Schema of each kind that can be imported.
KINDS: dict[str, type[Any]] = {
    "bert": Encoder,
    **dict.fromkeys(importing_deberta.KINDS, Deberta),
    "roberta": Encoder,
    "bart": Bart,
    "mbart": Bart,
}
#: Encoder-decoders among them.
SEQ2SEQ = ("bart", "mbart")


def read_config(source: Path) -> dict[str, Any]:
    """The source's config.json, checked for what this importer can carry over.

    Raises:
        UserError: not a Hugging Face directory, a setting of a wrong type or range, or
            a form fairseq does not have.

    """
    none = f"{source} has no config.json: not a Hugging Face directory"
    path = needed(source, "config.json", none)
    kind = read_json(path, Config, DAMAGED)["model_type"]
    if kind not in KINDS:
        raise UserError(
            f"{path}: model_type '{kind}' cannot be imported; known: "
            + ", ".join(KINDS)
        )
    config: dict[str, Any] = read_json(path, KINDS[kind], DAMAGED)
    check_heads(config, "hidden_size", "num_attention_heads", path)
    for side in ("encoder", "decoder"):
        check_heads(config, "d_model", f"{side}_attention_heads", path)
    positions = config.get("position_embedding_type") or "absolute"
    decoder = config.get("is_decoder") and kind not in SEQ2SEQ
    if positions != "absolute" or decoder:
        raise UserError(
            f"{path}: fairseq has no {positions} positions or decoder in this form; "
            "only encoders with absolute positions can be imported"
        )
    if activation(config) not in ACTIVATIONS:
        raise UserError(
            f"{path}: hidden_act '{activation(config)}' is none of "
            + ", ".join(ACTIVATIONS)
        )
    if kind in importing_deberta.KINDS:
        importing_deberta.check(config, path)
    return config


def check_heads(settings: dict[str, Any], width: str, heads: str, path: Path) -> None:
    """Refuse a width that the heads cannot share out; both are names of settings.

    Raises:
        UserError: names both.

    """
    if settings.get(width, 0) % settings.get(heads, 1):
        raise UserError(
            f"{path}: {width} {settings[width]} is not a multiple of {heads} "
            f"{settings[heads]}; {DAMAGED}"
        )


def activation(config: dict[str, Any]) -> str:
    """Hugging Face's name of the activation."""
    name: str = config.get("hidden_act") or config.get("activation_function") or "gelu"
    return name
