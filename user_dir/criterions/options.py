"""Options that several criterions have."""

from typing import Any, Literal

from ..flags import (
    FACTOR,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    Range,
    at_least,
    one_of,
    option,
)
from ..regularizers import DIVERGENCES
from ..regularizers.dropout import MODES

Noise = Literal["uniform", "normal"]
Side = Literal["encoder", "decoder", "both"]


#: What the size of noise is.
NOISE = "standard deviation, or half the width of uniform noise"


def strength(default: float) -> Any:
    """Lambda, the factor of the regulariser in the loss."""
    return option(default, "factor of the regulariser (0 trains plain)", NOT_NEGATIVE)


def warmup(default: float = 0.0) -> Any:
    """How long lambda rises."""
    return option(
        default,
        "share of the updates over which lambda rises linearly from 0",
        PROBABILITY,
    )


def radius(text: str, values: Range = NOT_NEGATIVE, more: str = "") -> Any:
    """How large it is in units of the embeddings; by default it is relative."""
    return option(None, f"{text}; in place of eps-relative{more}", values)


def relative(
    default: float,
    values: Range = NOT_NEGATIVE,
    whose: str = "sentence's embeddings",
) -> Any:
    """How large it is beside what it is added to."""
    return option(
        default,
        f"radius as a multiple of the root mean square of the {whose}; the "
        "method's other lengths are multiples of it too",
        values,
    )


def noise(default: Noise, text: str = "distribution of the noise") -> Any:
    """How a perturbation is drawn."""
    return option(default, text, one_of("uniform", "normal"))


def dropout(
    default: str = "independent",
    text: str = "masks of the extra passes: independent, shared with the clean pass, "
    "or off",
) -> Any:
    """What the dropout masks of a method's own passes are."""
    return option(default, text, MODES)


def divergence() -> Any:
    """What compares the passes."""
    return option(
        "auto",
        "sym_kl, kl or mse; auto: sym_kl, and mse for scores",
        one_of("auto", *DIVERGENCES),
    )


def side() -> Any:
    """Whose embeddings are perturbed."""
    return option(
        "encoder",
        "embeddings that are perturbed: the encoder's, the decoder's or both",
        one_of("encoder", "decoder", "both"),
    )


def probing() -> Any:
    """How often dropout's own share of the divergence is measured."""
    return option(
        100,
        "regularised updates between measurements of dropout's share of the "
        "divergence (0: never)",
        NOT_NEGATIVE,
    )


def every() -> Any:
    """Which updates are regularised."""
    return option(
        1,
        "regularise every this many updates, and as much more strongly",
        at_least(1),
    )


def fraction() -> Any:
    """How many sentences are regularised."""
    return option(
        1.0,
        "share of the sentences that are regularised, drawn anew at each update and "
        "weighted by its inverse",
        FACTOR,
    )


def stop_gradient() -> Any:
    """Which side of the divergence is held fixed in backward."""
    return option(
        "none",
        "side of the divergence without gradient: none, clean, or perturbed, which "
        "saves the extra pass its backward",
        one_of("none", "clean", "perturbed"),
    )


def cache() -> Any:
    """How long a perturbation is kept."""
    return option(
        0,
        "times that a sentence's perturbation is used again, once an epoch, before it "
        "is sought anew (0: always anew)",
        NOT_NEGATIVE,
    )


def cache_refresh() -> Any:
    """Where an old perturbation is sought anew from."""
    return option(False, "seek old perturbations anew from where they were, not noise")


def cache_gb() -> Any:
    """How much memory kept perturbations may take."""
    return option(4.0, "GB of memory that kept perturbations may take", POSITIVE)
