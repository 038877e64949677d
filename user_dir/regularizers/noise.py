"""Random perturbations that depend on the sentence, not on where it is computed.

A sentence's noise is drawn from a generator keyed by (seed of this update, sentence
id) and over its real tokens only. So it is the same whatever the batch order, the
padding, the gradient accumulation or the number of workers.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..seeds import seed_of


def noise_keys(ids: Sequence[int], seed: int | None = None) -> list[int]:
    """One generator key per sentence.

    Args:
        ids: the sentences' indices in the data set, each >= 0.
        seed: seed of the update; by default torch's current seed, which fairseq's
            trainer sets to ``--seed`` + update on every worker.

    Returns:
        Keys in [0, 2**63).

    """
    base = torch.initial_seed() if seed is None else seed
    return [seed_of(base, i) for i in ids]


Fill = Callable[[Tensor, float, torch.Generator], Tensor]

#: Distributions by name; ``scale`` is the standard deviation, or half the width of
#: the uniform one. ``clipped_normal`` ends at 2 standard deviations.
NOISES: dict[str, Fill] = {
    "normal": lambda x, scale, g: x.normal_(generator=g).mul_(scale),
    "uniform": lambda x, scale, g: x.uniform_(-1, 1, generator=g).mul_(scale),
    "clipped_normal": lambda x, scale, g: (
        x.normal_(generator=g).mul_(scale).clamp_(-2 * scale, 2 * scale)
    ),
}


def draw(
    name: str, keys: Sequence[int], mask: Tensor, channels: int, scale: float
) -> Tensor:
    """Independent draws for every real token and channel, zero at padding.

    Args:
        name: a key of :data:`NOISES`.
        keys: one generator key per sentence.
        mask: True at real tokens, shape (B, T).
        channels: C.
        scale: in embedding units, >= 0.

    Returns:
        fp32 noise of shape (B, T, C), drawn on the mask's device.

    """
    fill, generator = NOISES[name], torch.Generator(mask.device)
    draws = [
        fill(
            torch.empty(n, channels, device=mask.device),
            scale,
            generator.manual_seed(key),
        )
        for key, n in zip(keys, mask.sum(1).tolist(), strict=True)
    ]
    noise = torch.zeros(*mask.shape, channels, device=mask.device)
    noise[mask] = torch.cat(draws)
    return noise
