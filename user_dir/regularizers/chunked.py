"""A divergence over many rows that never holds more than a few of them at a time."""

from typing import Any

import torch
from torch import Tensor

from .divergence import Divergence

#: Entries of a chunk, rows x K; temporaries are about ten times as large.
_ENTRIES = 2**20


class _Chunked(torch.autograd.Function):
    """Values without a graph; backward computes each chunk anew to differentiate it."""

    @staticmethod
    def forward(
        ctx: Any,
        perturbed: Tensor,
        clean: Tensor,
        rows: Tensor,
        measure: Divergence,
        consume: bool,
    ) -> Tensor:
        ctx.save_for_backward(perturbed, clean, rows)
        ctx.measure, ctx.consume = measure, consume
        found = [measure(perturbed[c], clean[c]) for c in _chunks(rows, clean)]
        return torch.cat(found) if found else clean.new_zeros(0)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        perturbed, clean, rows = ctx.saved_tensors
        sides = [side.detach() for side in (perturbed, clean)]
        wanted = list(ctx.needs_input_grad[:2])
        gradients = [
            torch.zeros_like(s) if w else None
            for s, w in zip(sides, wanted, strict=True)
        ]
        if ctx.consume and wanted[0]:
            # Each row is read once, just before its gradient takes its place.
            gradients[0] = sides[0]
        into = outer[0]
        for chunk in _chunks(rows, clean):
            now, into = into[: len(chunk)], into[len(chunk) :]
            _fill(gradients, sides, chunk, ctx.measure, now)
        if ctx.consume and wanted[0]:
            others = torch.ones(len(clean), dtype=torch.bool, device=rows.device)
            sides[0][others.index_fill(0, rows, False)] = 0
        return gradients[0], gradients[1], None, None, None


def _chunks(rows: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    size = max(1, _ENTRIES // like.size(-1))
    return torch.split(rows, size) if len(rows) else ()


def _fill(
    gradients: list[Tensor | None],
    sides: list[Tensor],
    chunk: Tensor,
    measure: Divergence,
    outer: Tensor,
) -> None:
    """Gradients of one chunk of rows, into their places."""
    wanted = [gradient is not None for gradient in gradients]
    leaves = [
        side[chunk].requires_grad_(want)
        for side, want in zip(sides, wanted, strict=True)
    ]
    with torch.enable_grad():
        values = measure(*leaves)
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    found = iter(torch.autograd.grad(values, asked, outer))
    for gradient in gradients:
        if gradient is not None:
            gradient[chunk] = next(found)


def chunked(
    measure: Divergence,
    perturbed: Tensor,
    clean: Tensor,
    real: Tensor,
    consume: bool = False,
) -> Tensor:
    """A divergence summed over each sentence's real rows.

    Forward keeps the two sets of logits and nothing of their size besides; backward
    computes each chunk of rows again.

    Args:
        measure: one value per row of logits.
        perturbed: shape (B, U, K).
        clean: shape (B, U, K).
        real: rows that count, shape (B, U).
        consume: let backward write the gradient of ``perturbed`` over its values.
            They must have no other use; autograd refuses if they have.

    Returns:
        Values in nats, shape (B,).

    """
    rows = real.flatten().nonzero().squeeze(1)
    flat = (perturbed.flatten(0, 1), clean.flatten(0, 1))
    values: Tensor = _Chunked.apply(*flat, rows, measure, consume)  # type: ignore[no-untyped-call]
    spread = values.new_zeros(real.numel()).index_copy(0, rows, values)
    return spread.view_as(real).sum(1)
