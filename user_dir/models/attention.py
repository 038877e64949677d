"""Attention of sentences that stand in one matrix, without their padding.

A CPU multiplies matrices of one shape at a time: sentences of about one length share a
block, and only within a block is there padding. A GPU has a kernel for sentences of any
length, where flash-attn is installed.
"""

import copy
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .dropout import drop

#: Queries, keys, values, heads and dropout to mixed values; see :class:`Blocks`.
Attention = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]
#: A number of positions T to what they add to scores, shape (H, T, T).
Relative = Callable[[int], Tensor]

#: Lengths are rounded up to a multiple of this; each makes a block.
_STEP = 32


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, p: float
) -> Tensor:
    """Softmax attention with dropout of its weights.

    On a CPU torch's fused kernel has no dropout, and what stands in for it draws slow
    masks and looks for rows without any key.

    Args:
        q: shape (B, H, Q, D).
        k: shape (B, H, T, D).
        v: shape (B, H, T, D).
        bias: added to scaled scores, of a shape that expands to (B, H, Q, T).
        scale: of the scores.
        p: probability.

    Returns:
        Shape (B, H, Q, D).

    """
    if bias is not None:
        bias = bias.to(q.dtype)
    if p == 0 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, bias, p, scale=scale)
    start = q.new_zeros(1) if bias is None else bias.expand(*q.shape[:2], -1, -1)
    exact = torch.promote_types(q.dtype, torch.float32)
    # Scores have no name: they are as large as all that is kept here, and are not.
    weights = torch.baddbmm(
        start if bias is None else start.flatten(0, 1),
        q.flatten(0, 1),
        k.flatten(0, 1).transpose(1, 2),
        alpha=scale,
    ).softmax(-1, dtype=exact)
    return torch.bmm(drop(weights, p).to(v.dtype), v.flatten(0, 1)).view(q.shape)


@dataclass(frozen=True)
class Layout:
    """Where the heads of packed tokens stand when sentences are padded in blocks.

    Args:
        rows: row of each token and head, shape (N, H).
        size: number of rows.
        shapes: sentences, heads and positions of each block, in order.

    """

    rows: Tensor
    size: int
    shapes: list[tuple[int, int, int]]

    def spread(self, x: Tensor) -> list[Tensor]:
        """Shape (N, C) to one tensor of shape (B, H, T, D) a block, 0 at padding."""
        flat = x.reshape(self.rows.numel(), -1)
        empty = flat.new_zeros(self.size, flat.size(-1))
        whole = empty.index_add_(0, self.rows.flatten(), flat)
        blocks = whole.split([math.prod(shape) for shape in self.shapes])
        return [
            block.view(*shape, -1)
            for block, shape in zip(blocks, self.shapes, strict=True)
        ]

    def pack(self, blocks: list[Tensor]) -> Tensor:
        """The way back."""
        flat = [block.flatten(0, 2) for block in blocks]
        whole = flat[0] if len(flat) == 1 else torch.cat(flat)
        return whole.index_select(0, self.rows.flatten()).view(len(self.rows), -1)


def _layout(
    heads: int, sentence: np.ndarray, step: np.ndarray, shapes: list[tuple[int, int]]
) -> Layout:
    """From each token's sentence, counted in the order of the blocks, and position."""
    counts, steps = (np.array(one) for one in zip(*shapes, strict=True))
    block = np.repeat(np.arange(len(shapes)), counts)
    long = steps[block]
    first = np.concatenate([[0], np.cumsum(long * heads)])
    rows = (first[sentence] + step)[:, None] + np.arange(heads) * long[sentence, None]
    each = [(count, heads, length) for count, length in shapes]
    return Layout(torch.from_numpy(rows), int(first[-1]), each)


class Blocks:
    """Attention of a batch's sentences, in blocks of about one length.

    Args:
        lengths: of the sentences, all above 0, shape (B,).

    """

    def __init__(self, lengths: Tensor) -> None:
        self._lengths = lengths.numpy()
        self._heads = 0

    def _arrange(self, heads: int) -> None:
        lengths, self._heads = self._lengths, heads
        rounded = -(-lengths // _STEP)
        order = np.argsort(rounded, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        groups = np.split(order, np.flatnonzero(np.diff(rounded[order])) + 1)
        shapes = [(len(group), int(lengths[group].max())) for group in groups]
        starts = np.cumsum(lengths) - lengths
        sentence = np.repeat(np.arange(len(lengths)), lengths)
        step = np.arange(len(sentence)) - starts[sentence]
        self.keys = _layout(heads, place[sentence], step, shapes)
        one_each = [(count, 1) for count, _ in shapes]
        self.first = _layout(heads, place, np.zeros_like(place), one_each)
        self._mask([lengths[group] for group in groups])

    def _mask(self, lengths: list[np.ndarray]) -> None:
        """What scores need, from the lengths of the sentences in each block."""
        self.biases = [_bias(block) for block in lengths]

    def _attend(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, scale: float, p: float
    ) -> Tensor:
        bias = self.biases[block]
        own = bias if bias is None else bias[:, :, : q.size(2)]
        return attend(q, k, v, own, scale, p)

    def adding(self, heads: int, relative: Relative) -> "Blocks":
        """This attention, with what positions add to scores, the same in all layers."""
        self._arrange(heads)
        steps = [length for _, _, length in self.keys.shapes]
        whole = relative(max(steps))
        added: list[Tensor | None] = []
        for (count, _, length), bias in zip(self.keys.shapes, self.biases, strict=True):
            part = whole[:, :length, :length].expand(count, -1, -1, -1)
            # Whole in memory: each layer would copy it else.
            added.append(part.contiguous() if bias is None else part + bias)
        other = copy.copy(self)
        other.biases = added
        return other

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, p: float) -> Tensor:
        """Mixed values.

        Args:
            q: shape (N, C), or (B, C) for the first token of each sentence alone.
            k: shape (N, C).
            v: shape (N, C).
            heads: H.
            p: dropout of attention weights.

        Returns:
            The shape of ``q``.

        """
        if heads != self._heads:
            self._arrange(heads)
        queries = self.keys if len(q) == len(k) else self.first
        scale = 1 / math.sqrt(q.size(-1) // heads)
        spread = (queries.spread(q), self.keys.spread(k), self.keys.spread(v))
        return queries.pack(
            [
                self._attend(block, *seen, scale, p)
                for block, seen in enumerate(zip(*spread, strict=True))
            ]
        )


def _bias(lengths: np.ndarray) -> Tensor | None:
    """Minus infinity at padding, shape (B, 1, 1, T); None where there is none."""
    if lengths.min() == lengths.max():
        return None
    padding = np.arange(lengths.max()) >= lengths[:, None]
    bias = np.where(padding, np.float32(-np.inf), np.float32(0))
    return torch.from_numpy(bias)[:, None, None, :]


class Padded:
    """Attention of a whole batch: where there is no padding, or no kernel without it.

    Args:
        padding: True there, shape (B, T).
        padded: whether there may be any.

    """

    def __init__(self, padding: Tensor, padded: bool = True) -> None:
        self._padding, self._bias = padding, None
        if padded:
            unseen = torch.zeros(padding.shape, device=padding.device)
            self._bias = unseen.masked_fill(padding, -math.inf)[:, None, None, :]

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        scale: float,
        p: float,
    ) -> Tensor:
        own = bias if bias is None else bias[:, :, : q.size(2)]
        return attend(q, k, v, own, scale, p)

    def adding(self, _: int, relative: Relative) -> Attention:
        """As :meth:`Blocks.adding`."""
        bias = relative(self._padding.size(1))
        masked = bias.masked_fill(self._padding[:, None, None, :], -math.inf)
        return partial(self, bias=masked)

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        p: float,
        bias: Tensor | None = None,
    ) -> Tensor:
        """As :meth:`Blocks.__call__`, of N = B * T tokens."""

        def by_head(x: Tensor) -> Tensor:
            split = x.view(len(self._padding), -1, heads, x.size(-1) // heads)
            return split.transpose(1, 2)

        own, scale = (
            bias if bias is not None else self._bias,
            (q.size(-1) // heads) ** -0.5,
        )
        mixed = self._attend(by_head(q), by_head(k), by_head(v), own, scale, p)
        return mixed.transpose(1, 2).reshape(q.shape)


@cache
def _flash() -> Callable[..., Tensor]:
    """flash-attn's attention of sentences of any length."""
    module = importlib.import_module("flash_attn")
    return module.flash_attn_varlen_func  # type: ignore[no-any-return]


@cache
def _installed() -> bool:
    try:
        return callable(_flash())
    except (ImportError, AttributeError):
        return False


def packs(x: Tensor) -> bool:
    """Whether attention takes packed tokens: on a CPU, or where flash-attn may run.

    It wants half precision, and a GPU of Ampere's generation or later.

    Args:
        x: any tensor of the device and, outside of autocast, of the type of tokens.

    """
    device = x.device.type
    if device != "cuda":
        return device == "cpu"
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
    recent = torch.cuda.get_device_capability(x.device) >= (8, 0)
    half = dtype in (torch.float16, torch.bfloat16)
    return half and recent and _installed()


class Varlen:
    """Attention of a batch's sentences on a GPU, as :class:`Blocks` on a CPU.

    Args:
        lengths: of the sentences, all above 0, shape (B,).
        reach: how many positions away a token may be looked at; -1 for any.

    """

    def __init__(self, lengths: Tensor, reach: int = -1) -> None:
        self._window = (reach, reach)
        self._starts = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        self._first = torch.arange(
            len(self._starts), dtype=torch.int32, device=lengths.device
        )
        self._longest = int(lengths.max())

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, p: float) -> Tensor:
        """Mixed values; see :meth:`Blocks.__call__`."""
        whole = len(q) == len(k)
        mixed = _flash()(
            *(x.view(len(x), heads, -1) for x in (q, k, v)),
            cu_seqlens_q=self._starts if whole else self._first,
            cu_seqlens_k=self._starts,
            max_seqlen_q=self._longest if whole else 1,
            max_seqlen_k=self._longest,
            dropout_p=p,
            **({} if self._window[0] < 0 else {"window_size": self._window}),
        )
        return mixed.flatten(1)
