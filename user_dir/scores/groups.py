"""Accuracy of groups of a subset, such as languages: of each, mean and worst."""

import math
from collections.abc import Sequence

from torch import Tensor

from .metrics import COUNTS, class_counts

#: Hidden from fairseq's log by the underscore.
GROUPS = "_groups"
#: What the names of their metrics begin with.
OF_GROUP = "accuracy_"
#: Beside the groups' own names.
MEAN, WORST = "mean", "worst"


def group_counts(
    predicted: Tensor, gold: Tensor, group: Tensor, groups: int, classes: int
) -> dict[str, Tensor]:
    """The counts of :func:`.metrics.class_counts` in each group.

    Args:
        predicted: class indices, shape (B,).
        gold: class indices, shape (B,).
        group: index of each sentence's group, shape (B,).
        groups: G.
        classes: K.

    Returns:
        ``_groups``: one summable tensor of shape (G, 3, K).

    """
    # A class of a group is one of G * K classes; counts of all of them are the groups'.
    start = group * classes
    counts = class_counts(start + predicted, start + gold, groups * classes)[COUNTS]
    return {GROUPS: counts.view(3, groups, classes).transpose(0, 1).contiguous()}


def group_scores(counts: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Accuracy of each group by name, and the mean and the worst of them.

    A group without a sentence has nan, and is left out of both.

    Args:
        counts: summed :func:`group_counts`, shape (G, 3, K).
        names: of the groups.

    """
    right, gold, _ = counts.cpu().double().sum(-1).unbind(1)
    scores = (right / gold).tolist()
    judged = [score for score in scores if not math.isnan(score)] or [math.nan]
    found = dict(zip(names, scores, strict=True))
    return found | {MEAN: sum(judged) / len(judged), WORST: min(judged)}
