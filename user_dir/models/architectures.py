"""What a model's architecture may say: names, types and ranges for each family.

An architecture comes from files: a model directory's manifest, a checkpoint, a release.
Nothing in it reaches fairseq before :func:`check_architecture` has seen it.
"""

from typing import Annotated, Any, Literal, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import conform

Count = Annotated[int, Field(ge=1, le=100_000)]
Layers = Annotated[int, Field(ge=0, le=1000)]
Positions = Annotated[int, Field(ge=1, le=10**7)]
Rate = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Activation = Literal[
    "gelu", "gelu_accurate", "gelu_fast", "linear", "relu", "swish", "tanh"
]
#: Numbers of the layers that are left, as ``--encoder-layers-to-keep`` takes them.
Kept = Annotated[str, Field(pattern=r"^\d+(,\d+)*$", max_length=4000)]

#: Weights of a model larger than any that fairseq trained would fill the memory.
_MOST_WEIGHTS = 10**11


class Encoder(TypedDict, total=False):
    """Of every family; as fairseq's flags of the same names."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    encoder_layers: Required[Layers]
    encoder_embed_dim: Required[Count]
    encoder_ffn_embed_dim: Required[Count]
    encoder_attention_heads: Required[Count]
    encoder_normalize_before: bool
    encoder_learned_pos: bool
    encoder_layerdrop: Rate
    encoder_layers_to_keep: Kept | None
    max_positions: Required[Positions]
    max_source_positions: Positions
    max_target_positions: Positions
    activation_fn: Activation
    pooler_activation_fn: Activation
    dropout: Rate
    attention_dropout: Rate
    activation_dropout: Rate
    relu_dropout: Rate
    pooler_dropout: Rate
    layer_norm_eps: Epsilon
    layernorm_embedding: bool
    no_scale_embedding: bool
    no_token_positional_embeddings: bool
    untie_weights_roberta: bool
    token_types: bool


class Roberta(Encoder):
    """BERT's and RoBERTa's form."""


class Deberta(Encoder, total=False):
    """DeBERTa, versions 1 to 3."""

    deberta_terms: Literal["c2p", "p2c", "c2p,p2c", "p2c,c2p"]
    deberta_buckets: Annotated[int, Field(ge=0, le=10**6)]
    deberta_max_distance: Positions
    deberta_share_projections: bool
    deberta_relative_norm: bool
    deberta_key_bias: bool
    deberta_conv_kernel: Annotated[int, Field(ge=0, le=1000)]
    deberta_conv_groups: Count
    deberta_conv_activation: Activation


class Bart(Encoder, total=False):
    """Encoder-decoders."""

    decoder_layers: Required[Layers]
    decoder_embed_dim: Count
    decoder_ffn_embed_dim: Count
    decoder_attention_heads: Required[Count]
    decoder_input_dim: Count
    decoder_output_dim: Count
    decoder_normalize_before: bool
    decoder_learned_pos: bool
    decoder_layerdrop: Rate
    decoder_layers_to_keep: Kept | None
    no_cross_attention: bool
    no_decoder_final_norm: bool
    share_all_embeddings: bool
    share_decoder_input_output_embed: bool


ARCHITECTURES: dict[str, type[Any]] = {
    "roberta": Roberta,
    "deberta": Deberta,
    "bart": Bart,
}
_MEND = "import the model again"


def check_architecture(family: Any, architecture: Any, where: object) -> None:
    """Refuse an architecture that is not one of a family's.

    Args:
        family: one of :data:`ARCHITECTURES`.
        architecture: fairseq's model arguments.
        where: the file, for the error.

    Raises:
        UserError: the family is unknown, or an argument is of another name, type or
            range than the family has.

    """
    if not isinstance(family, str) or family not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{where}: model family {family!r} is not one of: {known}")
    form = conform(ARCHITECTURES[family], architecture, where, _MEND)
    _check_sizes(form, where)


def _check_sizes(form: dict[str, Any], where: object) -> None:
    for side in ("encoder", "decoder"):
        width = form.get(f"{side}_embed_dim", 0)
        heads = form.get(f"{side}_attention_heads", 1)
        if width % heads:
            raise UserError(
                f"{where}: {side}_embed_dim {width} is not a multiple of "
                f"{side}_attention_heads {heads}; {_MEND}"
            )
        inner = form.get(f"{side}_ffn_embed_dim", 0)
        layers = form.get(f"{side}_layers", 0)
        if layers * width * (4 * width + 2 * inner) > _MOST_WEIGHTS:
            raise UserError(
                f"{where}: {layers} layers of {width} by {inner} are larger than any "
                f"model that fairseq trains; {_MEND}"
            )
