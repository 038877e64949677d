"""Several tasks at once: one encoder, a head each."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Trainer, Zygote, sentences
from fairseq.data import Dictionary
from fairseq_steady.data import Encoded, Ragged, SentenceDataset
from fairseq_steady.data.mixture import Mixture, shares
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.tasks.glue_multitask import MultitaskConfig, MultitaskTask
from helpers import (
    NO_DROPOUT,
    assert_equal_weights,
    checkpoint,
    logged,
    train_on_workers,
    write_split,
)
from method_table import TRAINED

# --- the mixture --------------------------------------------------------------------


def part(size: int, length: int) -> SentenceDataset:
    tokens = [np.arange(length, dtype=np.int32) for _ in range(size)]
    return SentenceDataset(
        Encoded((Ragged.of(tokens),), np.arange(size), (0,)),
        Dictionary(),
        shuffle_seed=1,
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0, 1e6])
def test_shares_follow_size_and_temperature(temperature: float) -> None:
    found = shares({"a": 100, "b": 900}, temperature)
    assert found["b"] / found["a"] == pytest.approx(9 ** (1 / temperature), rel=0.02)
    assert sum(found.values()) == pytest.approx(1000, abs=1)


def test_batches_are_of_one_task_and_leave_nothing_out() -> None:
    parts = {"a": part(10, 4), "b": part(23, 7)}
    mixture = Mixture(parts, {"a": 10, "b": 23})
    order = mixture.ordered_indices()
    assert sorted(order) == list(range(33))
    batches = mixture.batch_by_size(order, max_sentences=4)
    heads = []
    for batch in batches:
        made = mixture.collater([mixture[int(i)] for i in batch])
        heads.append(made["head"])
        assert made["net_input"]["src_tokens"].size(1) == {"a": 4, "b": 7}[heads[-1]]
        assert made["total"] == len(parts[heads[-1]])
    assert Counter(heads) == {"a": 3, "b": 6}


def test_each_epoch_is_a_new_draw_and_repeats_small_tasks() -> None:
    mixture = Mixture({"a": part(4, 4), "b": part(40, 4)}, {"a": 10, "b": 12}, seed=3)
    draws = []
    for epoch in (1, 2, 1):
        mixture.set_epoch(epoch)
        draws.append(mixture.ordered_indices().tolist())
    assert draws[0] == draws[2] != draws[1]
    small = Counter(i for i in draws[0] if i < 4)
    assert sum(small.values()) == 10
    assert set(small.values()) <= {2, 3}
    large = [i for i in draws[0] if i >= 4]
    assert len(set(large)) == len(large) == 12


# --- training -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CoLA, SST-2 and STS-B in GLUE's layout; w0 is what classes are about."""
    folder = tmp_path_factory.mktemp("glue")
    for split, count in (("train", 40), ("valid", 18)):
        rows = sentences(count)
        write_split(folder, "cola", split, [f"s\t{y}\t*\t{text}" for text, y in rows])
        write_split(
            folder, "sst2", split, [f"{text}\t{y}" for text, y in rows[: count // 2]]
        )
        scored = [
            f"{n}\tg\tf\ty\t1\ta\tb\t{text}\tw1 w2\t{len(text.split()) / 3:.3f}"
            for n, (text, _) in enumerate(rows)
        ]
        write_split(folder, "stsb", split, scored)
    return folder


def arguments(
    glue: Path, models: dict[str, Path], names: str, family: str = "roberta"
) -> list[object]:
    model = f"--steady-model={models[family]}"
    task = ["--task=glue_multitask", f"--multitask-names={names}", model]
    return [glue, *task, "--no-epoch-checkpoints"]


def test_each_tasks_texts_are_looked_for_in_its_training_set(
    glue: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    rows = [f"s\t{y}\t*\t{text}" for text, y in [*sentences(5), *sentences(2, seed=1)]]
    shutil.copytree(glue, tmp_path / "glue")
    write_split(tmp_path / "glue", "cola", "valid", rows)
    cfg = MultitaskConfig(
        data=str(tmp_path / "glue"),
        steady_model=str(models["roberta"]),
        multitask_names="cola,sst2",
    )
    task = MultitaskTask.setup_task(cfg)
    for split in ("cola", "sst2", "train"):
        task.load_dataset(split)
    assert task.trained_on() == {"cola": 5, "sst2": 9}


@pytest.mark.parametrize("method", [m for m in TRAINED if m != "smart-vanilla"])
def test_every_method_trains_classes_and_scores_together(
    glue: Path,
    models: dict[str, Path],
    tmp_path: Path,
    fairseq_train: Trainer,
    method: str,
) -> None:
    done = fairseq_train(
        *(*arguments(glue, models, "sst2,stsb,cola"), *TRAINED[method]),
        *("--max-epoch=3", f"--save-dir={tmp_path}"),
    )
    for name, metric in (("sst2", "mcc"), ("stsb", "pearson"), ("cola", "mcc")):
        found = logged(done, name)
        assert len(found) == 3
        assert f"{name}_{metric}" in found[-1]
    last = logged(done, "sst2")[-1]
    assert last["sst2_score"] == last["sst2_accuracy"]
    assert logged(done, "stsb")[-1]["stsb_score"] == found_pearson(done)
    assert "sst2_best_score" in last
    trained = logged(done, "train")
    assert float(trained[-1]["train_loss"]) < float(trained[0]["train_loss"])
    # Confusions of several tasks would add up to nothing.
    assert "train_accuracy" not in trained[0]
    state = checkpoint(tmp_path)["model"]
    weight = "classification_heads.{}.out_proj.weight"
    sizes = [len(state[weight.format(name)]) for name in ("cola", "sst2", "stsb")]
    assert sizes == [2, 2, 1]


def found_pearson(done: Any) -> str:
    return str(logged(done, "stsb")[-1]["stsb_pearson"])


@pytest.mark.parametrize("backend", ["legacy_ddp", "c10d"])
def test_two_workers_equal_one_process(
    glue: Path,
    models: dict[str, Path],
    tmp_path: Path,
    fairseq_train: Trainer,
    zygote: Zygote,
    backend: str,
) -> None:
    """Also where the two have batches of different tasks."""
    common = [*arguments(glue, models, "sst2,stsb,cola"), *NO_DROPOUT]
    common += ["--disable-validation", "--max-update=6", "--batch-size=4"]
    common += ["--adam-eps=1e-3", *TRAINED["r3f"]]
    one, two = tmp_path / "one", tmp_path / "two"
    fairseq_train(*common, "--update-freq=2", f"--save-dir={one}")
    train_on_workers(zygote, *common, f"--save-dir={two}", backend=backend)
    assert_equal_weights(one, two, 1e-6)


def test_its_encoder_adapts_predicts_and_exports(
    glue: Path, models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    first = tmp_path / "first"
    both = arguments(glue, models, "cola,stsb")
    fairseq_train(*both, "--max-update=8", f"--save-dir={first}")
    path = first / "checkpoint_last.pt"
    (label,) = Predictor(path, head="cola")(["w1 w2"])
    (score,) = Predictor(path, head="stsb")([("w1", "w2")])
    assert label.label in ("0", "1")
    assert score.score is not None
    with pytest.raises(UserError, match="several heads; --head names one: cola, stsb"):
        Predictor(path)
    assert export_hf(path, tmp_path / "out", head="stsb", texts=["w1 w2"]) < 1e-4
    # A new task with a tenth of its data starts from the encoder, with a new head.
    second = tmp_path / "second"
    fairseq_train(
        *(glue, "--task=glue", "--glue-task=sst2", "--steady-train-size=0.1"),
        *(f"--steady-model={models['roberta']}", f"--finetune-from-model={path}"),
        *("--max-update=1", "--lr=0", f"--save-dir={second}"),
    )
    before, after = (checkpoint(folder)["model"] for folder in (first, second))
    shared = [name for name in before if name.startswith("encoder.")]
    assert all(torch.equal(before[name], after[name]) for name in shared)
    heads = {name.split(".")[1] for name in after if name.startswith("classification")}
    assert heads == {"sentence_classification_head"}
    with pytest.raises(UserError, match="no head cola: leave --head out"):
        Predictor(second / "checkpoint_last.pt", head="cola")


@pytest.mark.parametrize("family", ["bart", "modernbert"])
def test_an_evaluation_of_each_task_is_what_prediction_says(
    glue: Path,
    models: dict[str, Path],
    tmp_path: Path,
    fairseq_train: Trainer,
    family: str,
) -> None:
    """BART's batches hold what its decoder reads, too."""
    fairseq_train(
        *(*arguments(glue, models, "cola,sst2", family), "--max-update=4"),
        *("--lr=3e-3", f"--save-dir={tmp_path}", f"--steady-record={tmp_path}"),
    )
    files = {"cola": (glue / "CoLA/dev.tsv", 3), "sst2": (glue / "SST-2/dev.tsv", 0)}
    for name, (path, column) in files.items():
        lines = path.read_text().splitlines()[name == "sst2" :]
        texts = [line.split("\t")[column] for line in lines]
        predict = Predictor(tmp_path / "checkpoint_last.pt", head=name)
        found = [list(one.probabilities.values()) for one in predict(texts)]
        record = json.loads((tmp_path / f"{name}-4.json").read_text())
        wanted = torch.tensor(record["outputs"]).softmax(-1)
        torch.testing.assert_close(torch.tensor(found), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--multitask-names=cola"], "should name two or more of cola, sst2"),
        (["--multitask-names=cola,xyz"], "'cola,xyz' should name two"),
        (["--multitask-names=cola,cola"], "should name two or more"),
        (
            ["--multitask-names=cola,sst2", "--multitask-temperature=0.5"],
            "--multitask-temperature 0.5 is out of range: T, >= 1; a task",
        ),
        (
            ["--multitask-names=cola,sst2", "--valid-subset=rte"],
            "no split 'rte'; choose train or, of each task, cola, sst2",
        ),
        (["--multitask-names=cola,rte"], "has no train.tsv for the split 'train'"),
        (
            ["--multitask-names=cola,stsb", *TRAINED["r3f"], "--r3f-divergence=sym_kl"],
            "always 0 for a single score",
        ),
    ],
)
def test_bad_flags_are_one_line(
    glue: Path, models: dict[str, Path], zygote: Zygote, flags: list[str], message: str
) -> None:
    model = f"--steady-model={models['roberta']}"
    command = [str(glue), "--task=glue_multitask", model, "--cpu", "--no-save", *flags]
    (done,) = zygote.run(["fairseq-train", *command, "--batch-size=4", "--lr=1e-3"])
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
