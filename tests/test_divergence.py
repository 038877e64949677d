"""Divergences against slow float64 references that share no code with them."""

import math

import pytest
import torch
from fairseq_steady.regularizers import kl, squared_difference, symmetric_kl
from fairseq_steady.regularizers.divergence import SymmetricKL
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def reference_log_softmax(row: list[float]) -> list[float]:
    top = max(row)
    log_sum = top + math.log(math.fsum(math.exp(x - top) for x in row))
    return [x - log_sum for x in row]


def reference_kl(a: Tensor, b: Tensor) -> list[float]:
    """KL(softmax a || softmax b), row by row."""
    values = []
    for row_a, row_b in zip(a.tolist(), b.tolist(), strict=True):
        log_p, log_q = reference_log_softmax(row_a), reference_log_softmax(row_b)
        values.append(
            math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
        )
    return values


def logits(scale: float, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    b = torch.randn(7, classes, generator=generator, dtype=torch.float64) * 2
    step = torch.randn(7, classes, generator=generator, dtype=torch.float64)
    return b + scale * step, b


@pytest.mark.parametrize("scale", [1e-2, 0.3, 1.0, 5.0, 40.0, 300.0])
@pytest.mark.parametrize("classes", [2, 5, 100])
def test_values_equal_the_definitions(scale: float, classes: int) -> None:
    a, b = logits(scale, classes)
    forward, backward = reference_kl(a, b), reference_kl(b, a)
    both = torch.tensor(forward, dtype=torch.float64)
    both = both + torch.tensor(backward, dtype=torch.float64)
    torch.testing.assert_close(symmetric_kl(a, b), both, rtol=1e-9, atol=1e-13)
    expected = torch.tensor(backward, dtype=torch.float64)
    torch.testing.assert_close(kl(a, b), expected, rtol=1e-9, atol=1e-13)
    expected = torch.tensor(forward, dtype=torch.float64)
    torch.testing.assert_close(kl(b, a), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-6, 1e-5, 1e-3, 0.1, 0.999, 1.001, 3.0])
def test_fp32_keeps_its_precision_for_small_steps(scale: float) -> None:
    a, b = (x.float() for x in logits(scale))
    # The reference sees the very logits that fp32 holds.
    exact = symmetric_kl(a.double(), b.double())
    torch.testing.assert_close(
        symmetric_kl(a, b).double(), exact, rtol=3e-5, atol=1e-20
    )
    exact = kl(a.double(), b.double())
    torch.testing.assert_close(kl(a, b).double(), exact, rtol=3e-4, atol=1e-20)


def test_tiny_steps_follow_the_fisher_metric() -> None:
    """To second order the symmetric KL is the variance of the step under q."""
    a, b = logits(1e-7)
    q, d = b.softmax(-1), a - b
    variance = (q * d**2).sum(-1) - (q * d).sum(-1) ** 2
    torch.testing.assert_close(symmetric_kl(a, b), variance, rtol=1e-5, atol=0)
    torch.testing.assert_close(kl(a, b), variance / 2, rtol=1e-5, atol=0)


def closed_gradient(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of the symmetric KL, both sides live."""
    p, q, d = a.softmax(-1), b.softmax(-1), a - b
    grad_a = p - q + p * (d - (p * d).sum(-1, keepdim=True))
    grad_b = q - p - q * (d - (q * d).sum(-1, keepdim=True))
    return grad_a, grad_b


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 0.9, 1.1, 5.0, 60.0])
def test_symmetric_kl_gradient_equals_the_closed_form(scale: float) -> None:
    a, b = (x.requires_grad_() for x in logits(scale))
    got = torch.autograd.grad(symmetric_kl(a, b).sum(), (a, b))
    for one, other in zip(got, closed_gradient(a, b), strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 5000])
@pytest.mark.parametrize("scale", [0, 1e-6, 1e-5, 1e-3, 0.3, 5.0, 40.0])
def test_the_closed_form_is_as_precise(scale: float, classes: int) -> None:
    """In fp32, against the definition in float64; one class is nearly certain.

    Differences of tens cost a gradient as many times the rounding of 1.
    """
    a, b = logits(scale, classes)
    b[0, 0] += 5
    a[0, 0] += 5
    a[1] += 9 * scale
    a, b = a.float(), b.float()
    outer = torch.linspace(-2, 3, 7)
    values, kept = SymmetricKL.values(a, b)
    both, bound = [True, True], 3e-5 * max(1, scale / 10)
    found = SymmetricKL.gradients(a, b, values, kept, outer, both)
    p_log, q_log = (x.double().log_softmax(-1) for x in (a, b))
    exact = ((p_log.exp() - q_log.exp()) * (p_log - q_log)).sum(-1)
    torch.testing.assert_close(values.double(), exact, rtol=3e-5, atol=1e-18)
    for ours, theirs in zip(
        found, closed_gradient(a.double(), b.double()), strict=True
    ):
        assert ours is not None
        error = (ours - outer[:, None] * theirs).abs().amax(-1)
        assert (error <= bound * (outer[:, None] * theirs).abs().amax(-1) + 1e-18).all()
    for side in (0, 1):
        one = [side == 0, side == 1]
        alone = SymmetricKL.gradients(a, b, values, kept, outer, one)
        assert alone[1 - side] is None
        assert torch.equal(alone[side], found[side])


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=6),
    st.floats(-80, 80, width=32),
)
def test_the_closed_form_is_never_negative_never_nan(
    row: list[float], shift: float
) -> None:
    a, b = torch.tensor([row]), torch.tensor([row[::-1]]) + shift
    values, kept = SymmetricKL.values(a, b)
    both = [True, True]
    found = SymmetricKL.gradients(a, b, values, kept, torch.ones(1), both)
    assert float(values) >= 0
    assert all(x is not None and x.isfinite().all() for x in found)


def test_a_shift_of_all_logits_costs_the_closed_form_nothing() -> None:
    """Its own centre is rounded; all differences are exact here."""
    generator = torch.Generator().manual_seed(1)
    b = (16 * torch.randn(50, 50, generator=generator)).round() / 8
    z = torch.randint(-16, 17, (50, 50), generator=generator) * 2.0**-20
    a, q = b + 4 + z, b.double().softmax(-1)
    assert torch.equal(a - b - 4, z)
    variance = (q * z**2).sum(-1) - (q * z).sum(-1) ** 2
    values, _ = SymmetricKL.values(a, b)
    torch.testing.assert_close(values.double(), variance, rtol=1e-5, atol=0)
    b = torch.randn(2000, 5, generator=generator)
    values, _ = SymmetricKL.values(b + 1.3, b)
    assert (values >= 0).all()


def test_the_closed_form_passes_nan_on() -> None:
    a, b = logits(0.1)
    a[2, 1] = torch.nan
    values, kept = SymmetricKL.values(a, b)
    assert values.isnan().tolist() == [row == 2 for row in range(7)]
    (of_a, _) = SymmetricKL.gradients(a, b, values, kept, values, [True, False])
    assert of_a is not None
    assert of_a.isnan().any(-1).tolist() == [row == 2 for row in range(7)]


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 0.9, 1.1, 5.0, 60.0, 200.0])
def test_kl_gradient_is_p_minus_q(scale: float) -> None:
    a, b = logits(scale)
    a.requires_grad_()
    (got,) = torch.autograd.grad(kl(a, b).sum(), a)
    expected = (a.softmax(-1) - b.softmax(-1)).detach()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-12)


def test_gradcheck() -> None:
    a, b = (x.requires_grad_() for x in logits(0.5, 3))
    for divergence in (symmetric_kl, squared_difference):
        assert torch.autograd.gradcheck(divergence, (a, b))
    assert torch.autograd.gradcheck(lambda x: kl(x, b.detach()), (a,))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=6),
    st.floats(-80, 80, width=32),
)
def test_never_negative_never_nan(row: list[float], shift: float) -> None:
    a = torch.tensor(row, requires_grad=True)
    b = torch.tensor(row[::-1]) + shift
    for divergence in (symmetric_kl, kl, squared_difference):
        value = divergence(a, b)
        (gradient,) = torch.autograd.grad(value, a)
        assert float(value) >= 0
        assert gradient.isfinite().all()


def test_half_precision_logits_are_compared_in_fp32() -> None:
    a, b = logits(0.5)
    for dtype in (torch.float16, torch.bfloat16):
        value = symmetric_kl(a.to(dtype), b.to(dtype))
        assert value.dtype == torch.float32
        exact = symmetric_kl(a.to(dtype).double(), b.to(dtype).double())
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-7)


def test_squared_difference_is_summed_over_outputs() -> None:
    a, b = (
        torch.tensor([[1.0, 2.0], [3.0, 3.0]]),
        torch.tensor([[0.0, 4.0], [3.0, 3.0]]),
    )
    assert squared_difference(a, b).tolist() == [5.0, 0.0]
