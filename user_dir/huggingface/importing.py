"""Hugging Face directories in, model directories out."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..errors import UserError
from ..files import sha256
from ..model_dir import Manifest, ModelDirectory, Search, write_model_directory
from ..models.families.base import Family, Kind
from .checking import check_state
from .config import read_config
from .generation import read_search
from .heads import read_head
from .sources import Weights, inside, read_weights, weight_files
from .vocabularies import (
    build_dictionary,
    build_tokenizer,
    check_end,
    gives_two_types,
    special_tokens,
    tokens_read,
    without_lost_mask,
)

logger = logging.getLogger(__name__)

#: In a model card's header: a licence, or a line for each.
_LICENCE = re.compile(r"^licen[sc]e:(.*(?:\r?\n[ \t]*- .*)*)", re.MULTILINE)


def import_hf(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    licence: str | None = None,
    with_head: bool = True,
) -> ModelDirectory:
    """Turn a Hugging Face directory into a model directory.

    Args:
        source: holds config.json, weights and tokeniser files.
        out: folder to create.
        licence: of the weights, where the source does not say.
        with_head: take the classification head too, where there is one.

    Raises:
        UserError: something is missing, unsafe or of a form fairseq does not have;
            nothing is written then.

    """
    folder = Path(source)
    (family, config), files = read_config(folder), weight_files(folder)
    kind = family.kinds[config["model_type"]]
    weights = Weights(folder, read_weights(files))
    size = len(weights(family.words, -1, -1))
    tokenizer, special = _tokenizer(folder, family, kind, size)
    dictionary, rows = build_dictionary(tokenizer, special, size, folder)
    paired = family.typed and gives_two_types(folder, tokenizer, special["</s>"])
    made = family.read(weights, config, rows, paired)
    shapes = family.head_shapes(made.form)
    head = read_head(weights, config, kind, shapes) if with_head else None
    if head and (longest := tokens_read(folder, made.form["max_positions"])):
        head.labels["longest"] = longest
    manifest = Manifest(
        family=family.name,
        architecture=made.form,
        special_tokens=dict(special),
        source=_origin(folder, config, files),
        licence=_licence(licence, folder, config),
        head=head.labels if head else None,
        search=None if head else _search(folder, config, tokenizer, special["</s>"]),
    )
    check_state(made.state, manifest, dictionary, folder, weights.name_of)
    _say_what_is_left(weights, config, family.unmissed)
    whole = {name: tensor.clone().contiguous() for name, tensor in made.state.items()}
    return write_model_directory(
        *(out, manifest, whole, dictionary, tokenizer.to_str(), made.pooler),
        head.state if head else None,
    )


def _tokenizer(
    source: Path, family: Family, kind: Kind, rows: int
) -> tuple[Tokenizer, Mapping[str, str]]:
    """The source's tokeniser, and its token for each of fairseq's special ones."""
    tokenizer = build_tokenizer(source, kind)
    special = special_tokens(tokenizer, kind, source)
    if family.decodes:
        check_end(tokenizer, special["</s>"], source)
    return without_lost_mask(tokenizer, special.get("<mask>", ""), rows), special


def _search(
    source: Path, config: dict[str, Any], tokenizer: Tokenizer, end: str
) -> Search | None:
    """How it searches, if it was trained to summarise; what is wrong with that is said.

    Its weights can be trained whatever that is.
    """
    names = config.get("architectures") or ()
    if not any(name.endswith("ForConditionalGeneration") for name in names):
        return None
    try:
        return read_search(source, tokenizer.encode("").tokens.index(end))
    except UserError as error:
        logger.warning("%s", error)
        return None


def _origin(source: Path, config: dict[str, Any], files: list[Path]) -> dict[str, Any]:
    """What the manifest keeps of where the weights came from."""
    named = _cached_name(source) or config.get("_name_or_path")
    return {
        "name": named or source.resolve().name,
        **({"hub": named} if named else {}),
        "model_type": config["model_type"],
        "files": {file.name: sha256(file) for file in files},
    }


def _cached_name(source: Path) -> str | None:
    """The name on the hub of a snapshot in Hugging Face's cache, whose folder is one.

    models--org--name/snapshots/revision.
    """
    snapshots = source.resolve().parent
    kind, _, name = snapshots.parent.name.partition("--")
    found = snapshots.name == "snapshots" and kind == "models"
    return name.replace("--", "/", 1) if found else None


def _licence(given: str | None, source: Path, config: dict[str, Any]) -> str | None:
    """What the source says; where it says nothing, what the user does."""
    stated = _stated_licence(source, config)
    if given and stated and given.casefold() != stated.casefold():
        raise UserError(
            f"--licence {given}: {source} has the licence {stated}, and the flag is "
            "for sources that name none; leave it out"
        )
    return stated or given


def _stated_licence(source: Path, config: dict[str, Any]) -> str | None:
    """The licences a model card's header names, or the config's, if any."""
    card = inside(source, "README.md")
    text = card.read_text("utf-8", "replace") if card else ""
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = _LICENCE.search(head)
    names = [name.strip("- \t\"'") for name in (found[1].splitlines() if found else ())]
    return ", ".join(filter(None, names)) or config.get("license") or None


def _say_what_is_left(
    weights: Weights, config: dict[str, Any], unmissed: tuple[str, ...]
) -> None:
    """One line for tensors that are not carried over, such as a classifier's head."""
    left = [name for name in weights.left() if not name.startswith(unmissed)]
    if not left:
        return
    labels = [repr(str(label)) for label in (config.get("id2label") or {}).values()]
    what = f"{len(left)} tensors are"
    if any(name.startswith(("classifier.", "classification_head.")) for name in left):
        what = f"the classification head with labels {', '.join(labels) or '?'} is"
    some = ", ".join(left[:4]) + (", ..." if len(left) > 4 else "")
    logger.warning("%s: %s not imported (%s)", weights.source, what, some)
