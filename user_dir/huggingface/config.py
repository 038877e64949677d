"""A Hugging Face config.json, checked for what can be carried over."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from ..errors import UserError
from ..files import read_json
from ..models.families import kinds, of_model_type
from ..models.families.base import ACTIVATIONS, Config, Family, activation
from .sources import DAMAGED, inside, needed

#: What names of types and classes that are not imported tell of them.
_FORMS = {
    r"image|vision|pixel|vit|clip|swin|resnet|detr": "it reads pictures",
    r"audio|speech|wav2vec|whisper|hubert": "it reads sound",
    r"t5|pegasus|marian|m2m|prophetnet|conditionalgeneration": (
        "an encoder-decoder of another form than BART's"
    ),
    r"gpt|llama|mistral|mixtral|qwen|gemma|bloom|falcon|phi|\bopt|causallm|lmhead": (
        "a decoder alone: no token of it sees those after it"
    ),
}


class _Adapter(TypedDict, total=False):
    """What is read of an adapter_config.json."""

    base_model_name_or_path: str | None


def read_config(source: Path) -> tuple[Family, dict[str, Any]]:
    """The source's config.json, and the family that its model is of.

    Raises:
        UserError: not a Hugging Face directory, a setting of a wrong type or range, or
            a form fairseq does not have.

    """
    _refuse_adapter(source)
    none = f"{source} has no config.json: not a Hugging Face directory"
    path = needed(source, "config.json", none)
    said = read_json(path, Config, DAMAGED)
    if "model_type" not in said:
        raise UserError(
            f"{path} names no model_type, as models of before 2020 do not; add it, as "
            '"model_type": "bert" for a BERT'
        )
    family = of_model_type(said["model_type"])
    if family is None:
        raise UserError(
            f"{path}: model_type '{said['model_type']}' cannot be imported; known: "
            f"{', '.join(kinds())}{_form(said)}"
        )
    if quantised := said.get("quantization_config"):
        raise UserError(
            f"{path}: weights quantised by {quantised.get('quant_method')!r} cannot be "
            "imported; fp32, fp16 and bf16 can, so take the model they were made from"
        )
    config: dict[str, Any] = read_json(path, family.config, DAMAGED)
    _check(config, family, path)
    family.check_config(config, path)
    return family, config


def _refuse_adapter(source: Path) -> None:
    if path := inside(source, "adapter_config.json"):
        base = read_json(path, _Adapter, DAMAGED).get("base_model_name_or_path")
        raise UserError(
            f"{path}: an adapter of {base or 'some model'} is no model; merge the two "
            "with peft (merge_and_unload, then save_pretrained) and import the result"
        )


def _form(config: Mapping[str, Any]) -> str:
    """What is known of a form that no family has, in brackets."""
    names = (config["model_type"], *(config.get("architectures") or ()))
    said = " ".join(names).lower()
    found = (what for names, what in _FORMS.items() if re.search(names, said))
    return next((f" ({what})" for what in found), "")


def _check(config: dict[str, Any], family: Family, path: Path) -> None:
    """Refuse what fairseq has for no family."""
    for width, heads in family.shares:
        check_heads(config, width, heads, path)
    said = family.named_positions and config.get("position_embedding_type")
    positions = said or "absolute"
    decoder = config.get("is_decoder") and not family.decodes
    if positions != "absolute" or decoder:
        raise UserError(
            f"{path}: fairseq has no {positions} positions or decoder in this form; "
            "only encoders with absolute positions can be imported"
        )
    named = activation(config, family.activates)
    if named not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"{path}: {family.activates} '{named}' is none of {known}")


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
