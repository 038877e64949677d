"""Criterion ``freelb``: adversarial training on the task loss, the baseline."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

import torch
from fairseq.criterions import register_criterion
from torch import Tensor, nn

from ..flags import NOT_NEGATIVE, POSITIVE, option
from ..presets import Paper
from ..regularizers import (
    DropoutMode,
    dropout_passes,
    embeddings_rms,
    find_encoder,
    masked_rms,
    noise_keys,
    unwrap,
)
from ..regularizers.ascent import NORMS, Ascent, Norm
from ..regularizers.freelb import FreeLB, sentence_start
from ..regularizers.injection import capture, shift
from ..regularizers.view import rounded_away
from .kinds import Classes
from .options import Noise, dropout, noise, radius, relative
from .plain import Outcome, PlainConfig, PlainCriterion, gradient_scale
from .radii import radius_of

#: By what a mean gradient of the weights may exceed what its scale is made for.
_ROOM = 8


@dataclass
class FreeLBConfig(PlainConfig):
    """Flags of freelb; lengths are a sentence's, in one unit: see eps-relative."""

    freelb_steps: int = option(
        3, "ascent steps (0 only adds the random start)", NOT_NEGATIVE
    )
    freelb_step: Optional[float] = option(
        None, "length of an ascent step; default: the radius over the steps", POSITIVE
    )
    freelb_init: Optional[float] = option(
        None,
        "size of the random start, divided by the root of tokens * channels; default: "
        "the radius",
        NOT_NEGATIVE,
    )
    freelb_eps: Optional[float] = radius("radius of the ball (0 trains plain)")
    freelb_eps_relative: float = relative(0.005)
    freelb_norm: Norm = option("l2", "norm of the ball", NORMS)
    freelb_noise: Noise = noise("uniform", "distribution of the start")
    freelb_dropout: DropoutMode = dropout(
        "shared",
        "masks of its passes: shared by all, independent, or off, so that --dropout "
        "and its like count for nothing",
    )


@register_criterion("freelb", dataclass=FreeLBConfig)
class FreeLBCriterion(PlainCriterion):
    """Learn from adversarially shifted words, at each of K steps of the shift.

    The mean task loss along K projected ascent steps on the word embeddings.

    Costs K + 1 forwards and backwards. The last pass goes through the distributed
    wrapper, the others past it. See :class:`..regularizers.FreeLB` for the method and
    its source.
    """

    method = "freelb"
    ascends = True
    paper: ClassVar = Paper(
        "the script for CoLA of the authors of arXiv 1909.11764",
        {
            "freelb_steps": 3,
            "freelb_step": 2.5e-2,
            "freelb_init": 0.4,
            "freelb_eps": 0.3,
            "freelb_norm": "l2",
            "freelb_noise": "uniform",
            "freelb_dropout": "shared",
        },
    )
    cfg: FreeLBConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        cfg = self.cfg
        self._radius = radius_of(cfg, self.method)
        size, steps = self._radius.size, cfg.freelb_steps
        step, init = cfg.freelb_step, cfg.freelb_init
        self._init = size if init is None else init
        self._freelb = FreeLB(
            Ascent(
                steps,
                size / max(1, steps) if step is None else step,
                size,
                norm=cfg.freelb_norm,
                level="sentence",
            )
        )

    @property
    def active(self) -> bool:
        """Whether the radius is above 0."""
        return self._radius.size > 0

    def check_model(self, model: nn.Module) -> None:
        """The encoder needs word embeddings."""
        with capture(find_encoder(model), "word"):
            pass

    def train_outcome(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """K + 1 perturbed passes."""
        inner, encoder = unwrap(model), find_encoder(model)
        mask = sample["net_input"]["src_tokens"] != encoder.padding_idx
        channels = encoder.embed_tokens.embedding_dim  # type: ignore[union-attr]
        keys = noise_keys(sample["id"])
        form = self.cfg.freelb_noise
        start = sentence_start(form, self._init, keys, mask, channels)  # type: ignore[arg-type]
        seen: list[Tensor] = []
        with torch.no_grad():
            words: Tensor = encoder.embed_tokens(sample["net_input"]["src_tokens"])  # type: ignore[operator]
        unit = self._unit(words, mask)
        losses = self._losses(model, sample, kind, unit, seen)
        trained = [p for p in inner.parameters() if p.requires_grad]
        freelb = self._scaled(model, kind.size(sample))
        loss, delta, refused = freelb(losses, start, trained)
        logged = {
            "rms": masked_rms(delta * unit, mask).sum(),
            "refused": refused / max(1, self.cfg.freelb_steps),
            **self.lost(rounded_away(words, delta * unit, mask), len(keys)),
        }
        return Outcome(seen[-1], loss, loss, logged)

    def _unit(self, words: Tensor, mask: Tensor) -> Tensor:
        """What lengths are multiples of, 0 at padding, shape (B, T, 1).

        In the L2 norm that of the sentence's embeddings, else their root mean square.
        """
        real = mask.unsqueeze(-1)
        if not self._radius.relative:
            return real.float()
        unit = embeddings_rms(words, mask)
        if self.cfg.freelb_norm == "l2":
            unit = unit * (mask.sum(1) * words.shape[-1]).sqrt()[:, None, None]
        return unit * real

    def _losses(
        self,
        model: nn.Module,
        sample: dict[str, Any],
        kind: Classes,
        unit: Tensor,
        seen: list[Tensor],
    ) -> Callable[[Tensor, int], Tensor]:
        inner, encoder = unwrap(model), find_encoder(model)
        steps, dropped = self.cfg.freelb_steps, self.cfg.freelb_dropout
        a_pass = dropout_passes(inner, dropped)

        def loss(delta: Tensor, k: int) -> Tensor:
            through = model if k == steps else inner
            repeats = k > 0 or dropped == "off"
            seen.clear()  # the last are asked for, and a pass of many words is large
            with (
                a_pass() if repeats else nullcontext(),
                shift(encoder, "word", delta * unit),
            ):
                seen.append(kind.logits(through, sample))
            return kind.loss(seen[-1], sample["target"])

        return loss

    def _scaled(self, model: nn.Module, items: int) -> FreeLB:
        """As the model's precision asks for: weights get sums over so many items.

        From 512 items on these leave no room, and nothing is scaled.
        """
        spare = 2.0 ** math.floor(
            math.log2(gradient_scale(model) / _ROOM / max(1, items))
        )
        return self._freelb.scaled(max(1.0, spare))
