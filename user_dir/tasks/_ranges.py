"""fairseq's own flags: values that it would hang on, ignore or fail on much later."""

import ast
import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.distributed import utils as distributed_utils

from ..errors import UserError
from ..flags import Range
from ..patches.durable import check_writable
from ..patches.literals import literal
from ..patches.refusals import A_TENTH
from ..scores.summaries import DESCRIBING, SCORES

#: The least that each may be.
_LEAST = {
    "common.log_interval": 1,
    "dataset.batch_size": 1,
    "dataset.batch_size_valid": 1,
    "dataset.data_buffer_size": 0,
    "dataset.max_tokens": 1,
    "dataset.max_tokens_valid": 1,
    "dataset.max_valid_steps": 0,
    "dataset.num_workers": 0,
    "dataset.validate_interval": 1,
    "dataset.validate_interval_updates": 0,
    "checkpoint.patience": -1,
    "checkpoint.save_interval": 1,
    "checkpoint.save_interval_updates": 0,
    "optimization.clip_norm": 0,
    "optimization.lr": 0,
    "optimization.max_epoch": 0,
    "optimization.max_update": 0,
    "optimization.update_freq": 1,
    "optimizer.adam_eps": 0,
    "optimizer.momentum": 0,
    "optimizer.weight_decay": 0,
    "lr_scheduler.end_learning_rate": 0,
    "lr_scheduler.power": 0,
    "lr_scheduler.warmup_updates": 0,
}
#: What evaluations log, whatever the task; criterions add names of their own, with a _.
_METRICS = (
    *("loss", "accuracy", "f1", "mcc", "pearson", "spearman", "score", "ppl"),
    *("macro_f1", "balanced_accuracy", "precision_CLASS", "recall_CLASS", "ranked"),
    *(*SCORES, *DESCRIBING, "bsz", "wps", "wpb", "ups", "wall"),
)
#: Flags that leave whole layers out of a pass, and that compute passes again.
_LAYERDROP = ("encoder_layerdrop", "decoder_layerdrop")
_AGAIN = ("checkpoint_activations", "offload_activations")


def _value(root: Any, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(root, section, None), name, None)


def _flag(key: str) -> str:
    return "--" + key.partition(".")[2].replace("_", "-")


def _from(least: int) -> Range:
    """Finite numbers that are ``least`` or more: one, or a list of some."""

    def holds(value: Any) -> bool:
        few = [value] if isinstance(value, int | float) else list(value)
        return bool(few) and all(least <= one < math.inf for one in few)

    return Range(f">= {least}", holds)


def check_ranges(root: Any) -> None:
    """Refuse values of fairseq's flags that cannot be meant.

    Args:
        root: fairseq's whole configuration.

    Raises:
        UserError: names the flag, the value and the range.

    """
    for key, least in _LEAST.items():
        value = _value(root, key)
        if value != A_TENTH:
            _from(least).check(_flag(key), value)
    _check_literals(root)
    _check_together(root)
    check_passes(root)
    _check_metric(root.checkpoint.best_checkpoint_metric)
    _check_folders(root)


def _check_literals(root: Any) -> None:
    betas = getattr(root.optimizer, "adam_betas", (0.9, 0.999))
    two = _literal(betas)
    if not (
        isinstance(two, Iterable)
        and len(pair := list(two)) == 2
        and all(isinstance(b, float | int) and 0 <= b < 1 for b in pair)
    ):
        raise UserError(f"--adam-betas {betas}: two numbers in [0, 1), as (0.9, 0.98)")
    given = root.checkpoint.optimizer_overrides
    if not isinstance(_literal(given), dict):
        raise UserError(
            f"--optimizer-overrides {given}: names and values, as {{'lr': [0.1]}}"
        )
    for key in ("lr_scheduler.epoch2lr", "lr_scheduler.update2lr"):
        rates = _value(root, key)
        if rates is not None and not _are_rates(rates):
            raise UserError(
                f"{_flag(key)} {rates}: numbers from 1 in quotes, and a rate for each, "
                "as {'1': 1e-4, '2-3': 5e-5, '4,6': 1e-5}"
            )


def _are_rates(given: str) -> bool:
    """Whether it is what the schedule ``manual`` takes."""
    try:
        read = ast.literal_eval(given.replace(" ", ""))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return isinstance(read, dict) and all(
        isinstance(when, str)
        and re.fullmatch(r"[1-9]\d*(-[1-9]\d*|(,[1-9]\d*)*)", when)
        and isinstance(rate, float | int)
        and 0 <= rate < math.inf
        for when, rate in read.items()
    )


def _literal(value: Any) -> Any:
    """A value, read as Python where it is text; text that cannot be read as None."""
    if not isinstance(value, str):
        return value
    try:
        return literal(value)
    except UserError:
        return None


def _check_together(root: Any) -> None:
    length = root.optimization
    if root.checkpoint.patience > 0 and root.dataset.disable_validation:
        raise UserError(
            f"--patience {root.checkpoint.patience} counts evaluations, and "
            "--disable-validation leaves none; leave one of them out"
        )
    if length.stop_min_lr >= max(length.lr):
        raise UserError(
            f"--stop-min-lr {length.stop_min_lr:g} is not below --lr "
            f"{max(length.lr):g}: nothing would be trained"
        )
    name = getattr(root.lr_scheduler, "_name", None)
    if name == "inverse_sqrt" and not root.lr_scheduler.warmup_updates:
        raise UserError(
            "--lr-scheduler inverse_sqrt decays from the end of its warm-up: give "
            "--warmup-updates 1 or more"
        )
    if root.checkpoint.checkpoint_suffix:
        raise UserError(
            f"--checkpoint-suffix {root.checkpoint.checkpoint_suffix} is for models in "
            "several files, and under such a name no run goes on after damage; leave "
            "it out, and name a --save-dir"
        )
    if root.dataset.combine_valid_subsets:
        raise UserError(
            "--combine-valid-subsets is for files that fairseq binarised; name the "
            "splits with --valid-subset"
        )


def check_passes(root: Any) -> None:
    """Refuse what makes a model's passes differ from what a method takes them for.

    Raises:
        UserError: names the flags.

    """
    name = str(getattr(root.criterion, "_name", ""))
    made = CRITERION_REGISTRY.get(name)
    ascends = getattr(made, "ascends", False)
    again = [_flag(f".{key}") for key in _AGAIN if getattr(root.model, key, False)]
    if again:
        _check_again(again[0], name, root.criterion, ascends)
    drops = [key for key in _LAYERDROP if (getattr(root.model, key, 0) or 0) > 0]
    mixes = ["steady_mixout"] * (getattr(root.task, "steady_mixout", 0) > 0)
    off = getattr(root.criterion, f"{name}_dropout", None) == "off"
    if off and not hasattr(made, "regularizer") and (lost := [*mixes, *drops]):
        own = _flag(f".{name}_dropout")
        raise UserError(
            f"{own} off leaves out {_flag(f'.{lost[0]}')} as well, in every pass: give "
            f"{own} independent, or leave that out"
        )
    workers = root.distributed_training
    found = workers.find_unused_parameters and not (
        ascends or hasattr(made, "regularizer")
    )
    waits = workers.ddp_backend in ("c10d", "pytorch_ddp") and not found
    if drops and waits and workers.distributed_world_size > 1:
        raise UserError(
            f"{_flag(f'.{drops[0]}')} leaves layers without a gradient, which "
            f"--ddp-backend {workers.ddp_backend} waits for; give --ddp-backend "
            "legacy_ddp"
        )


def _check_again(flag: str, name: str, chosen: Any, ascends: bool) -> None:
    again = f"{flag} computes passes again in backward"
    if ascends:
        raise UserError(
            f"{again}, and --criterion {name} differentiates within a pass; leave it "
            "out"
        )
    if getattr(chosen, f"{name}_dropout", None) == "off":
        own = _flag(f".{name}_dropout")
        raise UserError(
            f"{again}, with the dropout that {own} off has left out; give {own} "
            "shared, or leave it out"
        )


def _check_metric(name: str) -> None:
    """Refuse a misspelt name at once; the rest shows at the first evaluation."""
    if name in _METRICS or "_" in name or name == "auto":
        return
    begun = [known for known in _METRICS if name and known.startswith(name.lower())]
    near = begun or difflib.get_close_matches(name.lower(), _METRICS, 1, 0.5)
    raise UserError(
        f"--best-checkpoint-metric {name} is nothing that evaluations log; "
        + (f"did you mean {near[0]}?" if near else "choose from " + ", ".join(_METRICS))
    )


def _check_folders(root: Any) -> None:
    """Refuse folders that take no files, before anything is trained."""
    if not distributed_utils.is_master(root.distributed_training):
        return
    for key in ("task.steady_record", "common.tensorboard_logdir"):
        if folder := _value(root, key):
            check_writable(Path(folder), _flag(key))


# --- criterion and model --------------------------------------------------------------


def check_criterion(task: Any, cfg: Any) -> None:
    """Refuse a criterion of fairseq's where only this plugin's know the batches.

    Raises:
        UserError: names those that go with the task.

    """
    name = getattr(cfg, "_name", None)
    of_ours = hasattr(CRITERION_REGISTRY.get(name), "check_model")
    sentences = hasattr(task, "num_classes") or hasattr(task, "parts")
    if of_ours or not sentences:
        if getattr(cfg, "regression_target", False) and not _gives_scores(task):
            raise UserError(
                "--regression-target is for fairseq's own tasks; scores are learnt "
                "with --task text_regression, or glue's stsb"
            )
        return
    ours = [n for n, made in CRITERION_REGISTRY.items() if hasattr(made, "check_model")]
    raise UserError(
        f"--criterion {name} is for fairseq's own tasks; with --task "
        f"{getattr(task.cfg, '_name', '')} choose from {', '.join(ours)}"
    )


def _gives_scores(task: Any) -> bool:
    return bool(getattr(task, "regression", False))


def check_head(model: Any, criterion: Any) -> None:
    """Refuse the name of a head that the model does not have.

    Raises:
        UserError: names those that there are.

    """
    heads: Any = getattr(model, "classification_heads", None)
    kinds = getattr(criterion, "kinds", {}).values()
    wanted = [kind.head for kind in kinds if kind.head]
    missing = [name for name in wanted if heads is not None and name not in heads]
    if missing:
        raise UserError(
            f"--classification-head-name {missing[0]}: the model's heads are "
            f"{', '.join(heads)}; leave the flag out"
        )
