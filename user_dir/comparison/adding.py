"""Seeds are added until methods are told apart: ``compare --until-decided``.

Everything follows from the results, in order of seeds: run again, it decides the same.
A method is told from the first for these sentences, and where predictions were recorded
for others too: of the two p-values the larger one counts.
"""

import csv
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from typing_extensions import TypedDict

from ..errors import UserError
from ..files import read_json, write_json
from .answers import TOO_FEW, Stop, duration, elsewhere, p_of, seconds, towards
from .execution import Executor, run_all
from .plan import Plan, Run, following
from .power import ERROR
from .results import RESULT, Result
from .sequential import decided, levels
from .significance import FEWEST, Difference, difference
from .table import DECISIONS, Scored, ended, unique

Pair = tuple[str, str]
Chosen = Mapping[tuple[str, str], int]
Scores = dict[int, float]
#: In the folder of results: by what rule seeds were added.
RULE = "until-decided.json"


@dataclass(frozen=True)
class Rule:
    """When to stop.

    Args:
        subset: whose scores decide; those of the selecting one where it is empty.
        at_most: seeds of a method.
        budget: seconds of runs, added up; those for tuning and the first seeds count.

    """

    subset: str
    at_most: int
    budget: float = math.inf

    def check(self, plan: Plan) -> None:
        """Refuse what could decide nothing.

        Raises:
            UserError: says what to mend.

        """
        begun = len(plan.seeds)
        if len(plan.methods) < 2:
            raise UserError("--until-decided compares; name two or more --methods")
        if begun < FEWEST:
            raise UserError(
                f"--until-decided begins with {FEWEST} seeds, not {begun}; give more "
                "with --seeds"
            )
        if self.at_most <= begun:
            raise UserError(
                f"--at-most {self.at_most} leaves nothing to add to {begun} seeds; "
                "raise it"
            )


@dataclass(frozen=True)
class _State:
    """What the results say after some looks."""

    plan: Plan
    rule: Rule
    scored: Scored
    results: Sequence[Result]

    @property
    def looks(self) -> tuple[int, ...]:
        """Seeds seen at each look."""
        return tuple(range(len(self.plan.seeds), self.rule.at_most + 1))

    @property
    def order(self) -> list[int]:
        """All seeds there may be."""
        first = list(self.plan.seeds)
        more = self.rule.at_most - len(first)
        return first + following(first, more, self.plan.trying)

    @property
    def first(self) -> str:
        """What the others are compared with."""
        return next(iter(self.plan.methods))

    @property
    def pairs(self) -> list[Pair]:
        """Every method but the first in every setting."""
        _, *others = self.plan.methods
        return list(itertools.product(self.plan.settings, others))

    def of(self, setting: str, method: str) -> list[Result]:
        """One method's results."""
        pair = (setting, method)
        return [r for r in self.results if (r.setting, r.method) == pair]

    def seen(self, pair: Pair) -> int:
        """Seeds of a method, crashed ones too."""
        return len(self.of(*pair))

    def crash(self, pair: Pair) -> int | None:
        """The first seed of which a run of either crashed; there looking ends.

        Made again, it would change every later look once these had been seen.
        """
        crashed = {r.seed for mine in self.two(pair) for r in mine if r.crashed}
        return next((s for s in self.order[: self.seen(pair)] if s in crashed), None)

    def whole(self, pair: Pair) -> int:
        """Seeds before the first that crashed."""
        crash = self.crash(pair)
        return self.seen(pair) if crash is None else self.order.index(crash)

    def two(self, pair: Pair) -> tuple[list[Result], list[Result]]:
        """Results of a method, and of the first."""
        setting, method = pair
        return self.of(setting, method), self.of(setting, self.first)

    def scores(self, pair: Pair, count: int) -> tuple[Scores, Scores]:
        """Of both, over the first so many seeds."""
        some = set(self.order[:count])
        one, other = (self.scored.scores(r, self.rule.subset) for r in self.two(pair))
        return {s: one[s] for s in one if s in some}, other

    def found(self, pair: Pair, count: int) -> Difference:
        """The difference over the first so many seeds."""
        return difference(*self.scores(pair, count))

    def told(self) -> dict[Pair, int]:
        """Seeds after which a method was told from the first."""
        made = {}
        for setting in self.plan.settings:
            mine = [pair for pair in self.pairs if pair[0] == setting]
            ps = {method: self._ps((of, method)) for of, method in mine}
            for method, place in decided(ps, self.looks).items():
                made[setting, method] = self.looks[place]
        return made

    def _ps(self, pair: Pair) -> list[float]:
        whole = self.whole(pair)
        found = [self.p_values(pair, look) for look in self.looks if look <= whole]
        if all(math.isnan(other) for _, other in found):
            return [p for p, _ in found]
        return [math.nan if math.isnan(b) else max(a, b) for a, b in found]

    def p_values(self, pair: Pair, count: int) -> tuple[float, float]:
        """Of these sentences and of others, which is nan where it is not known."""
        scores = self.scores(pair, count)
        found, metric = difference(*scores), self.scored.metric
        other = elsewhere(self.two(pair), metric, self.rule.subset, found, scores)
        return found.p, p_of(other)

    def hopeless(self, pair: Pair) -> bool:
        """Whether further seeds cannot give an answer: one diverged."""
        return math.isnan(self.found(pair, self.seen(pair)).mean)

    def open(self) -> list[Pair]:
        """What may still be decided."""
        told = self.told()
        return [pair for pair in self.pairs if pair not in told and self._may(pair)]

    def _may(self, pair: Pair) -> bool:
        there = self.whole(pair) == self.seen(pair) < self.rule.at_most
        return there and not self.hopeless(pair)

    def stop(self, pair: Pair, at: int | None) -> Stop:
        """How it ended for a method."""
        seen = self.seen(pair)
        last = self.looks.index(at or seen)
        confidence = 1 - levels(self.looks, ERROR)[last]
        level = levels(self.looks, ERROR / (len(self.plan.methods) - 1))[last]
        return Stop(self.rule.subset, self._said(pair, at, seen), confidence, level)

    def _said(self, pair: Pair, at: int | None, seen: int) -> str:
        if at:
            side = towards(self.found(pair, at), self.scored)
            these = " on these sentences" * math.isnan(self.p_values(pair, at)[1])
            return f"decided after {at} seeds: {side} than {self.first}{these}"
        if (crash := self.crash(pair)) is not None:
            return f"no answer yet: seed {crash} crashed; the same command tries again"
        if self.hopeless(pair):
            return f"no answer after {seen} seeds: a run diverged"
        if seen < self.rule.at_most:
            return f"undecided after {seen} seeds: out of budget"
        return f"undecided at {seen} seeds, the most allowed"


class Begun(TypedDict):
    """By what rule a folder of results is decided.

    Args:
        methods: the first, and the others in order of their names.
        read: whether a table had said before what of them is told apart.

    """

    subset: str
    seeds: list[int]
    at_most: int
    methods: list[str]
    metric: str
    select: str
    read: bool


def begun(out: Path) -> Begun | None:
    """By what rule results are decided, if they are.

    Raises:
        UserError: the file that says so does not.

    """
    path = out / RULE
    return read_json(path, Begun, "give another --out") if path.is_file() else None


def check_rule(plan: Plan, rule: Rule, scored: Scored | None = None) -> Begun | None:
    """Refuse a rule where another decides: looks by both would err more often.

    Args:
        plan: of the first seeds.
        rule: whose subset may not be known yet.
        scored: what results are compared on, where that is known.

    Returns:
        What is written down, if anything is.

    Raises:
        UserError: says by what rule.

    """
    before = begun(plan.out)
    if before is None:
        return None
    asked = _ruling(plan, rule, scored, before["read"])
    there = dict(before)
    if any(value != there[name] for name, value in asked.items() if value):
        raise UserError(
            f"{plan.out} is decided by --until-decided {before['subset']} with --seeds "
            f"{' '.join(map(str, before['seeds']))}, --at-most {before['at_most']}, "
            f"--methods {' '.join(before['methods'])}, --metric {before['metric']}, "
            f"--select {before['select']}; looks by another rule would err more often. "
            "Give the same, or another --out"
        )
    return before


def _ruling(plan: Plan, rule: Rule, scored: Scored | None, read: bool) -> Begun:
    """The rule that is asked for; empty is what is not known yet."""
    first, *others = plan.methods
    return Begun(
        subset=rule.subset,
        seeds=list(plan.seeds),
        at_most=rule.at_most,
        methods=[first, *sorted(others)],
        metric=scored.metric if scored else "",
        select=scored.select if scored else "",
        read=read,
    )


def _begin(plan: Plan, rule: Rule, scored: Scored) -> Begun:
    """Write the rule down, before the first look."""
    mine = _ruling(plan, rule, scored, _was_read(plan.out / DECISIONS))
    write_json(plan.out / RULE, mine)
    if mine["read"]:
        print(
            f"warning: {plan.out} had a table before --until-decided: that look is not "
            "counted, and such comparisons err in up to 10 % instead of 5",
            file=sys.stderr,
        )
    return mine


def _was_read(decisions: Path) -> bool:
    """Whether a table said of any method whether it is told from the first."""
    if not decisions.is_file():
        return False
    with decisions.open(newline="", encoding="utf-8") as file:
        said = [row["decision"] for row in csv.DictReader(file)]
    return not all(one.startswith(TOO_FEW) for one in said)


def first_seeds(
    plan: Plan,
    chosen: Chosen,
    executor: Executor,
    rule: Rule | None,
    tried: Sequence[Result],
    check: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Results of the plan's seeds; one seed of all methods tells whether they fit.

    Args:
        plan: of these seeds.
        chosen: grid point by setting and method.
        executor: where runs are trained.
        rule: has the budget.
        tried: that chose each method's flags.
        check: as :func:`.execution.run_all` has it.

    Raises:
        UserError: tuning and these seeds exceed the budget; what has ended is kept.

    """
    runs = plan.runs(chosen)
    missing = any(not (run.folder / RESULT).is_file() for run in runs)
    if rule is None or rule.budget == math.inf or not missing:
        return run_all(runs, executor, check=check)
    one, others = (replace(plan, seeds=s) for s in (plan.seeds[:1], plan.seeds[1:]))
    found = run_all(one.runs(chosen), executor, check=check)
    past, each = (sum(r.seconds or 0 for r in some) for some in (tried, found))
    whole = past + len(plan.seeds) * each
    if whole > rule.budget:
        raise UserError(
            f"--budget is exceeded by {100 * whole / rule.budget - 100:.0f} %: tuning "
            f"took {duration(past / 3600)}, and a seed of all methods "
            f"{duration(each / 3600)}, of which --seeds asks for {len(plan.seeds)}; "
            "raise it. What has ended is kept"
        )
    found += run_all(others.runs(chosen), executor, trained=True, check=check)
    made = {(r.setting, r.method, r.seed): r for r in found}
    return [made[run.setting, run.method, run.seed] for run in runs]


def until_decided(
    plan: Plan,
    chosen: Chosen,
    executor: Executor,
    rule: Rule,
    scored: Scored,
    results: Sequence[Result],
    tried: Sequence[Result] = (),
) -> tuple[list[Result], Scored]:
    """Add seeds to what is undecided, one at a time, and to the first method with it.

    Args:
        plan: of the first seeds.
        chosen: grid point by setting and method.
        executor: where runs are trained.
        rule: when to stop.
        scored: what results are compared on.
        results: of the first seeds.
        tried: that chose each method's flags.

    Returns:
        All results, and ``scored`` with where each method ended.

    Raises:
        UserError: no run of a setting has the metric on the subset that is to decide,
            or seeds were added there by another rule.

    """
    others = _other_subsets(rule, scored, results)
    before = check_rule(plan, rule, scored) or _begin(plan, rule, scored)
    scored = replace(scored, looked=before["read"])
    if rule.subset == scored.select and others:
        print(
            f"warning: {rule.subset} picks each run's evaluation and decides, too, "
            "which flatters; in a comparison of its own let another decide: "
            f"{', '.join(others)}",
            file=sys.stderr,
        )
    state = _State(plan, rule, scored, list(results))
    for seed in state.order[len(plan.seeds) :]:
        wanted = _wanted(plan, chosen, seed, state.open())
        if not wanted or _seconds(state, tried, wanted) > rule.budget:
            break
        more = run_all(wanted, executor, trained=True)
        state = replace(state, results=[*state.results, *more])
    told = state.told()
    stops = {pair: state.stop(pair, told.get(pair)) for pair in state.pairs}
    return list(state.results), replace(scored, stops=stops)


def _other_subsets(rule: Rule, scored: Scored, results: Sequence[Result]) -> list[str]:
    """What could decide instead of the rule's subset, which every setting has to have.

    Raises:
        UserError: one has not.

    """
    settings = unique([r.setting for r in ended(results)])
    having = {
        setting: scored.subsets([r for r in results if r.setting == setting])
        for setting in settings
    }
    alike = [n for n in scored.subsets(results) if all(n in h for h in having.values())]
    for setting, has in having.items():
        if rule.subset not in has:
            whose = f"setting {setting} has" if setting else "the runs have"
            mend = "name one of them" if alike else "give it a comparison of its own"
            raise UserError(
                f"--until-decided {rule.subset}: {whose} {scored.metric} on "
                f"{', '.join(has) or 'no subset'}; {mend}"
            )
    return [name for name in alike if name != rule.subset]


def _wanted(
    plan: Plan, chosen: Chosen, seed: int, undecided: Sequence[Pair]
) -> list[Run]:
    """Runs of a seed: what is undecided, and the first method beside it."""
    first = next(iter(plan.methods))
    wanted = {*undecided, *((setting, first) for setting, _ in undecided)}
    runs = replace(plan, seeds=[seed]).runs(chosen)
    return [run for run in runs if (run.setting, run.method) in wanted]


def _seconds(state: _State, tried: Sequence[Result], wanted: Sequence[Run]) -> float:
    """Of all runs so far, and of the next if they take what such runs took."""
    past = sum(r.seconds or 0 for r in [*tried, *state.results])
    each = [seconds(state.of(run.setting, run.method)) for run in wanted]
    return past + sum(one for one in each if not math.isnan(one))
