"""Criterion ``freelb``: adversarial training on the task loss, the baseline."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from torch import Tensor, nn

from ..regularizers import dropout_passes, find_encoder, masked_rms, noise_keys, unwrap
from ..regularizers.ascent import Ascent
from ..regularizers.freelb import FreeLB, sentence_start
from ..regularizers.injection import capture, shift
from ._flags import DROPOUT, NOISE, dropout, not_negative, option, positive
from .plain import Outcome, PlainConfig, PlainCriterion, gradient_scale

NORM = ChoiceEnum(["l2", "linf"])


@dataclass
class FreeLBConfig(PlainConfig):
    """Flags of freelb; sizes are in embedding units, per sentence."""

    freelb_steps: int = not_negative(3, "ascent steps (0 only adds the random start)")
    freelb_step: float = positive(5e-2, "length of an ascent step")
    freelb_init: float = not_negative(
        0.4, "size of the random start, divided by the root of tokens * channels"
    )
    freelb_eps: float = not_negative(0.3, "radius of the ball (0 trains plain)")
    freelb_norm: NORM = option("l2", "norm of the ball: l2 or linf")  # type: ignore[valid-type]
    freelb_noise: NOISE = option("uniform", "of the start: uniform or normal")  # type: ignore[valid-type]
    freelb_dropout: DROPOUT = dropout("shared")  # type: ignore[valid-type]


@register_criterion("freelb", dataclass=FreeLBConfig)
class FreeLBCriterion(PlainCriterion):
    """Mean task loss along K projected ascent steps on the word embeddings.

    Costs K + 1 forwards and backwards. The last pass goes through the distributed
    wrapper, the others past it. See :class:`..regularizers.FreeLB` for the method and
    its source; the defaults are its authors' for CoLA.
    """

    method = "freelb"

    @property
    def active(self) -> bool:
        """Whether the radius is above 0."""
        return float(self.flag("eps")) > 0

    def check_model(self, model: nn.Module) -> None:
        """The encoder needs word embeddings."""
        with capture(find_encoder(model), "word"):
            pass

    def train_outcome(self, model: nn.Module, sample: dict[str, Any]) -> Outcome:
        """K + 1 perturbed passes."""
        inner, encoder = unwrap(model), find_encoder(model)
        mask = sample["net_input"]["src_tokens"] != encoder.padding_idx
        channels = encoder.embed_tokens.embedding_dim  # type: ignore[union-attr]
        keys = noise_keys(sample["id"].tolist())
        noise, size = str(self.flag("noise")), self.flag("init")
        start = sentence_start(noise, size, keys, mask, channels)  # type: ignore[arg-type]
        seen: list[Tensor] = []
        losses = self._losses(model, sample, mask, seen)
        trained = [p for p in inner.parameters() if p.requires_grad]
        loss, delta, refused = FreeLB(self._ascent(model))(losses, start, trained)
        logged = {
            "rms": masked_rms(delta, mask).sum(),
            "refused": refused / max(1, self.flag("steps")),
        }
        return Outcome(seen[-1], loss, loss, logged)

    def _losses(
        self,
        model: nn.Module,
        sample: dict[str, Any],
        mask: Tensor,
        seen: list[Tensor],
    ) -> Callable[[Tensor, int], Tensor]:
        inner, encoder = unwrap(model), find_encoder(model)
        a_pass = dropout_passes(inner, self.flag("dropout"))

        def loss(delta: Tensor, k: int) -> Tensor:
            through = model if k == self.flag("steps") else inner
            repeats = k > 0 or self.flag("dropout") == "off"
            with (
                a_pass() if repeats else nullcontext(),
                shift(encoder, "word", delta * mask.unsqueeze(-1)),
            ):
                seen.append(self.kind.logits(through, sample))
            return self.kind.loss(seen[-1], sample["target"])

        return loss

    def _ascent(self, model: nn.Module) -> Ascent:
        return Ascent(
            self.flag("steps"),
            self.flag("step"),
            self.flag("eps"),
            gradient_scale(model),
            str(self.flag("norm")),  # type: ignore[arg-type]
            "sentence",
        )
