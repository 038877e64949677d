"""Criterion ``hype``: the control that has noise and no divergence."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

import torch
from fairseq.criterions import register_criterion
from torch import nn

from ..errors import UserError
from ..presets import Paper
from ..regularizers import (
    DropoutMode,
    dropout_passes,
    find_encoder,
    noise_keys,
    unwrap,
)
from ..regularizers.hype import layers_of, perturbed_layers
from .kinds import Classes
from .options import NOISE, Noise, dropout, noise, radius, relative
from .plain import Outcome, PlainConfig, PlainCriterion, halved
from .radii import radius_of


@dataclass
class HyPeConfig(PlainConfig):
    """Flags of hype; sizes are in units of the hidden states."""

    hype_eps: Optional[float] = radius(f"{NOISE} (0 trains plain)")
    hype_eps_relative: float = relative(0.01, whose="sentence's hidden states")
    hype_noise: Noise = noise("normal")
    hype_dropout: DropoutMode = dropout(
        "off",
        "masks of the one pass: off, so that --dropout and its like count for nothing, "
        "or independent",
    )


@register_criterion("hype", dataclass=HyPeConfig)
class HyPeCriterion(PlainCriterion):
    """Task loss with random noise on the input of every encoder layer.

    Costs 1 forward and 1 backward. ``--hype-dropout off``, the paper's setting, takes
    dropout out of that pass; ``independent`` leaves it in. See
    :func:`..regularizers.perturbed_layers` for the method and its source.
    """

    method = "hype"
    paper: ClassVar = Paper(
        "arXiv 2212.08853, the least of its radii from 1e-5 to 1e-2",
        {"hype_eps": 1e-5, "hype_noise": "normal", "hype_dropout": "off"},
    )
    cfg: HyPeConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        self._radius = radius_of(self.cfg, self.method)
        if self.cfg.hype_dropout == "shared":
            raise UserError(
                "--hype-dropout shared has no second pass to share a mask with; use "
                "independent or off"
            )

    @property
    def active(self) -> bool:
        """Whether the radius is above 0."""
        return self._radius.size > 0

    def check_model(self, model: nn.Module) -> None:
        """The encoder needs a list of layers."""
        layers_of(find_encoder(model))

    def train_outcome(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """One noised pass."""
        encoder = find_encoder(model)
        mask = sample["net_input"]["src_tokens"] != encoder.padding_idx
        keys = noise_keys(sample["id"])
        off = self.cfg.hype_dropout == "off"
        quiet = dropout_passes(unwrap(model), "off") if off else nullcontext
        form, (eps, relative) = self.cfg.hype_noise, self._radius
        noised = perturbed_layers(encoder, form, eps, keys, mask, relative)
        with quiet(), noised as known:
            outcome = self.plain_outcome(model, sample, kind)
        rms, lost = known.rms, known.lost
        if rms is None:  # layerdrop took every layer
            rms = torch.zeros(len(keys), device=mask.device)
            lost = rms.sum() if halved(model) else None
        logged = {"rms": rms.sum(), **self.lost(lost, len(keys))}
        return outcome._replace(logged=logged)
