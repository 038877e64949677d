"""The symmetric KL's Triton kernel: interpreted, or on a GPU where there is one."""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq_steady.regularizers import DIVERGENCES, chunked, kernels
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHUNKED = sys.modules[chunked.__module__]
KERNEL = "fairseq_steady.regularizers.triton_kl"


@pytest.fixture
def kernel() -> Any:
    """On Linux it is there, or the test fails."""
    if sys.platform != "linux":
        pytest.skip("triton is made for Linux alone")
    from fairseq_steady.regularizers import triton_kl

    return triton_kl


@pytest.fixture(autouse=True)
def _fresh() -> None:
    kernels._checked.cache_clear()
    kernels._say.cache_clear()


def exact(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition in float64, and its gradients by hand."""
    log_p, log_q = (x.double().log_softmax(-1) for x in (a, b))
    p, q, t = log_p.exp(), log_q.exp(), log_p - log_q
    p_t, q_t = ((share * t).sum(-1, keepdim=True) for share in (p, q))
    return p_t - q_t, p * (t - p_t) + p - q, q * (q_t - t) + q - p


def logits(
    step: float, size: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Five rows of each side; the first is nearly certain, the second shifted."""
    generator = torch.Generator().manual_seed(2)
    b, z = torch.randn(2, 5, size, generator=generator, dtype=torch.float64)
    b, z = 2 * b, step * z
    b[0, -1] += 9
    z[1] += 9 * step
    return tuple(x.to(DEVICE, dtype) for x in (b + z, b))  # type: ignore[return-value]


def assert_near(ours: Tensor, theirs: Tensor, error: float) -> None:
    """Relative to the largest entry of each row."""
    worst = (ours.double() - theirs).abs().amax(-1) / theirs.abs().amax(-1)
    assert float(worst.max()) < error


@pytest.mark.parametrize("size", [3, 5003])
@pytest.mark.parametrize(
    ("dtype", "step"),
    [
        *((torch.float32, step) for step in (1e-6, 1e-5, 1e-3, 0.3, 5.0, 40.0)),
        # Half precision rounds smaller steps away.
        *((half, step) for half in kernels._DTYPES[1:] for step in (0.3, 5.0, 40.0)),
    ],
)
def test_the_kernel_equals_the_definition(
    kernel: Any, dtype: torch.dtype, step: float, size: int
) -> None:
    sides, rows = logits(step, size, dtype), torch.tensor([4, 0, 1], device=DEVICE)
    value, *expected = exact(*(side[rows] for side in sides))
    outer = torch.tensor([3e2, -2e3, 1e3], device=DEVICE)
    values, kept = kernel.values(sides, rows)
    assert_near(values[:, None], value, 3e-5)
    for wanted in ([True, True], [True, False], [False, True]):
        into = [
            torch.full_like(side, 7) if want else None
            for side, want in zip(sides, wanted, strict=True)
        ]
        before = [side.clone() for side in sides]
        kernel.gradients(sides, rows, values, kept, outer, into)
        assert all(map(torch.equal, sides, before))
        for gradient, theirs in zip(into, expected, strict=True):
            if gradient is not None:
                error = 3e-5 + torch.finfo(dtype).eps
                assert_near(gradient[rows], theirs * outer[:, None], error)
                assert (gradient[[2, 3]] == 7).all()


@pytest.mark.parametrize("consume", [False, True])
def test_chunked_uses_it_and_leaves_padding_0(
    kernel: Any, monkeypatch: pytest.MonkeyPatch, consume: bool
) -> None:
    monkeypatch.setattr(CHUNKED, "_form", lambda *_: kernel)
    real = torch.tensor([[True, False, True, True, False]], device=DEVICE)
    leaves = [side[None].requires_grad_() for side in logits(0.5, 9)]
    ours = chunked(DIVERGENCES["sym_kl"], *(2 * x for x in leaves), real, consume)
    ours.sum().backward()
    value, *expected = exact(*(2 * x.detach() for x in leaves))
    torch.testing.assert_close(ours.double(), value[real].sum()[None])
    for leaf, theirs in zip(leaves, expected, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(
            leaf.grad.double(), 2 * theirs * real[..., None], rtol=1e-5, atol=1e-6
        )
        assert (leaf.grad[~real] == 0).all()


def test_nothing_nan_and_no_difference(kernel: Any) -> None:
    sides = logits(0.5, 9)
    values, kept = kernel.values(sides, torch.tensor([], dtype=torch.long))
    kernel.gradients(sides, values.long(), values, kept, values, [None, sides[1]])
    assert values.shape == (0,)
    sides[0][2, 4] = torch.nan
    values, _ = kernel.values(sides, torch.tensor([1, 2], device=DEVICE))
    assert values.isnan().tolist() == [False, True]
    shifted = sides[1] + 1.3
    values, _ = kernel.values((shifted, sides[1]), torch.arange(5, device=DEVICE))
    assert (values >= 0).all()


def test_a_shift_of_all_logits_costs_nothing(kernel: Any) -> None:
    """The kernel's own centre is rounded; all differences are exact here."""
    b = (8 * logits(0, 50)[1]).round() / 8
    generator = torch.Generator().manual_seed(1)
    z = torch.randint(-16, 17, (5, 50), generator=generator).to(DEVICE) * 2.0**-20
    assert torch.equal(b + 4 + z - b - 4, z)
    values, _ = kernel.values((b + 4 + z, b), torch.arange(5, device=DEVICE))
    q = b.double().softmax(-1)
    variance = (q * z**2).sum(-1) - (q * z).sum(-1) ** 2
    torch.testing.assert_close(values.double(), variance, rtol=1e-5, atol=0)


# --- the self-check -------------------------------------------------------------------


class Textbook:
    """Sum of p log(p / q), and its gradients, without care."""

    def values(self, sides: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        log_p, log_q = (side[rows].float().log_softmax(-1) for side in sides)
        values = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)
        return values, values

    def gradients(
        self,
        sides: Sequence[Tensor],
        rows: Tensor,
        values: Tensor,
        kept: Tensor,
        outer: Tensor,
        into: Sequence[Any],
    ) -> None:
        _, *found = exact(*(side[rows] for side in sides))
        for gradient, theirs in zip(into, found, strict=True):
            gradient[rows] = (theirs * outer[:, None]).to(gradient.dtype)


class Wrong(Textbook):
    """One answer of the kernel's is off."""

    def __init__(self, kernel: Any, name: str) -> None:
        self.kernel, self.name = kernel, name

    def values(self, sides: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        values, kept = self.kernel.values(sides, rows)
        if self.name == "nan":
            values[-1] = torch.nan
        return values * (1.001 if self.name == "value" else 1), kept

    def gradients(self, *args: Any) -> None:
        sides, rows, _, _, outer, into = args
        self.kernel.gradients(
            sides, rows, *self.kernel.values(sides, rows), outer, into
        )
        if self.name in ("perturbed", "clean"):
            into[["perturbed", "clean"].index(self.name)] *= 1.02


def test_the_kernel_passes_its_self_check_anywhere(kernel: Any) -> None:
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16):
        assert kernels._checked(DEVICE) == (kernel, "")
    assert torch.equal(torch.get_rng_state(), state)
    assert kernels.worst_error(kernel, DEVICE) < 2e-5


def test_the_textbook_form_does_not(kernel: Any) -> None:
    assert kernels.worst_error(Textbook(), DEVICE) > 1e-3


@pytest.mark.parametrize("name", ["value", "perturbed", "clean", "nan"])
def test_a_wrong_kernel_is_found_out(
    kernel: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wrong = Wrong(kernel, name)
    monkeypatch.setattr(KERNEL, wrong)
    form, why = kernels._checked(DEVICE)
    found = {"value": "1.0e-03", "nan": "nan"}.get(name, "2.0e-02")
    assert form is None
    assert why == f"it differs from the reference by {found}"


def test_what_stops_the_kernel_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, KERNEL, raising=False)
    monkeypatch.delattr(KERNEL, raising=False)
    assert kernels.unavailable(torch.device("cpu")) == "it is for CUDA"
    why = "ModuleNotFoundError: import of triton halted; None in sys.modules"
    assert kernels.unavailable(torch.device("cuda")) == why


def test_the_kernel_is_for_cuda(kernel: Any) -> None:
    why = kernels.unavailable(torch.device("cuda"))
    assert why == (
        ""
        if DEVICE.type == "cuda"
        else "AssertionError: Torch not compiled with CUDA enabled"
    )


def test_the_reason_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "_checked", lambda _: (None, "it is ill"))
    with caplog.at_level(logging.WARNING):
        found = [kernels.fused(logits(1, 3)) for _ in range(2)]
    assert found == [None, None]
    assert caplog.messages == [
        "the symmetric KL is computed without its Triton kernel: it is ill"
    ]


def test_which_logits_are_for_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which is not the CPU."""
    made = object()
    monkeypatch.setattr(kernels, "_checked", lambda _: (made, ""))

    def form(name: str, dtype: torch.dtype, device: str = "meta") -> Any:
        sides = 2 * [torch.empty(3, 4, dtype=dtype, device=device)]
        return CHUNKED._form(DIVERGENCES[name], sides)

    assert all(form("sym_kl", dtype) is made for dtype in kernels._DTYPES)
    assert form("sym_kl", torch.float64).measure == CHUNKED._Differentiated(
        DIVERGENCES["sym_kl"]
    )
    assert form("kl", torch.float32).measure.measure is DIVERGENCES["kl"]
    assert isinstance(form("sym_kl", torch.float32, "cpu"), CHUNKED._InChunks)
    across = 2 * [torch.empty(4, 3, device="meta").T]
    assert kernels.fused(across) is None


COMPILING = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fairseq_steady.regularizers import triton_kl
floats = {"value_out", "value_in", "kept", "outer"}
logits = {"one", "other", "one_out", "other_out"}
for kernel in (triton_kl._values, triton_kl._gradients):
    given = {"block": 4096, "want_one": True, "want_other": True}
    given = {name: x for name, x in given.items() if name in kernel.arg_names}
    kinds = {
        name: "constexpr" if name in given
        else "*bf16" if name in logits
        else "*fp32" if name in floats
        else "*i64" if name == "rows"
        else "i32"
        for name in kernel.arg_names
    }
    target = GPUTarget("cuda", 90, 32)
    made = triton.compile(ASTSource(kernel, kinds, given), target=target)
    print(made.metadata.name, len(made.asm["cubin"]) > 1000)
"""


def test_it_compiles_for_a_gpu(kernel: Any, tmp_path: Path) -> None:
    """Machine code of an H100, types checked, without one."""
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", COMPILING],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "_values True\n_gradients True\n", done.stderr[-2000:]
