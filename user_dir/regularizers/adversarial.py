"""What SiFT and SMART share: a perturbation found by ascent, then compared."""

from torch import Tensor

from .ascent import Ascent, ascend
from .noise import draw
from .view import Penalty, View, masked_rms, rounded_away


def adversarial_penalty(
    view: View, base: Tensor, start: tuple[str, float], ascent: Ascent
) -> Penalty:
    """Climb from a random start, then compare with the clean pass.

    Args:
        view: the batch.
        base: the value that is perturbed, shape (B, T, C); its gradient is kept.
        start: name and scale of the noise to start from.
        ascent: the steps.

    """
    name, scale = start
    noise = draw(name, view.keys, view.mask, base.shape[-1], scale)
    target, fixed = view.clean.detach(), base.detach()
    measure = view.climbed or view.divergence

    def objective(delta: Tensor) -> Tensor:
        return measure(view.forward(fixed + delta), target).sum()

    delta, refused = ascend(objective, noise, ascent)
    delta = delta * view.mask.unsqueeze(-1)
    return Penalty(
        view.divergence(view.forward(base + delta), view.clean),
        {
            "rms": masked_rms(delta, view.mask).sum(),
            "refused": refused / max(1, ascent.steps),
        },
        rounded_away(view.embedded.detach(), delta, view.mask),
    )
