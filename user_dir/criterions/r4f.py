"""Criterion ``r4f``: R3F with a head of Lipschitz constant 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from torch import nn

from ..errors import UserError
from ..regularizers import unwrap
from ..regularizers.spectral import bound_linear, spectral_bound
from ._flags import (
    DIVERGENCE,
    DROPOUT,
    NOISE,
    divergence,
    dropout,
    not_negative,
    option,
    probing,
    strength,
)
from .plain import Outcome, PlainConfig
from .r3f import R3FCriterion

BOUND = ChoiceEnum(["bound", "exact"])


@dataclass
class R4FConfig(PlainConfig):
    """Flags of r4f; sizes are in embedding units."""

    r4f_lambda: float = strength(1.0)
    r4f_eps: float = not_negative(
        1e-5, "standard deviation, or half the width of uniform noise"
    )
    r4f_noise: NOISE = option("uniform", "uniform or normal")  # type: ignore[valid-type]
    r4f_norm: BOUND = option(  # type: ignore[valid-type]
        "bound", "bound: W / max(1, sigma); exact: W / sigma, as fairseq does"
    )
    r4f_divergence: DIVERGENCE = divergence()  # type: ignore[valid-type]
    r4f_live_embeddings: bool = option(
        False, "let the noised pass train the word embeddings too"
    )
    r4f_dropout: DROPOUT = dropout()  # type: ignore[valid-type]
    r4f_probe_interval: int = probing()


@register_criterion("r4f", dataclass=R4FConfig)
class R4FCriterion(R3FCriterion):
    """R3F subject to Lip(g) <= 1 for the classification head g.

    Costs what r3f does. With lambda 0 the head is still bounded. See
    :class:`..regularizers.SpectralBound` for the bound and its source.
    """

    method = "r4f"

    def flag(self, name: str) -> Any:
        """Value of ``--r4f-<name>``; what makes sense without a head is fixed."""
        fixed = {"reduction": "token", "side": "encoder"}
        return fixed[name] if name in fixed else super().flag(name)

    def check_model(self, model: nn.Module) -> None:
        """Bound every weight of the head, before a checkpoint is loaded."""
        super().check_model(model)
        linears = list(self._head(model))
        if not linears:
            raise UserError(
                "--criterion r4f bounds the weights of a classification head, and "
                "this model has none; use r3f"
            )
        for linear in linears:
            if spectral_bound(linear) is None:
                bound_linear(linear, str(self.flag("norm")))  # type: ignore[arg-type]

    def _head(self, model: nn.Module) -> Iterator[nn.Linear]:
        heads = getattr(unwrap(model), "classification_heads", {})
        for name in (kind.head for kind in self.kinds.values()):
            if name in heads:
                modules = heads[name].modules()
                yield from (m for m in modules if isinstance(m, nn.Linear))

    def train_outcome(self, model: nn.Module, sample: dict[str, Any]) -> Outcome:
        """As r3f, on a bounded head only."""
        bounds = [spectral_bound(linear) for linear in self._head(model)]
        if not bounds or None in bounds:
            raise UserError(
                "--criterion r4f bounds the classification head before training, which "
                "needs a model with a head and a task of this plugin; use one, or r3f"
            )
        return super().train_outcome(model, sample)

    def after_update(self, model: nn.Module, update: int) -> None:
        """One power iteration, so that u and v follow the weights."""
        for linear in self._head(model):
            bound = spectral_bound(linear)
            if bound is not None:
                bound.advance(linear.parametrizations.weight.original)  # type: ignore[union-attr,arg-type]
