"""HyPe: noise on the input of every layer."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from torch import Tensor, nn

from ..errors import UserError
from .noise import derived, draw
from .view import embeddings_rms, masked_rms, rounded_away


@dataclass
class Noised:
    """What is known of the noise on the first layer that a pass takes.

    Args:
        rms: root mean square in each sentence, shape (B,); None before that layer.
        lost: share of its entries that rounding removed, None where it cannot.

    """

    rms: Tensor | None = None
    lost: Tensor | None = None


def layers_of(encoder: nn.Module) -> nn.ModuleList:
    """The layers that are perturbed.

    Raises:
        UserError: the encoder has no list of layers.

    """
    layers = getattr(encoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"{type(encoder).__name__} has no list of layers to perturb")
    return layers


def _by_sentence(hidden: Tensor, mask: Tensor) -> Tensor:
    """States of a layer, (T, B, C), as those of sentences, (B, T, C), detached.

    Raises:
        UserError: they are not (T, B, C), where their shape shows it.

    """
    tokens, rows = hidden.shape[:2]
    if rows % len(mask) or tokens * rows != mask.numel():
        raise UserError(
            f"layers of {tuple(hidden.shape)} and a mask of {tuple(mask.shape)}: "
            "perturbed_layers is for layers that are called on (T, B, C), as fairseq's"
        )
    return hidden.detach().transpose(0, 1).reshape(*mask.shape, -1)


@contextmanager
def perturbed_layers(
    encoder: nn.Module,
    noise: str,
    eps: float,
    keys: Tensor,
    mask: Tensor,
    relative: bool = False,
) -> Iterator[Noised]:
    """Add fresh noise to the hidden states that enter each layer of an encoder.

    Source: HyPe (arXiv 2212.08853), its method section: noise on the hidden states
    that enter each Transformer layer.
    Deviations: noise is drawn per sentence and layer, at real tokens only (our own).
    Layers that backward computes again (activation checkpointing) have no noise there.

    Args:
        encoder: with ``layers``, each called on hidden states of shape (T, B, C), or of
            the rows that B sentences have side by side.
        noise: ``uniform`` or ``normal``.
        eps: half the width, or the standard deviation, >= 0.
        keys: noise keys of the sentences, shape (B,).
        mask: True at real tokens, shape (B, T).
        relative: eps is a multiple of the root mean square of a sentence's hidden
            states before the layer.

    Yields:
        What is known of it so far.

    Raises:
        UserError: the encoder has no list of layers, or they are called on states of
            another shape.

    """
    layers = layers_of(encoder)
    known = Noised()

    def hook(index: int) -> Any:
        # A layer that is passed several times gets other noise each time.
        numbers = count(index, len(layers))

        def shift(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = inputs[0]
            z = draw(noise, derived(keys, next(numbers)), mask, hidden.shape[-1], eps)
            states = _by_sentence(hidden, mask)
            if relative:
                z = z * embeddings_rms(states, mask)
            if known.rms is None:
                known.rms = masked_rms(z, mask)
                known.lost = rounded_away(states, z, mask)
            rows = z.view(hidden.shape[1], hidden.shape[0], -1)
            moved = (hidden.float() + rows.transpose(0, 1)).to(hidden.dtype)
            return (moved, *inputs[1:])

        return shift

    with ExitStack() as stack:
        # Iterated over, a list of layers with layerdrop leaves some out.
        for index, layer in enumerate(layers.children()):
            stack.callback(layer.register_forward_pre_hook(hook(index)).remove)
        yield known
