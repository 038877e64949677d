"""Scores from sums that any number of workers can add up.

A batch of classifications is reduced to three counts per class, which give every score
that is logged, to the last bit what scikit-learn makes of the predictions themselves
where it is told all classes (``labels``): one that is nowhere counts 0 in macro F1.
Correlations need the predictions: each goes to its own place in a vector, the vectors
are added, and scipy gets the sum.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Hidden from fairseq's log by the underscore.
COUNTS = "_classes"
LABELED = "_labels"
SCATTERED = "_scores"
MARGINS = "_margins"
#: What is made of :func:`class_counts`.
CLASSIFICATION = ("accuracy", "f1", "mcc", "macro_f1", "balanced_accuracy")
#: What is made of :func:`label_counts`.
LABELLING = ("micro_f1", "macro_f1", "subset_accuracy")
#: What is made of :func:`scattered_scores`.
CORRELATION = ("pearson", "spearman")
#: What names of metrics end with of which less is better.
_SMALLER = ("loss", "ppl")
#: What the scores of one class or group begin with, whatever that is called.
_OF_ONE = ("precision_", "recall_", "accuracy_")
#: Sentences that must be judged before equal answers are remarkable.
_MANY = 10
#: Spread of predicted scores, of gold scores' spread, that counts as none.
_FLAT = 1e-3


def larger_is_better(metric: str) -> bool:
    """Whether more of a logged value is better."""
    return metric.startswith(_OF_ONE) or not metric.endswith(_SMALLER)


def class_counts(predicted: Tensor, gold: Tensor, classes: int) -> dict[str, Tensor]:
    """Sentences rightly given, really of and given each class.

    Args:
        predicted: class indices, shape (B,).
        gold: class indices, shape (B,).
        classes: K.

    Returns:
        ``_classes``: one summable tensor of shape (3, K).

    """
    counts = gold.new_zeros(3, classes)
    right = predicted.eq(gold).to(gold.dtype)
    one = torch.ones_like(gold)
    counts.scatter_add_(
        1, torch.stack([gold, gold, predicted]), torch.stack([right, one, one])
    )
    return {COUNTS: counts}


def classification_scores(counts: Tensor) -> dict[str, float]:
    """Accuracy, F1, Matthews correlation in [-1, 1] and means over classes.

    F1 is that of class 1 when there are two classes, else the unweighted mean over
    classes, which is macro F1; balanced accuracy is the mean recall of the classes that
    there are. All are nan without a sentence, as when every step of an epoch
    overflowed.

    Args:
        counts: summed :func:`class_counts`, shape (3, K).

    """
    right, gold, given = counts.cpu().double().numpy()
    total, hits = gold.sum(), right.sum()
    if not total:
        return dict.fromkeys(CLASSIFICATION, math.nan)
    f1 = 2 * right / (gold + given).clip(min=1)
    # Gorodkin's correlation of K classes: covariances of one-hot vectors, times N^2.
    product = (total**2 - given @ given) * (total**2 - gold @ gold)
    covariance = hits * total - gold @ given
    return {
        "accuracy": float(hits / total),
        "f1": float(f1[1] if len(f1) == 2 else f1.mean()),
        "mcc": float(covariance / np.sqrt(product)) if product else 0.0,
        "macro_f1": float(f1.mean()),
        "balanced_accuracy": float((right[gold > 0] / gold[gold > 0]).mean()),
    }


def label_counts(given: Tensor, gold: Tensor) -> dict[str, Tensor]:
    """Sentences rightly given, really of and given each label, and those all right.

    Args:
        given: whether each label is given, shape (B, L).
        gold: whether it holds, shape (B, L).

    Returns:
        ``_labels``: one summable tensor of shape (3, L + 1); the last column has
        the sentences whose labels are all right, and twice how many there are.

    """
    each = torch.stack([given & gold, gold.bool(), given]).long().sum(1)
    whole = given.eq(gold).all(1).long().sum()
    last = torch.stack([whole, *[torch.full_like(whole, len(gold))] * 2])
    return {LABELED: torch.cat([each, last[:, None]], 1)}


def label_scores(counts: Tensor) -> dict[str, float]:
    """F1 over all labels of all sentences, its mean over labels, and exact matches.

    All are nan without a sentence. A label that is neither there nor given has F1 0.

    Args:
        counts: summed :func:`label_counts`, shape (3, L + 1).

    """
    table = counts.cpu().double().numpy()
    (right, gold, given), (whole, total, _) = table[:, :-1], table[:, -1]
    if total == 0:
        return dict.fromkeys(LABELLING, math.nan)
    return {
        "micro_f1": float(2 * right.sum() / max(1, gold.sum() + given.sum())),
        "macro_f1": float((2 * right / (gold + given).clip(min=1)).mean()),
        "subset_accuracy": float(whole / total),
    }


def each_class(counts: Tensor, labels: Sequence[str]) -> dict[str, float]:
    """Precision and recall of each class, as ``recall_spam``; 0 where there is none.

    Args:
        counts: summed :func:`class_counts` or :func:`label_counts`.
        labels: names of the K classes or labels.

    """
    right, gold, given = counts[:, : len(labels)].cpu().double().numpy()
    found = {"precision": right / given.clip(min=1), "recall": right / gold.clip(min=1)}
    return {
        f"{score}_{label}": float(value)
        for score, values in found.items()
        for label, value in zip(labels, values, strict=True)
    }


def f1_of(labels: Sequence[str]) -> str:
    """Which class F1 is of, for people."""
    return labels[1] if len(labels) == 2 else "the mean over classes"


def one_class(counts: Tensor, labels: Sequence[str]) -> str | None:
    """What to say of a model that gives many sentences of several classes one class.

    Args:
        counts: summed :func:`class_counts`, shape (3, K).
        labels: names of the K classes.

    """
    _, gold, given = counts.cpu().double().numpy()
    total, only = gold.sum(), int(given.argmax())
    if total < _MANY or given[only] < total or gold.max() == total:
        return None
    rank = "the most common class" if gold[only] == gold.max() else "not the commonest"
    return (
        f"every one of {total:.0f} predictions is '{labels[only]}', {rank}: "
        f"{100 * gold[only] / total:.1f} % of the subset"
    )


def one_labelling(counts: Tensor, labels: Sequence[str]) -> str | None:
    """The same of a model that gives different sentences the same labels.

    Args:
        counts: summed :func:`label_counts`, shape (3, L + 1).
        labels: names of the L labels.

    """
    table = counts.cpu().double().numpy()
    (_, gold, given), total = table[:, :-1], table[1, -1]
    differ = int(np.sum((gold > 0) & (gold < total)))
    if not differ or total < _MANY or np.any((given > 0) & (given < total)):
        return None
    always = [label for label, n in zip(labels, given, strict=True) if n]
    said = "'" + "', '".join(always) + "'" if always else "no label"
    return (
        f"every one of {total:.0f} predictions is {said}, where {differ} of "
        f"{len(labels)} labels hold for some sentences and not for others"
    )


def one_score(scattered: Tensor) -> str | None:
    """The same of a model that gives sentences of different scores one score.

    Args:
        scattered: summed :func:`scattered_scores`, shape (3, N).

    """
    predicted, gold = _judged(scattered)
    spread = float(np.ptp(gold)) if len(gold) >= _MANY else 0.0
    if not spread or np.ptp(predicted) > _FLAT * spread:
        return None
    return (
        f"every one of {len(gold)} predictions is {predicted.mean():.4g}, where gold "
        f"scores are {gold.min():.4g} to {gold.max():.4g}"
    )


def scattered_scores(
    outputs: Tensor, gold: Tensor, ids: Tensor, total: int
) -> dict[str, Tensor]:
    """Outputs at their sentences' places in the data set, zero elsewhere.

    Added up over batches and workers this is every prediction once, which ranks need
    and moments could not give.

    Args:
        outputs: scores or logits, shape (B, K).
        gold: scores or class indices, shape (B,), or which labels hold, shape (B, L).
        ids: indices in the data set, shape (B,).
        total: N, size of the data set.

    Returns:
        ``_scores``: outputs, gold and a 1 where there is one, shape (K + 2, N), or
        (2 L + 1, N).

    """
    golds = gold.view(len(gold), -1).unbind(1)
    rows = [*outputs.unbind(1), *golds, torch.ones_like(golds[0])]
    scores = outputs.new_zeros(len(rows), total, dtype=torch.float64)
    scores[:, ids] = torch.stack([row.double() for row in rows])
    return {SCATTERED: scores}


def each_once(scattered: Tensor) -> Tensor:
    """Sums over batches and workers as the values of each sentence.

    fairseq repeats sentences to fill up uneven workers; a sum then counts them twice.

    Args:
        scattered: summed :func:`scattered_scores`, shape (K + 2, N).

    Returns:
        The same with 1 in the last row for a sentence that was judged, else 0.

    """
    table = scattered.cpu()
    return table / table[-1].clamp(min=1)


def margins(logits: Tensor, gold: Tensor, ids: Tensor, total: int) -> dict[str, Tensor]:
    """How much more acceptable than not each sentence of minimal pairs is found.

    Args:
        logits: of two classes, shape (B, 2).
        gold: class indices, shape (B,).
        ids: indices in the data set, shape (B,).
        total: N, size of the data set.

    Returns:
        ``_margins``: as :func:`scattered_scores`, shape (3, N).

    """
    margin = (logits[:, 1] - logits[:, 0]).unsqueeze(1)
    return {MARGINS: scattered_scores(margin, gold, ids, total)[SCATTERED]}


def ranked(summed: Tensor) -> float:
    """Share of the minimal pairs in which the acceptable sentence has more.

    Equal margins are not more. nan if no pair was judged.

    Args:
        summed: :func:`margins`, added up; the sentences of a pair stand side by side,
            the acceptable one first, shape (3, N).

    """
    margin, _, judged = each_once(summed)
    both = (judged[::2] > 0) & (judged[1::2] > 0)
    right = margin[::2] > margin[1::2]
    return float(right[both].double().mean())


def _judged(scattered: Tensor) -> np.ndarray:
    """Predicted and gold scores of the sentences judged, shape (2, M)."""
    table = each_once(scattered).numpy()
    found: np.ndarray = table[:2, table[2] > 0]
    return found


def correlation_scores(scattered: Tensor) -> dict[str, float]:
    """Pearson and Spearman correlation in [-1, 1]; 0 where one side is constant.

    Args:
        scattered: summed :func:`scattered_scores`, shape (3, N).

    """
    predicted, gold = _judged(scattered)
    if len(gold) < 2 or np.ptp(predicted) == 0 or np.ptp(gold) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    from scipy.stats import pearsonr, spearmanr  # a slow import

    return {
        "pearson": float(pearsonr(predicted, gold).statistic),
        "spearman": float(spearmanr(predicted, gold).statistic),
    }


def scores_of(given: Tensor, gold: Tensor, classes: int) -> dict[str, float]:
    """The metrics of answers that are all here.

    Args:
        given: class indices or scores, shape (N,), or which labels are given, (N, L).
        gold: the same of the right answers.
        classes: how many there are; 1 for scores.

    """
    if gold.dim() == 2:
        return label_scores(label_counts(given, gold.long())[LABELED])
    if classes > 1:
        counts = class_counts(given, gold.long(), classes)
        return classification_scores(counts[COUNTS])
    ids = torch.arange(len(gold))
    table = scattered_scores(given[:, None], gold, ids, len(gold))
    return correlation_scores(table[SCATTERED])
