"""What a task predicts: classes, scores or tokens, and how each is compared."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..models.steady import HEAD
from ..regularizers import DIVERGENCES, chunked
from ..regularizers.divergence import Divergence
from ..scores.groups import group_counts
from ..scores.metrics import (
    class_counts,
    label_counts,
    margins,
    scattered_scores,
)
from .objective import PLAIN, Objective

#: The task's option of focal loss.
FOCUS = "steady_focal_gamma"


class Classes:
    """One class per sentence; logits (B, K), cross-entropy in nats."""

    #: losses and divergences are logged in this many nats: bits
    unit = math.log(2)
    #: divergence chosen by ``auto``
    default = "sym_kl"
    #: whether all batches of training are of this kind, so that scores add up
    alone = True
    #: rows of tokens that a sentence's columns hold side by side
    rows = 1

    def __init__(self, head: str, outputs: int, objective: Objective = PLAIN) -> None:
        self.head = head
        self.outputs = outputs
        self.objective = objective

    def logits(self, model: nn.Module, sample: dict[str, Any]) -> Tensor:
        """One forward pass, shape (B, K)."""
        output: Tensor = model(
            **sample["net_input"],
            features_only=True,
            classification_head_name=self.head,
        )[0]
        return output

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Summed over sentences, in fp32."""
        return self._cost(self.objective, logits, target)

    def _cost(self, objective: Objective, logits: Tensor, target: Tensor) -> Tensor:
        return objective.of_classes(logits.float(), target.view(-1))

    def size(self, sample: dict[str, Any]) -> int:
        """Number of items that the loss sums over."""
        return int(sample["target"].size(0))

    def check_divergence(self, name: str, flag: str) -> None:
        """Refuse a divergence that says nothing of what is predicted.

        Args:
            name: of the divergence, or ``auto``.
            flag: whose value it is.

        Raises:
            UserError: names both.

        """

    def divergence(
        self, name: str, target: Tensor, consume: bool = False
    ) -> Divergence:
        """Compare two sets of logits, one value per sentence, shape (B,).

        ``consume`` lets backward use up the first, which then has no other use.
        """
        return DIVERGENCES[self.default if name == "auto" else name]

    def scores(
        self, logits: Tensor, sample: dict[str, Any], training: bool
    ) -> dict[str, Any]:
        """Summable tensors that the metrics are made from."""
        if training and not self.alone:
            return {}
        gold = sample["target"].view(-1)
        counts = class_counts(logits.argmax(-1), gold, self.outputs)
        counts |= self._unchanged(logits, sample["target"])
        # A worker without a batch trains on one of an evaluation, and all log alike.
        if sample.get("pairs") and not training:
            counts |= margins(logits.float(), gold, sample["id"], sample["total"])
        if "group" in sample and not training:
            of = gold, sample["group"], sample["groups"], self.outputs
            counts |= group_counts(logits.argmax(-1), *of)
        if training or not sample.get("recorded"):
            return counts
        total = sample["total"]
        return counts | scattered_scores(logits.float(), gold, sample["id"], total)

    def _unchanged(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Plain cross-entropy in bits, where the loss is another."""
        if not self.objective.changes:
            return {}
        return {"nll_loss": self._cost(PLAIN, logits, target) / self.unit}


class Scores(Classes):
    """One number per sentence; logits (B, 1), squared error."""

    unit = 1.0
    default = "mse"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Summed over sentences, in fp32."""
        scores = logits.float().view(-1)
        return F.mse_loss(scores, target.float().view(-1), reduction="sum")

    def check_divergence(self, name: str, flag: str) -> None:
        """Squared difference alone; a softmax over one output is always 1."""
        if name not in ("auto", "mse"):
            raise UserError(f"{flag} {name} is always 0 for a single score; use mse")

    def scores(
        self, logits: Tensor, sample: dict[str, Any], training: bool
    ) -> dict[str, Any]:
        """Scores in place, for correlations; not in training."""
        if training or "total" not in sample:
            return {}
        gold = sample["target"].view(-1)
        return scattered_scores(
            logits.float().view(-1, 1), gold, sample["id"], sample["total"]
        )


class Choices(Classes):
    """One of C choices, each a row of tokens with a score; logits (B, C).

    A batch holds the rows of a sentence side by side, shape (B, C * T), so that one
    sentence has one perturbation, whatever its choices; the model has (B * C, T).
    """

    def __init__(self, head: str, outputs: int, objective: Objective = PLAIN) -> None:
        super().__init__(head, outputs, objective)
        self.rows = outputs

    def logits(self, model: nn.Module, sample: dict[str, Any]) -> Tensor:
        """One forward pass of every choice, shape (B, C)."""
        rows = {
            name: value.reshape(len(value) * self.rows, -1)
            for name, value in sample["net_input"].items()
        }
        scores = super().logits(model, {**sample, "net_input": rows})
        return scores.view(-1, self.rows)


class MultiLabel(Classes):
    """Any number of L labels per sentence; logits (B, L), a sigmoid of each.

    The loss is the binary cross-entropy summed over labels, in nats, and a divergence
    that of each label's two outcomes summed over labels: both are L times their means.
    """

    def _cost(self, objective: Objective, logits: Tensor, target: Tensor) -> Tensor:
        return objective.of_labels(logits.float(), target)

    def divergence(
        self, name: str, target: Tensor, consume: bool = False
    ) -> Divergence:
        """Summed over labels, each a choice of two: it holds or not."""
        measure = super().divergence(name, target)
        return lambda a, b: measure(_either(a), _either(b)).sum(-1)

    def scores(
        self, logits: Tensor, sample: dict[str, Any], training: bool
    ) -> dict[str, Any]:
        """Summable tensors that the metrics are made from."""
        gold = sample["target"]
        counts = label_counts(likely(logits), gold) | self._unchanged(logits, gold)
        if training or not sample.get("recorded"):
            return counts
        total = sample["total"]
        return counts | scattered_scores(logits.float(), gold, sample["id"], total)


def likely(logits: Tensor) -> Tensor:
    """Labels that more probably hold than not."""
    return logits.float().sigmoid() > 0.5


def _either(logits: Tensor) -> Tensor:
    """Logits of not holding and of holding, whose softmax is the sigmoid."""
    return torch.stack([torch.zeros_like(logits), logits], -1)


class Tokens(Classes):
    """A target sequence; logits (B, U, V), label-smoothed cross-entropy in nats.

    Args:
        pad: index of padding in targets, which never counts.
        smoothing: label smoothing in [0, 1), as fairseq's own criterion means it.
        per_sentence: count sentences instead of target tokens (``--sentence-avg``).

    """

    def __init__(self, pad: int, smoothing: float, per_sentence: bool) -> None:
        super().__init__("", 0)
        self.pad = pad
        self.smoothing = smoothing
        self.per_sentence = per_sentence

    def logits(self, model: nn.Module, sample: dict[str, Any]) -> Tensor:
        """One forward pass, shape (B, U, V)."""
        output: Tensor = model(**sample["net_input"])[0]
        return output

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Summed over target tokens, in fp32."""
        return self._cross_entropy(logits, target, self.smoothing)

    def _cross_entropy(
        self, logits: Tensor, target: Tensor, smoothing: float
    ) -> Tensor:
        size = logits.size(-1)
        # fairseq spreads the smoothing over the V - 1 wrong words, torch over all V.
        return F.cross_entropy(
            logits.float().flatten(0, 1),
            target.flatten(),
            reduction="sum",
            ignore_index=self.pad,
            label_smoothing=smoothing * size / (size - 1),
        )

    def size(self, sample: dict[str, Any]) -> int:
        """Target tokens, or sentences."""
        return int(sample["target"].size(0) if self.per_sentence else sample["ntokens"])

    def divergence(
        self, name: str, target: Tensor, consume: bool = False
    ) -> Divergence:
        """Summed over the real target tokens of each sentence, shape (B,)."""
        measure = super().divergence(name, target)
        real = target.ne(self.pad)
        return lambda a, b: chunked(measure, a, b, real, consume)

    def padded_divergence(self, name: str, sample: dict[str, Any]) -> Divergence:
        """As fairseq's seq2seq R3F sums it, for comparison.

        Its sum takes in padded positions, is divided by sentences and multiplied by
        the sample size: per real token about the padded target length times more.
        """
        measure = super().divergence(name, sample["target"])
        factor = self.size(sample) / sample["target"].size(0)
        return lambda a, b: measure(a, b).sum(1) * factor

    def scores(
        self, logits: Tensor, sample: dict[str, Any], training: bool
    ) -> dict[str, Any]:
        """Cross-entropy without smoothing, in bits."""
        nll = self._cross_entropy(logits, sample["target"], 0.0)
        return {"nll_loss": nll.detach() / self.unit}


def kinds_of(task: Any, cfg: Any) -> dict[str | None, Classes]:
    """What each head predicts, by the name in its batches; None for the only one.

    Args:
        task: of this plugin, or one of fairseq's own.
        cfg: the criterion's, a :class:`.plain.PlainConfig`.

    """
    parts = getattr(task, "parts", None)
    if parts is None:
        return {None: kind_of(task, cfg)}
    kinds: dict[str | None, Classes] = {}
    for name, part in parts.items():
        kinds[name] = kind_of(part, cfg, alone=False)
        kinds[name].head, kinds[name].alone = name, False
    return kinds


def kind_of(task: Any, cfg: Any, alone: bool = True) -> Classes:
    """What a task predicts, asked of this plugin's tasks and of fairseq's own.

    Args:
        task: of one head.
        cfg: the criterion's, a :class:`.plain.PlainConfig`.
        alone: whether there are no other heads, which flags may be meant for.

    Raises:
        UserError: a flag does not fit what is predicted.

    """
    outputs = getattr(task, "num_classes", None) or getattr(
        getattr(task, "cfg", None), "num_classes", None
    )
    if outputs is None:
        pad = task.target_dictionary.pad()
        return Tokens(pad, cfg.label_smoothing, cfg.sentence_avg)
    regression = bool(getattr(task, "regression", cfg.regression_target))
    if regression and int(outputs) != 1:
        raise UserError(
            f"--regression-target has one output, and --num-classes is {outputs}; "
            "give --num-classes 1"
        )
    objective, head = _objective(task, cfg), _head(task, cfg)
    if getattr(task, "several", False):
        if objective.smoothing:
            raise UserError(
                f"--label-smoothing {objective.smoothing} is for one class a sentence, "
                "and there may be several labels; leave it out"
            )
        return MultiLabel(head, int(outputs), objective)
    if not regression:
        return _classes(task)(head, int(outputs), objective)
    if alone and objective.changes:
        raise UserError(
            f"{_changing(task, cfg)} is for classes, and the targets are scores; "
            "leave it out"
        )
    return Scores(head, int(outputs))


def _classes(task: Any) -> type[Classes]:
    return Choices if getattr(task, "choices", 0) else Classes


def _head(task: Any, cfg: Any) -> str:
    """The task's own where nobody says another."""
    name: str = cfg.classification_head_name
    return str(getattr(task, "head", HEAD)) if name == HEAD else name


def _objective(task: Any, cfg: Any) -> Objective:
    """As the criterion's flags and the task's say; fairseq's own tasks have none."""
    weights = getattr(task, "class_weights", None)
    gamma = getattr(task.cfg, FOCUS, 0.0) if hasattr(task, "cfg") else 0.0
    return Objective(weights, cfg.label_smoothing, gamma)


def _changing(task: Any, cfg: Any) -> str:
    """The flag that makes the loss another than cross-entropy, and its value."""
    if cfg.label_smoothing:
        return f"--label-smoothing {cfg.label_smoothing}"
    return f"--{FOCUS.replace('_', '-')} {getattr(task.cfg, FOCUS)}"
