"""Noise: the numbers, their moments, and what they do not depend on."""

import math

import numpy as np
import pytest
import torch
from fairseq_steady.regularizers import NOISES, derived, draw, noise_keys, shares
from scipy import stats
from torch import Tensor

#: Standard deviation and largest value of each distribution, in units of its scale.
MOMENTS = {
    "normal": (1.0, math.inf),
    "uniform": (1 / math.sqrt(3), 1.0),
    "clipped_normal": (0.9594, 2.0),
}
_WORD = 2**64
_GOLDEN = 0x9E3779B97F4A7C15


def real(*lengths: int) -> Tensor:
    """A mask of sentences padded to the longest."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


# --- the numbers ----------------------------------------------------------------------


def finish(z: int) -> int:
    """SplitMix64's last steps, as its paper prints them."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _WORD
    return z ^ (z >> 31)


def lanes(word: int) -> list[float]:
    """Both 24-bit numbers of a word, signed, as odd multiples of 2^-24."""
    cut = [word >> 40, (word >> 16) % 2**24]
    signed = [bits - 2**24 if bits >= 2**23 else bits for bits in cut]
    return [(2 * bits + 1) / 2**24 for bits in signed]


def by_hand(name: str, seed: int, sentence: int, tokens: int, width: int) -> np.ndarray:
    key = finish((finish(seed % _WORD) + (sentence + 1) * _GOLDEN) % _WORD)
    half = (width + 1) // 2
    rows = []
    for token in range(tokens):
        places = range(token * half + 1, token * half + half + 1)
        pairs = [lanes(finish((key + p * _GOLDEN) % _WORD)) for p in places]
        one, other = np.array(pairs).T
        if name != "uniform":
            far = np.sqrt(-2 * np.log((one + 1) / 2))
            one, other = far * np.cos(np.pi * other), far * np.sin(np.pi * other)
        rows.append(np.concatenate([one, other])[:width])
    return np.clip(rows, -2, 2) if name == "clipped_normal" else np.array(rows)


@pytest.mark.parametrize("width", [6, 7])
@pytest.mark.parametrize("name", NOISES)
def test_numbers_are_those_of_splitmix64(name: str, width: int) -> None:
    mask = real(3, 5)
    for seed in (7, 2**64 - 3):
        found = draw(name, noise_keys([4, 11], seed), mask, width, 0.5)
        for row, (sentence, tokens) in enumerate(((4, 3), (11, 5))):
            expected = 0.5 * by_hand(name, seed, sentence, tokens, width)
            exact = {"rtol": 0, "atol": 0} if name == "uniform" else {"rtol": 1e-5}
            np.testing.assert_allclose(
                found[row, :tokens].double().numpy(), expected, **exact
            )
    assert not found[0, 3:].any()


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_its_moments_and_bounds(name: str) -> None:
    deviation, most = MOMENTS[name]
    drawn = draw(name, noise_keys([3, 4], 1), real(500, 500), 64, 0.25) / 0.25
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
    assert float(drawn.std()) == pytest.approx(deviation, rel=0.01)
    reach = min(most, 3.5)
    assert reach * 0.99 < float(drawn.abs().max()) <= most


@pytest.mark.parametrize("name", ["normal", "uniform"])
def test_noise_has_its_distribution(name: str) -> None:
    drawn = draw(name, noise_keys(range(8), 2), real(*[200] * 8), 64, 1.0)
    law = stats.norm() if name == "normal" else stats.uniform(-1, 2)
    for part in (drawn, drawn[..., ::2], drawn[..., 1::2], drawn[:, :1], drawn[:1]):
        values = part.flatten().double().numpy()
        assert stats.kstest(values, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", NOISES)
def test_no_two_of_sentence_token_channel_update_go_together(name: str) -> None:
    keys = [noise_keys(range(16), seed) for seed in (5, 6)]
    keys.append(derived(keys[0], 0))
    drawn = torch.stack([draw(name, k, real(*[64] * 16), 32, 1.0) for k in keys])
    for along, other in ((0, 1), (0, 2), (1, 1), (2, 1), (3, 1)):
        a = drawn.narrow(along, 0, 1).flatten()
        b = drawn.narrow(along, other, 1).flatten()
        bound = 4 / math.sqrt(len(a))
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < bound
    # A key's two lanes, and neighbours at every distance within a sentence.
    series = drawn[0, 0].flatten() - drawn[0, 0].mean()
    for lag in (1, 2, 16, 17, 32, 64):
        related = float((series[lag:] * series[:-lag]).mean() / series.var())
        assert abs(related) < 4 / math.sqrt(len(series))


# --- what they do not depend on -------------------------------------------------------


@pytest.mark.parametrize("name", NOISES)
def test_batch_and_padding_change_nothing(name: str) -> None:
    alone = draw(name, noise_keys([9], 1), real(5), 8, 0.5)[0]
    both = draw(name, noise_keys([4, 9], 1), real(7, 5), 8, 0.5)
    assert torch.equal(both[1, :5], alone)
    left = draw(name, noise_keys([9], 1), real(8).flip(1) & (torch.arange(8) > 2), 8, 1)
    assert torch.equal(left[0, 3:] * 0.5, alone)
    assert not left[0, :3].any()


def test_keys_tell_updates_and_sentences_apart() -> None:
    keys = [noise_keys(torch.tensor([1, 2, 3]), seed).tolist() for seed in (5, 6)]
    assert len({*keys[0], *keys[1]}) == 6
    torch.manual_seed(5)
    assert noise_keys([1, 2, 3]).tolist() == keys[0]


def test_shares_are_even_and_unlike_the_noise_of_their_keys() -> None:
    keys = noise_keys(range(20_000), 3)
    found = shares(derived(keys, 1))
    assert stats.kstest(found.numpy(), stats.uniform().cdf).pvalue > 1e-3
    first = draw("uniform", keys, torch.ones(20_000, 1, dtype=torch.bool), 2, 1.0)
    for channel in (0, 1):
        pair = torch.stack([found, first[:, 0, channel].double()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.03
