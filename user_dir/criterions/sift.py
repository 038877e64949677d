"""Criterion ``sift``: scale-invariant fine-tuning."""

from dataclasses import dataclass
from typing import Any, Optional

from fairseq.criterions import register_criterion
from torch import nn

from ..flags import NOT_NEGATIVE, POSITIVE, option
from ..regularizers import DropoutMode
from ..regularizers.ascent import Ascent
from ..regularizers.sift import SiFT
from .options import Side, divergence, dropout, probing, side, strength
from .penalty import PenaltyCriterion, Terms
from .plain import PlainConfig, gradient_scale


@dataclass
class SiFTConfig(PlainConfig):
    """Flags of sift; sizes are in units of the normalised embedding (rms 1)."""

    sift_lambda: float = strength(5.0)
    sift_init: float = option(
        1e-2, "standard deviation of the random start", NOT_NEGATIVE
    )
    sift_step: float = option(1e-4, "L-infinity length of an ascent step", POSITIVE)
    sift_steps: int = option(
        1, "ascent steps (0 leaves the random start)", NOT_NEGATIVE
    )
    sift_eps: Optional[float] = option(
        None, "radius of the L-infinity ball; default: no projection", POSITIVE
    )
    sift_divergence: str = divergence()
    sift_side: Side = side()
    sift_dropout: DropoutMode = dropout()
    sift_probe_interval: int = probing()


@register_criterion("sift", dataclass=SiFTConfig)
class SiFTCriterion(PenaltyCriterion):
    """Task loss + lambda * sum over sentences of l_s(f(LN0(e) + delta), f(e)).

    Costs 3 forwards and 2 backwards plus one backward to the embeddings per ascent
    step. See :class:`..regularizers.SiFT` for the method and its source.
    """

    method = "sift"
    point = "norm"
    cfg: SiFTConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        ascent = Ascent(self.cfg.sift_steps, self.cfg.sift_step, self.cfg.sift_eps)
        self._sift = SiFT(self.cfg.sift_init, ascent)

    def read_terms(self) -> Terms:
        """Flags that are not SiFT's own."""
        cfg = self.cfg
        return Terms(
            cfg.sift_lambda,
            cfg.sift_divergence,
            cfg.sift_dropout,
            cfg.sift_probe_interval,
            cfg.sift_side,
        )

    def regularizer(self, model: nn.Module) -> SiFT:
        """SiFT as its flags say, at the precision of the model."""
        return self._sift.scaled(gradient_scale(model))
