"""Encoder-decoders as fairseq's BART: from Hugging Face, fairseq, or two BERTs."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import RobertaProcessing
from torch import Tensor

from .errors import UserError
from .files import sha256
from .ground import load_safely
from .model_dir import Manifest, ModelDirectory, write_model_directory

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


def convert_weights(
    tensors: dict[str, Tensor], rows: np.ndarray, source: Path
) -> dict[str, Tensor]:
    """A fairseq BART state dict.

    Args:
        tensors: Hugging Face's, by name.
        rows: Hugging Face id of each fairseq id.
        source: named in errors.

    Raises:
        UserError: the model adds a bias to its logits, which fairseq's cannot.

    """
    bias = tensors.get("final_logits_bias")
    if bias is not None and bool(bias.any()):
        raise UserError(
            f"{source}: final_logits_bias is not 0, and fairseq's BART has none"
        )
    named = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    table = named["shared.weight"][torch.from_numpy(rows)]
    body = {
        name: tensor
        for name, tensor in named.items()
        if name.startswith(("encoder.", "decoder.")) and "embed_tokens" not in name
    }
    state = body | {f"{name}.weight": table for name in _TABLES}
    # Without it fairseq takes the last layer norm of a pre-norm model away.
    state |= {f"{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")}
    return {name: tensor.clone().contiguous() for name, tensor in state.items()}


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
    try:
        loaded = AutoTokenizer.from_pretrained(source, use_fast=True)
        return Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except Exception as error:  # anything, from deep inside
        raise UserError(f"{source}: the tokeniser cannot be read ({error})") from None


# --- two copies of BERT ---------------------------------------------------------------


def bert2bert(source: ModelDirectory, out: Path, seed: int = 0) -> ModelDirectory:
    """An encoder-decoder whose halves both start from one encoder.

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
        **encoder,
        **{f"decoder_{name}": encoder[f"encoder_{name}"] for name in names},
        "max_source_positions": positions,
        "max_target_positions": positions,
    }


# --- fairseq's own release ---


def import_fairseq(source: Path, bpe: Path, out: Path) -> ModelDirectory:
    """A model directory from fairseq's own BART or RoBERTa.

    Args:
        source: ``model.pt`` and ``dict.txt``, as fairseq's archives unpack.
        bpe: folder of GPT-2's ``encoder.json`` and ``vocab.bpe``.
        out: folder to create.

    Raises:
        UserError: a file is missing or is of another form.

    """
    for path in (source / "dict.txt", bpe / "encoder.json", bpe / "vocab.bpe"):
        if not path.is_file():
            raise UserError(f"{path} is missing; --gpt2-bpe names GPT-2's BPE files")
    checkpoint = load_safely(source / "model.pt")
    args = checkpoint.get("args") or _model_config(checkpoint)
    given = vars(args) if isinstance(args, Namespace) else dict(args)
    state, family = checkpoint["model"], _family(given)
    dictionary, tokenizer = _gpt2(source / "dict.txt", bpe)
    size = state[_word_table(state)].size(0)
    if size == len(dictionary) + 1:
        dictionary.add_symbol("<mask>")
    for index in range(len(dictionary), size):
        dictionary.add_symbol(f"madeupword{index:04d}")
    manifest = Manifest(
        family=family,
        architecture={k: v for k, v in given.items() if _architectural(k, v)},
        special_tokens={s: s for s in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")},
        source={
            "name": f"fairseq {given.get('arch') or given.get('_name')}",
            "files": {"model.pt": sha256(source / "model.pt")},
        },
    )
    manifest.architecture.setdefault("max_positions", given.get("max_source_positions"))
    kept = {n: t for n, t in state.items() if _wanted(n)}
    return write_model_directory(out, manifest, kept, dictionary, tokenizer.to_str())


def _model_config(checkpoint: dict[str, Any]) -> Any:
    return (checkpoint.get("cfg") or {}).get("model") or {}


def _family(given: dict[str, Any]) -> str:
    name = str(given.get("arch") or given.get("_name") or "")
    for family in ("bart", "roberta"):
        if family in name:
            return family
    raise UserError(f"architecture '{name}' is neither BART's nor RoBERTa's")


def _word_table(state: dict[str, Tensor]) -> str:
    return next(name for name in state if name.endswith("embed_tokens.weight"))


def _wanted(name: str) -> bool:
    parts = ("classification_heads.", ".lm_head.", "decoder.lm_head")
    return not name.endswith("_float_tensor") and not any(p in name for p in parts)


#: Settings of the form, of those that fairseq keeps beside everything else.
_FORM = ("encoder_", "decoder_", "max_", "share_", "no_", "layernorm_", "activation_fn")

_TRAINING = (
    *("max_epoch", "max_update", "max_tokens", "max_sentences"),
    *("no_save", "no_progress", "no_epoch", "no_last", "no_seed", "no_bin"),
)


def _architectural(name: str, value: Any) -> bool:
    rates = ("dropout", "attention_dropout", "activation_dropout", "pooler_dropout")
    simple = isinstance(value, bool | int | float | str)
    known = name in rates or name.startswith(_FORM)
    return simple and known and not name.startswith(_TRAINING)


def _gpt2(dictionary_path: Path, bpe: Path) -> tuple[Dictionary, Tokenizer]:
    """fairseq's dictionary with GPT-2's tokens for its numbers, and their tokeniser."""
    numbers: dict[str, int] = json.loads((bpe / "encoder.json").read_text("utf-8"))
    tokens = {str(number): token for token, number in numbers.items()}
    theirs = Dictionary.load(str(dictionary_path))
    ours = Dictionary()
    for symbol in theirs.symbols[theirs.nspecial :]:
        ours.add_symbol(tokens.get(symbol, symbol))
    vocabulary = {symbol: index for index, symbol in enumerate(ours.symbols)}
    lines = (bpe / "vocab.bpe").read_text("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1:] if line]
    pairs = [(a, b) for a, b in merges if a + b in vocabulary]
    missing = {c for c in _alphabet(numbers) if c not in vocabulary}
    if missing:
        raise UserError(
            f"{dictionary_path} and {bpe} are not of one model: {min(missing)!r} is in "
            "the second only"
        )
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
