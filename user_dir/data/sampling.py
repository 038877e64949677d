"""Sub-samples that keep the class proportions, by their own seed."""

from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from .readers import plain_number, shown


def parse_size(value: str, available: int, flag: str) -> int:
    """A count ("1000") or a fraction ("0.1") of the sentences there are.

    Raises:
        UserError: neither, or more than there are.

    """
    number = plain_number(value)
    wanted = number * available if 0 < number < 1 else number
    if (
        not 1 <= wanted <= available
        or (number >= 1 and number != int(number))
        or (number == 1 and "." in value)  # one sentence, or all of them?
    ):
        raise UserError(
            f"{flag} {value} is neither a count from 1 to {available} nor a fraction "
            "between 0 and 1"
        )
    return round(wanted)


def stratified_subset(
    targets: np.ndarray,
    size: int,
    seed: int,
    labels: Sequence[str] | None = None,
    instead: str = "use all sentences",
) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into ``size`` of them and the rest, each sorted.

    Class targets are sampled in proportion, one of each at least in both parts, rows of
    several labels in proportion of the rarest label of each; scores without strata.

    Args:
        targets: class indices (integers), scores, or which labels hold, shape (N, L).
        size: of the first part, from 1 to all.
        seed: of what is drawn.
        labels: names of the classes, for errors.
        instead: of it all, what an error advises.

    Raises:
        UserError: a class is too small, or one of the parts, for one of each.

    """
    everything = np.arange(len(targets))
    if size == len(targets):
        return everything, everything[:0]
    strata = targets if targets.dtype.kind == "i" else None
    if strata is not None:
        _check_strata(strata, size, labels, instead)
    elif targets.ndim == 2 and 0 < size < len(targets):
        strata = _rarest(targets, size)
    elif not 0 < size < len(targets):
        raise UserError(f"cannot take {size} of {len(targets)} sentences; add some")
    from sklearn.model_selection import train_test_split  # a slow import

    chosen, rest = train_test_split(
        everything, train_size=size, stratify=strata, random_state=seed
    )
    if strata is not None:
        _even_out(chosen, rest, strata)
        _even_out(rest, chosen, strata)
    return np.sort(chosen), np.sort(rest)


def balanced_subset(
    targets: np.ndarray, seed: int, labels: Sequence[str], flag: str
) -> np.ndarray:
    """Sorted indices of as many sentences of each class as there are of the rarest.

    Args:
        targets: class indices, shape (N,).
        seed: of what is drawn.
        labels: names of the K classes, for errors.
        flag: the flag that asks for it, for errors.

    Raises:
        UserError: there is no sentence of a class.

    """
    each = [np.flatnonzero(targets == index) for index in range(len(labels))]
    least = min(map(len, each))
    if not least:
        names = [
            label for label, rows in zip(labels, each, strict=True) if not len(rows)
        ]
        raise UserError(
            f"{flag}: there is no training sentence of class "
            f"{', '.join(map(shown, names[:5]))}; add some, or leave the flag out"
        )
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(rows, least, replace=False) for rows in each]
    return np.sort(np.concatenate(drawn))


def _even_out(part: np.ndarray, other: np.ndarray, strata: np.ndarray) -> None:
    """Give a part one of each class, for one of those that it has most of.

    In proportion alone a rare class may have none.
    """
    for missing in np.setdiff1d(strata[other], strata[part]):
        classes, counts = np.unique(strata[part], return_counts=True)
        (ours,) = np.nonzero(strata[part] == classes[counts.argmax()])
        (theirs,) = np.nonzero(strata[other] == missing)
        part[ours[0]], other[theirs[0]] = other[theirs[0]], part[ours[0]]


def _rarest(targets: np.ndarray, size: int) -> np.ndarray | None:
    """The rarest label of each row, L where none holds; None where that is too fine.

    A row that is alone with its label goes with the commonest.
    """
    order = np.argsort(targets.sum(0), kind="stable")
    rarest = order[targets[:, order].argmax(1)]
    strata = np.where(targets.any(1), rarest, targets.shape[1])
    found, counts = np.unique(strata, return_counts=True)
    strata[np.isin(strata, found[counts < 2])] = found[counts.argmax()]
    kinds = len(np.unique(strata))
    return strata if 1 < kinds <= min(size, len(targets) - size) else None


def _check_strata(
    targets: np.ndarray, size: int, labels: Sequence[str] | None, instead: str
) -> None:
    """Refuse what cannot be divided in proportion."""
    classes, counts = np.unique(targets, return_counts=True)
    refusal = f"cannot take {size} of {len(targets)} sentences in proportion"
    rare = [labels[i] if labels else int(i) for i in classes[counts < 2]]
    if rare:
        raise UserError(
            f"{refusal}: there is only one of class {', '.join(map(shown, rare[:5]))}; "
            f"add some of it, remove it, or {instead}"
        )
    if min(size, len(targets) - size) < len(classes):
        raise UserError(
            f"{refusal}: there are {len(classes)} classes, so choose from "
            f"{len(classes)} to {len(targets) - len(classes)}, or {instead}"
        )


def halves(
    targets: np.ndarray, seed: int, labels: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Two stratified halves, the first the smaller when the number is odd."""
    return stratified_subset(targets, len(targets) // 2, seed, labels)
