"""Scores of the groups of an evaluated subset, such as languages, beside its own."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fairseq.logging import metrics
from torch import Tensor

from ..errors import UserError
from ..scores.groups import GROUPS, MEAN, OF_GROUP, WORST, group_scores


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
            metrics.log_derived(f"{OF_GROUP}{name}", partial(_score, names, name))


def check_picking(metric: str, subset: str, names: Sequence[str], pairs: bool) -> None:
    """Refuse at once what picks checkpoints and their own subset does not log.

    Args:
        metric: of ``--best-checkpoint-metric``.
        subset: the first of those evaluated, which picks them.
        names: of its groups.
        pairs: whether it is minimal pairs.

    Raises:
        UserError: names what there is.

    """
    if metric == "ranked" and not pairs:
        raise UserError(
            f"--best-checkpoint-metric ranked is of minimal pairs, and {subset} has "
            "none; name a file of them first in --valid-subset"
        )
    known = [f"{OF_GROUP}{name}" for name in (*names, MEAN, WORST) if names]
    if metric.startswith(OF_GROUP) and metric not in known:
        raise UserError(
            f"--best-checkpoint-metric {metric} is nothing that evaluations of "
            f"{subset} log; choose from {', '.join(['accuracy', *known])}"
        )


def _score(names: Sequence[str], name: str, meters: Any) -> float:
    total = meters[GROUPS].sum
    # A meter that was reset and saw no batch since holds 0.
    found = group_scores(total, names) if isinstance(total, Tensor) else {}
    return found.get(name, math.nan)
