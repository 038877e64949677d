"""Plain fine-tuning, and the base of every regularised criterion."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.utils import get_perplexity
from omegaconf import II
from torch import Tensor, nn

from ..flags import SHARE, Flags, option, read_flags
from ..models.steady import HEAD
from ..presets import Paper
from ..regularizers import unwrap
from ..regularizers.view import HALF, multiplied
from ..scores.groups import GROUPS
from ..scores.metrics import (
    CLASSIFICATION,
    CORRELATION,
    COUNTS,
    LABELED,
    LABELLING,
    MARGINS,
    SCATTERED,
    classification_scores,
    correlation_scores,
    label_scores,
    ranked,
)
from .kinds import Classes, kinds_of

logger = logging.getLogger(__name__)

#: Batches from the start with a regulariser of exactly 0 before it is called dead.
_DEAD_AFTER = 10
#: Share of a perturbation lost to rounding that is worth a warning.
_LOST = 0.1


@dataclass
class PlainConfig(Flags, FairseqDataclass):
    """Fields that fairseq's own sentence tasks read from any criterion."""

    classification_head_name: str = option(
        HEAD, "name of the head that gives the logits"
    )
    regression_target: bool = option(
        False,
        "targets are scores; for fairseq's own sentence_prediction, this plugin's "
        "tasks know it themselves",
    )
    label_smoothing: float = option(
        0.0,
        "share of the target spread evenly; over all classes (torch's definition), or "
        "in sequence-to-sequence tasks over all wrong tokens (fairseq's)",
        SHARE,
    )
    sentence_avg: bool = II("optimization.sentence_avg")
    max_update: int = II("optimization.max_update")


class Outcome(NamedTuple):
    """One training batch: the logits of the clean pass and what they cost."""

    logits: Tensor
    loss: Tensor
    task_loss: Tensor
    logged: dict[str, Any]


@register_criterion("plain", dataclass=PlainConfig)
class PlainCriterion(FairseqCriterion):
    """Cross-entropy or squared error, with the metrics of every task.

    The loss is a sum over items (sentences, or target tokens) and ``sample_size``
    their number, so a regulariser's lambda means the same at any batch size,
    accumulation or number of workers. Losses are in nats; cross-entropies and
    divergences are logged in bits per item, as everywhere in fairseq.
    """

    #: prefix of the flags and of what is logged
    method: ClassVar[str] = "plain"
    #: whether it differentiates a pass before the loss is known
    ascends: ClassVar[bool] = False
    paper: ClassVar = Paper()
    cfg: PlainConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(task)
        self.cfg = read_flags(cfg, getattr(type(self), "__dataclass"))
        self.kinds = kinds_of(task, self.cfg)
        #: updates made so far
        self.update = 0
        self._zeros: int | None = 0
        self._warned = self._checked_model = False

    @property
    def active(self) -> bool:
        """Whether training differs from plain fine-tuning."""
        return False

    def check_divergence(self, name: str) -> None:
        """Refuse a divergence that says nothing of what is predicted.

        Args:
            name: of the flag, without the method.

        Raises:
            UserError: names flag and value.

        """
        flag = f"--{self.method}-{name}".replace("_", "-")
        for kind in self.kinds.values():
            kind.check_divergence(getattr(self.cfg, f"{self.method}_{name}"), flag)

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model that lacks what the method needs.

        Raises:
            UserError: names what is missing.

        """

    def prepare_model(self, model: nn.Module) -> None:
        """Change a model that passed, before its checkpoint is loaded."""

    def before_update(self, model: nn.Module, update: int) -> None:
        """Called before every update with how many there were.

        Raises:
            UserError: the model lacks what the method needs, which tasks that are not
                this plugin's do not ask before.

        """
        self.update = update
        if self.active and not self._checked_model:
            self.check_model(model)
            self._checked_model = True

    def after_update(self, model: nn.Module, update: int) -> None:
        """Called after every update that changed the weights, from 1."""

    def kept_state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides model and optimizer."""
        return {}

    def restore_kept(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`kept_state`, before the first batch."""

    def train_outcome(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """One batch with the regulariser; ``kind`` is what it predicts."""
        raise NotImplementedError

    def plain_outcome(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """One batch without the regulariser."""
        logits = kind.logits(model, sample)
        loss = kind.loss(logits, sample["target"])
        return Outcome(logits, loss, loss, {})

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss of one batch.

        Returns:
            The summed loss, the number of items, and what to log.

        """
        kind = self.kinds[sample.get("head")]
        regularised = self.training and self.active
        outcome = (self.train_outcome if regularised else self.plain_outcome)(
            model, sample, kind
        )
        size, unit = kind.size(sample), kind.unit
        loss = outcome.loss
        if self.training and len(self.kinds) > 1:
            loss = loss + idle(model)
        log = {
            "loss": outcome.loss.detach() / unit,
            "task_loss": outcome.task_loss.detach() / unit,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": size,
            **{f"{self.method}_{name}": v for name, v in outcome.logged.items()},
            **kind.scores(outcome.logits.detach(), sample, self.training),
        }
        return loss, size, log

    def watch(self, divergence: Tensor) -> None:
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

    def lost(self, share: Tensor | None, sentences: int) -> dict[str, Any]:
        """What is logged of a perturbation's entries that rounding removes.

        Args:
            share: of them; None in fp32, where nothing is logged.
            sentences: that are perturbed.

        """
        if share is None:
            return {}
        if not self._warned and float(share) > _LOST:
            self._warned = True
            logger.warning(
                "%s: rounding removes %.0f %% of the perturbation's entries at this "
                "precision; use a larger radius or fp32",
                self.method,
                100 * float(share),
            )
        return {"lost": share * sentences}

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Everything logged is a tensor or a number to be added up."""
        return True

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Add up workers and batches for fairseq's meters."""
        names = dict.fromkeys(name for log in logging_outputs for name in log)
        sums = {n: sum(log.get(n, 0) for log in logging_outputs) for n in names}
        for name in names:
            if name in (COUNTS, GROUPS, LABELED, SCATTERED, MARGINS):
                metrics.log_scalar_sum(name, sums[name])
            elif name not in _COUNTS and not name.endswith("_probed"):
                size = float(sums[_counted_by(name, sums)])
                if size:
                    metrics.log_scalar(name, float(sums[name]) / size, size, round=None)
        _log_scores(list(names))


_COUNTS = ("ntokens", "nsentences", "sample_size")
_PER_SENTENCE = ("_rms", "_refused", "_lost", "_passes", "_regularised", "_lambda")


def _counted_by(name: str, sums: Mapping[str, Any]) -> str:
    """The logged count that a logged sum is divided by."""
    method, _, what = name.rpartition("_")
    chosen = f"{method}_regularised"
    if what in ("rms", "refused", "lost") and chosen in sums:
        return chosen
    if name.endswith(_PER_SENTENCE):
        return "nsentences"
    if name.endswith("_dropout_divergence"):
        return name.removesuffix("dropout_divergence") + "probed"
    return "sample_size"


#: What is made of each sum, and how.
_SCORES: dict[str, tuple[tuple[str, ...], Callable[[Tensor], dict[str, float]]]] = {
    COUNTS: (CLASSIFICATION, classification_scores),
    LABELED: (LABELLING, label_scores),
    SCATTERED: (CORRELATION, correlation_scores),
    MARGINS: (("ranked",), lambda summed: {"ranked": ranked(summed)}),
}


def _log_scores(names: list[str]) -> None:
    # With a record there are both, and the outputs are logits.
    known = (COUNTS, LABELED, SCATTERED)
    answers = [name for name in known if name in names][:1]
    for summed in (*answers, *({MARGINS} & {*names})):
        for score in _SCORES[summed][0]:
            metrics.log_derived(score, partial(_score, summed, score))
    if answers:
        return
    if "nll_loss" in names:
        metrics.log_derived(
            "ppl", lambda meters: get_perplexity(meters["nll_loss"].avg)
        )


def _score(summed: str, score: str, meters: Any) -> float:
    total = meters[summed].sum
    # A meter that was reset and saw no batch since, as when all overflowed, holds 0.
    if not isinstance(total, Tensor):
        return math.nan
    return _SCORES[summed][1](total)[score]


def idle(model: nn.Module) -> Tensor:
    """A term of 0 that gives the parameters of every head a gradient of 0.

    A batch has one head, and distributed training waits for a gradient of each
    parameter. With this an optimizer sees the same whether a head's batch was this
    worker's, another's or nobody's.
    """
    inner: Any = unwrap(model)
    nothing = [p.flatten()[:0].sum() for p in inner.classification_heads.parameters()]
    return torch.stack(nothing).sum()


def halved(model: nn.Module) -> bool:
    """Whether products are made in half precision, which rounds small steps away."""
    return multiplied(next(unwrap(model).parameters())) in HALF


def gradient_scale(model: nn.Module) -> float:
    """A factor that keeps fp16 gradients of an inner objective from underflowing."""
    parameter = next(unwrap(model).parameters())
    device = parameter.device.type
    autocast = torch.is_autocast_enabled(device) and (
        torch.get_autocast_dtype(device) == torch.float16
    )
    return 2.0**12 if autocast or parameter.dtype == torch.float16 else 1.0
