"""The thin layer between fairseq and our optimizers."""

from collections.abc import Iterable
from dataclasses import field
from typing import Any

from fairseq.optim import FairseqOptimizer
from torch import Tensor

from ..optim import tag_of


def option(default: Any, text: str) -> Any:
    """A flag with its help."""
    return field(default=default, metadata={"help": text})


def parameter_groups(params: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Group by learning-rate scale, decay and origin, as the tags say.

    Biases and LayerNorms (one dimension) do not decay; a new head has no pretrained
    values to be pulled to.
    """
    groups: dict[tuple[Any, ...], list[Tensor]] = {}
    for p in params:
        tag = tag_of(p)
        scale, head = (tag.lr_scale, tag.head) if tag else (1.0, False)
        groups.setdefault((scale, p.dim() > 1, not head), []).append(p)
    names = ("lr_scale", "decay_scale", "anchor_scale")
    return [
        {"params": members, **dict(zip(names, map(float, key), strict=True))}
        for key, members in groups.items()
    ]


class SteadyOptimizer(FairseqOptimizer):
    """Builds a pure optimizer from its config's fields."""

    def settings(self) -> dict[str, Any]:
        """Constructor arguments from the flags."""
        raise NotImplementedError

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What the command line overrides in a checkpoint's groups."""
        return self.settings()

    @property
    def supports_flat_params(self) -> bool:
        """One flat tensor has no biases, norms or layers to tell apart."""
        return False
