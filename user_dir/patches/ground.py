"""What fairseq needs changed before it can fine-tune on a current torch.

Each change is made once, when the plugin is imported, and leaves fairseq's behaviour
alone wherever it already works.
"""

import argparse
import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils, options, utils
from fairseq.dataclass import utils as dataclass_utils
from fairseq.models import distributed_fairseq_model
from fairseq.trainer import Trainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError, install_excepthook
from ..model_dir import DICTIONARY, other_dictionary
from . import announcing, durable, literals, refusals, workers
from .checkpoints import (
    KEPT_FILES,
    allow_checkpoints,
    blaming,
    known_only,
    load_checkpoint,
    load_safely,
    no_file,
)
from .finite import naming_the_update, of_gradients, of_losses, watch_scales
from .resuming import check_same, of_another_model

#: Model that --steady-model describes; used when --arch is not given.
DEFAULT_ARCH = "steady"

#: Where a checkpoint's extra state holds what the criterion keeps.
_KEPT = "fairseq_steady"
#: Where a trainer remembers the last update its criterion heard of.
_NOTIFIED = "_fairseq_steady_notified"


def _insisting(load: Callable[..., Any]) -> Callable[..., Any]:
    """Fairseq trains on silently when --restore-file is missing."""

    @functools.wraps(load)
    def load_checkpoint(cfg: Any, trainer: Any, **kwargs: Any) -> Any:
        named = {
            "--restore-file": cfg.restore_file,
            "--finetune-from-model": cfg.finetune_from_model,
        }
        for flag, path in named.items():
            chosen = path is not None and path != "checkpoint_last.pt"
            if chosen and not os.path.isfile(path):
                raise UserError(f"{flag} {path} {no_file(path)}; nothing was trained")
        durable.prepare(trainer.cfg)
        with _new_heads(trainer):
            extra, iterator = load(cfg, trainer, **kwargs)
        then = (extra or {}).get(KEPT_FILES, {})
        _check_dictionary(trainer.task, then, cfg)
        if trainer.get_num_updates() > 0:
            durable.check_unchanged(_files(trainer), then, cfg.save_dir)
        return extra, iterator

    return load_checkpoint


def _check_dictionary(task: Any, then: dict[str, str], cfg: Any) -> None:
    directory = getattr(task, "directory", None)
    if directory is None:
        return
    if problem := other_dictionary(then, directory.path / DICTIONARY):
        path = cfg.finetune_from_model or f"the checkpoint in {cfg.save_dir}"
        raise UserError(f"{path} {problem}; give its own with --steady-model")


def _files(trainer: Any) -> dict[str, str]:
    """Digest of each data file that the task has read."""
    return dict(getattr(trainer.task, "files", {}))


@contextmanager
def _new_heads(trainer: Any) -> Iterator[None]:
    """The checkpoint's heads become what the task has settled, before they load."""
    heads = getattr(trainer.get_model(), "classification_heads", None)
    adapt = getattr(trainer.task, "adapt_heads", None)
    if heads is None or adapt is None:
        yield
        return

    def settle(*given: Any) -> None:
        """No method: --store-ema copies the model, and would copy the task too."""
        adapt(*given)

    hook = heads.register_load_state_dict_pre_hook(settle)
    try:
        yield
    finally:
        hook.remove()


def _notifying(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Tell the criterion of every update that changed the weights."""

    @functools.wraps(train_step)
    def step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        before = trainer.get_num_updates()
        with workers.naming_the_lost(), naming_the_update(trainer):
            result = train_step(trainer, *args, **kwargs)
        criterion, after = trainer.get_criterion(), trainer.get_num_updates()
        # With --amp the trainer calls itself to repeat a batch that overflowed.
        repeated = getattr(trainer, _NOTIFIED, None) == after
        if after > before and not repeated and hasattr(criterion, "after_update"):
            setattr(trainer, _NOTIFIED, after)
            criterion.after_update(trainer.model, after)
        return result

    return step


def _keeping(state_dict: Callable[..., Any]) -> Callable[..., Any]:
    """Write what the criterion keeps into the checkpoint."""

    @functools.wraps(state_dict)
    def with_kept(trainer: Any) -> Any:
        state = state_dict(trainer)
        kept: dict[str, Any] = getattr(trainer.get_criterion(), "kept_state", dict)()
        if kept:
            state["extra_state"][_KEPT] = kept
        state["extra_state"][KEPT_FILES] = _files(trainer)
        return state

    return with_kept


def _restoring(load: Callable[..., Any]) -> Callable[..., Any]:
    """Hand it back when a run resumes, on every worker."""
    lazily = functools.partial(load_safely, mmap=True)  # it is loaded whole besides

    @functools.wraps(load)
    def load_checkpoint(
        trainer: Any,
        filename: str,
        reset_optimizer: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not reset_optimizer:
            check_same(trainer, filename, args[0] if args else False, lazily)
        with blaming(filename), of_another_model(trainer, filename, lazily):
            extra = load(trainer, filename, reset_optimizer, *args, **kwargs)
        kept = (extra or {}).pop(_KEPT, None)
        if kept and trainer.get_num_updates() > 0:
            getattr(trainer.get_criterion(), "restore_kept", lambda _: None)(kept)
        return extra

    return load_checkpoint


def _defaulting(add: Callable[..., Any]) -> Callable[..., Any]:
    """Without --arch fairseq stops with an empty RuntimeError."""

    @functools.wraps(add)
    def add_model_args(parser: argparse.ArgumentParser) -> Any:
        group = add(parser)
        parser.set_defaults(arch=DEFAULT_ARCH)
        return group

    return add_model_args


def _in_parallel(
    module: nn.Module, device_ids: Any, output_device: Any, **options: Any
) -> DistributedDataParallel:
    """Torch's wrapper; fairseq names GPU 0 also for a model on the CPU."""
    if next(module.parameters()).device.type == "cpu":
        device_ids = output_device = None
    return DistributedDataParallel(module, device_ids, output_device, **options)


def _numbers(parse: Callable[..., Any]) -> Callable[..., Any]:
    """argparse reports a ValueError as a wrong flag, but not a SyntaxError.

    Nor does fairseq mind that 1.5 is no whole number: it makes 1 of it.
    """

    @functools.wraps(parse)
    def eval_str_list(text: Any, *args: Any) -> Any:
        try:
            values = parse(text, *args)
            if isinstance(text, str) and int in args and values != parse(text, float):
                raise ValueError(text)
        except SyntaxError:
            raise ValueError(text) from None
        return values

    return eval_str_list


def _check_save_dir(folder: str) -> None:
    durable.check_writable(Path(folder))


def _hush() -> None:
    """Warnings that fairseq's own code causes at every batch and no user can mend."""
    warnings.filterwarnings("ignore", r".*torch\.cuda\.amp\.", FutureWarning)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", r".*'pin_memory' argument is set", UserWarning)


def _claim() -> None:
    """A later --user-dir that names this folder finds it imported already."""
    memo: set[str] = getattr(utils.import_user_module, "memo", set())
    utils.import_user_module.memo = {*memo, str(Path(__file__).parents[1])}


def prepare_fairseq() -> None:
    """Allow-list checkpoints, let silent failures speak, call criterions back."""
    install_excepthook()
    _hush()
    _claim()
    durable.install()
    workers.install()
    allow_checkpoints()
    literals.install()
    announcing.install()
    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint
    checkpoint_utils.load_model_ensemble_and_task = known_only(
        checkpoint_utils.load_model_ensemble_and_task
    )
    checkpoint_utils.load_checkpoint = _insisting(checkpoint_utils.load_checkpoint)
    dataclass_utils.eval_str_list = _numbers(dataclass_utils.eval_str_list)
    distributed_fairseq_model.DistributedDataParallel = _in_parallel
    options.add_model_args = _defaulting(options.add_model_args)
    options.parse_args_and_arch = refusals.parsing(options.parse_args_and_arch)
    checkpoint_utils.verify_checkpoint_directory = _check_save_dir
    Trainer.train_step = _notifying(Trainer.train_step)
    Trainer.valid_step = of_losses(Trainer.valid_step)
    Trainer._check_grad_norms = of_gradients(Trainer._check_grad_norms)
    watch_scales()
    Trainer.state_dict = _keeping(Trainer.state_dict)
    Trainer.load_checkpoint = _restoring(Trainer.load_checkpoint)
