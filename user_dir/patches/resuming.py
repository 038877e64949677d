"""A run that starts from a checkpoint, or goes on from one.

What the criterion and the task keep travels in the checkpoint; a checkpoint that does
not go with the command line is refused, in a line that says what each of them has.
"""

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import (
    ReduceLROnPlateauLRSchedule,
)

from ..errors import UserError
from ..model_dir import DICTIONARY, other_dictionary
from . import durable
from .announcing import RUN
from .checkpoints import KEPT_FILES, KEPT_PATIENCE, blaming, load_safely, no_file
from .workers import broadcast, naming_the_lost

logger = logging.getLogger(__name__)

#: Where a checkpoint's extra state holds what the criterion keeps.
_KEPT = "fairseq_steady"
#: Evaluations without a gain, which reduce_lr_on_plateau counts.
_BAD = "num_bad_epochs"

Load = Callable[[str], Any]


def check_same(trainer: Any, path: str, new_schedule: bool, load: Load) -> None:
    """Refuse to go on with another criterion, optimizer or schedule.

    The first worker looks; all of them stop.

    Args:
        trainer: fairseq's.
        path: of the checkpoint; nothing is checked where there is none.
        new_schedule: the schedule's state is left behind.
        load: reads a checkpoint.

    Raises:
        UserError: names both, and the ways out.

    """
    parts = ["criterion", "optimizer", *([] if new_schedule else ["lr_scheduler"])]
    said = None
    if trainer.data_parallel_rank == 0 and Path(path).is_file():
        state = load(path)
        said = _difference(state.get("cfg"), trainer.cfg, parts, path)
        _warn_of_batches(state, trainer.cfg, path)
    if trainer.data_parallel_world_size > 1:
        group = trainer.data_parallel_process_group
        said = broadcast(said, 0, group, trainer.device)
    if said:
        raise UserError(said)


def _name(cfg: Any, part: str) -> str | None:
    """What a configuration has chosen; None where it does not say."""
    found = cfg.get(part) if isinstance(cfg, Mapping) else getattr(cfg, part, None)
    named = found.get("_name") if isinstance(found, Mapping) else None
    return named or getattr(found, "_name", None)


def _difference(saved: Any, cfg: Any, parts: list[str], path: str) -> str | None:
    for part in parts:
        then, now = _name(saved, part), _name(cfg, part)
        if then and now and then != now:
            flag = "--" + part.replace("_", "-")
            own = " or --reset-lr-scheduler" if part == "lr_scheduler" else ""
            return (
                f"{path} was trained with {flag} {then}, and the command line has "
                f"{flag} {now}: go on with {then}, start anew with another --save-dir "
                "(and --finetune-from-model for these weights), or keep the weights "
                f"alone with --reset-optimizer{own}"
            )
    return None


def _warn_of_batches(state: Any, cfg: Any, path: str) -> None:
    """Say that what is left of an epoch is counted in batches of another size."""
    place = (state.get("extra_state") or {}).get("train_iterator") or {}
    if cfg.checkpoint.reset_dataloader or not place.get("iterations_in_epoch"):
        return
    then, now = (_batches(one) for one in (state.get("cfg") or {}, cfg))
    if then and then != now:
        logger.warning(
            "%s is from the middle of an epoch that was begun with %s, and goes on "
            "with %s: until it ends, some of its sentences come twice or not at all",
            *(path, _said(then), _said(now)),
        )


def _batches(cfg: Any) -> dict[str, Any]:
    """Flags that decide of an epoch's batches; none where a checkpoint has them not."""
    data, parallel = cfg.get("dataset"), cfg.get("distributed_training")
    if not (data and parallel):
        return {}
    given = {
        "--distributed-world-size": parallel.get("distributed_world_size"),
        "--batch-size": data.get("batch_size"),
        "--max-tokens": data.get("max_tokens"),
    }
    return {flag: value for flag, value in given.items() if value is not None}


def _said(flags: Mapping[str, Any]) -> str:
    return " ".join(f"{flag} {value}" for flag, value in flags.items())


def _check_average(trainer: Any, path: str, load: Load) -> None:
    """Refuse a start without the average of weights that fairseq would go on with."""
    if not (trainer.cfg.ema.store_ema and Path(path).is_file()):
        return
    if "ema" not in (load(path).get("extra_state") or {}):
        raise UserError(
            f"--store-ema goes on with a checkpoint's average, and {path} has none: "
            "leave --store-ema out"
        )


@contextmanager
def of_another_model(trainer: Any, path: str, load: Load) -> Iterator[None]:
    """Say what of a checkpoint's model does not fit.

    Raises:
        UserError: names what the checkpoint has and what the command line has.

    """
    try:
        yield
    except Exception as error:
        cause = error.__context__
        if "ensure that the architectures match" not in str(error):
            raise
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(
            f"{path} is of another model than the command line's: "
            f"{_unlike(load(path), trainer) or _last_line(cause)}; give the "
            "--steady-model (or --arch) that it was trained with, or start anew with "
            "another --save-dir and without that checkpoint"
        ) from None


def _last_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or ["they differ"])[-1].strip()


def _unlike(state: Any, trainer: Any) -> str:
    """The form's first differences, else the first tensor's."""
    saved = state.get("cfg") or {}
    then, now = (_form(cfg) for cfg in (saved, trainer.cfg))
    if then and now and then != now:
        names = [n for n in {**then, **now} if then.get(n) != now.get(n)]
        return ", ".join(
            f"{n} {then.get(n, 'none')} there, {now.get(n, 'none')} here"
            for n in names[:3]
        )
    own = trainer.get_model().state_dict()
    for name, tensor in state.get("model", {}).items():
        if name in own and tensor.shape != own[name].shape:
            there, here = tuple(tensor.shape), tuple(own[name].shape)
            return f"{name} is {there} there, {here} here"
    return ""


def _form(cfg: Any) -> dict[str, Any]:
    """Family and sizes of a model directory's model, or the name of another."""
    model: Any = cfg.get("model") if isinstance(cfg, Mapping) else cfg.model
    text = model.get("architecture") if hasattr(model, "get") else None
    if not text:
        return {"model": str(_name(cfg, "model"))}
    described = json.loads(text)
    return {"family": described["family"], **described["architecture"]}


# --- where fairseq calls this ---------------------------------------------------------


def checking_the_start(load: Callable[..., Any]) -> Callable[..., Any]:
    """A start from a checkpoint that is there, with its heads, dictionary and data.

    Left to itself fairseq trains on silently when --restore-file is missing.
    """

    @functools.wraps(load)
    def load_checkpoint(cfg: Any, trainer: Any, **kwargs: Any) -> Any:
        _check_named(cfg)
        with naming_the_lost():
            durable.prepare(trainer.cfg)
            with _new_heads(trainer):
                extra, iterator = load(cfg, trainer, **kwargs)
        RUN.updates = trainer.get_num_updates
        then = (extra or {}).get(KEPT_FILES, {})
        _check_dictionary(trainer.task, then, cfg)
        if trainer.get_num_updates() > 0:
            durable.check_unchanged(_files(trainer), then, cfg.save_dir)
            if not cfg.reset_meters:
                durable.restore_waited((extra or {}).get(KEPT_PATIENCE, {}))
            if not (cfg.reset_lr_scheduler or cfg.reset_dataloader):
                _catch_up(trainer, (extra or {}).get("val_loss"), iterator)
            _end(trainer)
        else:  # fairseq counts the hours of the run that the weights are of
            trainer._previous_training_time = 0
        return extra, iterator

    return load_checkpoint


def _catch_up(trainer: Any, loss: float | None, iterator: Any) -> None:
    """Let an epoch's evaluation lower the rate; checkpoints are written before it does.

    Only reduce_lr_on_plateau goes by evaluations.
    """
    ended = iterator.iterations_in_epoch == 0
    if ended and isinstance(trainer.lr_scheduler, ReduceLROnPlateauLRSchedule):
        trainer.lr_step(iterator.epoch - 1, loss)


def _end(trainer: Any) -> None:
    """Train nothing where all is done; fairseq would make one more update to see it."""
    cfg, length = trainer.cfg, trainer.cfg.optimization
    hours = trainer.cumulative_training_time() / 3600
    over = (
        0 < length.max_update <= trainer.get_num_updates(),
        0 < length.stop_time_hours < hours,
        0 < cfg.checkpoint.patience <= durable.waited().get("num_runs", 0),
    )
    if any(over):
        length.max_epoch = -1  # which fairseq reads next


def _check_named(cfg: Any) -> None:
    """Refuse a checkpoint that the command line names and that is not there."""
    goes_on = durable.standing(Path(cfg.save_dir)) is not None
    for name in ("restore_file", "finetune_from_model"):
        path = getattr(cfg, name)
        chosen = path is not None and path != "checkpoint_last.pt"
        if name == "finetune_from_model" and goes_on and not os.path.exists(path or ""):
            continue  # it was there when the run began, and is not needed any more
        if chosen and not os.path.isfile(path):
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} {path} {no_file(path)}; nothing was trained")


def _check_dictionary(task: Any, then: dict[str, str], cfg: Any) -> None:
    directory = getattr(task, "directory", None)
    if directory is None:
        return
    if problem := other_dictionary(then, directory.path / DICTIONARY):
        path = cfg.finetune_from_model or f"the checkpoint in {cfg.save_dir}"
        raise UserError(f"{path} {problem}; give its own with --steady-model")


def _files(trainer: Any) -> dict[str, str]:
    """Digest of each data file that the task has read."""
    return dict(getattr(trainer.task, "files", {}))


@contextmanager
def _new_heads(trainer: Any) -> Iterator[None]:
    """While a checkpoint loads, its heads become what the task has settled on."""
    heads = getattr(trainer.get_model(), "classification_heads", None)
    adapt = getattr(trainer.task, "adapt_heads", None)
    if heads is None or adapt is None:
        yield
        return

    def settle(*given: Any) -> None:
        """No method: --store-ema copies the model, and would copy the task too."""
        adapt(*given)

    hook = heads.register_load_state_dict_pre_hook(settle)
    try:
        yield
    finally:
        hook.remove()


def keeping(state_dict: Callable[..., Any]) -> Callable[..., Any]:
    """Write into each checkpoint what the criterion keeps and which data were read."""

    @functools.wraps(state_dict)
    def with_kept(trainer: Any) -> Any:
        state = state_dict(trainer)
        kept: dict[str, Any] = getattr(trainer.get_criterion(), "kept_state", dict)()
        if kept:
            state["extra_state"][_KEPT] = kept
        state["extra_state"][KEPT_FILES] = _files(trainer)
        if counted := durable.waited():
            state["extra_state"][KEPT_PATIENCE] = counted
        return state

    return with_kept


def restoring(load: Callable[..., Any]) -> Callable[..., Any]:
    """Give the criterion what it kept, on every worker, when a run goes on."""
    lazily = functools.partial(load_safely, mmap=True)  # it is loaded whole besides

    @functools.wraps(load)
    def load_checkpoint(
        trainer: Any,
        filename: str,
        reset_optimizer: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not reset_optimizer:
            check_same(trainer, filename, args[0] if args else False, lazily)
        _check_average(trainer, filename, lazily)
        with blaming(filename), of_another_model(trainer, filename, lazily):
            extra = load(trainer, filename, reset_optimizer, *args, **kwargs)
        if extra is not None and not reset_optimizer and not trainer.get_num_updates():
            logger.warning(
                "%s has no optimizer state: optimizer and schedule begin anew", filename
            )
        kept = (extra or {}).pop(_KEPT, None)
        if kept and trainer.get_num_updates() > 0:
            with blaming(filename):
                getattr(trainer.get_criterion(), "restore_kept", lambda _: None)(kept)
        return extra

    return load_checkpoint


def keeping_the_count(state_dict: Callable[..., Any]) -> Callable[..., Any]:
    """reduce_lr_on_plateau's state, with how long nothing has been gained."""

    @functools.wraps(state_dict)
    def kept(schedule: Any) -> dict[str, Any]:
        return {**state_dict(schedule), _BAD: getattr(schedule.lr_scheduler, _BAD)}

    return kept


def restoring_the_count(load: Callable[..., Any]) -> Callable[..., Any]:
    """The same back, where a checkpoint has it."""

    @functools.wraps(load)
    def restored(schedule: Any, state: Mapping[str, Any]) -> None:
        load(schedule, state)
        if _BAD in state:
            setattr(schedule.lr_scheduler, _BAD, state[_BAD])

    return restored
