"""Flags of criterions: help, ranges, and the check that both are kept."""

import dataclasses
from collections.abc import Callable
from typing import Any

from fairseq.dataclass import ChoiceEnum

from ..errors import UserError
from ..regularizers import DIVERGENCES

DIVERGENCE = ChoiceEnum(["auto", *DIVERGENCES])
DROPOUT = ChoiceEnum(["independent", "shared", "off"])
NOISE = ChoiceEnum(["uniform", "normal"])
SIDE = ChoiceEnum(["encoder", "decoder", "both"])

Good = Callable[[Any], bool]


def option(default: Any, text: str, good: Good = lambda _: True) -> Any:
    """A flag with its help, and what its values must satisfy."""
    return dataclasses.field(default=default, metadata={"help": text, "good": good})


def positive(default: float, text: str) -> Any:
    """A flag above 0."""
    return option(default, f"{text}, > 0", lambda v: v > 0)


def not_negative(default: Any, text: str) -> Any:
    """A flag of at least 0."""
    return option(default, f"{text}, >= 0", lambda v: v >= 0)


def share(default: float, text: str) -> Any:
    """A flag in [0, 1)."""
    return option(default, f"{text}, in [0, 1)", lambda v: 0 <= v < 1)


def strength(default: float) -> Any:
    """Lambda."""
    return not_negative(default, "factor of the regulariser (0 trains plain)")


def dropout(default: str = "independent") -> Any:
    """What the masks of the extra passes are."""
    return option(
        default,
        "masks of the extra passes: independent, shared with the clean pass, or off",
    )


def divergence() -> Any:
    """What compares the passes."""
    return option("auto", "sym_kl, kl or mse; auto: sym_kl, and mse for scores")


def side() -> Any:
    """Whose embeddings are perturbed."""
    return option(
        "encoder", "embeddings that are perturbed: the encoder's, the decoder's or both"
    )


def probing() -> Any:
    """How often dropout's own share of the divergence is measured."""
    return not_negative(
        100,
        "batches between measurements of dropout's share of the divergence (0: never)",
    )


def check_flags(cfg: Any, config: type) -> None:
    """Refuse values that cannot be meant.

    Raises:
        UserError: names the flag, the value and the range.

    """
    for item in dataclasses.fields(config):
        value = getattr(cfg, item.name)
        if not item.metadata.get("good", lambda _: True)(value):
            flag = item.name.replace("_", "-")
            raise UserError(
                f"--{flag} {value} is out of range: {item.metadata['help']}"
            )
