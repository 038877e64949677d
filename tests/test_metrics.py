"""Scores from sums equal the libraries' scores from predictions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from fairseq_steady.scores.metrics import (
    COUNTS,
    LABELED,
    class_counts,
    classification_scores,
    correlation_scores,
    each_class,
    label_counts,
    label_scores,
    one_labelling,
    scattered_scores,
)
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
)

SCORES = {"precision": precision_score, "recall": recall_score}


@pytest.mark.parametrize(("classes", "used"), [(2, 2), (3, 3), (7, 7), (7, 4)])
def test_summed_counts_give_the_very_scores_of_predictions(
    classes: int, used: int
) -> None:
    """To the last bit; also where a class is neither gold nor predicted."""
    generator = torch.Generator().manual_seed(classes)
    gold = torch.randint(used, (301,), generator=generator)
    noise = torch.randint(used, (301,), generator=generator)
    predicted = torch.where(torch.rand(301, generator=generator) < 0.6, gold, noise)
    counts = [
        class_counts(predicted[part], gold[part], classes)[COUNTS]
        for part in torch.arange(301).split(37)
    ]
    average = "binary" if classes == 2 else "macro"
    every = None if classes == 2 else list(range(classes))
    expected = {
        "accuracy": accuracy_score(gold, predicted),
        "f1": f1_score(gold, predicted, labels=every, average=average, zero_division=0),
        "mcc": matthews_corrcoef(gold, predicted),
        "macro_f1": f1_score(
            gold, predicted, labels=range(classes), average="macro", zero_division=0
        ),
        "balanced_accuracy": balanced_accuracy_score(gold, predicted),
    }
    assert classification_scores(torch.stack(counts).sum(0)) == expected
    # As the workers' sums arrive.
    doubles = torch.stack(counts).double().sum(0)
    assert classification_scores(doubles) == expected
    options: Any = {"average": None, "labels": range(classes), "zero_division": 0}
    each = [score(gold, predicted, **options) for score in SCORES.values()]
    names = [f"{name}_c{k}" for name in SCORES for k in range(classes)]
    found = each_class(doubles, [f"c{k}" for k in range(classes)])
    assert found == dict(zip(names, np.concatenate(each).tolist(), strict=True))


@pytest.mark.parametrize("sentences", [5, 301])
def test_summed_counts_of_several_labels(sentences: int) -> None:
    """Also of a label that is nowhere, and of sentences without any."""
    generator = torch.Generator().manual_seed(3)
    rates = torch.tensor([0.5, 0.1, 0.02, 0.0])
    gold = torch.rand(sentences, 4, generator=generator) < rates
    given = gold ^ (torch.rand(sentences, 4, generator=generator) < 0.1)
    counts = [
        label_counts(given[part], gold[part])[LABELED].double()
        for part in torch.arange(sentences).split(37)
    ]
    options: Any = {"zero_division": 0}
    summed = torch.stack(counts).sum(0)
    assert label_scores(summed) == {
        "micro_f1": f1_score(gold, given, average="micro", **options),
        "macro_f1": f1_score(gold, given, average="macro", **options),
        "subset_accuracy": accuracy_score(gold, given),
    }
    for name, score in SCORES.items():
        own = [each_class(summed, "abcd")[f"{name}_{label}"] for label in "abcd"]
        assert own == score(gold, given, average=None, **options).tolist()
    nothing = label_scores(torch.zeros(3, 5)).values()
    assert all(math.isnan(score) for score in nothing)


def test_the_same_labels_for_everything_are_remarked() -> None:
    labels = ["a", "b", "c"]
    gold = torch.tensor([[1, 0, 1], [0, 0, 1]] * 6).bool()

    def said(given: list[int], rows: int = 12) -> str | None:
        always = torch.tensor([given] * rows).bool()
        return one_labelling(label_counts(always, gold[:rows])[LABELED], labels)

    assert said([1, 0, 1]) == (
        "every one of 12 predictions is 'a', 'c', where 1 of 3 labels hold for some "
        "sentences and not for others"
    )
    assert (said([0, 0, 0]) or "").startswith("every one of 12 predictions is no label")
    assert said([1, 0, 1], rows=9) is None
    assert one_labelling(label_counts(gold, gold)[LABELED], labels) is None
    same = gold[1::2].repeat(2, 1)
    assert one_labelling(label_counts(same, same)[LABELED], labels) is None


def test_a_constant_prediction_scores_0() -> None:
    counts = class_counts(torch.zeros(9).long(), torch.arange(9) % 2, 2)[COUNTS]
    assert counts.tolist() == [[5, 0], [5, 4], [9, 0]]
    scores = classification_scores(counts)
    assert (scores["accuracy"], scores["f1"], scores["mcc"]) == (5 / 9, 0, 0)
    assert scores["balanced_accuracy"] == 0.5
    assert scores["macro_f1"] == 10 / 14 / 2
    constant = torch.stack([torch.ones(5), torch.arange(5.0), torch.ones(5)])
    assert correlation_scores(constant) == {"pearson": 0, "spearman": 0}


def test_without_a_sentence_there_is_no_score() -> None:
    counts = torch.zeros(3, 2)
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
