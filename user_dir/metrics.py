"""Scores from sums that any number of workers can add up.

A batch of classifications is reduced to its confusion counts; scikit-learn turns the
summed counts into scores at full precision. Correlations need the predictions
themselves: each goes to its own place in a vector, the vectors are added, and scipy
gets the sum.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor

#: Hidden from fairseq's log by the underscore; then gold class and predicted class.
CONFUSION = "_confusion_"
SCATTERED = "_scores"


def confusion_counts(
    predicted: Tensor, gold: Tensor, classes: int
) -> dict[str, Tensor]:
    """Sentences of gold class i predicted as j, for every (i, j), as scalars.

    Args:
        predicted: class indices, shape (B,).
        gold: class indices, shape (B,).
        classes: K.

    Returns:
        K * K summable scalar tensors named ``_confusion_i_j``.

    """
    cells = torch.bincount(gold * classes + predicted, minlength=classes**2)
    return {
        f"{CONFUSION}{n // classes}_{n % classes}": cell for n, cell in enumerate(cells)
    }


def _samples(
    counts: Mapping[str, float],
) -> tuple[list[int], list[int], list[float]]:
    """Gold and predicted classes with their weights."""
    gold, predicted, weights = [], [], []
    for name, count in counts.items():
        i, j = name.removeprefix(CONFUSION).split("_")
        gold.append(int(i))
        predicted.append(int(j))
        weights.append(float(count))
    return gold, predicted, weights


def classification_scores(counts: Mapping[str, float]) -> dict[str, float]:
    """Accuracy, F1 and Matthews correlation in [-1, 1] from summed confusion counts.

    F1 is that of class 1 when there are two classes, else the unweighted mean over
    classes. All are nan without a sentence, as when every step of an epoch overflowed.
    """
    gold, predicted, weights = _samples(counts)
    if not any(weights):
        return dict.fromkeys(("accuracy", "f1", "mcc"), math.nan)
    average = "binary" if len(counts) == 4 else "macro"
    f1 = f1_score(
        gold, predicted, average=average, sample_weight=weights, zero_division=0
    )
    return {
        "accuracy": float(accuracy_score(gold, predicted, sample_weight=weights)),
        "f1": float(f1),
        "mcc": float(matthews_corrcoef(gold, predicted, sample_weight=weights)),
    }


def scattered_scores(
    outputs: Tensor, gold: Tensor, ids: Tensor, total: int
) -> dict[str, Tensor]:
    """Outputs at their sentences' places in the data set, zero elsewhere.

    Added up over batches and workers this is every prediction once, which ranks need
    and moments could not give.

    Args:
        outputs: scores or logits, shape (B, K).
        gold: scores or class indices, shape (B,).
        ids: indices in the data set, shape (B,).
        total: N, size of the data set.

    Returns:
        ``_scores``: outputs, gold and a 1 where there is one, shape (K + 2, N).

    """
    rows = [*outputs.unbind(1), gold, torch.ones_like(gold)]
    scores = outputs.new_zeros(len(rows), total, dtype=torch.float64)
    scores[:, ids] = torch.stack([row.double() for row in rows])
    return {SCATTERED: scores}


def correlation_scores(scattered: Tensor) -> dict[str, float]:
    """Pearson and Spearman correlation in [-1, 1]; 0 where one side is constant.

    Args:
        scattered: summed :func:`scattered_scores`, shape (3, N).

    """
    table = scattered.cpu().numpy()
    # fairseq repeats sentences to fill up uneven workers; a sum then counts twice.
    predicted, gold = (table[:2] / table[2].clip(min=1))[:, table[2] > 0]
    if len(gold) < 2 or np.ptp(predicted) == 0 or np.ptp(gold) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(pearsonr(predicted, gold).statistic),
        "spearman": float(spearmanr(predicted, gold).statistic),
    }
