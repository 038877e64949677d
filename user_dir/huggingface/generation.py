"""How a summariser searches: transformers' generation_config.json, and ours.

transformers counts the tokens that stand around a summary too: the one that decoding
starts from, perhaps a forced first one, and the last. Ours are counted without them.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import read_json
from ..inference.searching import Decoding
from ..model_dir import Search
from .sources import DAMAGED, inside

#: transformers' name of each setting and ours.
_NAMES = {
    "num_beams": "beam",
    "length_penalty": "length_penalty",
    "min_length": "min_length",
    "max_length": "max_length",
    "no_repeat_ngram_size": "no_repeat",
}
_Count = Annotated[int, Field(ge=0, lt=2**31)]


class Generation(TypedDict, total=False):
    """What is read of generation_config.json, or of config.json without one."""

    num_beams: Annotated[int, Field(ge=1, lt=2**31)] | None
    length_penalty: Annotated[float, Field(allow_inf_nan=False)] | None
    min_length: _Count | None
    max_length: _Count | None
    no_repeat_ngram_size: _Count | None
    forced_bos_token_id: int | list[int] | None


def read_search(source: Path) -> Search | None:
    """How a Hugging Face directory's summariser searches.

    Args:
        source: the directory.

    Returns:
        None where none of the settings is said; those that are not are
        :class:`..inference.searching.Decoding`'s.

    Raises:
        UserError: one is of a wrong type or range, or they leave no summary.

    """
    name = "generation_config.json"
    path = inside(source, name) or source / "config.json"
    given = read_json(path, Generation, DAMAGED)
    said = {n: given[n] for n in _NAMES if given.get(n) is not None}  # type: ignore[literal-required]
    if not said:
        return None
    first = _around(given)
    if "min_length" in said:
        said["min_length"] = max(0, said["min_length"] - first)
    if "max_length" in said:
        said["max_length"] -= first + 1
    found = Decoding(**{_NAMES[name]: value for name, value in said.items()})
    if not max(1, found.min_length) <= found.max_length:
        raise UserError(
            f"{path}: no summary has {given.get('min_length') or 0} tokens or more and "
            f"{given.get('max_length')} or less; mend min_length and max_length"
        )
    return search_of(found)


def search_of(decoding: Decoding) -> Search:
    """As a model directory keeps it."""
    return cast(Search, asdict(decoding))


def generation_config(found: Search, ids: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' generation_config.json.

    Args:
        found: how to search.
        ids: special tokens, ``forced_bos_token_id`` among them if there is one.

    """
    first = _around(ids)
    settings = {theirs: found[ours] for theirs, ours in _NAMES.items()}  # type: ignore[literal-required]
    settings["min_length"] += first
    settings["max_length"] += first + 1
    return {**ids, **settings, "early_stopping": True}


def _around(ids: Mapping[str, Any]) -> int:
    """Tokens before a summary."""
    return 1 + (ids.get("forced_bos_token_id") is not None)
