"""One change to other people's code: how it is made, and whether that code is known."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import IMPORT

#: Carried by whatever was put in another thing's place.
_MARK = "_fairseq_steady"


def put(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace an attribute, once.

    Args:
        owner: a module or class.
        name: of the attribute; it may be missing.
        make: gets what is there and returns what takes its place.

    """
    original = getattr(owner, name, None)
    if hasattr(original, _MARK):
        return
    made = make(original)
    setattr(made, _MARK, True)
    if isinstance(inspect.getattr_static(owner, name, None), staticmethod):
        made = staticmethod(made)
    setattr(owner, name, made)


def _loaded(name: str) -> Any:
    """A module, or the running program where that is it; None if it is not loaded."""
    program = sys.modules["__main__"]
    runs = getattr(getattr(program, "__spec__", None), "name", None) == name
    return program if runs else sys.modules.get(name)


def _digest(found: Any) -> str:
    """The first digits of the SHA-256 of what was written, or nothing of a builtin."""
    try:
        source = inspect.getsource(found)
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(source.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Row:
    """What is relied on, set or replaced, and why.

    Args:
        where: ``module:attribute``, as ``fairseq.trainer:Trainer.train_step``.
        why: one sentence.
        digest: of the source as it was when this was written; empty where there is
            none, or where it does not matter.
        when: it is done.

    """

    where: str
    why: str
    digest: str = ""
    when: str = IMPORT

    def made(self) -> str:
        """What takes the place, in a few words."""
        return "relied on"

    def differs(self) -> bool:
        """Whether what is installed is not what this was written for."""
        module, _, path = self.where.partition(":")
        found = _loaded(module)
        if found is None and self.when != IMPORT:
            return False  # not needed so far
        found = found or importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is None:
            return bool(self.digest) or type(self) is Row
        ours = hasattr(found, _MARK)
        return bool(self.digest) and not ours and _digest(found) != self.digest


@dataclass(frozen=True, kw_only=True)
class Change(Row):
    """An attribute that is replaced.

    Args:
        around: makes the replacement of the original.
        instead: the replacement itself.

    """

    around: Callable[[Any], Any] | None = None
    instead: Any = None

    def made(self) -> str:
        """The function of ours."""
        ours: Any = self.around or self.instead
        name = f"{ours.__module__.rpartition('.')[2]}.{ours.__name__.lstrip('_')}"
        return f"around it: `{name}`" if self.around else f"`{name}`"

    def apply(self) -> None:
        """Make it; once is enough, and more does no harm."""
        module, _, path = self.where.partition(":")
        *classes, name = path.split(".")
        owner = importlib.import_module(module)
        for part in classes:
            owner = getattr(owner, part)
        put(owner, name, self.around or (lambda _: self.instead))


@dataclass(frozen=True, kw_only=True)
class Setting(Row):
    """Something of the process that is set.

    Args:
        apply: sets it; more than once does no harm.

    """

    apply: Callable[[], object]

    def made(self) -> str:
        """The function of ours."""
        ours = self.apply
        return f"`{ours.__module__.rpartition('.')[2]}.{ours.__name__.lstrip('_')}`"
