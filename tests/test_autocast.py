"""``--steady-autocast``: near fp32 for every method, refused where it would not pay.

Forced throughout, so that a CPU without bf16 instructions shows the same.
"""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from conftest import Trainer, Zygote, sentences
from fairseq_steady import precision
from fairseq_steady.criterions.plain import gradient_scale
from fairseq_steady.errors import UserError
from fairseq_steady.precision import (
    Autocast,
    autocast,
    keep_exact,
    prepare,
    unsupported,
)
from fairseq_steady.regularizers import find_encoder
from helpers import (
    NO_DROPOUT,
    assert_equal_weights,
    checkpoint,
    cola,
    logged,
    train_on_workers,
)
from method_table import METHODS
from tiny import batch, build, make_criterion, make_dataset
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

BF16 = Autocast("cpu", torch.bfloat16)
FORCED = "--steady-autocast=bf16-forced"


# --- where it is refused --------------------------------------------------------------


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the CPU says of itself, to be written."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision, "_CPUINFO", path)
    return path


def common(**flags: bool) -> SimpleNamespace:
    """fairseq's part of the configuration."""
    names = ("bf16", "fp16", "amp", "memory_efficient_bf16", "memory_efficient_fp16")
    return SimpleNamespace(**{**dict.fromkeys(names, False), **flags})


@pytest.mark.parametrize(
    ("told", "good"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16 avx2\n", True),
        ("flags : avx512f amx_bf16\n", True),
        ("flags\t\t: fpu avx512_vnni\nprocessor : 1\nflags : avx512_bf16\n", False),
        ("model name : avx512_bf16\nflags\t\t: avx512f\n", False),
        ("vmx flags\t: avx512_bf16\n", False),
        (None, False),
    ],
)
def test_a_cpu_is_asked_for_its_instructions(
    cpuinfo: Path, told: str | None, good: bool
) -> None:
    if told is not None:
        cpuinfo.write_text(told)
    reason = "" if good else "this CPU has neither avx512_bf16 nor amx_bf16"
    assert unsupported("cpu") == reason
    if good:
        assert autocast("bf16", "cpu", common()) == BF16
    else:
        said = (
            f"--steady-autocast bf16: {reason}, so that it would be slower than fp32; "
            "leave it out, or force it with bf16-forced"
        )
        with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
            autocast("bf16", "cpu", common())
    assert autocast("bf16-forced", "cpu", common()) == BF16
    assert autocast("none", "cpu", common(amp=True)) == Autocast("cpu", None)


def test_a_gpu_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation, native=native: native or including_emulation,
        )
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
        assert unsupported("cuda") == ("" if native else "Tesla T4 has no bf16")


@pytest.mark.parametrize("chosen", ["bf16", "bf16-forced", "fp16"])
@pytest.mark.parametrize(
    "other", ["bf16", "fp16", "memory_efficient_bf16", "memory_efficient_fp16"]
)
def test_it_does_not_go_with_fairseqs_own(chosen: str, other: str) -> None:
    flag = other.replace("_", "-")
    said = f"^--steady-autocast {chosen} and fairseq's --{flag}: give one of them$"
    with pytest.raises(UserError, match=said):
        autocast(chosen, "cuda", common(**{other: True}))


def test_fp16_takes_a_gpu_and_fairseqs_loss_scaling() -> None:
    with pytest.raises(
        UserError, match=r"^--steady-autocast fp16 needs a GPU, .* bf16"
    ):
        autocast("fp16", "cpu", common())
    root = common()
    assert autocast("fp16", "cuda", root) == Autocast("cuda", torch.float16)
    assert root.amp
    assert autocast("fp16", "cuda", root).dtype == torch.float16, "set up again"
    with pytest.raises(UserError, match="fairseq's --amp: give one of them"):
        autocast("bf16", "cuda", root)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--steady-autocast=fp16"], "error: --steady-autocast fp16 needs a GPU, "),
        (
            [FORCED, "--amp"],
            "--steady-autocast bf16-forced and fairseq's --amp: give one of them",
        ),
        (["--steady-autocast=half"], "none, bf16, bf16-forced, fp16"),
    ],
)
def test_a_run_is_refused_in_one_line(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    flags: list[str],
    said: str,
) -> None:
    common = [*cola(models, cola_data, "plain"), "--cpu", f"--save-dir={tmp_path}"]
    (done,) = zygote.run(["fairseq-train", *map(str, common), *flags])
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("*.pt"))


# --- equal to fp32, within bounds -----------------------------------------------------


def outcome(
    path: Path, method: str, under: Autocast, **flags: Any
) -> tuple[float, dict[str, float], Tensor]:
    """Loss, what is logged, and the gradient of a batch, dropout off."""
    model, sample = build(path), batch(make_dataset(path))
    if under.dtype:
        prepare(model)
    made = make_criterion(method, **flags)
    made.prepare_model(model)
    torch.manual_seed(11)
    loss, _, log = under.around(made)(model, sample)
    assert loss.dtype == torch.float32
    loss.backward()
    given = [p.grad for p in model.parameters() if p.grad is not None]
    assert {g.dtype for g in given} == {torch.float32}
    logs = {name: float(v) for name, v in log.items() if not name.startswith("_")}
    return float(loss.detach()), logs, torch.cat([g.flatten() for g in given])


@pytest.mark.parametrize(("method", "family"), tiny.in_turn(METHODS))
def test_loss_and_gradient_are_near_fp32s(
    models: dict[str, Path], family: str, method: str
) -> None:
    """Of these models logits reach 10 and gradients are steep; and it did something."""
    flags = METHODS[method].live
    exact, seen, gradient = outcome(models[family], method, Autocast(), **flags)
    rough, logs, other = outcome(models[family], method, BF16, **flags)
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.08)
    if METHODS[method].divergence:
        name = f"{method}_divergence"
        assert logs[name] == pytest.approx(seen[name], rel=0.15)
    # From rounded gradients a climb goes another way; some of these models are steep.
    climbs = method in ("sift", "freelb")
    steep = climbs and family in ("electra", "distilbert", "albert")
    alike, near = (0.93, 0.25) if steep else (0.99, 0.1)
    assert torch.cosine_similarity(gradient, other, 0) > alike
    assert float(other.norm()) == pytest.approx(float(gradient.norm()), rel=near)


class Casts(TorchDispatchMode):
    """Counts how often each weight is cast to bf16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {p.data_ptr(): name for name, p in model.named_parameters()}
        self.counts = dict.fromkeys(self.names.values(), 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        to = (kwargs or {}).get("dtype")
        if func is torch.ops.aten._to_copy.default and to == torch.bfloat16:
            name = self.names.get(args[0].data_ptr())
            if name is not None:
                self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_all_passes_of_a_batch_share_one_cast_of_the_weights(
    models: dict[str, Path], method: str
) -> None:
    """Also those without gradient, as the probe's, and between autograd's own."""
    model, sample = (
        build(models["roberta"], 0.1),
        batch(make_dataset(models["roberta"])),
    )
    prepare(model)
    made = make_criterion(method, **METHODS[method].live)
    made.prepare_model(model)
    with Casts(model) as casts:
        BF16.around(made)(model, sample)
    products = {
        name: count
        for name, count in casts.counts.items()
        if ".layers." in name and "norm" not in name
    }
    assert len(products) == 2 * 6 * 2
    assert set(products.values()) == {1}
    others = {name for name, count in casts.counts.items() if count}
    assert others == set(products)  # neither norms nor embeddings, nor the head


# --- the head, the scale, the warning -------------------------------------------------


def test_a_head_multiplies_in_fp32_and_its_copy_uses_its_own_weights() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(8, 3))
    linear: Any = head[0]
    x = torch.randn(5, 8)
    expected = x @ linear.weight.T + linear.bias
    keep_exact(head)
    teacher = copy.deepcopy(head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(x), expected, rtol=1e-6, atol=1e-6)
        assert head(x.bfloat16()).dtype == torch.float32
        nn.init.zeros_(teacher[0].weight)
        assert torch.equal(teacher(x), linear.bias.expand(5, 3))
    assert list(head.state_dict()) == ["0.weight", "0.bias"]


def test_the_scale_of_the_inner_gradient_follows_the_cpus_autocast() -> None:
    """The one of its own device: asked without one, torch tells of CUDA's."""
    linear = nn.Linear(2, 2)
    for dtype, expected in ((torch.float16, 4096), (torch.bfloat16, 1)):
        with torch.autocast("cpu", dtype=dtype):
            assert gradient_scale(linear) == expected
    with torch.autocast("cuda", dtype=torch.float16):
        assert gradient_scale(linear) == 1


def test_a_perturbation_that_the_first_product_rounds_away_is_said(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Embeddings stay fp32, and what multiplies them does not."""
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    small = make_criterion("r3f", eps=1e-5)
    logs = [BF16.around(small)(model, sample)[2] for _ in range(3)]
    assert caplog.text.count("rounding removes") == 1
    assert float(logs[0]["r3f_lost"]) / len(tiny.LENGTHS) > 0.9
    caplog.clear()
    log = BF16.around(make_criterion("r3f", eps=0.5))(model, sample)[2]
    assert "rounding" not in caplog.text
    assert float(log["r3f_lost"]) / len(tiny.LENGTHS) < 0.1
    assert "r3f_lost" not in small(model, sample)[2]


# --- runs -----------------------------------------------------------------------------


@pytest.fixture
def run_of(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> Iterator[Any]:
    """Runs of one batch of all sentences an update; gives log and checkpoint."""

    def run(name: str, method: str, *flags: Any) -> tuple[Any, dict[str, Any]]:
        own = [
            *cola(models, cola_data, method),
            *flags,
            f"--save-dir={tmp_path / name}",
        ]
        return fairseq_train(*own), checkpoint(tmp_path / name)

    return run


def test_training_and_validation_are_cast_weights_and_heads_are_not(
    run_of: Any, tmp_path: Path
) -> None:
    still = [*NO_DROPOUT, "--max-update=2", "--lr=0", "--batch-size=64"]
    still += [f"--steady-record={tmp_path}"]  # the last run's stays
    runs = {
        name: run_of(name, "sift", *still, *flags)
        for name, flags in {
            "off": [],
            "none": ["--steady-autocast=none"],
            "on": [FORCED],
        }.items()
    }
    assert runs["on"][1]["cfg"]["task"]["steady_autocast"] == "bf16-forced"
    assert {t.dtype for t in runs["on"][1]["model"].values()} == {torch.float32}
    for tag, name in (("train", "train_loss"), ("valid", "valid_loss")):
        off, none, on = (
            float(logged(done, tag)[-1][name]) for done, _ in runs.values()
        )
        assert off == none != on
        assert on == pytest.approx(off, rel=0.03)
    written = tmp_path / "valid-2.json"
    outputs = torch.tensor(json.loads(written.read_text())["outputs"])
    assert (outputs != outputs.bfloat16()).float().mean() > 0.9


def test_a_prepared_model_is_the_same_in_fp32(models: dict[str, Path]) -> None:
    """To the bit; and bf16 gives gelu's gradient as its detour through fp32 did."""
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    made = make_criterion("plain")
    found = []
    for change in (lambda _: None, prepare):
        change(model)
        model.zero_grad()
        made(model, sample)[0].backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(map(torch.equal, *found))
    x = torch.randn(99, dtype=torch.bfloat16).requires_grad_()
    layer: Any = find_encoder(model).layers[0]
    layer.activation_fn(x).backward(torch.ones_like(x))
    (expected,) = torch.autograd.grad(
        nn.functional.gelu(x.float()).to(x.dtype).sum(), x
    )
    assert torch.equal(x.grad, expected)
    assert layer.activation_fn is nn.functional.gelu


@pytest.mark.parametrize("side", ["encoder", "both"])
def test_summaries_are_learnt_and_evaluated_in_bf16(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer, side: str
) -> None:
    for split, count in (("train", 24), ("valid", 8)):
        rows = [text for text, _ in sentences(count, 1)]
        for name, cut in (("source", 99), ("target", 3)):
            lines = (" ".join(row.split()[:cut]) + "\n" for row in rows)
            (tmp_path / f"{split}.{name}").write_text("".join(lines))
    common = [tmp_path, "--task=summarization", f"--steady-model={models['bart']}"]
    common += ["--summarization-max-length=6", *NO_DROPOUT, "--valid-subset=valid"]
    common += ["--criterion=r3f", "--r3f-eps=0.5", f"--r3f-side={side}", "--lr=0"]
    common += ["--batch-size=24", "--max-update=1", "--no-save"]
    exact, rough = (
        {tag: logged(done, tag)[-1] for tag in ("train", "valid")}
        for done in (
            fairseq_train(*common, f"--save-dir={tmp_path}", *flags)
            for flags in ([], [FORCED])
        )
    )
    for tag, name in (
        ("train", "train_r3f_divergence"),
        ("train", "train_loss"),
        ("valid", "valid_loss"),
    ):
        off, on = float(exact[tag][name]), float(rough[tag][name])
        assert on != off
        assert on == pytest.approx(off, rel=0.05), name


def test_off_changes_no_bit(run_of: Any, tmp_path: Path) -> None:
    for name, flags in (("a", []), ("b", ["--steady-autocast=none"])):
        run_of(name, "smart", "--max-update=3", "--disable-validation", *flags)
    assert_equal_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("method", ["smart", "freelb"])
def test_a_resumed_run_ends_at_the_very_same_weights(
    run_of: Any, tmp_path: Path, method: str
) -> None:
    common = [FORCED, "--disable-validation", "--save-interval-updates=3"]
    _, whole = run_of("whole", method, *common, "--max-update=6")
    run_of("parts", method, *common, "--max-update=3")
    _, parts = run_of("parts", method, *common, "--max-update=6")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    a, b = (s["last_optimizer_state"]["state"] for s in (whole, parts))
    for number, state in a.items():
        assert torch.equal(state["exp_avg"], b[number]["exp_avg"])
        assert state["exp_avg"].dtype == torch.float32


def test_two_workers_equal_one_process(
    run_of: Any,
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
) -> None:
    """Up to bf16's rounding of the sums over each worker's sentences."""
    common = [FORCED, *NO_DROPOUT, "--max-update=4", "--disable-validation"]
    common += ["--adam-eps=1e-3"]
    run_of("one", "sift", *common, "--update-freq=2")
    flags = [
        *cola(models, cola_data, "sift"),
        *common,
        f"--save-dir={tmp_path / 'two'}",
    ]
    train_on_workers(zygote, *flags)
    assert_equal_weights(tmp_path / "one", tmp_path / "two", tolerance=1e-5)
