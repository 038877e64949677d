"""A divergence over many rows that never holds more than a few of them at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from . import kernels
from .divergence import Divergence, SymmetricKL, symmetric_kl
from .kernels import Form

#: Entries of a chunk, rows x K: temporaries that stay in a CPU's cache; a GPU prefers
#: few large operations.
_ENTRIES, _ENTRIES_GPU = 2**18, 2**20


class _Measure(Protocol):
    """A divergence of a chunk of rows, and its gradients."""

    def values(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """One value a row, and numbers of each row that its gradients need."""

    def gradients(
        self,
        a: Tensor,
        b: Tensor,
        values: Tensor,
        kept: Tensor,
        outer: Tensor,
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Of the wanted sides."""


@dataclass(frozen=True)
class _Differentiated:
    """Any divergence; it is computed again to be differentiated."""

    measure: Divergence

    def values(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        values = self.measure(a, b)
        return values, values.new_empty(len(values), 0)

    def gradients(
        self,
        a: Tensor,
        b: Tensor,
        values: Tensor,
        kept: Tensor,
        outer: Tensor,
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        leaves = [
            side.detach().requires_grad_(want)
            for side, want in zip((a, b), wanted, strict=True)
        ]
        with torch.enable_grad():
            again = self.measure(*leaves)
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(again, asked, outer))
        return [next(found) if want else None for want in wanted]


@dataclass(frozen=True)
class _InChunks:
    """A measure, a few rows at a time."""

    measure: _Measure

    def values(self, sides: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of some rows of both sides, and what their gradients need."""
        chunks = rows.split(_size(rows, sides[1]))
        found = [self.measure.values(*(side[c] for side in sides)) for c in chunks]
        values, kept = zip(*found, strict=True)
        return torch.cat(values), torch.cat(kept)

    def gradients(
        self,
        sides: Sequence[Tensor],
        rows: Tensor,
        values: Tensor,
        kept: Tensor,
        outer: Tensor,
        into: Sequence[Tensor | None],
    ) -> None:
        """Write them over the rows of ``into``, of which the first may be a side."""
        size = _size(rows, sides[1])
        wanted = [gradient is not None for gradient in into]
        parts = (x.split(size) for x in (rows, values, kept, outer))
        for chunk, value, numbers, now in zip(*parts, strict=True):
            a, b = (side[chunk] for side in sides)
            found = self.measure.gradients(a, b, value, numbers, now, wanted)
            for gradient, part in zip(into, found, strict=True):
                if gradient is not None and part is not None:
                    gradient[chunk] = part.to(gradient.dtype)


def _size(rows: Tensor, like: Tensor) -> int:
    entries = _ENTRIES if rows.device.type == "cpu" else _ENTRIES_GPU
    return max(1, entries // like.size(-1))


def _form(measure: Divergence, sides: Sequence[Tensor]) -> Form:
    if measure is not symmetric_kl:
        return _InChunks(_Differentiated(measure))
    if sides[0].device.type == "cpu":
        return _InChunks(SymmetricKL())
    return kernels.fused(sides) or _InChunks(_Differentiated(measure))


class _Chunked(torch.autograd.Function):
    """Values without a graph; backward reads the logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        perturbed: Tensor,
        clean: Tensor,
        real: Tensor,
        form: Form,
        consume: bool,
    ) -> Tensor:
        rows = real.nonzero().squeeze(1)
        values, kept = form.values((perturbed, clean), rows)
        ctx.save_for_backward(perturbed, clean, real, rows, values, kept)
        ctx.form, ctx.consume = form, consume
        return values.new_zeros(len(real)).index_copy_(0, rows, values)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise UserError(
                "chunked has no second derivative: call the divergence itself"
            )
        perturbed, clean, real, rows, values, kept = ctx.saved_tensors
        sides = [side.detach() for side in (perturbed, clean)]
        wanted = ctx.needs_input_grad[:2]
        # Each row is read once, just before its gradient takes its place.
        places = (sides[0] if ctx.consume else None, None)
        into = [
            (torch.empty_like(side) if place is None else place) if want else None
            for side, want, place in zip(sides, wanted, places, strict=True)
        ]
        ctx.form.gradients(sides, rows, values, kept, outer[0][rows], into)
        for gradient in into:
            if gradient is not None:
                gradient[~real] = 0
        return (*into, None, None, None)


def chunked(
    measure: Divergence,
    perturbed: Tensor,
    clean: Tensor,
    real: Tensor,
    consume: bool = False,
) -> Tensor:
    """A divergence summed over each sentence's real rows.

    Forward keeps the two sets of logits and nothing of their size besides; backward
    reads them again. ``symmetric_kl`` has its closed form there, on a GPU as a kernel
    (kernels.py); others are computed again and differentiated. There is no second
    derivative: backward with ``create_graph`` is refused.

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
    sides = (perturbed.flatten(0, 1), clean.flatten(0, 1))
    form = _form(measure, sides)
    values: Tensor = _Chunked.apply(*sides, real.flatten(), form, consume)  # type: ignore[no-untyped-call]
    return values.view_as(real).sum(1)
