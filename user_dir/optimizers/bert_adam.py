"""Optimizer ``bert_adam``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fairseq.optim import register_optimizer

from ..flags import NOT_NEGATIVE, POSITIVE, SHARE, option
from ..optim import BertAdam
from ..presets import Paper
from .groups import SteadyOptimizer, SteadyOptimizerConfig, anchor, decay


@dataclass
class BertAdamConfig(SteadyOptimizerConfig):
    """Flags of bert_adam; the learning rate is --lr."""

    bert_adam_beta1: float = option(0.9, "decay of the average gradient", SHARE)
    bert_adam_beta2: float = option(0.999, "decay of the average square", SHARE)
    bert_adam_eps: float = option(
        1e-6, "added to the root of the average square", POSITIVE
    )
    bert_adam_weight_decay: float = decay(0.01)
    bert_adam_bias_correction: bool = option(
        False, "correct the averages for their start at 0, as Adam does"
    )
    bert_adam_tensor_clip: float = option(
        0.0, "largest gradient norm of each parameter on its own; 0: none", NOT_NEGATIVE
    )
    bert_adam_anchor: float = anchor()


@register_optimizer("bert_adam", dataclass=BertAdamConfig)
class FairseqBertAdam(SteadyOptimizer):
    """Adam as BERT was fine-tuned with; :class:`..optim.BertAdam` in fairseq."""

    name = "bert_adam"
    paper: ClassVar = Paper(
        "arXiv 1810.04805 and its code",
        {
            "bert_adam_beta1": 0.9,
            "bert_adam_beta2": 0.999,
            "bert_adam_eps": 1e-6,
            "bert_adam_weight_decay": 0.01,
            "bert_adam_bias_correction": False,
        },
    )
    cfg: BertAdamConfig

    def build(self, groups: Sequence[dict[str, Any]], **settings: Any) -> BertAdam:
        """The pure optimizer."""
        return BertAdam(groups, **settings)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Constructor arguments from the flags."""
        cfg = self.cfg
        return {
            "lr": cfg.lr[0],
            "betas": (cfg.bert_adam_beta1, cfg.bert_adam_beta2),
            "eps": cfg.bert_adam_eps,
            "weight_decay": cfg.bert_adam_weight_decay,
            "bias_correction": cfg.bert_adam_bias_correction,
            "tensor_clip": cfg.bert_adam_tensor_clip,
            "anchor": cfg.bert_adam_anchor,
        }
