"""The model that a model directory describes: ``--steady-model DIR``."""

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import OmegaConf, open_dict
from torch import nn

from ..errors import UserError
from ..flags import SHARE, Flags, check_flags, option
from ..model_dir import Manifest, ModelDirectory
from ..regularizers.injection import find_encoder
from .architectures import check_architecture
from .families import FAMILIES
from .families.base import set_layer_norm_eps
from .packed import pack
from .segments import add_segments

HEAD = "sentence_classification_head"


def _rate(what: str) -> Any:
    text = f"dropout probability {what}; default: the pretrained model's own"
    return option(None, text, SHARE)


@dataclass
class SteadyModelConfig(Flags, FairseqDataclass):
    """What may still be chosen about a pretrained model."""

    dropout: Optional[float] = _rate("of embeddings and residual branches")
    attention_dropout: Optional[float] = _rate("of attention weights")
    activation_dropout: Optional[float] = _rate("inside the feed-forward layers")
    pooler_dropout: Optional[float] = _rate("around the classification head")
    encoder_layerdrop: Optional[float] = option(
        None, "probability to drop a whole layer", SHARE
    )
    architecture: str = option(
        "", "filled in from the model directory; not for the user"
    )


def _arguments(cfg: SteadyModelConfig, manifest: dict[str, Any]) -> argparse.Namespace:
    check_flags(cfg, SteadyModelConfig)
    chosen = {
        name: getattr(cfg, name)
        for name in SteadyModelConfig.__dataclass_fields__
        if name not in ("_name", "architecture") and getattr(cfg, name) is not None
    }
    # BART asks which task its checkpoint was trained for.
    return argparse.Namespace(**{"task": None, **manifest["architecture"], **chosen})


def _described(text: str) -> dict[str, Any]:
    """Family and architecture as JSON, checked again: this is fairseq's door."""
    where = "the checkpoint's architecture"
    try:
        described: dict[str, Any] = json.loads(text)
        check_architecture(described["family"], described["architecture"], where)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} cannot be read; train it again") from None
    return described


@register_model("steady", dataclass=SteadyModelConfig)
class SteadyModel(BaseFairseqModel):
    """Builds the fairseq model of a model directory."""

    @classmethod
    def build_model(cls, cfg: SteadyModelConfig, task: Any) -> BaseFairseqModel:
        """Architecture from the manifest, or from the checkpoint that recorded it.

        Raises:
            UserError: no model directory was named, or its family is unknown.

        """
        if not cfg.architecture:
            raise UserError(
                "--arch steady needs a task of this plugin and --steady-model DIR; for "
                "another task name fairseq's own architecture: --arch roberta_base"
            )
        described = _described(cfg.architecture)
        family = FAMILIES[described["family"]]
        args = _arguments(cfg, described)
        family.complete(args)
        model = family.model.build_model(args, task)
        model.form = vars(args)  # BART keeps only a part of it
        model.stacks = family.stacks
        set_layer_norm_eps(model, described["architecture"].get("layer_norm_eps"))
        pack(find_encoder(model))
        if described["architecture"].get("token_types"):
            add_segments(find_encoder(model))
        return model


def record_architecture(cfg: SteadyModelConfig, manifest: Manifest) -> None:
    """Keep the manifest's architecture in the config, and so in each checkpoint."""
    described = {"family": manifest.family, "architecture": manifest.architecture}
    with open_dict(cfg) if OmegaConf.is_config(cfg) else nullcontext():
        cfg.architecture = json.dumps(described)


def take_pooler(model: Any, directory: ModelDirectory) -> None:
    """Start every head's inner layer from BERT's pooler, or what a family has for it.

    Raises:
        UserError: the model directory has no pooler.

    """
    _, pooler = directory.weights()
    if not pooler:
        raise UserError(
            f"{directory.path} has no pooler (RoBERTa never has one); leave out "
            "--steady-pooler"
        )
    for head in model.classification_heads.values():
        head.load_state_dict(head.state_dict() | pooler)  # a name of no layer fails


def take_head(
    model: Any, directory: ModelDirectory, order: Sequence[int] | None = None
) -> None:
    """Start the head from the model directory's own.

    Args:
        model: with a head of as many outputs.
        directory: has a head.
        order: which of its outputs each of the model's is; as they are by default.

    Raises:
        UserError: the head is not as the manifest describes it, or the model's is of
            another form.

    """
    state, head = directory.head(), model.classification_heads[HEAD]
    for name in ("out_proj.weight", "out_proj.bias"):
        if order is not None:
            state[name] = state[name][list(order)]
    wanted = {name: tensor.shape for name, tensor in head.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in state.items()}:
        raise UserError(
            f"the head of {directory.path} reads a text's first token, and this task's "
            "is of another form: --steady-new-head leaves it behind"
        )
    head.load_state_dict(state)


def load_pretrained(model: nn.Module, directory: ModelDirectory) -> None:
    """Copy a model directory's weights into a freshly built model with its head.

    Raises:
        UserError: the weights do not fit the architecture.

    """
    weights, _ = directory.weights()
    try:
        model.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise UserError(
            f"the weights of {directory.path} do not fit its manifest: "
            f"{str(error).splitlines()[-1].strip()}; import the model again"
        ) from None
