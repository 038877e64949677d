"""MPNet: RoBERTa's form and a table of relative positions; see :mod:`..relative`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fairseq.models.roberta.model import base_architecture

from ...errors import UserError
from ..architectures import Count, Encoder
from ..packed import roberta_around
from ..relative import BUCKETS, RelativeEncoder
from .base import Kind, State, Weights
from .roberta import FAMILY as ROBERTA
from .roberta import FEED_FORWARD, HEAD, EncoderConfig, EncoderFamily, SteadyRoberta

_TABLE = "encoder.relative_attention_bias.weight"
_OWN = "relative.embedding.weight"


class MPNetConfig(EncoderConfig, total=False):
    """config.json of MPNet."""

    relative_attention_num_buckets: Count


class SteadyMPNet(SteadyRoberta):
    """MPNet with RoBERTa's interface and classification head."""

    around = roberta_around(RelativeEncoder)


@dataclass(frozen=True, kw_only=True)
class MPNetFamily(EncoderFamily):
    """BERT's names but for attention, and the table of relative positions."""

    layer: ClassVar[Mapping[str, str]] = FEED_FORWARD | {
        "attention.attn.q": "self_attn.q_proj",
        "attention.attn.k": "self_attn.k_proj",
        "attention.attn.v": "self_attn.v_proj",
        "attention.attn.o": "self_attn.out_proj",
        "attention.LayerNorm": "self_attn_layer_norm",
    }

    def check_config(self, config: dict[str, Any], path: Path) -> None:
        """Refuse another number of buckets.

        Raises:
            UserError: names the setting.

        """
        buckets = config.get("relative_attention_num_buckets", BUCKETS)
        if buckets != BUCKETS:
            raise UserError(
                f"{path}: relative_attention_num_buckets {buckets} cannot be imported: "
                f"every published MPNet has {BUCKETS}"
            )

    def read_body(self, weights: Weights, form: dict[str, Any]) -> State:
        """An encoder's, and the table."""
        table = weights(_TABLE, BUCKETS, form["encoder_attention_heads"])
        return super().read_body(weights, form) | {_OWN: table}

    def write_body(self, ours: State, form: dict[str, Any]) -> State:
        """The way back from :meth:`read_body`."""
        return super().write_body(ours, form) | {_TABLE: ours[_OWN]}

    def settings(self, form: dict[str, Any], kind: Kind) -> dict[str, Any]:
        """An encoder's, and the number of buckets."""
        own = {"relative_attention_num_buckets": BUCKETS}
        return super().settings(form, kind) | own


FAMILY = MPNetFamily(
    name="mpnet",
    kinds={
        "mpnet": Kind(
            "MPNet",
            prefix="mpnet.",
            special={
                "<s>": "<s>",
                "<pad>": "<pad>",
                "</s>": "</s>",
                "<unk>": "[UNK]",
                "<mask>": "<mask>",
            },
            vocabulary="transformers",
            head=HEAD,
            first=2,
        )
    },
    config=MPNetConfig,
    architecture=Encoder,
    model=SteadyMPNet,
    complete=base_architecture,
    stacks=ROBERTA.stacks,
    words=ROBERTA.words,
    unmissed=ROBERTA.unmissed,
)
