"""Plain fine-tuning, and the base of every regularised criterion."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor, nn

from ..metrics import (
    CONFUSION,
    SCATTERED,
    classification_scores,
    confusion_counts,
    correlation_scores,
    scattered_scores,
)
from ..models.steady import HEAD
from ..regularizers import Penalty

logger = logging.getLogger(__name__)

#: Batches from the start with a regulariser of exactly 0 before it is called dead.
_DEAD_AFTER = 10


@dataclass
class PlainConfig(FairseqDataclass):
    """Fields that fairseq's own sentence tasks read from any criterion."""

    classification_head_name: str = field(
        default=HEAD, metadata={"help": "name of the head that gives the logits"}
    )
    regression_target: bool = field(
        default=False,
        metadata={
            "help": "targets are scores; for fairseq's own sentence_prediction, this "
            "plugin's tasks know it themselves"
        },
    )


@register_criterion("plain", dataclass=PlainConfig)
class PlainCriterion(FairseqCriterion):
    """Cross-entropy or squared error, with the metrics of every sentence task.

    The loss is a sum over sentences and ``sample_size`` their number, so a
    regulariser's lambda means the same at any batch size, accumulation or number of
    workers. Losses are in nats; cross-entropies and divergences are logged in bits per
    sentence, as everywhere in fairseq.
    """

    #: name under which a subclass's divergence is logged; None for no regulariser
    method: str | None = None

    def __init__(self, cfg: PlainConfig, task: Any) -> None:
        super().__init__(task)
        self.cfg = cfg
        self.regression = bool(getattr(task, "regression", cfg.regression_target))
        self.num_classes = int(getattr(task, "num_classes", 0) or task.cfg.num_classes)
        self._unit = 1.0 if self.regression else math.log(2)
        self._zeros: int | None = 0

    @property
    def weight(self) -> float:
        """Lambda, the regulariser's factor; 0 for none."""
        return 0.0

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model that a subclass cannot work on.

        Raises:
            UserError: it lacks what the method needs.

        """

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss of one batch.

        Returns:
            The summed loss, the number of sentences, and what to log.

        """
        penalty = None
        if self.training and self.weight > 0:
            logits, penalty = self.regularized(model, sample)
        else:
            logits = self.logits(model, sample)
        task_loss = self.task_loss(logits, sample["target"])
        loss, logged = self._penalized(task_loss, penalty)
        size = sample["target"].size(0)
        log = {
            "loss": loss.detach() / self._unit,
            "task_loss": task_loss.detach() / self._unit,
            "ntokens": sample["ntokens"],
            "nsentences": size,
            "sample_size": size,
            **logged,
            **self.scores(logits.detach(), sample),
        }
        return loss, size, log

    def regularized(
        self, model: nn.Module, sample: dict[str, Any]
    ) -> tuple[Tensor, Penalty]:
        """Logits of the clean pass and the penalty; only in training."""
        raise NotImplementedError

    def logits(self, model: nn.Module, sample: dict[str, Any]) -> Tensor:
        """One forward pass, shape (B, K), or (B, 1) for scores."""
        output: Tensor = model(
            **sample["net_input"],
            features_only=True,
            classification_head_name=self.cfg.classification_head_name,
        )[0]
        return output

    def task_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy in nats or squared error, summed over sentences, in fp32."""
        if self.regression:
            scores = logits.float().view(-1)
            return F.mse_loss(scores, target.float().view(-1), reduction="sum")
        return F.cross_entropy(logits.float(), target.view(-1), reduction="sum")

    def _penalized(
        self, task_loss: Tensor, penalty: Penalty | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if penalty is None:
            return task_loss, {}
        divergence = penalty.value.sum()
        self._watch(divergence)
        logged = {
            f"{self.method}_divergence": divergence.detach() / self._unit,
            f"{self.method}_rms": penalty.perturbation_rms.sum(),
            f"{self.method}_refused": penalty.refused * len(penalty.value),
        }
        return task_loss + self.weight * divergence, logged

    def _watch(self, divergence: Tensor) -> None:
        """Say once when a regulariser does nothing; stop looking once it does."""
        if self._zeros is None:
            return
        self._zeros = self._zeros + 1 if float(divergence.detach()) == 0 else None
        if self._zeros == _DEAD_AFTER:
            logger.warning(
                "%s: the regulariser has been exactly 0 since the start (%d batches), "
                "so this trains as plain fine-tuning; try a larger perturbation or "
                "another precision",
                self.method,
                self._zeros,
            )
            self._zeros = None

    def scores(self, logits: Tensor, sample: dict[str, Any]) -> dict[str, Tensor]:
        """Summable tensors that the metrics are made from."""
        gold = sample["target"].view(-1)
        if not self.regression:
            return confusion_counts(logits.argmax(-1), gold, self.num_classes)
        if self.training or "total" not in sample:
            return {}
        return scattered_scores(logits.view(-1), gold, sample["id"], sample["total"])

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Everything logged is a tensor or a number to be added up."""
        return True

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Add up workers and batches for fairseq's meters."""
        size = sum(float(log["sample_size"]) for log in logging_outputs)
        for name in _logged_names(logging_outputs):
            total = sum(log.get(name, 0) for log in logging_outputs)
            if name.startswith(CONFUSION):
                metrics.log_scalar_sum(name, float(total))
            elif name == SCATTERED:
                metrics.log_scalar_sum(name, total)
            else:
                metrics.log_scalar(name, float(total) / max(size, 1), size, round=None)
        _log_scores(logging_outputs)


def _logged_names(logging_outputs: Sequence[dict[str, Any]]) -> list[str]:
    counted = ("ntokens", "nsentences", "sample_size")
    names = dict.fromkeys(name for log in logging_outputs for name in log)
    return [name for name in names if name not in counted]


def _log_scores(logging_outputs: Sequence[dict[str, Any]]) -> None:
    names = _logged_names(logging_outputs)
    confusion = [name for name in names if name.startswith(CONFUSION)]
    if confusion:
        for score in ("accuracy", "f1", "mcc"):
            metrics.log_derived(
                score,
                lambda meters, score=score: classification_scores(
                    {name: meters[name].sum for name in confusion}
                )[score],
            )
    elif SCATTERED in names:
        for score in ("pearson", "spearman"):
            metrics.log_derived(
                score,
                lambda meters, score=score: correlation_scores(meters[SCATTERED].sum)[
                    score
                ],
            )
