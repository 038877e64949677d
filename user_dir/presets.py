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

    def unsaid(self, name: str, said: Collection[str]) -> dict[str, Any]:
        """The values of what nobody says.

        Args:
            name: of the criterion or optimizer.
            said: flags that are given; a radius relative to the embeddings takes none
                of the paper's lengths, whose unit is another.

        """
        relative = f"{name}_eps_relative" in said
        return {
            flag: value
            for flag, value in self.values.items()
            if flag not in said and not (relative and flag.endswith(_LENGTHS))
        }


def paper_of(made: Any) -> Paper | None:
    """What a criterion or an optimizer has itself: one it inherits is another's.

    Args:
        made: its class; None if there is none.

    """
    found = vars(made).get("paper") if made else None
    return found if isinstance(found, Paper) else None
