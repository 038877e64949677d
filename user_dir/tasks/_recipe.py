"""The longer-training recipe: one flag sets everything that has to agree."""

import logging
import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fairseq.data import FairseqDataset
from fairseq.optim.lr_scheduler.fixed_schedule import FixedLRScheduleConfig
from fairseq.optim.lr_scheduler.polynomial_decay_schedule import (
    PolynomialDecayLRScheduleConfig,
)
from omegaconf import OmegaConf, open_dict

from ..errors import UserError
from ..patches.announcing import DETAIL
from ..patches.refusals import A_TENTH

logger = logging.getLogger(__name__)

#: Evaluations in a run, and share of it spent warming up.
_EVALUATIONS, _WARM_UP = 10, 0.1


@dataclass(frozen=True)
class Recipe:
    """Updates, 10 % of them warm-up, linear decay to 0, ten evaluations.

    Source: Zhang et al. (arXiv 2006.05987), training longer.

    Args:
        updates: in all, >= 10.

    """

    updates: int

    @classmethod
    def of_epochs(cls, updates: int) -> "Recipe":
        """As many updates as some passes over the data take, but no fewer than ten."""
        if updates < _EVALUATIONS:
            logger.warning(
                "--steady-epochs is %d updates here; training %d, one for each of the "
                "recipe's evaluations (--max-epoch has no least number)",
                *(updates, _EVALUATIONS),
            )
        return cls(max(_EVALUATIONS, updates))

    def settings(self) -> dict[str, Any]:
        """Configuration keys and what they become."""
        every = max(1, self.updates // _EVALUATIONS)
        return {
            "optimization.max_update": self.updates,
            "optimization.max_epoch": 0,
            "lr_scheduler.total_num_update": self.updates,
            "lr_scheduler.warmup_updates": round(_WARM_UP * self.updates),
            "dataset.validate_interval_updates": every,
            "checkpoint.save_interval_updates": every,
        }


#: --total-num-update when nobody says anything.
UNSAID = 1000000
#: What fairseq has for the keys of a recipe then.
_SILENT = (None, 0, UNSAID)


#: Passes that are counted one by one; more are as many times their mean.
_COUNTED = 50


def count_updates(epochs: float, data: FairseqDataset, root: Any) -> int:
    """Updates in some passes over the data, in the batches that fairseq makes.

    Args:
        epochs: passes, > 0.
        data: what is trained on; no example is above ``--max-tokens``.
        root: fairseq's configuration.

    """
    varies = root.dataset.max_tokens or len(root.optimization.update_freq) > 1
    passes = min(math.ceil(epochs), _COUNTED) if varies else 1
    counts = [_updates_in(epoch, data, root) for epoch in range(1, passes + 1)]
    return round(epochs * (sum(counts) / passes))


def _updates_in(epoch: int, data: FairseqDataset, root: Any) -> int:
    data.set_epoch(epoch)
    most = root.dataset.max_tokens, root.dataset.batch_size
    batches = len(data.batch_by_size(data.ordered_indices(), *most))
    each: list[int] = root.optimization.update_freq
    workers: int = root.distributed_training.distributed_world_size
    mine, freq = math.ceil(batches / workers), each[min(epoch, len(each)) - 1]
    # fairseq leaves out a worker's last batch, whole or not, then what is no update.
    skips = root.optimization.skip_remainder_batch
    return (mine - 1) // freq if skips else math.ceil(mine / freq)


def length_of(root: Any, updates: Callable[[float], int]) -> int:
    """Updates until the training ends, by flags that say so; 0 where none does.

    Args:
        root: fairseq's configuration.
        updates: counts those of some passes over the data.

    """
    length = root.optimization
    ends = [length.max_update] if length.max_update else []
    if length.max_epoch:
        ends.append(updates(length.max_epoch))
    total = OmegaConf.select(root, "lr_scheduler.total_num_update")
    return int(min(ends, default=0 if total in _SILENT else total))


def name_schedule(root: Any) -> None:
    """Give a YAML file without a schedule the command line's: a constant rate.

    Raises:
        UserError: it sets something of a schedule that it does not name.

    """
    chosen = root.get("lr_scheduler")
    if isinstance(chosen, Namespace) or OmegaConf.select(root, "lr_scheduler._name"):
        return  # one of fairseq's older kind, or one with a name
    if chosen:
        raise UserError(
            "lr_scheduler._name is missing: for example polynomial_decay, or fixed"
        )
    _schedule(root, FixedLRScheduleConfig(), "fixed")


def _schedule(root: Any, config: Any, name: str) -> None:
    named = {"_name": name, "lr": root.optimization.lr}
    default = OmegaConf.to_container(OmegaConf.structured(config))
    with open_dict(root):
        root.lr_scheduler = OmegaConf.merge(default, named)


def end_schedule(root: Any, updates: Callable[[float], int]) -> None:
    """Let a linear decay without an end of its own end with the training.

    Args:
        root: fairseq's configuration.
        updates: counts those of some passes over the data.

    Raises:
        UserError: the training has no end either.

    """
    if OmegaConf.select(root, "lr_scheduler._name") != "polynomial_decay":
        return
    if OmegaConf.select(root, "lr_scheduler.total_num_update") in _SILENT:
        end = length_of(root, updates)
        if not end:
            raise UserError(
                "--lr-scheduler polynomial_decay needs an end: give --max-update, "
                "--max-epoch, --total-num-update, or the recipe --steady-updates"
            )
        with open_dict(root):
            root.lr_scheduler.total_num_update = end
    if root.lr_scheduler.warmup_updates == A_TENTH:
        tenth = round(_WARM_UP * root.lr_scheduler.total_num_update)
        root.lr_scheduler.warmup_updates = tenth


def warn_of_schedule(root: Any, updates: Callable[[float], int]) -> None:
    """Remark a training that has no end, and a rate that it never gets to."""
    chosen, length = root.lr_scheduler, root.optimization
    warm_up = int(getattr(chosen, "warmup_updates", 0) or 0)
    warm_up += int(getattr(chosen, "warmup_steps", 0) or 0)
    total = getattr(chosen, "total_num_update", None)
    if getattr(chosen, "_name", None) != "polynomial_decay" or total in _SILENT:
        total = None
    ends = length.max_update or length.max_epoch or length.stop_time_hours > 0
    if not (ends or length.stop_min_lr > 0 or root.checkpoint.patience > 0):
        logger.warning(
            "nothing ends this training but Ctrl-C: give --max-epoch or --max-update"
        )
    last = length.max_update or total
    if warm_up and length.max_epoch:
        last = min(last or math.inf, updates(length.max_epoch))
    if last and warm_up and warm_up >= last:
        logger.warning(
            "--lr %s is not reached before the end: %d updates of warm-up, and %d in "
            "all; lower --warmup-updates (the rate gets to %.2g)",
            *(f"{length.lr[0]:g}", warm_up, last, length.lr[0] * last / warm_up),
        )
    if total and length.max_update > total and length_of(root, updates) > total:
        logger.warning(
            "--total-num-update %d is before --max-update %d: the learning rate is %g "
            "for all updates after it",
            *(total, length.max_update, chosen.end_learning_rate),
        )


def _flag(key: str) -> str:
    return "--" + key.split(".")[1].replace("_", "-")


def apply(recipe: Recipe, root: Any) -> None:
    """Write the recipe into fairseq's configuration.

    Raises:
        UserError: the command line asks for something else.

    """
    scheduler = OmegaConf.select(root, "lr_scheduler._name")
    if scheduler not in ("fixed", "polynomial_decay"):
        raise UserError(
            f"--lr-scheduler {scheduler} does not go with --steady-updates and "
            "--steady-epochs, which decay linearly; leave one out"
        )
    wanted = recipe.settings()
    for key, value in wanted.items():
        said = OmegaConf.select(root, key)
        if said not in _SILENT and float(said) != float(value):
            raise UserError(
                f"{_flag(key)} {said:g} does not match the {value} of a recipe of "
                f"{recipe.updates} updates; leave {_flag(key)} out"
            )
    with open_dict(root):
        if scheduler == "fixed":
            _schedule(root, PolynomialDecayLRScheduleConfig(), "polynomial_decay")
        for key, value in wanted.items():
            OmegaConf.update(root, key, value)
        if "max_update" in root.criterion:  # copied there before this was known
            root.criterion.max_update = recipe.updates
        # An evaluation at every epoch's end would come on top of the ten.
        root.dataset.validate_interval = 10**6
        root.checkpoint.keep_interval_updates = 1
        root.checkpoint.no_epoch_checkpoints = True
    said = ", ".join(f"{k} {v}" for k, v in wanted.items())
    logger.info("recipe: %s", said, extra=DETAIL)
