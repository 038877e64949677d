"""Criterion ``r3f``: noise on the embeddings that arrives."""

from dataclasses import dataclass
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from torch import nn

from ..errors import UserError
from ..regularizers.divergence import Divergence
from ..regularizers.r3f import R3F
from ._flags import (
    DIVERGENCE,
    DROPOUT,
    NOISE,
    SIDE,
    divergence,
    dropout,
    not_negative,
    option,
    probing,
    side,
    strength,
)
from ._kinds import Tokens
from ._penalty import PenaltyCriterion
from .plain import PlainConfig

REDUCTION = ChoiceEnum(["token", "fairseq"])


@dataclass
class R3FConfig(PlainConfig):
    """Flags of r3f; sizes are in embedding units."""

    r3f_lambda: float = strength(1.0)
    r3f_eps: float = not_negative(
        1e-5, "standard deviation, or half the width of uniform noise"
    )
    r3f_noise: NOISE = option("uniform", "uniform or normal")  # type: ignore[valid-type]
    r3f_divergence: DIVERGENCE = divergence()  # type: ignore[valid-type]
    r3f_reduction: REDUCTION = option(  # type: ignore[valid-type]
        "token",
        "sequence to sequence: token sums over real target tokens; fairseq is its own "
        "criterion's, lambda times the padded target length",
    )
    r3f_live_embeddings: bool = option(
        False, "let the noised pass train the word embeddings too"
    )
    r3f_side: SIDE = side()  # type: ignore[valid-type]
    r3f_dropout: DROPOUT = dropout()  # type: ignore[valid-type]
    r3f_probe_interval: int = probing()


@register_criterion("r3f", dataclass=R3FConfig)
class R3FCriterion(PenaltyCriterion):
    """Task loss + lambda * sum over items of KL_S(f(e + z), f(e)).

    Costs 2 forwards and 2 backwards. See :class:`..regularizers.R3F` for the method
    and its source.
    """

    method = "r3f"

    def regularizer(self, model: nn.Module) -> R3F:
        """R3F with its flags."""
        return R3F(
            str(self.flag("noise")), self.flag("eps"), self.flag("live_embeddings")
        )

    def compare(self, sample: dict[str, Any], consume: bool = False) -> Divergence:
        """Per sentence; by fairseq's reduction if asked for."""
        if self.flag("reduction") == "token":
            return super().compare(sample, consume)
        if not isinstance(self.kind, Tokens):
            raise UserError(
                f"--{self.method}-reduction fairseq is about target tokens; this task "
                "has none"
            )
        name = str(self.flag("divergence"))
        return self.kind.padded_divergence(name, sample)
