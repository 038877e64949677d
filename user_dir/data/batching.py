"""Texts of any number through a model: batches of like length, results in order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from fairseq.data import data_utils
from torch import Tensor

from .ragged import Ragged

if TYPE_CHECKING:
    from .forms import Form

Text = TypeVar("Text")
Result = TypeVar("Result")
NetInput = dict[str, Tensor]

#: Texts sorted by length at a time.
_WINDOW = 2048


def padded(tokens: Sequence[Tensor], pad: int, decoder_input: bool) -> NetInput:
    """What a model reads of some sentences.

    Args:
        tokens: ids of B sentences, the longest of length T.
        pad: id of padding.
        decoder_input: also give ``prev_output_tokens``, as BART needs to classify.

    Returns:
        ``src_tokens`` of shape (B, T), ``src_lengths`` (B,), and, if asked, each
        sentence with its last token in front.

    """
    net_input = {
        "src_tokens": data_utils.collate_tokens(tokens, pad),
        "src_lengths": torch.tensor([len(one) for one in tokens]),
    }
    if decoder_input:
        rolled = [one.roll(1) for one in tokens]
        net_input["prev_output_tokens"] = data_utils.collate_tokens(rolled, pad)
    return net_input


def in_batches(
    texts: Iterable[Text],
    encode: Callable[[Sequence[Text]], Sequence[Sequence[np.ndarray]]],
    run: Callable[[NetInput], Sequence[Result]],
    pad: int,
    max_tokens: int,
    form: "Form",
    decoder_input: bool = False,
) -> Iterator[Result]:
    """One result per text, in order.

    Args:
        texts: read a window at a time.
        encode: gives the ids of some texts, side by side.
        run: gives the results of a batch of :func:`padded` texts.
        pad: id of padding.
        max_tokens: B * T of a batch, at most, unless one text is longer.
        form: rows of tokens that a text becomes.
        decoder_input: as in :func:`padded`.

    """
    left = iter(texts)
    while window := list(islice(left, _WINDOW)):
        sides = [Ragged.of(side) for side in encode(window)]
        sizes = form.sizes(sides) * form.rows
        order = np.argsort(sizes, kind="stable").tolist()
        found: dict[int, Result] = {}
        for rows in _split(order, sizes, max_tokens):
            items = [form.item(sides, row) for row in rows]
            results = run(form.padded(items, pad, decoder_input))
            found |= zip(rows, results, strict=True)
        yield from (found[row] for row in range(len(window)))


def _split(
    order: Sequence[int], sizes: np.ndarray, max_tokens: int
) -> Iterator[list[int]]:
    """Rows in order of length, as many at a time as fit; at least one."""
    batch: list[int] = []
    for row in order:
        if batch and sizes[row] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
