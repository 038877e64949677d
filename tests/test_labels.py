"""Labels as people have them: unequal classes, and several labels of a text."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from conftest import TRAIN, Trainer, Zygote, run_command
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import setup_task
from fairseq_steady.criterions.kinds import MultiLabel, Scores, kind_of, kinds_of
from fairseq_steady.criterions.objective import Objective
from fairseq_steady.criterions.plain import PlainConfig
from fairseq_steady.data import stratified_subset
from fairseq_steady.data.tables import read_indicators, read_parted
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.inference import probing
from fairseq_steady.inference.loading import load_trained
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.models.steady import HEAD
from fairseq_steady.scores.metrics import larger_is_better
from fairseq_steady.tasks._classes import check_score, class_weights, of_a_class
from fairseq_steady.tasks.glue_multitask import MultitaskTask
from helpers import (
    NO_DROPOUT,
    assert_equal_weights,
    checkpoint,
    logged,
    train_on_workers,
)
from method_table import METHODS
from sklearn.metrics import f1_score, precision_score, recall_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F

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
    almost = float(Objective(weights, smoothing, 1e-12).of_classes(logits, target))
    weighing = None if weights is None else torch.tensor(weights)
    torchs = F.cross_entropy(
        logits, target, weighing, reduction="sum", label_smoothing=smoothing
    )
    assert almost == pytest.approx(float(torchs), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_weighs_classes(models: dict[str, Path], method: str) -> None:
    """Weights of 2 make twice the task's loss and leave the regulariser alone."""
    model = tiny.build(models["roberta"])
    sample = tiny.batch(tiny.make_dataset(models["roberta"]))
    made = tiny.make_criterion(method, **METHODS[method].live)
    made.check_model(model)
    made.prepare_model(model)
    plain = tiny.loss_of(made, model, sample)
    made.task.class_weights = (2.0, 2.0, 2.0)
    twice = tiny.loss_of(type(made)(made.cfg, made.task).train(), model, sample)
    assert twice["task_loss"] == pytest.approx(2 * plain["task_loss"], rel=1e-5)
    if METHODS[method].divergence:
        assert twice["nll_loss"] == pytest.approx(plain["task_loss"], rel=1e-5)
        term = f"{method}_divergence"
        assert twice[term] == pytest.approx(plain[term], rel=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focus_on_what_is_certain_has_a_gradient(gamma: float) -> None:
    """Below gamma 1 its slope at p = 1 is infinite, and log p is 0 there."""
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0]], requires_grad=True)
    Objective(gamma=gamma).of_classes(logits, torch.zeros(2).long()).backward()
    wanted = torch.tensor([[0.0, 0.0], [-1.0, 1.0]])
    assert torch.equal(logits.grad, wanted)  # type: ignore[arg-type]


# --- their weights --------------------------------------------------------------------


def weights(given: str, *counts: int) -> list[float]:
    targets = np.repeat(np.arange(len(counts)), counts)
    return class_weights(given, ["ham", "so, so", "spam"], lambda: targets)


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
        ("balanced", "balanced: 'so, so' is nowhere in the training set; give"),
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
    assert all(map(larger_is_better, ("recall_loss", "precision_ppl", "accuracy_loss")))
    assert not any(map(larger_is_better, ("loss", "nll_loss", "ppl")))


@pytest.mark.parametrize(
    ("metric", "labels", "several", "said"),
    [
        ("micro_f1", ["a", "b"], False, "accuracy, f1, mcc, macro_f1, balanced_accur"),
        ("accuracy", ["a", "b"], True, "micro_f1, macro_f1, subset_accuracy, loss"),
        ("mcc", None, False, "choose from pearson, spearman, loss"),
        (
            "ranked",
            ["a", "b"],
            False,
            "ranked is nothing that evaluations of this",
        ),
    ],
)
def test_a_metric_of_another_kind_is_refused_at_once(
    metric: str, labels: list[str] | None, several: bool, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_score(metric, labels, several, also=False)
    check_score("ranked", ["a", "b"], False, also=True)
    check_score("macro_f1", labels or ["a", "b"], several, also=False)


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
        *("--best-checkpoint-metric=recall_egg", f"--steady-record={tmp_path}/r"),
    )
    expected = [24 / 3 / 6, 24 / 3 / 15, 24 / 3 / 3]
    kept = checkpoint(tmp_path)["task_state"]["class_weights"]
    assert kept == expected
    _, task = load_trained(tmp_path / "checkpoint_best.pt")
    task.cfg.data = "nowhere"
    assert task.class_weights == tuple(expected)
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
    assert scores["recall_egg"] > 0
    assert float(last["valid_recall_egg"]) == pytest.approx(
        scores["recall_egg"], abs=1e-3
    )
    assert "valid_best_recall_egg" in last


def test_what_does_not_go_with_scores(
    models: dict[str, Path], score_data: Path, fairseq_train: Trainer
) -> None:
    from conftest import SCORE_FLAGS

    model = f"--steady-model={models['roberta']}"
    for flag, said in {
        "--steady-class-weights=balanced": "balanced is for classes; leave it out",
        "--steady-train-balanced": "is for one class a sentence; leave it out",
        "--steady-focal-gamma=2": "2.0 is for classes, and the targets are scores",
        "--label-smoothing=0.1": "0.1 is for classes, and the targets are scores",
    }.items():
        done = fairseq_train(score_data, *SCORE_FLAGS, model, flag, status=1)
        line = done.stderr.strip().splitlines()[-1]
        assert line.startswith(f"error: {flag.partition('=')[0]} ")
        assert said in line


# --- several labels: loss, divergence, methods ----------------------------------------


def labels_by_hand(logits: Tensor, target: Tensor, objective: Objective) -> float:
    """Focal loss of a sigmoid a label, term by term in float64."""
    found = 0.0
    for row, holds in zip(logits.double().tolist(), target.tolist(), strict=True):
        for label, (value, y) in enumerate(zip(row, holds, strict=True)):
            p = 1 / (1 + math.exp(-value))
            weight = objective.weights[label] if objective.weights else 1
            right, weight = (p, weight) if y else (1 - p, 1)
            found -= weight * (1 - right) ** objective.gamma * math.log(right)
    return found


def some_labels(rows: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(rows, 3, generator=generator) * 3
    return logits, torch.rand(rows, 3, generator=generator) < 0.4


@pytest.mark.parametrize("weights", [None, ODD])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_losses_of_labels(weights: Any, gamma: float) -> None:
    logits, target = some_labels()
    objective = Objective(weights, gamma=gamma)
    found = float(MultiLabel("", 3, objective).loss(logits, target))
    assert found == pytest.approx(labels_by_hand(logits, target, objective), rel=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-5])
def test_the_divergence_of_labels_is_that_of_each_ones_two_outcomes(
    size: float,
) -> None:
    a, _ = some_labels()
    b = a + size * torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    kind = MultiLabel("", 3)
    p, q = (x.double().sigmoid() for x in (a, b))
    moved = (p / q).log(), ((1 - p) / (1 - q)).log()
    expected = {
        "auto": ((p - q) * (moved[0] - moved[1])).sum(1),
        "kl": -(q * moved[0] + (1 - q) * moved[1]).sum(1),
        "mse": (a.double() - b.double()).square().sum(1),
    }
    for name, wanted in expected.items():
        found = kind.divergence(name, torch.zeros(1))(a, b)
        assert found.shape == (9,)
        # A KL near 0 is the difference of two sums near size each.
        rough = 1e-4 if name != "kl" else max(1e-4, 1e-10 / size**2)
        torch.testing.assert_close(found.double(), wanted, rtol=rough, atol=1e-12)


def labelled_criterion(method: str, **flags: Any) -> Any:
    made = tiny.make_criterion(method, **flags)
    made.task.several = True
    return type(made)(made.cfg, made.task).train()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_several_labels(
    models: dict[str, Path], method: str
) -> None:
    """The task's loss is the labels', and lambda counts the labels' divergence."""
    model = tiny.build(models["roberta"])
    sample = tiny.batch(tiny.make_dataset(models["roberta"]))
    sample["target"] = some_labels(len(sample["id"]))[1]
    made = labelled_criterion(method, **METHODS[method].live)
    made.check_model(model)
    made.prepare_model(model)
    torch.manual_seed(11)
    loss, size, log = made(model, sample)
    loss.backward()
    assert size == 5
    assert log["_labels"].shape == (3, 4)
    assert all(p.grad is not None for p in model.encoder.parameters() if p.dim() > 1)
    total = float(log["task_loss"])
    if METHODS[method].divergence:
        clean = tiny.Reference(model, sample)
        plain = labels_by_hand(clean.logits(clean.norm), sample["target"], Objective())
        assert total * math.log(2) == pytest.approx(plain, rel=1e-4)
        assert float(log[f"{method}_divergence"]) > 0
        total += made.terms.strength * float(log[f"{method}_divergence"])
    assert float(log["loss"]) == pytest.approx(total, rel=1e-5)


def test_smoothing_is_for_one_class_a_sentence() -> None:
    task = SimpleNamespace(several=True, num_classes=2, regression=False)
    with pytest.raises(UserError, match=r"--label-smoothing 0\.1 is for one class a"):
        kind_of(task, PlainConfig(label_smoothing=0.1))


def test_several_tasks_focus_where_there_are_classes() -> None:
    cfg = SimpleNamespace(steady_focal_gamma=2.0)
    parts = {
        "scored": SimpleNamespace(regression=True, num_classes=1, cfg=cfg),
        "classed": SimpleNamespace(regression=False, num_classes=2, cfg=cfg),
    }
    found = kinds_of(SimpleNamespace(parts=parts), PlainConfig(label_smoothing=0.1))
    assert isinstance(found["scored"], Scores)
    assert found["classed"].objective == Objective(None, 0.1, 2.0)
    flags = {"multitask_names": "cola,stsb", "steady_label_map": None}
    given: Any = SimpleNamespace(**flags, steady_class_weights="balanced")
    directory: Any = None
    with pytest.raises(UserError, match="--steady-class-weights is for one head"):
        MultitaskTask.check(given, directory)


def test_balanced_labels_count_as_much_where_they_hold() -> None:
    """torch's pos_weight: 300 without to 100 with is 3."""
    targets = np.repeat([[True, False], [False, True]], [100, 300], axis=0)
    assert class_weights("balanced", ["a", "b"], lambda: targets) == [3, 1 / 3]
    for wrong, said in ((False, "'b' is nowhere in"), (True, "'b' is on every")):
        targets[:, 1] = wrong
        with pytest.raises(UserError, match=said):
            class_weights("balanced", ["a", "b"], lambda: targets)


# --- their files ----------------------------------------------------------------------

TEXT = ["text"]


def read(path: Path, content: str, **columns: Any) -> list[tuple[int, Any]]:
    path.write_text(content)
    if "labels" in columns:
        found = read_indicators(path, TEXT, columns["labels"])
    else:
        found = read_parted(path, TEXT, "label", columns["separator"])
    return [(example.line, example.names) for example in found]


def test_labels_in_one_cell(tmp_path: Path) -> None:
    rows = "text\tlabel\nx\ta; b\ny\t\nz\tb\n"
    expected = [(2, ("a", "b")), (3, ()), (4, ("b",))]
    assert read(tmp_path / "a.tsv", rows, separator=";") == expected
    rows = 'text,label\nx,"a,b"\ny,\nz,b\n'
    assert read(tmp_path / "a.csv", rows, separator=",") == expected
    texts = ['"x", "label": ["a", "b"]', '"y", "label": []', '"z", "label": "b"']
    rows = "".join(f'{{"text": {text}}}\n' for text in texts)
    expected = [(line - 1, names) for line, names in expected]
    assert read(tmp_path / "a.jsonl", rows, separator=",") == expected


def test_a_column_a_label(tmp_path: Path) -> None:
    rows = "a,text,b\n1,x,0\n1.0,y,1\n0,z,0\n"
    expected = [(2, ("a",)), (3, ("b", "a")), (4, ())]
    assert read(tmp_path / "a.csv", rows, labels=["b", "a"]) == expected
    rows = '{"text": "x", "a": true, "b": 0}\n'
    assert read(tmp_path / "a.jsonl", rows, labels=["a", "b"]) == [(1, ("a",))]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("a,,b", "a.tsv:3: an empty label in 'a,,b'; write one ',' between two labels"),
        ("a,", "a.tsv:3: an empty label in 'a,'"),
        ("a,b,a", "a.tsv:3: label 'a' is twice in 'a,b,a'; remove one"),
    ],
)
def test_broken_cells_of_labels(tmp_path: Path, cells: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        read(tmp_path / "a.tsv", f"text\tlabel\nx\ta\ny\t{cells}\n", separator=",")


@pytest.mark.parametrize(
    ("cell", "shown"),
    [("yes", '"yes"'), ("", '""'), ("2", '"2"'), ("-1", '"-1"'), ("nan", '"nan"')],
)
def test_broken_columns_of_labels(tmp_path: Path, cell: str, shown: str) -> None:
    said = (
        f"a.tsv:3: column 'b' holds {shown}, not 0 or 1; write 1 where the label holds"
    )
    with pytest.raises(UserError, match=re.escape(said)):
        read(tmp_path / "a.tsv", f"text\tb\nx\t0\ny\t{cell}\n", labels=["b"])
    row = '{"text": "x", "b": [1]}\n'
    with pytest.raises(UserError, match=r"column 'b' holds \[1\], not 0 or 1"):
        read(tmp_path / "a.jsonl", row, labels=["b"])
    with pytest.raises(UserError, match="no column 'c'.*--steady-label-columns"):
        read(tmp_path / "a.tsv", "text\tb\nx\t0\n", labels=["c"])


def test_a_sample_has_each_rows_rarest_label_in_proportion() -> None:
    rng = np.random.default_rng(1)
    targets = rng.random((1000, 3)) < (0.6, 0.1, 0.02)
    for size in (500, 100):
        chosen, rest = stratified_subset(targets, size, 0)
        assert sorted([*chosen, *rest]) == [*range(1000)]
        assert targets[chosen, 2].sum() == round(targets[:, 2].sum() * size / 1000)
    again, _ = stratified_subset(targets, 100, 0)
    assert (again == chosen).all()
    few = np.array([[1, 0], [0, 1], [0, 0], [1, 1], [0, 0]]).astype(bool)
    for size in (1, 2, 4):
        assert len(stratified_subset(few, size, 0)[0]) == size


# --- a run with them ------------------------------------------------------------------

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows with labels in one cell, and with a column each."""
    base = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(2)
    for split, count in (("train", 48), ("valid", 21)):
        holds = rng.random((count, 3)) < (0.5, 0.4, 0.3)
        for form in ("cell", "columns"):
            rows = [
                "\t".join(["text", "label"] if form == "cell" else ["text", *NAMES])
            ]
            for i, row in enumerate(holds):
                words = " ".join(f"w{k}" for k in np.flatnonzero(row)) + f" w{i + 5}"
                named = ";".join(np.array(NAMES)[row])
                cells = [named] if form == "cell" else map(str, row.astype(int))
                rows.append("\t".join([words.strip(), *cells]))
            (base / form).mkdir(exist_ok=True)
            (base / form / f"{split}.tsv").write_text("\n".join([*rows, ""]))
    return base


FORMS = {
    "cell": "--steady-label-separator=;",
    "columns": f"--steady-label-columns={','.join(NAMES)}",
}


@pytest.fixture(scope="module")
def runs(
    models: dict[str, Path],
    labelled: Path,
    fairseq_train: Trainer,
    zygote: Zygote,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Path, str]]:
    """Of each form, where a run saved and what it said; columns have two workers."""
    found = {}
    for form, flag in FORMS.items():
        out = tmp_path_factory.mktemp(form)
        flags = [
            *(labelled / form, "--task=text_classification", flag, *NO_DROPOUT),
            *(f"--steady-model={models['roberta']}", "--max-epoch=4", "--lr=3e-3"),
            *(f"--save-dir={out}", f"--steady-record={out}/r", *METHOD),
            f"--steady-also=more={labelled / form / 'valid.tsv'}",
        ]
        if form == "cell":
            said = fairseq_train(*flags, "--update-freq=2").stderr
        else:
            said = train_on_workers(zygote, *flags)[0]
        found[form] = out, said
    return found


METHOD = [
    *("--criterion=sift", "--steady-class-weights=balanced"),
    *("--adam-eps=1e-3", "--batch-size=4"),
]


def test_a_run_with_several_labels(runs: dict[str, tuple[Path, str]]) -> None:
    out, said = runs["cell"]
    head = checkpoint(out)["task_state"]["heads"][HEAD]
    assert head == {"labels": NAMES, "of": "", "several": True}
    assert "none: " in said
    (record,) = (out / "r").glob("valid-24.json")
    found = json.loads(record.read_text())
    gold = np.array(found["gold"])
    given = np.array(found["outputs"]) > 0
    scores = found["metrics"]
    assert gold.shape == given.shape == (21, 3)
    assert scores["micro_f1"] == pytest.approx(f1_score(gold, given, average="micro"))
    assert scores["subset_accuracy"] == np.mean((gold == given).all(1))
    assert scores["recall_bee"] == recall_score(gold[:, 1], given[:, 1])
    assert scores["nll_loss"] != scores["loss"]
    more = json.loads((out / "r" / record.name.replace("valid", "more")).read_text())
    assert more["gold"] == found["gold"]
    best = checkpoint(out)["extra_state"]["best"]
    assert best == max(float(v["valid_micro_f1"]) for v in records(out))


def records(out: Path) -> list[dict[str, float]]:
    files = sorted((out / "r").glob("valid-*"))
    found = [json.loads(path.read_text())["metrics"] for path in files]
    return [{f"valid_{name}": value for name, value in one.items()} for one in found]


def test_both_forms_and_two_workers_are_the_same_run(
    runs: dict[str, tuple[Path, str]],
) -> None:
    one, other = (out for out, _ in runs.values())
    assert_equal_weights(one, other, 1e-5)
    for first, second in zip(records(one), records(other), strict=True):
        names = ("valid_loss", "valid_micro_f1", "valid_recall_cat")
        assert [first[n] for n in names] == pytest.approx([second[n] for n in names])
    kept = [checkpoint(out)["task_state"]["class_weights"] for out in (one, other)]
    assert kept[0] == kept[1]


def test_predictions_and_exports_of_several_labels(
    runs: dict[str, tuple[Path, str]], tmp_path: Path
) -> None:
    best = runs["columns"][0] / "checkpoint_best.pt"
    texts = ["w0 w9", "w1 w2 w11", "w30 w31"]
    predicted = list(Predictor(best, cpu=True)(texts))
    assert export_hf(best, tmp_path / "hf") < 1e-4
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    classify = transformers.pipeline(
        "text-classification", str(tmp_path / "hf"), top_k=None, device="cpu"
    )
    for one, theirs in zip(predicted, classify(texts), strict=True):
        expected = {found["label"]: found["score"] for found in theirs}
        assert one.probabilities == pytest.approx(expected, abs=1e-4)
        assert one.labels == tuple(n for n in NAMES if expected[n] > 0.5)
        assert one.label is None
    lines = [f"--text={text}" for text in texts]
    done = run_command("predict", best, "--cpu", *lines)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [
        {"labels": [*one.labels], "probabilities": one.probabilities}  # type: ignore[misc]
        for one in predicted
    ]
    done = run_command("predict", best, "--cpu", "--tsv", *lines)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == ["labels", *NAMES]
    assert [row[0] for row in rows[1:]] == [
        ",".join(one.labels or ()) for one in predicted
    ]


def test_a_head_of_classes_is_none_of_labels(
    runs: dict[str, tuple[Path, str]],
    models: dict[str, Path],
    unequal: Path,
    fairseq_train: Trainer,
) -> None:
    best = runs["cell"][0] / "checkpoint_best.pt"
    done = fairseq_train(
        *(unequal, "--task=text_classification", f"--finetune-from-model={best}"),
        *(f"--steady-model={models['roberta']}", "--no-save"),
        status=1,
    )
    assert (
        "has a head for any of the labels ant, bee, cat, and this run is for"
        in (done.stderr.splitlines()[-1])
    )


@pytest.mark.parametrize(
    ("form", "flags", "said"),
    [
        ("cell", ["--steady-label-separator=|"], "every other, is without '|'; name"),
        ("cell", ["--steady-label-separator="], "--steady-label-separator is empty"),
        ("cell", [FORMS["cell"], FORMS["columns"]], "give one of them"),
        ("cell", [FORMS["cell"], "--steady-labels=ant,bee"], "'cat' is none of: ant"),
        ("columns", [FORMS["columns"], "--steady-labels=a"], "leave --steady-labels"),
        (
            "columns",
            ["--steady-label-columns=ant"],
            "only one class (ant) in --steady-",
        ),
        ("columns", ["--steady-label-columns=ant,ant"], "label 'ant' is there twice"),
        ("columns", ["--steady-label-columns=ant,dog"], "train.tsv:1: no column 'dog'"),
    ],
)
def test_flags_of_labels_that_cannot_be_meant(
    labelled: Path, models: dict[str, Path], form: str, flags: list[str], said: str
) -> None:
    given = ["--steady-model", str(models["roberta"]), *flags]
    cfg = configured(labelled / form, given)
    with pytest.raises(UserError, match=re.escape(said)):
        setup_task(cfg.task).load_dataset("train")


def configured(data: Path, flags: list[str]) -> Any:
    parser = options.get_training_parser()
    words = [str(data), "--task", "text_classification", *TRAIN, *flags]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, words))


def test_probes_of_several_labels() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(240, 6)).astype(np.float32)
    targets = features[:, :3] > (0.0, 0.5, -0.5)
    fitted = probing.linear(["micro_f1"], 3, several=True).fit(
        features[:160], targets[:160]
    )
    predicted = probing.outputs(fitted, features[160:], 3)
    scores = probing.score(predicted, targets[160:], 3)
    assert scores["macro_f1"] > 0.9
    assert scores["subset_accuracy"] > 0.7
    targets[4:, 2] = False
    with pytest.raises(UserError, match="cannot learn label 'c', which holds for"):
        probing.check_labels(targets, ["a", "b", "c"])
