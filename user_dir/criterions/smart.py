"""Criterion ``smart``: adversarial smoothness and the Bregman proximal point."""

from dataclasses import dataclass
from typing import Any, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from omegaconf import II
from torch import nn

from ..regularizers import unwrap
from ..regularizers.ascent import Ascent
from ..regularizers.bregman import Schedule, Teacher
from ..regularizers.divergence import Divergence
from ..regularizers.smart import SMART
from ._flags import (
    DIVERGENCE,
    DROPOUT,
    SIDE,
    divergence,
    dropout,
    not_negative,
    option,
    positive,
    probing,
    share,
    side,
    strength,
)
from ._penalty import PenaltyCriterion
from .plain import Outcome, PlainConfig, gradient_scale

NORM = ChoiceEnum(["linf", "l2"])
PROJECTION = ChoiceEnum(["clamp", "normalize"])
BREGMAN = ChoiceEnum(["none", "vanilla", "momentum"])


@dataclass
class SMARTConfig(PlainConfig):
    """Flags of smart; sizes are in embedding units."""

    smart_lambda: float = strength(1.0)
    smart_init: float = not_negative(1e-5, "standard deviation of the random start")
    smart_step: float = positive(1e-3, "length of an ascent step")
    smart_steps: int = not_negative(1, "ascent steps (0 leaves the random start)")
    smart_eps: Optional[float] = option(
        None,
        "radius of the ball around each word, > 0; default: 1e-5 for clamp, 1 for "
        "normalize",
        lambda v: v is None or v > 0,
    )
    smart_norm: NORM = option("linf", "norm of the ball: linf or l2")  # type: ignore[valid-type]
    smart_projection: PROJECTION = option(  # type: ignore[valid-type]
        "clamp",
        "clamp onto the ball (paper), or normalize onto its surface with the raw "
        "gradient as step (MT-DNN)",
    )
    smart_divergence: DIVERGENCE = divergence()  # type: ignore[valid-type]
    smart_inner: DIVERGENCE = option(  # type: ignore[valid-type]
        "auto", "what the ascent climbs: sym_kl, kl or mse; auto: the divergence"
    )
    smart_live_embeddings: bool = option(
        False, "let the perturbed pass train the word embeddings too"
    )
    smart_side: SIDE = side()  # type: ignore[valid-type]
    smart_dropout: DROPOUT = dropout()  # type: ignore[valid-type]
    smart_probe_interval: int = probing()
    smart_bregman: BREGMAN = option(  # type: ignore[valid-type]
        "none", "proximal point: none, vanilla, or momentum (mean teacher)"
    )
    smart_mu: float = not_negative(1.0, "factor of the Bregman divergence")
    smart_beta: float = share(0.999, "momentum: decay of the teacher's average")
    smart_early_beta: float = share(0.99, "momentum: the same, early in training")
    smart_early: float = share(0.1, "momentum: share of --max-update that is early")
    smart_refresh: int = option(
        10, "vanilla: updates between copies of the teacher, >= 1", lambda v: v >= 1
    )
    smart_start_update: int = not_negative(
        0, "updates before the Bregman divergence counts"
    )
    max_update: int = II("optimization.max_update")


@register_criterion("smart", dataclass=SMARTConfig)
class SMARTCriterion(PenaltyCriterion):
    """Task loss + lambda * R_s + mu * D_Breg against a teacher.

    Costs 3 forwards and 2 backwards plus one backward to the embeddings per ascent
    step; the teacher one forward more. See :class:`..regularizers.SMART` and
    :class:`..regularizers.Teacher` for the method and its source.
    """

    method = "smart"

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        self._teacher: Teacher | None = None
        self._restored: dict[str, Any] | None = None

    @property
    def _proximal(self) -> bool:
        return bool(self.flag("bregman") != "none" and self.flag("mu") > 0)

    @property
    def active(self) -> bool:
        """Whether either term counts."""
        return super().active or self._proximal

    def regularizer(self, model: nn.Module) -> SMART:
        """The smoothness term with its flags."""
        normalised = self.flag("projection") == "normalize"
        radius = self.flag("eps") or (1.0 if normalised else 1e-5)
        ascent = Ascent(
            self.flag("steps"),
            self.flag("step"),
            radius,
            gradient_scale(model),
            str(self.flag("norm")),  # type: ignore[arg-type]
            projection=str(self.flag("projection")),  # type: ignore[arg-type]
        )
        return SMART(self.flag("init"), ascent, self.flag("live_embeddings"))

    def climbed(self, sample: dict[str, Any]) -> Divergence | None:
        """``--smart-inner``."""
        name = str(self.flag("inner"))
        if name == "auto":
            return None
        return self.kind.divergence(name, sample["target"], self.method)

    def train_outcome(self, model: nn.Module, sample: dict[str, Any]) -> Outcome:
        """Both terms."""
        smooth = super().active
        outcome = (super().train_outcome if smooth else self.plain_outcome)(
            model, sample
        )
        return self._near_teacher(model, sample, outcome) if self._proximal else outcome

    def _near_teacher(
        self, model: nn.Module, sample: dict[str, Any], outcome: Outcome
    ) -> Outcome:
        teacher = self._follow_from(unwrap(model))
        if not teacher.active:
            return outcome
        device = outcome.logits.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            theirs = self.kind.logits(teacher.model, sample)
        distance = self.compare(sample)(outcome.logits, theirs).sum()
        logged = {**outcome.logged, "bregman": distance.detach() / self.kind.unit}
        loss = outcome.loss + self.flag("mu") * distance
        return outcome._replace(loss=loss, logged=logged)

    def _follow_from(self, model: nn.Module) -> Teacher:
        """The teacher; made at the first batch, when the checkpoint is loaded."""
        if self._teacher is None:
            schedule = Schedule(
                str(self.flag("bregman")),  # type: ignore[arg-type]
                self.flag("beta"),
                self.flag("early_beta"),
                round(self.flag("early") * max(0, self.cfg.max_update)),
                self.flag("refresh"),
                self.flag("start_update"),
            )
            self._teacher = Teacher(model, schedule)
            if self._restored is not None:
                self._teacher.load_state_dict(self._restored)
                self._restored = None
        return self._teacher

    def after_update(self, model: nn.Module, update: int) -> None:
        """Let the teacher follow."""
        if self._teacher is not None:
            self._teacher.follow(unwrap(model), update)

    def kept_state(self) -> dict[str, Any]:
        """The teacher, also one that no batch has called for yet."""
        kept = self._teacher.state_dict() if self._teacher else self._restored
        return {"teacher": kept} if kept else {}

    def restore_kept(self, state: dict[str, Any]) -> None:
        """Make the next teacher go on from the checkpoint's."""
        self._restored = state.get("teacher")
