"""Criterions registered with fairseq, and what a task predicts (:mod:`.kinds`).

Every module here that is not private is imported, and registers itself.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f".{_module.name}", __name__)
