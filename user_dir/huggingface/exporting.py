"""Model directories and checkpoints out, Hugging Face directories."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..data.tokenizing import SentenceTokenizer, joins_apostrophes, load_tokenizer
from ..errors import UserError
from ..files import whole_folder, write_json, write_text
from ..inference.loading import load_classifier, load_trained
from ..model_dir import ModelDirectory, Search
from ..models.building import load_encoder
from ..models.families.base import Family, Kind, State, below
from ..patches.checkpoints import load_safely
from .checking import PAIRS, SENTENCES, TOLERANCE, largest, quietly
from .generation import generation_config, search_of
from .model_card import model_card
from .sources import naming


@dataclass(frozen=True)
class Original:
    """What is exported.

    Args:
        directory: the base model's.
        model: fairseq's, in evaluation mode.
        checkpoint: as loaded; empty for a model directory.
        task: of the checkpoint, or of a model directory's own head, if any.

    """

    directory: ModelDirectory
    model: Any
    checkpoint: dict[str, Any]
    task: Any = None

    @classmethod
    def open(
        cls, path: Path, model: str | None, teacher: bool, head: str | None = None
    ) -> "Original":
        """A model directory or a fine-tuned checkpoint, perhaps its teacher.

        Raises:
            UserError: the path is neither, or there is no teacher.

        """
        if path.is_dir():
            directory = ModelDirectory.open(path)
            if teacher:
                raise UserError(f"{path} is a model directory, which has no teacher")
            if model or head:
                flag = "--model" if model else "--head"
                raise UserError(f"{path} is itself a model directory; omit {flag}")
            if directory.manifest.head:
                loaded, task = load_classifier(directory)
                return cls(directory, loaded, {}, task)
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
    def family(self) -> Family:
        """The form of its model."""
        return self.directory.family

    @property
    def kind(self) -> Kind:
        """The type of transformers that it goes out as."""
        directory = self.directory
        return self.family.kind(directory.manifest.source, self.form, directory.path)

    @property
    def purpose(self) -> str:
        """What the name of its class in transformers ends in."""
        if self.chooses:
            return "ForMultipleChoice"
        if self.classifies:
            return "ForSequenceClassification"
        return "ForConditionalGeneration" if self.family.decodes else "Model"

    @property
    def classifies(self) -> bool:
        """Whether there is a classification head."""
        return hasattr(self.task, "num_classes")

    @property
    def search(self) -> Search | None:
        """How summaries are searched for, as in training or as the source says."""
        if hasattr(self.task, "decoding"):
            return search_of(self.task.decoding)
        return None if self.task else self.directory.manifest.search

    @property
    def chooses(self) -> bool:
        """Whether the head gives each of several choices a score."""
        return bool(getattr(self.task, "choices", 0))

    @property
    def head(self) -> Mapping[str, str]:
        """transformers' names of the head's layers."""
        kind = self.kind
        if not self.chooses or kind.head["out_proj"] == "classifier":
            return kind.head
        pooler = f"{kind.prefix}{self.family.pooler}"
        return kind.choice or {"dense": pooler, "out_proj": "classifier"}

    def check(self) -> None:
        """Refuse what transformers has no form for.

        Raises:
            UserError: says what that is.

        """
        self.family.check_export(self.form)
        if getattr(self.task, "by_words", False):
            raise UserError(
                "transformers has no form for a head that reads words beside the "
                "sentence, as wic's does; fairseq-steady predict answers with it"
            )
        import transformers

        name = self.kind.classes + self.purpose
        if self.chooses and not hasattr(transformers, name):
            raise UserError(
                f"transformers has no {name}; fairseq-steady predict answers with the "
                "checkpoint"
            )

    @cached_property
    def form(self) -> dict[str, Any]:
        """fairseq's arguments.

        Raises:
            UserError: they are not of a model directory.

        """
        arguments: dict[str, Any] | None = getattr(self.model, "form", None)
        if arguments is None:
            raise UserError(
                "it was trained with an --arch of its own, which has no form in "
                "transformers; fairseq-steady predict answers with it"
            )
        return arguments

    @cached_property
    def own_tokenizer(self) -> Any:
        """The directory's, as it came; reading a large one takes seconds."""
        return load_tokenizer(self.directory.tokenizer_path)

    @cached_property
    def tokenizer(self) -> SentenceTokenizer:
        """Text to the model's ids, with special tokens that are spelled in it."""
        dictionary = self.directory.dictionary()
        return SentenceTokenizer(self.directory, dictionary, self.longest, spelled=True)

    @property
    def longest(self) -> int:
        """Tokens that are read of a text: as many as in training, if there was one."""
        if self.task is None:
            return int(self.form["max_positions"])
        read = self.task.max_positions()
        return int(read[0] if isinstance(read, tuple) else read)

    @cached_property
    def rows(self) -> Tensor:
        """fairseq's id of each of Hugging Face's, shape (V,).

        Numbers that the tokeniser has no token for take the symbols that are left.
        """
        known = self.tokenizer.ids.tolist()
        size = len(self.directory.dictionary())
        rest = iter(sorted(set(range(size)) - set(known)))
        filled = [i if i >= 0 else next(rest) for i in known]
        return torch.tensor([*filled, *rest])


# --- weights and configuration -------------------------------------------------------


def weights(original: Original) -> State:
    """Every tensor by transformers' name."""
    kind, task = original.kind, original.task
    ours = original.model.state_dict()
    body = original.family.write(ours, original.form, kind, original.rows)
    prefix = "" if original.purpose == "Model" else kind.prefix
    state = {prefix + name: tensor for name, tensor in body.items()}
    if original.classifies:
        head = below(ours, f"classification_heads.{task.head}.")
        for own, theirs in original.head.items():
            for part in ("weight", "bias"):
                if f"{own}.{part}" in head:
                    state[f"{theirs}.{part}"] = head[f"{own}.{part}"]
    elif task is None and original.family.pools:
        pooler = original.directory.weights()[1]
        name = original.family.pooler
        state |= {
            f"{name}.{part.removeprefix('dense.')}": tensor
            for part, tensor in pooler.items()
        }
    return {name: t.clone().contiguous() for name, t in state.items()}


def config(original: Original) -> dict[str, Any]:
    """transformers' config.json."""
    form, kind = original.form, original.kind
    source = original.directory.manifest.source
    return {
        "model_type": original.family.model_type(source, form),
        "architectures": [kind.classes + original.purpose],
        "vocab_size": len(original.rows),
        "dtype": "float32",
        **_special_ids(original),
        **_labels(original),
        **original.family.settings(form, kind),
    }


def _labels(original: Original) -> dict[str, Any]:
    """What config.json says of a classification head."""
    if not original.classifies or original.chooses:
        return {}
    labels = original.task.labels or ["score"]
    made = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if original.task.labels is None:
        return made | {"problem_type": "regression"}
    if original.task.several:
        return made | {"problem_type": "multi_label_classification"}
    return made


def _special_ids(original: Original) -> dict[str, Any]:
    special = original.directory.manifest.special_tokens
    tokenizer = original.own_tokenizer
    names = original.family.special_ids
    ids = {f"{n}_token_id": tokenizer.token_to_id(special[s]) for n, s in names}
    if original.family.decodes:
        around = tokenizer.encode("").ids
        ids["decoder_start_token_id"] = around[-1]
        ids["forced_eos_token_id"] = ids["eos_token_id"]
        if around[0] != ids["eos_token_id"]:
            ids["forced_bos_token_id"] = around[0]
    return ids


def _tokenizer_config(original: Original) -> dict[str, Any]:
    special = original.directory.manifest.special_tokens
    tokenizer = original.own_tokenizer
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>"}
    names |= {"unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    types = ["token_type_ids"] if original.form.get("token_types") else []
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": original.longest,
        "model_input_names": ["input_ids", *types, "attention_mask"],
        "clean_up_tokenization_spaces": joins_apostrophes(tokenizer),
        **{
            f"{name}_token": special[symbol]
            for name, symbol in names.items()
            if tokenizer.token_to_id(special.get(symbol, "")) is not None
        },
    }


# --- is it the same? -----------------------------------------------------------------


@torch.no_grad()
def logit_error(original: Original, folder: Path, texts: Sequence[str]) -> float:
    """Largest difference to what transformers computes from a folder.

    Of logits; of the last hidden states for a model directory; each text, and two pairs
    unless summaries are made, tokenised by either side's own tokeniser.

    Args:
        original: what was exported.
        folder: where to.
        texts: sentences.

    Raises:
        UserError: transformers misses tensors, or the two tokenisers disagree.

    """
    theirs, tokenizer = _reloaded(original, folder)
    given_texts: list[tuple[str, ...]] = [(text,) for text in texts]
    if original.purpose != "ForConditionalGeneration":
        given_texts += PAIRS
    ids, _ = original.tokenizer.encode(given_texts)
    errors = []
    for text, own in zip(given_texts, ids, strict=True):
        given = tokenizer(*text, return_tensors="pt", truncation=True)
        tokens = torch.from_numpy(own).long()[None]
        if not torch.equal(original.rows[given["input_ids"]], tokens):
            raise UserError(f"the tokenisers disagree about {text[0]!r}")
        mine, other = _outputs(original, theirs, tokens, given)
        errors.append(float((mine - other).abs().max()))
    return largest(errors)


def _reloaded(original: Original, folder: Path) -> tuple[Any, Any]:
    """transformers' model and tokeniser of a folder.

    Raises:
        UserError: transformers misses tensors, or has no use for some.

    """
    import transformers

    auto = {
        "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
        "ForMultipleChoice": transformers.AutoModelForMultipleChoice,
        "ForConditionalGeneration": transformers.AutoModelForSeq2SeqLM,
        "Model": transformers.AutoModel,
    }[original.purpose]
    with naming(folder, "transformers cannot load the export"), quietly():
        theirs, info = auto.from_pretrained(folder, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    missing = [n for n in info["missing_keys"] if not n.startswith("pooler.")]
    if missing or info["unexpected_keys"]:
        wrong = sorted([*missing, *info["unexpected_keys"]])[0]
        raise UserError(f"transformers and the export disagree about {wrong}")
    return theirs.eval(), tokenizer


def _outputs(
    original: Original, theirs: Any, tokens: Tensor, given: Any
) -> tuple[Tensor, Tensor]:
    """What either side computes of one text: logits, or the last hidden states."""
    ours, decodes = original.model, original.family.decodes
    length = torch.tensor([tokens.size(1)])
    if original.classifies:
        seq2seq = {"src_lengths": length, "prev_output_tokens": tokens.roll(1, 1)}
        chosen = {"features_only": True, "classification_head_name": original.task.head}
        found = ours(tokens, **chosen, **(seq2seq if decodes else {}))[0]
        if original.chooses:  # one of one choice
            given = {name: ids.unsqueeze(1) for name, ids in given.items()}
        return found, theirs(**given).logits
    if decodes:
        found = ours(tokens, length, tokens)[0][..., original.rows]
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
        UserError: the original cannot be exported or differs by more than 1e-4; nothing
            is written then.

    """
    original = Original.open(Path(path), model, teacher, head)
    original.check()
    try:
        with whole_folder(Path(out)) as scratch:
            _write(original, scratch)
            worst = logit_error(original, scratch, texts)
            if not worst <= TOLERANCE:
                raise UserError(
                    f"logits of {path} and of its export differ by {worst:.2g}; "
                    "nothing was written"
                )
            write_text(scratch / "README.md", model_card(original, teacher, table))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out} cannot be written ({error})") from None
    return worst


def _write(original: Original, folder: Path) -> None:
    files = {
        "config": config(original),
        "tokenizer_config": _tokenizer_config(original),
    }
    if search := original.search:
        ids = _special_ids(original)
        files["generation_config"] = generation_config(search, ids)
    for name, content in files.items():
        write_json(folder / f"{name}.json", content, indent=2)
    shutil.copyfile(original.directory.tokenizer_path, folder / "tokenizer.json")
    path = folder / "model.safetensors"
    save_file(weights(original), path, {"format": "pt"})
    # The library writes for the user alone, whatever the umask.
    path.chmod((folder / "config.json").stat().st_mode & 0o777)
