"""Probes of frozen features."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run_forking
from fairseq_steady.comparison import forgetting
from fairseq_steady.errors import UserError
from fairseq_steady.inference import probing
from fairseq_steady.models.steady import HEAD
from helpers import glue_row, write_split
from sklearn.metrics import accuracy_score, f1_score
from tiny import FAMILIES, batch, build, make_dataset

# --- features and fits -------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_what_the_head_sees(models: dict[str, Path], family: str) -> None:
    model, dataset = build(models[family]), make_dataset(models[family])
    features = probing.sentence_features(model, dataset)
    assert features.shape == (len(dataset), 16)
    head = model.classification_heads[HEAD]
    hidden = torch.from_numpy(features)
    if family not in ("bart", "modernbert"):
        hidden = hidden[:, None]
    net_input = batch(dataset)["net_input"]
    logits = model(**net_input, features_only=True, classification_head_name=HEAD)[0]
    torch.testing.assert_close(head(hidden), logits, rtol=1e-4, atol=1e-5)


def test_a_linear_probe_finds_what_is_linear() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 8)).astype(np.float32)
    targets = (features[:, 0] - 2 * features[:, 1] > 0).astype(np.int64)
    fitted = probing.linear(["mcc"], 2).fit(features[:200], targets[:200])
    predicted = probing.outputs(fitted, features[200:], 2)
    assert probing.score(predicted, targets[200:], 2)["mcc"] > 0.8
    coins = rng.integers(0, 2, 300)
    nothing = probing.linear(["accuracy", "f1"], 2).fit(features[:200], coins[:200])
    predicted = probing.outputs(nothing, features[200:], 2)
    assert abs(probing.score(predicted, coins[200:], 2)["mcc"]) < 0.3

    with pytest.raises(UserError, match="loss cannot choose a linear probe.*mcc"):
        probing.linear(["loss"], 2)

    scores = features[:, 2] * 3 + 1
    fitted = probing.linear([], 1).fit(features[:200], scores[:200])
    predicted = probing.outputs(fitted, features[200:], 1)
    assert probing.score(predicted, scores[200:], 1)["pearson"] > 0.99


@pytest.mark.parametrize("metric", ["macro_f1", "f1", "mcc"])
def test_a_class_that_training_lacks_keeps_its_place(metric: str) -> None:
    """Whatever chooses the penalty; such a class is never the answer."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(400, 4)).astype(np.float32)
    targets = np.where(features[:, 0] > 0, 2, 0)
    fitted = probing.linear([metric], 4).fit(features[:200], targets[:200])
    predicted = probing.outputs(fitted, features[200:], 4)
    assert predicted.shape == (200, 4)
    assert predicted.isfinite().all()  # as JSON has to have it
    assert predicted[:, [1, 3]].exp().sum() < 1e-300
    right = (fitted.predict(features[200:]) == targets[200:]).mean()
    assert right > 0.9
    assert probing.score(predicted, targets[200:], 4)["accuracy"] == right


def test_the_metric_chooses_the_penalty() -> None:
    """Of two classes F1 is the second's, as the task logs it."""
    scorer = probing._scorer(["f1", "accuracy"], 2)
    gold, given = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0])
    constant = SimpleNamespace(predict=lambda _: given)
    expected = (f1_score(gold, given) + accuracy_score(gold, given)) / 2
    assert scorer(constant, gold, gold) == pytest.approx(expected, abs=1e-12)
    means = SimpleNamespace(regression=False, score_of=lambda _: ["accuracy", "f1"])
    assert probing._metrics(means, "score") == ["accuracy", "f1"]
    assert probing._metrics(means, "mcc") == ["mcc"]
    scores = SimpleNamespace(regression=True)
    assert not probing._metrics(scores, "pearson")


@pytest.mark.parametrize("targets", [[1] * 9, [0, 1, 2, 0, 1, 2, 0, 1, 2]])
def test_too_few_sentences_of_a_class_are_said(targets: list[int]) -> None:
    with pytest.raises(UserError, match="a probe needs two classes, and 5 sentences"):
        probing.check_labels(np.array(targets), ["a", "b", "c"])


def test_only_the_encoder_is_taken(models: dict[str, Path], tmp_path: Path) -> None:
    source, target = build(models["roberta"]), build(models["roberta"], outputs=2)
    state = {name: value + 1 for name, value in source.state_dict().items()}
    torch.save({"model": state}, tmp_path / "checkpoint.pt")
    head = target.classification_heads[HEAD].out_proj.weight.clone()
    probing.take_encoder(target, str(tmp_path / "checkpoint.pt"))
    name = "encoder.sentence_encoder.layers.0.fc1.weight"
    assert torch.equal(target.state_dict()[name], state[name])
    assert torch.equal(target.classification_heads[HEAD].out_proj.weight, head)


def test_a_checkpoint_of_another_model_is_one_line(
    models: dict[str, Path], tmp_path: Path
) -> None:
    model = build(models["roberta"])
    torch.save({"model": build(models["bart"]).state_dict()}, tmp_path / "bart.pt")
    with pytest.raises(UserError, match="is of another model than --steady-model"):
        probing.take_encoder(model, str(tmp_path / "bart.pt"))
    name = "encoder.sentence_encoder.layers.0.fc1.weight"
    state = model.state_dict() | {name: torch.zeros(3, 3)}
    torch.save({"model": state}, tmp_path / "small.pt")
    with pytest.raises(UserError, match="is of another size.*fc1"):
        probing.take_encoder(model, str(tmp_path / "small.pt"))


# --- the three designs ----------------------------------------------------------------


def test_generalization_probes_the_others() -> None:
    assert forgetting.links("generalization", ["a", "b", "c"], 3) == [
        ("a", {"b": "b", "c": "c"})
    ]


def test_the_chain_probes_the_first() -> None:
    assert forgetting.links("chain", ["a", "b"], 3) == [
        ("a", {"a after 1 a": "a"}),
        ("b", {"a after 2 b": "a"}),
    ]


def test_the_cycle_probes_the_next() -> None:
    found = forgetting.links("cycle", ["a", "b", "c"], 2)
    assert [task for task, _ in found] == [*"abcabc"]
    assert [target for _, ps in found for target in ps.values()] == [*"bcabca"]
    assert found[2] == ("c", {"a, cycle 2": "a"})
    assert found[3] == ("a", {"b, cycle 2": "b"})


def test_every_link_starts_from_the_one_before(tmp_path: Path) -> None:
    args = SimpleNamespace(
        out=tmp_path, train=["--x"], tasks=["a=A --task t", "b=B"], methods=["plain"],
        seeds=[3], design="chain", cycles=1,
    )  # fmt: skip
    pretrained, first, probe_1, second, probe_2 = forgetting.Study(args).runs()
    assert pretrained.after is None
    assert pretrained.command == probe_1.command == ("probe", "A", "--task", "t", "--x")
    assert first.after is None
    assert probe_1.after == first
    assert second.after == first
    assert probe_2.after == second
    assert "--steady-new-head" in second.command
    assert "--steady-new-head" not in first.command


def test_one_task_is_no_probe() -> None:
    with pytest.raises(UserError, match="chain needs two tasks or more, not 1"):
        forgetting.links("chain", ["a"], 1)


def test_generalization_end_to_end(
    models: dict[str, Path], cola_data: Path, score_data: Path, tmp_path: Path
) -> None:
    scores = (
        f"sts={score_data} --task text_regression --steady-text-column a "
        "--steady-pair-column b --steady-label-column score"
    )
    for split in ("train", "valid"):
        write_split(tmp_path, "rte", split, [glue_row("rte", n) for n in range(12)])
    pairs = f"rte={tmp_path} --task glue --glue-task rte"
    out = tmp_path / "out"

    def run() -> Any:
        return run_forking("probe", "generalization", "--out", out, "--jobs", 2,
            "--methods", "plain", "--seeds", 1, "--tasks",
            f"cola={cola_data} --task cola", scores, pairs, "--",
            "--user-dir", Path(forgetting.__file__).parents[1], "--cpu",
            f"--steady-model={models['roberta']}", "--optimizer=adam", "--lr=1e-2",
            "--batch-size", 8, "--steady-updates=10",
        )  # fmt: skip

    done = run()
    assert done.returncode == 0, done.stderr[-2000:]
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert {(r["method"], r["metric"], r["setting"]) for r in rows} == {
        ("plain", "pearson", "sts"),
        ("pretrained", "pearson", "sts"),
        ("plain", "accuracy", "rte"),
        ("pretrained", "accuracy", "rte"),
    }
    assert "difference [95 %]" not in rows[0]  # the encoder itself has no seed to pair
    # Fine-tuning changed the features, so the probes differ.
    assert rows[0]["mean ± std"] != rows[1]["mean ± std"]
    assert (out / "probes.png").read_bytes().startswith(b"\x89PNG")
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("result.json")}
    assert len(stamps) == 5
    for checkpoint in out.rglob("*.pt"):  # not needed again
        checkpoint.unlink()
    assert run().returncode == 0
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
