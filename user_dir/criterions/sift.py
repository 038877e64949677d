"""Criterion ``sift``: scale-invariant fine-tuning."""

from dataclasses import dataclass
from typing import Optional

from fairseq.criterions import register_criterion
from torch import nn

from ..regularizers.ascent import Ascent
from ..regularizers.sift import SiFT
from ._flags import (
    DIVERGENCE,
    DROPOUT,
    SIDE,
    divergence,
    dropout,
    not_negative,
    option,
    positive,
    probing,
    side,
    strength,
)
from ._penalty import PenaltyCriterion
from .plain import PlainConfig, gradient_scale


@dataclass
class SiFTConfig(PlainConfig):
    """Flags of sift; sizes are in units of the normalised embedding (rms 1)."""

    sift_lambda: float = strength(5.0)
    sift_init: float = not_negative(1e-2, "standard deviation of the random start")
    sift_step: float = positive(1e-4, "L-infinity length of an ascent step")
    sift_steps: int = not_negative(1, "ascent steps (0 leaves the random start)")
    sift_eps: Optional[float] = option(
        None,
        "radius of the L-infinity ball, > 0; default: no projection",
        lambda v: v is None or v > 0,
    )
    sift_divergence: DIVERGENCE = divergence()  # type: ignore[valid-type]
    sift_side: SIDE = side()  # type: ignore[valid-type]
    sift_dropout: DROPOUT = dropout()  # type: ignore[valid-type]
    sift_probe_interval: int = probing()


@register_criterion("sift", dataclass=SiFTConfig)
class SiFTCriterion(PenaltyCriterion):
    """Task loss + lambda * sum over sentences of l_s(f(LN0(e) + delta), f(e)).

    Costs 3 forwards and 2 backwards plus one backward to the embeddings per ascent
    step. See :class:`..regularizers.SiFT` for the method and its source.
    """

    method = "sift"
    point = "norm"

    def regularizer(self, model: nn.Module) -> SiFT:
        """SiFT with its flags."""
        ascent = Ascent(
            self.flag("steps"),
            self.flag("step"),
            self.flag("eps"),
            gradient_scale(model),
        )
        return SiFT(self.flag("init"), ascent)
