"""Methods from outside: packages that add criterions, optimizers, tasks or families.

A package that is installed beside this one is imported with it, in every command, if
its pyproject.toml has::

    [project.entry-points."fairseq_steady.plugins"]
    mine = "my_package.my_criterion"

The module named there registers what it has, as the modules here do: for a
regulariser ``@register_criterion("mine", dataclass=MineConfig)`` on a class derived
from :class:`.criterions.penalty.PenaltyCriterion`, its options declared with
:func:`.flags.option`. That one file is all that a method needs. A family of models is
given to :func:`.models.families.register`.
"""

import sys
from importlib.metadata import entry_points
from typing import Any

from .errors import UserError

GROUP = "fairseq_steady.plugins"
_NAME = "fairseq_steady"
_HERE = (__package__ or _NAME).partition(".")[0]
#: Packages that were loaded.
_LOADED: set[str] = set()


def load_plugins() -> None:
    """Import every module that an installed package names for it.

    Raises:
        UserError: one of them cannot be imported.

    """
    found = entry_points(group=GROUP)
    if found:
        _under_its_name()
    for entry in found:
        try:
            entry.load()
        except Exception as error:  # whatever it is, it stops every command
            raise UserError(
                f"the plugin '{entry.name}' ({entry.value}) cannot be imported: "
                f"{type(error).__name__}: {error}; mend it, or uninstall its package"
            ) from error
        _LOADED.add(entry.module.partition(".")[0])


def is_ours(thing: Any) -> bool:
    """Whether a class is this package's or that of a plugin that was loaded."""
    package = str(getattr(thing, "__module__", "")).partition(".")[0]
    return package in {_HERE, *_LOADED}


def _under_its_name() -> None:
    """Let plugins import this package, which ``--user-dir`` calls after its folder.

    Otherwise Python would import it a second time, and register everything again.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == _HERE:
            sys.modules.setdefault(_NAME + name[len(_HERE) :], module)
