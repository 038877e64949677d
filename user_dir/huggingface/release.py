"""fairseq's own releases of BART, RoBERTa and XLM-R in, model directories out."""

import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Required

import torch
from fairseq.data import Dictionary
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import RobertaProcessing
from torch import Tensor
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import conform, sha256
from ..model_dir import MANIFEST, Manifest, ModelDirectory, write_model_directory
from ..models.architectures import Count, Layers, Positions, Rate
from ..models.families import FAMILIES
from ..models.families.base import ANGLES, Family
from ..patches.checkpoints import load_safely
from .checking import check_state
from .config import check_heads
from .sentencepieces import Pieces, piece_tokenizer, read_pieces
from .sources import (
    DAMAGED,
    filler,
    naming,
    needed,
    read_merges,
    read_numbers,
    state_dict,
    text_lines,
)
from .vocabularies import build_dictionary

logger = logging.getLogger(__name__)

#: XLM-R's and CamemBERT's, beside dict.txt.
PIECES = "sentencepiece.bpe.model"
#: Marks a symbol that takes the place of fairseq's own of that spelling.
_OVERWRITE = " #fairseq:overwrite"


def is_release(source: Path) -> bool:
    """Whether a folder is fairseq's own release: not Hugging Face's, nor ours."""
    others = (source / name for name in ("config.json", MANIFEST))
    return (source / "model.pt").is_file() and not any(o.exists() for o in others)


def import_fairseq(
    source: str | os.PathLike[str],
    bpe: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
) -> ModelDirectory:
    """A model directory from fairseq's own BART, RoBERTa, XLM-R or CamemBERT.

    Args:
        source: ``model.pt`` and ``dict.txt``, as fairseq's archives unpack.
        bpe: folder of GPT-2's ``encoder.json`` and ``vocab.bpe``; None where the source
            holds ``sentencepiece.bpe.model`` in their place.
        out: folder to create.

    Raises:
        UserError: a file is missing or is of another form.

    """
    release = Path(source)
    symbols = _read_dictionary(_part(release, "dict.txt"))
    read = _read_pieces(release) if bpe is None else _read_gpt2(Path(bpe))
    weights = _part(release, "model.pt")
    state, given = _read_release(weights)
    kept = {n: t for n, t in state.items() if _wanted(n)}
    manifest = _manifest(given, weights)
    if isinstance(read, Pieces):
        dictionary, tokenizer = _with_pieces(read, symbols, kept, release)
        again = "<s>" in symbols
        manifest.source["model_type"] = "camembert" if again else "xlm-roberta"
    else:
        dictionary, tokenizer = _gpt2(symbols, *read, release)
        _fill(dictionary, kept, release)
    check_state(kept, manifest, dictionary, weights)
    if heads := sorted(n for n in state if n.startswith("classification_heads.")):
        logger.warning(
            "%s: its classification heads are not imported: %s",
            weights,
            ", ".join(heads),
        )
    return write_model_directory(out, manifest, kept, dictionary, tokenizer.to_str())


def _manifest(given: dict[str, Any], weights: Path) -> Manifest:
    family = _family(given, weights)
    return Manifest(
        family=family.name,
        architecture=_form(given, family, weights),
        special_tokens=dict(ANGLES),
        source={
            "name": f"fairseq {_arch(given)}",
            "files": {"model.pt": sha256(weights)},
        },
    )


def _read_pieces(release: Path) -> Pieces:
    missing = (
        f"{release} has no {PIECES}, as XLM-R and CamemBERT have; for BART and RoBERTa "
        "name GPT-2's BPE files with --gpt2-bpe"
    )
    return read_pieces(needed(release, PIECES, missing))


def _read_gpt2(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    numbers = read_numbers(_part(folder, "encoder.json"))
    return numbers, read_merges(_part(folder, "vocab.bpe"))


def _with_pieces(
    pieces: Pieces, symbols: list[str], state: dict[str, Tensor], release: Path
) -> tuple[Dictionary, Tokenizer]:
    """Dictionary and tokeniser; the word table's rows are put in their order."""
    tokenizer = piece_tokenizer(pieces, symbols, release)
    name, size = _words(state)
    dictionary, rows = build_dictionary(tokenizer, ANGLES, size, release)
    if name:
        state[name] = state[name][torch.from_numpy(rows)]
    return dictionary, tokenizer


def _words(state: dict[str, Tensor]) -> tuple[str | None, int]:
    """Name of the table of words, and its rows."""
    name = next((n for n in state if n.endswith("embed_tokens.weight")), None)
    return name, len(state[name]) if name and state[name].dim() == 2 else 0


def _fill(dictionary: Dictionary, state: dict[str, Tensor], release: Path) -> None:
    """Symbols for the rows of the word table that dict.txt does not name.

    Raises:
        UserError: there are more symbols than rows.

    """
    _, size = _words(state)
    if size < len(dictionary):
        raise UserError(
            f"{release}: dict.txt has {len(dictionary)} symbols and the embedding "
            f"table {size} rows; they are not of one model"
        )
    if size == len(dictionary) + 1:
        dictionary.add_symbol("<mask>")
    for index in range(len(dictionary), size):
        dictionary.add_symbol(filler(index, dictionary.indices))


def _part(folder: Path, name: str) -> Path:
    missing = f"{folder / name} is missing; --gpt2-bpe names GPT-2's BPE files"
    if name in ("model.pt", "dict.txt"):
        missing = f"{folder / name} does not exist; a release has model.pt and dict.txt"
    return needed(folder, name, missing)


class Release(TypedDict, total=False):
    """What matters of a release's settings; fairseq keeps hundreds beside them.

    Whatever else changes a model's form shows in its tensors, which are checked; tables
    that are one or two have the same names and shapes.
    """

    arch: str
    _name: str
    encoder_layers: Required[Layers]
    encoder_embed_dim: Required[Count]
    encoder_ffn_embed_dim: Required[Count]
    encoder_attention_heads: Required[Count]
    encoder_normalize_before: bool
    decoder_layers: Layers
    decoder_embed_dim: Count
    decoder_ffn_embed_dim: Count
    decoder_attention_heads: Count
    decoder_normalize_before: bool
    max_positions: Positions | None
    max_source_positions: Positions | None
    max_target_positions: Positions | None
    activation_fn: Literal["gelu", "gelu_accurate", "gelu_fast", "relu", "tanh"]
    pooler_activation_fn: Literal["gelu", "gelu_accurate", "relu", "tanh", "linear"]
    no_scale_embedding: bool
    layernorm_embedding: bool
    share_all_embeddings: bool
    share_decoder_input_output_embed: bool
    dropout: Rate
    attention_dropout: Rate
    activation_dropout: Rate
    pooler_dropout: Rate


def _read_release(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and the settings that matter."""
    checkpoint = load_safely(path)
    if not isinstance(checkpoint, Mapping) or "model" not in checkpoint:
        raise UserError(f"{path}: field 'model' is missing; {DAMAGED}")
    state = state_dict(checkpoint["model"], path)
    args = checkpoint.get("args")
    if args is None:
        cfg = checkpoint.get("cfg")
        args = cfg.get("model") if isinstance(cfg, Mapping) else None
    given = vars(args) if isinstance(args, Namespace) else args
    return state, conform(Release, given, path, DAMAGED)  # type: ignore[arg-type]


def _arch(given: dict[str, Any]) -> str:
    return str(given.get("arch") or given.get("_name") or "")


def _family(given: dict[str, Any], path: Path) -> Family:
    """The family whose name fairseq's name of the architecture contains."""
    for family in FAMILIES.values():
        if family.released and family.name in _arch(given):
            return family
    raise UserError(
        f"{path}: architecture '{_arch(given)}' is neither BART's nor RoBERTa's"
    )


def _form(given: dict[str, Any], family: Family, path: Path) -> dict[str, Any]:
    """fairseq's arguments that the family has, without those that are not said."""
    for side in ("encoder", "decoder"):
        check_heads(given, f"{side}_embed_dim", f"{side}_attention_heads", path)
    longest = given.get("max_positions") or given.get("max_source_positions")
    if longest is None:
        raise UserError(f"{path} says neither max_positions nor max_source_positions")
    known = family.architecture.__annotations__
    form = {name: value for name, value in given.items() if name in known}
    form["max_positions"] = longest
    return {name: value for name, value in form.items() if value is not None}


def _wanted(name: str) -> bool:
    parts = ("classification_heads.", ".lm_head.", "decoder.lm_head")
    return not name.endswith("_float_tensor") and not any(p in name for p in parts)


def _read_dictionary(path: Path) -> list[str]:
    """fairseq's symbols, a line each: symbol, space, count, perhaps a mark."""
    found: dict[str, int] = {}
    for number, line in enumerate(text_lines(path), 1):
        symbol, _, count = line.removesuffix(_OVERWRITE).rpartition(" ")
        if not symbol or not count.isdecimal():
            raise UserError(
                f"{path}: line {number} is not a symbol and its count; {DAMAGED}"
            )
        if found.setdefault(symbol, number) != number:
            raise UserError(
                f"{path}: line {number} repeats the symbol of line {found[symbol]}; "
                f"{DAMAGED}"
            )
    return list(found)


def _gpt2(
    symbols: list[str],
    numbers: dict[str, int],
    merges: list[tuple[str, str]],
    source: Path,
) -> tuple[Dictionary, Tokenizer]:
    """fairseq's dictionary with GPT-2's tokens for its numbers, and their tokeniser."""
    tokens = {str(number): token for token, number in numbers.items()}
    ours = Dictionary()
    for symbol in symbols:
        ours.add_symbol(tokens.get(symbol, symbol))
    vocabulary = {symbol: index for index, symbol in enumerate(ours.symbols)}
    pairs = [(a, b) for a, b in merges if a + b in vocabulary]
    strange = [s for s in symbols if s.isdecimal() and s not in tokens]
    strange += [c for c in _alphabet(numbers) if c not in vocabulary]
    if strange or len(ours) != len(symbols) + Dictionary().nspecial:
        what = (
            f"{min(strange)!r} is in one only" if strange else "a token is there twice"
        )
        raise UserError(
            f"{source / 'dict.txt'} and GPT-2's encoder.json are not of one model: "
            f"{what}"
        )
    with naming(source, "dict.txt and GPT-2's vocab.bpe are not of one model"):
        built = ByteLevelBPETokenizer(vocabulary, pairs)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    built.add_special_tokens([s for s in specials if s in vocabulary])
    built._tokenizer.post_processor = RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"])
    )
    return ours, Tokenizer.from_str(built.to_str())


def _alphabet(numbers: dict[str, int]) -> list[str]:
    """Tokens of one character: every byte has one."""
    return [token for token in numbers if len(token) == 1]
