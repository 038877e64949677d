"""Encoder-decoders as fairseq's BART: from Hugging Face, fairseq, or two BERTs."""

import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Required

import numpy as np
import torch
from fairseq.data import Dictionary
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import RobertaProcessing
from torch import Tensor
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import conform, sha256
from ..model_dir import Manifest, ModelDirectory, write_model_directory
from ..models.architectures import ARCHITECTURES
from ..patches.checkpoints import load_safely
from .checking import check_state
from .config import Count, Layers, Positions, Rate, check_heads
from .sources import (
    DAMAGED,
    Weights,
    filler,
    naming,
    needed,
    read_merges,
    read_numbers,
    state_dict,
    text_lines,
)

logger = logging.getLogger(__name__)

#: Hugging Face's name of each setting and fairseq's.
_SETTINGS = {
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "encoder_attention_heads": "encoder_attention_heads",
    "decoder_attention_heads": "decoder_attention_heads",
    "encoder_ffn_dim": "encoder_ffn_embed_dim",
    "decoder_ffn_dim": "decoder_ffn_embed_dim",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
}
WORDS = "shared.weight"
#: Other names of the one table of words in Hugging Face's files.
_TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
_TABLES = ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection")
#: Standard deviation of BERT's initialisation.
_STD = 0.02


def architecture(config: dict[str, Any], activation: str) -> dict[str, Any]:
    """fairseq's arguments for a Hugging Face BART or mBART."""
    pre_norm = config["model_type"] == "mbart" or config.get("normalize_before", False)
    positions, width = config["max_position_embeddings"], config["d_model"]
    return {
        **{ours: config[theirs] for theirs, ours in _SETTINGS.items()},
        "encoder_embed_dim": width,
        "decoder_embed_dim": width,
        "max_positions": positions,
        "max_source_positions": positions,
        "max_target_positions": positions,
        "activation_fn": activation,
        "no_scale_embedding": not config.get("scale_embedding", False),
        "encoder_normalize_before": pre_norm,
        "decoder_normalize_before": pre_norm,
        "pooler_dropout": config.get("classifier_dropout") or config["dropout"],
    }


def restore_architecture(form: dict[str, Any], activation: str) -> dict[str, Any]:
    """Hugging Face's settings from fairseq's arguments."""
    return {
        **{theirs: form[ours] for theirs, ours in _SETTINGS.items()},
        "d_model": form["encoder_embed_dim"],
        "max_position_embeddings": form["max_positions"],
        "activation_function": activation,
        "scale_embedding": not form["no_scale_embedding"],
        "normalize_before": form["encoder_normalize_before"],
        "classifier_dropout": form["pooler_dropout"],
    }


def convert_weights(weights: Weights, rows: np.ndarray) -> dict[str, Tensor]:
    """A fairseq BART state dict.

    Args:
        weights: the source's.
        rows: Hugging Face id of each fairseq id.

    Raises:
        UserError: the model adds a bias to its logits, or has a second table of words,
            which fairseq's cannot.

    """
    source, words = weights.source, weights(WORDS, -1, -1)
    bias = weights.get("final_logits_bias")
    if bias is not None and bool(bias.any()):
        raise UserError(
            f"{source}: final_logits_bias is not 0, and fairseq's BART has none"
        )
    for name in _TIED:
        other = weights.get(name)
        if other is not None and not torch.equal(other, words):
            raise UserError(
                f"{source}: {name} is not {WORDS}, and fairseq's BART has one table"
            )
    table = words[torch.from_numpy(rows)]
    body = {
        name: weights(name)
        for name in weights.tensors
        if name.startswith(("encoder.", "decoder.")) and "embed_tokens" not in name
    }
    state = body | {f"{name}.weight": table for name in _TABLES}
    # Without it fairseq takes the last layer norm of a pre-norm model away.
    version = {
        f"{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")
    }
    return state | version


def converted_tokenizer(source: Path) -> Tokenizer:
    """Vocabulary files that are no tokenizer.json, converted by transformers.

    Raises:
        UserError: transformers is not installed or cannot read them.

    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UserError(
            f"{source} has no tokenizer.json; making one of its vocabulary needs "
            "transformers: pip install transformers"
        ) from None
    with naming(source, "the tokeniser cannot be read"):
        loaded = AutoTokenizer.from_pretrained(
            source, use_fast=True, local_files_only=True, trust_remote_code=False
        )
        return Tokenizer.from_str(loaded.backend_tokenizer.to_str())


# --- two copies of BERT ---------------------------------------------------------------


def bert2bert(
    source: ModelDirectory, out: str | os.PathLike[str], seed: int = 0
) -> ModelDirectory:
    """An encoder-decoder whose halves both start from one encoder.

    Articles and summaries are single sentences: BERT's token types are left out.

    Source: Rothe et al. (arXiv 1907.12461), BERT2BERT with a shared word table;
    cross-attention is new, from N(0, 0.02^2) and biases 0.

    Args:
        source: of family ``roberta``.
        out: folder to create.
        seed: of the cross-attention.

    Raises:
        UserError: the source is no encoder, or ``out`` exists.

    """
    if source.manifest.family != "roberta":
        raise UserError(f"{source.path} is no encoder of BERT's or RoBERTa's form")
    weights, _ = source.weights()
    prefix = "encoder.sentence_encoder."
    body = {n.removeprefix(prefix): w for n, w in weights.items()}
    body.pop("embed_positions.second", None)
    generator = torch.Generator().manual_seed(seed)
    state = {
        f"{side}.{n}": w for side in ("encoder", "decoder") for n, w in body.items()
    }
    state["decoder.output_projection.weight"] = body["embed_tokens.weight"]
    for name, tensor in body.items():
        if ".self_attn" in name:
            new = name.replace("self_attn", "encoder_attn")
            state[f"decoder.{new}"] = _fresh(new, tensor, generator)
    manifest = Manifest(
        family="bart",
        architecture=_doubled(source.manifest.architecture),
        special_tokens=source.manifest.special_tokens,
        source={"name": "bert2bert", "of": source.manifest.source},
        licence=source.manifest.licence,
    )
    tokenizer = source.tokenizer_path.read_text("utf-8")
    state = {name: tensor.clone() for name, tensor in state.items()}
    return write_model_directory(out, manifest, state, source.dictionary(), tokenizer)


def _fresh(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    if "layer_norm" in name:
        return torch.full_like(like, float(name.endswith("weight")))
    if name.endswith("bias"):
        return torch.zeros_like(like)
    return torch.empty_like(like).normal_(0, _STD, generator=generator)


def _doubled(encoder: dict[str, Any]) -> dict[str, Any]:
    positions = encoder["max_positions"]
    names = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
    return {
        **{name: value for name, value in encoder.items() if name != "token_types"},
        **{f"decoder_{name}": encoder[f"encoder_{name}"] for name in names},
        "max_source_positions": positions,
        "max_target_positions": positions,
    }


# --- fairseq's own release ---


def import_fairseq(
    source: str | os.PathLike[str],
    bpe: str | os.PathLike[str],
    out: str | os.PathLike[str],
) -> ModelDirectory:
    """A model directory from fairseq's own BART or RoBERTa.

    Args:
        source: ``model.pt`` and ``dict.txt``, as fairseq's archives unpack.
        bpe: folder of GPT-2's ``encoder.json`` and ``vocab.bpe``.
        out: folder to create.

    Raises:
        UserError: a file is missing or is of another form.

    """
    release, gpt2 = Path(source), Path(bpe)
    numbers = read_numbers(_part(gpt2, "encoder.json"))
    merges = read_merges(_part(gpt2, "vocab.bpe"))
    theirs = _read_dictionary(_part(release, "dict.txt"))
    weights = _part(release, "model.pt")
    state, given = _read_release(weights)
    dictionary, tokenizer = _gpt2(theirs, numbers, merges, release)
    table = next((n for n in state if n.endswith("embed_tokens.weight")), None)
    size = len(state[table]) if table and state[table].dim() == 2 else 0
    if size < len(dictionary):
        raise UserError(
            f"{release}: dict.txt has {len(dictionary)} symbols and the embedding "
            f"table {size} rows; they are not of one model"
        )
    if size == len(dictionary) + 1:
        dictionary.add_symbol("<mask>")
    for index in range(len(dictionary), size):
        dictionary.add_symbol(filler(index, dictionary.indices))
    manifest = Manifest(
        family=_family(given, weights),
        architecture=_form(given, weights),
        special_tokens={s: s for s in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")},
        source={
            "name": f"fairseq {_arch(given)}",
            "files": {"model.pt": sha256(weights)},
        },
    )
    kept = {n: t for n, t in state.items() if _wanted(n)}
    check_state(kept, manifest, dictionary, weights)
    if heads := sorted(n for n in state if n.startswith("classification_heads.")):
        logger.warning(
            "%s: its classification heads are not imported: %s",
            weights,
            ", ".join(heads),
        )
    return write_model_directory(out, manifest, kept, dictionary, tokenizer.to_str())


def _part(folder: Path, name: str) -> Path:
    missing = f"{folder / name} is missing; --gpt2-bpe names GPT-2's BPE files"
    if name == "model.pt":
        missing = f"{folder / name} does not exist; a release has model.pt and dict.txt"
    return needed(folder, name, missing)


class Release(TypedDict, total=False):
    """What matters of a release's settings; fairseq keeps hundreds beside them.

    Whatever else changes a model's form shows in its tensors, which are checked.
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
    return state, conform(Release, given, path, DAMAGED)  # type: ignore[arg-type,return-value]


def _arch(given: dict[str, Any]) -> str:
    return str(given.get("arch") or given.get("_name") or "")


def _family(given: dict[str, Any], path: Path) -> str:
    for family in ("bart", "roberta"):
        if family in _arch(given):
            return family
    raise UserError(
        f"{path}: architecture '{_arch(given)}' is neither BART's nor RoBERTa's"
    )


def _form(given: dict[str, Any], path: Path) -> dict[str, Any]:
    """fairseq's arguments that the family has, without those that are not said."""
    known = ARCHITECTURES[_family(given, path)].__annotations__
    for side in ("encoder", "decoder"):
        check_heads(given, f"{side}_embed_dim", f"{side}_attention_heads", path)
    longest = given.get("max_positions") or given.get("max_source_positions")
    if longest is None:
        raise UserError(f"{path} says neither max_positions nor max_source_positions")
    form = {name: value for name, value in given.items() if name in known}
    form["max_positions"] = longest
    return {name: value for name, value in form.items() if value is not None}


def _wanted(name: str) -> bool:
    parts = ("classification_heads.", ".lm_head.", "decoder.lm_head")
    return not name.endswith("_float_tensor") and not any(p in name for p in parts)


def _read_dictionary(path: Path) -> list[str]:
    """fairseq's symbols, a line each: symbol, space, count."""
    found: dict[str, int] = {}
    for number, line in enumerate(text_lines(path), 1):
        symbol, _, count = line.rpartition(" ")
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
