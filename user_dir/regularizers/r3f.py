"""R3F: parametric noise on the word embeddings."""

from dataclasses import dataclass
from typing import ClassVar

from .noise import draw
from .view import Penalty, View, embeddings_rms, masked_rms, rounded_away


@dataclass(frozen=True)
class R3F:
    """KL_S(f(e + z), f(e)) with z independent per channel, e the word embeddings.

    f is the model from embeddings to logits, the view's ``forward``.

    Source: R3F (arXiv 2008.03156), the objective L_R3F.
    Deviations: z is drawn per sentence on the device, in fp32; scores are compared by
    squared difference; in seq2seq the target's padding is left out.

    Args:
        noise: ``uniform`` in [-eps, eps] or ``normal`` with standard deviation eps.
        eps: in embedding units, >= 0.
        live: let the noised pass train the word embeddings too.
        relative: eps is a multiple of the root mean square of a sentence's embeddings.

    """

    logs: ClassVar = ("rms",)

    noise: str
    eps: float
    live: bool = False
    relative: bool = False

    def __call__(self, view: View) -> Penalty:
        """Add noise and compare."""
        base = view.embedded if self.live else view.embedded.detach()
        z = draw(self.noise, view.keys, view.mask, base.shape[-1], self.eps)
        if self.relative:
            z = z * embeddings_rms(base, view.mask)
        return Penalty(
            view.compared(base.float() + z),
            {"rms": masked_rms(z, view.mask).sum()},
            rounded_away(base.detach(), z, view.mask),
            view.cost(),
        )
