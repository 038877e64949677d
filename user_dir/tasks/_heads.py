"""A checkpoint's heads in another run: names decide which output is which class."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, Required

from torch import Tensor, nn
from typing_extensions import TypedDict

from ..data.glue import LAYOUTS
from ..errors import UserError
from ..files import conform
from ..models.steady import HEAD
from ..patches.checkpoints import load_safely
from ..patches.durable import standing

logger = logging.getLogger(__name__)

#: Where a checkpoint's task state holds what its heads predict.
HEADS = "heads"
#: The task of a head that says nothing of its classes: fairseq's own.
_UNNAMED = "a task that names no classes"
#: Class names that an error shows.
_SHOWN = 12
_LAST = "checkpoint_last.pt"
_PREFIX, _OUTPUT = "classification_heads.", "out_proj."
#: What of an output layer has no row per class: r4f's vector over its inputs.
_ROWLESS = "spectral_v"


@dataclass(frozen=True)
class Head:
    """What a head predicts.

    Args:
        labels: class names in the order of its outputs; None for scores.
        of: task that gives the names their meaning; empty for a user's own classes.
        several: whether any number of them hold, each by an output of its own.

    """

    labels: tuple[str, ...] | None
    of: str = ""
    several: bool = False

    def __str__(self) -> str:
        task = f" of {self.of}" if self.of else ""
        if self.labels is None:
            return f"scores{task}"
        more = len(self.labels) - _SHOWN
        rest = f" and {more} more" if more > 0 else ""
        what = "any of the labels" if self.several else "classes"
        return f"{what} {', '.join(self.labels[:_SHOWN])}{rest}{task}"

    def stored(self) -> dict[str, Any]:
        """As checkpoints keep it."""
        labels = None if self.labels is None else list(self.labels)
        several = {"several": True} if self.several else {}
        return {"labels": labels, "of": self.of, **several}


class Start(NamedTuple):
    """The checkpoint that training starts from.

    Args:
        path: of the file.
        heads: what it holds, by name.
        resumes: whether its run goes on, rather than a new one beginning.
        told: its own name of each class that the user has renamed.

    """

    path: Path
    heads: dict[str, Head]
    resumes: bool
    told: Mapping[str, str] = {}


#: What becomes of each head, by name: the checkpoint's rows in this order, or None for
#: a new head. Heads that are not named stay as they are.
Moves = dict[str, list[int] | None]


# --- what a checkpoint holds ----------------------------------------------------------


class _Stored(TypedDict):
    labels: Sequence[str] | None
    of: str
    several: NotRequired[bool]


class _Task(TypedDict, total=False):
    _name: str
    glue_task: str | None
    multitask_names: str


class _State(TypedDict, total=False):
    heads: dict[str, _Stored]
    labels: list[str]


class _Checkpoint(TypedDict, total=False):
    model: Required[dict[str, Any]]
    task_state: _State | None
    cfg: dict[str, Any] | None


def _before(task: _Task, state: _State) -> dict[str, Head]:
    """Heads of a checkpoint from before they were kept: tasks imply them."""
    name, glue = task.get("_name"), task.get("glue_task")
    if name in ("cola", "uci_sentiment"):
        return {HEAD: Head(("0", "1"), name)}
    if name == "text_classification" and "labels" in state:
        return {HEAD: Head(tuple(state["labels"]))}
    if name == "text_regression":
        return {HEAD: Head(None)}
    if name == "glue" and glue in LAYOUTS:
        return {HEAD: glue_head(glue)}
    names = task.get("multitask_names", "") if name == "glue_multitask" else ""
    parts = (part.strip() for part in names.split(","))
    return {part: glue_head(part) for part in parts if part in LAYOUTS}


def _head(stored: _Stored) -> Head:
    labels = stored["labels"]
    several = stored.get("several", False)
    return Head(None if labels is None else tuple(labels), stored["of"], several)


def glue_head(task: str) -> Head:
    """Of one of GLUE's tasks."""
    return _head({"labels": LAYOUTS[task].labels, "of": task})


def _outputs(model: Mapping[str, Any]) -> dict[str, int]:
    """Outputs of each head of a model, by name."""
    end = f".{_OUTPUT}weight"
    return {
        key.removeprefix(_PREFIX).removesuffix(end): len(tensor)
        for key, tensor in model.items()
        if key.startswith(_PREFIX) and key.endswith(end) and isinstance(tensor, Tensor)
    }


def _unnamed(outputs: int) -> Head:
    labels = tuple(map(str, range(outputs))) if outputs > 1 else None
    return Head(labels, _UNNAMED if labels else "")


def stored_heads(state: Any, path: Path) -> dict[str, Head]:
    """What the heads of a checkpoint predict, by name.

    Raises:
        UserError: the checkpoint is not as it should be.

    """
    mend = "name a checkpoint that fairseq-train wrote"
    found = conform(_Checkpoint, state, path, mend)
    kept, task = found.get("task_state") or {}, (found.get("cfg") or {}).get("task")
    said = {name: _head(head) for name, head in kept.get("heads", {}).items()}
    if not said and isinstance(task, dict):  # fairseq's older tasks have another form
        said = _before(conform(_Task, task, f"{path}: cfg.task", mend), kept)
    heads = {}
    for name, outputs in _outputs(found["model"]).items():
        head = said.get(name, _unnamed(outputs))
        fits = len(head.labels or ("score",)) == outputs
        heads[name] = head if fits else _unnamed(outputs)
    return heads


def find_start(cfg: Any) -> Start | None:
    """The checkpoint that fairseq is going to load, if any.

    Args:
        cfg: fairseq's ``checkpoint`` section.

    Raises:
        UserError: it is no checkpoint.

    """
    path, resumes = _chosen(cfg), not cfg.reset_optimizer
    if path is None and cfg.finetune_from_model:
        path, resumes = Path(cfg.finetune_from_model), False
    if path is None or not path.is_file():  # said later, by flag
        return None
    state = load_safely(path, mmap=True)
    heads = stored_heads(state, path)
    resumes = resumes and state.get("last_optimizer_state") is not None
    return Start(path, heads, resumes)


def _chosen(cfg: Any) -> Path | None:
    """What a run goes on from, in fairseq's order."""
    if cfg.restore_file != _LAST:
        return Path(cfg.restore_file)
    once = getattr(cfg, "continue_once", None)
    return standing(Path(cfg.save_dir)) or (Path(once) if once else None)


# --- what becomes of it ---------------------------------------------------------------


def renamed(start: Start, name: str, given: str | None) -> Start:
    """The classes of a checkpoint's head as ``--steady-label-map`` calls them.

    Raises:
        UserError: the map does not fit them.

    """
    if not given or start.resumes:  # then it was applied before
        return start
    if name not in start.heads:
        raise UserError(f"--steady-label-map: {start.path} has no head '{name}'")
    pairs = [_pair(each) for each in given.split(",")]
    if twice := repeated([old for old, _ in pairs]):
        raise UserError(
            f"--steady-label-map {given} renames '{twice}' twice; name each class once"
        )
    new = dict(pairs)
    head = _renamed(start.heads[name], new, start.path)
    told = {now: old for old, now in new.items()}
    return start._replace(heads={**start.heads, name: head}, told=told)


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = (part.strip() for part in text.partition("="))
    if not (old and equals and new):
        raise UserError(
            f"--steady-label-map: '{text.strip()}' is not OLD=NEW; give the "
            "checkpoint's name of each class, and this run's"
        )
    return old, new


def _renamed(head: Head, new: Mapping[str, str], path: Path) -> Head:
    labels = head.labels or ()
    unknown = [old for old in new if old not in labels]
    if unknown:
        raise UserError(
            f"--steady-label-map: {path} has no class '{unknown[0]}' but {head}; write "
            "OLD=NEW, its name of a class first"
        )
    found = tuple(new.get(label, label) for label in labels)
    if twice := repeated(found):
        raise UserError(f"--steady-label-map makes '{twice}' of two classes of {path}")
    return Head(found, several=head.several)


def repeated(labels: Sequence[str]) -> str | None:
    """A label that is there twice, if any."""
    return next((label for label, n in Counter(labels).items() if n > 1), None)


def moves(start: Start, heads: Mapping[str, Head]) -> Moves:
    """How a checkpoint's heads become those of this run.

    Raises:
        UserError: they cannot: names both, and what can be done.

    """
    found: Moves = {}
    for name, head in heads.items():
        if name in start.heads:
            found[name] = _order(start, start.heads[name], head)
        elif start.heads:
            others = ", ".join(start.heads)
            logger.warning(
                "%s has no head '%s' but %s: '%s' starts anew",
                *(start.path, name, others, name),
            )
    return found


def _order(start: Start, old: Head, new: Head) -> list[int]:
    """Which of the old outputs each of the new ones is."""
    scores = old.labels is None and new.labels is None
    if scores and not _foreign(old, new):
        logger.info("the head of %s goes on: %s", start.path, old)
        return [0]
    was, now = old.labels or (), new.labels or ()
    differ = _foreign(old, new) or old.several != new.several
    other = scores or set(was) != set(now) or differ
    if other or (start.resumes and was != now):
        raise UserError(_refusal(start, old, new))
    order = [was.index(label) for label in now]
    how = "" if was == now else f", put in the order {', '.join(now)}"
    logger.info("the head of %s goes on: %s%s", start.path, old, how)
    return order


def _foreign(old: Head, new: Head) -> bool:
    """Whether equal names mean different things."""
    return old.of == _UNNAMED or bool(old.of and new.of and old.of != new.of)


def _refusal(start: Start, old: Head, new: Head) -> str:
    differ = f"{start.path} has a head for {old}, and this run is for {new}"
    if start.resumes:
        return (
            f"{differ}: a run goes on with what it began with; give it the same again, "
            f"or begin another with --save-dir and --finetune-from-model {start.path}"
        )
    mend = "--steady-new-head leaves it behind"
    alike = old.labels and new.labels and old.several == new.several
    if old.labels and new.labels and alike and len(old.labels) == len(new.labels):
        pairs = list(zip(old.labels, _like(old.labels, new.labels), strict=True))
        shown = pairs[:_SHOWN]
        example = ",".join(f"{start.told.get(a, a)}={b}" for a, b in shown)
        mend += f", --steady-label-map says which is which, as in {example}"
    return f"{differ}: {mend}"


def _like(old: Sequence[str], new: Sequence[str]) -> Sequence[str]:
    """New labels in an order that pairs ``ENTAILMENT`` with ``entailment``."""
    same = {label.casefold(): label for label in new}
    found = [same.get(label.casefold()) for label in old]
    return [label for label in found if label] if {*found} == {*new} else new


def apply(found: Moves, heads: nn.Module, state: dict[str, Any], prefix: str) -> None:
    """Change a checkpoint's heads, in its state dict, before they are loaded.

    Args:
        found: what becomes of each.
        heads: the model's own, by name.
        state: changed in place.
        prefix: of the heads' keys in it.

    """
    for name, order in found.items():
        start = f"{prefix}{name}."
        if order is None:
            for key in [key for key in state if key.startswith(start)]:
                del state[key]
            state.update(heads.get_submodule(name).state_dict(prefix=start))
            continue
        for key in [key for key in state if key.startswith(start + _OUTPUT)]:
            if not key.endswith(_ROWLESS):
                state[key] = state[key][order]
