"""Criterion ``sift``: scale-invariant fine-tuning on any sentence task."""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from torch import Tensor, nn

from ..errors import UserError
from ..regularizers import (
    DIVERGENCES,
    Ascent,
    Penalty,
    SiFT,
    capture,
    dropout_passes,
    find_encoder,
    noise_keys,
    substitute,
)
from ..regularizers.injection import unwrap
from .plain import PlainConfig, PlainCriterion

DIVERGENCE = ChoiceEnum(["auto", *DIVERGENCES])
DROPOUT = ChoiceEnum(["independent", "shared", "off"])


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class SiFTConfig(PlainConfig):
    """Flags of sift; sizes are in units of the normalised embedding (rms 1)."""

    sift_lambda: float = _flag(5.0, "factor of the regulariser, >= 0; 0 trains plain")
    sift_init: float = _flag(1e-2, "standard deviation of the random start, >= 0")
    sift_step: float = _flag(1e-4, "L-infinity length of an ascent step, > 0")
    sift_steps: int = _flag(1, "ascent steps, >= 0; 0 leaves the random start")
    sift_eps: Optional[float] = _flag(
        None, "radius of the L-infinity ball, > 0; default: no projection"
    )
    sift_divergence: DIVERGENCE = _flag(  # type: ignore[valid-type]
        "auto", "sym_kl, kl or mse; auto: sym_kl for classes, mse for scores"
    )
    sift_dropout: DROPOUT = _flag(  # type: ignore[valid-type]
        "independent",
        "masks of the extra passes: independent, shared with the clean pass, or off",
    )


def check(cfg: SiFTConfig) -> None:
    """Refuse values that cannot be meant.

    Raises:
        UserError: a value is out of its range.

    """
    ranges = {
        "sift_lambda": cfg.sift_lambda >= 0,
        "sift_init": cfg.sift_init >= 0,
        "sift_step": cfg.sift_step > 0,
        "sift_steps": cfg.sift_steps >= 0,
        "sift_eps": cfg.sift_eps is None or cfg.sift_eps > 0,
    }
    for name, good in ranges.items():
        if not good:
            text = SiFTConfig.__dataclass_fields__[name].metadata["help"]
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(cfg, name)} is out of range: {text}")


def gradient_scale(model: nn.Module) -> float:
    """A factor that keeps fp16 gradients of the inner objective from underflowing."""
    parameter = next(unwrap(model).parameters())
    autocast = torch.is_autocast_enabled() and (
        torch.get_autocast_dtype(parameter.device.type) == torch.float16
    )
    return 2.0**12 if autocast or parameter.dtype == torch.float16 else 1.0


@register_criterion("sift", dataclass=SiFTConfig)
class SiFTCriterion(PlainCriterion):
    """Task loss + lambda * sum over sentences of l_s(f(LN0(e) + delta), f(e)).

    Costs 3 forwards and 2 backwards plus one backward to the embeddings per ascent
    step. See :class:`..regularizers.SiFT` for the method and its source.
    """

    method = "sift"
    cfg: SiFTConfig

    def __init__(self, cfg: SiFTConfig, task: Any) -> None:
        super().__init__(cfg, task)
        check(cfg)
        name = str(cfg.sift_divergence)
        if name == "auto":
            name = "mse" if self.regression else "sym_kl"
        if self.regression and name != "mse":
            raise UserError(
                f"--sift-divergence {name} is always 0 for a single score; use mse"
            )
        self.divergence = DIVERGENCES[name]

    @property
    def weight(self) -> float:
        """``--sift-lambda``."""
        return float(self.cfg.sift_lambda)

    def check_model(self, model: nn.Module) -> None:
        """The encoder needs an embedding LayerNorm."""
        with capture(find_encoder(model), "norm"):
            pass

    def regularized(
        self, model: nn.Module, sample: dict[str, Any]
    ) -> tuple[Tensor, Penalty]:
        """The clean pass through the wrapper, every other past it."""
        inner, encoder = unwrap(model), find_encoder(model)
        extra_pass = dropout_passes(inner, self.cfg.sift_dropout)
        with capture(encoder, "norm") as embedded:
            logits = self.logits(model, sample)

        def forward(value: Tensor) -> Tensor:
            with extra_pass(), substitute(encoder, "norm", value):
                return self.logits(inner, sample)

        clean = logits
        if self.cfg.sift_dropout == "off":
            with extra_pass():
                clean = self.logits(inner, sample)
        mask = sample["net_input"]["src_tokens"] != encoder.padding_idx
        keys = noise_keys(sample["id"].tolist())
        penalty = self._sift(model)(forward, embedded[0], mask, clean, keys)
        return logits, penalty

    def _sift(self, model: nn.Module) -> SiFT:
        ascent = Ascent(
            self.cfg.sift_steps,
            self.cfg.sift_step,
            self.cfg.sift_eps,
            gradient_scale(model),
        )
        return SiFT(self.divergence, self.cfg.sift_init, ascent)
