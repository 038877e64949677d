"""Checkpoints: loaded without running code, checked before anything is made of them."""

import argparse
import functools
import inspect
import json
import os
import pickle
import re
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, NotRequired

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.file_io import PathManager
from fairseq.logging import meters
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, InstanceOf
from torch import Tensor
from typing_extensions import TypedDict

from ..errors import UserError, explanation
from ..files import conform, short
from ..models.architectures import check_architecture
from ..plugins import is_ours

#: Models and tasks of fairseq's own that a checkpoint may name; this plugin's besides.
_MODELS = ("bart", "roberta", "transformer")
_TASKS = (
    "denoising",
    "masked_lm",
    "sentence_prediction",
    "sentence_ranking",
    "translation",
    "translation_from_pretrained_bart",
)
_METERS = tuple(name for name, value in vars(meters).items() if isinstance(value, type))
#: What fairseq, torch and OmegaConf raise over the content of a checkpoint; torch a
#: RuntimeError too, where it is not about a lost worker.
DAMAGES = (
    *(AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError),
    OmegaConfBaseException,
)
_MEND = "it is damaged or no checkpoint of fairseq's: write or download it again"

Number = Annotated[int, Field(ge=0)]
Weights = dict[str, InstanceOf[Tensor]]
Settings = dict[str, Any]


class Teacher(TypedDict):
    """What smart keeps of its teacher."""

    updates: Number
    early: NotRequired[Number]
    model: Weights


class Perturbations(TypedDict):
    """What sift and smart keep of a data set's perturbations."""

    ids: InstanceOf[Tensor]
    used: InstanceOf[Tensor]
    sizes: InstanceOf[Tensor]
    data: InstanceOf[Tensor]


class Rise(TypedDict):
    """How lambda rises, as a criterion that has one keeps it."""

    share: Annotated[float, Field(ge=0, le=1)]
    updates: Number


class Kept(TypedDict, total=False):
    """What a criterion keeps."""

    teacher: Teacher
    perturbations: dict[str, Perturbations]
    warmup: Rise


class Position(TypedDict, total=False):
    """Where in the data a run was."""

    epoch: Number
    iterations_in_epoch: Number


#: Where a checkpoint's extra state holds digests of files, as below.
KEPT_FILES = "fairseq_steady_data"
#: Where it holds what --patience has counted.
KEPT_PATIENCE = "fairseq_steady_patience"
#: Where it holds of how many checkpoints its weights are the mean.
AVERAGED = "fairseq_steady_averaged"


class Waited(TypedDict):
    """The best evaluation, and those since."""

    best: float
    num_runs: Number


class Extra(TypedDict, total=False):
    """Everything beside weights and optimizer."""

    train_iterator: Position | None
    fairseq_steady: Kept
    fairseq_steady_data: dict[str, str]
    fairseq_steady_patience: Waited
    fairseq_steady_averaged: int
    metrics: dict[str, list[tuple[int | None, str, str, Any]]]


class History(TypedDict, total=False):
    """One optimizer's past."""

    criterion_name: str
    optimizer_name: str
    lr_scheduler_state: Settings
    num_updates: Number


class TaskState(TypedDict, total=False):
    """What a task keeps."""

    labels: Annotated[list[str], Field(min_length=2)]
    rows: dict[str, Number]


class Checkpoint(TypedDict, total=False):
    """As fairseq writes it, as far as anything here or in fairseq reads it."""

    model: Weights
    args: InstanceOf[Namespace] | None
    cfg: Settings | None
    task_state: TaskState
    extra_state: Extra
    optimizer_history: Annotated[list[History], Field(min_length=1)]


def _safe_globals() -> list[Any]:
    """Classes that fairseq's own and published checkpoints hold, and nothing else."""
    logged = [
        cls
        for _, cls in inspect.getmembers(meters, inspect.isclass)
        if issubclass(cls, meters.Meter)
    ]
    # Checkpoints from before 2020 name the meters by their old module.
    moved = [(cls, f"fairseq.meters.{cls.__name__}") for cls in logged]
    scalar = np.float64(0).__reduce__()[0]
    numbers = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    dtypes = [type(np.dtype(t)) for t in ("f4", "f8", "i4", "i8", "bool")]
    return [argparse.Namespace, *logged, *moved, *numbers, *dtypes]


def allow_checkpoints() -> None:
    """Let torch load what checkpoints hold; others may have taken it back."""
    torch.serialization.add_safe_globals(_safe_globals())


def _unsafe_names(path: str, error: pickle.UnpicklingError) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an old format that cannot be listed: take torch's word
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
    return ", ".join(sorted(names)) or "an object it should not need"


def no_file(path: str | os.PathLike[str]) -> str:
    """What to say of a checkpoint that is not there."""
    if os.path.isdir(path):
        return "is a folder; name a checkpoint in it, such as checkpoint_best.pt"
    return "does not exist"


def load_safely(path: str | os.PathLike[str], mmap: bool = False) -> Any:
    """``torch.load`` on the CPU that never runs code from the file.

    ``mmap`` leaves tensors on disk until they are looked at.

    Raises:
        UserError: the file is missing, damaged, or holds a class that a checkpoint
            does not need; the message names it.

    """
    allow_checkpoints()
    try:
        lazy = mmap and zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} {no_file(path)}") from None
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(str(path), error)) from None
    except (RuntimeError, EOFError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not a whole torch checkpoint ({first}); write or download it "
            "again"
        ) from None


def _refusal(path: str, error: pickle.UnpicklingError) -> str:
    with open(path, "rb") as file:
        pickled = file.read(1) == b"\x80"
    if not (pickled or zipfile.is_zipfile(path)):
        return (
            f"{path} is no torch checkpoint; name one that fairseq-train wrote, or get "
            "it again (from Git LFS with: git lfs pull)"
        )
    return (
        f"{path} holds {_unsafe_names(path, error)}, which a checkpoint does not need "
        "and which could run code when loaded: do not load it; get the weights from "
        "a source you trust, as safetensors or a plain state dict"
    )


def check_checkpoint(state: Any, path: object) -> None:
    """Refuse what is not built as a checkpoint is.

    Raises:
        UserError: names the file and the field.

    """
    if isinstance(state, Mapping) and "model" not in state:
        raise UserError(f"{path}: field 'model' is missing; {_MEND}")
    found = conform(Checkpoint, state, path, _MEND)
    for group in found.get("extra_state", {}).get("metrics", {}).values():
        for _, name, kind, _ in group:
            if kind not in _METERS:
                raise UserError(
                    f"{path}: no kind of meter is {kind!r} ({name}); {_MEND}"
                )
    _check_interpolations(found.get("cfg"), path)
    _check_described(found, path)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _check_interpolations(cfg: Any, path: object) -> None:
    """Settings in a checkpoint are values; OmegaConf would look ``${oc.env:..}`` up."""
    for text in _texts(cfg):
        if "${" in text:
            raise UserError(f"{path}: a setting is {text[:60]!r}, no value; {_MEND}")


def _names(state: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Architecture and task that a checkpoint says it is of."""
    if state.get("args") is not None:
        args = vars(state["args"])
        return args.get("arch"), args.get("task")
    cfg = state.get("cfg") or {}
    parts = [cfg.get(part) for part in ("model", "task")]
    names = [
        part.get("_name") if isinstance(part, Mapping) else getattr(part, "_name", None)
        for part in parts
    ]
    return names[0], names[1]


def _check_described(state: Mapping[str, Any], path: object) -> None:
    """The architecture that a checkpoint of ``--arch steady`` carries."""
    model = (state.get("cfg") or {}).get("model")
    described = model.get("architecture") if isinstance(model, Mapping) else None
    if _names(state)[0] == "steady" and described:
        try:
            form = json.loads(described)
            family, architecture = form["family"], form["architecture"]
        except (ValueError, TypeError, KeyError, RecursionError):
            problem = f"field 'cfg.model.architecture' is {short(described)}"
            raise UserError(f"{path}: {problem}; {_MEND}") from None
        check_architecture(family, architecture, path)


def check_names(state: Mapping[str, Any], path: object) -> None:
    """Refuse a checkpoint of a model or task that neither we nor our users have.

    Raises:
        UserError: names it.

    """
    arch, task = _names(state)
    if not (isinstance(arch, str) and isinstance(task, str)):
        raise UserError(f"{path} names no model and task; {_MEND}")
    model = ARCH_MODEL_NAME_REGISTRY.get(arch, arch)
    for what, name, registry, allowed in (
        ("model", model, MODEL_REGISTRY, _MODELS),
        ("task", task, TASK_REGISTRY, _TASKS),
    ):
        if not (is_ours(registry.get(name)) or name in allowed):
            raise UserError(
                f"{path} is of {what} {name!r}, which this plugin does not load; it "
                f"loads its own and fairseq's {', '.join(allowed)}"
            )


@contextmanager
def blaming(
    path: object, kinds: tuple[type[Exception], ...] = DAMAGES
) -> Iterator[None]:
    """What is raised inside is over a setting of another type, or the like.

    Raises:
        UserError: names the checkpoint and what was said.

    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        # fairseq asserts that the command line is as it was: not the file's fault.
        if isinstance(error, AssertionError) and explanation(error):
            raise
        first = (str(error).strip().splitlines() or ["no more"])[0]
        said = f"{type(error).__name__}: {first}"
        raise UserError(f"{path} cannot be made use of ({said}); {_MEND}") from error


def load_checked(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`load_safely` gives, built as a checkpoint is."""
    state: dict[str, Any] = load_safely(path)
    check_checkpoint(state, path)
    return state


def load_checkpoint(
    path: str,
    arg_overrides: Mapping[str, Any] | None = None,
    load_on_all_ranks: bool = False,
) -> dict[str, Any]:
    """In place of fairseq's ``load_checkpoint_to_cpu``: safe, checked, upgraded.

    Args:
        path: of the checkpoint.
        arg_overrides: settings to change in it.
        load_on_all_ranks: as fairseq calls it; every worker reads the file itself.

    Raises:
        UserError: the file is missing or damaged, could run code, or is not built as a
            checkpoint is.

    """
    state = load_checked(PathManager.get_local_path(path))
    changes = dict(arg_overrides or {})
    if state.get("args") is not None:
        vars(state["args"]).update(changes)
    if state.get("cfg") is not None:
        # Settings of stock models are Namespaces inside the configuration.
        state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
        overwrite_args_by_name(state["cfg"], changes)
    with blaming(path, (*DAMAGES, RuntimeError)):
        upgraded: dict[str, Any] = checkpoint_utils._upgrade_state_dict(state)
    return upgraded


def known_only(load: Callable[..., Any]) -> Callable[..., Any]:
    """Build what a checkpoint describes only where :func:`check_names` lets it."""

    @functools.wraps(load)
    def load_model_ensemble_and_task(
        filenames: list[str], arg_overrides: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        state = kwargs.get("state")
        states = (
            [state]
            if state is not None
            else [
                checkpoint_utils.load_checkpoint_to_cpu(name, arg_overrides)
                for name in filenames
            ]
        )
        for found, name in zip(states, filenames, strict=True):
            check_names(found, name)
        if len(states) == 1:
            kwargs["state"] = states[0]
        with blaming(filenames[0], (*DAMAGES, RuntimeError)):
            return load(filenames, arg_overrides, *args, **kwargs)

    return load_model_ensemble_and_task
