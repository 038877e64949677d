"""The Triton kernel of the symmetric KL: whether it is in use, and why not.

It is used on CUDA, after it has agreed with the reference of divergence.py there.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .divergence import symmetric_kl

logger = logging.getLogger(__name__)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: Differences of logits in the self-check: what a radius of 1e-5 makes, what dropout
#: makes, and more than `divergence.FAR`.
_STEPS = (1e-5, 0.3, 40.0)
#: Largest error of a value or of a row's gradient, relative to the largest of the row.
_TOLERANCE = 1e-4


class Form(Protocol):
    """A divergence of many rows at once, and its gradients."""

    def values(self, sides: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        """One value for each of some rows, and numbers that their gradients need.

        Args:
            sides: logits, perturbed and clean, shape (N, K).
            rows: which of the N, shape (R,).

        Returns:
            Values in nats, shape (R,), and numbers, shape (R, ...).

        """

    def gradients(
        self,
        sides: Sequence[Tensor],
        rows: Tensor,
        values: Tensor,
        kept: Tensor,
        outer: Tensor,
        into: Sequence[Tensor | None],
    ) -> None:
        """Gradients of some rows, into their places.

        Args:
            sides: as for ``values``.
            rows: as for ``values``.
            values: what it found.
            kept: what it kept.
            outer: gradient of the values, shape (R,).
            into: for each side the gradient of all N rows, shape (N, K), or None; the
                first may be the logits themselves.

        """


def unavailable(device: torch.device) -> str:
    """Why the kernel is not in use for logits of a device; nothing if it is.

    The first call for a CUDA device compiles the kernel and compares it.
    """
    if device.type != "cuda":
        return "it is for CUDA"
    return _checked(device)[1]


def fused(sides: Sequence[Tensor]) -> Form | None:
    """The kernel, if these logits are for it; why it is out of use is logged once."""
    form, why = _checked(sides[0].device)
    if why:
        _say(why)
    fits = all(s.dtype in _DTYPES and s.is_contiguous() for s in sides)
    return form if fits else None


@functools.cache
def _say(why: str) -> None:
    logger.warning("the symmetric KL is computed without its Triton kernel: %s", why)


@functools.cache
def _checked(device: torch.device) -> tuple[Form | None, str]:
    try:
        from . import triton_kl

        error = worst_error(triton_kl, device)
    except Exception as problem:  # whatever a compiler or driver may raise
        first = (str(problem).splitlines() or [""])[0]
        return None, f"{type(problem).__name__}: {first}"
    if not error <= _TOLERANCE:  # nan is not
        return None, f"it differs from the reference by {error:.1e}"
    return triton_kl, ""


def worst_error(form: Form, device: torch.device) -> float:
    """Largest relative error of values and gradients, beyond rounding to the dtype."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        errors = [_errors(form, device, d, step) for d in _DTYPES for step in _STEPS]
    return float(torch.cat(errors).detach().max())  # nan, if there is one


def _errors(
    form: Form, device: torch.device, dtype: torch.dtype, step: float
) -> Tensor:
    """Of three rows of five: values and the gradients of both sides, shape (3, 3)."""
    generator = torch.Generator().manual_seed(0)
    b, z = torch.randn(2, 5, 5003, generator=generator)
    sides = [x.to(device, dtype) for x in (3 * b + step * z, 3 * b)]
    rows, outer = (
        torch.tensor(x, device=device) for x in ([3, 0, 4], [1e3, 2e3, -5e2])
    )
    exact = [side[rows].double().requires_grad_() for side in sides]
    expected = symmetric_kl(*exact)
    gradients = torch.autograd.grad(expected, exact, outer.double())
    values, kept = form.values(sides, rows)
    into = [sides[0], torch.empty_like(sides[1])]
    form.gradients(sides, rows, values, kept, outer, into)
    found = [values[:, None], *(x[rows] for x in into)]
    errors = torch.stack([
        (ours.double() - theirs).abs().amax(1) / theirs.abs().amax(1)
        for ours, theirs in zip(found, (expected[:, None], *gradients), strict=True)
    ])  # fmt: skip
    errors[1:] -= torch.finfo(dtype).eps
    return errors
