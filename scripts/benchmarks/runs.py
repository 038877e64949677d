"""Short runs of fairseq-train on random models: do they work, what memory do they take?

    python scripts/benchmarks/runs.py precisions MODEL DATA OUT [--device cuda]
    python scripts/benchmarks/runs.py workers MODEL DATA OUT
    python scripts/benchmarks/runs.py summaries MODEL TEXT OUT

precisions: every method in fp32 and whatever else there is, without dropout; losses
must be finite and near fp32's: the mean, and of bf16, whose weights are too coarse for
some of the steps, the first. workers: every method with one worker inside torch's
DistributedDataParallel, which must train as without. summaries: plain and r3f at
CNN/DM's size. MODEL is a model directory (of BART's family for summaries), DATA is
CoLA's folder, TEXT a file of sentences; OUT gets a log of each run. Each run is a fork
of a process that has imported everything. Exit status 1 if one failed.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import resource
import signal
import socket
import statistics
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Asking CUDA whether it is there would leave it broken in the forks.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import fairseq_cli.train
import fairseq_steady.tasks  # noqa: F401  registers everything
import torch
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from fairseq.trainer import Trainer

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from method_table import METHODS, TRAINED

#: How far a loss may be from fp32's.
NEAR = 0.1
NO_DROPOUT = ["--dropout=0", "--attention-dropout=0", "--pooler-dropout=0"]
PRECISIONS = {
    "fp32": [],
    "fp16": ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale=128"],
    "bf16": ["--fp16-no-flatten-grads"],
    "amp": ["--amp", "--fp16-init-scale=128"],
    "autocast bf16": ["--steady-autocast=bf16"],
    "autocast fp16": ["--steady-autocast=fp16"],
}


@dataclass(frozen=True)
class Result:
    """What a run left: exit status, peak memory in bytes, losses, seconds a step."""

    status: int
    peak: float
    losses: Sequence[float]
    seconds: float

    @property
    def loss(self) -> float:
        """The mean."""
        return statistics.fmean(self.losses) if self.losses else math.nan

    def fine(self) -> bool:
        """It ended well, with finite losses."""
        return not self.status and math.isfinite(self.loss)

    def near(self, exact: "Result", first: bool) -> bool:
        """Its loss, the first or the mean, is near another run's."""
        if not (self.fine() and exact.fine()):
            return False
        one, other = (r.losses[0] if first else r.loss for r in (self, exact))
        return abs(one - other) <= NEAR * abs(other)


# --- one run --------------------------------------------------------------------------


def train(
    words: Sequence[str], log: Path, before: Callable[[], None], limit: int
) -> int:
    """Fork fairseq-train; the child's process id. Its peak goes beside the log."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(limit)
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        cuda = "--cpu" not in words
        started = _peak(cuda)
        # fairseq counts anew after each update, so that the last one's is left.
        torch.cuda.reset_peak_memory_stats = lambda *_: None
        before()
        sys.argv = ["fairseq-train", *words]
        fairseq_cli.train.cli_main()
        status = 0
        log.with_suffix(".peak").write_text(str(_peak(cuda) - started))
    except SystemExit as stop:
        status = int(bool(stop.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _peak(cuda: bool) -> float:
    """Bytes at most, until now: of the GPU's memory, or the process's resident."""
    if cuda:
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def finish(child: int, log: Path) -> Result:
    """Wait for a run and read its log."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    updates = []
    for line in log.read_text(errors="replace").splitlines():
        place = line.find('{"epoch"')
        if "train_inner" in line and place >= 0:
            updates.append(json.loads(line[place:]))
    peak = log.with_suffix(".peak")
    losses = [float(one["loss"]) for one in updates]
    return Result(
        status,
        float(peak.read_text()) if peak.exists() else math.nan,
        losses,
        _seconds(updates[2:]),
    )


def _seconds(updates: Sequence[dict[str, str]]) -> float:
    """Of an update: by the median rate, or where that has no digits by the clock."""
    rates = [float(one["ups"]) for one in updates]
    if min(rates, default=0) >= 1:
        return 1 / statistics.median(rates)
    walls = [float(one["wall"]) for one in updates]
    return (walls[-1] - walls[0]) / (len(walls) - 1) if len(walls) > 1 else math.nan


Run = tuple[str, list[str], Callable[[], None]]


def nothing() -> None:
    """Change nothing."""


def together(runs: Sequence[Run], args: argparse.Namespace) -> dict[str, Result]:
    """Run them, some at a time; their logs are named after them."""
    found = {}
    for start in range(0, len(runs), args.jobs):
        children = []
        for name, words, before in runs[start : start + args.jobs]:
            log = args.out / f"{name.replace(' ', '-')}.log"
            child = train([*common(args), *words], log, before, args.limit)
            children.append((name, child, log))
        for name, child, log in children:
            found[name] = finish(child, log)
            if found[name].status:
                print(f"{name} failed: {_last(log)}", flush=True)
    return found


def _last(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    told = [line for line in lines if "rror" in line] or [
        line for line in lines if line
    ]
    return f"{told[-1] if told else 'it said nothing'} ({log})"


def common(args: argparse.Namespace) -> list[str]:
    """Flags of every run."""
    return [
        *([] if args.device == "cuda" else ["--cpu"]),
        *(f"--steady-model={args.model}", f"--max-update={args.updates}"),
        *("--no-save", "--disable-validation", "--log-format=json"),
        *("--log-interval=1", "--optimizer=bert_adam", "--lr=1e-5", "--seed=1"),
    ]


def ratio(value: float) -> str:
    """In a table."""
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if value >= 1e4 else f"{value:.4g}"


# --- the three kinds ------------------------------------------------------------------


def precisions(args: argparse.Namespace) -> bool:
    """Every method in every precision that is here."""
    task = {field.name for field in dataclasses.fields(TASK_DATACLASS_REGISTRY["cola"])}
    here = ["fp32", "bf16"] + ["fp16", "amp"] * (args.device == "cuda")
    if "steady_autocast" in task:
        here += ["autocast bf16"] + ["autocast fp16"] * (args.device == "cuda")
    runs: list[Run] = []
    for method, name in itertools.product(args.methods or METHODS, here):
        words = [*sentences(args), *TRAINED[method], *PRECISIONS[name]]
        runs.append((f"{method} {name}", words, halve if name == "bf16" else nothing))
    found, fine = together(runs, args), True
    alone = args.jobs == 1  # else they slow each other
    print("| run | loss | peak MB | ms an update | |\n|---|---|---|---|---|")
    for name, result in found.items():
        exact = found[f"{name.split()[0]} fp32"]
        good = result.near(exact, first=name.endswith(" bf16") and "auto" not in name)
        fine &= good
        row = [ratio(result.loss), ratio(result.peak / 2**20)]
        row += [ratio(1e3 * result.seconds) if alone else "-", "" if good else "WRONG"]
        print(f"| {name} | {' | '.join(row)} |")
    return fine


def sentences(args: argparse.Namespace) -> list[str]:
    """CoLA's task, without dropout, so that precisions can be compared."""
    return [str(args.data), "--task=cola", "--batch-size=32", *NO_DROPOUT]


def halve() -> None:
    """bf16 as YAML sets it; --bf16 is for TPUs alone."""
    original = fairseq_cli.train.convert_namespace_to_omegaconf

    def in_bf16(words: argparse.Namespace) -> Any:
        cfg = original(words)
        cfg.common.bf16 = True
        return cfg

    fairseq_cli.train.convert_namespace_to_omegaconf = in_bf16


def wrap() -> None:
    """Let fairseq wrap the model of one worker too."""
    Trainer.use_distributed_wrapper = property(lambda _: True)


def workers(args: argparse.Namespace) -> bool:
    """Every method alone, and with torch's wrapper around one worker."""
    runs: list[Run] = []
    for method in args.methods or METHODS:
        words = [*sentences(args), *TRAINED[method]]
        runs += [(f"{method} alone", words, nothing)]
        runs += [(f"{method} c10d", [*words, *one_worker(args)], wrap)]
    found, fine = together(runs, args), True
    print("| method | loss alone | loss in c10d | |\n|---|---|---|---|")
    for method in args.methods or METHODS:
        alone, wrapped = (found[f"{method} {kind}"] for kind in ("alone", "c10d"))
        same = math.isclose(alone.loss, wrapped.loss, rel_tol=1e-3)
        good = alone.fine() and wrapped.fine() and same
        fine &= good
        row = [ratio(one.loss) for one in (alone, wrapped)]
        print(f"| {method} | {' | '.join(row)} | {'' if good else 'WRONG'} |")
    return fine


def one_worker(args: argparse.Namespace) -> list[str]:
    """A process group of one."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return [
        *("--distributed-world-size=1", "--distributed-rank=0", "--device-id=0"),
        *("--distributed-no-spawn", "--ddp-backend=c10d"),
        f"--distributed-backend={'nccl' if args.device == 'cuda' else 'gloo'}",
        f"--distributed-init-method=tcp://127.0.0.1:{port}",
    ]


def summaries(args: argparse.Namespace) -> bool:
    """Plain and r3f on articles and summaries of one length."""
    data = args.out / "pairs"
    write_pairs(args.data, data, args.source, args.target)
    words = [
        *(str(data), "--task=summarization", f"--batch-size={args.sentences}"),
        *("--label-smoothing=0.1", f"--summarization-source-length={args.source}"),
        f"--summarization-target-length={args.target}",
    ]
    halves = ["fp32", "fp16"] if args.device == "cuda" else ["fp32"]
    runs: list[Run] = [
        (f"{method} {name}", [*words, *TRAINED[method], *PRECISIONS[name]], nothing)
        for method in ("plain", "r3f")
        for name in halves
    ]
    args.jobs = 1
    found = together(runs, args)
    print("| run | loss | peak MB | ms an update |\n|---|---|---|---|")
    for name, one in found.items():
        row = map(ratio, (one.loss, one.peak / 2**20, 1e3 * one.seconds))
        print(f"| {name} | {' | '.join(row)} |")
    return all(one.fine() for one in found.values())


def write_pairs(text: Path, out: Path, source: int, target: int) -> None:
    """Articles and summaries of a length, of the words of a text."""
    out.mkdir(parents=True, exist_ok=True)
    words = text.read_text("utf-8").split()
    for side, length in (("source", source), ("target", target)):
        rows = [
            " ".join(words[(n * 37 + i) % len(words)] for i in range(length))
            for n in range(64)
        ]
        for split in ("train", "valid"):
            (out / f"{split}.{side}").write_text("\n".join(rows) + "\n", "utf-8")


KINDS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "precisions": precisions,
    "workers": workers,
    "summaries": summaries,
}


def main() -> int:
    """Run one kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("data", type=Path, help="CoLA's folder, or sentences")
    parser.add_argument("out", type=Path, help="folder for logs")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=[])
    parser.add_argument("--sentences", type=int, default=16, help="in a batch")
    parser.add_argument("--source", type=int, default=1024, help="tokens of an article")
    parser.add_argument("--target", type=int, default=128, help="tokens of a summary")
    parser.add_argument("--limit", type=int, default=120, help="seconds of a run")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return 0 if KINDS[args.kind](args) else 1


if __name__ == "__main__":
    sys.exit(main())
