"""Probes of what an encoder still knows: what ``fairseq-steady probe`` does.

Source: Aghajanyan et al. (arXiv 2008.03156, section 4).
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import figures, table
from .command import check, make_executor, reasons
from .definitions import Definitions
from .execution import run_all
from .plan import Flags, Run, distinct, named
from .results import Result
from .table import Scored, unique

#: The row of the encoder as it was before any fine-tuning.
PRETRAINED = "pretrained"
NO_SEED = -1
#: a task to fine-tune on, and the tasks to probe then by setting
Link = tuple[str, dict[str, str]]
#: probes by setting, with what each is compared on
Judged = dict[str, tuple[list[Result], Scored]]


def links(design: str, tasks: Sequence[str], cycles: int) -> list[Link]:
    """Tasks in the order of fine-tuning, each with the probes after it.

    Raises:
        UserError: fewer than two tasks, or no cycle.

    """
    if len(tasks) < 2:
        raise UserError(f"{design} needs two tasks or more, not {len(tasks)}")
    if cycles < 1:
        raise UserError(f"--cycles {cycles} is not positive")
    first, *others = tasks
    if design == "generalization":
        return [(first, {task: task for task in others})]
    if design == "chain":
        return [
            (task, {f"{first} after {place} {task}": first})
            for place, task in enumerate(tasks, 1)
        ]
    order = [task for _ in range(cycles) for task in tasks]
    return [
        (task, {f"{after}, cycle {place // len(tasks) + 1}": after})
        for place, (task, after) in enumerate(
            zip(order, [*order[1:], first], strict=True), 1
        )
    ]


class Study:
    """The runs of one design."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.out: Path = args.out
        self.common: Flags = tuple(args.train)
        self.tasks = named(args.tasks, "task")
        self.methods = named(args.methods, "method")
        self.seeds = distinct(args.seeds)
        self.links = links(args.design, list(self.tasks), args.cycles)
        self.target = {s: t for _, probes in self.links for s, t in probes.items()}
        if PRETRAINED in self.methods:
            raise UserError(
                f"{PRETRAINED} is the row of the encoder itself; rename yours"
            )

    def runs(self) -> list[Run]:
        """Everything, each run after the one it starts from."""
        chains = [
            run
            for seed in self.seeds
            for method in self.methods
            for run in self._chain(method, seed)
        ]
        return [*map(self._pretrained, unique(list(self.target.values()))), *chains]

    def _chain(self, method: str, seed: int) -> list[Run]:
        runs: list[Run] = []
        before: Run | None = None
        for place, (task, probes) in enumerate(self.links, 1):
            folder = self.out / method / f"seed{seed}" / f"{place}-{task}"
            fresh = ("--steady-new-head",) if before else ()
            flags = (*self.tasks[task], *self.common, *self.methods[method], *fresh)
            before = Run(
                f"fine-tuning {place} {task}",
                *(method, seed, folder, ("fairseq-train", *flags, "--seed", str(seed))),
                after=before,
                keep=True,
            )
            runs.append(before)
            runs += [
                self._probe(setting, target, before)
                for setting, target in probes.items()
            ]
        return runs

    def _probe(self, setting: str, target: str, model: Run) -> Run:
        folder = model.folder / f"probe-{target}"
        command = ("probe", *self.tasks[target], *self.common)
        return Run(setting, model.method, model.seed, folder, command, after=model)

    def _pretrained(self, target: str) -> Run:
        folder = self.out / PRETRAINED / f"probe-{target}"
        command = ("probe", *self.tasks[target], *self.common)
        return Run(target, PRETRAINED, self.seeds[0], folder, command)


def judged(results: Sequence[Result]) -> Judged:
    """The probes; what was trained left out."""
    found: Judged = {}
    for setting in unique([r.setting for r in results if r.command[0] == "probe"]):
        mine = [r for r in results if r.setting == setting]
        ended = [r for r in mine if r.ok]
        if ended:
            select = next(name for name in ended[0].evaluations[0] if name != "updates")
            found[setting] = mine, Scored(*ended[0].own_metric, select)
    return found


def with_pretrained(study: Study, results: Sequence[Result]) -> list[Result]:
    """Show the pretrained encoder under every setting that probes the same task.

    It has no seed, so it is paired with none of a method's.
    """
    known = {r.setting: r for r in results if r.method == PRETRAINED}
    rest = [r for r in results if r.method != PRETRAINED]
    repeated = [
        replace(known[t], setting=s, seed=NO_SEED) for s, t in study.target.items()
    ]
    return [*rest, *repeated]


def lines(axis: Any, probes: Judged) -> None:
    """Score from probe to probe: each method's mean, its seeds as points."""
    for method in unique([r.method for rs, _ in probes.values() for r in rs]):
        style = "--" if method == PRETRAINED else "-"
        seeds = [
            figures.finite(scored, [r for r in rs if r.method == method], scored.select)
            for rs, scored in probes.values()
        ]
        places = [place for place, scores in enumerate(seeds) if scores]
        means = [statistics.mean(seeds[place]) for place in places]
        (line,) = axis.plot(places, means, style, label=figures.label(method))
        for place in places:
            x = [place] * len(seeds[place])
            axis.plot(x, seeds[place], ".", color=line.get_color(), alpha=0.5)
    names = [*map(figures.label, probes)]
    axis.set_xticks(range(len(probes)), names, rotation=30, ha="right")
    axis.tick_params(axis="x", labelsize=7)


def draw(out: Path, study: Study, found: Judged) -> None:
    """A panel per probed task: boxes where it is probed once, else lines."""
    from matplotlib import pyplot

    tasks = unique([study.target[setting] for setting in found])
    size = (1.5 + 4 * len(tasks), 4)
    figure, axes = pyplot.subplots(
        1, len(tasks), squeeze=False, figsize=size, layout="constrained"
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        mine = {s: found[s] for s in found if study.target[s] == task}
        results, scored = next(iter(mine.values()))
        if len(mine) == 1:
            figures.boxes(axis, results, scored, scored.select)
        else:
            lines(axis, mine)
            axis.legend(fontsize=7)
        axis.set_ylabel(figures.label(scored.metric))
        axis.set_title(figures.label(f"{task}, {scored.select}"))
        axis.grid(alpha=0.3)
    figures.save(figure, out / "probes")


DESCRIBED = Definitions(
    "Scores of linear models on frozen features.",
    {
        "pretrained": "the encoder before fine-tuning, which has no seed (-1) and is "
        "paired with none.",
        "mean ± std": "over fine-tuning seeds, ddof 1.",
        "n": "probes that ended, of those planned.",
        "failed": "probes at or below what always answering the most frequent class "
        "scores.",
        "difference, p": "against the first method, paired by seed; 95 % t interval "
        "and paired t test from five seeds on, on these sentences, Holm's correction "
        "over the methods.",
        "seeds x sentences": "the interval of the same difference for other seeds and "
        "sentences.",
    },
)


def report(args: argparse.Namespace) -> int:
    """Run what is missing, then write and print; 1 if a run crashed."""
    study, executor = Study(args), make_executor(args)
    runs = study.runs()
    check([run for run in runs if run.command[0] == "fairseq-train"])
    results = with_pretrained(study, run_all(runs, executor))
    found = judged(results)
    if not found:
        raise UserError(f"every probe crashed; {reasons(results)}")
    made: table.Tables = {}
    rows: list[table.Row] = []
    for mine, scored in found.values():
        made |= table.tables(mine, scored)
        rows += table.runs(mine, scored)
    table.write_csv(args.out / "runs.csv", rows)
    table.write_tables(args.out, made, DESCRIBED)
    draw(args.out, study, found)
    table.show(made, DESCRIBED)
    if crashes := reasons(results):
        print(f"error: {crashes}", file=sys.stderr)
    return int(bool(crashes))
