"""Model directories: weights, dictionary and tokeniser of one pretrained model.

A model directory holds ``manifest.json`` (what it is), ``model.pt`` (a fairseq
checkpoint), ``dict.txt`` (a fairseq dictionary) and ``tokenizer.json`` (for the
tokenizers library). The manifest names the architecture, so nothing else has to be
said on a command line.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import torch
from fairseq.data import Dictionary
from pydantic import ConfigDict, Field, InstanceOf
from torch import Tensor
from typing_extensions import TypedDict

from .errors import UserError
from .files import conform, read_json, sha256, whole_folder, write_json
from .models.architectures import check_architecture
from .patches.checkpoints import load_safely

if TYPE_CHECKING:
    from .models.families.base import Family

MANIFEST, WEIGHTS, DICTIONARY, TOKENIZER = (
    "manifest.json",
    "model.pt",
    "dict.txt",
    "tokenizer.json",
)
FORMAT: Literal[1] = 1
#: The name that a manifest's source has of two copies of an encoder.
BERT2BERT = "bert2bert"
_MEND = "import the model again"

#: The tokeniser's token for each of fairseq's.
SpecialTokens = dict[Annotated[str, Field(pattern=r"^<(s|pad|/s|unk|mask)>$")], str]


class _Weights(TypedDict):
    """What of ``model.pt`` is read."""

    model: dict[str, InstanceOf[Tensor]]
    pooler: NotRequired[dict[str, InstanceOf[Tensor]]]
    head: NotRequired[dict[str, InstanceOf[Tensor]]]


class Labels(TypedDict):
    """What a classification head predicts.

    Args:
        labels: class names in the order of its outputs; None for a score.
        several: whether any number of them hold for a text; not where it is missing.
        longest: tokens of a text that it reads; all that there are positions for where
            it is missing.

    """

    labels: list[str] | None
    several: NotRequired[bool]
    longest: NotRequired[Annotated[int, Field(ge=3)]]


class Search(TypedDict):
    """How a summariser searches: :class:`.inference.searching.Decoding`'s fields."""

    beam: Annotated[int, Field(ge=1)]
    length_penalty: Annotated[float, Field(allow_inf_nan=False)]
    min_length: Annotated[int, Field(ge=0)]
    max_length: Annotated[int, Field(ge=1)]
    no_repeat: Annotated[int, Field(ge=0)]


@dataclass
class Manifest:
    """What a model directory says about itself.

    Args:
        family: name of one of :data:`.models.families.FAMILIES`.
        architecture: fairseq's model arguments (``encoder_layers`` ...) and
            ``layer_norm_eps``.
        special_tokens: the tokeniser's token for each of fairseq's
            ``<s> <pad> </s> <unk> <mask>``.
        source: where the weights came from, with the sha256 of each file.
        licence: the licence the source states, or None.
        files: sha256 of this directory's own files.
        head: what its classification head predicts, where it has one.
        search: how it searches for summaries, where its source says so.
        format: version of this layout.

    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    family: str
    architecture: dict[str, Any]
    special_tokens: SpecialTokens
    source: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    head: Labels | None = None
    search: Search | None = None
    format: Literal[1] = FORMAT


@dataclass(frozen=True)
class ModelDirectory:
    """A checked model directory on disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "ModelDirectory":
        """Read and check the manifest.

        Raises:
            UserError: the path is not a model directory, a file is missing, or the
                manifest is of another format.

        """
        folder = Path(path)
        manifest_path = folder / MANIFEST
        if not manifest_path.is_file():
            raise UserError(
                f"{folder} is not a model directory (no {MANIFEST}); make one with: "
                "fairseq-steady import SRC OUT"
            )
        manifest = read_json(manifest_path, Manifest, _MEND)
        check_architecture(manifest.family, manifest.architecture, manifest_path)
        for name in (WEIGHTS, DICTIONARY, TOKENIZER):
            if not (folder / name).is_file():
                raise UserError(f"{folder} lacks {name}; import the model again")
        return cls(folder, manifest)

    @property
    def family(self) -> "Family":
        """What its form of model needs."""
        from .models.families import FAMILIES  # imports fairseq's models

        return FAMILIES[self.manifest.family]

    def new_parts(self, names: Iterable[str]) -> set[str]:
        """Names of a model's parameters that its pretraining did not make.

        Heads for classes and scores, and the cross-attention of two copies of BERT,
        from wherever its first values are.
        """
        parts = ["classification_heads."]
        if self.manifest.source.get("name") == BERT2BERT:
            parts.append(".encoder_attn")
        return {name for name in names if any(part in name for part in parts)}

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizers library's file."""
        return self.path / TOKENIZER

    def dictionary(self) -> Dictionary:
        """Fairseq's dictionary.

        Raises:
            UserError: a line is not ``symbol count``, or a symbol stands twice.

        """
        path = self.path / DICTIONARY
        _check_dictionary(path)
        return Dictionary.load(str(path))

    def weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The model's state dict and the pooler's (``dense.weight``, ... or empty).

        Raises:
            UserError: the file was changed since the import, or is not safe to load.

        """
        state = self._stored()
        return state["model"], state.get("pooler", {})

    def head(self) -> dict[str, Tensor]:
        """State dict of the classification head that the manifest describes.

        Raises:
            UserError: as :meth:`weights`, or it is not as described.

        """
        labels = self.manifest.head["labels"] if self.manifest.head else None
        state = self._stored().get("head", {})
        outputs = 1 if labels is None else len(labels)
        wanted = self.family.head_shapes(self.manifest.architecture)
        if {*state} != {*wanted} or len(state["out_proj.weight"]) != outputs:
            raise UserError(
                f"{self.path / WEIGHTS}: its head is not the one of {outputs} outputs "
                f"that {MANIFEST} describes; {_MEND}"
            )
        return state

    def _stored(self) -> _Weights:
        path = self.path / WEIGHTS
        wanted = self.manifest.files.get(WEIGHTS)
        if wanted is not None and sha256(path) != wanted:
            raise UserError(
                f"{path} is not the file its manifest describes (sha256 differs); "
                "import the model again"
            )
        return conform(_Weights, load_safely(path, mmap=True), path, _MEND)


def _check_dictionary(path: Path) -> None:
    """Fairseq's own errors show lines of the file, which may be a link to another."""
    seen = set()
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                symbol, _, count = line.rstrip("\n").rpartition(" ")
                if not symbol or not count.isascii() or not count.isdigit():
                    raise UserError(f"{path}:{number}: not 'symbol count'; {_MEND}")
                if symbol in seen:
                    raise UserError(f"{path}:{number}: a symbol twice; {_MEND}")
                seen.add(symbol)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; {_MEND}") from None


def other_dictionary(kept: Mapping[str, Any], path: Path) -> str | None:
    """What to say where a checkpoint's ids mean other tokens than a dictionary's.

    Args:
        kept: the checkpoint's digests of files; older ones have none of a dictionary.
        path: of the dictionary.

    """
    own = sha256(path)
    if kept.get(DICTIONARY, own) == own:
        return None
    return f"was trained with another dictionary than {path}"


def write_model_directory(
    out: str | os.PathLike[str],
    manifest: Manifest,
    model: Mapping[str, Tensor],
    dictionary: Dictionary,
    tokenizer: str,
    pooler: Mapping[str, Tensor] | None = None,
    head: Mapping[str, Tensor] | None = None,
) -> ModelDirectory:
    """Write a model directory, whole or not at all.

    Args:
        out: folder to create.
        manifest: what it is; its ``files`` are filled in here.
        model: fairseq state dict.
        dictionary: fairseq dictionary with the model's embedding rows.
        tokenizer: JSON of the tokenizers library.
        pooler: ``dense.weight`` and ``dense.bias`` of BERT's pooler, if there is one.
        head: tensors of the head that the manifest describes, if any.

    Raises:
        UserError: ``out`` exists, or the disk is full.

    """
    target = Path(out)
    with whole_folder(target) as scratch:
        state = _checkpoint(manifest, model, pooler or {})
        _save(state | ({"head": dict(head)} if head else {}), scratch / WEIGHTS, target)
        dictionary.save(str(scratch / DICTIONARY))
        (scratch / TOKENIZER).write_text(tokenizer, "utf-8")
        manifest.files = {p.name: sha256(p) for p in sorted(scratch.iterdir())}
        said = asdict(manifest)
        for name in ("head", "search"):
            if said[name] is None:
                del said[name]
        write_json(scratch / MANIFEST, said, indent=2)
    return ModelDirectory(target, manifest)


def _save(state: Mapping[str, Any], path: Path, target: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's word for a full disk
        raise UserError(
            f"{target} cannot be written ({str(error).splitlines()[0]}); free some "
            "space, or choose another folder"
        ) from None


def _checkpoint(
    manifest: Manifest, model: Mapping[str, Tensor], pooler: Mapping[str, Tensor]
) -> dict[str, Any]:
    """A checkpoint that --restore-file with the --reset flags takes too."""
    return {
        "args": None,
        "cfg": {"model": {"_name": manifest.family, **manifest.architecture}},
        "model": dict(model),
        "pooler": dict(pooler),
        "optimizer_history": [
            {
                "criterion_name": "",
                "optimizer_name": "",
                "lr_scheduler_state": {},
                "num_updates": 0,
                "best_loss": None,
            }
        ],
        "extra_state": {"train_iterator": {"epoch": 1}},
        "last_optimizer_state": None,
    }
