"""Criterion ``r4f``: R3F with a head of Lipschitz constant 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

from fairseq.criterions import register_criterion
from torch import nn

from ..errors import UserError
from ..flags import option
from ..presets import Paper
from ..regularizers import DropoutMode, Stopped, unwrap
from ..regularizers.r3f import R3F
from ..regularizers.spectral import BOUNDS, Bound, bound_linear, spectral_bound
from .options import (
    NOISE,
    Noise,
    divergence,
    dropout,
    every,
    fraction,
    noise,
    probing,
    radius,
    relative,
    stop_gradient,
    strength,
    warmup,
)
from .penalty import PenaltyCriterion
from .plain import PlainConfig
from .radii import radius_of


@dataclass
class R4FConfig(PlainConfig):
    """Flags of r4f; sizes are multiples of the embeddings', unless eps is given."""

    r4f_lambda: float = strength(1.0)
    r4f_warmup: float = warmup()
    r4f_eps: Optional[float] = radius(NOISE)
    r4f_eps_relative: float = relative(0.5)
    r4f_noise: Noise = noise("uniform")
    r4f_norm: Bound = option(
        "bound",
        "bound: W / max(1, sigma); exact: W / sigma, as fairseq does",
        BOUNDS,
    )
    r4f_divergence: str = divergence()
    r4f_live_embeddings: bool = option(
        False, "let the noised pass train the word embeddings too"
    )
    r4f_dropout: DropoutMode = dropout()
    r4f_probe_interval: int = probing()
    r4f_every: int = every()
    r4f_fraction: float = fraction()
    r4f_stop_gradient: Stopped = stop_gradient()


@register_criterion("r4f", dataclass=R4FConfig)
class R4FCriterion(PenaltyCriterion):
    """As r3f, with a classification head g of Lipschitz constant 1, Lip(g) <= 1.

    Costs what r3f does. With lambda 0 the head is still bounded. See
    :class:`..regularizers.SpectralBound` for the bound and its source.
    Deviations: its linear layers are bounded, which bounds a head of tanh or ReLU; GELU
    (DeBERTa, ELECTRA) is steeper by up to 1.13, and ModernBERT's layer norm by any.
    """

    method = "r4f"
    paper: ClassVar = Paper(
        "arXiv 2008.03156, which divides by the norm also where that is below 1",
        {
            "r4f_lambda": 1.0,
            "r4f_warmup": 0.0,
            "r4f_eps": 1e-5,
            "r4f_noise": "uniform",
            "r4f_norm": "exact",
        },
    )
    cfg: R4FConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        cfg = self.cfg
        size, relative = radius_of(cfg, self.method)
        live = cfg.r4f_live_embeddings
        self._r3f = R3F(cfg.r4f_noise, size, live, relative)

    def regularizer(self, model: nn.Module) -> R3F:
        """R3F as the flags say."""
        return self._r3f

    def check_model(self, model: nn.Module) -> None:
        """The model needs word embeddings and a head."""
        super().check_model(model)
        if not list(self._head(model)):
            raise UserError(
                "--criterion r4f bounds the weights of a classification head, and "
                "this model has none; use r3f"
            )

    def prepare_model(self, model: nn.Module) -> None:
        """Bound every weight of the head."""
        for linear in self._head(model):
            if spectral_bound(linear) is None:
                bound_linear(linear, self.cfg.r4f_norm)

    def _head(self, model: nn.Module) -> Iterator[nn.Linear]:
        heads = getattr(unwrap(model), "classification_heads", {})
        for name in (kind.head for kind in self.kinds.values()):
            if name in heads:
                modules = heads[name].modules()
                yield from (m for m in modules if isinstance(m, nn.Linear))

    def before_update(self, model: nn.Module, update: int) -> None:
        """On a bounded head only.

        Raises:
            UserError: nobody prepared the model.

        """
        super().before_update(model, update)
        if None in (spectral_bound(linear) for linear in self._head(model)):
            raise UserError(
                "--criterion r4f bounds the classification head before training, which "
                "needs a task of this plugin; use one, or r3f"
            )

    def after_update(self, model: nn.Module, update: int) -> None:
        """One power iteration, so that u and v follow the weights."""
        for linear in self._head(model):
            bound = spectral_bound(linear)
            if bound is not None:
                bound.advance(linear.parametrizations.weight.original)  # type: ignore[union-attr,arg-type]
