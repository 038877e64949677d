"""Optimizer ``sage``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairseq.dataclass import ChoiceEnum
from fairseq.optim import register_optimizer

from ..optim import Sage
from ._groups import SteadyOptimizer, SteadyOptimizerConfig, option

BASE = ChoiceEnum(["adam", "adamax"])


@dataclass
class SageConfig(SteadyOptimizerConfig):
    """Flags of sage; the learning rate is --lr, 2 to 5 times the base optimizer's."""

    sage_base: BASE = option("adam", "adam or adamax")  # type: ignore[valid-type]
    sage_beta: float = option(0.75, "decay of the average sensitivity, in [0, 1)")
    sage_guard: float = option(1e-16, "added to it in the ratio, > 0")
    sage_beta1: float = option(0.9, "decay of the average gradient, in [0, 1)")
    sage_beta2: float = option(0.999, "decay of the average square or norm, in [0, 1)")
    sage_eps: float = option(1e-8, "of the base optimizer, > 0")
    sage_weight_decay: float = option(
        0.0, "decoupled weight decay, >= 0; never of biases and LayerNorms"
    )
    sage_bias_correction: bool = option(
        False, "correct the averages for their start at 0"
    )
    sage_anchor: float = option(
        0.0, "decay towards the pretrained weights instead of 0, >= 0; not of the head"
    )


@register_optimizer("sage", dataclass=SageConfig)
class FairseqSage(SteadyOptimizer):
    """:class:`..optim.Sage` in fairseq, on the weights and biases of layers."""

    name = "sage"
    scoped = True

    def build(self, groups: Sequence[dict[str, Any]], **settings: Any) -> Sage:
        """The pure optimizer."""
        return Sage(groups, **settings)

    def settings(self) -> dict[str, Any]:
        """Constructor arguments from the flags."""
        same = ("beta", "guard", "eps", "weight_decay", "bias_correction", "anchor")
        betas = (self.flag("beta1"), self.flag("beta2"))
        settings = {"lr": self.cfg.lr[0], "betas": betas, **self.flags(*same)}
        return {"base": str(self.flag("base")), **settings}
