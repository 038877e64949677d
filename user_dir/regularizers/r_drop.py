"""R-Drop: two dropout masks on the same batch, no noise."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def doubled(value: Any, rows: Tensor | None = None) -> Any:
    """Every tensor of a nested input repeated along the batch, (B, ...) to (2B, ...).

    Source: R-Drop (arXiv 2106.14448) algorithm 1: one forward on the concatenation of
    the batch with itself, so that dropout differs between the halves.

    Args:
        value: a tensor, or a mapping of such values.
        rows: sentences that are repeated, shape (R,), giving (B + R, ...); None for
            all of them.

    """
    if isinstance(value, Tensor):
        return torch.cat([value, value if rows is None else value[rows]])
    if isinstance(value, Mapping):
        return {name: doubled(item, rows) for name, item in value.items()}
    return value
