"""Every component of this plugin, with its flags, defaults and help."""

import argparse
import dataclasses
import os
import sys
from typing import Any

import fairseq.options  # noqa: F401  fills the registries
from fairseq.registry import REGISTRIES

from .. import tasks as plugin  # noqa: F401  registers everything


def _registries() -> dict[str, dict[str, Any]]:
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    found: dict[str, dict[str, Any]] = {
        name: registry["dataclass_registry"] for name, registry in REGISTRIES.items()
    }
    return {"task": TASK_DATACLASS_REGISTRY, "arch": MODEL_DATACLASS_REGISTRY, **found}


def _flags(config: Any) -> list[str]:
    lines = []
    for item in dataclasses.fields(config):
        text = item.metadata.get("help")
        if text and item.name not in ("_name", "data", "architecture"):
            flag = "--" + item.name.replace("_", "-")
            lines.append(f"    {flag} (default: {item.default})\n        {text}")
    return lines


def listing() -> str:
    """Every component this package registers, with flags, defaults and help."""
    package = (__package__ or "").split(".")[0]
    lines = []
    for kind, registry in _registries().items():
        for name, config in sorted(registry.items()):
            if config.__module__.split(".")[0] == package:
                lines += [f"--{kind} {name}", *_flags(config)]
    return "\n".join(lines)


def main() -> None:
    """Print the list."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    try:
        print(listing(), flush=True)
    except BrokenPipeError:  # as head leaves it; Python would flush again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
