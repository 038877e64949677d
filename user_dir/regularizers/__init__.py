"""Regularisers in pure torch: nothing here imports fairseq.

Shapes: ``B`` sentences, ``T`` tokens, ``C`` embedding channels, ``K`` classes.
"""

from .ascent import Ascent, ascend, project
from .bregman import Schedule, Teacher
from .chunked import chunked
from .divergence import DIVERGENCES, kl, squared_difference, symmetric_kl
from .dropout import DropoutMode, dropout_passes
from .freelb import FreeLB, sentence_start
from .hype import perturbed_layers
from .injection import (
    InjectionPoint,
    capture,
    find_decoder,
    find_encoder,
    shift,
    substitute,
    unwrap,
)
from .noise import NOISES, derived, draw, noise_keys, shares
from .r3f import R3F
from .r_drop import doubled
from .sift import SiFT, normalise_embeddings
from .smart import SMART
from .spectral import SpectralBound, bound_linear, spectral_bound
from .view import Penalty, Stopped, View, embeddings_rms, masked_rms, rounded_away

__all__ = [
    "DIVERGENCES",
    "NOISES",
    "R3F",
    "SMART",
    "Ascent",
    "DropoutMode",
    "FreeLB",
    "InjectionPoint",
    "Penalty",
    "Schedule",
    "SiFT",
    "SpectralBound",
    "Stopped",
    "Teacher",
    "View",
    "ascend",
    "bound_linear",
    "capture",
    "chunked",
    "derived",
    "doubled",
    "draw",
    "dropout_passes",
    "embeddings_rms",
    "find_decoder",
    "find_encoder",
    "kl",
    "masked_rms",
    "noise_keys",
    "normalise_embeddings",
    "perturbed_layers",
    "project",
    "rounded_away",
    "sentence_start",
    "shares",
    "shift",
    "spectral_bound",
    "squared_difference",
    "substitute",
    "symmetric_kl",
    "unwrap",
]
