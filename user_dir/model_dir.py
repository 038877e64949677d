"""Model directories: weights, dictionary and tokeniser of one pretrained model.

A model directory holds ``manifest.json`` (what it is), ``model.pt`` (a fairseq
checkpoint), ``dict.txt`` (a fairseq dictionary) and ``tokenizer.json`` (for the
tokenizers library). The manifest names the architecture, so nothing else has to be
said on a command line.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from .errors import UserError
from .files import sha256
from .ground import load_safely

MANIFEST, WEIGHTS, DICTIONARY, TOKENIZER = (
    "manifest.json",
    "model.pt",
    "dict.txt",
    "tokenizer.json",
)
FORMAT = 1


@dataclass
class Manifest:
    """What a model directory says about itself.

    Args:
        family: ``roberta`` (BERT and RoBERTa form), ``deberta`` or ``bart``.
        architecture: fairseq's model arguments (``encoder_layers`` ...) and
            ``layer_norm_eps``.
        special_tokens: the tokeniser's token for each of fairseq's
            ``<s> <pad> </s> <unk> <mask>``.
        source: where the weights came from, with the sha256 of each file.
        licence: the licence the source states, or None.
        files: sha256 of this directory's own files.
        format: version of this layout.

    """

    family: str
    architecture: dict[str, Any]
    special_tokens: dict[str, str]
    source: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


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
                "python scripts/import_hf.py SRC OUT"
            )
        manifest = _read_manifest(manifest_path)
        for name in (WEIGHTS, DICTIONARY, TOKENIZER):
            if not (folder / name).is_file():
                raise UserError(f"{folder} lacks {name}; import the model again")
        return cls(folder, manifest)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizers library's file."""
        return self.path / TOKENIZER

    def dictionary(self) -> Dictionary:
        """Fairseq's dictionary."""
        return Dictionary.load(str(self.path / DICTIONARY))

    def weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The model's state dict and the pooler's (``dense.weight``, ... or empty).

        Raises:
            UserError: the file was changed since the import, or is not safe to load.

        """
        path = self.path / WEIGHTS
        wanted = self.manifest.files.get(WEIGHTS)
        if wanted is not None and sha256(path) != wanted:
            raise UserError(
                f"{path} is not the file its manifest describes (sha256 differs); "
                "import the model again"
            )
        state = load_safely(path)
        return state["model"], state.get("pooler", {})


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = Manifest(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); import the model again"
        ) from None
    if manifest.format != FORMAT:
        raise UserError(
            f"{path} has format {manifest.format}, this version reads {FORMAT}; "
            "import the model again"
        )
    return manifest


def write_model_directory(
    out: str | os.PathLike[str],
    manifest: Manifest,
    model: Mapping[str, Tensor],
    dictionary: Dictionary,
    tokenizer: str,
    pooler: Mapping[str, Tensor] | None = None,
) -> ModelDirectory:
    """Write a model directory, whole or not at all.

    Args:
        out: folder to create.
        manifest: what it is; its ``files`` are filled in here.
        model: fairseq state dict.
        dictionary: fairseq dictionary with the model's embedding rows.
        tokenizer: JSON of the tokenizers library.
        pooler: ``dense.weight`` and ``dense.bias`` of BERT's pooler, if there is one.

    Raises:
        UserError: ``out`` exists.

    """
    target = Path(out)
    if target.exists():
        raise UserError(f"{target} exists; remove it or choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        torch.save(_checkpoint(manifest, model, pooler or {}), scratch / WEIGHTS)
        dictionary.save(str(scratch / DICTIONARY))
        (scratch / TOKENIZER).write_text(tokenizer, "utf-8")
        manifest.files = {p.name: sha256(p) for p in sorted(scratch.iterdir())}
        text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
        (scratch / MANIFEST).write_text(text + "\n", "utf-8")
        scratch.chmod(0o755)
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return ModelDirectory(target, manifest)


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
