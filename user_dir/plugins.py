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

from .errors import UserError

GROUP = "fairseq_steady.plugins"
#: Packages that were loaded.
LOADED: set[str] = set()
_NAME = "fairseq_steady"


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
        except ImportError as error:
            raise UserError(
                f"the plugin '{entry.name}' ({entry.value}) cannot be imported: "
                f"{error}; mend it, or uninstall its package"
            ) from error
        LOADED.add(entry.module.partition(".")[0])


def _under_its_name() -> None:
    """Let plugins import this package, which ``--user-dir`` calls after its folder.

    Otherwise Python would import it a second time, and register everything again.
    """
    here = (__package__ or _NAME).partition(".")[0]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == here:
            sys.modules.setdefault(_NAME + name[len(here) :], module)
