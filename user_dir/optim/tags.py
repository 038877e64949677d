"""What an optimizer needs to know about a parameter besides its values."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Tag:
    """Identity and place of one parameter.

    fairseq keeps the attribute ``param_group`` on its fp32 master copies and nothing
    else that is ours, so that is where the tag lives.

    Args:
        name: as in ``model.named_parameters()``.
        depth: 0 for embeddings, 1 to n for layers counted from the input (a decoder's
            after the encoder's), n + 1 for a classification head.
        norm: whether it belongs to a LayerNorm.
        head: whether it belongs to a classification head.
        lr_scale: factor on the learning rate, > 0.

    """

    name: str
    depth: int
    norm: bool
    head: bool
    lr_scale: float = 1.0

    @property
    def in_layer(self) -> bool:
        """Whether it is a weight or bias of a layer's attention or feed-forward."""
        return self.depth > 0 and not self.head and not self.norm


_LAYER = re.compile(r"(?:^|\.)(encoder|decoder)\.(?:[\w.]*\.)?layers\.(\d+)\.")


def layer_counts(names: Iterable[str]) -> dict[str, int]:
    """Number of layers by side, encoder and decoder."""
    counts = {"encoder": 0, "decoder": 0}
    for match in map(_LAYER.search, names):
        if match:
            counts[match[1]] = max(counts[match[1]], int(match[2]) + 1)
    return counts


def _depth(name: str, counts: dict[str, int]) -> int:
    if "classification_heads." in name:
        return sum(counts.values()) + 1
    match = _LAYER.search(name)
    if match is None:
        return 0
    return int(match[2]) + 1 + (counts["encoder"] if match[1] == "decoder" else 0)


def _norm_parameters(model: nn.Module) -> set[int]:
    norms = (m for m in model.modules() if "LayerNorm" in type(m).__name__)
    return {id(p) for norm in norms for p in norm.parameters()}


def tag_parameters(model: nn.Module, layer_decay: float = 1.0) -> None:
    """Put a :class:`Tag` on every parameter of an encoder or BART model.

    Args:
        model: with ``layers`` under ``encoder`` and perhaps ``decoder``.
        layer_decay: the learning rate of depth d is scaled by layer_decay ** (top - d),
            in (0, 1]; the head, one above the top layer, is not scaled. Source: Zhang
            et al. (arXiv 2006.05987), after Howard and Ruder.

    """
    named = dict(model.named_parameters())
    counts, norms = layer_counts(named), _norm_parameters(model)
    top = sum(counts.values())
    for name, parameter in named.items():
        depth = _depth(name, counts)
        scale = layer_decay ** max(0, top - depth)
        head = "classification_heads." in name
        tag: Any = Tag(name, depth, id(parameter) in norms, head, scale)
        parameter.param_group = tag  # type: ignore[attr-defined]


def tag_of(parameter: Tensor) -> Tag | None:
    """The parameter's tag, if it has one."""
    tag = getattr(parameter, "param_group", None)
    return tag if isinstance(tag, Tag) else None
