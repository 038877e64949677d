"""Tasks, criterions, optimizers and architectures of this plugin, with their flags.

    fairseq-steady list
    fairseq-steady list sift
    fairseq-steady list --kind criterion

fairseq-train --help shows fairseq's own flags only; these go beside them.
"""

import argparse
import contextlib
import dataclasses
import enum
import io
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..plugins import is_ours
from .output import write_lines
from .page import Page, did_you_mean, page

KINDS = ("task", "arch", "criterion", "optimizer")
USAGE = "[NAME ...] [--kind KIND]"
OUT = """\
what comes out, on standard output:
  each component as it is named on the command line, what it is, and its flags with
  defaults and meaning. Flags that several components share are shown once, above
  them; with a NAME all are shown. An architecture by NAME shows its sizes.
"""
#: Fields of every configuration that are no flags.
_HIDDEN = ("_name", "data", "architecture")
_WIDTH = 88


@dataclass(frozen=True)
class Flag:
    """A flag with its default, empty if there is none, and its meaning.

    Where the method's own paper sets it, ``paper`` is what to.
    """

    name: str
    default: str
    text: str
    paper: str = ""

    def lines(self) -> list[str]:
        """As it is listed."""
        said = {"default": self.default, "paper": self.paper}
        shown = "; ".join(f"{what}: {value}" for what, value in said.items() if value)
        first = f"    {self.name} ({shown})" if shown else f"    {self.name}"
        return [first, *_wrapped(self.text, 8)]


@dataclass(frozen=True)
class Component:
    """Something that a flag of fairseq-train names.

    Args:
        kind: one of :data:`KINDS`.
        name: of the component.
        what: what it is, in a line.
        flags: what it takes.
        preset: its flags only say what it sets; listed when asked for by name.

    """

    kind: str
    name: str
    what: str
    flags: tuple[Flag, ...]
    preset: bool = False

    def lines(self, flags: Iterable[Flag]) -> list[str]:
        """As it is listed, with some of its flags."""
        shown = [line for flag in flags for line in flag.lines()]
        return [f"--{self.kind} {self.name}", *_wrapped(self.what, 2), *shown]


def _wrapped(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(
        text, _WIDTH, initial_indent=space, subsequent_indent=space,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _what(thing: Any) -> str:
    """The first sentence of a class's docstring, as plain text."""
    first = (thing.__doc__ or "").strip().partition("\n\n")[0]
    plain = re.sub(r":\w+:`\.*(?:[\w.]*\.)?(\w+)`", r"\1", first)
    return " ".join(plain.replace("``", "").split())


def _shown(default: Any) -> str:
    """A default as a person types it; empty where there is none to speak of."""
    if isinstance(default, enum.Enum):
        return str(default.value)
    nothing = default is None or default is False or default is dataclasses.MISSING
    return "" if nothing or default == "???" else str(default)


def _of_config(config: Any, made: Any = None) -> tuple[Flag, ...]:
    from ..presets import Paper, paper_of

    values = (paper_of(made) or Paper()).values
    paper = {flag: _shown(value) or "off" for flag, value in values.items()}
    return tuple(
        Flag(
            "--" + item.name.replace("_", "-"),
            _shown(item.default),
            item.metadata["help"],
            paper.get(item.name, ""),
        )
        for item in dataclasses.fields(config)
        if item.metadata.get("help") and item.name not in _HIDDEN
    )


def _of_architecture(model: Any, complete: Callable[[Any], None]) -> tuple[Flag, ...]:
    """The sizes that an architecture sets, with the help of its model's flags."""
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    with contextlib.redirect_stdout(io.StringIO()):
        model.add_args(parser)
    values = argparse.Namespace()
    complete(values)
    known = {action.dest: action for action in parser._actions}
    return tuple(
        Flag(
            known[name].option_strings[0],
            _shown(value),
            (known[name].help or "").partition(" (default:")[0],
        )
        for name, value in vars(values).items()
        if name in known
    )


def _registered() -> Iterator[Component]:
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

    kinds = {
        "task": (TASK_REGISTRY, TASK_DATACLASS_REGISTRY),
        **{
            kind: (found["registry"], found["dataclass_registry"])
            for kind, found in REGISTRIES.items()
        },
    }
    for kind, (classes, configs) in kinds.items():
        for name, made in sorted(classes.items()):
            if is_ours(made):
                flags = _of_config(configs[name], made) if name in configs else ()
                yield Component(kind, name, _what(made), flags)


def _architectures() -> Iterator[Component]:
    from fairseq.models import (
        ARCH_CONFIG_REGISTRY,
        ARCH_MODEL_REGISTRY,
        MODEL_DATACLASS_REGISTRY,
    )

    for name, model in sorted(ARCH_MODEL_REGISTRY.items()):
        if not is_ours(model):
            continue
        if name in MODEL_DATACLASS_REGISTRY:
            flags = _of_config(MODEL_DATACLASS_REGISTRY[name])
        else:
            flags = _of_architecture(model, ARCH_CONFIG_REGISTRY[name])
        preset = name not in MODEL_DATACLASS_REGISTRY
        yield Component("arch", name, _what(model), flags, preset)


def components() -> list[Component]:
    """Everything this package registers with fairseq."""
    import fairseq.options  # noqa: F401  fills the registries

    from .. import tasks as plugin  # noqa: F401  registers everything

    found = [*_registered(), *_architectures()]
    return sorted(found, key=lambda one: (KINDS.index(one.kind), one.name))


def everything(found: Sequence[Component]) -> Iterator[str]:
    """Each component with the flags that it alone has, after those that are shared."""
    for kind in KINDS:
        full = [one for one in found if one.kind == kind and not one.preset]
        yield from _shared(kind, full)
        for one in full:
            yield from one.lines(f for f in one.flags if _owners(f, full) == [one])
    presets = [one for one in found if one.preset]
    for what in dict.fromkeys(one.what for one in presets):
        names = ", ".join(one.name for one in presets if one.what == what)
        yield from _wrapped(f"--arch, sizes with a name: {names}", 0)
        yield from _wrapped(what, 2)


def _owners(flag: Flag, found: Sequence[Component]) -> list[Component]:
    return [one for one in found if flag in one.flags]


def _shared(kind: str, found: Sequence[Component]) -> Iterator[str]:
    groups: dict[tuple[str, ...], list[Flag]] = {}
    for flag in dict.fromkeys(flag for one in found for flag in one.flags):
        names = tuple(one.name for one in _owners(flag, found))
        if len(names) > 1:
            groups.setdefault(names, []).append(flag)
    for names, flags in groups.items():
        whose = "every one" if len(names) == len(found) else ", ".join(names)
        yield from _wrapped(f"--{kind}, flags of {whose}:", 0)
        yield from (line for flag in flags for line in flag.lines())


def chosen(found: Sequence[Component], names: Sequence[str]) -> list[Component]:
    """The components of some names.

    Raises:
        UserError: there is none of that name.

    """
    known = {one.name for one in found}
    for name in names:
        if name not in known:
            advice = did_you_mean(name, known, "see fairseq-steady list")
            raise UserError(f"no component {name}; {advice}")
    return [one for one in found if one.name in names]


def whole(found: Sequence[Component], names: Sequence[str]) -> Iterator[str]:
    """The components of some names, the flags that fewest others have first."""
    for one in chosen(found, names):
        like = [other for other in found if other.kind == one.kind]
        order = sorted(one.flags, key=lambda flag: len(_owners(flag, like)))
        yield from one.lines(order)


def parser() -> Page:
    """The page of list."""
    found = page("list", __doc__, USAGE, OUT)
    add = found.add_argument_group("arguments").add_argument
    add("names", nargs="*", metavar="NAME", help="these only; default: all")
    add(
        "--kind", choices=KINDS, metavar="KIND",
        help=f"of this kind only: {', '.join(KINDS)}",
    )  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the list."""
    args = parser().parse_args(argv)
    found = [one for one in components() if args.kind in (None, one.kind)]
    write_lines(whole(found, args.names) if args.names else everything(found))
    return 0
