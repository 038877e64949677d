"""BART and mBART: encoder-decoders as fairseq's BART."""

from dataclasses import dataclass
from typing import Any, Required

import numpy as np
import torch
from fairseq.models.bart import BARTModel
from fairseq.models.bart.model import bart_base_architecture
from torch import Tensor

from ...errors import UserError
from ..architectures import Count, Encoder, Kept, Layers, Positions, Rate
from .base import (
    ACTIVATIONS,
    ANGLES,
    Config,
    Family,
    Imported,
    Kind,
    State,
    Weights,
    activation,
    activation_back,
    below,
    without_foreign_bounds,
)

#: Hugging Face's name of each setting and fairseq's.
_SETTINGS = {
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "encoder_attention_heads": "encoder_attention_heads",
    "decoder_attention_heads": "decoder_attention_heads",
    "encoder_ffn_dim": "encoder_ffn_embed_dim",
    "decoder_ffn_dim": "decoder_ffn_embed_dim",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
}
#: Whether there is one table of words.
_SHARED = ("share_all_embeddings", "share_decoder_input_output_embed")
#: The same on both sides.
_LAYERDROP = ("encoder_layerdrop", "decoder_layerdrop")
_SIDES = ("encoder", "decoder")
#: Other names of the one table of words in Hugging Face's files, and fairseq's.
_TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
_TABLES = ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection")


class BartConfig(Config, total=False):
    """config.json of BART and mBART."""

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
    encoder_layerdrop: Rate
    decoder_layerdrop: Rate
    scale_embedding: bool
    normalize_before: bool


class Bart(Encoder, total=False):
    """fairseq's arguments of an encoder-decoder."""

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


class SteadyBart(BARTModel):
    """BART that reads the checkpoints of r4f."""

    def upgrade_state_dict_named(
        self, state_dict: dict[str, Tensor], name: str
    ) -> None:
        """Leave out what r4f keeps beside its head."""
        upgrade = super().upgrade_state_dict_named
        without_foreign_bounds(self, state_dict, lambda: upgrade(state_dict, name))


@dataclass(frozen=True, kw_only=True)
class BartFamily(Family):
    """Encoder-decoders with one table of words."""

    def read(
        self, weights: Weights, config: dict[str, Any], rows: np.ndarray, paired: bool
    ) -> Imported:
        """Hugging Face's weights as fairseq's; see :meth:`Family.read`.

        Raises:
            UserError: the model adds a bias to its logits, or has a second table of
                words, which fairseq's cannot.

        """
        words = weights(self.words, -1, -1)
        _check_logits(weights, words)
        table = words[torch.from_numpy(rows)]
        body = {
            name: weights(name)
            for name in weights.tensors
            if name.startswith(("encoder.", "decoder.")) and "embed_tokens" not in name
        }
        state = body | {f"{name}.weight": table for name in _TABLES}
        # Without it fairseq takes the last layer norm of a pre-norm model away.
        version = {f"{side}.version": torch.tensor([3.0]) for side in _SIDES}
        return Imported(_arguments(config), state | version, {})

    def write(
        self, ours: State, form: dict[str, Any], kind: Kind, rows: Tensor
    ) -> State:
        """The way back; see :meth:`Family.write`."""
        state = {
            f"{side}.{name}": tensor
            for side in _SIDES
            for name, tensor in below(ours, f"{side}.").items()
            if not name.startswith(("embed_tokens", "output_projection", "version"))
        }
        return state | {self.words: ours["encoder.embed_tokens.weight"][rows]}

    def settings(self, form: dict[str, Any], kind: Kind) -> dict[str, Any]:
        """What config.json says; see :meth:`Family.settings`."""
        return {
            **{theirs: form[ours] for theirs, ours in _SETTINGS.items()},
            **{name: float(form.get(name, 0)) for name in _LAYERDROP},
            "d_model": form["encoder_embed_dim"],
            "max_position_embeddings": form["max_positions"],
            "activation_function": activation_back(form),
            "scale_embedding": not form["no_scale_embedding"],
            "normalize_before": form["encoder_normalize_before"],
            "classifier_dropout": form["pooler_dropout"],
        }

    def check_export(self, form: dict[str, Any]) -> None:
        """Refuse two copies of BERT; see :meth:`Family.check_export`.

        Raises:
            UserError: LayerNorm's epsilon is not BART's, or there are two word tables.

        """
        if not all(form.get(name, True) for name in _SHARED):
            raise UserError(
                "a decoder with a word table of its own (as --separate-embeddings "
                "gives it) has no form in transformers' BART, which has one table"
            )
        if form.get("layer_norm_eps", 1e-5) != 1e-5:
            raise UserError(
                "two copies of BERT (--bert2bert) have no form in transformers: BART's "
                "LayerNorm has another epsilon"
            )


def _check_logits(weights: Weights, words: Tensor) -> None:
    bias = weights.get("final_logits_bias")
    if bias is not None and bool(bias.any()):
        raise UserError(
            f"{weights.source}: final_logits_bias is not 0, and fairseq's BART has none"
        )
    for name in _TIED:
        other = weights.get(name)
        if other is not None and not torch.equal(other, words):
            raise UserError(
                f"{weights.source}: {name} is not {FAMILY.words}, and fairseq's BART "
                "has one table"
            )


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """fairseq's arguments for a config.json."""
    pre_norm = config["model_type"] == "mbart" or config.get("normalize_before", False)
    positions, width = config["max_position_embeddings"], config["d_model"]
    return {
        **{ours: config[theirs] for theirs, ours in _SETTINGS.items()},
        **{name: config[name] for name in _LAYERDROP if config.get(name)},
        "encoder_embed_dim": width,
        "decoder_embed_dim": width,
        "max_positions": positions,
        "max_source_positions": positions,
        "max_target_positions": positions,
        "activation_fn": ACTIVATIONS[activation(config, FAMILY.activates)],
        "no_scale_embedding": not config.get("scale_embedding", False),
        "encoder_normalize_before": pre_norm,
        "decoder_normalize_before": pre_norm,
        "pooler_dropout": config.get("classifier_dropout") or 0.0,
    }


_HEAD = {name: f"classification_head.{name}" for name in ("dense", "out_proj")}

FAMILY = BartFamily(
    name="bart",
    kinds={
        "bart": Kind("Bart", "model.", ANGLES, "byte-level", _HEAD),
        "mbart": Kind("MBart", "model.", ANGLES, "transformers", _HEAD),
    },
    config=BartConfig,
    architecture=Bart,
    model=SteadyBart,
    complete=bart_base_architecture,
    stacks=_SIDES,
    shares=tuple(("d_model", f"{side}_attention_heads") for side in _SIDES),
    words="shared.weight",
    activates="activation_function",
    unmissed=(
        *("lm_head.", "encoder.embed_tokens.", "decoder.embed_tokens."),
        "final_logits_bias",
    ),
    decodes=True,
    released=True,
)
