"""Optimizer ``bert_adam``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairseq.optim import register_optimizer

from ..optim import BertAdam
from ._groups import SteadyOptimizer, SteadyOptimizerConfig, option


@dataclass
class BertAdamConfig(SteadyOptimizerConfig):
    """Flags of bert_adam; the learning rate is --lr."""

    bert_adam_beta1: float = option(0.9, "decay of the average gradient, in [0, 1)")
    bert_adam_beta2: float = option(0.999, "decay of the average square, in [0, 1)")
    bert_adam_eps: float = option(1e-6, "added to the root of the average square, > 0")
    bert_adam_weight_decay: float = option(
        0.01, "decoupled weight decay, >= 0; never of biases and LayerNorms"
    )
    bert_adam_bias_correction: bool = option(
        False, "correct the averages for their start at 0, as Adam does"
    )
    bert_adam_tensor_clip: float = option(
        0.0, "largest gradient norm of each parameter on its own; 0: none"
    )
    bert_adam_anchor: float = option(
        0.0, "decay towards the pretrained weights instead of 0, >= 0; not of the head"
    )


@register_optimizer("bert_adam", dataclass=BertAdamConfig)
class FairseqBertAdam(SteadyOptimizer):
    """:class:`..optim.BertAdam` in fairseq."""

    name = "bert_adam"

    def build(self, groups: Sequence[dict[str, Any]], **settings: Any) -> BertAdam:
        """The pure optimizer."""
        return BertAdam(groups, **settings)

    def settings(self) -> dict[str, Any]:
        """Constructor arguments from the flags."""
        same = ("eps", "weight_decay", "bias_correction", "tensor_clip", "anchor")
        betas = (self.flag("beta1"), self.flag("beta2"))
        return {"lr": self.cfg.lr[0], "betas": betas, **self.flags(*same)}
