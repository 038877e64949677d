"""A YAML file sets values: what in Hydra would have it name code to run is refused."""

import dataclasses
import difflib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import DictConfig, OmegaConf, open_dict

from ..errors import UserError
from .refusals import of_papers

#: Keys whose value Hydra, or logging's configuration, calls or imports.
_CALLED = ("_target_", "class", "()", "factory")
#: What Hydra's own configuration has there.
_KNOWN = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "logging.FileHandler",
    "logging.StreamHandler",
    "logging.Formatter",
    "colorlog.ColoredFormatter",
)
#: fairseq's settings that name code: a plugin, a program.
_CODE = ("common.user_dir", "task.post_save_script")
_IMPORTED = "ext://"
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def _settings(node: Any, name: str) -> Iterator[tuple[str, str, Any]]:
    """Every setting below a node: its whole name, its last part, its value."""
    entries = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in entries:
        if isinstance(value, dict | list):
            yield from _settings(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", str(key), value


def check_yaml(cfg: DictConfig) -> None:
    """Refuse a configuration that names code.

    Raises:
        UserError: names the setting.

    """
    hydra = OmegaConf.to_container(cfg.hydra, resolve=False)
    for name, key, value in _settings(hydra, "hydra"):
        called = key in _CALLED and value not in _KNOWN
        imported = str(value).startswith(_IMPORTED) and value not in _STREAMS
        if called or imported or name.startswith("hydra.job.env_set."):
            raise UserError(f"{name}: {value} could run code from a file; leave it out")
    for name in _CODE:
        value = OmegaConf.select(cfg, name)
        typed = any(word.lstrip("+").startswith(f"{name}=") for word in sys.argv)
        if value and not typed and Path(value).resolve() != Path(__file__).parents[1]:
            raise UserError(
                f"{name}: {value} is code that a file names; give it on the command "
                f"line: {name}={value}"
            )


def _known_keys(name: str, node: DictConfig) -> set[str]:
    """Settings of a section; none where what it configures is not known by a class."""
    sections = {item.name: item.type for item in dataclasses.fields(FairseqConfig)}
    chosen = {"task": TASK_DATACLASS_REGISTRY, "model": MODEL_DATACLASS_REGISTRY}
    for kind, registered in REGISTRIES.items():
        chosen[kind] = registered["dataclass_registry"]
    config: Any = sections.get(name)
    if name in chosen:
        config = chosen[name].get(node.get("_name"))
    if not dataclasses.is_dataclass(config):
        return set()
    return {"_name", *(item.name for item in dataclasses.fields(config))}


def check_keys(cfg: DictConfig, words: Sequence[str]) -> None:
    """Refuse settings that nothing reads, which Hydra takes after a plus.

    A file may have keys of its own at the top, to refer to.

    Args:
        cfg: composed of files and of words.
        words: of the command line.

    Raises:
        UserError: names the key, and one like it.

    """
    typed = {word.partition("=")[0].lstrip("+") for word in words}
    sections = {item.name for item in dataclasses.fields(FairseqConfig)}
    for name, node in cfg.items_ex(resolve=False):
        if name in typed:
            _check_key(str(name), "", {*sections, "hydra", "method"})
        known = _known_keys(str(name), node) if isinstance(node, DictConfig) else set()
        for key in node if known else ():
            _check_key(str(key), f"{name}.", known)


def _check_key(key: str, section: str, known: set[str]) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        advice = f"did you mean {section}{near[0]}?" if near else "leave it out"
        raise UserError(f"the configuration: nothing reads {section}{key}; {advice}")


def fill_in(cfg: DictConfig, words: Sequence[str]) -> None:
    """Set the papers' values where a file has the default, or nothing.

    Args:
        cfg: composed of files and of words.
        words: of the command line; what they set stays.

    Raises:
        UserError: the criterion is of no paper that is known here.

    """
    typed = {word.partition("=")[0].lstrip("+") for word in words}
    for kind in ("criterion", "optimizer"):
        node = cfg.get(kind) or {}
        name = node.get("_name")
        config = REGISTRIES[kind]["dataclass_registry"].get(name)
        if name is None or config is None:
            continue
        defaults = {item.name: item.default for item in dataclasses.fields(config)}
        said = {
            key
            for key, value in node.items()
            if f"{kind}.{key}" in typed or value != defaults.get(key)
        }
        with open_dict(cfg):
            node.update(of_papers({kind: name}, said))


def checked(load: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """Hydra's composing, of a configuration that names no code."""

    @functools.wraps(load)
    def load_configuration(*args: Any, **kwargs: Any) -> DictConfig:
        cfg = load(*args, **kwargs)
        check_yaml(cfg)
        check_keys(cfg, sys.argv[1:])
        if OmegaConf.select(cfg, "task.steady_preset") == "paper":
            fill_in(cfg, sys.argv[1:])
        return cfg

    return load_configuration
