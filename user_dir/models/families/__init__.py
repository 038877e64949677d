"""Model families: a file each, and the one line below that lists them.

:class:`.base.Family` says what a file has to hold. Another package adds a family with
:func:`register`, before its first model is imported or built.
"""

from importlib import import_module

from .base import Family, Kind

#: Families by the name that manifests and checkpoints know.
FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Add a family, for everything in this package that asks one."""
    FAMILIES[family.name] = family


def of_model_type(name: str) -> Family | None:
    """The family that a config.json's ``model_type`` belongs to, if any."""
    found = (family for family in FAMILIES.values() if name in family.kinds)
    return next(found, None)


def kinds() -> dict[str, Kind]:
    """Every type of transformers that can be imported, by ``model_type``."""
    return {n: kind for family in FAMILIES.values() for n, kind in family.kinds.items()}


_FILES = (
    *("roberta", "deberta", "modernbert", "bart"),
    *("mpnet", "electra", "distilbert", "albert"),
)
for _file in _FILES:
    register(import_module(f".{_file}", __name__).FAMILY)
