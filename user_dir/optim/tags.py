"""What an optimizer needs to know about a parameter besides its values."""

import re
from collections.abc import Container, Iterable
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


def layer_counts(model: nn.Module) -> dict[str, int]:
    """Number of layers in each of a model's stacks, in the order of their depth.

    Stacks are the dotted names that the model's ``stacks`` gives; those of a model
    that gives none are called as fairseq's are.
    """
    counts = dict.fromkeys(getattr(model, "stacks", ("encoder", "decoder")), 0)
    for name, _ in model.named_parameters():
        if place := _place(name, counts):
            counts[place[0]] = max(counts[place[0]], place[1] + 1)
    return counts


def _place(name: str, stacks: Iterable[str]) -> tuple[str, int] | None:
    """Stack and layer, counted from 0, that a parameter of this name is in."""
    known = "|".join(map(re.escape, stacks))
    found = re.search(rf"(?:^|\.)({known})\.(?:[\w.]*\.)?layers\.(\d+)\.", name)
    return (found[1], int(found[2])) if found else None


def _depth(name: str, counts: dict[str, int]) -> int:
    if "classification_heads." in name:
        return sum(counts.values()) + 1
    stacks = list(counts)
    if place := _place(name, counts):
        below = stacks[: stacks.index(place[0])]
        return place[1] + 1 + sum(counts[stack] for stack in below)
    # The LayerNorm after a pre-norm stack belongs to the layer that it follows.
    for index, stack in enumerate(stacks):
        if re.search(rf"(?:^|\.){re.escape(stack)}\.layer_norm\.", name):
            return sum(counts[each] for each in stacks[: index + 1])
    return 0


def _norm_parameters(model: nn.Module) -> set[int]:
    norms = (m for m in model.modules() if "LayerNorm" in type(m).__name__)
    return {id(p) for norm in norms for p in norm.parameters()}


def tag_parameters(
    model: nn.Module,
    layer_decay: float = 1.0,
    new_scale: float = 1.0,
    new: Container[str] = (),
) -> None:
    """Put a :class:`Tag` on every parameter of an encoder or BART model.

    Args:
        model: with ``layers`` in its stacks; see :func:`layer_counts`.
        layer_decay: the learning rate of depth d is scaled by layer_decay ** (top - d),
            in (0, 1]; the head, one above the top layer, is not scaled. Source: Zhang
            et al. (arXiv 2006.05987), after Howard and Ruder.
        new_scale: the learning rate of what is not pretrained is scaled by this too.
        new: names of the parameters that are not.

    """
    named = dict(model.named_parameters())
    counts, norms = layer_counts(model), _norm_parameters(model)
    top = sum(counts.values())
    for name, parameter in named.items():
        depth = _depth(name, counts)
        scale = layer_decay ** max(0, top - depth) * (new_scale if name in new else 1)
        head = "classification_heads." in name
        tag: Any = Tag(name, depth, id(parameter) in norms, head, scale)
        parameter.param_group = tag  # type: ignore[attr-defined]


def tag_of(parameter: Tensor) -> Tag | None:
    """The parameter's tag, if it has one."""
    tag = getattr(parameter, "param_group", None)
    return tag if isinstance(tag, Tag) else None
