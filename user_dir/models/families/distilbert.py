"""DistilBERT: BERT's form without token types, under names of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Required

from ..architectures import Count, Encoder, Layers, Positions, Rate
from .base import ACTIVATIONS, BRACKETS, Config, Kind, activation, activation_back
from .roberta import FAMILY as BERT
from .roberta import EncoderFamily, SteadyRoberta, completing

#: Hugging Face's name of each setting and fairseq's.
_SETTINGS = {
    "n_layers": "encoder_layers",
    "dim": "encoder_embed_dim",
    "hidden_dim": "encoder_ffn_embed_dim",
    "n_heads": "encoder_attention_heads",
    "max_position_embeddings": "max_positions",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "seq_classif_dropout": "pooler_dropout",
}
#: What transformers has where a configuration says nothing.
_DEFAULTS = {"dropout": 0.1, "attention_dropout": 0.1, "seq_classif_dropout": 0.2}


class DistilBertConfig(Config, total=False):
    """config.json of DistilBERT; sinusoidal positions are a table in the weights."""

    n_layers: Required[Layers]
    dim: Required[Count]
    hidden_dim: Required[Count]
    n_heads: Required[Count]
    max_position_embeddings: Required[Positions]
    dropout: Rate
    attention_dropout: Rate
    seq_classif_dropout: Rate


@dataclass(frozen=True, kw_only=True)
class DistilBertFamily(EncoderFamily):
    """An encoder with other names and settings, and ReLU in its head."""

    layers: ClassVar[str] = "transformer.layer.{}"
    layer: ClassVar[Mapping[str, str]] = {
        "attention.q_lin": "self_attn.q_proj",
        "attention.k_lin": "self_attn.k_proj",
        "attention.v_lin": "self_attn.v_proj",
        "attention.out_lin": "self_attn.out_proj",
        "sa_layer_norm": "self_attn_layer_norm",
        "ffn.lin1": "fc1",
        "ffn.lin2": "fc2",
        "output_layer_norm": "final_layer_norm",
    }

    def arguments(self, config: dict[str, Any], first: int) -> dict[str, Any]:
        """fairseq's arguments for a config.json."""
        given = _DEFAULTS | config
        return {
            **{ours: given[theirs] for theirs, ours in _SETTINGS.items()},
            "activation_fn": ACTIVATIONS[activation(config, self.activates)],
            "layer_norm_eps": 1e-12,
        }

    def settings(self, form: dict[str, Any], kind: Kind) -> dict[str, Any]:
        """What config.json says."""
        return {
            **{theirs: form[ours] for theirs, ours in _SETTINGS.items()},
            "activation": activation_back(form),
            "sinusoidal_pos_embds": False,
        }


FAMILY = DistilBertFamily(
    name="distilbert",
    kinds={
        "distilbert": Kind(
            "DistilBert",
            prefix="distilbert.",
            special=BRACKETS,
            vocabulary="wordpiece",
            head={"dense": "pre_classifier", "out_proj": "classifier"},
        )
    },
    config=DistilBertConfig,
    architecture=Encoder,
    model=SteadyRoberta,
    complete=completing(pooler_activation_fn="relu"),
    stacks=BERT.stacks,
    words=BERT.words,
    unmissed=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
    shares=(("dim", "n_heads"),),
    activates="activation",
)
