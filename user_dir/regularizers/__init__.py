"""Regularisers in pure torch: nothing here imports fairseq.

Shapes: ``B`` sentences, ``T`` tokens, ``C`` embedding channels, ``K`` classes.
"""

from .ascent import Ascent, ascend
from .divergence import DIVERGENCES, kl, squared_difference, symmetric_kl
from .dropout import DropoutMode, dropout_passes
from .injection import POINTS, InjectionPoint, capture, find_encoder, substitute
from .noise import clipped_normal, noise_keys
from .sift import Penalty, SiFT, normalise_embeddings

__all__ = [
    "DIVERGENCES",
    "POINTS",
    "Ascent",
    "DropoutMode",
    "InjectionPoint",
    "Penalty",
    "SiFT",
    "ascend",
    "capture",
    "clipped_normal",
    "dropout_passes",
    "find_encoder",
    "kl",
    "noise_keys",
    "normalise_embeddings",
    "squared_difference",
    "substitute",
    "symmetric_kl",
]
