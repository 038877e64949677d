"""Lists of tensors cut into pieces that stay in a CPU's cache between operations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

#: Elements of a block on a CPU: best of 2^15 to 2^20 where it was measured.
SIZE = 2**18


@dataclass(frozen=True)
class Piece:
    """A stretch of one tensor of a list: its place in the list, and from, to."""

    index: int
    start: int
    end: int

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """The stretch as a flat view."""
        return tensors[self.index].detach().view(-1)[self.start : self.end]


def blocks(tensors: Sequence[Tensor]) -> Iterator[list[Piece]]:
    """Pieces in order, about :data:`SIZE` elements together; one block on a GPU."""
    if not tensors[0].is_cpu:
        yield [Piece(i, 0, t.numel()) for i, t in enumerate(tensors)]
        return
    block: list[Piece] = []
    for i, tensor in enumerate(tensors):
        for start in range(0, tensor.numel(), SIZE):
            block.append(Piece(i, start, min(start + SIZE, tensor.numel())))
            if sum(piece.end - piece.start for piece in block) >= SIZE:
                yield block
                block = []
    if block:
        yield block
