"""What a run survives: kills, signals, full disks, damaged files, changed data."""

import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Zygote
from fairseq import checkpoint_utils
from fairseq.data import iterators
from fairseq.dataclass.configs import CheckpointConfig
from fairseq_steady import patches
from fairseq_steady.errors import UserError
from fairseq_steady.patches import durable
from fairseq_steady.patches.workers import check_workers
from helpers import (
    assert_equal_weights,
    checkpoint,
    full_disk,
    run_flags,
    start_module,
    start_train,
    start_two,
    wait_for,
)

# --- checkpoints ----------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path, best = tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_best.pt"
    durable.save_whole({"a": torch.ones(3)}, str(path))
    durable.copy_whole(str(path), str(best))
    before = path.read_bytes()
    assert best.read_bytes() == before
    message = r"{}\.pt could not be written \(.*is intact"
    with full_disk(), pytest.raises(UserError, match=message.format("last")):
        durable.save_whole({"a": torch.zeros(300000)}, str(path))
    with full_disk(), pytest.raises(UserError, match=message.format("best")):
        durable.copy_whole(str(path), str(best))
    assert path.read_bytes() == best.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [best.name, path.name]


@pytest.mark.parametrize("larger", [True, False])
def test_the_first_of_equals_stays_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, larger: bool
) -> None:
    """Around fairseq's own function."""
    saved: list[str] = []
    trainer = SimpleNamespace(
        **{"data_parallel_rank": 0, "checkpoint_suffix": "", "task": None},
        should_save_checkpoint_on_current_rank=True,
        consolidate_optimizer=lambda: None,
        save_checkpoint=lambda path, extra: saved.append(f"{Path(path).name} {extra}"),
    )
    cfg = CheckpointConfig(
        save_dir=str(tmp_path), maximize_best_checkpoint_metric=larger
    )
    cfg.no_epoch_checkpoints = cfg.no_last_checkpoints = True
    sign = 1 if larger else -1
    patches.install()
    save = checkpoint_utils.save_checkpoint
    monkeypatch.setattr(save, "best", 0.0, raising=False)
    vars(save).pop("best")
    for updates, score in enumerate((0.5, 0.5, 0.4, 0.7, 0.7, 0.8), 1):
        trainer.get_num_updates = lambda updates=updates: updates
        position = SimpleNamespace(
            epoch=1,
            end_of_epoch=lambda: True,
            state_dict=lambda updates=updates: updates,
        )
        save(cfg, trainer, position, sign * score)
    assert [int(re.findall(r"iterator': (\d)", one)[0]) for one in saved] == [1, 4, 6]
    assert all(one.startswith("checkpoint_best.pt ") for one in saved)


def test_a_damaged_last_checkpoint_gives_way_to_the_newest_whole_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = tmp_path / "checkpoint_last.pt"
    durable.fall_back(tmp_path)  # nothing there yet
    for age, name in enumerate(("checkpoint1.pt", "checkpoint_best.pt", last.name)):
        durable.save_whole({"name": name}, str(tmp_path / name))
        os.utime(tmp_path / name, (age, age))
    durable.fall_back(tmp_path)
    assert torch.load(last, weights_only=True)["name"] == last.name
    whole = last.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        last.write_bytes(whole[:size])
        durable.fall_back(tmp_path)
        assert torch.load(last, weights_only=True)["name"] == "checkpoint_best.pt"
    assert "is damaged; going on from" in caplog.text
    assert (tmp_path / "checkpoint_last.pt.damaged").stat().st_size == len(whole) - 1
    for name in ("checkpoint1.pt", "checkpoint_best.pt", last.name):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="is damaged and there is no other"):
        durable.fall_back(tmp_path)


def test_a_folder_that_takes_no_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/x")):
        with pytest.raises(UserError, match=f"--save-dir {folder} cannot be written"):
            durable.check_writable(folder)


def test_workers_that_would_train_alone_are_refused() -> None:
    check_workers(2, {"WORLD_SIZE": "2"})
    check_workers(1, {"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "1"})
    check_workers(1, {})
    with pytest.raises(UserError, match=r"4 workers were started \(WORLD_SIZE\)"):
        check_workers(1, {"WORLD_SIZE": "4"})


# --- whole runs -----------------------------------------------------------------------


def uninterrupted(
    zygote: Zygote, models: dict[str, Path], data: Path, method: str, out: Path
) -> None:
    (done,) = zygote.run(["fairseq-train", *run_flags(models, data, method, out)])
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("method", "number"), [("smart-cached", signal.SIGKILL), ("r4f", signal.SIGTERM)]
)
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    method: str,
    number: signal.Signals,
) -> None:
    """Killed in mid-epoch, between two checkpoints; or asked to stop, as a module."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    uninterrupted(zygote, models, cola_data, method, whole)
    arguments = run_flags(models, cola_data, method, parts)
    process: Any
    if number == signal.SIGTERM:
        process = start_module(*arguments)
    else:
        process = start_train(zygote, *arguments)
    wait_for(process, '"num_updates": "13"')
    process.send_signal(number)
    rest = process.communicate()
    if number == signal.SIGTERM:
        assert process.returncode == durable.REQUEUE, rest[0][-2000:]
        assert "SIGTERM: saving after this update" in rest[0]
        kept = checkpoint(parts)["optimizer_history"][-1]["num_updates"]
        assert kept >= 13
    else:
        assert process.returncode == -signal.SIGKILL
    (done,) = zygote.run(["fairseq-train", *arguments])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Loaded checkpoint" in done.stderr
    assert_equal_weights(whole, parts)
    for name in ("best", "val_loss"):
        ends = [checkpoint(folder)["extra_state"][name] for folder in (whole, parts)]
        assert ends[0] == ends[1]


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    uninterrupted(zygote, models, cola_data, "plain", whole)
    arguments = run_flags(models, cola_data, "plain", parts)
    while not list(parts.glob("*.tmp")):  # a kill can come too late: then once more
        shutil.rmtree(parts, ignore_errors=True)
        process = start_train(zygote, *arguments)
        wait_for(process, '"num_updates": "5"')  # one is written by now
        while not list(parts.glob("*.tmp")):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert durable.is_whole(parts / "checkpoint_last.pt")
    (done,) = zygote.run(["fairseq-train", *arguments])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Loaded checkpoint" in done.stderr
    assert not list(parts.glob("*.tmp"))  # what was half written is gone
    assert_equal_weights(whole, parts)


def test_a_full_disk_ends_the_run_and_spares_the_last_checkpoint(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """The limit on a file's size stands for a disk that fills up in mid-run."""
    arguments = run_flags(models, cola_data, "plain", tmp_path / "out")
    process = start_train(zygote, *arguments)
    wait_for(process, '"num_updates": "5"')
    before = (tmp_path / "out" / "checkpoint_last.pt").stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (before // 2, before // 2))
    rest = process.communicate()
    assert process.returncode == 1
    last = rest.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "could not be written" in last
    assert durable.is_whole(tmp_path / "out" / "checkpoint_last.pt")
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_data_that_changed_or_vanished_between_two_runs_are_refused(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(cola_data, data)
    arguments = run_flags(models, data, "plain", tmp_path / "out")
    arguments[arguments.index("--max-epoch=6")] = "--max-epoch=1"
    (done,) = zygote.run(["fairseq-train", *arguments])
    assert done.returncode == 0, done.stderr[-2000:]
    kept = checkpoint(tmp_path / "out", "checkpoint_last.pt")["extra_state"]
    # The model's weights are the checkpoint's own.
    assert {*kept["fairseq_steady_data"]} == {
        "dict.txt", *(f"data/{path.name}" for path in data.iterdir())
    }  # fmt: skip
    path = data / "in_domain_train.tsv"
    path.write_text(path.read_text() + "\ns\t1\t\tw1 w2 w3")
    arguments[arguments.index("--max-epoch=1")] = "--max-epoch=2"
    (done,) = zygote.run(["fairseq-train", *arguments])
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "data/in_domain_train.tsv has changed since the run in" in last
    path.rename(tmp_path / "away")
    (done,) = zygote.run(["fairseq-train", *arguments])
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {data} holds no in_domain_train.tsv")
    (tmp_path / "away").rename(path)
    # As a start for something else the checkpoint is as good as ever.
    fresh = [*arguments, f"--finetune-from-model={tmp_path / 'out/checkpoint_last.pt'}"]
    fresh += [f"--save-dir={tmp_path / 'other'}"]
    (done,) = zygote.run(["fairseq-train", *fresh])
    assert done.returncode == 0, done.stderr[-2000:]


def test_torchrun_on_a_cpu_is_an_error(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    arguments = [*run_flags(models, cola_data, "plain", tmp_path), "--max-update=1"]
    (done,) = zygote.run(["WORLD_SIZE=2", "RANK=0", "fairseq-train", *arguments])
    assert done.returncode == 1
    assert "2 workers were started (WORLD_SIZE)" in done.stderr.splitlines()[-1]


def test_who_is_left_stops_and_names_who_is_lost(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """At the same time, since most of it is waiting."""
    pairs = {}
    for rank, number in (
        (0, signal.SIGKILL),
        (1, signal.SIGKILL),
        (1, signal.SIGSTOP),
    ):
        out = tmp_path / f"{rank} {number}"
        arguments = run_flags(models, cola_data, "plain", out)
        both = start_two(zygote, *arguments, "--steady-peer-timeout=8")
        pairs[rank, number] = both
        wait_for(both[0], '"num_updates": "3"')
        both[rank].send_signal(number)
    started = time.monotonic()
    for (rank, number), both in pairs.items():
        rest = both[1 - rank].communicate()
        assert time.monotonic() - started < 8 + 5 + 15
        both[rank].send_signal(signal.SIGKILL)
        both[rank].communicate()
        assert both[1 - rank].returncode == 1, (rank, number)
        # torch puts the rank before what a worker says last.
        assert f"]: error: worker {1 - rank} stops: worker {rank} died" in rest
        assert "Traceback" not in rest


def test_two_workers_stop_together_and_go_on(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """The signal reaches one; both save, and leave with the same status."""
    whole = start_two(zygote, *run_flags(models, cola_data, "r3f", tmp_path / "whole"))
    parts = run_flags(models, cola_data, "r3f", tmp_path / "parts")
    stopped = start_two(zygote, *parts)
    wait_for(stopped[0], '"num_updates": "7"')
    stopped[1].send_signal(signal.SIGUSR1)
    for process in stopped:
        rest = process.communicate()
        assert process.returncode == durable.REQUEUE, rest[-2000:]
    again = start_two(zygote, *parts)
    for process in (*whole, *again):
        rest = process.communicate()
        assert process.returncode == 0, rest[-2000:]
        assert bool(rest) == (process in (whole[0], again[0]))  # it speaks for both
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_thread_that_reads_ahead_is_ended() -> None:
    batches = iterators.BufferedIterator(2, range(10**9))
    assert next(batches) == 0
    consumer = batches._consumer
    assert consumer.is_alive()
    durable.stop_reading()
    assert not consumer.is_alive()
