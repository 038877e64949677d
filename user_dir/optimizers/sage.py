"""Optimizer ``sage``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fairseq.optim import register_optimizer

from ..flags import POSITIVE, SHARE, one_of, option
from ..optim import Sage
from ..presets import Paper
from .groups import SteadyOptimizer, SteadyOptimizerConfig, anchor, decay


@dataclass
class SageConfig(SteadyOptimizerConfig):
    """Flags of sage; the learning rate is --lr, 2 to 5 times the base optimizer's."""

    sage_base: str = option("adam", "adam or adamax", one_of("adam", "adamax"))
    sage_beta: float = option(0.75, "decay of the average sensitivity", SHARE)
    sage_guard: float = option(1e-16, "added to it in the ratio", POSITIVE)
    sage_beta1: float = option(0.9, "decay of the average gradient", SHARE)
    sage_beta2: float = option(0.999, "decay of the average square or norm", SHARE)
    sage_eps: float = option(1e-8, "of the base optimizer", POSITIVE)
    sage_weight_decay: float = decay(0.0)
    sage_bias_correction: bool = option(
        False,
        "correct the averages for their start at 0, with Adam that of the sensitivity "
        "too",
    )
    sage_anchor: float = anchor()


@register_optimizer("sage", dataclass=SageConfig)
class FairseqSage(SteadyOptimizer):
    """Adam or Adamax, faster for weights of layers whose sensitivity surprises.

    :class:`..optim.Sage` in fairseq.
    """

    name = "sage"
    scoped = True
    paper: ClassVar = Paper(
        "the Adam of the code of arXiv 2202.02664; its Adamax is not corrected",
        {
            "sage_beta": 0.75,
            "sage_guard": 1e-12,
            "sage_eps": 1e-6,
            "sage_weight_decay": 0.01,
            "sage_bias_correction": True,
        },
    )
    cfg: SageConfig

    def build(self, groups: Sequence[dict[str, Any]], **settings: Any) -> Sage:
        """The pure optimizer."""
        return Sage(groups, **settings)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Constructor arguments from the flags."""
        cfg = self.cfg
        return {
            "lr": cfg.lr[0],
            "base": cfg.sage_base,
            "betas": (cfg.sage_beta1, cfg.sage_beta2),
            "eps": cfg.sage_eps,
            "weight_decay": cfg.sage_weight_decay,
            "bias_correction": cfg.sage_bias_correction,
            "anchor": cfg.sage_anchor,
            "beta": cfg.sage_beta,
            "guard": cfg.sage_guard,
        }
