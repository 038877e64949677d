"""Which sentences of which updates are regularised."""

import torch
from torch import Tensor

from ..regularizers import derived, noise_keys, shares

#: Sets the draws that choose sentences apart from their noise.
_CHOICE = 1


def chosen(ids: Tensor, update: int, every: int, fraction: float) -> Tensor | None:
    """Sentences of a batch to regularise, as indices into it; None for all of them.

    The update decides, and in it a number drawn for each sentence from torch's seed,
    whatever batch or worker the sentence is in. Expected over these draws, a sum over
    the sentences chosen times ``every / fraction`` is the sum over all.

    Args:
        ids: the sentences' indices in the data set, shape (B,).
        update: how many updates there were.
        every: updates from one that is regularised to the next, >= 1.
        fraction: of the sentences, in (0, 1].

    """
    if update % every:
        return torch.empty(0, dtype=torch.int64, device=ids.device)
    if fraction == 1:
        return None
    drawn = shares(derived(noise_keys(ids), _CHOICE))
    return (drawn < fraction).nonzero().squeeze(1)
