"""Scores of the groups of an evaluated subset, such as languages, beside its own."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fairseq.logging import metrics
from torch import Tensor

from ..scores.groups import GROUPS, MEAN, WORST, group_scores


def log_groups(
    names: Sequence[str], logging_outputs: Sequence[Mapping[str, Any]]
) -> None:
    """Log ``accuracy_en`` and so on, ``accuracy_mean`` and ``accuracy_worst``.

    Args:
        names: of the groups.
        logging_outputs: of the criterion; without counts of groups nothing is logged.

    """
    if any(GROUPS in log for log in logging_outputs):
        for name in (*names, MEAN, WORST):
            metrics.log_derived(f"accuracy_{name}", partial(_score, names, name))


def _score(names: Sequence[str], name: str, meters: Any) -> float:
    total = meters[GROUPS].sum
    # A meter that was reset and saw no batch since holds 0.
    found = group_scores(total, names) if isinstance(total, Tensor) else {}
    return found.get(name, math.nan)
