"""Optimizers, starts and the recipe in real fairseq runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Trainer, Zygote
from fairseq_steady.errors import UserError
from fairseq_steady.patches.checkpoints import load_safely
from helpers import (
    EPSILON,
    NO_DROPOUT,
    assert_equal_weights,
    checkpoint,
    logged,
    scalars,
    train_on_workers,
)
from method_table import OPTIMIZERS

LAYER = "encoder.sentence_encoder.layers.{}.fc1.weight"
HEAD = "classification_heads.sentence_classification_head."


def cola(models: dict[str, Path], data: Path, *flags: str) -> list[Any]:
    model = f"--steady-model={models['roberta']}"
    common = [data, "--task=cola", model, "--no-epoch-checkpoints"]
    return [*common, "--disable-validation", *flags]


@pytest.mark.parametrize(
    ("workers", "backend"),
    [
        (2, "legacy_ddp"),
        pytest.param(4, "legacy_ddp", marks=pytest.mark.slow),
        pytest.param(4, "c10d", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_workers_equal_one_process(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    zygote: Zygote,
    name: str,
    workers: int,
    backend: str,
) -> None:
    """Workers see other batches, and so other random histories; noise is the same."""
    common = [*cola(models, cola_data, *OPTIMIZERS[name], *EPSILON[name]), *NO_DROPOUT]
    common += ["--max-update=20", "--batch-size=4", "--steady-train-size=35"]
    one, many = tmp_path / "one", tmp_path / "many"
    fairseq_train(*common, f"--update-freq={workers}", f"--save-dir={one}")
    saved = f"--save-dir={many}"
    train_on_workers(zygote, *common, saved, count=workers, backend=backend)
    assert_equal_weights(one, many, tolerance=1e-6)


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n != "bert_adam"])
def test_a_resumed_run_ends_at_the_very_same_weights(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    name: str,
) -> None:
    common = cola(models, cola_data, *OPTIMIZERS[name], "--steady-layer-decay=0.9")
    common += ["--steady-reinit-layers=1", "--steady-mixout=0.2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fairseq_train(*common, "--max-update=9", f"--save-dir={whole}")
    fairseq_train(*common, "--max-update=4", f"--save-dir={broken}")
    fairseq_train(*common, "--max-update=9", f"--save-dir={broken}")
    assert_equal_weights(whole, broken)


def test_pats_draws_histograms_and_a_figure(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    from conftest import run_command
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = ["--optimizer=pats_adamax", "--pats-histogram-interval=2"]
    logs = f"--tensorboard-logdir={tmp_path / 'tb'}"
    fairseq_train(
        *cola(models, cola_data, *flags),
        *("--max-update=4", f"--save-dir={tmp_path}", logs),
    )
    events = EventAccumulator(
        str(tmp_path / "tb" / "sensitivity"), size_guidance={"histograms": 0}
    )
    events.Reload()
    name = f"log10_sensitivity/{LAYER.format(1)}"
    assert [e.step for e in events.Histograms(name)] == [2, 4]
    tags = events.Tags()["histograms"]
    assert not any(HEAD in tag for tag in tags)
    picture = tmp_path / "sensitivity.png"
    done = run_command("sensitivity", tmp_path / "checkpoint_last.pt", picture)
    assert done.returncode == 0, done.stderr
    assert picture.stat().st_size > 5000
    none = run_command("sensitivity", models["roberta"] / "model.pt", picture)
    assert none.returncode == 1
    assert "holds no sensitivities" in none.stderr.splitlines()[-1]
    assert scalars(tmp_path / "tb" / "train")


def test_layers_are_reinitialised_once_and_with_the_seed(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    start = load_safely(models["roberta"] / "model.pt")["model"]
    found = {}
    for layers, seed in ((0, 1), (1, 1), (2, 1), (1, 2)):
        out = tmp_path / f"{layers}-{seed}"
        flags = [f"--steady-reinit-layers={layers}", f"--seed={seed}", "--lr=0"]
        common = [*cola(models, cola_data, *flags), f"--save-dir={out}"]
        done = fairseq_train(*common, "--max-update=1")
        assert ("re-initialised: " in done.stderr) == (layers > 0)
        found[layers, seed] = checkpoint(out)["model"]
    low, top = LAYER.format(0), LAYER.format(1)
    assert torch.equal(found[0, 1][top], start[top])
    assert torch.equal(found[1, 1][low], start[low])
    assert float(found[1, 1][top].std()) == pytest.approx(0.02, rel=0.2)
    assert torch.equal(found[1, 1][top], found[2, 1][top])
    assert not torch.equal(found[1, 1][top], found[1, 2][top])
    dense = {name: found[1, 1][f"{HEAD}dense.{name}"] for name in ("weight", "bias")}
    assert float(dense["weight"].std()) == pytest.approx(0.02, rel=0.2)
    assert bool((dense["bias"] == 0).all())


def test_layer_decay_slows_lower_layers(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    start = load_safely(models["roberta"] / "model.pt")["model"]
    common = cola(models, cola_data, "--optimizer=bert_adam", "--max-update=1")
    fairseq_train(*common, "--steady-layer-decay=0.1", f"--save-dir={tmp_path}")
    after = checkpoint(tmp_path)["model"]
    low, top = (
        float((after[n] - start[n]).abs().median())
        for n in (LAYER.format(0), LAYER.format(1))
    )
    assert low == pytest.approx(top / 10, rel=0.15)


def test_layer_decay_needs_an_optimizer_that_knows_it(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    common = cola(models, cola_data, "--steady-layer-decay=0.9")
    done = fairseq_train(*common, f"--save-dir={tmp_path}", status=1)
    last = done.stderr.splitlines()[-1]
    assert "--steady-layer-decay 0.9 has no effect with --optimizer adam" in last


def test_the_recipe_sets_everything_together(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    model = f"--steady-model={models['roberta']}"
    done = fairseq_train(
        *(cola_data, "--task=cola", model, "--steady-epochs=5"),
        *(f"--save-dir={tmp_path}", "--criterion=smart", "--smart-bregman=momentum"),
    )
    inner = logged(done, "train_inner")
    assert len(inner) == 40
    rates = [float(line["lr"]) for line in inner]
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (3, 4)
    assert rates[-1] < 1e-4
    assert [int(v["valid_num_updates"]) for v in logged(done, "valid")] == list(
        range(4, 41, 4)
    )
    assert (tmp_path / "checkpoint_best.pt").is_file()
    task = checkpoint(tmp_path)["cfg"]["task"]
    assert (task["steady_updates"], task["steady_epochs"]) == (40, 0)
    # What the teacher's schedule counts on.
    assert checkpoint(tmp_path)["cfg"]["criterion"]["max_update"] == 40
    assert len(list(tmp_path.glob("*.pt"))) <= 3


LINEAR = "--lr-scheduler=polynomial_decay"
WRONG = {
    "schedule": (
        ["--steady-updates=100", "--warmup-updates=50", LINEAR],
        "--warmup-updates 50 does not match the 10",
    ),
    "updates": (
        ["--steady-updates=100", "--max-update=90"],
        "--max-update 90 does not match",
    ),
    "no end": (
        [LINEAR, "--patience=3"],
        "--lr-scheduler polynomial_decay needs an end",
    ),
    "scheduler": (
        ["--steady-updates=100", "--lr-scheduler=inverse_sqrt"],
        "--lr-scheduler inverse_sqrt does not go",
    ),
    "both": (["--steady-updates=100", "--steady-epochs=3"], "give one of them"),
    "layers": (["--steady-reinit-layers=7"], "7 is not in 0 to 2"),
    "mixout": (["--steady-mixout=1"], "--steady-mixout 1.0 is out of range"),
    "scratch": (
        ["--steady-from-scratch", "--steady-pooler"],
        "--steady-pooler is about pretrained weights, and has no effect with --steady",
    ),
    "head": (
        ["--steady-pooler", "--steady-reinit-layers=1"],
        "--steady-reinit-layers draws the head anew, and --steady-pooler starts it",
    ),
    "mixed": (
        ["--steady-mixout=0.2", "--finetune-from-model=x.pt"],
        "--steady-model, and not those of --finetune-from-model x.pt; leave one",
    ),
    "once": (
        ["--steady-noisytune=0.1", "--continue-once=x.pt"],
        "--steady-noisytune changes the weights of --steady-model, and --continue-once "
        "x.pt would overwrite them",
    ),
    "histograms": (
        ["--optimizer=pats_adamax", "--pats-histogram-interval=5"],
        "--pats-histogram-interval 5 writes to TensorBoard: add --tensorboard-logdir",
    ),
    "p": (
        ["--optimizer=pats_adamax", "--pats-p=2"],
        "--pats-p 2.0 is out of range: probability of noise, in [0, 1]",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_go_together_is_refused(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    case: str,
) -> None:
    flags, message = WRONG[case]
    model = f"--steady-model={models['roberta']}"
    done = fairseq_train(
        *(cola_data, "--task=cola", model, *flags, f"--save-dir={tmp_path}"), status=1
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in done.stderr


def test_a_start_that_a_checkpoint_would_undo_is_refused(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    common = cola(models, cola_data, "--max-update=1")
    fairseq_train(*common, f"--save-dir={tmp_path / 'a'}")
    start = f"--finetune-from-model={tmp_path / 'a' / 'checkpoint_last.pt'}"
    done = fairseq_train(
        *(*common, start, "--steady-reinit-layers=1", f"--save-dir={tmp_path / 'b'}"),
        status=1,
    )
    assert "would overwrite them" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ddp_backend": "fully_sharded"}, "needs whole matrices"),
        ({"memory_efficient_fp16": True}, "needs fp32 weights"),
        ({"fp16": True}, "add --fp16-no-flatten-grads"),
    ],
)
@pytest.mark.parametrize("name", ["bert_adam", "pats_adamax", "sage"])
def test_cut_up_or_half_precision_weights_are_refused(
    name: str, setting: dict[str, Any], message: str
) -> None:
    """fairseq reaches these on GPUs only."""
    from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, OPTIMIZER_REGISTRY

    cfg = OPTIMIZER_DATACLASS_REGISTRY[name]()
    fine = {"fp16": False, "memory_efficient_fp16": False, "ddp_backend": "c10d"}
    quiet = {"memory_efficient_bf16": False, "fp16_no_flatten_grads": False}
    for key, value in {**fine, **quiet, "lr": [1e-3], "seed": 1, **setting}.items():
        setattr(cfg, key, value)
    with pytest.raises(UserError, match=message):
        OPTIMIZER_REGISTRY[name](cfg, [torch.nn.Parameter(torch.ones(2, 2))])


def test_without_tags_matrices_are_in_scope() -> None:
    from fairseq_steady.optimizers.groups import parameter_groups

    made = parameter_groups([torch.ones(3, 3), torch.ones(3)], scoped=True)
    assert [group["in_scope"] for group in made] == [True, False]
