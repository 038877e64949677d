"""fairseq-train with the plugin, as a user runs it: real processes, tiny models."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    SCORE_FLAGS,
    Trainer,
    Zygote,
    sentences,
)
from helpers import (
    NO_DROPOUT,
    assert_equal_weights,
    checkpoint,
    logged,
    scalars,
    train_on_workers,
)

SIFT = ["--criterion=sift", "--sift-init=0.05", "--sift-step=0.05", "--sift-warmup=0"]


# --- it trains, and reports ------------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", "bart", "deberta", "modernbert"])
def test_cola_trains_learns_and_reports_its_own_metric(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    family: str,
) -> None:
    done = fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models[family]}"),
        *(*SIFT, "--sift-lambda=1", "--max-epoch=12", "--no-epoch-checkpoints"),
        *(f"--save-dir={tmp_path}", f"--tensorboard-logdir={tmp_path / 'tb'}"),
    )
    valid, ood, trained = (logged(done, tag) for tag in ("valid", "ood", "train"))
    assert len(valid) == len(ood) == 12
    best = max(float(v["valid_mcc"]) for v in valid)
    assert float(valid[-1]["valid_best_mcc"]) == pytest.approx(best, abs=1e-6)
    assert best > 0.4
    assert float(trained[-1]["train_loss"]) < float(trained[0]["train_loss"])
    assert all(float(t["train_sift_divergence"]) > 0 for t in trained)
    assert {"valid_accuracy", "valid_f1"} <= valid[0].keys()
    state = checkpoint(tmp_path, "checkpoint_best.pt")
    assert state["extra_state"]["best"] == pytest.approx(best, abs=1e-6)
    first = next(v for v in valid if float(v["valid_mcc"]) == best)
    updates = state["optimizer_history"][-1]["num_updates"]
    assert updates == int(first["valid_num_updates"])
    seen = scalars(tmp_path / "tb" / "valid")
    assert max(seen["mcc"]) == pytest.approx(best, abs=1e-6)
    assert "sift_divergence" in scalars(tmp_path / "tb" / "train")


@pytest.mark.parametrize("criterion", [["--criterion=plain"], SIFT])
def test_scores_of_pairs_are_regressed(
    models: dict[str, Path],
    score_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    criterion: list[str],
) -> None:
    done = fairseq_train(
        *(score_data, *SCORE_FLAGS, f"--steady-model={models['roberta']}"),
        *(*criterion, "--max-epoch=10", "--no-save", f"--save-dir={tmp_path}"),
        "--lr=3e-3",
    )
    valid = logged(done, "valid")
    assert max(float(v["valid_pearson"]) for v in valid) > 0.5
    assert -1 <= float(valid[-1]["valid_spearman"]) <= 1
    if criterion == SIFT:
        assert float(logged(done, "train")[-1]["train_sift_divergence"]) > 0


def test_a_table_of_ones_own_with_three_classes(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer, zygote: Zygote
) -> None:
    for name, count in (("train", 30), ("dev", 12)):
        rows = [
            {"sentence": text, "topic": ["art", "law", "sea"][i % 3]}
            for i, (text, _) in enumerate(sentences(count))
        ]
        lines = [json.dumps(row) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    done = fairseq_train(
        *(tmp_path, "--task=text_classification", "--criterion=plain"),
        *("--steady-text-column=sentence", "--steady-label-column=topic"),
        *(f"--steady-model={models['roberta']}", "--max-epoch=1"),
        *("--steady-train-size=0.5", f"--save-dir={tmp_path / 'out'}"),
    )
    said = (
        rf"train: {re.escape(str(tmp_path))}/train\.\w+: 15 sentences \(art: 5, law: 5"
    )
    assert re.search(said, done.stdout + done.stderr)
    assert "valid_mcc" in logged(done, "valid")[0]
    # The checkpoint knows its classes and its form without the training file.
    (tmp_path / "train.jsonl").unlink()
    words = [tmp_path, "--task=text_classification", "--criterion=plain", "--cpu"]
    words += ["--path", tmp_path / "out" / "checkpoint_best.pt", "--batch-size=8"]
    words += ["--valid-subset=valid", "--log-format=json"]
    (validated,) = zygote.run(["fairseq-validate", *map(str, words)])
    assert validated.returncode == 0, validated.stderr[-2000:]
    assert "accuracy" in validated.stderr


def test_no_sentence_is_left_out_of_an_epoch_or_an_evaluation(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    """fairseq drops a last batch that is no multiple of 8."""
    data = tmp_path / "data"
    data.mkdir()
    for name, count in (("train", 27), ("valid", 13)):
        rows = [f"{text}\t{label}" for text, label in sentences(count)]
        (data / f"{name}.tsv").write_text("text\tlabel\n" + "\n".join(rows))
    done = fairseq_train(
        *(data, "--task=text_classification", f"--steady-model={models['roberta']}"),
        *("--max-epoch=2", "--batch-size=4", "--update-freq=7", "--no-save"),
        f"--save-dir={tmp_path}",
    )
    sizes = [float(line["bsz"]) for line in logged(done, "train_inner")]
    assert sizes == [27, 27]
    # The mean batch: 13 sentences in 4 batches.
    assert float(logged(done, "valid")[0]["valid_bsz"]) == pytest.approx(3.2, abs=0.06)


# --- checkpoints -----------------------------------------------------------------


def test_a_resumed_run_ends_at_the_very_same_weights(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    """Stopped in the middle of the second epoch, with dropout and SiFT's noise on."""
    common = [cola_data, "--task=cola", f"--steady-model={models['roberta']}", *SIFT]
    common += ["--no-epoch-checkpoints"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fairseq_train(*common, "--max-update=21", f"--save-dir={whole}")
    fairseq_train(*common, "--max-update=11", f"--save-dir={broken}")
    again = fairseq_train(*common, "--max-update=21", f"--save-dir={broken}")
    assert "@ 11 updates" in again.stdout + again.stderr
    assert_equal_weights(whole, broken)
    assert (
        checkpoint(whole)["extra_state"]["best"]
        == (checkpoint(broken)["extra_state"]["best"])
    )


def test_two_stages_through_finetune_from_model(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    common = [cola_data, "--task=cola", f"--steady-model={models['roberta']}"]
    common += ["--criterion=plain", "--disable-validation", "--no-epoch-checkpoints"]
    first, second = tmp_path / "a", tmp_path / "b"
    fairseq_train(*common, "--max-update=3", f"--save-dir={first}")
    start = f"--finetune-from-model={first / 'checkpoint_last.pt'}"
    # With a learning rate of 0 the second stage ends where it began.
    fairseq_train(*common, start, "--max-update=1", f"--save-dir={second}", *ZERO_RATE)
    assert_equal_weights(first, second)


ZERO_RATE = ["--lr=0"]


def test_a_model_directorys_checkpoint_can_be_restored_by_hand(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    resets = ["optimizer", "dataloader", "meters", "lr-scheduler"]
    fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models['roberta']}"),
        *("--steady-from-scratch", "--restore-file", models["roberta"] / "model.pt"),
        *(f"--reset-{what}" for what in resets),
        *("--criterion=plain", "--max-update=1", "--disable-validation", *ZERO_RATE),
        *("--no-epoch-checkpoints", f"--save-dir={tmp_path}"),
    )
    got = checkpoint(tmp_path)["model"]
    for name, tensor in checkpoint(models["roberta"], "model.pt")["model"].items():
        assert torch.equal(got[name], tensor), name


def test_published_checkpoints_with_meters_and_numbers_load(tmp_path: Path) -> None:
    import argparse

    import numpy as np
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu
    from fairseq.logging.meters import AverageMeter, TimeMeter

    state = {
        "args": argparse.Namespace(arch="roberta_base"),
        "model": {},
        "optimizer_history": [{"best_loss": np.float64(1.5)}],
        "extra_state": {"meters": {"loss": AverageMeter(), "wps": TimeMeter()}},
    }
    torch.save(state, tmp_path / "old.pt")
    loaded = load_checkpoint_to_cpu(str(tmp_path / "old.pt"))
    assert loaded["args"].arch == "roberta_base"


# --- errors: one line, status 1, before any training ------------------------------

ERRORS: dict[str, tuple[list[str], str]] = {
    "no model": ([], "--steady-model is missing"),
    "wrong model": (["--steady-model=nowhere"], "nowhere is not a model directory"),
    "restore": (["MODEL", "--restore-file=no.pt"], "--restore-file no.pt does not"),
    "finetune": (
        ["MODEL", "--finetune-from-model=no.pt"],
        "--finetune-from-model no.pt does not exist",
    ),
    "length": (["MODEL", "--steady-max-length=99"], "99 is not in 3 to 32"),
    "size": (["MODEL", "--steady-train-size=lots"], "lots is neither a count"),
    "subset": (["MODEL", "--valid-subset=test"], "no split 'test'"),
    "lambda": (["MODEL", "--criterion=sift", "--sift-lambda=-2"], "--sift-lambda -2"),
    "dropout": (["MODEL", "--dropout=1.5"], "--dropout 1.5 is out of range"),
    "pooler": (["MODEL", "--steady-pooler"], "has no pooler"),
    "arch": (["MODEL", "--arch=roberta_base"], "add --steady-from-scratch"),
    "no injection point": (
        [
            *("MODEL", "--steady-from-scratch", "--arch=roberta_prenorm"),
            *("--encoder-layers=1", "--criterion=sift"),
        ],
        "no layernorm_embedding",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_on_the_command_line_end_in_one_line(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    case: str,
) -> None:
    flags, message = ERRORS[case]
    model = f"--steady-model={models['roberta']}"
    flags = [model if flag == "MODEL" else flag for flag in flags]
    if not any(flag.startswith("--criterion") for flag in flags):
        flags.append("--criterion=plain")
    done = fairseq_train(
        *(cola_data, "--task=cola", *flags),
        f"--save-dir={tmp_path}",
        status=1,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.pt"))


def test_a_bad_row_stops_before_training(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    data = tmp_path / "data"
    shutil.copytree(cola_data, data, ignore=shutil.ignore_patterns(".*"))
    with (data / "in_domain_train.tsv").open("a") as file:
        file.write("\nsrc\tmaybe\t\tw1 w2")
    done = fairseq_train(
        *(data, "--task=cola", f"--steady-model={models['roberta']}"),
        *("--criterion=plain", f"--save-dir={tmp_path / 'out'}"),
        status=1,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "in_domain_train.tsv:65: label 'maybe' is none of: 0, 1" in last


def test_from_scratch_is_a_flag_and_differs_from_pretrained(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    common = [cola_data, "--task=cola", f"--steady-model={models['roberta']}"]
    common += ["--criterion=plain", "--max-update=1", "--disable-validation"]
    common += [*ZERO_RATE, "--no-epoch-checkpoints"]
    fairseq_train(*common, f"--save-dir={tmp_path / 'a'}")
    fairseq_train(*common, "--steady-from-scratch", f"--save-dir={tmp_path / 'b'}")
    pretrained = torch.load(models["roberta"] / "model.pt", weights_only=True)["model"]
    name = "encoder.sentence_encoder.layers.0.fc1.weight"
    assert torch.equal(checkpoint(tmp_path / "a")["model"][name], pretrained[name])
    assert not torch.equal(checkpoint(tmp_path / "b")["model"][name], pretrained[name])


# --- two workers -------------------------------------------------------------------


HALVES = ["--steady-split-dev", "--valid-subset=valid,test"]


def assert_equal_records(one: Path, other: Path) -> None:
    """Every evaluation, every sentence in its place."""
    names = {p.name for p in one.glob("*-*.json")}
    assert names == {p.name for p in other.glob("*-*.json")}
    assert any(name.startswith("valid-") for name in names)
    for name in names:
        a, b = (json.loads((folder / name).read_text()) for folder in (one, other))
        assert a["gold"] == b["gold"]
        np.testing.assert_allclose(a["outputs"], b["outputs"], atol=1e-5)
        assert a["metrics"].keys() >= {"loss", "num_updates"}
    config = json.loads((other / "config.json").read_text())
    assert config["distributed_training"]["distributed_world_size"] == 2


@pytest.mark.parametrize("kind", ["classes", "scores"])
def test_two_workers_equal_one_process(
    models: dict[str, Path],
    cola_data: Path,
    score_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    zygote: Zygote,
    kind: str,
) -> None:
    """Weights to 1e-6 after 6 updates on the same global batches, metrics exactly."""
    data, task = cola_data, ["--task=cola"]
    if kind == "scores":
        # Two halves of different sizes.
        data, task = score_data, [*SCORE_FLAGS, *HALVES]
    common = [data, *task, f"--steady-model={models['roberta']}", *SIFT, *NO_DROPOUT]
    common += ["--max-update=6", "--no-epoch-checkpoints"]
    one, both = (
        [f"--save-dir={tmp_path / name}", f"--steady-record={tmp_path / name}"]
        for name in ("one", "two")
    )
    done = fairseq_train(*common, *one, "--update-freq=2")
    logs = train_on_workers(zygote, *common, *both)
    assert_equal_weights(tmp_path / "one", tmp_path / "two", tolerance=1e-6)
    assert_equal_records(tmp_path / "one", tmp_path / "two")
    two = subprocess.CompletedProcess([], 0, logs[0], "")
    metrics = ["mcc", "accuracy"] if kind == "classes" else ["pearson", "spearman"]
    for metric in metrics:
        alone = [float(v[f"valid_{metric}"]) for v in logged(done, "valid")]
        together = [float(v[f"valid_{metric}"]) for v in logged(two, "valid")]
        assert together == pytest.approx(alone, abs=2e-6)
    divergence = "train_sift_divergence"
    assert float(logged(two, "train")[-1][divergence]) == pytest.approx(
        float(logged(done, "train")[-1][divergence]), rel=1e-4
    )
