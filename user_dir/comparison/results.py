"""What a run leaves behind: one result.json, and how it is read."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired, cast

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from .. import escaping
from ..errors import UserError
from ..files import conform, read_json, write_json
from .plan import Run, typed

RESULT, LOG, RECORD, BEST = (
    "result.json",
    "train.log",
    "evaluations",
    "checkpoint_best.pt",
)
_MEND = "remove it to train that run again"
#: From so many whole seconds on they say more than updates per second do.
_LONG = 20
#: What the status of a run begins with whose numbers were no numbers any more.
DIVERGED = "diverged: "

#: Time or memory.
Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
#: A class or a score; beyond this a number is no class that numpy could count.
Gold = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]


#: Whether each of several labels holds.
Labels = list[Annotated[int, Field(ge=0, le=1)]]


class Predictions(TypedDict):
    """Of one subset, in the data's order; a diverged model's are nan.

    Where they are known, names of its groups and the group of each sentence, and the
    metrics whose mean is ``score``.
    """

    outputs: Annotated[list[list[float]], Field(min_length=1)]
    gold: Annotated[list[Gold] | list[Labels], Field(min_length=1)]
    groups: NotRequired[list[str]]
    group: NotRequired[list[Annotated[int, Field(ge=0)]]]
    score_of: NotRequired[list[str]]


class Summaries(TypedDict):
    """Of one subset, in the data's order: scores by metric, digests of references."""

    scores: dict[str, Annotated[list[float], Field(min_length=1)]]
    gold: Annotated[list[Gold], Field(min_length=1)]


# Without one of its own it has Result's, which forbids what it does not know.
@with_config(ConfigDict(extra="allow"))
class Evaluation(TypedDict, extra_items=dict[str, float]):  # type: ignore[call-arg]
    """Metrics by subset; of a diverged run they may be nan or infinite."""

    updates: int


class _Recorded(TypedDict):
    """One file of the record that the plugin keeps."""

    subset: str
    updates: int
    metrics: dict[str, float]
    files: NotRequired[dict[str, str]]
    peak_gpu_mb: NotRequired[Cost]
    outputs: NotRequired[list[list[float]]]
    gold: NotRequired[list[Gold] | list[Labels]]
    groups: NotRequired[list[str]]
    group: NotRequired[list[Annotated[int, Field(ge=0)]]]
    score_of: NotRequired[list[str]]
    scores: NotRequired[dict[str, list[float]]]


class _Checkpoint(TypedDict):
    best_checkpoint_metric: str
    maximize_best_checkpoint_metric: bool


class _Dataset(TypedDict):
    valid_subset: str


class _Task(TypedDict):
    _name: str
    data: str
    steady_model: str


class _Config(TypedDict):
    """What is read of fairseq's configuration."""

    checkpoint: _Checkpoint
    task: _Task
    dataset: NotRequired[_Dataset]


#: Updates and a subset or more.
_OfSubset = Annotated[dict[str, Any], Field(min_length=2)]


class _Ended(TypedDict):
    """What a run that ended well must have."""

    config: _Config
    evaluations: Annotated[list[_OfSubset], Field(min_length=1)]


@dataclass
class Result:
    """One run: how it was made, what it scored, what it predicted, what it cost.

    Args:
        setting: as in the plan.
        method: as in the plan.
        seed: as in the plan.
        command: as in the plan.
        status: ``ok``; ``diverged: `` or ``crashed: `` and the reason.
        config: fairseq's whole configuration.
        evaluations: ``{"updates": ..., subset: {metric: value}}`` in order.
        predictions: by subset, ``outputs`` and ``gold`` in the data's order, at the
            evaluation that the run's own metric calls best.
        summaries: what each summary scored there, by subset.
        seconds_per_update: median over the training log.
        seconds: from start to end, loading and evaluations included.
        peak_mb: largest resident memory of the process.
        peak_gpu_mb: largest memory of the first GPU.
        versions: of the packages that matter.
        commit: of this repository.
        machine: processor and GPUs.
        files: digests of the model and the data, by folder and name.

    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    setting: str
    method: str
    seed: int
    command: Annotated[list[str], Field(min_length=1)]
    status: str = "ok"
    config: dict[str, Any] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    predictions: dict[str, Predictions] = field(default_factory=dict)
    summaries: dict[str, Summaries] = field(default_factory=dict)
    seconds_per_update: Cost | None = None
    seconds: Cost | None = None
    peak_mb: Cost | None = None
    peak_gpu_mb: Cost | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    machine: str = ""
    files: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it ended as it should."""
        return self.status == "ok"

    @property
    def diverged(self) -> bool:
        """Whether training itself ended it: an outcome, with a score that is nan."""
        return self.status.startswith(DIVERGED)

    @property
    def crashed(self) -> bool:
        """Whether it says nothing, and is to be tried again."""
        return not (self.ok or self.diverged)

    @property
    def own_metric(self) -> tuple[str, bool]:
        """The metric that the task picks checkpoints by, and whether more is better."""
        chosen = self.config["checkpoint"]
        return chosen["best_checkpoint_metric"], chosen[
            "maximize_best_checkpoint_metric"
        ]

    @property
    def kept(self) -> int:
        """Updates of the evaluation whose predictions, and checkpoint, are kept."""
        metric, larger = self.own_metric
        first = next(name for name in self.evaluations[0] if name != "updates")
        updates: int = self.best(first, metric, larger)["updates"]
        return updates

    @property
    def training_seconds(self) -> float | None:
        """Of all updates, evaluations left out; None if it is not known."""
        if not (self.seconds_per_update and self.evaluations):
            return None
        updates: int = self.evaluations[-1]["updates"]
        return self.seconds_per_update * updates

    def recorded(self, subset: str) -> Predictions | Summaries | None:
        """What is known of each sentence or article of a subset."""
        return self.predictions.get(subset) or self.summaries.get(subset)

    def best(self, select: str, metric: str, larger: bool = True) -> dict[str, Any]:
        """The evaluation with the best ``metric`` on ``select``; the first of equals.

        Raises:
            UserError: there is no such subset or metric.

        """
        for one in self.evaluations:
            if select not in one:
                has = ", ".join(name for name in one if name != "updates")
                raise UserError(
                    f"{self.method} was not evaluated on {select} but on {has}; name "
                    "one of them with --select"
                )
        found: list[dict[str, Any]] = [{**one} for one in self.evaluations]
        return max(found, key=lambda one: rank(score(one, select, metric), larger))


def rank(value: float, larger: bool) -> float:
    """More is better whatever the metric; what is no finite number is worst."""
    if not math.isfinite(value):
        return -math.inf
    return value if larger else -value


def score(evaluation: Mapping[str, Any], subset: str, metric: str) -> float:
    """A metric on a subset.

    Raises:
        UserError: there is no such subset or metric.

    """
    metrics = evaluation.get(subset, {})
    if metric not in metrics:
        has = ", ".join(metrics)
        raise UserError(f"no metric {metric}; choose --metric from {has}")
    return float(metrics[metric])


def write(path: Path, result: Result) -> None:
    """Write result.json, whole or not at all."""
    write_json(path, asdict(result))


def load(path: Path) -> Result:
    """Read a result.json.

    Raises:
        UserError: it is damaged or of another version of this program.

    """
    result = read_json(path, Result, _MEND)
    if result.ok:
        read = {"config": result.config, "evaluations": result.evaluations}
        conform(_Ended, read, path, _MEND)
    for subset, found in result.predictions.items():
        _check_groups(found, f"{path}: field 'predictions.{subset}'")
        if len(found["outputs"]) != len(found["gold"]):
            raise UserError(
                f"{path}: field 'predictions.{subset}': {len(found['outputs'])} "
                f"outputs of {len(found['gold'])} gold answers; {_MEND}"
            )
    for subset, one in result.summaries.items():
        _check_scores(one, f"{path}: field 'summaries.{subset}.scores")
    return result


def _check_scores(found: Summaries, where: str) -> None:
    articles = len(found["gold"])
    for metric, scores in found["scores"].items():
        if len(scores) != articles:
            raise UserError(
                f"{where}.{metric}': {len(scores)} scores of {articles} articles; "
                f"{_MEND}"
            )


def _check_groups(found: Predictions, where: str) -> None:
    groups, group = len(found.get("groups", ())), found.get("group")
    if group is not None and (
        len(group) != len(found["gold"]) or max(group, default=0) >= groups
    ):
        raise UserError(
            f"{where}: its {groups} groups and its {len(found['gold'])} gold answers "
            f"do not fit the groups of {len(group)} sentences; {_MEND}"
        )


def standing(runs: Sequence[Run]) -> dict[Path, Result]:
    """Earlier results that need not be made again, by their runs' folders.

    A checkpoint that was to be left may be gone once all that starts from it has ended.
    What starts from a run that is to be made again does not stand either.

    Raises:
        UserError: a folder holds a result of another command.

    """
    runs = sorted(runs, key=_depth)
    held = {run.folder: of_run(run) for run in runs}
    found = {folder: one for folder, one in held.items() if one and not one.crashed}
    following: dict[Path, list[Path]] = defaultdict(list)
    for run in runs:
        if run.after:
            following[run.after.folder].append(run.folder)
    for run in reversed(runs):
        later = following[run.folder]
        needed = run.keep and not (later and all(folder in found for folder in later))
        lost = needed and not (run.folder / BEST).is_file()
        if lost and run.folder in found and found[run.folder].ok:
            del found[run.folder]
    for run in runs:
        if run.after and run.after.folder not in found:
            found.pop(run.folder, None)
    return found


def _depth(run: Run) -> int:
    return 1 + _depth(run.after) if run.after else 0


def of_run(run: Run) -> Result | None:
    """What a run's folder holds, or None.

    Raises:
        UserError: it is of another command, unless that crashed.

    """
    path = run.folder / RESULT
    if not path.is_file():
        return None
    result = load(path)
    if result.crashed:
        return result
    made = (result.setting, result.method, result.seed, tuple(result.command))
    if made != (run.setting, run.method, run.seed, run.command):
        raise UserError(
            f"{path} is of another plan; choose another --out, or remove it. It was "
            f"made by: {escaping.command(typed(result.command))}"
        )
    return result


def read_log_line(line: str) -> tuple[str, dict[str, Any]] | None:
    """Fairseq's JSON log line as its tag and its values, or None for other lines."""
    parts = line.rstrip("\n").split(" | ", 3)
    if len(parts) < 4 or not parts[3].startswith("{"):
        return None
    try:
        return parts[2].strip(), json.loads(parts[3])
    except (ValueError, RecursionError):
        return None


def numbers(values: Mapping[str, Any], *names: str) -> tuple[float, ...] | None:
    """Finite numbers among a log line's values, or None if one is not there."""
    try:
        found = tuple(float(values[name]) for name in names)
    except (KeyError, TypeError, ValueError):
        return None
    return found if all(map(math.isfinite, found)) else None


def seconds_per_update(lines: Iterable[str]) -> float | None:
    """Mean over a log, its first entry left out; None for too short a run.

    fairseq's updates per second count the time of evaluations: they are taken between
    lines without one. Its training time does not, but has whole seconds.
    """
    steps = list(_steps(lines))
    steps = steps[1:] or steps
    apart = [step for step in steps if not step.evaluated and step.ups > 0]
    if apart:
        return sum(s.seconds for s in apart) / sum(s.updates for s in apart)
    if seconds := sum(step.wall for step in steps):
        return seconds / sum(step.updates for step in steps)
    speed = statistics.median(step.ups for step in steps) if steps else 0
    return 1 / speed if speed > 0 else None


class _Step(NamedTuple):
    """What a log says between two lines of training."""

    updates: float
    wall: float
    ups: float
    evaluated: bool

    @property
    def seconds(self) -> float:
        """Updates per second have two decimals, so that slow ones say little."""
        return self.wall if self.wall >= _LONG else self.updates / self.ups


def _steps(lines: Iterable[str]) -> Iterator[_Step]:
    before, evaluated = 0.0, False
    for tag, values in filter(None, map(read_log_line, lines)):
        found = numbers(values, "num_updates", "train_wall", "ups")
        if tag != "train_inner":
            evaluated = True
        elif found and found[0] > before:
            done, wall, ups = found
            yield _Step(done - before, wall, ups, evaluated)
            before, evaluated = done, False


def collect(result: Result, record: Path) -> None:
    """Take configuration, evaluations and predictions from a record folder.

    Raises:
        UserError: a file of it is not as the plugin writes it.

    """
    config = record / "config.json"
    if config.is_file():
        result.config = read_json(config, dict[str, Any], _MEND)
        conform(_Config, result.config, config, _MEND)
    files = [read_json(p, _Recorded, _MEND) for p in record.glob("*-*.json")]
    subsets = list(dict.fromkeys(_subsets(result)))
    files.sort(key=lambda one: (one["updates"], _place(one["subset"], subsets)))
    by_updates: dict[int, Any] = {}
    for one in files:
        entry = by_updates.setdefault(one["updates"], {"updates": one["updates"]})
        entry[one["subset"]] = one["metrics"]
        result.files |= one.get("files", {})
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


def _take_predictions(result: Result, files: Sequence[_Recorded]) -> None:
    best = result.kept
    chosen = [one for one in files if one["updates"] == best and "gold" in one]
    for one in chosen:
        if "outputs" in one:
            kept = _part(one, Predictions)
            result.predictions[one["subset"]] = cast(Predictions, kept)
        elif "scores" in one:
            result.summaries[one["subset"]] = cast(Summaries, _part(one, Summaries))


def _part(one: _Recorded, of: type[Any]) -> dict[str, Any]:
    """What of a record is of its sentences."""
    return {k: v for k, v in one.items() if k in of.__annotations__}
