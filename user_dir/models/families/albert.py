"""ALBERT: layers that share parameters, narrow embeddings; see :mod:`..projected`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Required

from fairseq.models.roberta.model import base_architecture

from ...errors import UserError
from ..architectures import Count, Encoder, Layers, Rate
from ..packed import roberta_around
from ..projected import SharedEncoder
from .base import Kind
from .roberta import FAMILY as BERT
from .roberta import EncoderConfig, EncoderFamily, SteadyRoberta


class AlbertConfig(EncoderConfig, total=False):
    """config.json of ALBERT."""

    embedding_size: Required[Count]
    num_hidden_groups: Count
    inner_group_num: Count
    classifier_dropout_prob: Rate


class Albert(Encoder, total=False):
    """fairseq's arguments of an ALBERT; ``encoder_layers`` are those that differ."""

    embedding_size: Required[Count]
    encoder_passes: Required[Layers]


class SteadyAlbert(SteadyRoberta):
    """ALBERT with RoBERTa's interface and classification head."""

    around = roberta_around(SharedEncoder)


@dataclass(frozen=True, kw_only=True)
class AlbertFamily(EncoderFamily):
    """BERT's form, each layer with names of its own."""

    layers: ClassVar[str] = "encoder.albert_layer_groups.{}.albert_layers.0"
    layer: ClassVar[Mapping[str, str]] = {
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.dense": "self_attn.out_proj",
        "attention.LayerNorm": "self_attn_layer_norm",
        "ffn": "fc1",
        "ffn_output": "fc2",
        "full_layer_layer_norm": "final_layer_norm",
    }

    def check_config(self, config: dict[str, Any], path: Path) -> None:
        """Refuse groups of several layers, and more groups than layers.

        Raises:
            UserError: names the setting.

        """
        inner, groups = config.get("inner_group_num", 1), _groups(config)
        if inner != 1:
            raise UserError(
                f"{path}: inner_group_num {inner} is no published ALBERT's and cannot "
                "be imported"
            )
        if groups > config["num_hidden_layers"]:
            raise UserError(
                f"{path}: num_hidden_groups {groups} is more than num_hidden_layers "
                f"{config['num_hidden_layers']}: some would never be used"
            )

    def arguments(self, config: dict[str, Any], first: int) -> dict[str, Any]:
        """An encoder's, and what is shared."""
        config = {"hidden_act": "gelu_new"} | config
        return super().arguments(config, first) | {
            "encoder_layers": _groups(config),
            "encoder_passes": config["num_hidden_layers"],
            "embedding_size": config["embedding_size"],
            "dropout": config.get("hidden_dropout_prob", 0.0),
            "attention_dropout": config.get("attention_probs_dropout_prob", 0.0),
            "pooler_dropout": config.get("classifier_dropout_prob", 0.1),
        }

    def names(self, form: dict[str, Any]) -> dict[str, str]:
        """An encoder's, and the projection."""
        own = {"encoder.embedding_hidden_mapping_in": "projection"}
        return super().names(form) | own

    def settings(self, form: dict[str, Any], kind: Kind) -> dict[str, Any]:
        """An encoder's, and what is shared."""
        return super().settings(form, kind) | {
            "num_hidden_layers": form["encoder_passes"],
            "num_hidden_groups": form["encoder_layers"],
            "inner_group_num": 1,
            "embedding_size": form["embedding_size"],
            "classifier_dropout_prob": form["pooler_dropout"],
        }


def _groups(config: Mapping[str, Any]) -> int:
    groups: int = config.get("num_hidden_groups", 1)
    return groups


_POOLER = "pooler"

FAMILY = AlbertFamily(
    name="albert",
    kinds={
        "albert": Kind(
            "Albert",
            prefix="albert.",
            special={
                "<s>": "[CLS]",
                "<pad>": "<pad>",
                "</s>": "[SEP]",
                "<unk>": "<unk>",
                "<mask>": "[MASK]",
            },
            vocabulary="transformers",
            head={"dense": f"albert.{_POOLER}", "out_proj": "classifier"},
            types=2,
        )
    },
    config=AlbertConfig,
    architecture=Albert,
    model=SteadyAlbert,
    complete=base_architecture,
    stacks=BERT.stacks,
    words=BERT.words,
    unmissed=("predictions.", "sop_classifier.", f"{_POOLER}.", "embeddings.position_"),
    pooler=_POOLER,
    typed=True,
)
