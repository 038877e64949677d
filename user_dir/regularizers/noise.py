"""Random perturbations that depend on the sentence, not on where it is computed.

Every number is a hash of (seed, update, sentence, position among the real tokens,
channel). So it is the same whatever the batch order, the padding, the gradient
accumulation, the number of workers or the device, and a whole batch is drawn at once.

Source: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), one stream a sentence; the
transform of Box and Muller (1958) makes uniform numbers normal.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import UserError

#: SplitMix64's increment, as a signed 64-bit number, and its steps: shift and factor.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Each number shifted right, zeros coming in from the left."""
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def _mixed(z: Tensor) -> Tensor:
    """Numbers that differ in one bit, 64-bit integers, become unlike in all."""
    for bits, factor in _ROUNDS:
        z = _shifted(z, bits).bitwise_xor_(z).mul_(factor)
    return _shifted(z, 31).bitwise_xor_(z)


def derived(keys: Tensor, number: int) -> Tensor:
    """Other keys for another purpose: those of ``number``, one per key.

    Args:
        keys: int64, shape (B,).
        number: of the purpose, >= 0.

    """
    return _mixed(keys ^ _mixed(torch.full_like(keys, number + 1).mul_(_STEP)))


def noise_keys(ids: Tensor | Sequence[int], seed: int | None = None) -> Tensor:
    """One key per sentence.

    Args:
        ids: the sentences' indices in the data set, each >= 0, shape (B,).
        seed: seed of the update; by default torch's current seed, which fairseq's
            trainer sets to ``--seed`` + update on every worker.

    Returns:
        int64 keys of shape (B,), on the device of ``ids``.

    """
    base = torch.initial_seed() if seed is None else seed
    signed = (base + 2**63) % 2**64 - 2**63
    ids = torch.as_tensor(ids, dtype=torch.int64)
    return _mixed(_mixed(torch.full_like(ids, signed)) + (ids + 1) * _STEP)


def shares(keys: Tensor) -> Tensor:
    """A number for each key, evenly spread over [0, 1), float64 of shape (B,)."""
    return _shifted(keys, 11).double() * 2.0**-53


def _uniform(words: Tensor) -> Tensor:
    """Two numbers evenly spread over (-1, 1) from each word, fp32 and exact.

    Shape (..., H) to (..., 2H).
    """
    halves = torch.cat([words >> 40, (words << 24) >> 40], -1)  # 24 bits, signed
    return halves.mul_(2).add_(1).float().mul_(2.0**-24)


def _normal(words: Tensor) -> Tensor:
    """Two normal numbers from each word, of at most 6 standard deviations.

    Shape (..., H) to (..., 2H).
    """
    one, other = _uniform(words).chunk(2, -1)
    far = one.mul(0.5).add_(0.5).log_().mul_(-2).sqrt_()
    angle = other * math.pi
    return torch.cat([angle.cos().mul_(far), angle.sin().mul_(far)], -1)


Make = Callable[[Tensor], Tensor]

#: Distributions by name; times ``scale`` that is the standard deviation, or half the
#: width of the uniform one. ``clipped_normal`` ends at 2 standard deviations.
NOISES: dict[str, Make] = {
    "normal": _normal,
    "uniform": _uniform,
    "clipped_normal": lambda words: _normal(words).clamp_(-2, 2),
}


def check_mask(mask: Tensor) -> None:
    """Refuse a mask of numbers, whose negation is no mask.

    Raises:
        UserError: says how to make one.

    """
    if mask.dtype != torch.bool:
        raise UserError(
            f"a mask of {mask.dtype}: give one that is True at real tokens, as "
            "attention_mask.bool()"
        )


def draw(name: str, keys: Tensor, mask: Tensor, channels: int, scale: float) -> Tensor:
    """Independent draws for every real token and channel, zero at padding.

    Args:
        name: a key of :data:`NOISES`.
        keys: of the sentences, as :func:`noise_keys` gives them, shape (B,).
        mask: True at real tokens, shape (B, T).
        channels: C.
        scale: in embedding units, >= 0.

    Returns:
        fp32 noise of shape (B, T, C) on the mask's device. Uniform noise is the same
        bits on every device, normal noise the same up to rounding.

    Raises:
        UserError: the mask is not one of truth values.

    """
    check_mask(mask)
    half = (channels + 1) // 2
    places = (mask.cumsum(1) - 1).unsqueeze(-1) * half
    places = places + torch.arange(1, half + 1, device=mask.device)
    noise = NOISES[name](_mixed(places.mul_(_STEP).add_(keys[:, None, None])))
    return noise[..., :channels] * (scale * mask.unsqueeze(-1))
