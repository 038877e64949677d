"""Task losses of classes and of labels: weights, label smoothing, focus."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """How much each item of a cross-entropy counts.

    Whatever it is, the loss is a sum that is divided by the number of items, not by the
    sum of their weights as torch's mean is: lambda of a regulariser keeps its meaning.

    Source: focal loss (arXiv 1708.02002), equations 4 and 5, alpha being the weights.
    Deviations: with label smoothing each class's term has its own focus (1 - p)^gamma.

    Args:
        weights: of each class, or of each label where it holds; None for 1.
        smoothing: share of the target that is spread over all classes, in [0, 1).
        gamma: focus on what is not yet right, >= 0.

    """

    weights: tuple[float, ...] | None = None
    smoothing: float = 0.0
    gamma: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether it differs from plain cross-entropy."""
        return bool(self.weights or self.smoothing or self.gamma)

    def of_classes(self, logits: Tensor, target: Tensor) -> Tensor:
        """Summed over items: logits (B, K), class indices (B,).

        Without a focus it is torch's: (1 - e) w_y (-log p_y) + e / K sum_k w_k
        (-log p_k), e being the smoothing.
        """
        if not self.gamma:
            return F.cross_entropy(
                logits,
                target,
                self._weights(logits),
                reduction="sum",
                label_smoothing=self.smoothing,
            )
        logs, classes = logits.log_softmax(-1), logits.size(-1)
        wanted = F.one_hot(target, classes).to(logs) * (1 - self.smoothing)
        terms = (wanted + self.smoothing / classes) * self._focus(logs) * logs
        weights = self._weights(logits)
        return -(terms if weights is None else terms * weights).sum()

    def of_labels(self, logits: Tensor, target: Tensor) -> Tensor:
        """Summed over items and labels: logits (B, L), whether each holds (B, L).

        A label that holds counts its weight, torch's ``pos_weight``.
        """
        weights, holds = self._weights(logits), target.to(logits)
        if not self.gamma:
            return F.binary_cross_entropy_with_logits(
                logits, holds, reduction="sum", pos_weight=weights
            )
        yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
        right = holds * self._focus(yes) * yes
        wrong = (1 - holds) * self._focus(no) * no
        return -((right if weights is None else right * weights) + wrong).sum()

    def _weights(self, like: Tensor) -> Tensor | None:
        return None if self.weights is None else like.new_tensor(self.weights)

    def _focus(self, logs: Tensor) -> Tensor:
        """(1 - p)^gamma of log p; its slope at p = 1, infinite below gamma 1, is 0."""
        missing = (-logs.expm1()).clamp(min=torch.finfo(logs.dtype).tiny)
        return missing**self.gamma


PLAIN = Objective()
