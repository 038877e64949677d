"""BERTScore: every word of one text finds its nearest of the other, by its states."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def inverse_frequencies(references: Sequence[Iterable[int]]) -> dict[int, float]:
    """How rare each token is among the references, which weighs it.

    Source: Zhang et al. (arXiv 1904.09675), section 3, importance weighting, with
    plus-one smoothing.

    Args:
        references: token ids of M texts.

    """
    found = Counter(token for tokens in references for token in {*tokens})
    return {
        token: math.log((len(references) + 1) / (count + 1))
        for token, count in found.items()
    }


def weights(
    tokens: Sequence[int], frequencies: Mapping[int, float] | None, count: int
) -> Tensor:
    """What each token counts, shape (T,): all the same without frequencies.

    Args:
        tokens: ids of a text.
        frequencies: of :func:`inverse_frequencies`, or None.
        count: M, of the references; a token of none of them is the rarest.

    """
    if frequencies is None:
        return torch.ones(len(tokens))
    rarest = math.log(count + 1)
    return torch.tensor([frequencies.get(token, rarest) for token in tokens])


def bert_score(
    candidate: Tensor, reference: Tensor, ours: Tensor, theirs: Tensor
) -> float:
    """F1 of greedy matching, 0 where either text is empty or weighs nothing.

    Source: Zhang et al. (arXiv 1904.09675), section 3: precision is the mean over the
    candidate's tokens of the largest cosine with one of the reference's, recall the
    other way round. Deviations: special tokens are no tokens here.

    Args:
        candidate: states of its T tokens, shape (T, C).
        reference: of its U tokens, shape (U, C).
        ours: weight of each token of the candidate, shape (T,).
        theirs: of the reference, shape (U,).

    """
    if not (float(ours.sum()) and float(theirs.sum())):
        return 0.0
    cosines = F.normalize(candidate, dim=-1) @ F.normalize(reference, dim=-1).T
    precision = float((cosines.amax(1) * ours).sum() / ours.sum())
    recall = float((cosines.amax(0) * theirs).sum() / theirs.sum())
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0
