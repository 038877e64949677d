"""The symmetric KL of rows of logits and its gradients, as two Triton kernels.

One program per row, in fp32 whatever the logits are, a block of the vocabulary at a
time. Forward reads a row twice, the second time from the GPU's cache where it is still
there, and keeps seven numbers of it; backward reads it once and writes its gradients.
The formulas are those of ``SymmetricKL`` in divergence.py, also for rows far apart.
Importing this needs triton: kernels.py does it, and only where it is used.
"""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN202

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .divergence import FAR

#: Entries of a row that a program holds at a time.
_BLOCK = 4096
_WARPS = 16
_FAR = tl.constexpr(FAR)
#: Kept of a row: shift, S0 (infinite where rows are far apart), S1, and of q and p the
#: largest logit and the sum of exponentials.
_KEPT = tl.constexpr(7)


@triton.jit
def _expm1(x):
    """Its series near 0, where the exponential would cancel."""
    end = 1 + x / 6 * (1 + x / 7 * (1 + x / 8 * (1 + x / 9)))
    series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * end))))
    return tl.where(tl.abs(x) < 0.5, series, tl.exp(x) - 1)


@triton.jit
def _load(one, other, start, size, block: tl.constexpr):
    """A block of both sides; past the end of the row a probability of 0."""
    at = start + tl.arange(0, block)
    a = tl.load(one + at, at < size, -float("inf")).to(tl.float32)
    b = tl.load(other + at, at < size, -float("inf")).to(tl.float32)
    return a, b, at < size


@triton.jit
def _softmax(side, size, block: tl.constexpr):
    """Largest logit, and the sum of exponentials relative to it."""
    top, total = -float("inf"), 0.0
    for start in range(0, size, block):
        x, _, _ = _load(side, side, start, size, block)
        higher = tl.maximum(top, tl.max(x, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher), 0)
        top = higher
    return top, total


@triton.jit
def _centre(one, other, size, block: tl.constexpr):
    """Softmax of q, the mean difference under q, and the largest one above it."""
    pivot = tl.load(one).to(tl.float32) - tl.load(other).to(tl.float32)
    top, total, weighted, reach = -float("inf"), 0.0, 0.0, 0.0
    for start in range(0, size, block):
        a, b, inside = _load(one, other, start, size, block)
        d = tl.where(inside, a - b - pivot, 0.0)
        higher = tl.maximum(top, tl.max(b, 0))
        e, fade = tl.exp(b - higher), tl.exp(top - higher)
        total = total * fade + tl.sum(e, 0)
        weighted = weighted * fade + tl.sum(e * d, 0)
        reach = tl.maximum(reach, tl.max(d, 0))
        top = higher
    return top, total, pivot + weighted / total, reach - weighted / total


@triton.jit
def _near(one, other, size, shift, top, total, block: tl.constexpr):
    """The divergence, S0 and S1, from p = q (1 + expm1 t)."""
    s0, s1, s2 = 0.0, 0.0, 0.0
    for start in range(0, size, block):
        a, b, inside = _load(one, other, start, size, block)
        d = tl.where(inside, a - b - shift, 0.0)
        q = tl.exp(b - top) / total
        grown = q * _expm1(d)
        s0 += tl.sum(grown, 0)
        s1 += tl.sum(q * d, 0)
        s2 += tl.sum(grown * d, 0)
    return (s2 - s0 * s1) / (1 + s0), s0, s1


@triton.jit
def _far(one, other, size, shift, top, total, top_p, total_p, block: tl.constexpr):
    """The divergence and S1, where a logit has grown by FAR or more."""
    c = top_p - top - shift + tl.log(total_p / total)
    value, s1 = 0.0, 0.0
    for start in range(0, size, block):
        a, b, inside = _load(one, other, start, size, block)
        d = tl.where(inside, a - b - shift, 0.0)
        q, p = tl.exp(b - top) / total, tl.exp(a - top_p) / total_p
        value += tl.sum((p - q) * (d - c), 0)
        s1 += tl.sum(q * d, 0)
    return value, s1


@triton.jit
def _values(one, other, rows, value_out, kept, size, block: tl.constexpr):
    """Divergence of one row, and what its gradients need."""
    row = tl.load(rows + tl.program_id(0)).to(tl.int64)
    one += row * size
    other += row * size
    top, total, shift, reach = _centre(one, other, size, block)
    top_p, total_p = 0.0, 1.0
    if reach >= _FAR:
        top_p, total_p = _softmax(one, size, block)
        value, s1 = _far(one, other, size, shift, top, total, top_p, total_p, block)
        s0 = float("inf")
    else:
        value, s0, s1 = _near(one, other, size, shift, top, total, block)
    # Rounding may leave less than 0; maximum would lose nan.
    tl.store(value_out + tl.program_id(0), tl.where(value < 0, 0.0, value))
    kept += tl.program_id(0) * _KEPT
    tl.store(kept, shift)
    tl.store(kept + 1, s0)
    tl.store(kept + 2, s1)
    tl.store(kept + 3, top)
    tl.store(kept + 4, total)
    tl.store(kept + 5, top_p)
    tl.store(kept + 6, total_p)


@triton.jit
def _shares(a, b, d, kept):
    """Q, and p - q."""
    s0 = tl.load(kept + 1)
    q = tl.exp(b - tl.load(kept + 3)) / tl.load(kept + 4)
    if s0 == float("inf"):
        moved = tl.exp(a - tl.load(kept + 5)) / tl.load(kept + 6) - q
    else:
        moved = q * ((_expm1(d) - s0) / (1 + s0))
    return q, moved


@triton.jit
def _gradients(
    one,
    other,
    rows,
    value_in,
    kept,
    outer,
    one_out,
    other_out,
    size,
    want_one: tl.constexpr,
    want_other: tl.constexpr,
    block: tl.constexpr,
):
    """Gradients of one row, times the outer one; `one_out` may be `one`."""
    row = tl.load(rows + tl.program_id(0)).to(tl.int64) * size
    value = tl.load(value_in + tl.program_id(0))
    scale = tl.load(outer + tl.program_id(0))
    kept += tl.program_id(0) * _KEPT
    shift, s1 = tl.load(kept), tl.load(kept + 2)
    for start in range(0, size, block):
        a, b, inside = _load(one + row, other + row, start, size, block)
        d = tl.where(inside, a - b - shift, 0.0)
        q, moved = _shares(a, b, d, kept)
        at = row + start + tl.arange(0, block)
        if want_one:
            found = (q + moved) * (d - s1 - value) + moved
            tl.store(one_out + at, scale * found, inside)
        if want_other:
            tl.store(other_out + at, -scale * (q * (d - s1) + moved), inside)


def values(sides: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence of some rows, and what their gradients need.

    Args:
        sides: logits, perturbed and clean, shape (N, K), contiguous.
        rows: which of the N, shape (R,).

    Returns:
        Values in nats, shape (R,), and seven numbers a row, both fp32.

    """
    found = torch.empty(len(rows), device=rows.device)
    kept = torch.empty(len(rows), _KEPT.value, device=rows.device)
    if len(rows):
        shape = {"size": sides[0].size(1), "block": _BLOCK, "num_warps": _WARPS}
        with torch.cuda.device_of(rows):
            _values[(len(rows),)](*sides, rows, found, kept, **shape)
    return found, kept


def gradients(
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
        into: for each side the gradient of all N rows, shape (N, K), contiguous, or
            None; the first may be the logits themselves.

    """
    out = [side if g is None else g for side, g in zip(sides, into, strict=True)]
    shape = {"size": sides[0].size(1), "block": _BLOCK, "num_warps": _WARPS}
    wanted = {"want_one": into[0] is not None, "want_other": into[1] is not None}
    if len(rows):
        numbers = rows, values, kept, outer.float().contiguous()
        with torch.cuda.device_of(rows):
            _gradients[(len(rows),)](*sides, *numbers, *out, **wanted, **shape)
