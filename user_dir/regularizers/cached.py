"""Perturbations that are found once and used again.

Source: ARCH (arXiv 2109.07048), by SMART's authors: perturbations are kept from one
epoch for those after it, and sought anew, from noise or from where they were, when
they are old.
Deviations: age is counted in uses, which are epochs where every sentence has its turn
once an epoch; what is kept is packed; no nearest neighbours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import UserError
from .ascent import Ascent

Array = np.ndarray[Any, Any]
Count = TypeVar("Count", int, Tensor)

#: Bytes of an entry besides what it holds: objects and places in two dictionaries.
_OVERHEAD = 250


@dataclass(frozen=True)
class Signs:
    """One bit for a coordinate: which side of an L-infinity ball it is on.

    A coordinate inside the ball is moved to its surface.

    Args:
        radius: of the ball, > 0.

    """

    radius: float

    def size(self, entries: Count) -> Count:
        """Bytes of so many coordinates."""
        return (entries + 7) // 8

    def pack(self, delta: Array) -> bytes:
        """Coordinates to bytes."""
        return bytes(np.packbits(delta >= 0))

    def unpack(self, stored: bytes, entries: int) -> Array:
        """Bytes to so many coordinates, fp32."""
        bits = np.unpackbits(np.frombuffer(stored, np.uint8), count=entries)
        return (2 * bits.astype(np.float32) - 1) * np.float32(self.radius)


@dataclass(frozen=True)
class Halves:
    """Half precision times a sentence's largest coordinate, off by 2^-12 of that."""

    def size(self, entries: Count) -> Count:
        """Bytes of so many coordinates."""
        return 4 + 2 * entries

    def pack(self, delta: Array) -> bytes:
        """Coordinates to bytes."""
        largest = np.abs(delta).max(initial=0).astype(np.float32)
        shares = (delta / (largest or 1)).astype(np.float16)
        return bytes(largest) + bytes(shares)

    def unpack(self, stored: bytes, entries: int) -> Array:
        """Bytes to so many coordinates, fp32."""
        largest = np.frombuffer(stored, np.float32, 1)
        shares = np.frombuffer(stored, np.float16, entries, 4)
        return largest * shares.astype(np.float32)


Packed = Signs | Halves


def packed_for(ascent: Ascent) -> Packed:
    """Signs where an ascent ends on the surface of a clamped L-infinity ball."""
    boxed = ascent.norm == "linf" and ascent.projection == "clamp"
    return Signs(ascent.radius) if boxed and ascent.radius else Halves()


class PerturbationCache:
    """Packed perturbations by sentence, in the memory of every worker.

    What a batch finds and uses counts after the update, on all workers at once: see
    :meth:`exchange`.

    Args:
        uses: how often a perturbation is used again before it is sought anew, >= 1.
        form: how it is packed.
        onward: seek it anew from where it was, not from noise.

    """

    def __init__(self, uses: int, form: Packed, onward: bool = False) -> None:
        self.uses, self.form, self.onward = uses, form, onward
        self.stored: dict[int, bytes] = {}
        self.used: dict[int, int] = {}
        self._found: dict[int, bytes] = {}
        self._reused: list[int] = []

    def memory(self, entries: Tensor) -> float:
        """Bytes that sentences of so many coordinates take, shape (N,)."""
        return float((self.form.size(entries) + _OVERHEAD).sum())

    def frozen(self) -> "PerturbationCache":
        """The same to read from; what is kept or used of it is forgotten."""
        other = PerturbationCache(self.uses, self.form, self.onward)
        other.stored, other.used = self.stored, self.used
        return other

    def known(self, ids: Sequence[int], entries: Sequence[int]) -> list[bool]:
        """Which sentences have a perturbation of their size, however old."""
        sizes = [self.form.size(count) for count in entries]
        pairs = zip(ids, sizes, strict=True)
        return [len(self.stored.get(i, b"")) == size for i, size in pairs]

    def fresh(self, ids: Sequence[int], entries: Sequence[int]) -> list[bool]:
        """Which sentences have one that may still be used."""
        known = self.known(ids, entries)
        pairs = zip(ids, known, strict=True)
        return [there and self.used[i] < self.uses for i, there in pairs]

    def read(self, ids: Sequence[int], mask: Tensor, channels: int) -> Tensor:
        """Perturbations of shape (B, T, C), 0 where none is known."""
        found = torch.zeros(*mask.shape, channels)
        entries = [tokens * channels for tokens in mask.sum(1).tolist()]
        real = mask.cpu()
        known = self.known(ids, entries)
        for row, (i, count) in enumerate(zip(ids, entries, strict=True)):
            if known[row]:
                flat = self.form.unpack(self.stored[i], count)
                found[row, real[row]] = torch.from_numpy(flat).view(-1, channels)
        return found.to(mask.device)

    def keep(self, ids: Sequence[int], delta: Tensor, mask: Tensor) -> None:
        """Remember what was found, after the update."""
        values, real = delta.float().cpu().numpy(), mask.cpu().numpy()
        for row, i in enumerate(ids):
            self._found[i] = self.form.pack(values[row, real[row]].ravel())

    def use(self, ids: Iterable[int]) -> None:
        """Count a use of each, after the update."""
        self._reused += ids

    def forget(self) -> None:
        """Drop what an update found and used that changed no weights."""
        self._found, self._reused = {}, []

    def exchange(self) -> None:
        """Take in what all workers have found and used in this update.

        Every worker has to call it.
        """
        mine = (self._found, self._reused)
        self.forget()
        for found, reused in _from_all(mine):
            for i in reused:
                self.used[i] += 1
            self.stored |= found
            self.used |= dict.fromkeys(found, 0)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: one entry after the other, in order of sentences."""
        ids = sorted(self.stored)
        data = bytearray().join(self.stored[i] for i in ids) or bytearray(1)
        return {
            "ids": torch.tensor(ids, dtype=torch.int64),
            "used": torch.tensor([self.used[i] for i in ids], dtype=torch.int64),
            "sizes": torch.tensor([len(self.stored[i]) for i in ids]).long(),
            "data": torch.frombuffer(data, dtype=torch.uint8),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: it is damaged.

        """
        ids, used, sizes = (state[n].tolist() for n in ("ids", "used", "sizes"))
        data = state["data"].numpy().tobytes()
        equal = len(ids) == len(used) == len(sizes) and min(sizes, default=0) >= 0
        if not equal or sum(sizes) > len(data):
            raise UserError(
                "the checkpoint's perturbations are damaged; take another checkpoint, "
                "or leave them behind with --reset-optimizer"
            )
        ends = np.cumsum([0, *sizes])
        self.stored = {i: data[ends[k] : ends[k + 1]] for k, i in enumerate(ids)}
        self.used = dict(zip(ids, used, strict=True))


def _from_all(mine: Any) -> list[Any]:
    """The same from every worker, in order."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
