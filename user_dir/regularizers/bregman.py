"""The Bregman proximal point: stay near where the last updates were."""

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..flags import one_of

Mode = Literal["vanilla", "momentum"]
_MODES = one_of("vanilla", "momentum")


@dataclass(frozen=True)
class Schedule:
    """How the teacher follows the student.

    Source: SMART (arXiv 1911.03437), its vanilla and momentum Bregman proximal
    point; its Algorithm 1, the average of the weights.
    Deviations: one step per sub-problem; the early rate, its length, the start and the
    bound min(beta, (1 + t) / (10 + t)), which lets go of the random head of a fresh
    model, are our own.

    Args:
        mode: ``vanilla`` copies the student every ``every`` updates; ``momentum``
            averages with beta.
        beta: decay of the exponential moving average, in [0, 1).
        early_beta: decay during the first ``early`` updates, in [0, 1).
        early: updates, >= 0.
        every: updates between copies, >= 1. At 1 the divergence and its gradient are
            0 unless dropout is on.
        start: the teacher is the student until this update, and the divergence counts
            from there.

    Raises:
        UserError: the mode is another.

    """

    mode: Mode = "momentum"
    beta: float = 0.999
    early_beta: float = 0.99
    early: int = 0
    every: int = 10
    start: int = 0

    def __post_init__(self) -> None:
        _MODES.check("Schedule: mode =", self.mode)

    def decay(self, update: int) -> float:
        """Weight of the old teacher after update number ``update`` (from 1)."""
        if update <= self.start:
            return 0.0
        if self.mode == "vanilla":
            return 0.0 if update % self.every == 0 else 1.0
        t = update - self.start
        beta = self.early_beta if update <= self.early else self.beta
        return min(beta, (1 + t) / (10 + t))


class Teacher:
    """A frozen fp32 copy of the model, always in evaluation mode.

    Held outside any module, so that it is never trained, wrapped or exported.

    Args:
        model: the unwrapped student, with its checkpoint loaded.
        schedule: how to follow it.

    """

    def __init__(self, model: nn.Module, schedule: Schedule) -> None:
        self.schedule = schedule
        self.model = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.updates = 0

    @property
    def active(self) -> bool:
        """Whether the divergence counts already."""
        return self.updates >= self.schedule.start

    def follow(self, student: nn.Module, update: int) -> None:
        """Move after the student's update number ``update`` (from 1)."""
        self.updates = update
        decay = self.schedule.decay(update)
        if decay == 1.0:
            return
        pairs = list(zip(_tensors(self.model), _tensors(student), strict=True))
        averaged = [(m, s) for m, s in pairs if m.is_floating_point() and decay > 0]
        copied = [(m, s) for m, s in pairs if not (m.is_floating_point() and decay > 0)]
        for mine, theirs in copied:
            mine.copy_(theirs)
        if averaged:
            mine_all, theirs_all = zip(*averaged, strict=True)
            news = [theirs.float() for theirs in theirs_all]
            torch._foreach_lerp_(list(mine_all), news, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "updates": self.updates,
            "early": self.schedule.early,
            "model": self.model.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; what was early of its training stays so.

        Raises:
            UserError: its teacher is of another model.

        """
        self.updates = int(state["updates"])
        early = int(state.get("early", self.schedule.early))
        self.schedule = replace(self.schedule, early=early)
        try:
            nn.Module.load_state_dict(self.model, state["model"])
        except RuntimeError as error:
            raise UserError(
                "the checkpoint's teacher is of another model than its weights "
                f"({str(error).splitlines()[-1].strip()}); take another checkpoint, or "
                "start its teacher anew with --reset-optimizer"
            ) from None


def _tensors(model: nn.Module) -> list[Tensor]:
    return [t.detach() for t in (*model.parameters(), *model.buffers())]
