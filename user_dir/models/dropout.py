"""fairseq's dropout with masks that are drawn four to a random word, for the CPU."""

from typing import Any

import torch
from fairseq.modules import FairseqDropout
from torch import Tensor, nn

#: Probabilities are rounded to one in so many; what is kept is scaled to match.
_PARTS = 2**16


def drop(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability p, the mean kept, on the CPU.

    torch draws a double for every element of a mask; a mask is a twentieth of an
    update's time then. Here 16 bits decide, from the same generator.

    Args:
        x: any shape.
        p: in [0, 1).

    """
    dropped = min(round(p * _PARTS), _PARTS - 1)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
    words = words.random_(-(2**63), None)
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = drawn.ge_(dropped - _PARTS // 2).to(torch.int8)
    scale = _PARTS / (_PARTS - dropped)
    return _Masked.apply(x, kept, scale)  # type: ignore[no-any-return,no-untyped-call]


class _Masked(torch.autograd.Function):
    """x * kept * scale, of which a byte an element waits for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return _masked(x, kept, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (kept,) = ctx.saved_tensors
        return _masked(gradient, kept, ctx.scale), None, None


def _masked(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    # Half precision would round the scale, and so move the mean.
    exact = torch.promote_types(x.dtype, torch.float32)
    return kept.to(exact).mul_(scale).mul_(x).to(x.dtype)


class Dropout(FairseqDropout):
    """fairseq's module; see :func:`drop`."""

    def forward(self, x: Tensor, inplace: bool = False) -> Any:
        """As fairseq's: nothing happens outside of training."""
        acts = self.p > 0 and (self.training or self.apply_during_inference)
        if not acts or x.device.type != "cpu" or self.p >= 1:
            return super().forward(x, inplace)
        return drop(x, self.p)


def use_words(model: nn.Module) -> None:
    """Let a model's dropout draw its masks so."""
    for module in model.modules():
        if type(module) is FairseqDropout:
            module.__class__ = Dropout
