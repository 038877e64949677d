"""The launchers: what they start, and how it ends."""

import contextlib
import importlib
import logging
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, Trainer, Zygote, environment
from fairseq_steady.errors import UserError
from fairseq_steady.patches import durable, spawned, workers
from helpers import assert_equal_weights, checkpoint, free_port, run_flags, wait_for

LAUNCH = ROOT / "scripts" / "launch"


def launch(script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(LAUNCH / script), *arguments],
        env=environment(PORT=str(free_port()), **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def dry(script: str, *arguments: str, **variables: str) -> list[list[str]]:
    """What would be started, a line each, as a shell reads it when it is pasted."""
    process = launch(script, "--dry-run", *arguments, **variables)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    return [shlex.split(line) for line in said.splitlines()]


def value(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_a_dry_run_says_what_each_worker_would_get() -> None:
    cpu = dry("local.sh", "2", "data", "--task=cola", GPUS="0", NODES="2", NODE="1")
    assert [value(c, "--distributed-rank") for c in cpu] == ["2", "3"]
    assert {value(c, "--distributed-world-size") for c in cpu} == {"4"}
    assert all("--cpu" in c and "--device-id" not in c for c in cpu)
    (own,) = dry("local.sh", "1", "data", "--ddp-backend", "pytorch_ddp", GPUS="0")
    assert value([*reversed(own)], "pytorch_ddp") == "--ddp-backend"
    assert own.index("legacy_ddp") < own.index("pytorch_ddp")  # the last one counts
    gpu = dry("local.sh", "2", "data", GPUS="8")
    assert [value(c, "--device-id") for c in gpu] == ["0", "1"]
    assert all("--cpu" not in c for c in gpu)
    (many,) = dry("torchrun.sh", "data", GPUS="4", NODES="3", NODE="2", MASTER="n0")
    assert value(many, "--nnodes") == "3"
    assert value(many, "--node-rank") == "2"
    assert value(many, "--master-addr") == "n0"
    assert value(many, "--distributed-world-size") == "12"
    (job,) = dry("slurm.sh", "data", SLURM_NTASKS="16")
    assert job[0] == "srun"
    assert value(job, "--distributed-world-size") == "16"


WORDS = [
    "two words",
    "$(id)",
    "`id`",
    "a;b",
    "it's",
    '"',
    "*",
    "$HOME",
    "",
    "{1,2}",
    "~",
]


@pytest.mark.parametrize(
    ("script", "before", "gpus"),
    [("local.sh", ["1"], "0"), ("torchrun.sh", [], "2"), ("slurm.sh", [], "0")],
)
def test_a_pasted_dry_run_has_the_words_that_were_given(
    script: str, before: list[str], gpus: str
) -> None:
    (shown,) = dry(script, *before, "data", *WORDS, GPUS=gpus)
    first = shown.index("data") + 1
    assert shown[first : first + len(WORDS)] == WORDS


@pytest.mark.parametrize(
    ("script", "arguments", "gpus", "message"),
    [
        ("local.sh", ["two", "data"], "0", "'two' is no number of workers"),
        ("local.sh", ["08", "data"], "0", "'08' is no number of workers"),
        ("local.sh", ["2"], "0", "no flags of fairseq-train are given"),
        ("local.sh", ["2", "--dry-run"], "0", "--dry-run comes first, before 2"),
        ("local.sh", ["2", "data"], "x[$(id)]", "GPUS 'x[$(id)]' is no number"),
        ("local.sh", ["4", "data"], "2", "4 workers asked for and 2 GPUs here"),
        ("slurm.sh", ["data", "--dry-run"], "0", "--dry-run comes first"),
        ("torchrun.sh", [], "2", "no flags of fairseq-train are given"),
        (
            *("torchrun.sh", ["data"], "0"),
            "there is no GPU here; use scripts/launch/local.sh",
        ),
    ],
)
def test_what_cannot_work_is_refused(
    script: str, arguments: list[str], gpus: str, message: str
) -> None:
    process = launch(script, *arguments, GPUS=gpus)
    assert process.communicate(timeout=60)[0] == f"{script}: {message}\n"
    assert process.returncode == 2


Hosts = tuple[list[list[str]], str]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """How to start a program on each of two hosts, and the address of the first.

    They are network namespaces with a wire between them where this machine lets us
    make any, else twice this machine.
    """
    names = [f"steady-{os.getpid()}-{i}" for i in (0, 1)]
    wires = [f"st{os.getpid() % 10**6}w{i}" for i in (0, 1)]
    steps = [f"netns add {name}" for name in names]
    steps += ["link add {2} netns {0} type veth peer name {3} netns {1}"]
    for i in (0, 1):
        host = f"-n {names[i]}"
        steps += [f"{host} addr add 10.77.0.{i + 1}/24 dev {wires[i]}"]
        steps += [f"{host} link set {wires[i]} up", f"{host} link set lo up"]
    try:
        for step in steps:
            words = step.format(*names, *wires).split()
            subprocess.run(["ip", *words], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield [[], []], "127.0.0.1"
    else:
        yield [["ip", "netns", "exec", name] for name in names], "10.77.0.1"
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                gone = ["ip", "netns", "del", name]
                subprocess.run(gone, check=False, capture_output=True)


def test_two_nodes_equal_one_worker_with_accumulation(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    hosts: Hosts,
    fairseq_train: Trainer,
) -> None:
    """Two real processes that two copies of the script start."""
    exact = ["--dropout=0", "--attention-dropout=0", "--pooler-dropout=0"]
    exact += ["--adam-eps=1e-3", "--disable-validation", "--max-update=5"]
    shared = {"GPUS": "0", "NODES": "2", "PORT": str(free_port()), "MASTER": hosts[1]}

    def arguments(out: Path) -> list[str]:
        return [*run_flags(models, cola_data, "r3f", out), *exact, "--batch-size=4"]

    words = [*arguments(tmp_path / "two"), "--user-dir=user_dir"]
    nodes = [
        subprocess.Popen(
            [*host, "bash", LAUNCH / "local.sh", "1", *words],
            env=environment(**shared, NODE=str(node)),
            cwd=ROOT,
        )
        for node, host in enumerate(hosts[0])
    ]
    fairseq_train(*arguments(tmp_path / "one"), "--update-freq=2")
    assert [node.wait(timeout=200) for node in nodes] == [0, 0]
    assert_equal_weights(tmp_path / "two", tmp_path / "one", 1e-6)


def test_a_signal_saves(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    arguments = [
        *run_flags(models, cola_data, "plain", tmp_path),
        "--user-dir=user_dir",
    ]
    process = launch("local.sh", "2", *arguments, GPUS="0")
    wait_for(process, '"num_updates": "5"')
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == durable.REQUEUE, said[-2000:]
    assert said.count("SIGTERM: saving after this update") == 1
    kept = checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"]
    assert kept >= 5


#: A worker that is killed, and one that finds out later.
LOST = """#!/bin/sh
sleep 1
case "$*" in *"--distributed-rank 1"*) kill -KILL $$ ;; esac
sleep 1
echo "worker 0 stops: worker 1 died"
exit 1
"""


def test_a_lost_worker_ends_the_rest(tmp_path: Path) -> None:
    """After they have said who is lost, with the status of the first that ended."""
    (tmp_path / "python").symlink_to(sys.executable)
    worker = tmp_path / "fairseq-train"
    worker.write_text(LOST)
    worker.chmod(stat.S_IRWXU)
    here = str(tmp_path / "python")
    process = launch("local.sh", "2", "data", GPUS="0", PYTHON=here)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGKILL, said
    assert "worker 0 stops: worker 1 died\n" in said


@pytest.mark.parametrize("status", [0, 1, 75])
def test_slurms_job_goes_back_into_the_queue_when_it_was_stopped(
    tmp_path: Path, status: int
) -> None:
    """srun and scontrol stand in for a cluster's; what they are given is checked."""
    bodies = {"srun": f"exit {status}", "scontrol": f"echo $* >{tmp_path}/said"}
    for name, body in bodies.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    search = f"{tmp_path}:{os.environ['PATH']}"
    process = launch("slurm.sh", "data", PATH=search, SLURM_JOB_ID="7")
    process.communicate(timeout=60)
    assert process.returncode == status
    said = tmp_path / "said"
    assert (said.read_text() if said.exists() else "") == (
        "requeue 7\n" if status == 75 else ""
    )


def test_a_process_that_spawns_none_keeps_its_logging(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As fairseq-generate, which logs into its own file."""
    monkeypatch.delitem(sys.modules, "fairseq_cli.train", raising=False)
    own = [logging.NullHandler()]
    monkeypatch.setattr(logging.root, "handlers", own)
    importlib.reload(spawned)
    assert logging.root.handlers is own
    assert len(own) == 1
    assert "fairseq_cli.train" not in sys.modules


@pytest.mark.parametrize(
    ("method", "no_spawn", "gpus"),
    [("tcp://a:1", True, 0), ("tcp://a:1", False, 1), (None, False, 0)],
)
def test_no_run_ends_without_a_worker(
    monkeypatch: pytest.MonkeyPatch, method: str | None, no_spawn: bool, gpus: int
) -> None:
    called = workers.with_the_plugin(lambda cfg, main: "ran")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    parallel = SimpleNamespace(
        distributed_init_method=method, distributed_no_spawn=no_spawn
    )
    cfg = SimpleNamespace(distributed_training=parallel)
    assert called(cfg, print) == "ran"
    parallel.distributed_init_method, parallel.distributed_no_spawn = "tcp://a:1", False
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="^--distributed-init-method has fairseq start"):
        called(cfg, print)


SPAWNING = """
import sys
import fairseq_steady

sys.modules.setdefault("user_dir", fairseq_steady)  # installed, it has one name
from fairseq_steady.commands import main

if __name__ == "__main__":
    import torch

    torch.cuda.device_count = lambda: 2
    sys.exit(main())
"""


def test_a_spawned_worker_knows_the_plugin_of_an_installed_command(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    program = tmp_path / "program.py"
    program.write_text(SPAWNING)
    flags = ["train", cola_data, "--task=cola", f"--steady-model={models['roberta']}"]
    flags += ["--cpu", "--distributed-world-size=2", "--distributed-backend=gloo"]
    flags += ["--ddp-backend=legacy_ddp", "--max-update=2", "--no-save"]
    (done,) = zygote.run([str(program), *map(str, flags)])
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout + done.stderr
    assert " | fairseq_steady | training: 2 updates" in said
    assert " x 2 workers;" in said


# --- studies --------------------------------------------------------------------------

EXAMPLES = LAUNCH.parents[1] / "examples"


#: Notes the flags of each method and task that it is given, as compare reads them.
READER = f"""#!{sys.executable}
import os, shlex, sys
from pathlib import Path
file = Path(__file__).with_name("read").open("a")
for word in sys.argv[1:]:
    print(*map(ascii, shlex.split(word.partition("=")[2])), sep="\\n", file=file)
"""


@pytest.mark.parametrize(
    ("study", "more", "expected"),
    [
        ("uci_sentiment", ["9", "9", "1"], "o/twitter/sift/seed{seed}"),
        ("multitask", ["1"], "o/together/smart/seed{seed}"),
        ("probe", ["o", "9", "9", "1"], "m"),
    ],
)
def test_a_path_may_have_a_blank(
    tmp_path: Path, study: str, more: list[str], expected: str
) -> None:
    """Methods and tasks hold paths, and their flags are read as a shell reads them."""
    program, home = tmp_path / "fairseq-steady", tmp_path / "it's mine"
    program.write_text(READER)
    program.chmod(stat.S_IRWXU)
    paths = [home / name for name in ("d", "m", "o")]
    done = subprocess.run(
        ["bash", EXAMPLES / study / "run.sh", *paths, *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": str(tmp_path / "python")},
    )
    assert done.returncode == 0, done.stderr
    read = (tmp_path / "read").read_text().splitlines()
    end = "/checkpoint_best.pt" if "seed" in expected else ""
    assert ascii(f"{home}/{expected}{end}") in read


def test_the_league_asks_for_its_files_before_it_trains(tmp_path: Path) -> None:
    program = tmp_path / "fairseq-steady"
    program.write_text(f"#!/bin/sh\necho >{tmp_path}/trained\n")
    program.chmod(stat.S_IRWXU)
    done = subprocess.run(
        ["bash", EXAMPLES / "league" / "run.sh", tmp_path, "m", tmp_path / "out", "1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": str(tmp_path / "python")},
    )
    assert done.returncode == 1
    missing = "uci/amazon_cells_labelled.txt is not there"
    assert done.stderr == f"error: {tmp_path}/{missing}\n"
    assert [*tmp_path.iterdir()] == [program]
