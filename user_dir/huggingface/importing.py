"""Hugging Face directories in, model directories out."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.processors import RobertaProcessing
from torch import Tensor

from ..errors import UserError
from ..files import read_json, sha256
from ..model_dir import Manifest, ModelDirectory, write_model_directory
from . import bart as importing_bart
from . import deberta as importing_deberta
from .checking import check_state
from .config import ACTIVATIONS, SEQ2SEQ, activation, read_config
from .sources import (
    DAMAGED,
    TokenizerOptions,
    Weights,
    filler,
    inside,
    naming,
    needed,
    read_merges,
    read_numbers,
    read_vocabulary,
    read_weights,
    weight_files,
)

logger = logging.getLogger(__name__)

#: fairseq's name for each special token, in the order of its ids 0 to 3, then mask.
SPECIAL = {
    **{
        kind: {
            "<s>": "[CLS]",
            "<pad>": "[PAD]",
            "</s>": "[SEP]",
            "<unk>": "[UNK]",
            "<mask>": "[MASK]",
        }
        for kind in ("bert", *importing_deberta.KINDS)
    },
    **{
        kind: {name: name for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")}
        for kind in ("roberta", "bart", "mbart")
    },
}
#: Model family of each kind but RoBERTa's form.
_FAMILY = dict.fromkeys(SEQ2SEQ, "bart") | dict.fromkeys(
    importing_deberta.KINDS, "deberta"
)
#: Kinds whose vocabulary files transformers turns into a tokenizer.json.
_CONVERTED = ("mbart", *importing_deberta.KINDS)
#: Hugging Face's names in a layer of BERT and fairseq's; attention apart.
ATTENTION = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
}
LAYER = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}
_ENCODER = "encoder.sentence_encoder."
WORDS = "embeddings.word_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
#: What imported models do without, and nobody misses: heads of pretraining, buffers.
_UNMISSED = (
    *("cls.", "lm_head.", "lm_predictions.", "mask_predictions.", "pooler."),
    *("encoder.embed_tokens.", "decoder.embed_tokens.", "final_logits_bias"),
    *("embeddings.position_ids", "embeddings.token_type_ids"),
)


def convert_weights(
    weights: Callable[..., Tensor],
    form: dict[str, Any],
    rows: np.ndarray,
    positions: dict[str, Tensor],
) -> dict[str, Tensor]:
    """A fairseq RoBERTa or DeBERTa state dict from Hugging Face's tensors.

    Args:
        weights: gives a tensor by its Hugging Face name.
        form: fairseq's arguments.
        rows: Hugging Face id of each fairseq id, -1 where fairseq has one more.
        positions: as :func:`_positions` gives them.

    Raises:
        UserError: a tensor is missing.

    """
    order = torch.from_numpy(rows)
    words = weights(WORDS, -1, form["encoder_embed_dim"])[order.clamp(0)]
    state = {"embed_tokens.weight": words * order.ge(0)[:, None], **positions}
    deberta = "deberta_terms" in form
    named = LAYER if deberta else ATTENTION | LAYER
    for kind in ("weight", "bias"):
        state[f"layernorm_embedding.{kind}"] = weights(f"embeddings.LayerNorm.{kind}")
        for i in range(form["encoder_layers"]):
            for theirs, ours in named.items():
                tensor = weights(f"encoder.layer.{i}.{theirs}.{kind}")
                state[f"layers.{i}.{ours}.{kind}"] = tensor
    if deberta:
        state |= importing_deberta.convert_weights(weights, form)
    return {_ENCODER + name: tensor for name, tensor in state.items()}


def _positions(
    weights: Weights, config: dict[str, Any], paired: bool
) -> dict[str, Tensor]:
    """fairseq's table of absolute positions, and what a pair's second sentence adds.

    Args:
        weights: the source's.
        config: its configuration.
        paired: whether its tokeniser gives pairs two token types.

    Returns:
        Nothing where there are no absolute positions.

    """
    if not config.get("position_biased_input", True):
        return {}
    width = config["hidden_size"]
    # RoBERTa's table already has fairseq's two rows before the first position.
    first = 2 if config["model_type"] == "roberta" else 0
    rows = config["max_position_embeddings"]
    table = weights("embeddings.position_embeddings.weight", rows, width)[first:]
    types = weights.get(TYPES, config.get("type_vocab_size", -1), width)
    state = {}
    if types is not None and len(types):
        # Type-0 rows are the same for every token, so the positions can carry them.
        table = table + types[0]
        if paired and len(types) > 1 and not torch.equal(types[0], types[1]):
            state["embed_positions.second"] = types[1] - types[0]
    # fairseq counts positions from padding_idx + 1 = 2.
    table = torch.cat([torch.zeros(2, width), table])
    return {"embed_positions.weight": table, **state}


def build_tokenizer(source: Path, kind: str) -> Tokenizer:
    """The source's tokenizer.json, or the same built from its vocabulary files.

    Raises:
        UserError: there is no tokeniser, or it is not readable.

    """
    if path := inside(source, "tokenizer.json"):
        with naming(source, "the tokeniser cannot be read"):
            tokenizer = Tokenizer.from_file(str(path))
    elif kind == "bert":
        tokenizer = _wordpiece(source)
    elif kind in _CONVERTED:
        tokenizer = importing_bart.converted_tokenizer(source)
    else:
        tokenizer = _byte_level_bpe(source)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokenizer_options(source: Path) -> TokenizerOptions:
    path = inside(source, "tokenizer_config.json")
    return read_json(path, TokenizerOptions, DAMAGED) if path else {}


def _vocabulary(source: Path, name: str) -> Path:
    return needed(source, name, f"{source} has neither tokenizer.json nor {name}")


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _wordpiece(source: Path) -> Tokenizer:
    vocabulary = read_vocabulary(_vocabulary(source, "vocab.txt"))
    options = _tokenizer_options(source)
    with naming(source, "the tokeniser cannot be read"):
        built = BertWordPieceTokenizer(
            vocabulary,
            lowercase=_or(options.get("do_lower_case"), True),
            strip_accents=options.get("strip_accents"),
            handle_chinese_chars=_or(options.get("tokenize_chinese_chars"), True),
        )
    return Tokenizer.from_str(built.to_str())


def _byte_level_bpe(source: Path) -> Tokenizer:
    vocabulary = read_numbers(_vocabulary(source, "vocab.json"))
    merges = read_merges(_vocabulary(source, "merges.txt"))
    space = _or(_tokenizer_options(source).get("add_prefix_space"), False)
    with naming(source, "the tokeniser cannot be read"):
        built = ByteLevelBPETokenizer(vocabulary, merges, add_prefix_space=space)
    special = list(SPECIAL["roberta"])
    built.add_special_tokens(special)
    last, first = ((name, built.token_to_id(name)) for name in ("</s>", "<s>"))
    built._tokenizer.post_processor = RobertaProcessing(
        last, first, trim_offsets=True, add_prefix_space=space
    )
    return Tokenizer.from_str(built.to_str())


def gives_two_types(source: Path, tokenizer: Tokenizer, separator: str) -> bool:
    """Whether pairs have token type 1 after the first separator, as BERT's have.

    Raises:
        UserError: they have types in another order.

    """
    named = _tokenizer_options(source).get("model_input_names")
    encoding = tokenizer.encode("a", "b")
    if not any(encoding.type_ids) or (named and "token_type_ids" not in named):
        return False
    end = encoding.tokens.index(separator) if separator in encoding.tokens else -1
    if encoding.type_ids != [int(i > end) for i in range(len(encoding.ids))]:
        raise UserError(
            f"{source}: its tokeniser gives a pair token types {encoding.type_ids}; "
            f"only 1 after the first {separator} can be imported"
        )
    return True


def build_dictionary(
    tokenizer: Tokenizer, special: dict[str, str], rows: int, source: Path
) -> tuple[Dictionary, np.ndarray]:
    """A fairseq dictionary in the tokeniser's order, special tokens first.

    Args:
        tokenizer: the source's.
        special: its token for each of fairseq's.
        rows: rows of the embedding table; more than the vocabulary are kept as
            filler, fewer are an error.
        source: named in errors.

    Returns:
        The dictionary, and the embedding row of each of its symbols.

    Raises:
        UserError: a special token is missing, or the table is too small.

    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    _check_vocabulary(vocabulary, special, rows, source)
    by_id = {index: token for token, index in vocabulary.items()}
    names = {token: name for name, token in special.items()}
    first = [special[name] for name in ("<s>", "<pad>", "</s>", "<unk>")]
    dictionary, order = Dictionary(), [vocabulary[token] for token in first]
    for index in range(rows):
        token = by_id.get(index)
        if token not in first:
            name = filler(index, vocabulary) if token is None else token
            dictionary.add_symbol(names.get(name, name))
            order.append(index)
    return dictionary, np.array(order)


def _check_vocabulary(
    vocabulary: dict[str, int], special: dict[str, str], rows: int, source: Path
) -> None:
    """Refuse tokens that a fairseq dictionary, a token a line, cannot hold."""
    for name, token in special.items():
        if token not in vocabulary and name != "<mask>":
            raise UserError(f"{source}: the tokeniser has no {token}")
    if max(vocabulary.values()) >= rows:
        raise UserError(
            f"{source}: the tokeniser has {max(vocabulary.values()) + 1} tokens and "
            f"the embedding table {rows} rows; they are not of one model"
        )
    seen: dict[int, str] = {}
    for token, index in vocabulary.items():
        if seen.setdefault(index, token) != token:
            raise UserError(
                f"{source}: the tokeniser has {seen[index]!r} and {token!r} for the "
                f"one number {index}; {DAMAGED}"
            )
        if token in special and special[token] != token:
            raise UserError(
                f"{source}: the tokeniser has a token {token!r} besides "
                f"{special[token]}, which fairseq calls so; rename or remove it"
            )
        if not token or "\n" in token or "\r" in token:
            raise UserError(
                f"{source}: the tokeniser's token {token!r} (number {index}) is empty "
                "or has a line break, and fairseq's dictionary is a token a line; "
                "rename or remove it"
            )


def architecture(
    config: dict[str, Any], positions: dict[str, Tensor]
) -> dict[str, Any]:
    """fairseq's arguments for a Hugging Face encoder with such positions."""
    first = 2 if config["model_type"] == "roberta" else 0
    dropout = config.get("hidden_dropout_prob", 0.1)
    form = {
        "encoder_layers": config["num_hidden_layers"],
        "encoder_embed_dim": config["hidden_size"],
        "encoder_ffn_embed_dim": config["intermediate_size"],
        "encoder_attention_heads": config["num_attention_heads"],
        "activation_fn": ACTIVATIONS[activation(config)],
        "max_positions": config["max_position_embeddings"] - first,
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
        "dropout": dropout,
        "attention_dropout": config.get("attention_probs_dropout_prob", 0.1),
        "pooler_dropout": dropout,
    }
    if "embed_positions.second" in positions:
        form["token_types"] = True
    if config["model_type"] in importing_deberta.KINDS:
        form |= importing_deberta.architecture(config)
    return form


def stated_licence(source: Path) -> str | None:
    """The licence a model card's header or the config names, if any."""
    card = inside(source, "README.md")
    lines = card.read_text("utf-8", "replace").splitlines() if card else []
    for line in lines[:40]:
        key, _, value = line.partition(":")
        if key.strip() in ("license", "licence") and value.strip():
            return value.strip().strip("\"'")
    licence: str | None = read_config(source).get("license")
    return licence or None


def _pooler(weights: Weights, width: int) -> dict[str, Tensor]:
    """BERT's, both parts of it or nothing."""
    weight = weights.get("pooler.dense.weight", width, width)
    bias = weights.get("pooler.dense.bias", width)
    if weight is None or bias is None:
        return {}
    return {"dense.weight": weight, "dense.bias": bias}


def _say_what_is_left(weights: Weights, config: dict[str, Any]) -> None:
    """One line for tensors that are not carried over, such as a classifier's head."""
    left = [name for name in weights.left() if not name.startswith(_UNMISSED)]
    if not left:
        return
    labels = [repr(str(label)) for label in (config.get("id2label") or {}).values()]
    what = f"{len(left)} tensors are"
    if any(name.startswith(("classifier.", "classification_head.")) for name in left):
        what = f"the classification head with labels {', '.join(labels) or '?'} is"
    some = ", ".join(left[:4]) + (", ..." if len(left) > 4 else "")
    logger.warning("%s: %s not imported (%s)", weights.source, what, some)


def import_hf(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    licence: str | None = None,
) -> ModelDirectory:
    """Turn a Hugging Face directory into a model directory.

    Args:
        source: holds config.json, weights and tokeniser files.
        out: folder to create.
        licence: of the weights, where the source does not say.

    Raises:
        UserError: something is missing, unsafe or of a form fairseq does not have;
            nothing is written then.

    """
    folder = Path(source)
    config, files = read_config(folder), weight_files(folder)
    kind = config["model_type"]
    weights = Weights(folder, read_weights(files))
    tokenizer = build_tokenizer(folder, kind)
    table = weights(importing_bart.WORDS if kind in SEQ2SEQ else WORDS, -1, -1)
    special = SPECIAL[kind]
    dictionary, rows = build_dictionary(tokenizer, special, len(table), folder)
    if kind in SEQ2SEQ:
        form = importing_bart.architecture(config, ACTIVATIONS[activation(config)])
        state, pooler = importing_bart.convert_weights(weights, rows), {}
    else:
        paired = gives_two_types(folder, tokenizer, special["</s>"])
        positions = _positions(weights, config, paired)
        form = architecture(config, positions)
        state = convert_weights(weights, form, rows, positions)
        pooler = _pooler(weights, config["hidden_size"])
    manifest = Manifest(
        family=_FAMILY.get(kind, "roberta"),
        architecture=form,
        special_tokens=special,
        source={
            "name": config.get("_name_or_path") or folder.name,
            "model_type": kind,
            "files": {file.name: sha256(file) for file in files},
        },
        licence=licence or stated_licence(folder),
    )
    check_state(state, manifest, dictionary, folder, weights.name_of)
    _say_what_is_left(weights, config)
    whole = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    return write_model_directory(
        out, manifest, whole, dictionary, tokenizer.to_str(), pooler
    )
