"""The longer-training recipe: one flag sets everything that has to agree."""

import logging
import math
from dataclasses import dataclass
from typing import Any

from fairseq.optim.lr_scheduler.polynomial_decay_schedule import (
    PolynomialDecayLRScheduleConfig,
)
from omegaconf import OmegaConf, open_dict

from ..errors import UserError

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
    def of_epochs(cls, epochs: float, sentences: int, batch: int) -> "Recipe":
        """As many updates as ``epochs`` passes over the data take."""
        return cls(max(_EVALUATIONS, round(epochs * math.ceil(sentences / batch))))

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


def end_schedule(root: Any) -> None:
    """Let a linear decay without an end of its own end with the training.

    Raises:
        UserError: the training has no end in updates either.

    """
    if OmegaConf.select(root, "lr_scheduler._name") != "polynomial_decay":
        return
    if OmegaConf.select(root, "lr_scheduler.total_num_update") not in _SILENT:
        return
    if not root.optimization.max_update:
        raise UserError(
            "--lr-scheduler polynomial_decay needs an end: give --max-update, "
            "--total-num-update, or the recipe --steady-updates"
        )
    with open_dict(root):
        root.lr_scheduler.total_num_update = root.optimization.max_update


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
            default = OmegaConf.structured(PolynomialDecayLRScheduleConfig())
            named = {"_name": "polynomial_decay", "lr": root.optimization.lr}
            root.lr_scheduler = OmegaConf.merge(OmegaConf.to_container(default), named)
        for key, value in wanted.items():
            OmegaConf.update(root, key, value)
        if "max_update" in root.criterion:  # copied there before this was known
            root.criterion.max_update = recipe.updates
        # An evaluation at every epoch's end would come on top of the ten.
        root.dataset.validate_interval = 10**6
        root.checkpoint.keep_interval_updates = 1
        root.checkpoint.no_epoch_checkpoints = True
    logger.info("recipe: %s", ", ".join(f"{k} {v}" for k, v in wanted.items()))
