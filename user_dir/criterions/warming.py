"""Lambda, the factor of a regulariser, and its rise from 0 at the start."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UserError
from .kinds import Classes
from .plain import Outcome, PlainCriterion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Warmup:
    """How lambda rises.

    Args:
        share: of the training's updates, in [0, 1].
        updates: as many as that is; from the last of them on lambda is whole.

    """

    share: float
    updates: int

    def reached(self, update: int) -> float:
        """Share of lambda in an update, given how many there were before it."""
        return min(1.0, update / self.updates) if self.updates else 1.0


class WeightedCriterion(PlainCriterion):
    """A criterion with a lambda, its flag ``--<method>-lambda``.

    With ``--<method>-warmup`` lambda rises linearly over the first updates, by the
    update's number. How many these are is settled when training begins and kept in
    checkpoints, so that another ``--max-update`` does not bend a rise under way.
    """

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        name = f"{self.method}_warmup"
        share = getattr(self.cfg, name, 0.0)
        defaults = {f.name: f.default for f in dataclasses.fields(self.cfg)}
        self._asked = share != defaults.get(name, 0.0)
        self._warmup = Warmup(share, 0)
        self._settled = share == 0

    @property
    def whole(self) -> float:
        """Lambda when it has risen."""
        found: float = getattr(self.cfg, f"{self.method}_lambda")
        return found

    @property
    def strength(self) -> float:
        """Lambda of the update under way."""
        return self.whole * self._warmup.reached(self.update)

    @property
    def active(self) -> bool:
        """Whether lambda is ever above 0."""
        return self.whole > 0

    def before_update(self, model: nn.Module, update: int) -> None:
        """Before the first, settle how long lambda rises.

        Without an end of the training that it could be a share of, a default rise is
        none.

        Raises:
            UserError: without an end, and the rise is asked for.

        """
        super().before_update(model, update)
        if not self._settled:
            self._settled = True
            share, length = self._warmup.share, self._length()
            self._warmup = Warmup(share, round(share * length))
            if not length:
                logger.warning(
                    "%s: lambda is %g from the first update, for this training has no "
                    "end that a rise could be a share of: give --max-update or "
                    "--max-epoch",
                    *(self.method, self.whole),
                )
                return
            logger.info(
                "%s: lambda rises to %g over the first %d updates",
                *(self.method, self.whole, self._warmup.updates),
            )

    def _length(self) -> int:
        """Updates of the whole training; 0 where nothing tells and nobody asked."""
        count = getattr(self.task, "updates_in_all", lambda: self.cfg.max_update)
        length = int(count())
        if not length and self._asked:
            raise UserError(
                f"--{self.method.replace('_', '-')}-warmup {self._warmup.share:g} is a "
                "share of a training that has no end: give --max-update or --max-epoch"
            )
        return length

    def rising(self, sentences: int) -> dict[str, Any]:
        """What is logged of lambda until it is whole, summed over sentences."""
        under_way = self.update < self._warmup.updates
        return {"lambda": self.strength * sentences} if under_way else {}

    def left_out(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """A batch of which nothing is regularised, which costs what plain does."""
        outcome, count = self.plain_outcome(model, sample, kind), len(sample["id"])
        logged = {"regularised": 0, "passes": count, **self.rising(count)}
        return outcome._replace(logged=logged)

    def kept_state(self) -> dict[str, Any]:
        """How lambda rises, if it does."""
        kept = {"share": self._warmup.share, "updates": self._warmup.updates}
        rises = self._settled and self._warmup.share > 0
        return super().kept_state() | ({"warmup": kept} if rises else {})

    def restore_kept(self, state: dict[str, Any]) -> None:
        """Go on rising as the checkpoint's run did, unless the share is another."""
        super().restore_kept(state)
        kept = state.get("warmup")
        if kept and kept["share"] == self._warmup.share:
            self._warmup, self._settled = Warmup(**kept), True
