"""Attention to neighbours alone: time and memory grow with length, not its square.

A block of queries looks at itself and at what is within reach on both sides. The way
back computes each block again, so that nothing but queries, keys and values is kept.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .attention import Blocks, Padded, Varlen, attend
from .packed import Packing

#: Queries of a block at least.
_SIZE = 64


class Part(NamedTuple):
    """Which keys some queries see, and what is added to their scores."""

    queries: slice
    keys: slice
    bias: Tensor | None


def parts(real: Tensor, reach: int, padded: bool = True) -> list[Part]:
    """What covers a batch.

    Args:
        real: False at padding, shape (B, T).
        reach: how many positions away a key may be.
        padded: whether there may be padding.

    """
    steps, size, made = real.size(1), max(_SIZE, reach), []
    place = torch.arange(steps, device=real.device)
    for start in range(0, steps, size):
        rows = slice(start, min(start + size, steps))
        keys = slice(max(0, start - reach), min(rows.stop + reach, steps))
        far = (place[rows, None] - place[keys]).abs() > reach
        if padded:
            # Queries at padding see something: without any key they would be NaN.
            far = (far | ~real[:, None, keys]) & real[:, rows, None]
        needed = padded or steps > reach + 1
        bias = far.new_zeros(far.shape, dtype=torch.float32).masked_fill_(
            far, -torch.inf
        )
        made.append(Part(rows, keys, bias.unsqueeze(-3) if needed else None))
    return made


class _Attention(torch.autograd.Function):
    """See :func:`attend_near`."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: list[Part],
        scale: float,
        p: float,
    ) -> Tensor:
        """All blocks, one after the other."""
        ctx.save_for_backward(q, k, v)
        ctx.plan, ctx.scale, ctx.p = plan, scale, p
        ctx.drawn = _generators(q) if p else None
        out = torch.empty_like(q)
        for rows, keys, bias in plan:
            seen = (q[:, :, rows], k[:, :, keys], v[:, :, keys])
            out[:, :, rows] = attend(*seen, bias, scale, p)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Each block again, with the same masks of dropout."""
        q, k, v = ctx.saved_tensors
        found = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        with _drawn_again(q, ctx.drawn):
            for rows, keys, bias in ctx.plan:
                views = (q[:, :, rows], k[:, :, keys], v[:, :, keys])
                a, b, c = (view.detach().requires_grad_() for view in views)
                with torch.enable_grad():
                    out = attend(a, b, c, bias, ctx.scale, ctx.p)
                own, *others = torch.autograd.grad(out, (a, b, c), grad[:, :, rows])
                found[0][:, :, rows] = own
                for whole, part in zip(found[1:], others, strict=True):
                    whole[:, :, keys] += part
        return *found, None, None, None


def _generators(x: Tensor) -> list[Tensor]:
    on_gpu = [torch.cuda.get_rng_state(x.device)] if x.is_cuda else []
    return [torch.get_rng_state(), *on_gpu]


@contextmanager
def _drawn_again(x: Tensor, states: list[Tensor] | None) -> Iterator[None]:
    """Draw as from these states of the generators, which stay where they are."""
    with ExitStack() as stack:
        if states is not None:
            devices = [x.device] if x.is_cuda else []
            stack.enter_context(torch.random.fork_rng(devices))
            torch.set_rng_state(states[0])
            if x.is_cuda:
                torch.cuda.set_rng_state(states[1], x.device)
        yield


def attend_near(
    q: Tensor, k: Tensor, v: Tensor, plan: list[Part], scale: float, p: float
) -> Tensor:
    """Softmax attention within blocks; see :func:`.attention.attend`.

    Args:
        q: shape (B, H, Q, D).
        k: shape (B, H, T, D).
        v: shape (B, H, T, D).
        plan: as :func:`parts` gives it.
        scale: of the scores.
        p: probability.

    Returns:
        Shape (B, H, Q, D).

    """
    found: Tensor = _Attention.apply(q, k, v, plan, scale, p)  # type: ignore[no-untyped-call]
    return found


class NearBlocks(Blocks):
    """Attention to neighbours, of sentences in blocks of about one length.

    Args:
        lengths: of the sentences, all above 0, shape (B,).
        reach: how many positions away a token may be looked at.

    """

    def __init__(self, lengths: Tensor, reach: int) -> None:
        super().__init__(lengths)
        self.reach = reach

    def _mask(self, lengths: list[np.ndarray]) -> None:
        real = [
            torch.from_numpy(np.arange(block.max()) < block[:, None])
            for block in lengths
        ]
        self._plans = [parts(one, self.reach, not bool(one.all())) for one in real]

    def _attend(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, scale: float, p: float
    ) -> Tensor:
        return attend_near(q, k, v, self._plans[block], scale, p)


class NearPadded(Padded):
    """Attention to neighbours, of a whole batch.

    Args:
        packing: of the batch; its tokens are not packed.
        reach: how many positions away a token may be looked at.

    """

    def __init__(self, packing: Packing, reach: int) -> None:
        super().__init__(packing.padding, padded=False)  # the plan leaves it out
        self._plan = parts(~packing.padding, reach, packing.padded)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        scale: float,
        p: float,
    ) -> Tensor:
        return attend_near(q, k, v, self._plan, scale, p)


def attention_of(packing: Packing, reach: int | None) -> Any:
    """How tokens of a batch look at each other; called as :class:`.attention.Blocks`.

    Args:
        packing: of the batch.
        reach: how many positions away; None for any.

    """
    on_cpu = packing.padding.device.type == "cpu"
    if packing.real is None and (on_cpu or packing.padded):
        if reach is None:
            return Padded(packing.padding, packing.padded)
        return NearPadded(packing, reach)
    lengths = packing.lengths[packing.lengths > 0]
    if not on_cpu:
        return Varlen(lengths, -1 if reach is None else reach)
    return Blocks(lengths) if reach is None else NearBlocks(lengths, reach)
