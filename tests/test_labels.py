"""Labels as people have them: unequal classes, and several labels of a text."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Trainer
from fairseq_steady.criterions.objective import Objective
from fairseq_steady.errors import UserError
from fairseq_steady.tasks._classes import class_weights, of_a_class
from helpers import checkpoint, logged
from sklearn.metrics import f1_score, precision_score, recall_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

# --- losses of classes ----------------------------------------------------------------

ODD = (0.5, 3.0, 1.0)


def by_hand(logits: Tensor, target: Tensor, objective: Objective) -> float:
    """Focal loss with weights and torch's smoothing, term by term in float64."""
    found = 0.0
    for row, right in zip(logits.double().tolist(), target.tolist(), strict=True):
        total = sum(map(math.exp, row))
        for k, value in enumerate(row):
            p = math.exp(value) / total
            share = objective.smoothing / len(row)
            share += (1 - objective.smoothing) * (k == right)
            weight = objective.weights[k] if objective.weights else 1
            found -= share * weight * (1 - p) ** objective.gamma * math.log(p)
    return found


@pytest.mark.parametrize("weights", [None, ODD])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_losses_of_classes(weights: Any, smoothing: float, gamma: float) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(9, 3, generator=generator) * 3
    target = torch.arange(9) % 3
    objective = Objective(weights, smoothing, gamma)
    found = float(objective.of_classes(logits, target))
    assert found == pytest.approx(by_hand(logits, target, objective), rel=1e-5)
    assert objective.changes == bool(weights or smoothing or gamma)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focus_on_what_is_certain_has_a_gradient(gamma: float) -> None:
    """Below gamma 1 its slope at p = 1 is infinite, and log p is 0 there."""
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0]], requires_grad=True)
    Objective(gamma=gamma).of_classes(logits, torch.zeros(2).long()).backward()
    wanted = torch.tensor([[0.0, 0.0], [-1.0, 1.0]])
    assert torch.equal(logits.grad, wanted)  # type: ignore[arg-type]


# --- their weights --------------------------------------------------------------------


def weights(given: str, *counts: int) -> list[float]:
    return class_weights(given, ["ham", "so, so", "spam"], lambda: np.array(counts))


def test_balanced_weights_are_scikit_learns() -> None:
    counts = (7, 1, 92)
    classes, gold = np.arange(3), np.repeat(np.arange(3), counts)
    expected = compute_class_weight("balanced", classes=classes, y=gold)
    assert weights("balanced", *counts) == expected.tolist()
    assert np.mean([expected[c] for c in gold]) == pytest.approx(1)


def test_weights_by_order_and_by_name() -> None:
    assert weights("1, 2.5,3e-1") == [1, 2.5, 0.3]
    assert weights("spam = 5") == [1, 1, 5]
    assert weights("spam=5,ham=.5") == [0.5, 1, 5]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("balanced", "balanced: class 'so, so' is nowhere in the training set; give"),
        ("1,2", "1,2 has 2 numbers for 3 classes (ham, so, so, spam); give 'balanced'"),
        ("1,0,2", "1,0,2: '0' is no number above 0; give 'balanced', a number for"),
        ("1,-1,2", "'-1' is no number above 0"),
        ("1,,2", "'' is no number above 0"),
        ("1,inf,2", "'inf' is no number above 0"),
        ("1,1e999,2", "'1e999' is no number above 0"),
        ("Balanced", "'Balanced' is no number above 0; give 'balanced'"),
        ("egg=2", "egg=2: 'egg' is no class; the classes are ham, so, so, spam"),
        ("ham=2,ham=3", "'ham' is there twice"),
        ("ham=2,3", "'3' is no class"),
        ("ham=x", "'x' is no number above 0"),
    ],
)
def test_weights_that_cannot_be_meant(given: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as error:
        weights(given, 3, 0, 2)
    assert str(error.value).startswith("--steady-class-weights ")


def test_a_metric_of_a_class_that_is_not_there() -> None:
    assert of_a_class("recall_ham", ["ham", "spam"]) == "recall_ham"
    assert of_a_class("macro_f1", None) is None
    said = "precision_egg: 'egg' is no class; the classes are ham, spam"
    with pytest.raises(UserError, match=said):
        of_a_class("precision_egg", ["ham", "spam"])
    with pytest.raises(UserError, match="'1' is no class; there are scores"):
        of_a_class("recall_1", None)


# --- a run with them ------------------------------------------------------------------

COUNTS = {"ham": 30, "egg": 12, "spam": 6}


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of unequal sizes; the first word tells which."""
    folder = tmp_path_factory.mktemp("unequal")
    rows = [(label, i) for label, count in COUNTS.items() for i in range(count)]
    lines = [f"w{len(label)} w{i} w{i + 7}\t{label}" for label, i in rows]
    for name, chosen in (("train", lines), ("valid", lines[::3])):
        (folder / f"{name}.tsv").write_text("\n".join(["text\tlabel", *chosen, ""]))
    return folder


def test_a_run_with_unequal_classes(
    models: dict[str, Path], unequal: Path, fairseq_train: Trainer, tmp_path: Path
) -> None:
    """Half of the training set decides the weights, and a checkpoint keeps them."""
    done = fairseq_train(
        *(unequal, "--task=text_classification", f"--save-dir={tmp_path}"),
        *(f"--steady-model={models['roberta']}", "--max-epoch=2"),
        *("--steady-class-weights=balanced", "--steady-focal-gamma=1.5"),
        *("--label-smoothing=0.1", "--steady-train-size=24", "--criterion=r3f"),
        *("--best-checkpoint-metric=recall_spam", f"--steady-record={tmp_path}/r"),
    )
    expected = [24 / 3 / 6, 24 / 3 / 15, 24 / 3 / 3]
    kept = checkpoint(tmp_path)["task_state"]["class_weights"]
    assert kept == expected
    assert "classes weigh: egg 1.333, ham 0.5333, spam 2.667" in done.stderr
    (record,) = (tmp_path / "r").glob("valid-6.json")
    found = json.loads(record.read_text())
    outputs, gold = torch.tensor(found["outputs"]), torch.tensor(found["gold"]).long()
    scores, size = found["metrics"], len(gold) * math.log(2)
    loss = by_hand(outputs, gold, Objective(tuple(expected), 0.1, 1.5)) / size
    assert scores["loss"] == pytest.approx(loss, rel=1e-5)
    plain = by_hand(outputs, gold, Objective()) / size
    assert scores["nll_loss"] == pytest.approx(plain, rel=1e-5)
    given = outputs.argmax(1)
    for name, score in (("precision", precision_score), ("recall", recall_score)):
        values = score(gold, given, average=None, zero_division=0)
        own = [scores[f"{name}_{label}"] for label in found["labels"]]
        assert own == pytest.approx(values)
    assert scores["macro_f1"] == pytest.approx(f1_score(gold, given, average="macro"))
    last = logged(done, "valid")[-1]
    assert float(last["valid_recall_spam"]) == pytest.approx(
        scores["recall_spam"], abs=1e-3
    )
    assert "valid_best_recall_spam" in last


def test_what_does_not_go_with_scores(
    models: dict[str, Path], score_data: Path, fairseq_train: Trainer
) -> None:
    from conftest import SCORE_FLAGS

    model = f"--steady-model={models['roberta']}"
    for flag, said in {
        "--steady-class-weights=balanced": "balanced is for classes; leave it out",
        "--steady-focal-gamma=2": "2.0 is for classes, and the targets are scores",
        "--label-smoothing=0.1": "0.1 is for classes, and the targets are scores",
    }.items():
        done = fairseq_train(score_data, *SCORE_FLAGS, model, flag, status=1)
        line = done.stderr.strip().splitlines()[-1]
        assert line.startswith(f"error: {flag.partition('=')[0]} ")
        assert said in line
