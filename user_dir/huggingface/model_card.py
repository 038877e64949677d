"""The model card beside an exported model."""

import math
import re
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..escaping import code, code_block, header
from ..escaping import markdown as text
from ..patches.checkpoints import AVERAGED

if TYPE_CHECKING:
    from .exporting import Original

#: What a name on Hugging Face's hub looks like; any other is no base model there.
_HUB = re.compile(r"[\w-][\w.-]*(/(?!checkpoint-\d+$)[\w-][\w.-]*)?")
#: The hub's names of metrics, where they differ from ours.
_METRICS = {
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "micro_f1": "f1",
    "macro_f1": "f1",
    "subset_accuracy": "accuracy",
    "rouge1": "rouge",
    "rouge2": "rouge",
    "rougeL": "rouge",
    "rougeLsum": "rouge",
}
#: How the last lines of a snippet use a model, by what it is for.
_USES = {
    "ForSequenceClassification": """\
from transformers import pipeline

classify = pipeline("text-classification", FOLDER)
print(classify(INPUT, truncation=True))""",
    "ForMultipleChoice": """\
from transformers import AutoModelForMultipleChoice, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForMultipleChoice.from_pretrained(FOLDER)
first, choices = "Some text.", ["One choice.", "Another."]
pairs = tokenizer(
    [first] * 2, choices, padding=True, truncation=True, return_tensors="pt"
)
print(model(**{name: ids[None] for name, ids in pairs.items()}).logits)""",
    "ForConditionalGeneration": """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER)
article = tokenizer("The article.", return_tensors="pt", truncation=True)
summary = model.generate(**article)[0]
print(tokenizer.decode(summary, skip_special_tokens=True))""",
    "Model": """\
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModel.from_pretrained(FOLDER)
words = tokenizer("Some text.", truncation=True, return_tensors="pt")
print(model(**words).last_hidden_state)""",
}
_LIMITS = """
## Limits

{runs} unless a table above says otherwise: other seeds score otherwise.
Where the development set chose the weights, its score flatters them. Nothing was tested
on other data, nor for bias against groups of people.
"""


def model_card(original: "Original", teacher: bool, table: str) -> str:
    """Markdown with a header: what it is, how to use it, scores, limits.

    Args:
        original: what was exported.
        teacher: whether it is smart's teacher.
        table: scores, as fairseq-steady compare's table.md has them.

    """
    top = [header(_fields(original)), ""]
    base = _base(original)
    if not original.checkpoint:
        scores = ["", "## Scores", "", table] if table else []
        return _join([*top, f"Base model: {base}.", "", *_usage(original), *scores])
    body = [*_described(original, base, teacher), "", *_usage(original), ""]
    known = "None were recorded of these weights." if teacher else _score(original)
    scores = ["## Scores", "", known, *([table] if table else [])]
    many = _averaged(original.checkpoint)
    runs = f"A mean of {many} checkpoints" if many else "One run with one seed"
    return _join([*top, *body, *scores, _LIMITS.format(runs=runs)])


def _join(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _fields(original: "Original") -> dict[str, str | list[str]]:
    """The header, in the words of Hugging Face's hub."""
    manifest = original.directory.manifest
    fields: dict[str, str | list[str]] = {
        "library_name": "transformers",
        "license": manifest.licence or "unknown",
    }
    name = str(manifest.source.get("hub") or manifest.source.get("name", ""))
    # Earlier imports had the name alone, which may be a folder's.
    if ("hub" in manifest.source or "/" in name) and _HUB.fullmatch(name):
        fields["base_model"] = name
    if original.task is None:
        return fields
    use = "text-classification" if original.classifies else "summarization"
    use = "multiple-choice" if original.chooses else use
    fields["pipeline_tag"] = use
    if not original.checkpoint:
        return fields
    cfg = original.checkpoint["cfg"]
    metric = cfg["checkpoint"]["best_checkpoint_metric"]
    return fields | {
        "tags": ["fairseq-steady", cfg["task"]["_name"], cfg["criterion"]["_name"]],
        "metrics": [_METRICS.get(metric, metric)],
    }


def _base(original: "Original") -> str:
    manifest = original.directory.manifest
    name = str(manifest.source.get("name", "unknown"))
    return f"{code(name)}, licence: {text(manifest.licence or 'unknown')}"


def _described(original: "Original", base: str, teacher: bool) -> list[str]:
    """Title and facts, a line each."""
    cfg = original.checkpoint["cfg"]
    name, method = cfg["task"]["_name"], cfg["criterion"]["_name"]
    labels = getattr(original.task, "labels", None)
    which, seed = "as trained", text(str(cfg["common"]["seed"]))
    if teacher:
        which = "smart's teacher, a mean over training"
    elif many := _averaged(original.checkpoint):
        which = f"the mean of {many} checkpoints, of which all this is the first's"
    facts = {
        "Task": f"{text(name)}, on {_data(original.checkpoint)}",
        "Labels": text(", ".join(labels)) if labels else "",
        "Base model": base,
        "Method": _settings(cfg["criterion"]),
        "Optimizer": f"{_settings(cfg['optimizer'])}, {_length(original.checkpoint)}",
        "Seed": f"{seed}; weights: {which}",
        "Exported": f"{date.today().isoformat()}, with fairseq-steady {__version__}",
    }
    lines = [f"- {fact}: {said}" for fact, said in facts.items() if said]
    return [f"# {text(f'{name}, fine-tuned with {method}')}", "", *lines]


def _data(checkpoint: Mapping[str, Any]) -> str:
    """Name of the data's folder, and rows of each subset where they were kept."""
    folder = code(str(checkpoint["cfg"]["task"]["data"]).rstrip("/").rpartition("/")[2])
    rows = checkpoint.get("task_state", {}).get("rows", {})
    ordered = sorted(rows, key=lambda split: split != "train")
    sizes = ", ".join(f"{rows[split]} of {split}" for split in ordered)
    return f"{folder} (rows: {text(sizes)})" if sizes else folder


def _length(checkpoint: Mapping[str, Any]) -> str:
    """Learning rate, batch size and updates."""
    cfg = checkpoint["cfg"]
    rates = ", ".join(f"{rate:g}" for rate in cfg["optimization"]["lr"])
    said = [f"learning rate {text(rates)}"]
    if size := cfg["dataset"]["batch_size"]:
        workers = cfg["distributed_training"]["distributed_world_size"]
        size *= workers * cfg["optimization"]["update_freq"][0]
        said.append(f"batch size {size}")
    elif tokens := cfg["dataset"]["max_tokens"]:
        said.append(f"at most {tokens} tokens a batch")
    updates = checkpoint["optimizer_history"][-1]["num_updates"]
    return ", ".join([*said, f"{updates} updates"])


def _settings(part: Any) -> str:
    """A component's name and its own flags, those left unsaid apart."""
    name = part["_name"]
    said = {k: v for k, v in part.items() if v is not None}
    own = {k: v for k, v in said.items() if k.startswith(f"{name}_")}
    # A flag that is only given or not has no value to show.
    flags = [
        code(f"--{k.replace('_', '-')}" + ("" if v is True else f" {v}"))
        for k, v in own.items()
        if v is not False
    ]
    return " ".join([code(name), *flags])


def _usage(original: "Original") -> list[str]:
    """Python that uses the export, run in its folder."""
    given = '"Some text."'
    if len(getattr(original.task, "columns", ())) == 2:
        given = '{"text": "One text.", "text_pair": "Another."}'
    if getattr(original.task, "several", False):
        given += ", top_k=None"
    if getattr(original.task, "labels", None) is None:
        given += ', function_to_apply="none"'
    snippet = _USES[original.purpose].replace("FOLDER", '"."').replace("INPUT", given)
    read = f"Of a text {original.longest} tokens are read; `truncation` cuts it there."
    return ["## Use", "", read, "In this folder:", "", code_block(snippet, "python")]


def _averaged(checkpoint: Mapping[str, Any]) -> int:
    """Of how many checkpoints it is the mean; 0 where it is none."""
    return int((checkpoint.get("extra_state") or {}).get(AVERAGED, 0))


def _score(original: "Original") -> str:
    """What the checkpoint itself knows of its weights, from the evaluation at them."""
    extra = original.checkpoint["extra_state"]
    score, best = extra.get("val_loss"), extra.get("best")
    if score is None:
        return "None were recorded of these weights."
    metric = original.checkpoint["cfg"]["checkpoint"]["best_checkpoint_metric"]
    chose = best is not None and math.isclose(score, best)
    chosen = ", which chose these weights" if chose else ""
    return text(f"{metric} on the development set{chosen}: {score:.4f}.")
