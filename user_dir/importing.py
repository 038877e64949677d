"""Hugging Face directories in, model directories out."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.processors import RobertaProcessing
from torch import Tensor

from . import importing_bart, importing_deberta
from .errors import UserError
from .files import sha256
from .ground import load_safely
from .model_dir import Manifest, ModelDirectory, write_model_directory

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
#: Encoder-decoders among them.
SEQ2SEQ = ("bart", "mbart")
#: Model family of each kind but RoBERTa's form.
_FAMILY = dict.fromkeys(SEQ2SEQ, "bart") | dict.fromkeys(
    importing_deberta.KINDS, "deberta"
)
#: Kinds whose vocabulary files transformers turns into a tokenizer.json.
_CONVERTED = ("mbart", *importing_deberta.KINDS)
#: Hugging Face's activation names and fairseq's for the same function.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_accurate",
    "gelu_pytorch_tanh": "gelu_accurate",
    "relu": "relu",
    "silu": "swish",
}
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


def read_config(source: Path) -> dict[str, Any]:
    """The source's config.json, checked for what this importer can carry over.

    Raises:
        UserError: not a Hugging Face directory, or a form fairseq does not have.

    """
    path = source / "config.json"
    if not path.is_file():
        raise UserError(f"{source} has no config.json: not a Hugging Face directory")
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    kind, positions = (
        config.get("model_type"),
        config.get("position_embedding_type") or "absolute",
    )
    if kind not in SPECIAL:
        raise UserError(
            f"{path}: model_type '{kind}' cannot be imported; known: "
            + ", ".join(SPECIAL)
        )
    decoder = config.get("is_decoder") and kind not in SEQ2SEQ
    if positions != "absolute" or decoder:
        raise UserError(
            f"{path}: fairseq has no {positions} positions or decoder in this form; "
            "only encoders with absolute positions can be imported"
        )
    if activation(config) not in ACTIVATIONS:
        raise UserError(
            f"{path}: hidden_act '{activation(config)}' is none of "
            + ", ".join(ACTIVATIONS)
        )
    if kind in importing_deberta.KINDS:
        importing_deberta.check(config, path)
    return config


def activation(config: dict[str, Any]) -> str:
    """Hugging Face's name of the activation."""
    name: str = config.get("hidden_act") or config.get("activation_function", "gelu")
    return name


def weight_files(source: Path) -> list[Path]:
    """Safetensors, one or sharded, before a pickled .bin.

    Raises:
        UserError: there are none, or a shard is missing.

    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = source / f"{name}.index.json"
        if (source / name).is_file():
            return [source / name]
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            missing = [shard for shard in shards if not (source / shard).is_file()]
            if missing:
                raise UserError(
                    f"{source} lacks {missing[0]}, which {index.name} names"
                )
            return [source / shard for shard in shards]
    raise UserError(f"{source} has neither model.safetensors nor pytorch_model.bin")


def read_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors in fp32, names without the model's prefix.

    Raises:
        UserError: a file is damaged or could run code.

    """
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(_read_file(file))
    renamed = {}
    for name, tensor in state.items():
        short = re.sub(r"^(bert|roberta|deberta)\.", "", name)
        short = short.replace("LayerNorm.gamma", "LayerNorm.weight")
        short = short.replace("LayerNorm.beta", "LayerNorm.bias")
        renamed[short] = tensor.float() if tensor.is_floating_point() else tensor
    return renamed


def _read_file(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        loaded: dict[str, Tensor] = load_safely(file)
        return loaded
    try:
        return load_file(file)
    except Exception as error:  # safetensors raises its own, unexported
        raise UserError(f"{file} is not a safetensors file ({error})") from None


class _Weights:
    """The source's tensors, each asked for by name."""

    def __init__(self, source: Path, tensors: dict[str, Tensor]) -> None:
        self.source, self.tensors = source, tensors

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(name)

    def __call__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise UserError(
                f"{self.source}: the weights lack {name}; is this the whole model?"
            )
        return self.tensors[name]


def convert_weights(
    weights: Callable[[str], Tensor],
    form: dict[str, Any],
    rows: np.ndarray,
    positions: Tensor | None,
) -> dict[str, Tensor]:
    """A fairseq RoBERTa or DeBERTa state dict from Hugging Face's tensors.

    Args:
        weights: gives a tensor by its Hugging Face name.
        form: fairseq's arguments.
        rows: Hugging Face id of each fairseq id, -1 where fairseq has one more.
        positions: embedding of each absolute position, from the first token's; None
            where there are none.

    Raises:
        UserError: a tensor is missing.

    """
    order = torch.from_numpy(rows)
    words = weights("embeddings.word_embeddings.weight")[order.clamp(0)]
    state = {"embed_tokens.weight": words * order.ge(0)[:, None]}
    if positions is not None:
        # fairseq counts positions from padding_idx + 1 = 2.
        table = torch.cat([torch.zeros(2, words.size(1)), positions])
        state["embed_positions.weight"] = table
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
    return {_ENCODER + name: t.clone().contiguous() for name, t in state.items()}


def _positions(
    weights: "_Weights", config: dict[str, Any]
) -> tuple[Tensor | None, int]:
    """Absolute positions from the first token's on, and how many tokens fit."""
    kind = config["model_type"]
    if not config.get("position_biased_input", True):
        return None, config["max_position_embeddings"]
    # RoBERTa's table already has fairseq's two rows before the first position.
    first = 2 if kind == "roberta" else 0
    table = weights("embeddings.position_embeddings.weight")[first:]
    types = weights.get("embeddings.token_type_embeddings.weight")
    if types is not None:
        # Type-0 rows are the same for every token, so the positions can carry them.
        table = table + types[0]
    return table, table.size(0)


def build_tokenizer(source: Path, kind: str) -> Tokenizer:
    """The source's tokenizer.json, or the same built from its vocabulary files.

    Raises:
        UserError: there is no tokeniser, or it is not readable.

    """
    path = source / "tokenizer.json"
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        elif kind == "bert":
            tokenizer = _wordpiece(source)
        elif kind in _CONVERTED:
            tokenizer = importing_bart.converted_tokenizer(source)
        else:
            tokenizer = _byte_level_bpe(source)
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f"{source}: the tokeniser cannot be read ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokenizer_options(source: Path) -> dict[str, Any]:
    path = source / "tokenizer_config.json"
    options: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return options


def _need(source: Path, *names: str) -> list[str]:
    missing = [name for name in names if not (source / name).is_file()]
    if missing:
        raise UserError(f"{source} has neither tokenizer.json nor {missing[0]}")
    return [str(source / name) for name in names]


def _wordpiece(source: Path) -> Tokenizer:
    (vocabulary,) = _need(source, "vocab.txt")
    options = _tokenizer_options(source)
    built = BertWordPieceTokenizer(
        vocabulary,
        lowercase=options.get("do_lower_case", True),
        strip_accents=options.get("strip_accents"),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
    )
    return Tokenizer.from_str(built.to_str())


def _byte_level_bpe(source: Path) -> Tokenizer:
    vocabulary, merges = _need(source, "vocab.json", "merges.txt")
    space = _tokenizer_options(source).get("add_prefix_space", False)
    built = ByteLevelBPETokenizer(vocabulary, merges, add_prefix_space=space)
    special = list(SPECIAL["roberta"])
    built.add_special_tokens(special)
    last, first = ((name, built.token_to_id(name)) for name in ("</s>", "<s>"))
    built._tokenizer.post_processor = RobertaProcessing(
        last, first, trim_offsets=True, add_prefix_space=space
    )
    return Tokenizer.from_str(built.to_str())


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
    for name, token in special.items():
        if token not in vocabulary and name != "<mask>":
            raise UserError(f"{source}: the tokeniser has no {token}")
    if max(vocabulary.values()) >= rows:
        raise UserError(
            f"{source}: the tokeniser has {max(vocabulary.values()) + 1} tokens and "
            f"the embedding table {rows} rows; they are not of one model"
        )
    by_id = {index: token for token, index in vocabulary.items()}
    names = {token: name for name, token in special.items()}
    first = [special[name] for name in ("<s>", "<pad>", "</s>", "<unk>")]
    dictionary, order = Dictionary(), [vocabulary[token] for token in first]
    for index in range(rows):
        token = by_id.get(index, f"madeupword{index:04d}")
        if token not in first:
            dictionary.add_symbol(names.get(token, token))
            order.append(index)
    if len(dictionary) != len(order):
        raise UserError(f"{source}: two of the tokeniser's tokens have one name")
    return dictionary, np.array(order)


def architecture(config: dict[str, Any], positions: int) -> dict[str, Any]:
    """fairseq's arguments for a Hugging Face encoder of so many positions."""
    dropout = config.get("hidden_dropout_prob", 0.1)
    form = {
        "encoder_layers": config["num_hidden_layers"],
        "encoder_embed_dim": config["hidden_size"],
        "encoder_ffn_embed_dim": config["intermediate_size"],
        "encoder_attention_heads": config["num_attention_heads"],
        "activation_fn": ACTIVATIONS[activation(config)],
        "max_positions": positions,
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
        "dropout": dropout,
        "attention_dropout": config.get("attention_probs_dropout_prob", 0.1),
        "pooler_dropout": dropout,
    }
    if config["model_type"] in importing_deberta.KINDS:
        form |= importing_deberta.architecture(config)
    return form


def stated_licence(source: Path) -> str | None:
    """The licence a model card's header or the config names, if any."""
    card = source / "README.md"
    lines = card.read_text("utf-8", "replace").splitlines() if card.is_file() else []
    for line in lines[:40]:
        key, _, value = line.partition(":")
        if key.strip() in ("license", "licence") and value.strip():
            return value.strip().strip("\"'")
    licence = read_config(source).get("license")
    return str(licence) if licence else None


def _pooler(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    names = ("dense.weight", "dense.bias")
    found = {n: tensors[f"pooler.{n}"] for n in names if f"pooler.{n}" in tensors}
    return found if len(found) == len(names) else {}


def import_hf(source: Path, out: Path, licence: str | None = None) -> ModelDirectory:
    """Turn a Hugging Face directory into a model directory.

    Args:
        source: holds config.json, weights and tokeniser files.
        out: folder to create.
        licence: of the weights, where the source does not say.

    Raises:
        UserError: something is missing, unsafe or of a form fairseq does not have;
            nothing is written then.

    """
    config, files = read_config(source), weight_files(source)
    kind = config["model_type"]
    tensors = read_weights(files)
    weights = _Weights(source, tensors)
    tokenizer = build_tokenizer(source, kind)
    words = "model.shared" if kind in SEQ2SEQ else "embeddings.word_embeddings"
    size = weights(f"{words}.weight").size(0)
    dictionary, rows = build_dictionary(tokenizer, SPECIAL[kind], size, source)
    if kind in SEQ2SEQ:
        form = importing_bart.architecture(config, ACTIVATIONS[activation(config)])
        state = importing_bart.convert_weights(tensors, rows, source)
    else:
        positions, longest = _positions(weights, config)
        form = architecture(config, longest)
        state = convert_weights(weights, form, rows, positions)
    manifest = Manifest(
        family=_FAMILY.get(kind, "roberta"),
        architecture=form,
        special_tokens=SPECIAL[kind],
        source={
            "name": config.get("_name_or_path") or source.name,
            "model_type": kind,
            "files": {file.name: sha256(file) for file in files},
        },
        licence=licence or stated_licence(source),
    )
    return write_model_directory(
        out, manifest, state, dictionary, tokenizer.to_str(), _pooler(tensors)
    )
