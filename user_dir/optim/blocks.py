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

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.end - self.start

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """The stretch as a flat view; a whole tensor in its own shape."""
        tensor = tensors[self.index]
        if self.size == tensor.numel():
            return tensor
        return tensor.view(-1)[self.start : self.end]


#: Blocks that together hold whole tensors.
Run = list[list[Piece]]


def blocks(tensors: Sequence[Tensor]) -> Iterator[list[Piece]]:
    """Pieces in order, about :data:`SIZE` elements together; one block on a GPU."""
    if not tensors[0].is_cpu:
        yield [Piece(i, 0, t.numel()) for i, t in enumerate(tensors)]
        return
    block: list[Piece] = []
    for i, tensor in enumerate(tensors):
        # A transposed tensor has no flat view.
        stride = SIZE if tensor.is_contiguous() else max(1, tensor.numel())
        for start in range(0, tensor.numel(), stride):
            block.append(Piece(i, start, min(start + stride, tensor.numel())))
            if sum(piece.size for piece in block) >= SIZE:
                yield block
                block = []
    if block:
        yield block


def runs(tensors: Sequence[Tensor]) -> Iterator[Run]:
    """The blocks in order, in as short runs as hold whole tensors."""
    run: Run = []
    for block in blocks(tensors):
        run.append(block)
        if block[-1].end == tensors[block[-1].index].numel():
            yield run
            run = []
