"""Methods x seeds, side by side: what ``fairseq-steady compare`` does."""

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from ..files import write_text
from ..scores.metrics import larger_is_better
from . import (
    ensembles,
    figures,
    instability,
    origins,
    planning,
    table,
    winner_card,
)
from . import report as page
from .adding import Rule, begun, check_rule, first_seeds, until_decided
from .command import check, make_executor, read, reasons, said_of
from .execution import Executor, run_all
from .plan import SELECT, Plan, distinct, every, named
from .results import Result
from .table import Scored

#: Seeds of a method, where --at-most does not say.
_AT_MOST = 20


def make_plan(args: argparse.Namespace) -> Plan:
    """The plan of a command line.

    Raises:
        UserError: seeds that choose flags would count in the table.

    """
    settings = named(args.settings, "setting")
    if args.settings == ["all="]:
        settings = {"": ()}
    plan = Plan(
        args.out,
        named(args.methods, "method"),
        distinct(args.seeds),
        tuple(args.train),
        settings,
        args.select or SELECT,
        distinct(args.tuning_seeds or ()),
        args.keep,
    )
    both = [str(seed) for seed in plan.trying if seed in plan.seeds]
    if both and not args.count_tuning_seeds:
        raise UserError(
            f"--tuning-seeds {' '.join(both)} are among --seeds: the scores of seeds "
            "that chose the flags flatter them; name others, or give "
            "--count-tuning-seeds"
        )
    return plan


def make_rule(args: argparse.Namespace, plan: Plan) -> Rule | None:
    """When to stop adding seeds; None where none are added.

    Raises:
        UserError: flags do not go together.

    """
    if args.until_decided is None:
        for flag in ("at_most", "budget"):
            if getattr(args, flag) is not None:
                raise UserError(
                    f"--{flag.replace('_', '-')} goes with --until-decided; add it"
                )
        return None
    if args.plan:
        raise UserError("--plan and --until-decided: give one of them")
    hours = math.inf if args.budget is None else args.budget
    at_most = _AT_MOST if args.at_most is None else args.at_most
    subset = args.until_decided or args.select or ""
    rule = Rule(subset, at_most, 3600 * hours)
    rule.check(plan)
    return rule


def measure(args: argparse.Namespace, plan: Plan, results: Sequence[Result]) -> Scored:
    """What to compare on.

    Raises:
        UserError: every run crashed or diverged, or has no such metric.

    """
    ended = table.ended(results)
    if not ended:
        raise UserError(f"every run crashed or diverged; {said_of(results)}")
    metric, larger = ended[0].own_metric
    if args.metric and args.metric != metric:
        metric, larger = args.metric, larger_is_better(args.metric)
    there = table.subsets(ended)
    select = args.select or (SELECT if SELECT in there else there[0])
    found = Scored(metric, larger, select, plan.tuning_runs)
    having = [one for one in ended if found.has(one, select)]
    found.best((having or ended)[0])  # is there such a metric?
    return found


def metric_check(args: argparse.Namespace, plan: Plan) -> Callable[[Result], None]:
    """Refuses a ``--metric`` once a run of every setting has ended without it.

    Other runs of the same setting do not have it either; another setting's may.
    """
    lacking = set()

    def check(result: Result) -> None:
        if not (args.metric and result.ok):
            return
        try:
            measure(args, plan, [result])
        except UserError:
            lacking.add(result.setting)
            if len(lacking) == len(plan.settings):
                raise

    return check


class Tuned(NamedTuple):
    """Chosen points by setting and method, all that was tried, a row per point."""

    points: dict[tuple[str, str], int]
    results: list[Result]
    rows: list[table.Row]


def tune(plan: Plan, executor: Executor, args: argparse.Namespace) -> Tuned:
    """Choose each method's grid point on the selecting subset, and write it down.

    Raises:
        UserError: a run crashed; without it a method would have a smaller grid.

    """
    tried = plan.tuning()
    results = run_all(every(tried), executor, check=metric_check(args, plan))
    if crashes := reasons(results):
        raise UserError(
            f"in tuning {crashes}. Mend that and give the same command again, or leave "
            "the grid's point out, with another --out"
        )
    scored = measure(args, plan, results)
    left = iter(results)
    chosen: dict[tuple[str, str], int] = {}
    notes: list[table.Row] = []
    for key, grid in tried.items():
        scores = [_mean(list(itertools.islice(left, len(g))), scored) for g in grid]
        chosen[key] = scores.index(max(scores, key=scored.rank))
        notes += _notes(plan, key, scores, chosen[key], scored)
    table.write_csv(args.out / "tuning.csv", notes)
    return Tuned(chosen, results, notes)


def _mean(results: Sequence[Result], scored: Scored) -> float:
    """Of a grid point.

    Raises:
        UserError: it has no such metric, as another setting's.

    """
    scores = scored.scores(results, scored.select).values()
    if not scores:
        raise UserError(
            f"setting {results[0].setting} has no {scored.metric} on {scored.select} "
            "to tune by; give it a comparison of its own"
        )
    return statistics.mean(scores)


def _notes(
    plan: Plan,
    key: tuple[str, str],
    scores: Sequence[float],
    pick: int,
    scored: Scored,
) -> list[table.Row]:
    """A row per grid point."""
    grid = plan.grid(*key)
    setting, method = key
    return [
        {
            **({"setting": setting} if setting else {}),
            "method": method,
            "flags": " ".join(_differing(grid, flags)),
            f"{scored.metric} {scored.select}": f"{score:.4f}",
            "chosen": "yes" if number == pick else "",
        }
        for number, (flags, score) in enumerate(zip(grid, scores, strict=True))
    ]


def _differing(grid: Sequence[tuple[str, ...]], flags: tuple[str, ...]) -> list[str]:
    """What tells a grid point from the others, with the flag before it."""
    shown = []
    for index, flag in enumerate(flags):
        if len({other[index] for other in grid}) > 1:
            shown += [flags[index - 1], flag] if not flag.startswith("-") else [flag]
    return shown


def average(out: Path, results: Sequence[Result], executor: Executor) -> list[Result]:
    """Evaluations of each method's averaged weights, where checkpoints were kept."""
    todo = ensembles.averages(out, results)
    return run_all(todo, executor, trained=True) if todo else []


def report(args: argparse.Namespace) -> int:
    """Run what is missing, then write and print everything; 1 if a run crashed."""
    plan, executor = make_plan(args), make_executor(args)
    rule = make_rule(args, plan)
    if args.plan == (args.expect is None):
        raise UserError("--plan and --expect go together; give both or neither")
    if args.plan:
        planning.check(plan)
    looked = begun(args.out) if rule is None else check_rule(plan, rule)
    _check_commands(args, plan)
    tuned = tune(plan, executor, args) if plan.tuned else Tuned({}, [], [])
    results = first_seeds(
        plan, tuned.points, executor, rule, tuned.results, metric_check(args, plan)
    )
    scored = measure(args, plan, results)
    averaged: list[Result] = []
    if args.plan:
        _plan(args, results, scored)
    else:
        if rule:
            rule = replace(rule, subset=rule.subset or scored.select)
            results, scored = until_decided(
                plan, tuned.points, executor, rule, scored, results, tuned.results
            )
        else:
            scored = replace(scored, looked=looked is not None)
        averaged = average(args.out, results, executor) if args.keep else []
        _write(args.out, results, scored, averaged, tuned.rows)
    if crashes := reasons([*results, *averaged]):
        print(f"error: {crashes}", file=sys.stderr)
    return int(bool(crashes))


def _check_commands(args: argparse.Namespace, plan: Plan) -> None:
    """Let fairseq read what is to be trained, and look for the subsets that count."""
    named = {"--select": args.select, "--until-decided": args.until_decided}
    subsets = {flag: subset for flag, subset in named.items() if subset}
    if plan.tuned:  # on --select alone, and what is chosen has the same subsets
        check(every(plan.tuning()))
        read(plan.runs(), subsets)
    else:
        check(plan.runs(), subsets)


def _plan(args: argparse.Namespace, results: Sequence[Result], scored: Scored) -> None:
    """What it would take, as plan.csv, plan.md and on the console."""
    made, said = planning.planned(results, scored, args.expect)
    described = planning.definitions(args.expect, scored)
    rows = [{**title._asdict(), **row} for title in made for row in made[title]]
    table.write_csv(args.out / "plan.csv", rows)
    write_text(args.out / "plan.md", table.markdown(made, described, said))
    table.show(made, described, said)


def _write(
    out: Path,
    results: Sequence[Result],
    scored: Scored,
    averaged: Sequence[Result],
    tuning: Sequence[table.Row],
) -> None:
    """Tables, pictures, card and report, on disk and on the console."""
    made, also = ensembles.extended(
        table.tables(results, scored), results, scored, averaged
    )
    described = table.definitions(scored).also(also | origins.unlike(results))
    said = table.notes(results, scored)
    table.write_rows(out, results, scored)
    table.write_tables(out, made, described, said)
    unstable = instability.tables(results, scored)
    instability.write(out, unstable, scored)
    figures.draw_all(out, results, scored)
    write_text(out / "card.md", winner_card.describe(results, scored))
    page.write(out, results, scored, (made, unstable), described, said, tuning)
    table.show(made, described, said)
    instability.show(unstable, scored)
