"""An update of the weights: what it is checked for, and who hears of it."""

import functools
from collections.abc import Callable
from typing import Any

from .finite import naming_the_update
from .workers import naming_the_lost

#: Where a trainer remembers the last update its criterion heard of.
_NOTIFIED = "_fairseq_steady_notified"


def telling_the_criterion(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Call the criterion's hooks before and after each update of the weights."""

    @functools.wraps(train_step)
    def step(trainer: Any, samples: Any, *args: Any, **kwargs: Any) -> Any:
        before = trainer.get_num_updates()
        _announce(trainer, before)
        real = samples if trainer.is_fsdp else _without_missing(samples)
        with naming_the_lost(), naming_the_update(trainer):
            result = train_step(trainer, real, *args, **kwargs)
        _tell(trainer, before)
        return result

    return step


def _without_missing(samples: list[Any]) -> list[Any]:
    """A worker's batches of one update; one that is missing if there are no others.

    fairseq counts none of them where the last is missing, and keeps their gradient.
    Workers exchange after their last batch only, however many they have; but for FSDP,
    whose every pass is an exchange.
    """
    return [sample for sample in samples if sample] or samples[:1]


def _announce(trainer: Any, before: int) -> None:
    criterion = trainer.get_criterion()
    if hasattr(criterion, "before_update"):
        criterion.before_update(trainer.model, before)


def _tell(trainer: Any, before: int) -> None:
    criterion, after = trainer.get_criterion(), trainer.get_num_updates()
    # With --amp the trainer calls itself to repeat a batch that overflowed.
    repeated = getattr(trainer, _NOTIFIED, None) == after
    if after > before and not repeated and hasattr(criterion, "after_update"):
        setattr(trainer, _NOTIFIED, after)
        criterion.after_update(trainer.model, after)


def marking_dummies(reset: Callable[..., None]) -> Callable[..., None]:
    """Mark the batch that stands in for a missing one, and has no effect."""

    @functools.wraps(reset)
    def marked(trainer: Any, batch: Any) -> None:
        reset(trainer, {**batch, "dummy": True} if isinstance(batch, dict) else batch)

    return marked
