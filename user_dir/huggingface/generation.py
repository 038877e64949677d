"""How a summariser searches: transformers' generation_config.json, and ours.

transformers counts the tokens that stand around a summary too: the one that decoding
starts from, those that ours forces before the words, and the last.
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
from .sources import inside

#: transformers' name of each setting and ours.
_NAMES = {
    "num_beams": "beam",
    "length_penalty": "length_penalty",
    "min_length": "min_length",
    "max_length": "max_length",
    "no_repeat_ngram_size": "no_repeat",
}
#: What is done about settings that cannot be read.
_LEFT = "how it searches for summaries is not taken over"
_Count = Annotated[int, Field(ge=0, lt=2**31)]


class Generation(TypedDict, total=False):
    """What is read of generation_config.json, or of config.json without one."""

    num_beams: Annotated[int, Field(ge=1, lt=2**31)] | None
    length_penalty: Annotated[float, Field(allow_inf_nan=False)] | None
    min_length: _Count | None
    max_length: _Count | None
    min_new_tokens: _Count | None
    max_new_tokens: _Count | None
    no_repeat_ngram_size: _Count | None


def read_search(source: Path, forced: int) -> Search | None:
    """How a Hugging Face directory's summariser searches.

    Args:
        source: the directory.
        forced: tokens that our decoder begins with before the words, without the one
            that it starts from.

    Returns:
        None where none of the settings is said; those that are not are
        :class:`..inference.searching.Decoding`'s.

    Raises:
        UserError: one is of a wrong type or range, or they leave no summary.

    """
    path = inside(source, "generation_config.json") or source / "config.json"
    read = read_json(path, Generation, _LEFT)
    given: dict[str, Any] = {k: v for k, v in read.items() if v is not None}
    for end in ("min", "max"):  # of new tokens, which come after the one of the start
        if f"{end}_new_tokens" in given:
            given[f"{end}_length"] = given[f"{end}_new_tokens"] + 1
    found = {ours: given[name] for name, ours in _NAMES.items() if name in given}
    if not found:
        return None
    least = max(0, found.get("min_length", 0) - 1 - forced)
    most = found.get("max_length", 0) - 2 - forced
    if "max_length" not in found:
        most = max(least, Decoding().max_length)
    if most < 1:
        raise UserError(f"{path}: its maximum leaves no token of a summary; {_LEFT}")
    ends = {"min_length": min(least, most), "max_length": most}
    return search_of(Decoding(**(found | ends)))


def search_of(decoding: Decoding) -> Search:
    """As a model directory keeps it."""
    return cast(Search, asdict(decoding))


def generation_config(found: Search, ids: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' generation_config.json.

    Args:
        found: how to search.
        ids: special tokens, ``forced_bos_token_id`` among them if there is one.

    """
    around = 1 + ("forced_bos_token_id" in ids)
    settings = {theirs: found[ours] for theirs, ours in _NAMES.items()}  # type: ignore[literal-required]
    settings["min_length"] += around
    settings["max_length"] += around + 1
    return {**ids, **settings, "early_stopping": True}
