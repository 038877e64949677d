"""Optimizers registered with fairseq: every module here that is not private."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f".{_module.name}", __name__)
