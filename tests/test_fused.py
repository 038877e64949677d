"""What is said of fused parts is what happens, and why not is the reason."""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Zygote, run_command
from fairseq import ngram_repeat_block
from fairseq.modules import layer_norm
from fairseq.optim import fused_adam
from fairseq_steady import fused
from fairseq_steady.commands import check
from fairseq_steady.fused import Part, Setting
from fairseq_steady.optim import BertAdam, PatsAdamax, Sage
from method_table import OPTIMIZERS
from tiny import build, make_dataset
from torch.utils._python_dispatch import TorchDispatchMode

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Seen(TorchDispatchMode):
    """The operations that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, *given: Any) -> Any:
        self.names.append(func.name().partition("::")[2].partition(".")[0])
        args, kwargs = given
        return func(*args, **kwargs)


def configuration(**common: Any) -> Any:
    """As much of fairseq's as fused parts depend on."""
    half = ["fp16", "bf16", "memory_efficient_fp16", "memory_efficient_bf16"]
    flags = ["cpu", "amp", *half]
    return SimpleNamespace(
        common=SimpleNamespace(**{**dict.fromkeys(flags, False), **common}),
        optimizer=SimpleNamespace(_name="bert_adam"),
        criterion=SimpleNamespace(_name="r3f"),
        task=SimpleNamespace(_name="cola"),
    )


# --- attention ------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", "deberta", "mpnet"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("training", [False, True])
def test_the_kernel_that_is_named_is_the_one_that_runs(
    models: dict[str, Path], family: str, dropout: float, training: bool
) -> None:
    model = build(models[family], dropout).train(training)
    setting = fused.of_run(configuration(cpu=True), model)
    tokens = make_dataset(models[family]).collater(
        [make_dataset(models[family])[i] for i in range(3)]
    )["net_input"]["src_tokens"]
    with Seen() as seen, torch.set_grad_enabled(training):
        model.encoder.sentence_encoder(tokens)
    flash = "_scaled_dot_product_flash_attention_for_cpu" in seen.names
    said = fused.kernel(setting, True, training)
    assert said == ("flash" if flash else "math")
    assert setting.dropout == dropout
    assert (setting.heads, setting.width) == (2, 8)
    assert setting.biased == (family != "roberta")


def hopper(q: Any, k: Any, v: Any, mask: Any, dropout: float) -> int:
    """What torch answers on an H100: no mask and half precision alone for flash."""
    return 1 if mask is None and q.dtype != torch.float32 else 2


@pytest.mark.parametrize(
    ("dtype", "biased", "said"),
    [
        (
            torch.float32,
            False,
            "mem-efficient in training (flash is kept out by the padding mask and fp32)"
            ", mem-efficient in evaluation; fp32 on the CPU",
        ),
        (
            torch.bfloat16,
            False,
            "mem-efficient in training (flash is kept out by the padding mask), flash "
            "where nothing is padded, mem-efficient in evaluation; bf16 on the CPU",
        ),
        (
            torch.float16,
            True,
            "mem-efficient in training (flash is kept out by the position bias), "
            "mem-efficient in evaluation; fp16 on the CPU",
        ),
    ],
)
def test_what_keeps_flash_out_is_found_by_asking_torch(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, biased: bool, said: str
) -> None:
    monkeypatch.setattr(torch, "_fused_sdp_choice", hopper)
    part = fused.attention(Setting(CPU, dtype, biased=biased))
    assert part == Part("attention", True, said)


def test_where_nothing_helps_there_is_no_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_: 0)
    said = "math in training (no flash here), math in evaluation; fp32 on the CPU"
    assert fused.attention(Setting(CPU)) == Part("attention", False, said)


@pytest.mark.parametrize(
    ("common", "autocast", "dtype"),
    [
        ({}, "none", torch.float32),
        ({"fp16": True}, "none", torch.float16),
        ({"memory_efficient_bf16": True}, "none", torch.bfloat16),
        ({"amp": True}, "none", torch.float32),  # of GPUs alone
        ({}, "bf16-forced", torch.bfloat16),
        ({}, "fp16", torch.float16),
    ],
)
def test_attention_is_asked_in_the_runs_precision(
    common: dict[str, bool], autocast: str, dtype: torch.dtype
) -> None:
    cfg = configuration(cpu=True, **common)
    cfg.task.steady_autocast = autocast
    assert fused.of_run(cfg, torch.nn.Linear(2, 2)).dtype == dtype


# --- optimizers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("bert_adam", BertAdam),
        ("sage", Sage),
        ("sage with adamax", functools.partial(Sage, base="adamax")),
        ("pats_adamax", PatsAdamax),
    ],
)
def test_an_optimizer_steps_as_is_said(name: str, made: Callable[..., Any]) -> None:
    weights = [torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2)]
    for one in weights:
        one.grad = torch.ones_like(one)
    optimizer = made(weights, lr=0.1)
    optimizer.step()
    with Seen() as seen:
        optimizer.step()
    part = fused.adamw(Setting(CPU, optimizer=name))
    assert part.used == ("_fused_adamw_" in seen.names)
    if not part.used:
        assert part.why == f"{name} has torch's foreach"
        assert "_foreach_addcdiv_" in seen.names


def test_every_optimizer_here_is_known() -> None:
    ours = {words[0].partition("=")[2] for words in OPTIMIZERS.values()}
    assert ours == {n for n in (*fused.FUSED, *fused.FOREACH) if " " not in n}
    part = fused.adamw(Setting(CPU, optimizer="sgd"))
    assert str(part) == "not used fused AdamW: sgd has no fused step known here"


def test_the_base_of_sage_decides() -> None:
    cfg = configuration(cpu=True)
    for base, name in (("adam", "sage"), ("adamax", "sage with adamax")):
        cfg.optimizer = SimpleNamespace(_name="sage", sage_base=base)
        assert fused.of_run(cfg, torch.nn.Linear(2, 2)).optimizer == name


# --- what has to be installed ---------------------------------------------------------


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Any], None]]:
    """Puts a module in the place of one of this package's."""

    def put(name: str, answer: Any) -> None:
        module = ModuleType(name)
        questions = {"precision": "unsupported", "models.attention": "packs"}
        setattr(module, questions.get(name, "unavailable"), answer)
        monkeypatch.setitem(sys.modules, f"fairseq_steady.{name}", module)

    return put


def test_apex_and_flash_attn_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Setting(GPU, optimizer="adam")
    slow = "; adam steps parameter by parameter, bert_adam does not"
    assert fused.apex_adam(gpu) == Part(
        "apex Adam", False, f"apex is not installed with its CUDA extensions{slow}"
    )
    assert (
        fused.apex_adam(Setting(CPU, optimizer="adam")).why == f"it is for a GPU{slow}"
    )
    assert fused.apex_norm(gpu).why == "apex is not installed; torch's own is used"
    assert fused.varlen(gpu).why == "flash-attn is not installed"
    monkeypatch.setattr(fused_adam, "get_fused_adam_class", lambda: object)
    monkeypatch.setattr(layer_norm, "has_fused_layernorm", True)
    assert fused.apex_adam(gpu).used
    assert fused.apex_norm(gpu).used
    assert not fused.apex_norm(Setting(CPU)).used
    other = fused.apex_adam(Setting(GPU, optimizer="sage"))
    assert (other.used, other.why) == (False, "it is for --optimizer adam")


def test_the_ngram_blocker_is_in_use_where_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fused.ngram_blocker(Setting(CPU)).why == "it is for a GPU"
    assert fused.ngram_blocker(Setting(GPU)).why == (
        "not built; with nvcc, FAIRSEQ_SOURCE=DIR bash scripts/setup.sh builds it"
    )
    monkeypatch.setattr(ngram_repeat_block, "EXTENSION_BUILT", True)
    for usable in (False, True):
        monkeypatch.setattr(
            ngram_repeat_block, "is_cuda_extension_usable", lambda usable=usable: usable
        )
        why = "in searching" if usable else "it was built for another torch or GPU"
        part = fused.ngram_blocker(Setting(GPU))
        assert (part.used, part.why) == (usable, why)


@pytest.mark.parametrize(
    ("module", "part", "asked"),
    [("regularizers.kernels", fused.divergence, CPU), ("precision", fused.bf16, "cpu")],
)
def test_other_rooms_say_why_theirs_is_not_used(
    answers: Callable[[str, Any], None],
    module: str,
    part: Callable[[Setting], Part],
    asked: Any,
) -> None:
    given = []
    answers(module, lambda device: given.append(device) or "no")
    found = part(Setting(CPU))
    assert (found.used, found.why, given) == (False, "no", [asked])
    answers(module, lambda _: "")
    assert part(Setting(CPU)).used


def test_a_run_is_told_of_what_it_does_not_use(
    answers: Callable[[str, Any], None],
) -> None:
    for name in ("regularizers.kernels", "precision"):
        answers(name, lambda _: "")
    cfg = configuration(cpu=True)
    plain = fused.of_run(cfg, torch.nn.Linear(2, 2))
    assert [fused.bf16(plain).why, fused.divergence(plain).why] == [
        "this run takes none; --steady-autocast bf16 does",
        "it is for divergences over a vocabulary",
    ]
    assert fused.ngram_blocker(plain).why == "it is for summaries"
    cfg.task = SimpleNamespace(_name="summarization", steady_autocast="bf16")
    summaries = fused.of_run(cfg, torch.nn.Linear(2, 2))
    assert fused.bf16(summaries).used
    assert fused.divergence(summaries).used
    cfg.criterion._name = "plain"
    assert not fused.divergence(fused.of_run(cfg, torch.nn.Linear(2, 2))).used


def test_flash_attn_is_in_use_where_the_model_packs_for_it(
    monkeypatch: pytest.MonkeyPatch, answers: Callable[[str, Any], None]
) -> None:
    monkeypatch.setattr(fused, "find_spec", lambda _: object())
    monkeypatch.setattr(torch, "empty", lambda *_, **form: form["dtype"])
    answers("models.attention", lambda dtype: dtype == torch.bfloat16)
    whys = {
        torch.float32: "it takes fp16 and bf16, not fp32",
        torch.float16: "it does not load, or this GPU is older than Ampere",
        torch.bfloat16: "in batches with padding",
    }
    for dtype, why in whys.items():
        part = fused.varlen(Setting(GPU, dtype))
        assert (part.used, part.why) == (dtype == torch.bfloat16, why)
    biased = fused.varlen(Setting(GPU, torch.bfloat16, biased=True))
    assert biased.why == "it takes no position bias"


# --- saying it ------------------------------------------------------------------------


def test_a_part_that_cannot_be_asked_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> int:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(torch, "_fused_sdp_choice", broken)
    first, *rest = fused.parts(Setting(CPU))
    assert str(first) == "not used attention: could not be asked: no such thing"
    assert len(rest) == len(fused.PARTS) - 1


def test_asking_is_quick(models: dict[str, Path]) -> None:
    model, cfg = build(models["roberta"]), configuration(cpu=True)
    fused.parts(fused.of_run(cfg, model))
    started = time.perf_counter()
    fused.parts(fused.of_run(cfg, model))
    assert time.perf_counter() - started < 0.05


def test_check_leaves_out_the_kernel_that_a_run_does() -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    check.fused()
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_check_and_the_log_of_a_run_say_the_same(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    (done,) = zygote.run(
        [
            *("fairseq-train", str(cola_data), "--task=cola", "--cpu"),
            *(f"--steady-model={models['roberta']}", f"--save-dir={tmp_path}"),
            *("--criterion=plain", "--batch-size=32", "--max-update=1"),
            *("--optimizer=adam", "--attention-dropout=0.1", "--lr=1e-4"),
        ]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kept = [
        line.split(" | ", 3)[3]
        for line in (tmp_path / "train.log").read_text().splitlines()
        if " | fairseq_steady | " in line
    ]
    checked = run_command("check").stdout.splitlines()[-len(fused.PARTS) - 1 :]
    (run,) = [kept[i:] for i, line in enumerate(kept) if "attention: " in line]
    said = run[: len(fused.PARTS)]
    attention = "not used attention: math in training (flash is kept out by dropout), "
    assert said[0] == f"{attention}flash in evaluation; fp32 on the CPU" == checked[0]
    assert checked[1] == f"{attention}flash in evaluation; bf16 on the CPU"
    assert said[2] == "not used fused AdamW: adam has no fused step known here"
    assert checked[3] == "in use   fused AdamW: torch's, in bert_adam and sage"
    named = [[line[9:].partition(":")[0] for line in x] for x in (said, checked[1:])]
    assert named[0] == named[1]
    assert len({*named[0]}) == len(fused.PARTS)
    assert not any("attention: " in line for line in done.stderr.splitlines())
