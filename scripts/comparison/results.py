"""What a run leaves behind: one result.json, and how it is read."""

import json
import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .plan import PlanError, Run

RESULT, LOG, RECORD, BEST = (
    "result.json",
    "train.log",
    "evaluations",
    "checkpoint_best.pt",
)


@dataclass
class Result:
    """One run: how it was made, what it scored, what it predicted, what it cost.

    Args:
        setting: as in the plan.
        method: as in the plan.
        seed: as in the plan.
        command: as in the plan.
        status: ``ok``, or ``crashed: `` and the reason.
        config: fairseq's whole configuration.
        evaluations: ``{"updates": ..., subset: {metric: value}}`` in order.
        predictions: by subset, ``outputs`` and ``gold`` in the data's order, at the
            evaluation that the run's own metric calls best.
        seconds_per_update: median over the training log.
        seconds: from start to end, loading and evaluations included.
        peak_mb: largest resident memory of the process.
        peak_gpu_mb: largest memory of the first GPU.
        versions: of the packages that matter.
        commit: of this repository.
        machine: processor and GPUs.

    """

    setting: str
    method: str
    seed: int
    command: list[str]
    status: str = "ok"
    config: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds_per_update: float | None = None
    seconds: float | None = None
    peak_mb: float | None = None
    peak_gpu_mb: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    machine: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ended as it should."""
        return self.status == "ok"

    @property
    def own_metric(self) -> tuple[str, bool]:
        """The metric that the task picks checkpoints by, and whether more is better."""
        chosen = self.config["checkpoint"]
        return chosen["best_checkpoint_metric"], chosen[
            "maximize_best_checkpoint_metric"
        ]

    def best(self, select: str, metric: str, larger: bool = True) -> dict[str, Any]:
        """The evaluation with the best ``metric`` on ``select``; the first of equals.

        Raises:
            PlanError: there is no such subset or metric.

        """
        for one in self.evaluations:
            if select not in one:
                has = ", ".join(name for name in one if name != "updates")
                raise PlanError(
                    f"{self.method} was not evaluated on {select} but on {has}; name "
                    "one of them with --select"
                )
            if metric not in one[select]:
                has = ", ".join(one[select])
                raise PlanError(f"no metric {metric}; choose --metric from {has}")
        pick = max if larger else min
        return pick(self.evaluations, key=lambda one: float(one[select][metric]))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file, whole or not at all."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(content), "utf-8")
    scratch.replace(path)


def write(path: Path, result: Result) -> None:
    """Write result.json, whole or not at all."""
    write_json(path, asdict(result))


def load(path: Path) -> Result:
    """Read a result.json.

    Raises:
        PlanError: it is damaged or of another version of this program.

    """
    try:
        return Result(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise PlanError(
            f"{path} cannot be read ({error}); remove it to train that run again"
        ) from None


def standing(runs: Sequence[Run]) -> dict[Path, Result]:
    """Earlier results that need not be made again, by their runs' folders.

    A checkpoint that was to be left may be gone once all that starts from it has ended.
    What starts from a run that is to be made again does not stand either.

    Raises:
        PlanError: a folder holds a result of another command.

    """
    runs = sorted(runs, key=_depth)
    found = {run.folder: result for run in runs if (result := _earlier(run))}
    following: dict[Path, list[Path]] = defaultdict(list)
    for run in runs:
        if run.after:
            following[run.after.folder].append(run.folder)
    for run in reversed(runs):
        later = following[run.folder]
        needed = run.keep and not (later and all(folder in found for folder in later))
        if needed and not (run.folder / BEST).is_file():
            found.pop(run.folder, None)
    for run in runs:
        if run.after and run.after.folder not in found:
            found.pop(run.folder, None)
    return found


def _depth(run: Run) -> int:
    return 1 + _depth(run.after) if run.after else 0


def _earlier(run: Run) -> Result | None:
    path = run.folder / RESULT
    if not path.is_file():
        return None
    result = load(path)
    if not result.ok:
        return None
    if tuple(result.command) != run.command:
        raise PlanError(
            f"{path} is of another plan; choose another --out, or remove it. It was "
            f"made by: {shlex.join(result.command)}"
        )
    return result


def read_log_line(line: str) -> tuple[str, dict[str, Any]] | None:
    """Fairseq's JSON log line as its tag and its values, or None for other lines."""
    parts = line.rstrip("\n").split(" | ", 3)
    if len(parts) < 4 or not parts[3].startswith("{"):
        return None
    try:
        return parts[2].strip(), json.loads(parts[3])
    except ValueError:
        return None


def seconds_per_update(lines: Iterable[str]) -> float | None:
    """Mean over a log, its first entry left out; None for too short a run.

    fairseq's updates per second count the time of evaluations; its training time does
    not, but has whole seconds, which say nothing of a run of less than one.
    """
    entries = [entry for entry in map(read_log_line, lines) if entry]
    found = [values for tag, values in entries if tag == "train_inner"]
    if not found:
        return None
    before = found[0] if len(found) > 1 else {"num_updates": 0}
    rest = found[1:] or found
    seconds = sum(float(values["train_wall"]) for values in rest)
    updates = int(rest[-1]["num_updates"]) - int(before["num_updates"])
    speed = statistics.median(float(values["ups"]) for values in rest)
    return seconds / updates if seconds else 1 / speed if speed else None


def collect(result: Result, record: Path) -> None:
    """Take configuration, evaluations and predictions from a record folder."""
    config = record / "config.json"
    if config.is_file():
        result.config = json.loads(config.read_text("utf-8"))
    files = [json.loads(p.read_text("utf-8")) for p in record.glob("*-*.json")]
    subsets = list(dict.fromkeys(_subsets(result)))
    files.sort(key=lambda one: (one["updates"], _place(one["subset"], subsets)))
    by_updates: dict[int, dict[str, Any]] = {}
    for one in files:
        entry = by_updates.setdefault(one["updates"], {"updates": one["updates"]})
        entry[one["subset"]] = one["metrics"]
        used = one.get("peak_gpu_mb", 0)
        result.peak_gpu_mb = max(result.peak_gpu_mb or 0, used) or None
    result.evaluations = list(by_updates.values())
    if files and result.ok:
        _take_predictions(result, files)


def _subsets(result: Result) -> Sequence[str]:
    listed: str = result.config.get("dataset", {}).get("valid_subset") or ""
    return listed.split(",")


def _place(subset: str, subsets: Sequence[str]) -> int:
    return subsets.index(subset) if subset in subsets else len(subsets)


def _take_predictions(result: Result, files: Sequence[dict[str, Any]]) -> None:
    metric, larger = result.own_metric
    first = next(name for name in result.evaluations[0] if name != "updates")
    best = result.best(first, metric, larger)["updates"]
    result.predictions = {
        one["subset"]: {"outputs": one["outputs"], "gold": one["gold"]}
        for one in files
        if one["updates"] == best and "outputs" in one
    }
