"""Criterion ``sift``: scale-invariant fine-tuning."""

from dataclasses import dataclass
from typing import Any, ClassVar, Optional

from fairseq.criterions import register_criterion
from torch import nn

from ..flags import NOT_NEGATIVE, POSITIVE, option
from ..presets import Paper
from ..regularizers import DropoutMode, Stopped
from ..regularizers.ascent import Ascent
from ..regularizers.sift import SiFT
from .caching import AscentCriterion
from .options import (
    Side,
    cache,
    cache_gb,
    cache_refresh,
    divergence,
    dropout,
    every,
    fraction,
    probing,
    side,
    stop_gradient,
    strength,
    warmup,
)
from .plain import PlainConfig, gradient_scale


@dataclass
class SiFTConfig(PlainConfig):
    """Flags of sift; sizes are in units of the normalised embedding (rms 1)."""

    sift_lambda: float = strength(2.5)
    sift_warmup: float = warmup(1.0)
    sift_init: float = option(
        0.05, "standard deviation of the random start", NOT_NEGATIVE
    )
    sift_step: float = option(0.1, "L-infinity length of an ascent step", POSITIVE)
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
    sift_every: int = every()
    sift_fraction: float = fraction()
    sift_stop_gradient: Stopped = stop_gradient()
    sift_cache: int = cache()
    sift_cache_refresh: bool = cache_refresh()
    sift_cache_gb: float = cache_gb()


@register_criterion("sift", dataclass=SiFTConfig)
class SiFTCriterion(AscentCriterion):
    """Answer as before when normalised embeddings are shifted adversarially, by delta.

    Task loss + lambda * sum over sentences of l_s(f(LN0(e) + delta), f(e)), LN0 being a
    LayerNorm without parameters and f the model from embeddings to logits.

    Costs 3 forwards and 2 backwards plus one backward to the embeddings per ascent
    step. See :class:`..regularizers.SiFT` for the method and its source.
    """

    method = "sift"
    point = "norm"
    paper: ClassVar = Paper(
        "the code of arXiv 2006.03654, whose section 5 has no numbers; its lambda of 5 "
        "goes with detached targets and is worth 2.5 here",
        {
            "sift_lambda": 2.5,
            "sift_warmup": 0.0,
            "sift_init": 1e-2,
            "sift_step": 1e-4,
            "sift_steps": 1,
        },
    )
    cfg: SiFTConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        self._sift = SiFT(self.cfg.sift_init, self.ascent())

    def ascent(self) -> Ascent:
        """Steps and ball."""
        cfg = self.cfg
        return Ascent(cfg.sift_steps, cfg.sift_step, cfg.sift_eps)

    def regularizer(self, model: nn.Module) -> SiFT:
        """SiFT as its flags say, at the precision of the model."""
        return self._sift.scaled(gradient_scale(model))
