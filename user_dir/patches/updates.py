"""An update of the weights: what it is checked for, and who hears of it."""

import functools
from collections.abc import Callable
from typing import Any

from .finite import naming_the_update
from .workers import naming_the_lost

#: Where a trainer remembers the last update its criterion heard of.
_NOTIFIED = "_fairseq_steady_notified"


def telling_the_criterion(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Call the criterion's ``after_update`` after each update of the weights."""

    @functools.wraps(train_step)
    def step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        before = trainer.get_num_updates()
        with naming_the_lost(), naming_the_update(trainer):
            result = train_step(trainer, *args, **kwargs)
        _tell(trainer, before)
        return result

    return step


def _tell(trainer: Any, before: int) -> None:
    criterion, after = trainer.get_criterion(), trainer.get_num_updates()
    # With --amp the trainer calls itself to repeat a batch that overflowed.
    repeated = getattr(trainer, _NOTIFIED, None) == after
    if after > before and not repeated and hasattr(criterion, "after_update"):
        setattr(trainer, _NOTIFIED, after)
        criterion.after_update(trainer.model, after)
