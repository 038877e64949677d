"""What a model's architecture may say: names, types and ranges.

An architecture comes from files: a model directory's manifest, a checkpoint, a release.
Nothing in it reaches fairseq before :func:`check_architecture` has seen it. What one
family has besides is in its file in :mod:`.families`.
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
Activation = Literal["gelu", "gelu_accurate", "gelu_fast", "linear", "relu", "tanh"]
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


_MEND = "import the model again"


def check_architecture(family: Any, architecture: Any, where: object) -> None:
    """Refuse an architecture that is not one of a family's.

    Args:
        family: name of one of :data:`.families.FAMILIES`.
        architecture: fairseq's model arguments.
        where: the file, for the error.

    Raises:
        UserError: the family is unknown, or an argument is of another name, type or
            range than the family has.

    """
    from .families import FAMILIES  # they import this file, and fairseq's models

    if not isinstance(family, str) or family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"{where}: model family {family!r} is not one of: {known}")
    _check_sizes(
        conform(FAMILIES[family].architecture, architecture, where, _MEND), where
    )


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
