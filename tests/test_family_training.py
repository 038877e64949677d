"""Every method in real fairseq runs: workers, checkpoints, YAML."""

import json
from pathlib import Path

import pytest
import torch
from conftest import SCORE_FLAGS, Trainer, Zygote
from helpers import (
    NO_DROPOUT,
    YAML,
    assert_equal_weights,
    checkpoint,
    cola,
    glue_row,
    logged,
    start_from_yaml,
    train_on_workers,
    write_split,
)
from method_table import METHODS, TRAINED

#: Each method with one of these, in turn; with the others where time is no matter.
WORKERS = [(2, 1, "legacy_ddp"), (2, 2, "c10d"), (2, 2, "legacy_ddp"), (2, 1, "c10d")]
MORE = [(4, 1, "legacy_ddp"), (4, 1, "c10d")]


@pytest.mark.parametrize(
    ("method", "workers", "accumulated", "backend"),
    [
        pytest.param(
            *(method, *how), marks=[] if how == WORKERS[i % 4] else pytest.mark.slow
        )
        for i, method in enumerate(TRAINED)
        for how in (*WORKERS, *MORE)
    ],
)
def test_workers_equal_one_process(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    zygote: Zygote,
    method: str,
    workers: int,
    accumulated: int,
    backend: str,
) -> None:
    """Weights, and a teacher's too, to 1e-6 after 20 updates on the same batches.

    An epoch has seven batches, the last of three sentences: some workers get none, or
    with accumulation one less than the others.
    Attention does not see the bias of its keys: Adam with a small epsilon would blow
    the rounding of that gradient up to full steps.
    """
    common = [*cola(models, cola_data, method), *NO_DROPOUT, "--disable-validation"]
    common += ["--max-update=20", "--batch-size=4", "--steady-train-size=27"]
    common += ["--adam-eps=1e-3"]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = f"--update-freq={workers * accumulated}"
    fairseq_train(*common, alone, f"--save-dir={one}")
    common += [f"--update-freq={accumulated}", f"--save-dir={two}"]
    train_on_workers(zygote, *common, count=workers, backend=backend)
    assert_equal_weights(one, two, tolerance=1e-6)
    kept = [
        checkpoint(folder)["extra_state"].get("fairseq_steady") for folder in (one, two)
    ]
    teachers, caches = (
        [(k or {}).get(name) for k in kept] for name in ("teacher", "perturbations")
    )
    assert [t is not None for t in teachers] == [method.startswith("smart")] * 2
    if teachers[0]:
        mine, theirs = (teacher["model"] for teacher in teachers)
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)
    assert [c is not None for c in caches] == [method.endswith("cached")] * 2
    if caches[0]:
        mine, theirs = (cache[""] for cache in caches)
        assert len(mine["ids"]) > 5
        assert torch.equal(mine["used"], theirs["used"])
        assert int(mine["used"].max()) > 0
        # A coordinate of next to nothing may fall on either side.
        differ = (mine["data"] != theirs["data"]).float().mean()
        assert float(differ) < (0.01 if method == "smart-cached" else 0.2)


@pytest.mark.parametrize("method", [m for m in TRAINED if m not in ("sift", "plain")])
def test_a_resumed_run_ends_at_the_very_same_weights(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    method: str,
) -> None:
    """With dropout, and with bert_adam's state."""
    common = [*cola(models, cola_data, method), "--disable-validation"]
    common += ["--optimizer=bert_adam", "--bert-adam-anchor=0.1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fairseq_train(*common, "--max-update=13", f"--save-dir={whole}")
    fairseq_train(*common, "--max-update=6", f"--save-dir={broken}")
    again = fairseq_train(*common, "--max-update=13", f"--save-dir={broken}")
    assert "@ 6 updates" in again.stderr
    assert_equal_weights(whole, broken)
    states = [
        checkpoint(f)["extra_state"].get("fairseq_steady", {}) for f in (whole, broken)
    ]
    caches = [state.get("perturbations") for state in states]
    assert [c is not None for c in caches] == [method.endswith("cached")] * 2
    if caches[0]:
        mine, theirs = (cache[""] for cache in caches)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    if method.startswith("smart"):
        assert states[0]["teacher"]["updates"] == states[1]["teacher"]["updates"] == 13
        mine, theirs = (state["teacher"]["model"] for state in states)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        head = "classification_heads.sentence_classification_head.dense.weight"
        assert not torch.equal(mine[head], checkpoint(whole)["model"][head])


def test_a_new_stage_gets_a_new_teacher(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    common = [*cola(models, cola_data, "smart"), "--disable-validation"]
    fairseq_train(*common, "--max-update=3", f"--save-dir={tmp_path / 'a'}")
    start = f"--finetune-from-model={tmp_path / 'a' / 'checkpoint_last.pt'}"
    fairseq_train(
        *(*common, start, "--max-update=1", "--lr=0"),
        f"--save-dir={tmp_path / 'b'}",
    )
    state = checkpoint(tmp_path / "b")
    teacher = state["extra_state"]["fairseq_steady"]["teacher"]
    assert teacher["updates"] == 1
    for name, tensor in teacher["model"].items():
        torch.testing.assert_close(tensor, state["model"][name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["roberta", "bart", "modernbert"])
def test_r4fs_checkpoint_evaluates_the_same_and_becomes_plain(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    zygote: Zygote,
    family: str,
) -> None:
    model = f"--steady-model={models[family]}"
    common = [cola_data, "--task=cola", model, "--no-epoch-checkpoints"]
    first = tmp_path / "a"
    done = fairseq_train(
        *(
            *common,
            *TRAINED["r4f"],
            "--max-update=8",
            f"--save-dir={first}",
            "--lr=3e-2",
        )
    )
    state = checkpoint(first)["model"]
    heads = [k for k in state if k.startswith("classification_heads")]
    assert len([k for k in heads if k.endswith("spectral_original")]) == 2
    for name in [k for k in heads if k.endswith(".weight") and state[k].dim() > 1]:
        # One step of the power method an update is slow where values are alike.
        assert torch.linalg.svdvals(state[name])[0] <= 1.05
    original = next(k for k in heads if k.endswith("dense.spectral_original"))
    assert torch.linalg.svdvals(state[original])[0] > 1.1
    trained = float(logged(done, "valid")[-1]["valid_loss"])
    # Evaluated by a model that knows nothing of the bound.
    arguments = [cola_data, "--task=cola", "--criterion=plain", "--cpu"]
    arguments += ["--path", first / "checkpoint_last.pt", "--valid-subset=valid"]
    arguments += ["--batch-size=8", "--log-format=json"]
    (seen,) = zygote.run(["fairseq-validate", *map(str, arguments)])
    assert seen.returncode == 0, seen.stderr[-2000:]
    assert f'"loss": "{trained:.6g}"' in seen.stderr.replace("valid_loss", "loss")
    # A second stage of either kind starts where the first ended.
    start = f"--finetune-from-model={first / 'checkpoint_last.pt'}"
    for name, flags in (("plain", ["--criterion=plain"]), ("r4f", TRAINED["r4f"])):
        later = tmp_path / name
        stage = [*common, *flags, start, "--max-update=1", "--lr=0"]
        fairseq_train(*stage, "--disable-validation", f"--save-dir={later}")
        weights = checkpoint(later)["model"]
        for key in [k for k in heads if k.endswith(".weight")]:
            # One more iteration: in r4f's steep head that is still far from its end.
            steep = family == "modernbert" and name == "r4f"
            near = 1e-2 if steep else 1e-4
            torch.testing.assert_close(weights[key], state[key], rtol=0, atol=near)
        assert any(k.endswith("spectral_u") for k in weights) == (name == "r4f")


def test_r4f_starts_from_a_plain_checkpoint(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    model = f"--steady-model={models['roberta']}"
    common = [cola_data, "--task=cola", model, "--no-epoch-checkpoints"]
    common += ["--disable-validation"]
    plain, bounded = tmp_path / "plain", tmp_path / "r4f"
    fairseq_train(*common, "--max-update=3", f"--save-dir={plain}")
    start = f"--finetune-from-model={plain / 'checkpoint_last.pt'}"
    stage = [*common, *TRAINED["r4f"], start, "--max-update=1", "--lr=0"]
    fairseq_train(*stage, f"--save-dir={bounded}")
    before, after = checkpoint(plain)["model"], checkpoint(bounded)["model"]
    head = "classification_heads.sentence_classification_head.dense."
    assert torch.equal(after[head + "spectral_original"], before[head + "weight"])


@pytest.mark.parametrize("method", [m for m in TRAINED if m not in ("sift", "plain")])
def test_scores_of_pairs_are_regressed_with_every_method(
    models: dict[str, Path],
    score_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    method: str,
) -> None:
    done = fairseq_train(
        *(score_data, *SCORE_FLAGS, f"--steady-model={models['roberta']}"),
        *(*TRAINED[method], "--max-epoch=6", "--no-save", f"--save-dir={tmp_path}"),
        "--lr=3e-3",
    )
    losses = [float(line["train_task_loss"]) for line in logged(done, "train")]
    assert losses[-1] < losses[0]
    assert -1 <= float(logged(done, "valid")[-1]["valid_pearson"]) <= 1


# --- YAML -----------------------------------------------------------------------

TASKS = sorted(path.stem for path in YAML.glob("*.yaml"))


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_yaml_starts(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    method: str,
) -> None:
    model = models["roberta"]
    log = start_from_yaml(zygote, "cola", method, model, cola_data, tmp_path)
    assert f"'_name': '{method}'" in log
    assert "num_updates: 1 >= max_update: 1" in log
    assert "mcc" in log


ENTAILED = ("entailment", "not_entailment")


def write_copa(data: Path) -> None:
    """SuperGLUE's COPA, small, in a folder that no other task reads."""
    said = {"premise": "w3 w4", "choice1": "w1", "choice2": "w2", "question": "cause"}
    rows = [json.dumps({**said, "label": i % 2, "idx": i}) for i in range(12)]
    folder = data / "COPA"
    folder.mkdir()
    for name in ("train", "val"):
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("task", [t for t in TASKS if t != "cola"])
def test_every_tasks_yaml_starts(
    models: dict[str, Path],
    score_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    task: str,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    if task == "uci_sentiment":
        rows = [f"{i},{i % 2},w{i} w{i + 1} w{i + 2}" for i in range(40)]
        (data / "train.csv").write_text("id,label,tweet\n" + "\n".join(rows) + "\n")
        for name in ("amazon_cells", "imdb", "yelp"):
            lines = [f"w{i} w{i + 1}\t{i % 2}" for i in range(10)]
            (data / f"{name}_labelled.txt").write_text("\n".join(lines) + "\n")
    column = "score" if task == "text_regression" else "label"
    second = "0,1" if task == "multi_label" else "1"
    for name in ("train", "valid"):
        rows = [f"w{i} w{i + 1}\t{second if i % 2 else 0}" for i in range(12)]
        text = f"text\t{column}\n" + "\n".join(rows) + "\n"
        (data / f"{name}.tsv").write_text(text)
    for name in ("train", "dev") if task in ("glue", "nli") else ():
        labels = ENTAILED if task == "glue" else ("entailment", "neutral")
        rows = [f"{i}\tw{i}\tw{i + 1}\t{labels[i % 2]}" for i in range(12)]
        header = "index\tsentence1\tsentence2\tlabel\n"
        (data / f"{name}.tsv").write_text(header + "\n".join(rows) + "\n")
    write_copa(data)
    for name in ("cola", "sst2") if task == "glue_multitask" else ():
        for split in ("train", "valid"):
            write_split(data, name, split, [glue_row(name, i) for i in range(12)])
    more = {
        "glue": ["task.glue_task=rte"],
        "nli": ["task.nli_task=snli"],
        "superglue": ["task.superglue_task=copa"],
        "glue_multitask": ['task.multitask_names="cola,sst2"'],
    }.get(task, [] if task.startswith("glue") else ["task.steady_epochs=0"])
    model = models["roberta"]
    log = start_from_yaml(zygote, task, "r3f", model, data, tmp_path / "out", *more)
    name = "text_classification" if task == "multi_label" else task
    assert f"'_name': '{name}'" in log
    assert "num_updates: 1 >= max_update: 1" in log


def test_every_criterion_has_its_yaml() -> None:
    assert {path.stem for path in (YAML / "method").glob("*.yaml")} == set(METHODS)


def test_a_mistake_in_yaml_is_one_line(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    (done,) = zygote.run(
        [
            *("hydra", f"--config-dir={YAML}", "--config-name=cola", "method=r3f"),
            *(f"task.data={cola_data}", f"task.steady_model={models['roberta']}"),
            *("criterion.r3f_eps=-1", "common.cpu=true", f"hydra.run.dir={tmp_path}"),
        ]
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: --r3f-eps -1")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("left", ["", "lr_scheduler:\n  warmup_updates: 1\n"])
def test_yaml_without_a_schedule(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    left: str,
) -> None:
    """None at all is a constant rate, as on the command line; half a one is not."""
    text = (YAML / "cola.yaml").read_text()
    before, _, rest = text.partition("lr_scheduler:\n")
    after = rest[rest.index("optimization:\n") :]
    (tmp_path / "mine.yaml").write_text(before + left + after)
    (tmp_path / "method").symlink_to(YAML / "method")
    (done,) = zygote.run(
        [
            *("hydra", f"--config-dir={tmp_path}", "--config-name=mine"),
            *(f"task.data={cola_data}", f"task.steady_model={models['roberta']}"),
            *("optimization.max_update=1", "optimization.lr=[3e-4]", "common.cpu=true"),
            *("checkpoint.no_save=true", f"hydra.run.dir={tmp_path}"),
        ]
    )
    last = done.stderr.splitlines()[-1]
    if left:
        assert last == (
            "error: lr_scheduler._name is missing: for example polynomial_decay, "
            "or fixed"
        )
    else:
        assert done.returncode == 0, done.stderr[-2000:]
        assert "bert_adam --lr 0.0003, fixed" in done.stderr
        assert "| lr 0.0003 |" in done.stderr
