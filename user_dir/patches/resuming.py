"""A checkpoint and a command line that do not go together: what each of them has."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from .workers import broadcast

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
        said = _difference(load(path).get("cfg"), trainer.cfg, parts, path)
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
