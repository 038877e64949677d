"""Sub-samples that keep the class proportions, by their own seed."""

import numpy as np
from sklearn.model_selection import train_test_split

from ..errors import UserError


def parse_size(value: str, available: int, flag: str) -> int:
    """A count ("1000") or a fraction ("0.1") of the sentences there are.

    Raises:
        UserError: neither, or more than there are.

    """
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    wanted = number * available if 0 < number < 1 else number
    if not (1 <= wanted <= available) or (number >= 1 and number != int(number)):
        raise UserError(
            f"{flag} {value} is neither a count from 1 to {available} nor a fraction "
            "between 0 and 1"
        )
    return round(wanted)


def stratified_subset(
    targets: np.ndarray, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into ``size`` of them and the rest, each sorted.

    Class targets are sampled in proportion; scores without strata.

    Raises:
        UserError: fewer sentences than classes on one of the sides.

    """
    everything = np.arange(len(targets))
    if size == len(targets):
        return everything, everything[:0]
    strata = targets if targets.dtype.kind == "i" else None
    try:
        chosen, rest = train_test_split(
            everything, train_size=size, stratify=strata, random_state=seed
        )
    except ValueError as error:
        raise UserError(
            f"cannot take {size} of {len(targets)} sentences in proportion to their "
            f"classes ({error}); choose another size"
        ) from None
    return np.sort(chosen), np.sort(rest)


def halves(targets: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two stratified halves, the first the smaller when the number is odd."""
    return stratified_subset(targets, len(targets) // 2, seed)
