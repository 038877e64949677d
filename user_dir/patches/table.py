"""What is changed in fairseq, Hydra, torch and Python itself: all of it, and why.

README.md beside this file holds :func:`markdown`, which a test compares.
"""

import itertools
import logging
from pathlib import Path

from fairseq import utils

from ..errors import install_excepthook
from . import (
    IMPORT,
    TRAINING,
    YAML,
    announcing,
    attention,
    checkpoints,
    durable,
    finite,
    literals,
    quiet,
    refusals,
    resuming,
    updates,
    workers,
    yaml_values,
)
from .change import Change, Row, Setting

logger = logging.getLogger(__name__)

#: Whose code the digests are of.
VERSIONS = {
    "fairseq": "fairseq-fixed 0.12.3.1",
    "fairseq_cli": "fairseq-fixed 0.12.3.1",
    "hydra": "hydra-core 1.3.2",
    "torch": "torch 2.13.0",
}


def claim() -> None:
    """A later --user-dir that names this folder finds it imported already.

    By the name it was imported from, which may be a link, and by its own.
    """
    memo: set[str] = getattr(utils.import_user_module, "memo", set())
    here = Path(__file__).parents[1]
    utils.import_user_module.memo = {*memo, str(here), str(here.resolve())}


_CHECKPOINTS = "fairseq.checkpoint_utils:"
_TRAINER = "fairseq.trainer:Trainer."
_PLATEAU = (
    "fairseq.optim.lr_scheduler.reduce_lr_on_plateau:ReduceLROnPlateauLRSchedule."
)

TABLE: tuple[Row, ...] = (
    # --- checkpoints ---
    Setting(
        "torch.serialization:add_safe_globals",
        "Checkpoints hold a namespace, fairseq's meters and numpy's numbers, which "
        "torch 2.6 and later refuse; nothing else is let in.",
        apply=checkpoints.allow_checkpoints,
    ),
    Change(
        _CHECKPOINTS + "load_checkpoint_to_cpu",
        "fairseq's own switches torch's safe loading off or fails, and checks nothing.",
        instead=checkpoints.load_checkpoint,
        digest="96f7d33cde8e",
    ),
    Change(
        _CHECKPOINTS + "load_model_ensemble_and_task",
        "A checkpoint names the classes that fairseq builds: only known ones are.",
        around=checkpoints.known_only,
        digest="13d16e9ecb84",
    ),
    Row(
        _CHECKPOINTS + "_upgrade_state_dict",
        "Checkpoints of older fairseq are brought up to date by it.",
        digest="026ce1da4072",
    ),
    Change(
        _CHECKPOINTS + "load_checkpoint",
        "fairseq trains on silently when a checkpoint that was named is missing; and "
        "here a run begins: workers, folder, signals, heads and what an epoch's end "
        "had still to do to the rate are seen to.",
        around=resuming.checking_the_start,
        digest="08e4fa03a2ab",
    ),
    Change(
        _TRAINER + "load_checkpoint",
        "A checkpoint of another model or method is refused in one line, and a "
        "criterion gets back what it kept.",
        around=resuming.restoring,
        digest="128800d64185",
    ),
    Change(
        _TRAINER + "state_dict",
        "A criterion's state (a teacher) and the digests of the data go along.",
        around=resuming.keeping,
        digest="926c314f7f55",
    ),
    Change(
        _PLATEAU + "state_dict",
        "fairseq forgets how many evaluations brought no gain: a run that is gone on "
        "with lowers its rate later.",
        around=resuming.keeping_the_count,
        digest="a7da3b00bdee",
    ),
    Change(
        _PLATEAU + "load_state_dict",
        "The same, of the count that comes back.",
        around=resuming.restoring_the_count,
        digest="d55d1d29f897",
    ),
    Change(
        _CHECKPOINTS + "save_checkpoint",
        "fairseq keeps the last of equally good evaluations; --patience, and compare's "
        "scores and predictions, go by the first.",
        around=durable.first_of_equals,
        digest="61513534b9b3",
    ),
    Change(
        _CHECKPOINTS + "torch_persistent_save",
        "A kill or a full disk must leave the checkpoint before it whole.",
        instead=durable.save_whole,
        digest="5f397c23bc88",
    ),
    Change(
        "fairseq.file_io:PathManager.copy",
        "The same of the copies that are named checkpoint_last and checkpoint_best.",
        instead=durable.copy_whole,
        digest="1d3c09d3f196",
    ),
    Change(
        _CHECKPOINTS + "verify_checkpoint_directory",
        "A folder that takes no files is a traceback in fairseq.",
        instead=durable.check_writable,
        digest="413f93d9a158",
    ),
    # --- training ---
    Change(
        _TRAINER + "train_step",
        "A criterion hears of each update; lost workers and broken numbers are named; "
        "a worker's batches count also where its last of an update is missing.",
        around=updates.telling_the_criterion,
        digest="8cbf0406b1fe",
    ),
    Change(
        _TRAINER + "reset_dummy_batch",
        "A worker without a batch repeats one of no effect; a criterion has to know.",
        around=updates.marking_dummies,
        digest="78cd24453491",
    ),
    Change(
        _TRAINER + "valid_step",
        "A loss that is no number ends the run; fairseq would save the broken weights.",
        around=finite.of_losses,
        digest="e53165a7b478",
    ),
    Change(
        _TRAINER + "_check_grad_norms",
        "A gradient that is no number ends the run in one line.",
        around=finite.of_gradients,
        digest="b26a04b3c2b1",
    ),
    Change(
        "fairseq.optim.dynamic_loss_scaler:DynamicLossScaler.check_overflow",
        "The same where --fp16 has lowered its scale to the least.",
        around=finite.of_scales,
        digest="63a6bb5d71a7",
    ),
    Change(
        "fairseq.optim:AMPOptimizer.clip_grad_norm",
        "The same with --amp, whose scale fairseq asks for on a CPU, where none is.",
        around=finite.of_amp_scales,
        digest="8b4f889d171b",
    ),
    Change(
        "fairseq.optim:AMPOptimizer.step",
        "On a GPU --amp divides gradients by its scale twice.",
        around=finite.of_amp_steps,
        digest="2b8a6f80fa6c",
    ),
    Change(
        "fairseq_cli.train:validate_and_save",
        "After a signal the run saves and stops; a misnamed metric is one line.",
        around=durable.stopping,
        when=TRAINING,
        digest="55091327efc0",
    ),
    Change(
        "fairseq_cli.train:get_valid_stats",
        "fairseq asks every subset for the metric by which the first picks; languages "
        "and minimal pairs are in some only.",
        around=durable.picked_by_the_first,
        when=TRAINING,
        digest="b943205579cd",
    ),
    Setting(
        "signal:SIGTERM, SIGUSR1",
        "What a scheduler sends before it takes the machine away.",
        apply=durable.STOP.listen,
        when=TRAINING,
    ),
    Change(
        "torch.utils.data._utils.signal_handling:_set_worker_signal_handlers",
        "A process that reads batches outlives that signal; without it no update ends.",
        around=durable.sparing_readers,
    ),
    Setting(
        "atexit:register",
        "A thread of fairseq's that reads ahead aborts a process that ends without it.",
        apply=durable.stop_reading_at_the_end,
    ),
    Row(
        "fairseq.data.iterators:BackgroundConsumer.__init__",
        "Its `_queue` and `_max_len` end such a thread.",
        digest="d3a860a747af",
    ),
    Row(
        "fairseq_cli.train:main",
        "It reads --max-epoch after the checkpoint is there, which ends a run that is "
        "over.",
        when=TRAINING,
        digest="2a1b822cd8f5",
    ),
    Row(
        "fairseq_cli.train:should_stop_early",
        "It keeps what --patience has counted on itself, `best` and `num_runs`.",
        when=TRAINING,
        digest="deb15b6c0cc2",
    ),
    Row(
        "fairseq.trainer:Trainer._local_cumulative_training_time",
        "It adds `_previous_training_time`, which is 0 in a new run.",
        digest="4a9872ef15d0",
    ),
    Setting(
        "torch.backends.cuda:enable_cudnn_sdp",
        "Torch prefers cuDNN's attention in half precision on newer GPUs; it plans "
        "anew for every shape: BERT2BERT's first 100 updates took 2.9 x as long.",
        apply=attention.without_plans,
    ),
    # --- workers ---
    Change(
        "fairseq.distributed.utils:distributed_init",
        "gloo tells other machines an address that reaches this one "
        "(GLOO_SOCKET_IFNAME), and only the first worker logs.",
        around=workers.meeting,
        digest="766a47046fca",
    ),
    Change(
        "fairseq.distributed.utils:call_main",
        "A worker that fairseq spawns needs the plugin before it does anything, also "
        "where a program has imported a part of this package first.",
        around=workers.with_the_plugin,
        digest="c2a32fa44fa2",
    ),
    Change(
        "fairseq.distributed.utils:_broadcast_object_slow",
        "torch refuses to load the configuration that fairseq sends.",
        instead=workers.broadcast,
        digest="9fc3ef1939a9",
    ),
    Change(
        "fairseq.models.distributed_fairseq_model:DistributedDataParallel",
        "fairseq names GPU 0 also for a model on the CPU.",
        instead=workers.in_parallel,
    ),
    Row(
        "fairseq.models.distributed_fairseq_model:DistributedFairseqModel",
        "It calls what is replaced there.",
        digest="caa68bcad9ad",
    ),
    Row(
        "torch.distributed.distributed_c10d:_world",
        "The groups whose time limit is --steady-peer-timeout.",
    ),
    Row(
        "torch.distributed.distributed_c10d:_set_pg_timeout",
        "Sets that limit.",
    ),
    Row(
        "torch.distributed.distributed_c10d:_get_default_store",
        "Where workers that are left answer a roll call.",
    ),
    # --- command line and YAML ---
    Change(
        "fairseq.options:parse_args_and_arch",
        "One line for a wrong flag in place of pages, and defaults that train.",
        around=refusals.parsing,
        digest="535ef0431681",
    ),
    Change(
        "fairseq.options:add_model_args",
        "Without --arch fairseq stops with an empty RuntimeError.",
        around=refusals.with_an_architecture,
        digest="1c18c8c34cb6",
    ),
    Change(
        "fairseq.dataclass.utils:eval_str_list",
        "A list of numbers that is none is a traceback, and 1.5 becomes 1.",
        around=refusals.of_numbers,
        digest="415343fc2411",
    ),
    *(
        Change(
            f"{module}:eval",
            "Settings come from files, and are literals: none is run as code.",
            instead=literals.literal,
        )
        for module in literals.EVALUATING
    ),
    Change(
        "hydra._internal.config_loader_impl:ConfigLoaderImpl.load_configuration",
        "A YAML file sets values; what would have Hydra run code is refused.",
        around=yaml_values.checked,
        when=YAML,
        digest="ec847da1d760",
    ),
    Setting(
        "fairseq.utils:import_user_module",
        "Imported from Python first, this folder is not imported again for --user-dir.",
        apply=claim,
        digest="1ef749793f66",
    ),
    # --- what is shown ---
    Change(
        "fairseq.logging.progress_bar:progress_bar",
        "The time left is the run's, not the epoch's; None is no value.",
        around=announcing.bars,
        digest="ccff0ad64057",
    ),
    Setting(
        "logging:fairseq_cli.train",
        "A run of this plugin's tasks says five lines before it and how to go on; the "
        "rest of the log is in train.log.",
        apply=announcing.listen,
    ),
    Setting(
        "sys:excepthook",
        "A mistake of the user's is one line, `error: ...`, and no traceback.",
        apply=install_excepthook,
    ),
    Setting(
        "warnings:filters",
        "Warnings, and logs of Hydra's and matplotlib's, that no user can mend; "
        "FAIRSEQ_STEADY_VERBOSE=1 lets them be heard.",
        apply=quiet.hush,
    ),
)


def install(when: str = IMPORT) -> None:
    """Make the changes of one kind, and on import say what is not as it was known."""
    if when == IMPORT and (others := [row.where for row in TABLE if row.differs()]):
        logger.warning(
            "not as this plugin knows it: %s; it was written for %s, and goes on",
            ", ".join(others),
            VERSIONS["fairseq"],
        )
    for row in TABLE:
        if row.when == when and isinstance(row, Change | Setting):
            row.apply()


def markdown() -> str:
    """The table for people; rows that differ in their module alone are one."""
    lines = [
        "| what | by | why | when | written for |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (by, why, when), rows in itertools.groupby(
        TABLE, lambda row: (row.made(), row.why, row.when)
    ):
        group = list(rows)
        what = ", ".join(f"`{row.where.replace(':', '.')}`" for row in group)
        version = VERSIONS.get(group[0].where.partition(":")[0].split(".")[0], "Python")
        known = f"{version} `{group[0].digest}`" if group[0].digest else version
        lines.append(f"| {what} | {by} | {why} | {when} | {known} |")
    return "\n".join(lines)
