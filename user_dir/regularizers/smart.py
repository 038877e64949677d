"""SMART: smoothness-inducing adversarial regularisation."""

from dataclasses import dataclass, replace
from typing import ClassVar

from .adversarial import adversarial_penalty
from .ascent import Ascent
from .view import Penalty, View, embeddings_rms


@dataclass(frozen=True)
class SMART:
    """max over ||delta|| <= eps of l_s(f(e + delta), f(e)), e the word embeddings.

    Source: SMART (arXiv 1911.03437), the smoothness-inducing regulariser R_s,
    and Algorithm 1.
    Deviations: the norm is per token, as in all public code; the start is projected
    too, so that no step count leaves the ball.

    Args:
        init: standard deviation of the random start, in embedding units, >= 0.
        ascent: steps, ball and norm.
        live: let the perturbed pass train the word embeddings too.
        relative: every length is a multiple of the length that a vector has all of
            whose entries are the root mean square of the sentence's embeddings.

    """

    logs: ClassVar = ("rms", "refused")

    init: float
    ascent: Ascent
    live: bool = False
    relative: bool = False

    def scaled(self, factor: float) -> "SMART":
        """The same with the ascent's ``gradient_scale`` changed."""
        return replace(self, ascent=self.ascent.scaled(factor))

    def __call__(self, view: View) -> Penalty:
        """Perturb and compare."""
        base = view.embedded if self.live else view.embedded.detach()
        start, unit, ascent = ("normal", self.init), None, self.ascent
        if self.relative:
            unit = embeddings_rms(base, view.mask)
            if ascent.norm == "l2":
                ascent = ascent.longer(base.shape[-1] ** 0.5)
        return adversarial_penalty(view, base.float(), start, ascent, unit)
