"""Scores from sums equal the libraries' scores from predictions."""

import math

import numpy as np
import pytest
import torch
from fairseq_steady.metrics import (
    CONFUSION,
    classification_scores,
    confusion_counts,
    correlation_scores,
    scattered_scores,
)
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_summed_counts_give_the_same_scores_as_predictions(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    gold = torch.randint(classes, (301,), generator=generator)
    noise = torch.randint(classes, (301,), generator=generator)
    predicted = torch.where(torch.rand(301, generator=generator) < 0.6, gold, noise)
    summed: dict[str, float] = {}
    for part in torch.arange(301).split(37):
        counts = confusion_counts(predicted[part], gold[part], classes)
        assert all(value.dim() == 0 for value in counts.values())
        for name, value in counts.items():
            summed[name] = summed.get(name, 0) + float(value)
    average = "binary" if classes == 2 else "macro"
    expected = {
        "accuracy": accuracy_score(gold, predicted),
        "f1": f1_score(gold, predicted, average=average),
        "mcc": matthews_corrcoef(gold, predicted),
    }
    assert classification_scores(summed) == pytest.approx(expected, abs=1e-12)


def test_a_constant_prediction_scores_0() -> None:
    counts = confusion_counts(torch.zeros(9).long(), torch.arange(9) % 2, 2)
    scores = classification_scores({k: float(v) for k, v in counts.items()})
    assert scores["mcc"] == 0
    assert scores["f1"] == 0
    constant = torch.stack([torch.ones(5), torch.arange(5.0), torch.ones(5)])
    assert correlation_scores(constant) == {"pearson": 0, "spearman": 0}


def test_without_a_sentence_there_is_no_score() -> None:
    """As when every step of an epoch overflowed."""
    counts = {f"{CONFUSION}{i}_{j}": 0.0 for i in (0, 1) for j in (0, 1)}
    assert all(math.isnan(score) for score in classification_scores(counts).values())


def test_correlations() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=50)
    predicted = np.exp(gold) + rng.normal(size=50)
    order = torch.from_numpy(rng.permutation(50))
    both = torch.from_numpy(np.stack([predicted, gold]))
    summed = torch.zeros(3, 60, dtype=torch.float64)
    # The last batch comes twice, as on a worker that fairseq fills up.
    for ids in [*order.split(7), order[-1:]]:
        outputs, golds = both[:, ids]
        summed += scattered_scores(outputs[:, None], golds, ids, total=60)["_scores"]
    scores = correlation_scores(summed)
    assert scores["pearson"] == pytest.approx(pearsonr(predicted, gold).statistic)
    assert scores["spearman"] == pytest.approx(spearmanr(predicted, gold).statistic)
