"""Criterion ``r_drop``: the control that has dropout and no noise."""

from dataclasses import dataclass
from typing import Any, ClassVar

from fairseq.criterions import register_criterion
from torch import nn

from ..errors import UserError
from ..presets import Paper
from ..regularizers import DropoutMode
from ..regularizers.r_drop import doubled
from .choosing import chosen
from .kinds import Classes
from .options import divergence, dropout, every, fraction, strength, warmup
from .plain import Outcome, PlainConfig
from .warming import WeightedCriterion


@dataclass
class RDropConfig(PlainConfig):
    """Flags of r_drop."""

    r_drop_lambda: float = strength(1.0)
    r_drop_warmup: float = warmup()
    r_drop_divergence: str = divergence()
    r_drop_dropout: DropoutMode = dropout(
        text="independent masks, all that the two passes differ by; nothing else is "
        "taken"
    )
    r_drop_every: int = every()
    r_drop_fraction: float = fraction()


@register_criterion("r_drop", dataclass=RDropConfig)
class RDropCriterion(WeightedCriterion):
    """Agree under two dropout masks.

    Mean task loss of the two passes + lambda * KL_S between them.

    One forward and backward on the batch doubled: 2 and 2.

    Source: R-Drop (arXiv 2106.14448) algorithm 1, the training objective.
    Deviations: half the printed loss, so that lambda 0 is plain fine-tuning on
    average; the paper's alpha is worth alpha / 4 here, its code's alpha / 2.
    """

    method = "r_drop"
    paper: ClassVar = Paper(
        "the code of arXiv 2106.14448 for CNN/DailyMail; its alpha of 0.7 is worth "
        "0.35 here",
        {"r_drop_lambda": 0.35, "r_drop_warmup": 0.0},
    )
    cfg: RDropConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        self.check_divergence("divergence")
        given = self.cfg.r_drop_dropout
        if given != "independent":
            raise UserError(
                f"--r-drop-dropout {given} leaves nothing to compare: "
                "the two passes differ by their masks alone; use independent"
            )

    def train_outcome(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """One forward: the batch, and behind it the sentences that are compared."""
        if not self.strength:
            return self.left_out(model, sample, kind)
        cfg, ids, target = self.cfg, sample["id"], sample["target"]
        rows = chosen(ids, self.update, cfg.r_drop_every, cfg.r_drop_fraction)
        twice = {**sample, "net_input": doubled(sample["net_input"], rows)}
        logits = kind.logits(model, twice)
        one, other = logits[: len(ids)], logits[len(ids) :]
        count = len(other)
        again, wanted = (one, target) if rows is None else (one[rows], target[rows])
        first, second = (kind.loss(part, wanted) for part in (again, other))
        task_loss = (first + second) / 2
        if rows is not None:
            task_loss = kind.loss(one, target) + (second - first) / 2
        compare = kind.divergence(cfg.r_drop_divergence, wanted)
        divergence = compare(other, again).sum()
        if count:
            self.watch(divergence)
        logged: dict[str, Any] = {"regularised": count, "passes": len(logits)}
        logged |= self.rising(len(ids))
        if self.update % cfg.r_drop_every == 0:
            unit = kind.unit * cfg.r_drop_fraction
            logged["divergence"] = divergence.detach() / unit
        weight = self.strength * cfg.r_drop_every / cfg.r_drop_fraction
        return Outcome(one, task_loss + weight * divergence, task_loss, logged)
