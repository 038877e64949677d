"""Extra passes over a batch, or over some of its sentences without the others."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..regularizers import InjectionPoint, substitute
from .kinds import Classes, Tokens

Sample = dict[str, Any]

#: Token ids in a batch, and what else has a column for each of them.
_SOURCE, _DECODED, _WORDS = "src_tokens", "prev_output_tokens", "words"


def _rows(value: Any, rows: Tensor) -> Any:
    return value[rows] if isinstance(value, Tensor) else value


def _columns(real: Tensor, each: int) -> Tensor:
    """Columns that some sentence needs, the same of each of its rows, shape (T,)."""
    return real.view(len(real) * each, -1).any(0).repeat(each)


@dataclass(frozen=True)
class Passes:
    """How a batch goes through the model with a value in place of its embeddings.

    Args:
        model: without its distributed wrapper.
        kind: what is predicted.
        sample: fairseq's batch.
        sides: modules whose embeddings are perturbed, and their tokens' names in
            ``net_input``; side by side along the tokens where there are two.
        point: where the value enters.
        dropped: opens what dropout needs around a pass.

    """

    model: nn.Module
    kind: Classes
    sample: Sample
    sides: list[tuple[Any, str]]
    point: InjectionPoint
    dropped: Callable[[], Any]

    def _tokens(self) -> list[Tensor]:
        return [self.sample["net_input"][name] for _, name in self.sides]

    def mask(self) -> Tensor:
        """True at real tokens, shape (B, T)."""
        pairs = zip(self._tokens(), self.sides, strict=True)
        return torch.cat([ids != module.padding_idx for ids, (module, _) in pairs], 1)

    def clean(self) -> Tensor:
        """Logits with nothing in place of the embeddings."""
        with self.dropped():
            return self.kind.logits(self.model, self.sample)

    def forward(self, value: Tensor) -> Tensor:
        """Logits with ``value`` of shape (B, T, C) at the injection point."""
        parts = torch.split(value, [ids.size(1) for ids in self._tokens()], 1)
        with ExitStack() as stack:
            stack.enter_context(self.dropped())
            for (module, _), part in zip(self.sides, parts, strict=True):
                stack.enter_context(substitute(module, self.point, part))
            return self.kind.logits(self.model, self.sample)

    def some(self, rows: Tensor) -> tuple["Passes", Tensor, Tensor]:
        """The same for some sentences, cut to the longest of them.

        Args:
            rows: which, shape (R,), at least one.

        Returns:
            Their passes; which columns of an injected value are left, a mask of shape
            (T,); and which of a target sequence's, a mask of shape (U,), or of shape
            (0,) where the target is no sequence.

        """
        pad = self.sides[0][0].padding_idx
        inputs: dict[str, Any] = self.sample["net_input"]
        kept = {
            name: _columns(inputs[name][rows].ne(pad), self.kind.rows)
            for name in (_SOURCE, _DECODED)
            if name in inputs
        }
        of = {**kept, _WORDS: kept[_SOURCE]}
        cut = {
            name: value[rows][:, of[name]] if name in of else _rows(value, rows)
            for name, value in inputs.items()
        }
        target = self.sample["target"][rows]
        sequence = isinstance(self.kind, Tokens)
        spoken = kept[_DECODED] if sequence else rows[:0].bool()
        part = {
            **self.sample,
            "net_input": cut,
            "target": target[:, spoken] if sequence else target,
            "id": self.sample["id"][rows],
        }
        columns = torch.cat([kept[name] for _, name in self.sides])
        return replace(self, sample=part), columns, spoken
