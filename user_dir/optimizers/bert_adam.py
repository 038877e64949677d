"""Optimizer ``bert_adam``."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, List  # noqa: UP035  fairseq reads List

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import register_optimizer
from omegaconf import II
from torch import Tensor

from ..optim import BertAdam
from ._groups import SteadyOptimizer, option, parameter_groups


@dataclass
class BertAdamConfig(FairseqDataclass):
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
    lr: List[float] = II("optimization.lr")  # noqa: UP006


@register_optimizer("bert_adam", dataclass=BertAdamConfig)
class FairseqBertAdam(SteadyOptimizer):
    """:class:`..optim.BertAdam` in fairseq."""

    cfg: BertAdamConfig

    def __init__(self, cfg: BertAdamConfig, params: Iterable[Tensor]) -> None:
        super().__init__(cfg)
        self._optimizer = BertAdam(parameter_groups(params), **self.settings())

    def settings(self) -> dict[str, Any]:
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
