"""Model directories and checkpoints out, Hugging Face directories."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..data.tokenizing import SentenceTokenizer, load_tokenizer
from ..errors import UserError
from ..files import whole_folder, write_json, write_text
from ..inference.loading import load_trained
from ..model_dir import ModelDirectory
from ..patches.checkpoints import load_safely
from . import bart as importing_bart
from . import deberta as importing_deberta
from . import importing
from .checking import PAIRS, SENTENCES, TOLERANCE, load_encoder
from .config import ACTIVATIONS, SEQ2SEQ
from .model_card import card
from .sources import naming

#: Names of transformers' classes.
_CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "deberta": "Deberta",
    "deberta-v2": "DebertaV2",
    "bart": "Bart",
    "mbart": "MBart",
}
_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
#: Where each form keeps the head's two layers, ``dense`` and ``out_proj``.
_POOLED = {"dense": "pooler.dense", "out_proj": "classifier"}
_DECODED = {n: f"classification_head.{n}" for n in ("dense", "out_proj")}
_HEADS = {
    "bert": {"dense": "bert.pooler.dense", "out_proj": "classifier"},
    "roberta": {"dense": "classifier.dense", "out_proj": "classifier.out_proj"},
    **dict.fromkeys(importing_deberta.KINDS, _POOLED),
    **dict.fromkeys(SEQ2SEQ, _DECODED),
}

State = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """What is exported.

    Args:
        directory: the base model's.
        model: fairseq's, in evaluation mode.
        checkpoint: as loaded; empty for a model directory.
        task: of the checkpoint, if any.

    """

    directory: ModelDirectory
    model: Any
    checkpoint: dict[str, Any]
    task: Any = None

    @classmethod
    def open(
        cls, path: Path, model: str | None, teacher: bool, head: str | None = None
    ) -> "Source":
        """A model directory or a fine-tuned checkpoint, perhaps its teacher.

        Raises:
            UserError: the path is neither, or there is no teacher.

        """
        if path.is_dir():
            directory = ModelDirectory.open(path)
            if teacher:
                raise UserError(f"{path} is a model directory, which has no teacher")
            return cls(directory, load_encoder(directory), {})
        checkpoint = load_safely(path)
        loaded, task = load_trained(path, model, head)
        if teacher:
            kept = checkpoint["extra_state"].get("fairseq_steady", {}).get("teacher")
            if kept is None:
                raise UserError(
                    f"{path} has no teacher; smart keeps one with --smart-bregman"
                )
            loaded.load_state_dict(kept["model"], strict=True)
        return cls(task.directory, loaded.eval(), checkpoint, task)

    @property
    def kind(self) -> str:
        """transformers' model type."""
        manifest = self.directory.manifest
        if manifest.family == "deberta":
            return importing_deberta.KINDS[self.form["deberta_key_bias"]]
        return str(manifest.source.get("model_type", manifest.family))

    @property
    def classifies(self) -> bool:
        """Whether there is a classification head."""
        return hasattr(self.task, "num_classes")

    @cached_property
    def form(self) -> dict[str, Any]:
        """fairseq's arguments."""
        arguments: dict[str, Any] = self.model.form
        return arguments

    @cached_property
    def tokenizer(self) -> SentenceTokenizer:
        """The model directory's."""
        dictionary = self.directory.dictionary()
        longest = self.form["max_positions"]
        return SentenceTokenizer(self.directory, dictionary, longest, spelled=True)

    @cached_property
    def rows(self) -> Tensor:
        """fairseq's id of each of Hugging Face's; symbols of no token fill the gaps."""
        known = self.tokenizer.ids.tolist()
        size = len(self.directory.dictionary())
        rest = iter(sorted(set(range(size)) - set(known)))
        filled = [i if i >= 0 else next(rest) for i in known]
        return torch.tensor([*filled, *rest])

    def state(self, prefix: str) -> State:
        """Weights below a prefix, without it."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.model.state_dict().items()
            if name.startswith(prefix)
        }


# --- weights -------------------------------------------------------------------------


def weights(source: Source) -> State:
    """Every tensor by transformers' name."""
    if source.kind in SEQ2SEQ:
        state = _encoder_decoder(source)
    else:
        body = f"{source.kind.partition('-')[0]}." if source.classifies else ""
        state = {body + name: tensor for name, tensor in _encoder(source).items()}
    if source.classifies:
        head = source.state(f"classification_heads.{source.task.head}.")
        for ours, theirs in _HEADS[source.kind].items():
            for part in ("weight", "bias"):
                state[f"{theirs}.{part}"] = head[f"{ours}.{part}"]
    elif source.task is None and source.kind not in SEQ2SEQ:
        pooler = source.directory.weights()[1]
        state |= {f"pooler.{name}": tensor for name, tensor in pooler.items()}
    return {name: t.clone().contiguous() for name, t in state.items()}


def _encoder(source: Source) -> State:
    ours = source.state("encoder.sentence_encoder.")
    words = ours["embed_tokens.weight"][source.rows]
    state = {"embeddings.word_embeddings.weight": words}
    if "embed_positions.weight" in ours:
        first = 0 if source.kind == "roberta" else 2
        positions = ours["embed_positions.weight"][first:]
        state["embeddings.position_embeddings.weight"] = positions
    if types := _types(source):
        # Type 0 went into the positions when the model was imported.
        table = words.new_zeros(types, words.size(1))
        if "embed_positions.second" in ours:
            table[1] = ours["embed_positions.second"]
        state[importing.TYPES] = table
    deberta = source.kind in importing_deberta.KINDS
    named = importing.LAYER if deberta else importing.ATTENTION | importing.LAYER
    for part in ("weight", "bias"):
        norm = ours[f"layernorm_embedding.{part}"]
        state[f"embeddings.LayerNorm.{part}"] = norm
        for i in range(source.form["encoder_layers"]):
            for theirs, own in named.items():
                tensor = ours[f"layers.{i}.{own}.{part}"]
                state[f"encoder.layer.{i}.{theirs}.{part}"] = tensor
    if deberta:
        state |= importing_deberta.restore_weights(ours, source.form)
    return state


def _types(source: Source) -> int:
    """Rows of the table of token types."""
    paired = source.form.get("token_types", False)
    return 2 if paired else {"bert": 2, "roberta": 1}.get(source.kind, 0)


def _encoder_decoder(source: Source) -> State:
    state = {
        f"model.{side}{name}": tensor
        for side in ("encoder.", "decoder.")
        for name, tensor in source.state(side).items()
        if not name.startswith(("embed_tokens", "output_projection", "version"))
    }
    shared = source.state("encoder.embed_tokens.")["weight"][source.rows]
    return state | {"model.shared.weight": shared}


# --- configuration -------------------------------------------------------------------


def config(source: Source) -> dict[str, Any]:
    """transformers' config.json."""
    form, kind = source.form, source.kind
    made = {
        "model_type": kind,
        "architectures": [_CLASSES[kind] + _purpose(source)],
        "vocab_size": len(source.rows),
        "dtype": "float32",
        **_special_ids(source),
    }
    if source.classifies:
        labels = source.task.labels or ["score"]
        made["id2label"] = dict(enumerate(labels))
        made["label2id"] = {label: index for index, label in enumerate(labels)}
        if source.task.labels is None:
            made["problem_type"] = "regression"
    if kind in SEQ2SEQ:
        return made | importing_bart.restore_architecture(form, _activation(form))
    made |= {
        "num_hidden_layers": form["encoder_layers"],
        "hidden_size": form["encoder_embed_dim"],
        "intermediate_size": form["encoder_ffn_embed_dim"],
        "num_attention_heads": form["encoder_attention_heads"],
        "hidden_act": _activation(form),
        "max_position_embeddings": form["max_positions"] + 2 * (kind == "roberta"),
        "type_vocab_size": _types(source),
        "layer_norm_eps": form.get("layer_norm_eps", 1e-5),
        "hidden_dropout_prob": form["dropout"],
        "attention_probs_dropout_prob": form["attention_dropout"],
        "classifier_dropout": form["pooler_dropout"],
    }
    if kind in importing_deberta.KINDS:
        made |= importing_deberta.restore_architecture(form)
    return made


def _purpose(source: Source) -> str:
    if source.classifies:
        return "ForSequenceClassification"
    return "ForConditionalGeneration" if source.kind in SEQ2SEQ else "Model"


def _activation(form: dict[str, Any]) -> str:
    name: str = form["activation_fn"]
    if name not in _ACTIVATIONS:
        raise UserError(f"activation '{name}' has no name in transformers")
    return _ACTIVATIONS[name]


def _special_ids(source: Source) -> dict[str, Any]:
    special = source.directory.manifest.special_tokens
    tokenizer = load_tokenizer(source.directory.tokenizer_path)
    names = {"pad": "<pad>", "bos": "<s>", "eos": "</s>"}
    ids = {f"{n}_token_id": tokenizer.token_to_id(special[s]) for n, s in names.items()}
    if source.kind in SEQ2SEQ:
        ids["decoder_start_token_id"] = tokenizer.encode("").ids[-1]
        ids["forced_eos_token_id"] = ids["eos_token_id"]
    return ids


def _tokenizer_config(source: Source) -> dict[str, Any]:
    special = source.directory.manifest.special_tokens
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>"}
    names |= {"unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    types = ["token_type_ids"] if source.form.get("token_types") else []
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.form["max_positions"],
        "model_input_names": ["input_ids", *types, "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": special[symbol] for name, symbol in names.items()},
    }


def _generation_config(source: Source) -> dict[str, Any]:
    """fairseq counts neither the first token nor the last, transformers both."""
    chosen = asdict(source.task.decoding)
    return {
        **_special_ids(source),
        "num_beams": chosen["beam"],
        "length_penalty": chosen["length_penalty"],
        "min_length": chosen["min_length"] + 1,
        "max_length": chosen["max_length"] + 2,
        "no_repeat_ngram_size": chosen["no_repeat"],
        "early_stopping": True,
    }


# --- is it the same? -----------------------------------------------------------------


@torch.no_grad()
def logit_error(source: Source, folder: Path, texts: Sequence[str]) -> float:
    """Largest difference to what transformers computes from a folder.

    Of logits; of the last hidden states for a model directory; each text, and two pairs
    unless summaries are made, tokenised by either side's own tokeniser.

    Args:
        source: what was exported.
        folder: where to.
        texts: sentences.

    Raises:
        UserError: transformers misses tensors, or the two tokenisers disagree.

    """
    import transformers

    purpose = _purpose(source)
    auto = {
        "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
        "ForConditionalGeneration": transformers.AutoModelForSeq2SeqLM,
        "Model": transformers.AutoModel,
    }[purpose]
    with naming(folder, "transformers cannot load the export"):
        theirs, info = auto.from_pretrained(folder, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    missing = [n for n in info["missing_keys"] if not n.startswith("pooler.")]
    if missing or info["unexpected_keys"]:
        wrong = sorted([*missing, *info["unexpected_keys"]])[0]
        raise UserError(f"transformers and the export disagree about {wrong}")
    pairs = () if purpose == "ForConditionalGeneration" else PAIRS
    given_texts = [*((text,) for text in texts), *pairs]
    ids, _ = source.tokenizer.encode(given_texts)
    worst = 0.0
    for text, own in zip(given_texts, ids, strict=True):
        given = tokenizer(*text, return_tensors="pt", truncation=True)
        tokens = torch.from_numpy(own).long()[None]
        if not torch.equal(source.rows[given["input_ids"]], tokens):
            raise UserError(f"the tokenisers disagree about {text[0]!r}")
        mine, other = _outputs(source, theirs.eval(), tokens, given)
        worst = max(worst, float((mine - other).abs().max()))
    return worst


def _outputs(
    source: Source, theirs: Any, tokens: Tensor, given: Any
) -> tuple[Tensor, Tensor]:
    ours, kind = source.model, source.kind
    length = torch.tensor([tokens.size(1)])
    if source.classifies:
        seq2seq = {"src_lengths": length, "prev_output_tokens": tokens.roll(1, 1)}
        extra = seq2seq if kind in SEQ2SEQ else {}
        head = source.task.head
        found = ours(
            tokens, features_only=True, classification_head_name=head, **extra
        )[0]
        return found, theirs(**given).logits
    if kind in SEQ2SEQ:
        found = ours(tokens, length, tokens)[0][..., source.rows]
        return found, theirs(**given, decoder_input_ids=given["input_ids"]).logits
    return ours(tokens, features_only=True)[0], theirs(**given).last_hidden_state


# --- the whole -----------------------------------------------------------------------


def export_hf(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: str | None = None,
    teacher: bool = False,
    head: str | None = None,
    texts: Sequence[str] = SENTENCES,
    table: str = "",
) -> float:
    """Write a Hugging Face directory, whole or not at all.

    Args:
        path: a model directory or a fine-tuned checkpoint.
        out: folder to create.
        model: the checkpoint's model directory, where that has moved.
        teacher: take smart's teacher instead of the trained weights.
        head: which task, for checkpoints of glue_multitask.
        texts: what the two sides are compared on.
        table: Markdown with scores for the model card.

    Returns:
        The largest difference of logits.

    Raises:
        UserError: the source cannot be exported or differs by more than 1e-4; nothing
            is written then.

    """
    source = Source.open(Path(path), model, teacher, head)
    _refuse(source)
    try:
        with whole_folder(Path(out)) as scratch:
            _write(source, scratch)
            worst = logit_error(source, scratch, texts)
            if not worst <= TOLERANCE:
                raise UserError(
                    f"logits of {path} and of its export differ by {worst:.2g}; "
                    "nothing was written"
                )
            write_text(scratch / "README.md", card(source, teacher, table))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out} cannot be written ({error})") from None
    return worst


def _refuse(source: Source) -> None:
    seq2seq = source.kind in SEQ2SEQ
    if seq2seq and source.form.get("layer_norm_eps", 1e-5) != 1e-5:
        raise UserError(
            "two copies of BERT (--bert2bert) have no form in transformers: BART's "
            "LayerNorm has another epsilon"
        )


def _write(source: Source, folder: Path) -> None:
    files = {"config": config(source), "tokenizer_config": _tokenizer_config(source)}
    if hasattr(source.task, "decoding"):
        files["generation_config"] = _generation_config(source)
    for name, content in files.items():
        write_json(folder / f"{name}.json", content, indent=2)
    shutil.copyfile(source.directory.tokenizer_path, folder / "tokenizer.json")
    path = folder / "model.safetensors"
    save_file(weights(source), path, {"format": "pt"})
    # The library writes for the user alone, whatever the umask.
    path.chmod((folder / "config.json").stat().st_mode & 0o777)
