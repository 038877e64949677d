"""Names of classes that a reader can tell apart."""

import logging
import re
import unicodedata

from ..errors import UserError
from .readers import shown

logger = logging.getLogger(__name__)


def refuse_look_alikes(labels: dict[str, str]) -> None:
    """Classes must differ in what a reader sees.

    Args:
        labels: where each is, as ``train.csv:7``.

    Raises:
        UserError: two differ only in invisible characters, or are one whole number.

    """
    for said, key in (("invisibly", _visible), ("by its spelling", _whole)):
        known: dict[str, str] = {}
        for label, where in labels.items():
            other = known.setdefault(key(label), label)
            if other != label:
                raise UserError(
                    f"{where}: label {label!a} differs only {said} from {other!a} "
                    f"({labels[other]}); write one of them everywhere"
                )
    folded: dict[str, str] = {}
    for label, where in labels.items():
        other = folded.setdefault(label.casefold(), label)
        if other != label:
            logger.warning(
                "%s: label %s differs only by case from %s (%s), and is another class",
                *(where, shown(label), shown(other), labels[other]),
            )


def _visible(label: str) -> str:
    """Without characters of no width, in one normal form, blanks alike."""
    seen = [c for c in label if unicodedata.category(c) != "Cf"]
    return " ".join(unicodedata.normalize("NFC", "".join(seen)).split())


def _whole(label: str) -> str:
    """A whole number in one spelling: 1 for 1.0 and 01."""
    whole = re.fullmatch(r"([+-]?)0*(\d+)(\.0*)?", label, re.ASCII)
    return "".join(whole.groups("")[:2]).lstrip("+") if whole else label
