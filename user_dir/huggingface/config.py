"""A Hugging Face config.json, checked for what can be carried over."""

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json
from ..models.families import kinds, of_model_type
from ..models.families.base import ACTIVATIONS, Config, Family, activation
from .sources import DAMAGED, needed


def read_config(source: Path) -> tuple[Family, dict[str, Any]]:
    """The source's config.json, and the family that its model is of.

    Raises:
        UserError: not a Hugging Face directory, a setting of a wrong type or range, or
            a form fairseq does not have.

    """
    none = f"{source} has no config.json: not a Hugging Face directory"
    path = needed(source, "config.json", none)
    kind = read_json(path, Config, DAMAGED)["model_type"]
    family = of_model_type(kind)
    if family is None:
        raise UserError(
            f"{path}: model_type '{kind}' cannot be imported; known: "
            + ", ".join(kinds())
        )
    config: dict[str, Any] = read_json(path, family.config, DAMAGED)
    _check(config, family, path)
    family.check_config(config, path)
    return family, config


def _check(config: dict[str, Any], family: Family, path: Path) -> None:
    """Refuse what fairseq has for no family."""
    for width, heads in family.shares:
        check_heads(config, width, heads, path)
    positions = config.get("position_embedding_type") or "absolute"
    decoder = config.get("is_decoder") and not family.decodes
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
