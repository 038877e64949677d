"""What each method's own paper sets: the values of ``--steady-preset paper``.

They are for comparing with the paper, and each criterion and optimizer has its own, as
``paper``. The defaults that train in few updates stand with the flags.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

NAMES = ("steady", "paper")
#: Lengths of a perturbation, which have a unit in common.
_LENGTHS = ("_eps", "_init", "_step")


@dataclass(frozen=True)
class Paper:
    """The values of one criterion or optimizer.

    Args:
        source: where they are from, and what they are there where that differs.
        values: by flag, in Python's spelling.

    """

    source: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


def of_paper(made: Any, name: str | None, said: Collection[str]) -> dict[str, Any]:
    """The paper's values of what nobody says; none of a method that has no ``paper``.

    Args:
        made: class of a criterion or an optimizer, if there is one; what it inherits
            is another method's.
        name: as on the command line.
        said: flags that are given; a radius relative to the embeddings takes none of
            the paper's lengths, whose unit is another.

    """
    paper = vars(made).get("paper") if made else None
    values = paper.values if isinstance(paper, Paper) else {}
    relative = f"{name}_eps_relative" in said
    return {
        flag: value
        for flag, value in values.items()
        if flag not in said and not (relative and flag.endswith(_LENGTHS))
    }
