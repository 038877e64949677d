"""The tensors of a group of parameters, and what PATS and SAGE do with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base import anchors_of, gradient_of, pull_
from .blocks import Piece


@dataclass(frozen=True)
class Lists:
    """Tensors of the parameters of one group, in the same order.

    Args:
        params: theta.
        gradients: of each, laid out as it.
        averages: m of each.
        seconds: v or u of each.
        sensitivities: average of each; none out of scope.
        anchors: start of each; none without a pull to it.

    """

    params: list[Tensor]
    gradients: list[Tensor]
    averages: list[Tensor]
    seconds: list[Tensor]
    sensitivities: list[Tensor]
    anchors: list[Tensor]

    @classmethod
    def of_states(
        cls,
        params: list[Tensor],
        states: Sequence[Mapping[str, Any]],
        second: str,
        group: Mapping[str, Any],
    ) -> "Lists":
        """From the states of parameters; ``second`` is the name of v or u there."""
        return cls(
            params,
            [gradient_of(p) for p in params],
            [state["exp_avg"] for state in states],
            [state[second] for state in states],
            [state["sensitivity"] for state in states] if group["in_scope"] else [],
            anchors_of(states, group),
        )

    def of(self, block: list[Piece], *names: str) -> list[list[Tensor]]:
        """Views of a block's pieces, a list for each name."""
        return [[piece.of(getattr(self, name)) for piece in block] for name in names]

    def main(
        self, block: list[Piece]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Views of theta, gradient, m, and v or u."""
        theta, g, m, v = self.of(block, "params", "gradients", "averages", "seconds")
        return theta, g, m, v

    def follow(
        self, block: list[Piece], beta: float
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Move the average sensitivities towards those of now.

        Source: PATS (arXiv 2210.12403) and SAGE (arXiv 2202.02664), algorithm 1 of
        each: the first-order sensitivity and its exponential moving average.

        Args:
            block: pieces, theta before the update and before decay.
            beta: decay of the average, in [0, 1).

        Returns:
            Sensitivities of now, and their averages.

        """
        averages, theta, g = self.of(block, "sensitivities", "params", "gradients")
        now = list(torch._foreach_mul(theta, g))
        torch._foreach_abs_(now)
        torch._foreach_lerp_(averages, now, 1 - beta)
        return now, averages

    def pull(self, block: list[Piece], group: Mapping[str, Any]) -> None:
        """Decay of a block towards its start."""
        if self.anchors:
            theta, anchors = self.of(block, "params", "anchors")
            pull_(theta, anchors, group)
