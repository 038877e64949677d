"""Criterion ``smart``: adversarial smoothness and the Bregman proximal point."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Optional

import torch
from fairseq.criterions import register_criterion
from torch import Tensor, nn

from ..errors import UserError
from ..flags import NOT_NEGATIVE, POSITIVE, SHARE, at_least, one_of, option
from ..presets import Paper
from ..regularizers import DIVERGENCES, DropoutMode, Stopped, unwrap
from ..regularizers.ascent import NORMS, PROJECTIONS, Ascent, Norm, Projection
from ..regularizers.bregman import Schedule, Teacher
from ..regularizers.divergence import Divergence
from ..regularizers.smart import SMART
from .caching import AscentCriterion
from .kinds import Classes
from .options import (
    Side,
    cache,
    cache_gb,
    cache_refresh,
    divergence,
    dropout,
    every,
    fraction,
    probing,
    radius,
    relative,
    side,
    stop_gradient,
    strength,
    warmup,
)
from .penalty import Regularised, Term
from .plain import Outcome, PlainConfig, gradient_scale
from .radii import Radius, radius_of


@dataclass
class SMARTConfig(PlainConfig):
    """Flags of smart; lengths have one unit: see eps-relative."""

    smart_lambda: float = strength(1.0)
    smart_warmup: float = warmup()
    smart_init: Optional[float] = option(
        None,
        "standard deviation of the random start; default: half the radius, or 1e-5 for "
        "normalize",
        NOT_NEGATIVE,
    )
    smart_step: Optional[float] = option(
        None,
        "length of an ascent step; default: the radius, or 1e-3 for normalize",
        POSITIVE,
    )
    smart_steps: int = option(
        1, "ascent steps (0 leaves the random start)", NOT_NEGATIVE
    )
    smart_eps: Optional[float] = radius(
        "radius of the ball around each word", POSITIVE, ", and 1 for normalize"
    )
    smart_eps_relative: float = relative(0.2, POSITIVE)
    smart_norm: Norm = option("linf", "norm of the ball", NORMS)
    smart_projection: Projection = option(
        "clamp",
        "clamp onto the ball (paper), or normalize onto its surface with the raw "
        "gradient as step (MT-DNN)",
        PROJECTIONS,
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
    smart_every: int = every()
    smart_fraction: float = fraction()
    smart_stop_gradient: Stopped = stop_gradient()
    smart_cache: int = cache()
    smart_cache_refresh: bool = cache_refresh()
    smart_cache_gb: float = cache_gb()
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
        0.1, "momentum: share of the training that is early", SHARE
    )
    smart_refresh: int = option(
        10, "vanilla: updates between copies of the teacher", at_least(1)
    )
    smart_start_update: int = option(
        0, "updates before the Bregman divergence counts", NOT_NEGATIVE
    )


def _radius(cfg: SMARTConfig) -> Radius:
    """MT-DNN's 1 for its projection, unless another is given."""
    otherwise = 1.0 if cfg.smart_projection == "normalize" else None
    return radius_of(cfg, "smart", otherwise)


def _or(given: float | None, cfg: SMARTConfig, share: float, theirs: float) -> float:
    """What is given, else a share of the radius, or MT-DNN's own value."""
    if given is not None:
        return given
    if cfg.smart_projection == "normalize":
        return theirs
    return share * _radius(cfg).size


#: Flags of the Bregman term, and the kinds of it that they are for.
_OF_BREGMAN = {
    "mu": ("vanilla", "momentum"),
    "start_update": ("vanilla", "momentum"),
    "refresh": ("vanilla",),
    "beta": ("momentum",),
    "early_beta": ("momentum",),
    "early": ("momentum",),
}


def _check_bregman(cfg: SMARTConfig) -> None:
    """Refuse what the chosen proximal point has no use for.

    Raises:
        UserError: names the flag.

    """
    defaults = {f.name: f.default for f in fields(cfg)}
    for name, kinds in _OF_BREGMAN.items():
        key, value = f"smart_{name}", getattr(cfg, f"smart_{name}")
        if value not in (0, defaults[key]) and cfg.smart_bregman not in kinds:
            flag = f"--{key.replace('_', '-')} {value}"
            raise UserError(
                f"{flag} is for --smart-bregman {' or '.join(kinds)}: give that, or "
                "leave it out"
            )


def _ascent(cfg: SMARTConfig) -> Ascent:
    """Steps and ball."""
    return Ascent(
        cfg.smart_steps,
        _or(cfg.smart_step, cfg, 1.0, 1e-3),
        _radius(cfg).size,
        norm=cfg.smart_norm,
        projection=cfg.smart_projection,
    )


def _schedule(cfg: SMARTConfig, length: int) -> Schedule:
    """How the teacher follows in a training of so many updates."""
    return Schedule(
        "vanilla" if cfg.smart_bregman == "vanilla" else "momentum",
        cfg.smart_beta,
        cfg.smart_early_beta,
        round(cfg.smart_early * length),
        cfg.smart_refresh,
        cfg.smart_start_update,
    )


def _check_copies(cfg: SMARTConfig) -> None:
    """Refuse a teacher that is its student whenever it is asked."""
    every, refresh = cfg.smart_every, cfg.smart_refresh
    if cfg.smart_bregman == "vanilla" and every > 1 and every % refresh == 0:
        raise UserError(
            f"--smart-every {every} compares with a teacher that --smart-refresh "
            f"{refresh} has just copied, so that the Bregman term is 0; give a refresh "
            "that does not divide it"
        )


def _nothing(logits: Tensor) -> Term:
    """No smoothness term."""
    return Term(logits.new_zeros((), dtype=torch.float32), {}, 0.0)


@register_criterion("smart", dataclass=SMARTConfig)
class SMARTCriterion(AscentCriterion):
    """Answer as before when words are shifted adversarially; near a teacher, if asked.

    Task loss + lambda * R_s + mu * D_Breg against the teacher.

    Costs 3 forwards and 2 backwards plus one backward to the embeddings per ascent
    step; the teacher one forward more. See :class:`..regularizers.SMART` and
    :class:`..regularizers.Teacher` for the method and its source.
    """

    method = "smart"
    paper: ClassVar = Paper(
        "arXiv 1911.03437, implementation details; lambda is the least of its 1, 3, 5",
        {
            "smart_lambda": 1.0,
            "smart_warmup": 0.0,
            "smart_init": 1e-5,
            "smart_step": 1e-3,
            "smart_steps": 1,
            "smart_eps": 1e-5,
            "smart_bregman": "momentum",
            "smart_mu": 1.0,
            "smart_beta": 0.999,
            "smart_early_beta": 0.99,
            "smart_early": 0.1,
        },
    )
    cfg: SMARTConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        cfg = self.cfg
        init = _or(cfg.smart_init, cfg, 0.5, 1e-5)
        live, relative = cfg.smart_live_embeddings, _radius(cfg).relative
        self._smart = SMART(init, self.ascent(), live, relative)
        _check_copies(self.cfg)
        _check_bregman(self.cfg)
        self.check_divergence("inner")
        self._teacher: Teacher | None = None
        self._restored: dict[str, Any] | None = None

    def ascent(self) -> Ascent:
        """Steps and ball."""
        return _ascent(self.cfg)

    @property
    def _proximal(self) -> bool:
        return self.cfg.smart_bregman != "none" and self.cfg.smart_mu > 0

    @property
    def active(self) -> bool:
        """Whether either term counts."""
        return super().active or self._proximal

    @property
    def at_work(self) -> bool:
        """Whether either term counts in this update."""
        return super().at_work or self._proximal

    def sums(self, model: nn.Module) -> tuple[str, ...]:
        """Those of each of the two terms that counts."""
        smooth = super().sums(model) if self.strength > 0 else ()
        near = self._teacher is not None and self._teacher.active
        return (*smooth, *(("bregman",) if near else ()))

    def regularizer(self, model: nn.Module) -> SMART:
        """The smoothness term as its flags say, at the precision of the model."""
        return self._smart.scaled(gradient_scale(model))

    def climbed(self, sample: dict[str, Any], kind: Classes) -> Divergence | None:
        """``--smart-inner``."""
        name = self.cfg.smart_inner
        if name == "auto":
            return None
        return kind.divergence(name, sample["target"])

    def train_outcome(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """As every penalty; the teacher follows from the first batch on."""
        if self._proximal:
            self._follow_from(unwrap(model))
        return super().train_outcome(model, sample, kind)

    def term(self, model: nn.Module, seen: Regularised) -> Term:
        """Both terms."""
        smooth = self.strength > 0
        term = super().term(model, seen) if smooth else _nothing(seen.logits)
        teacher = self._teacher
        if teacher is None or not teacher.active:
            return term
        return self._near_teacher(teacher, seen, term)

    def _near_teacher(self, teacher: Teacher, seen: Regularised, term: Term) -> Term:
        sample, kind = seen.passes.sample, seen.passes.kind
        device = seen.logits.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            theirs = kind.logits(teacher.model, sample)
        distance = self.compare(sample, kind)(seen.logits, theirs).sum()
        unit = kind.unit * self.terms.fraction
        logged = {**term.logged, "bregman": distance.detach() / unit}
        return Term(term.loss + self.cfg.smart_mu * distance, logged, term.cost + 1 / 3)

    def _follow_from(self, model: nn.Module) -> Teacher:
        """The teacher; made at the first batch, when the checkpoint is loaded."""
        if self._teacher is None:
            self._teacher = Teacher(model, _schedule(self.cfg, self._length()))
            if self._restored is not None:
                self._teacher.load_state_dict(self._restored)
                self._restored = None
        return self._teacher

    def after_update(self, model: nn.Module, update: int) -> None:
        """Let the teacher follow."""
        super().after_update(model, update)
        if self._teacher is not None:
            self._teacher.follow(unwrap(model), update)

    def kept_state(self) -> dict[str, Any]:
        """The teacher, also one that no batch has called for yet."""
        kept = self._teacher.state_dict() if self._teacher else self._restored
        return super().kept_state() | ({"teacher": kept} if kept else {})

    def restore_kept(self, state: dict[str, Any]) -> None:
        """Make the next teacher go on from the checkpoint's."""
        super().restore_kept(state)
        self._restored = state.get("teacher")
