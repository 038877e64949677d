"""Options of the command line: default, help and range declared in one place.

A range stands beside its option, ends up in the option's help, and is checked by
:func:`check_flags`, whatever the option is of: a task, model, criterion or optimizer.
"""

import dataclasses
import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional, TypeVar, get_args

from .errors import UserError


@dataclass(frozen=True)
class Range:
    """The values that can be meant.

    Args:
        text: which they are, as in "> 0".
        holds: whether a value is one of them.
        choices: all of them, where they are words.

    """

    text: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()

    def check(self, said: str, value: Any, text: str = "") -> None:
        """Refuse another value; None, which stands for a default, is always good.

        Args:
            said: what was given the value, as "--r3f-eps".
            value: what it was given.
            text: what to say of it; the range by itself if empty.

        Raises:
            UserError: names what was given, the value and the range.

        """
        if value is not None and not self.holds(value):
            raise UserError(f"{said} {value} is out of range: {text or self.text}")


ANY = Range("", lambda _: True)
POSITIVE = Range("> 0", lambda v: v > 0)
NOT_NEGATIVE = Range(">= 0", lambda v: v >= 0)
SHARE = Range("in [0, 1)", lambda v: 0 <= v < 1)
PROBABILITY = Range("in [0, 1]", lambda v: 0 <= v <= 1)
FACTOR = Range("in (0, 1]", lambda v: 0 < v <= 1)


def at_least(least: int) -> Range:
    """Numbers from ``least`` on."""
    return Range(f">= {least}", lambda v: v >= least)


def one_of(*choices: str) -> Range:
    """Words to choose from; fairseq offers them as the flag's choices."""
    text = " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
    return Range(text, lambda v: str(v) in choices, choices)


def option(default: Any, text: str, values: Range = ANY) -> Any:
    """A field of a dataclass of :class:`Flags`.

    Args:
        default: None where something else gives the default.
        text: help; what comes after a semicolon is said after the range.
        values: the range.

    """
    return dataclasses.field(
        default=default, metadata={"help": _help(text, values), "range": values}
    )


def _help(text: str, values: Range) -> str:
    if not values.text or (values.choices and all(c in text for c in values.choices)):
        return text
    what, semicolon, more = text.partition("; ")
    colon = ": " if values.choices else ", "
    return what + colon + values.text + semicolon + more


class Flags:
    """Base of the dataclasses that hold options, beside fairseq's own.

    An option that is :func:`one_of` some words may be annotated as ``str`` or as a
    ``Literal``; fairseq and OmegaConf see an enumeration.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hints = inspect.get_annotations(cls)
        for name in hints:
            field = cls.__dict__.get(name)
            choices = getattr(field, "metadata", {}).get("range", ANY).choices
            if choices:
                hints[name] = _choice(hints[name], choices)
        cls.__annotations__ = hints


def _choice(hint: Any, choices: tuple[str, ...]) -> Any:
    make: Any = enum.StrEnum  # for mypy, which knows literal members only
    words = make("Choices", {word: word for word in choices})
    return Optional[words] if type(None) in get_args(hint) else words


def check_flags(flags: Any, config: type, prefix: str = "--") -> None:
    """Refuse values that cannot be meant.

    Args:
        flags: an object with the fields of ``config``.
        config: a dataclass whose fields are options.
        prefix: what a flag's name begins with.

    Raises:
        UserError: names the flag, the value and the range.

    """
    for item in dataclasses.fields(config):
        values = item.metadata.get("range", ANY)
        if values is not ANY:
            flag = prefix + item.name.replace("_", "-")
            values.check(flag, getattr(flags, item.name), item.metadata["help"])


C = TypeVar("C")


def read_flags(cfg: Any, config: type[C]) -> C:
    """A configuration as its dataclass: checked, and with words as plain text.

    Args:
        cfg: fairseq's configuration, or the dataclass itself.
        config: the dataclass.

    Raises:
        UserError: a value is out of range.

    """
    check_flags(cfg, config)
    values = {
        item.name: getattr(cfg, item.name, item.default)
        for item in dataclasses.fields(config)  # type: ignore[arg-type]
    }
    return config(
        **{n: str(v) if isinstance(v, enum.Enum) else v for n, v in values.items()}
    )
