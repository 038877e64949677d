"""How many seeds would show it? ``compare --plan --expect`` answers from pilot runs."""

from collections.abc import Mapping, Sequence

from ..errors import UserError
from .answers import Answer, amount, answers, counted, duration, left, seconds
from .definitions import Definitions
from .plan import Plan
from .power import ERROR, POWER, hours, pairs_for, upper_spread
from .results import Result
from .significance import FEWEST
from .table import Notes, Row, Scored, Tables, Title, by_name, number, unique

_ByMethod = Mapping[str, Sequence[Result]]


_FEW = (
    "--plan takes the spread of differences from pilot runs: two methods or more, and "
    "two seeds of each that end; give more with --{}"
)


def check(plan: Plan) -> None:
    """Refuse what could show no spread.

    Raises:
        UserError: there is one method, or one seed.

    """
    for flag, given in (("methods", plan.methods), ("seeds", plan.seeds)):
        if len(given) < 2:
            raise UserError(_FEW.format(flag))


def planned(
    results: Sequence[Result], scored: Scored, expect: float
) -> tuple[Tables, Notes]:
    """A table per setting and subset of the seeds that show a difference.

    Args:
        results: of pilot runs.
        scored: what they are compared on.
        expect: the difference that is to be shown, in the metric's units.

    Raises:
        UserError: no method has two seeds in common with the first.

    """
    made: Tables = {}
    said: dict[Title, list[str]] = {}
    missing: list[str] = []
    for setting in unique([r.setting for r in results]):
        mine = by_name([r for r in results if r.setting == setting])
        for subset in scored.subsets([r for of in mine.values() for r in of]):
            every = answers(mine, scored, subset)
            found = {m: one for m, one in every.items() if one.difference.spread > 0}
            title = Title(setting, subset, scored.metric)
            unknown = [
                f"{method}: {_unknown(one)}"
                for method, one in every.items()
                if method not in found
            ]
            if found:
                made[title], lines = _planned(mine, found, expect)
                said[title] = [*lines, *unknown]
            missing += [f"{title}: {line}" for line in unknown if not found]
    if not made:
        raise UserError(f"--plan has no spread of differences: {'; '.join(missing)}")
    first = next(iter(made))
    said[first] += missing
    return made, said


def _unknown(answer: Answer) -> str:
    """Why a method has no row."""
    if answer.difference.spread == 0:
        return "the seeds so far all differ alike, by chance; run more of them first"
    if answer.difference.pairs >= 2:
        return "a run has no finite score; a table will have no mean"
    return "fewer than two seeds ended in both; run more of them first"


def _planned(
    mine: _ByMethod, found: Mapping[str, Answer], expect: float
) -> tuple[list[Row], list[str]]:
    """Rows of one table, and the line under it."""
    first, *others = mine
    level = ERROR / len(others)
    rows, wanted = [], {}
    for method, one in found.items():
        pairs, spread = one.difference.pairs, one.difference.spread
        wanted[method] = pairs_for(expect / spread, level)
        more = wanted[method] - pairs
        each = seconds(mine[method]) + seconds(mine[first])
        sure = pairs_for(expect / upper_spread(spread, pairs), level)
        rows.append(
            {
                "method": method,
                "difference so far": number(one.difference.mean, sign="+"),
                "std of it": amount(spread),
                "seeds so far": str(pairs),
                "seeds": counted(wanted[method]),
                "80 % sure": counted(sure),
                "further time": duration(hours(more, each), wanted[method]),
                **_for_others(one, expect, level, wanted[method]),
            }
        )
    out_of_reach = [
        f"{method}: no number of seeds shows {expect:g} for other sentences than "
        "these; that takes more of them."
        for method, one in found.items()
        if one.floor > expect
    ]
    return rows, [_together(mine, wanted), *out_of_reach]


def _for_others(answer: Answer, expect: float, level: float, least: int) -> Row:
    """Both tests have to tell: at least as many seeds as for these sentences."""
    if isinstance(answer.other, str):
        return {}
    effect = expect / answer.difference.spread
    takes = pairs_for(effect, level, left(answer.difference, answer.other))
    return {
        "seeds for others": counted(max(takes, least)),
        "sentences show": amount(answer.floor),
    }


def _together(mine: _ByMethod, wanted: Mapping[str, int]) -> str:
    """What all of it takes; the first method runs once for all the others."""
    first = next(iter(mine))
    most = {**wanted, first: max(wanted.values())}
    total = sum(
        hours(count - len(mine[method]), seconds(mine[method]))
        for method, count in most.items()
    )
    return (
        f"All together: {counted(most[first])} seeds of {first}, and of each other "
        f"method as many as its row says: {duration(total, most[first])} of further "
        "runs, added up."
    )


def definitions(expect: float, scored: Scored) -> Definitions:
    """What the columns mean."""
    about = (
        f"Seeds that show a difference of {expect:g} in {scored.metric} with a chance "
        f"of {100 * POWER:.0f} %: paired t test at {ERROR} over the number of methods "
        f"beside the first, {FEWEST} seeds at least. Pilot runs may count in the table "
        "afterwards: where they do, 5 to 8 % of comparisons without a difference "
        f"find one, and not {100 * ERROR:.0f}, because a small spread by chance asks "
        "for few seeds. With other --seeds it stays at that."
    )
    columns = {
        "std of it": "standard deviation of the differences of the seeds so far, ddof "
        "1.",
        "80 % sure": "the seeds if that is as large as its upper limit of 80 % (Browne "
        "1995), for few seeds know it badly.",
        "further time": "of both methods' runs, added up.",
        "seeds for others": "for other sentences too: the sentences' share of the "
        "error, which stays, is counted.",
        "sentences show": "for other sentences, what as many as these show however "
        "many the seeds; a smaller difference takes more sentences.",
    }
    return Definitions(about, columns)
