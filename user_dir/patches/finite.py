"""Numbers that are no numbers any more: said once, with the update and the mend.

fairseq writes a checkpoint of the broken run, repeats the batch with a detector in
every layer, and ends in whatever that runs into.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import UserError


class NotFinite(Exception):  # noqa: N818  says what is, not what went wrong
    """What is not finite; nothing of fairseq's catches it."""


def of_gradients(check: Callable[..., None]) -> Callable[..., None]:
    """Look at the gradient's norm before fairseq does."""

    @functools.wraps(check)
    def check_grad_norms(trainer: Any, norm: Any) -> None:
        # With --amp a GPU's scaler skips such a batch; on a CPU there is none.
        skipped = trainer.cfg.common.amp and trainer.cuda
        if not (skipped or torch.isfinite(norm).all()):
            raise NotFinite("the gradient is NaN or infinite")
        try:
            check(trainer, norm)
        except FloatingPointError as error:
            raise NotFinite(str(error).splitlines()[0]) from None

    return check_grad_norms


def of_scales(step: Callable[..., Any]) -> Callable[..., Any]:
    """Where half precision gives up."""

    @functools.wraps(step)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except FloatingPointError:
            raise NotFinite(
                "the gradient overflows half precision at every --min-loss-scale"
            ) from None

    return wrapped


def of_amp_scales(clip: Callable[..., Any]) -> Callable[..., Any]:
    """The same of --amp, which has no scale on a CPU: fairseq asks for it there too."""
    scaled = of_scales(clip)

    @functools.wraps(clip)
    def clip_grad_norm(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if not optimizer.scaler.is_enabled():
            return optimizer.fp32_optimizer.clip_grad_norm(*args, **kwargs)
        return scaled(optimizer, *args, **kwargs)

    return clip_grad_norm


def of_amp_steps(step: Callable[..., Any]) -> Callable[..., Any]:
    """Step the optimizer whose gradients are unscaled, not the one around it.

    To the scaler that is another one, so that it divides them by the scale again.
    """

    @functools.wraps(step)
    def wrapped(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if not optimizer.scaler.is_enabled():
            return step(optimizer, *args, **kwargs)
        optimizer.scaler.step(optimizer.optimizer)
        optimizer.scaler.update()
        return None

    return wrapped


def of_losses(valid_step: Callable[..., Any]) -> Callable[..., Any]:
    """An evaluation whose loss is no number: the weights are lost already."""

    @functools.wraps(valid_step)
    def wrapped(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        logged = valid_step(trainer, *args, **kwargs)
        loss = (logged or {}).get("loss", 0)
        if not math.isfinite(float(loss)):
            raise UserError(
                f"after update {trainer.get_num_updates()} of --criterion "
                f"{_method(trainer)}: the loss of the evaluation is {float(loss)}. "
                + _mend(trainer)
            )
        return logged

    return wrapped


@contextmanager
def naming_the_update(trainer: Any) -> Iterator[None]:
    """Say at which update, by which method, and what to lower.

    Raises:
        UserError: one line of it.

    """
    try:
        yield
    except NotFinite as error:
        update = trainer.get_num_updates() + 1
        raise UserError(
            f"update {update} of --criterion {_method(trainer)}: {error}. "
            + _mend(trainer)
        ) from None


def _method(trainer: Any) -> str:
    return str(getattr(trainer.cfg.criterion, "_name", ""))


def _mend(trainer: Any) -> str:
    method, cfg = _method(trainer), trainer.cfg.criterion
    own = [
        f"--{method.replace('_', '-')}-{name}"
        for name in ("lambda", "eps", "init", "step")
        if hasattr(cfg, f"{method}_{name}")
    ]
    rate = f"--lr ({trainer.cfg.optimization.lr[0]:g})"
    clip = "" if trainer.cfg.optimization.clip_norm else ", set --clip-norm 1"
    return (
        f"Lower {' or '.join([rate, *own])}{clip}, or warm up for longer; checkpoints "
        "from before are intact"
    )
