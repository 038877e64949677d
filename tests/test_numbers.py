"""Half precision, overflows, accumulation and clipping, in real fairseq runs."""

import functools
import json
import math
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fairseq_steady.tasks  # noqa: F401  changes fairseq
import pytest
import torch
from conftest import (
    TRAIN,
    Trainer,
    Zygote,
    environment,
    fairseq_command,
)
from fairseq.optim import AMPOptimizer
from helpers import (
    EPSILON,
    HALF,
    NO_DROPOUT,
    assert_equal_weights,
    checkpoint,
    cola,
    logged,
    start_from_yaml,
)
from method_table import METHODS, TRAINED
from torch import nn

OPTIMIZERS = {
    "bert_adam": ["--optimizer=bert_adam", *EPSILON["bert_adam"]],
    "pats_adamax": [
        *("--optimizer=pats_adamax", "--pats-lambda=0.03", "--pats-gate=none"),
        # Else fp16's rounding of the smallest sensitivities would decide.
        *(*EPSILON["pats_adamax"], "--pats-eps=1e-3"),
    ],
    "sage": ["--optimizer=sage", "--sage-bias-correction", *EPSILON["sage"]],
}


def slowly(*names: str) -> list[Any]:
    """Tests that only `-m slow` runs: more of what another one shows."""
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


#: What of the family keeps a state or takes gradients of its own.
STATEFUL = ["smart", *slowly("freelb", "r3f")]
GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
)


def run(zygote: Zygote, gpu: bool, *flags: Any) -> subprocess.CompletedProcess[str]:
    """fairseq-train on the CPU, or, with nothing but --cpu left out, on a GPU."""
    if not gpu:
        (done,) = zygote.run(["fairseq-train", *map(str, (*TRAIN, *flags))])
    else:
        visible = environment()
        del visible["CUDA_VISIBLE_DEVICES"]
        done = subprocess.run(
            fairseq_command(*(f for f in TRAIN if f != "--cpu"), *flags),
            capture_output=True,
            check=False,
            env=visible,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize("gpu", [False, pytest.param(True, marks=GPU)])
@pytest.mark.parametrize(
    "method", ["smart", "pats_adamax", "sage", *slowly("smart-vanilla", "bert_adam")]
)
def test_an_overflow_skips_the_step_for_all_that_counts_steps(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    method: str,
    gpu: bool,
) -> None:
    """All sentences are one batch: a skipped step must leave no trace.

    Teacher, optimizer state, noise and schedule end as in a run without overflows, but
    for fp16's rounding, which is small beside PATS's noise.
    """
    tolerance = 5e-3
    flags = OPTIMIZERS.get(method, OPTIMIZERS["bert_adam"])
    common = [
        *cola(models, cola_data, method if method in TRAINED else "plain"),
        *flags,
    ]
    common += [*NO_DROPOUT, *HALF, "--batch-size=64", "--max-update=6"]
    common += ["--lr-scheduler=polynomial_decay", "--warmup-updates=2"]
    common += ["--total-num-update=6", "--disable-validation"]
    runs = []
    for scale in (2**2, 2**26):
        out = tmp_path / str(scale)
        own = [f"--fp16-init-scale={scale}", f"--save-dir={out}"]
        runs.append((out, run(zygote, gpu, *common, *own)))
    (calm, quiet), (rough, loud) = runs
    # A process of its own logs to its output, a fork beside its errors.
    calmly, loudly = (done.stdout + done.stderr for done in (quiet, loud))
    assert "gradient overflow detected" not in calmly
    assert loudly.count("gradient overflow detected") >= 2
    rates = [[line["lr"] for line in logged(done, "train_inner")] for _, done in runs]
    assert rates[0] == rates[1]
    assert_equal_weights(calm, rough, tolerance)
    a, b = (checkpoint(folder) for folder in (calm, rough))
    for state in b["last_optimizer_state"]["state"].values():
        assert state.get("step", 6) == 6
    if method.startswith("smart"):
        mine, theirs = (s["extra_state"]["fairseq_steady"]["teacher"] for s in (a, b))
        assert mine["updates"] == theirs["updates"] == 6
        for name, tensor in mine["model"].items():
            torch.testing.assert_close(
                tensor, theirs["model"][name], rtol=0, atol=tolerance, msg=name
            )


@pytest.mark.parametrize("method", STATEFUL)
def test_accumulated_batches_are_one(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    method: str,
) -> None:
    """Batches of 18 and 17 sentences, or all 35."""
    common = [*cola(models, cola_data, method), *NO_DROPOUT, "--disable-validation"]
    common += ["--steady-train-size=35", "--max-update=8", "--adam-eps=1e-3"]
    for size, times in ((35, 1), (18, 2)):
        own = [f"--batch-size={size}", f"--update-freq={times}"]
        fairseq_train(*common, *own, f"--save-dir={tmp_path / str(size)}")
    assert_equal_weights(tmp_path / "35", tmp_path / "18", tolerance=1e-6)


@pytest.mark.parametrize("method", STATEFUL)
def test_clipping_holds_for_the_whole_gradient_of_an_update(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    method: str,
) -> None:
    """One step of SGD with rate 1 is as long as --clip-norm says."""
    common = [*cola(models, cola_data, method), "--disable-validation"]
    common += ["--optimizer=sgd", "--max-update=1", "--update-freq=2"]
    ends = []
    for rate in (0, 1):
        own = [f"--lr={rate}", "--clip-norm=0.01", f"--save-dir={tmp_path / str(rate)}"]
        fairseq_train(*common, *own)
        ends.append(checkpoint(tmp_path / str(rate))["model"])
    moved = torch.stack([(ends[1][n] - ends[0][n]).norm() for n in ends[0]]).norm()
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("method", ["sift", "smart", *slowly("r3f", "freelb")])
def test_bf16_through_hydra_is_near_fp32(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    method: str,
) -> None:
    """fairseq-train's own --bf16 is for TPUs."""
    row = METHODS[method]
    large = row.trained if row.half is None else row.half
    still = [f"+model.{name}=0" for name in ("dropout", "attention_dropout")]
    common = [
        *(f"criterion.{method}_{name}={value}" for name, value in large.items()),
        *still,
        "+model.pooler_dropout=0",
        "dataset.batch_size=64",
    ]
    common += ["common.log_format=json", "optimization.max_update=4"]
    common += ["lr_scheduler.warmup_updates=1", "optimization.lr=[1e-3]"]
    found = []
    for half in ("false", "true"):
        log = start_from_yaml(
            *(zygote, "cola", method, models["roberta"], cola_data, tmp_path),
            *(*common, f"common.bf16={half}"),
        )
        line = re.findall(r'{.*"train_loss".*}', log)[-1]
        found.append({k: float(v) for k, v in json.loads(line).items() if v})
    exact, rough = found
    own = [] if method == "freelb" else [f"train_{method}_divergence"]
    for name in ("train_loss", "train_task_loss", *own):
        assert exact[name] > 0, name
        assert rough[name] == pytest.approx(exact[name], rel=0.05), name
    assert rough["train_loss"] != exact["train_loss"]


def test_amp_divides_gradients_by_its_scale_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU's scaler, on the CPU: a step of SGD is the gradient, an overflow none."""
    scaler = functools.partial(torch.amp.GradScaler, "cpu")
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", scaler)
    weight = nn.Parameter(torch.zeros(3))
    inner: Any = SimpleNamespace(optimizer=torch.optim.SGD([weight], lr=1.0))
    inner.param_groups = inner.optimizer.param_groups
    inner.step = inner.optimizer.step
    inner.clip_grad_norm = lambda most, _: nn.utils.clip_grad_norm_(weight, 1e9)
    common = SimpleNamespace(fp16_init_scale=128, min_loss_scale=1e-4)
    made = AMPOptimizer(SimpleNamespace(optimizer=None, common=common), [], inner)
    for loss, expected in ((3.0, -3.0), (math.inf, -3.0), (2.0, -5.0)):
        weight.grad = None
        made.backward((weight * loss).sum())
        made.clip_grad_norm(0)
        made.step()
        assert weight.tolist() == [expected] * 3
    assert made.scaler.get_scale() == 64


@pytest.mark.parametrize("gpu", [False, pytest.param(True, marks=GPU)])
def test_amp_counts_each_update_once(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    gpu: bool,
) -> None:
    """On a CPU --amp changes nothing, on a GPU little of the way that weights go."""
    common = [*cola(models, cola_data, "smart"), *NO_DROPOUT, "--max-update=6"]
    common += [*OPTIMIZERS["bert_adam"], "--disable-validation"]
    common += ["--fp16-init-scale=67108864"]
    for flag in ("--amp", "--seed=1"):
        run(zygote, gpu, *common, flag, f"--save-dir={tmp_path / flag}")
    teacher = checkpoint(tmp_path / "--amp")["extra_state"]["fairseq_steady"]["teacher"]
    assert teacher["updates"] == 6
    limit = 5e-3 if gpu else 0.0  # the farthest weight goes 0.023
    assert_equal_weights(tmp_path / "--amp", tmp_path / "--seed=1", limit)
