"""Started again: what goes on, from where, and what is said of it."""

import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import fairseq_cli.train
import fairseq_steady.tasks  # noqa: F401  makes the changes
import pytest
import torch
from conftest import Trainer, Zygote
from fairseq import checkpoint_utils
from fairseq.data.iterators import CountingIterator
from fairseq.optim.lr_scheduler.fixed_schedule import FixedLRSchedule
from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import (
    ReduceLROnPlateauLRSchedule,
)
from fairseq_steady.errors import UserError
from fairseq_steady.patches import announcing, durable, resuming, workers
from helpers import checkpoint, run_flags
from omegaconf import OmegaConf
from torch.multiprocessing import get_context, start_processes
from torch.utils.data import DataLoader

Text = dict[str, str]


@pytest.fixture(autouse=True)
def _hearing() -> Iterator[None]:
    """A run that stops takes no more signals, and programs started later inherit it."""
    kept = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def updates(folder: Path) -> int:
    found: int = checkpoint(folder)["optimizer_history"][-1]["num_updates"]
    return found


def section(folder: object, **changed: object) -> SimpleNamespace:
    """Fairseq's ``checkpoint`` section, as far as it is looked at."""
    usual = {
        **dict.fromkeys(("no_save", "no_last_checkpoints", "reset_optimizer"), False),
        **dict.fromkeys(("reset_dataloader", "reset_meters"), False),
        **{"restore_file": "checkpoint_last.pt", "finetune_from_model": None},
    }
    return SimpleNamespace(save_dir=str(folder), **usual | changed)


# --- runs that are over ---------------------------------------------------------------


def test_a_run_that_is_over_trains_nothing_more(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    """By updates; and by --patience, which counts on from where it was."""
    out = tmp_path / "updates"
    flags = run_flags(models, cola_data, "plain", out)
    fairseq_train(*flags, "--max-update=2")
    before = (out / "checkpoint_last.pt").read_bytes()
    again = fairseq_train(*flags, "--max-update=2", "--log-format=simple")
    assert "done: nothing was left to train" in again.stderr
    assert (out / "checkpoint_last.pt").read_bytes() == before

    out = tmp_path / "patience"
    flags = run_flags(models, cola_data, "plain", out)
    flags += ["--lr=0", "--patience=4"]
    fairseq_train(*flags, "--max-epoch=2")  # four evaluations, one of them the best
    fairseq_train(*flags, "--max-epoch=9")
    assert updates(out) == 20
    fairseq_train(*flags, "--max-epoch=9")
    assert updates(out) == 20


def test_a_start_is_not_the_run_that_its_weights_are_of(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """At once: batches of another size, no optimizer state, no average, its hours."""
    first = run_flags(models, cola_data, "plain", tmp_path / "first")
    (done,) = zygote.run(["fairseq-train", *first, "--max-update=3"])
    assert done.returncode == 0, done.stderr[-2000:]
    state = checkpoint(tmp_path / "first")
    state["extra_state"]["previous_training_time"] = 1e6
    del state["last_optimizer_state"]
    torch.save(state, tmp_path / "old.pt")

    def command(name: str, *flags: str) -> list[str]:
        arguments = run_flags(models, cola_data, "plain", tmp_path / name)
        flags = ("--disable-validation", "--log-format=simple", *flags)
        return ["fairseq-train", *arguments, "--max-update=5", *flags]

    other, without, average, hours = zygote.run(
        command("first", "--batch-size=4", "--finetune-from-model=gone.pt"),
        command("without", f"--restore-file={tmp_path / 'old.pt'}"),
        command("a", "--store-ema", f"--finetune-from-model={tmp_path / 'old.pt'}"),
        command(
            *("hours", "--stop-time-hours=200"),
            f"--finetune-from-model={tmp_path / 'old.pt'}",
        ),
    )
    assert (
        "begun with --distributed-world-size 1 --batch-size 8, and goes on with "
        "--distributed-world-size 1 --batch-size 4" in other.stderr
    )
    assert "old.pt has no optimizer state: optimizer and schedule" in without.stderr
    assert average.stderr.splitlines()[-1] == (
        f"error: --store-ema goes on with a checkpoint's average, and "
        f"{tmp_path / 'old.pt'} has none: leave --store-ema out"
    )
    assert [d.returncode for d in (other, without, average, hours)] == [0, 0, 1, 0]
    assert updates(tmp_path / "hours") == 5


def test_a_run_in_the_same_process_begins_without_the_last_ones_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Hydra's --multirun has them."""
    kept = (checkpoint_utils.save_checkpoint, fairseq_cli.train.should_stop_early)
    for function in kept:
        vars(function)["best"] = 0.9
    monkeypatch.setattr(durable, "watch_loop", lambda: False)
    monkeypatch.setattr(durable, "on_interrupt", lambda _: None)
    cfg = SimpleNamespace(
        checkpoint=section(tmp_path),
        distributed_training=SimpleNamespace(
            distributed_world_size=1, distributed_rank=0
        ),
    )
    assert durable.waited() == {"best": 0.9}
    durable.prepare(cfg)
    assert [vars(function).pop("best", None) for function in kept] == [None, None]


# --- what is said ---------------------------------------------------------------------


def test_the_best_is_that_of_the_checkpoint_which_is_named(tmp_path: Path) -> None:
    """Not of an evaluation without a checkpoint, nor of this start alone."""
    run = announcing.Run()
    run.cfg = OmegaConf.create(
        {
            "checkpoint": {
                "no_save": False,
                "save_dir": str(tmp_path),
                "best_checkpoint_metric": "mcc",
            }
        }
    )
    run.task = SimpleNamespace(next_command=str)
    run.started, run.best = 1.0, (0.9, 13)
    run.same = {("valid", 13): "not this", ("valid", 7): "one answer"}
    state = {
        "extra_state": {"val_loss": 0.0},
        "optimizer_history": [{"num_updates": 7}],
    }
    path = tmp_path / "checkpoint_best.pt"
    torch.save(state, path)
    said = announcing.last_lines(run)
    assert said[:2] == ["valid: one answer", f"done: best mcc 0 at update 7: {path}"]


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ({}, ""),
        ({"restore_file": "{}/checkpoint_last.pt"}, ""),
        ({"restore_file": "other/checkpoint_last.pt"}, "--restore-file"),
        (
            {"reset_optimizer": True, "reset_dataloader": True},
            "--reset-optimizer and --reset-dataloader",
        ),
    ],
)
def test_a_stopped_run_says_whether_the_same_command_goes_on(
    flags: dict[str, Any], names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        n: v.format(tmp_path) if isinstance(v, str) else v for n, v in flags.items()
    }
    cfg = SimpleNamespace(
        checkpoint=section(tmp_path, **given),
        distributed_training=SimpleNamespace(distributed_rank=0),
    )
    last = tmp_path / "checkpoint_last.pt"
    monkeypatch.setattr(
        checkpoint_utils, "save_checkpoint", lambda *_: last.write_text("")
    )
    monkeypatch.setattr(durable.STOP, "asked", True)
    step = durable.stopping(lambda *_: ([None], False))
    with pytest.raises((SystemExit, UserError)) as stopped:
        step(cfg, SimpleNamespace(device="cpu"), None, None, [], False)
    assert last.is_file()
    said = f"stopped by a signal; {last} is kept: leave out {names} to go on from there"
    assert str(stopped.value) == (said if names else str(durable.REQUEUE))
    ways = f"leave out {names} to go on" if names else "the same command goes on"
    assert ways in durable._kept(cfg)


def stopped(parent: int, folder: Path) -> int:
    """How a process ends that is sent SIGTERM when its two workers are ready."""
    while not all((folder / f"ready{rank}").exists() for rank in (0, 1)):
        time.sleep(0.02)
    os.kill(parent, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1])


def leaving(rank: int, folder: Path) -> None:
    """A worker of a run that a signal stops; the first takes a second to save."""

    def save(*_: Any) -> None:
        if rank == 0:
            time.sleep(1.0)
            (folder / "checkpoint_last.pt").write_text("")

    checkpoint_utils.save_checkpoint = save
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    durable.STOP.listen()
    (folder / f"ready{rank}").write_text("")
    cfg = SimpleNamespace(checkpoint=section(folder))
    step = durable.stopping(lambda *_: ([None], False))
    durable._SAME = 0.0  # a further signal is another one at once
    try:
        while True:
            time.sleep(0.02)
            step(cfg, SimpleNamespace(device="cpu"), None, None, [], False)
    finally:
        signal.raise_signal(signal.SIGTERM)  # as from a launcher that saw another leave
        there = (folder / "checkpoint_last.pt").exists()
        (folder / f"left{rank}").write_text(str(there))


def test_no_worker_leaves_before_the_first_has_saved(tmp_path: Path) -> None:
    """As fairseq spawns them: the first that leaves has torch end the others."""
    parent = os.fork()
    if not parent:
        status = 1
        try:
            with durable.stopped_as_one(lambda: True):
                start_processes(leaving, (tmp_path,), 2, start_method="fork")
        except SystemExit as left:
            status = int(str(left.code))
        finally:
            os._exit(status)
    assert stopped(parent, tmp_path) == durable.REQUEUE
    for rank in (0, 1):
        assert (tmp_path / f"left{rank}").read_text() == "True"


@pytest.mark.parametrize("spawns", [True, False])
def test_a_signal_before_there_are_workers_ends_the_run(spawns: bool) -> None:
    """And one to a process that has others beside it, which read batches."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        with durable.stopped_as_one(lambda: spawns):
            if not spawns:
                get_context("fork").Process(target=time.sleep, args=(9,)).start()
            signal.raise_signal(signal.SIGUSR1)  # as the program has it
            signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_workers_that_do_not_listen_yet_end_as_the_signal_says(tmp_path: Path) -> None:
    parent = os.fork()
    if not parent:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with durable.stopped_as_one(lambda: True):
                start_processes(sleeping, (tmp_path,), 2, start_method="fork")
        finally:
            os._exit(1)
    assert stopped(parent, tmp_path) == -signal.SIGTERM


def sleeping(rank: int, folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (folder / f"ready{rank}").write_text("")
    time.sleep(60)


def test_a_program_has_its_own_handlers_back() -> None:
    own = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with durable.stopped_as_one(lambda: True):
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    signal.signal(signal.SIGTERM, own)
    found: list[str] = []

    def elsewhere() -> None:
        with durable.stopped_as_one(lambda: True):
            found.append("runs")

    thread = Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == ["runs"]


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("plateau", [True, False])
def test_a_stop_at_an_epochs_end_lowers_the_rate_first(
    plateau: bool, ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved is without the loss: fairseq keeps a best one by it."""
    done: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        checkpoint_utils, "save_checkpoint", lambda *given: done.append(given[-1:])
    )
    monkeypatch.setattr(durable.STOP, "asked", True)
    kind = ReduceLROnPlateauLRSchedule if plateau else FixedLRSchedule
    trainer = SimpleNamespace(
        device="cpu",
        lr_scheduler=kind.__new__(kind),
        lr_step=lambda *given: done.append(given),
    )
    cfg, iterator = SimpleNamespace(checkpoint=section(tmp_path)), SimpleNamespace()
    iterator.epoch = 2
    step = durable.stopping(lambda *_: ([0.7], False))
    with pytest.raises(SystemExit):
        step(cfg, trainer, None, iterator, [], ended)
    assert done == [(2, 0.7)] * (plateau and ended) + [(None,)]


def test_what_is_not_kept_is_not_waited_for(tmp_path: Path) -> None:
    """Without a last checkpoint a signal would save nothing, and keeps its meaning."""
    assert durable.keeps(section(tmp_path))
    assert not durable.keeps(section(tmp_path, no_last_checkpoints=True))
    assert not durable.keeps(section(tmp_path, no_save=True))


@pytest.mark.parametrize("larger", [True, False])
def test_the_first_of_equals_is_announced(larger: bool) -> None:
    run = announcing.Run()
    chosen = {"best_checkpoint_metric": "x", "maximize_best_checkpoint_metric": larger}
    run.cfg = OmegaConf.create(
        {"checkpoint": chosen, "dataset": {"valid_subset": "valid"}}
    )
    sign = 1 if larger else -1
    seen = []
    for updates, score in enumerate((math.nan, -math.inf, 0.5, 0.5, 0.4), 1):
        run.evaluated("valid", {"x": sign * score, "num_updates": updates})
        seen.append(run.best and run.best[1])
    assert seen == [None, 2, 3, 3, 3]


def test_updates_are_counted_where_epochs_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Goes on in the third of four epochs, whose batches are twice as large as then."""
    run = announcing.Run()
    for head in ("announcement", "details"):
        monkeypatch.setattr(announcing, head, lambda _: [])
    length = {"max_update": 0, "max_epoch": 4, "update_freq": [1]}
    run.cfg = OmegaConf.create({"optimization": length})
    run.updates = lambda: 21
    run.enter(None, CountingIterator(range(4), start=1, total=5), 3)
    assert (run.first, run.planned, run.place(21)) == (21, 30, {"update": "21 of 30"})
    run.started, run.task = None, SimpleNamespace(updates_in_all=lambda: 17)
    run.cfg.optimization.update_freq = [1, 2]
    run.enter(None, CountingIterator(range(4), total=5), 3)
    assert run.planned == 17
    run.enter(None, CountingIterator(range(2), total=2), 4)
    assert run.planned == 17


# --- data and checkpoints -------------------------------------------------------------

THEN = {"cola/train.tsv": "a", "rte/train.tsv": "b", "dict.txt": "c"}


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        ({"moved/train.tsv": "b", "elsewhere/train.tsv": "a"}, ""),
        ({"rte/valid.tsv": "x"}, ""),
        ({"cola/train.tsv": "x"}, "cola/train.tsv has changed since the run in"),
        ({"cola/train.tsv": "b"}, "cola/train.tsv has changed since the run in"),
        ({"other/train.tsv": "x"}, "other/train.tsv is not the cola/train.tsv that"),
    ],
)
def test_data_may_move_but_not_become_others(now: Text, problem: str) -> None:
    if not problem:
        durable.check_unchanged(now, THEN, "run")
        return
    with pytest.raises(UserError, match=problem):
        durable.check_unchanged(now, THEN, "run")


def test_a_link_to_a_checkpoint_that_is_gone_is_no_new_start(tmp_path: Path) -> None:
    last = tmp_path / "checkpoint_last.pt"
    last.symlink_to("gone.pt")
    with pytest.raises(UserError, match=f"{last} is a link to gone.pt, which is not"):
        durable.fall_back(tmp_path)


def test_a_crash_is_heard_where_its_weights_cannot_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fairseq saves them first, also with --no-save, and the error follows."""
    durable.save_whole({}, str(tmp_path / "nowhere" / "crash.pt"))
    assert "crash.pt could not be written ([Errno 2] No such file" in caplog.text
    with pytest.raises(UserError, match="checkpoint1.pt could not be written"):
        durable.save_whole({}, str(tmp_path / "nowhere" / "checkpoint1.pt"))


# --- workers and readers --------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in durable._SIGNALS}
    durable.STOP.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_who_reads_batches_outlives_the_signal_of_its_run(listening: None) -> None:
    """And ends at the next one, which the run itself sends."""
    loader: Any = iter(DataLoader(range(9), num_workers=1, prefetch_factor=2))
    (reader,) = loader._workers
    assert next(loader).item() == 0
    for number in (signal.SIGUSR1, signal.SIGTERM):
        os.kill(reader.pid, number)
    assert [one.item() for one in loader] == [*range(1, 9)]
    durable.sparing_readers(lambda: None)()
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_start_that_one_worker_refuses_ends_the_others_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1")

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(workers, "_absent", lambda: [0])
    monkeypatch.setattr(durable, "prepare", lambda _: None)
    trainer = SimpleNamespace(cfg=None, task=None, get_model=lambda: None)
    with pytest.raises(UserError, match="worker 1 stops: worker 0 died"):
        resuming.checking_the_start(load)(section(tmp_path), trainer)


@pytest.mark.parametrize(
    ("place", "error", "reason"),
    [
        ("tcp://127.0.0.1:123456", None, "Port out of range"),
        (
            "tcp://127.0.0.1:29500",
            torch.distributed.DistNetworkError("EADDRINUSE\nframe #0"),
            r"\(EADDRINUSE\)",
        ),
    ],
)
def test_workers_that_do_not_meet_say_where_in_one_line(
    place: str,
    error: Exception | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def distributed_init(_: Any) -> None:
        raise error or AssertionError

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    parallel = SimpleNamespace(distributed_rank=0, distributed_init_method=place)
    with pytest.raises(
        UserError, match=f"worker 0 cannot meet the others at {place}.*{reason}"
    ):
        workers.meeting(distributed_init)(
            SimpleNamespace(distributed_training=parallel)
        )
