"""scikit-learn and scipy, which fairseq imports at its start, wait until they are used.

They take a second, and fairseq calls them for two components of its own.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_LATE = ("sklearn", "sklearn.metrics", "scipy", "scipy.stats")


class _Later(ModuleType):
    """Stands for a module until one of its functions is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            module = importlib.import_module(self.__name__)
            return getattr(module, name)(*args, **kwargs)

        return call


@contextmanager
def sklearn_later() -> Iterator[None]:
    """While fairseq is imported inside; without effect if any of them is there."""
    if any(name in sys.modules for name in (*_LATE, "fairseq")):
        yield
        return
    stand_ins = {name: _Later(name) for name in _LATE}
    vars(stand_ins["sklearn"])["metrics"] = stand_ins["sklearn.metrics"]
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
