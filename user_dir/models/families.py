"""The model classes that model directories name: fairseq's, and DeBERTa beside them."""

import argparse
from collections.abc import Callable
from typing import Any

from fairseq.models import register_model, register_model_architecture
from fairseq.models.bart import BARTModel
from fairseq.models.bart.model import bart_base_architecture
from fairseq.models.roberta import RobertaModel
from fairseq.models.roberta.model import base_architecture
from torch import Tensor, nn

from ..regularizers.spectral import EXTRA
from .deberta import DebertaEncoder


def _without_foreign_bounds(
    model: nn.Module, state: dict[str, Tensor], upgrade: Callable[[], None]
) -> None:
    """Upgrade a state dict; r4f's vectors stay where it and the model have them.

    fairseq fills in whatever a checkpoint lacks of a head, which would put the model's
    own matrix beside the checkpoint's.
    """
    bounds = [key for key in model.state_dict() if key.endswith(EXTRA)]
    held = set(state)
    upgrade()
    for key in [key for key in state if key.endswith(EXTRA)]:
        if key not in held or key not in bounds:
            del state[key]


class SteadyRoberta(RobertaModel):
    """RoBERTa and BERT without the language-model head, which fine-tuning never uses.

    Without it every parameter gets a gradient, so distributed training needs no
    ``--find-unused-parameters``.
    """

    def __init__(self, args: argparse.Namespace, encoder: nn.Module) -> None:
        super().__init__(args, encoder)
        self.encoder.lm_head = None

    def upgrade_state_dict_named(
        self, state_dict: dict[str, Tensor], name: str
    ) -> None:
        """Drop a language-model head from a checkpoint that has one."""
        upgrade = super().upgrade_state_dict_named
        _without_foreign_bounds(self, state_dict, lambda: upgrade(state_dict, name))
        for key in [k for k in state_dict if ".lm_head." in f".{k}"]:
            del state_dict[key]


class SteadyBart(BARTModel):
    """BART that reads the checkpoints of r4f."""

    def upgrade_state_dict_named(
        self, state_dict: dict[str, Tensor], name: str
    ) -> None:
        """Leave out what r4f keeps beside its head."""
        upgrade = super().upgrade_state_dict_named
        _without_foreign_bounds(self, state_dict, lambda: upgrade(state_dict, name))


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
        model = cls(args, DebertaEncoder(args, task.source_dictionary))
        set_layer_norm_eps(model, args.layer_norm_eps)
        return model


def set_layer_norm_eps(model: nn.Module, eps: float | None) -> None:
    """Fairseq hard-codes 1e-5; BERT was trained with 1e-12, DeBERTa with 1e-7."""
    for module in model.modules():
        if eps is not None and "LayerNorm" in type(module).__name__:
            module.eps = eps  # type: ignore[assignment]


def _architecture(name: str, **sizes: Any) -> Callable[[Any], None]:
    """Register a size by name; what the user chose stays."""
    register = register_model_architecture("deberta", name)

    def complete(args: Any) -> None:
        defaults = {n: default for n, (default, _) in _FORM.items()} | sizes
        for key, value in {**_DEBERTA, **defaults}.items():
            if getattr(args, key, None) is None:
                setattr(args, key, value)
        base_architecture(args)

    registered: Callable[[Any], None] = register(complete)
    return registered


def _size(layers: int, width: int, heads: int) -> dict[str, int]:
    return {
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": 4 * width,
        "encoder_attention_heads": heads,
    }


#: DeBERTa's own, of RoBERTa's arguments.
_DEBERTA = {
    "no_token_positional_embeddings": True,
    "pooler_activation_fn": "gelu",
    "layer_norm_eps": 1e-7,
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


FAMILIES = {
    "roberta": (SteadyRoberta, base_architecture),
    "bart": (SteadyBart, bart_base_architecture),
    "deberta": (SteadyDeberta, deberta_v3_base),
}
