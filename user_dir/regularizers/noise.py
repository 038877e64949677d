"""Random perturbations that depend on the sentence, not on where it is computed.

A sentence's noise is drawn from a generator keyed by (seed of this update, sentence
id) and over its real tokens only. So it is the same whatever the batch order, the
padding, the gradient accumulation or the number of workers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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
    keys = (np.random.SeedSequence((base, i)).generate_state(1, np.uint64) for i in ids)
    return [int(key[0] >> np.uint64(1)) for key in keys]


def clipped_normal(
    keys: Sequence[int], mask: Tensor, channels: int, std: float
) -> Tensor:
    """Draws of N(0, std^2) clipped to +-2 std, zero at padding.

    Source: the start of SiFT's ascent in its authors' code (methods: DeBERTa, arXiv
    2006.03654, section 5).

    Args:
        keys: one generator key per sentence.
        mask: True at real tokens, shape (B, T).
        channels: C.
        std: standard deviation in embedding units, >= 0.

    Returns:
        fp32 noise of shape (B, T, C) on the mask's device.

    """
    generator = torch.Generator(mask.device)
    draws = [
        torch.randn(
            n, channels, generator=generator.manual_seed(key), device=mask.device
        )
        for key, n in zip(keys, mask.sum(1).tolist(), strict=True)
    ]
    noise = torch.zeros(*mask.shape, channels, device=mask.device)
    noise[mask] = torch.cat(draws).mul_(std).clamp_(-2 * std, 2 * std)
    return noise
