"""Criterion ``r_drop``: the control that has dropout and no noise."""

from dataclasses import dataclass
from typing import Any

from fairseq.criterions import register_criterion
from torch import nn

from ..errors import UserError
from ..regularizers import DropoutMode
from ..regularizers.r_drop import doubled
from .kinds import Classes
from .options import divergence, dropout, strength
from .plain import Outcome, PlainConfig, PlainCriterion


@dataclass
class RDropConfig(PlainConfig):
    """Flags of r_drop."""

    r_drop_lambda: float = strength(1.0)
    r_drop_divergence: str = divergence()
    r_drop_dropout: DropoutMode = dropout()


@register_criterion("r_drop", dataclass=RDropConfig)
class RDropCriterion(PlainCriterion):
    """Mean task loss of two dropout masks + lambda * KL_S between them.

    One forward and backward on the batch doubled: 2 and 2.

    Source: R-Drop (arXiv 2106.14448) algorithm 1, the training objective.
    Deviations: half the printed loss, so that lambda 0 is plain fine-tuning on
    average; the paper's alpha is worth alpha / 4 here, its code's alpha / 2.
    """

    method = "r_drop"
    cfg: RDropConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        given = self.cfg.r_drop_dropout
        if given != "independent":
            raise UserError(
                f"--r-drop-dropout {given} leaves nothing to compare: "
                "the two passes differ by their masks alone; use independent"
            )

    @property
    def active(self) -> bool:
        """Whether lambda is above 0."""
        return self.cfg.r_drop_lambda > 0

    def train_outcome(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """One forward, two halves."""
        twice = {**sample, "net_input": doubled(sample["net_input"])}
        one, other = kind.logits(model, twice).chunk(2)
        target = sample["target"]
        losses = [kind.loss(half, target) for half in (one, other)]
        compare = kind.divergence(self.cfg.r_drop_divergence, target, self.method)
        divergence = compare(other, one).sum()
        self.watch(divergence)
        task_loss = (losses[0] + losses[1]) / 2
        logged = {"divergence": divergence.detach() / kind.unit}
        loss = task_loss + self.cfg.r_drop_lambda * divergence
        return Outcome(one, loss, task_loss, logged)
