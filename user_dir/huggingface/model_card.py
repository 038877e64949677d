"""The model card beside an exported model."""

from typing import Any

from ..escaping import code, header
from ..escaping import markdown as text


def model_card(original: Any, teacher: bool, table: str) -> str:
    """Markdown with a header: task, data, method with its flags, scores, limits.

    Args:
        original: what was exported, a :class:`.exporting.Original`.
        teacher: whether it is smart's teacher.
        table: scores, as fairseq-steady compare's table.md has them.

    """
    manifest = original.directory.manifest
    licence = manifest.licence or "unknown"
    name = str(manifest.source.get("name", "unknown"))
    base = f"{code(name)}, licence: {text(licence)}"
    fields = {"library_name": "transformers", "license": licence}
    if original.task is not None:
        fields["pipeline_tag"] = (
            "text-classification" if original.classifies else "summarization"
        )
    if original.task is None:
        return _join([header(fields), "", f"Base model: {base}."])
    body = [
        *_described(original, base, teacher),
        "",
        "## Scores",
        "",
        *_scores(original),
    ]
    scores = [table] if table else []
    return _join([header(fields), "", *body, *scores, _LIMITS])


def _join(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _described(original: Any, base: str, teacher: bool) -> list[str]:
    cfg = original.checkpoint["cfg"]
    task, labels = cfg["task"], getattr(original.task, "labels", None)
    data = str(task["data"]).rstrip("/").rpartition("/")[2]
    trained, name, method = (
        cfg["optimization"],
        task["_name"],
        cfg["criterion"]["_name"],
    )
    which = "smart's teacher, a mean over training" if teacher else "as trained"
    return [
        f"# {text(f'{name}, fine-tuned with {method}')}",
        "",
        f"- Task: {text(name)}, on {code(data)}",
        *([f"- Labels: {text(', '.join(labels))}"] if labels else []),
        f"- Base model: {base}",
        f"- Method: {_settings(cfg['criterion'])}",
        f"- Optimizer: {_settings(cfg['optimizer'])}, learning rate "
        + text(str(trained["lr"])),
        f"- Seed: {text(str(cfg['common']['seed']))}; weights: {which}",
    ]


def _settings(part: Any) -> str:
    """A component's name and its own flags."""
    name = part["_name"]
    own = {k: v for k, v in part.items() if k.startswith(f"{name}_")}
    flags = [code(f"--{k.replace('_', '-')} {v}") for k, v in own.items()]
    return " ".join([code(name), *flags])


def _scores(original: Any) -> list[str]:
    """What the checkpoint itself knows."""
    cfg = original.checkpoint["cfg"]["checkpoint"]
    extra = original.checkpoint["extra_state"]
    if "best" not in extra:
        return ["None were recorded in the checkpoint."]
    metric, best = cfg["best_checkpoint_metric"], extra["best"]
    scored = f"Best {metric} on the development set, which chose it: {best:.4f}."
    return [text(scored)]


_LIMITS = """
## Limits

One run with one seed unless a table above says otherwise: other seeds score otherwise.
The development set chose the weights, so its score flatters them. Nothing was tested on
other data, nor for bias against groups of people.
"""
