"""Criterion ``smart``: adversarial smoothness and the Bregman proximal point."""

from dataclasses import dataclass
from typing import Any, Literal, Optional

import torch
from fairseq.criterions import register_criterion
from omegaconf import II
from torch import nn

from ..flags import NOT_NEGATIVE, POSITIVE, SHARE, at_least, one_of, option
from ..regularizers import DIVERGENCES, DropoutMode, unwrap
from ..regularizers.ascent import Ascent, Norm, Projection
from ..regularizers.bregman import Schedule, Teacher
from ..regularizers.divergence import Divergence
from ..regularizers.smart import SMART
from .kinds import Classes
from .options import Side, divergence, dropout, probing, side, strength
from .penalty import PenaltyCriterion, Terms
from .plain import Outcome, PlainConfig, gradient_scale


@dataclass
class SMARTConfig(PlainConfig):
    """Flags of smart; sizes are in embedding units."""

    smart_lambda: float = strength(1.0)
    smart_init: float = option(
        1e-5, "standard deviation of the random start", NOT_NEGATIVE
    )
    smart_step: float = option(1e-3, "length of an ascent step", POSITIVE)
    smart_steps: int = option(
        1, "ascent steps (0 leaves the random start)", NOT_NEGATIVE
    )
    smart_eps: Optional[float] = option(
        None,
        "radius of the ball around each word; default: 1e-5 for clamp, 1 for normalize",
        POSITIVE,
    )
    smart_norm: Norm = option("linf", "norm of the ball", one_of("linf", "l2"))
    smart_projection: Projection = option(
        "clamp",
        "clamp onto the ball (paper), or normalize onto its surface with the raw "
        "gradient as step (MT-DNN)",
        one_of("clamp", "normalize"),
    )
    smart_divergence: str = divergence()
    smart_inner: str = option(
        "auto",
        "what the ascent climbs: sym_kl, kl or mse; auto: the divergence",
        one_of("auto", *DIVERGENCES),
    )
    smart_live_embeddings: bool = option(
        False, "let the perturbed pass train the word embeddings too"
    )
    smart_side: Side = side()
    smart_dropout: DropoutMode = dropout()
    smart_probe_interval: int = probing()
    smart_bregman: Literal["none", "vanilla", "momentum"] = option(
        "none",
        "proximal point: none, vanilla, or momentum (mean teacher)",
        one_of("none", "vanilla", "momentum"),
    )
    smart_mu: float = option(1.0, "factor of the Bregman divergence", NOT_NEGATIVE)
    smart_beta: float = option(0.999, "momentum: decay of the teacher's average", SHARE)
    smart_early_beta: float = option(
        0.99, "momentum: the same, early in training", SHARE
    )
    smart_early: float = option(
        0.1, "momentum: share of --max-update that is early", SHARE
    )
    smart_refresh: int = option(
        10, "vanilla: updates between copies of the teacher", at_least(1)
    )
    smart_start_update: int = option(
        0, "updates before the Bregman divergence counts", NOT_NEGATIVE
    )
    max_update: int = II("optimization.max_update")


def _smart(cfg: SMARTConfig) -> SMART:
    """The smoothness term."""
    normalised = cfg.smart_projection == "normalize"
    ascent = Ascent(
        cfg.smart_steps,
        cfg.smart_step,
        cfg.smart_eps or (1.0 if normalised else 1e-5),
        norm=cfg.smart_norm,
        projection=cfg.smart_projection,
    )
    return SMART(cfg.smart_init, ascent, cfg.smart_live_embeddings)


def _schedule(cfg: SMARTConfig) -> Schedule:
    """How the teacher follows."""
    return Schedule(
        "vanilla" if cfg.smart_bregman == "vanilla" else "momentum",
        cfg.smart_beta,
        cfg.smart_early_beta,
        round(cfg.smart_early * max(0, cfg.max_update)),
        cfg.smart_refresh,
        cfg.smart_start_update,
    )


@register_criterion("smart", dataclass=SMARTConfig)
class SMARTCriterion(PenaltyCriterion):
    """Task loss + lambda * R_s + mu * D_Breg against a teacher.

    Costs 3 forwards and 2 backwards plus one backward to the embeddings per ascent
    step; the teacher one forward more. See :class:`..regularizers.SMART` and
    :class:`..regularizers.Teacher` for the method and its source.
    """

    method = "smart"
    cfg: SMARTConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        self._smart = _smart(self.cfg)
        self._teacher: Teacher | None = None
        self._restored: dict[str, Any] | None = None

    @property
    def _proximal(self) -> bool:
        return self.cfg.smart_bregman != "none" and self.cfg.smart_mu > 0

    @property
    def active(self) -> bool:
        """Whether either term counts."""
        return super().active or self._proximal

    def read_terms(self) -> Terms:
        """Flags that are not SMART's own."""
        cfg = self.cfg
        return Terms(
            cfg.smart_lambda,
            cfg.smart_divergence,
            cfg.smart_dropout,
            cfg.smart_probe_interval,
            cfg.smart_side,
        )

    def regularizer(self, model: nn.Module) -> SMART:
        """The smoothness term as its flags say, at the precision of the model."""
        return self._smart.scaled(gradient_scale(model))

    def climbed(self, sample: dict[str, Any], kind: Classes) -> Divergence | None:
        """``--smart-inner``."""
        name = self.cfg.smart_inner
        if name == "auto":
            return None
        return kind.divergence(name, sample["target"], self.method)

    def train_outcome(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """Both terms."""
        smooth = super().active
        outcome = (super().train_outcome if smooth else self.plain_outcome)(
            model, sample, kind
        )
        if not self._proximal:
            return outcome
        return self._near_teacher(model, sample, kind, outcome)

    def _near_teacher(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes, outcome: Outcome
    ) -> Outcome:
        teacher = self._follow_from(unwrap(model))
        if not teacher.active:
            return outcome
        device = outcome.logits.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            theirs = kind.logits(teacher.model, sample)
        distance = self.compare(sample, kind)(outcome.logits, theirs).sum()
        logged = {**outcome.logged, "bregman": distance.detach() / kind.unit}
        loss = outcome.loss + self.cfg.smart_mu * distance
        return outcome._replace(loss=loss, logged=logged)

    def _follow_from(self, model: nn.Module) -> Teacher:
        """The teacher; made at the first batch, when the checkpoint is loaded."""
        if self._teacher is None:
            self._teacher = Teacher(model, _schedule(self.cfg))
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
