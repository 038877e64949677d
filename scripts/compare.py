"""Train methods x seeds with fairseq-train and put them side by side.

    python scripts/compare.py --out runs/cola --methods plain sift --seeds 1 2 3 -- \\
        DATA --user-dir user_dir --task cola --steady-model models/minilm ...

Everything after ``--`` goes to fairseq-train. A method is the name of a criterion, or
NAME=FLAGS for anything else, as 'sift-far=--criterion sift --sift-step 1e-2'; {seed} in
FLAGS stands for the seed. Seed s has the same data order, sub-sample and initial head
for every method.

Each run is a folder with its log and one result.json. Run again, the command fills
gaps only. The table and the picture are made from the result files.
"""

import argparse
import csv
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

RESULT, LOG = "result.json", "train.log"
VERSIONS = ("fairseq-fixed", "fairseq-steady", "numpy", "torch")
#: Large temporaries stay in the heap: fewer page faults, faster steps on the CPU.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}


class PlanError(Exception):
    """What cannot be compared, and the mend, in one line."""


@dataclass(frozen=True)
class Run:
    """One method with one seed."""

    method: str
    flags: tuple[str, ...]
    seed: int
    folder: Path

    def command(self, common: Sequence[str]) -> list[str]:
        """The whole fairseq-train command, logging aside."""
        seed = str(self.seed)
        flags = [flag.replace("{seed}", seed) for flag in self.flags]
        return ["fairseq-train", *common, *flags, "--seed", seed]


@dataclass
class Result:
    """What a run leaves behind, as in its result.json."""

    method: str
    seed: int
    command: list[str]
    status: str = "ok"
    #: one entry per evaluation: {"updates": ..., subset: {metric: value}}
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    seconds_per_update: float | None = None
    seconds: float | None = None
    #: largest resident memory of the process
    peak_mb: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    machine: str = ""


def parse_method(text: str) -> tuple[str, tuple[str, ...]]:
    """A name and its fairseq-train flags."""
    name, equals, flags = text.partition("=")
    if not name or "/" in name or (equals and not flags):
        raise PlanError(f"method {text!r} is neither a criterion nor NAME=FLAGS")
    return name, tuple(shlex.split(flags)) if equals else ("--criterion", name)


def plan(out: Path, methods: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """Methods x seeds, seed by seed, so that early results are already paired."""
    named = dict(parse_method(method) for method in methods)
    if len(named) < len(methods) or len(set(seeds)) < len(seeds):
        raise PlanError("a method or a seed is named twice; name each once")
    return [
        Run(name, flags, seed, out / name / f"seed{seed}")
        for seed in seeds
        for name, flags in named.items()
    ]


def read_result(run: Run, command: list[str]) -> Result | None:
    """An earlier result of this very command, or None.

    Raises:
        PlanError: the folder holds a result of another command.

    """
    path = run.folder / RESULT
    if not path.is_file():
        return None
    result = Result(**json.loads(path.read_text("utf-8")))
    if result.command != command:
        raise PlanError(
            f"{path} is of another plan; choose another --out, or remove it. There: "
            + shlex.join(result.command)
        )
    return result if result.status == "ok" else None


def parse_log_line(line: str) -> tuple[str, dict[str, Any]] | None:
    """Fairseq's JSON log line as its tag and its values, or None for other lines."""
    parts = line.rstrip("\n").split(" | ", 3)
    if len(parts) < 4 or not parts[3].startswith("{"):
        return None
    try:
        values = json.loads(parts[3])
    except ValueError:
        return None
    tag = parts[2].strip()
    prefix = f"{tag}_" if tag != "train_inner" else ""
    return tag, {k.removeprefix(prefix): v for k, v in values.items()}


def collect(result: Result, lines: Sequence[str]) -> None:
    """Evaluations and speed from a log."""
    speeds = []
    for tag, values in filter(None, map(parse_log_line, lines)):
        if tag == "train_inner":
            speeds.append(float(values["ups"]))
        elif tag != "train":
            updates = int(values["num_updates"])
            if not result.evaluations or result.evaluations[-1]["updates"] != updates:
                result.evaluations.append({"updates": updates})
            result.evaluations[-1][tag] = {
                name: float(value)
                for name, value in values.items()
                if not name.startswith("best_") and isinstance(value, (str, float))
            }
    steady = speeds[1:] or speeds
    if steady and (median := statistics.median(steady)):
        result.seconds_per_update = 1 / median


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip()


def _environment(jobs: int) -> dict[str, str]:
    """Threads shared out, since too many slow each other down."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    return {**MALLOC, "OMP_NUM_THREADS": threads, **os.environ}


def _stream(run: Run, command: list[str], jobs: int, result: Result) -> Iterator[str]:
    """Start fairseq-train and give its log line by line, keeping a copy."""
    executable = Path(sys.executable).with_name(command[0])
    # Half a run cannot be told from a whole one by its log, so it starts afresh.
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    logging_flags = ["--log-format", "json", "--log-interval", "10"]
    saving = ["--save-dir", str(run.folder)]
    with (
        (run.folder / LOG).open("w", buffering=1, encoding="utf-8") as log,
        subprocess.Popen(
            [str(executable), *command[1:], *logging_flags, *saving],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(jobs),
        ) as process,
    ):
        for line in process.stdout or ():
            log.write(line)
            yield line
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        result.peak_mb = usage.ru_maxrss / 1024
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def execute(run: Run, command: list[str], progress: Progress, jobs: int) -> Result:
    """Train once and write result.json, whole or not at all."""
    result = Result(
        run.method,
        run.seed,
        command,
        versions={name: metadata.version(name) for name in VERSIONS},
        commit=_commit(),
        machine=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    )
    started = time.monotonic()
    bar = progress.add_task(f"{run.method} seed {run.seed}", total=None)
    lines = []
    try:
        for line in _stream(run, command, jobs, result):
            lines.append(line)
            _show(progress, bar, line, command)
    except subprocess.CalledProcessError:
        result.status = f"failed: {lines[-1].strip() if lines else 'no output'}"
    collect(result, lines)
    result.seconds = time.monotonic() - started
    scratch = run.folder / f"{RESULT}.tmp"
    scratch.write_text(json.dumps(asdict(result), indent=1), "utf-8")
    scratch.replace(run.folder / RESULT)
    progress.remove_task(bar)
    return result


def _show(progress: Progress, bar: Any, line: str, command: list[str]) -> None:
    parsed = parse_log_line(line)
    if parsed and parsed[0] == "train_inner":
        total = None
        for flag in ("--max-update", "--steady-updates"):
            if flag in command:
                total = int(command[command.index(flag) + 1])
        progress.update(bar, completed=int(parsed[1]["num_updates"]), total=total)


def run_all(runs: Sequence[Run], common: Sequence[str], jobs: int) -> list[Result]:
    """Every run's result, old or new; at most ``jobs`` at once."""
    known = [read_result(run, run.command(common)) for run in runs]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(jobs) as pool,
    ):
        whole = progress.add_task("all runs", total=len(runs))

        def finish(run: Run, old: Result | None) -> Result:
            result = old or execute(run, run.command(common), progress, jobs)
            if result.status != "ok":
                progress.console.print(
                    f"{run.method} seed {run.seed} {result.status} (log: "
                    f"{run.folder / LOG})"
                )
            progress.advance(whole)
            return result

        return list(pool.map(finish, runs, known))


def best_evaluation(result: Result, metric: str) -> dict[str, Any]:
    """The evaluation with the best first subset; the earliest of equals.

    Raises:
        PlanError: the log has no such metric.

    """
    subset = next(name for name in result.evaluations[0] if name != "updates")
    if metric not in result.evaluations[0][subset]:
        has = ", ".join(result.evaluations[0][subset])
        raise PlanError(f"no metric {metric} in the logs; choose from {has}")
    return max(result.evaluations, key=lambda e: float(e[subset][metric]))


def values(results: Sequence[Result], metric: str) -> dict[str, dict[str, list[float]]]:
    """Metric of each successful run by method and subset, in order of seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        if result.status != "ok":
            continue
        for subset, scores in best_evaluation(result, metric).items():
            if subset != "updates":
                by_subset = found.setdefault(result.method, {})
                by_subset.setdefault(subset, []).append(scores[metric])
    return found


def mean_std(numbers: Sequence[float]) -> str:
    """Mean and sample standard deviation (ddof 1)."""
    if len(numbers) < 2:
        return f"{numbers[0]:.3f}"
    return f"{statistics.mean(numbers):.3f} +- {statistics.stdev(numbers):.3f}"


def summary(results: Sequence[Result], metric: str) -> list[dict[str, str]]:
    """A row per method: scores by subset, runs, seconds per update."""
    rows: list[dict[str, str]] = []
    found = values(results, metric)
    first: float | None = None
    for method in dict.fromkeys(result.method for result in results):
        mine = [r for r in results if r.method == method]
        speeds = [r.seconds_per_update for r in mine if r.seconds_per_update]
        pace = statistics.median(speeds) if speeds else float("nan")
        first = first or pace
        scores = {
            f"{metric} {subset}": mean_std(numbers)
            for subset, numbers in found.get(method, {}).items()
        }
        ok = sum(r.status == "ok" for r in mine)
        peaks = [r.peak_mb for r in mine if r.peak_mb]
        memory = {"peak MB": f"{max(peaks):.0f}"} if peaks else {}
        rows.append(
            {
                "method": method,
                **scores,
                "runs": f"{ok} of {len(mine)}",
                "s/update": f"{pace:.2f}",
                "time": f"{pace / first:.2f}x",
                **memory,
            }
        )
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Rows as CSV; columns in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def per_run(results: Sequence[Result], metric: str) -> list[dict[str, str]]:
    """A row per run, for the reader's own statistics."""
    rows = []
    for result in results:
        row = {"method": result.method, "seed": str(result.seed)}
        if result.status == "ok":
            best = best_evaluation(result, metric)
            row["updates"] = str(best["updates"])
            row |= {
                f"{metric} {subset}": f"{scores[metric]:.6g}"
                for subset, scores in best.items()
                if subset != "updates"
            }
        rows.append(row | {"status": result.status})
    return rows


def print_table(rows: Sequence[dict[str, str]], metric: str) -> None:
    """The summary, with its definitions under it."""
    table = Table()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for column in columns:
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        table.add_row(*(row.get(column, "") for column in columns))
    console = Console(width=max(80, Console().width))
    console.print(table)
    console.print(
        f"{metric}: mean +- standard deviation over seeds (ddof 1), each run at the "
        "evaluation best on its first subset; s/update: median over runs; time: "
        "relative to the first method.",
        style="dim",
    )


def draw(path: Path, results: Sequence[Result], metric: str) -> None:
    """Every seed as a point and the mean as a bar, by method and subset."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    found = values(results, metric)
    subsets = list(dict.fromkeys(s for by_subset in found.values() for s in by_subset))
    figure, axes = pyplot.subplots(
        1, len(subsets), squeeze=False, figsize=(3.2 * len(subsets), 3.2), sharey=True
    )
    for axis, subset in zip(axes[0], subsets, strict=True):
        for x, by_subset in enumerate(found.values()):
            numbers = by_subset[subset]
            spread = [
                x + 0.08 * (i - (len(numbers) - 1) / 2) for i in range(len(numbers))
            ]
            axis.plot(spread, numbers, "o", alpha=0.7, color=f"C{x}")
            axis.hlines(statistics.mean(numbers), x - 0.3, x + 0.3, color=f"C{x}")
        axis.set_xticks(range(len(found)), list(found), rotation=20)
        axis.set_xlim(-0.6, len(found) - 0.4)
        axis.set_title(subset)
        axis.grid(axis="y", alpha=0.3)
    axes[0][0].set_ylabel(metric)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="results folder")
    parser.add_argument(
        "--methods", nargs="+", required=True, help="criterion, or NAME=FLAGS"
    )
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--metric", default="mcc", help="compared and selected on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("train", nargs="+", help="flags of fairseq-train, after --")
    return parser.parse_args()


def report(args: argparse.Namespace) -> int:
    """Run what is missing, then write and print the table; 1 if a run failed."""
    results = run_all(plan(args.out, args.methods, args.seeds), args.train, args.jobs)
    write_csv(args.out / "runs.csv", per_run(results, args.metric))
    if not any(result.status == "ok" for result in results):
        return 1
    rows = summary(results, args.metric)
    write_csv(args.out / "table.csv", rows)
    draw(args.out / "scores.png", results, args.metric)
    print_table(rows, args.metric)
    return int(any(result.status != "ok" for result in results))


def main() -> int:
    """Plan, run, report; 1 if a run failed."""
    args = parse()
    try:
        return report(args)
    except PlanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
