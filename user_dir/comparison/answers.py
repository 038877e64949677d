"""Is each method different from the first, and what would it take to know?"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .crossed import Crossed, NotBySentenceError, crossed, paired
from .power import ERROR, MOST, NOTHING, Lasting, Need, floor, need
from .results import Result
from .significance import CONFIDENCE, FEWEST, Difference, difference, holm

if TYPE_CHECKING:
    from .table import Scored

#: What is said where seeds are too few for any p.
TOO_FEW = f"undecided: fewer than {FEWEST} seeds ended in both"
#: From here on a number is shown by its power of ten.
HUGE = 1e6


@dataclass(frozen=True)
class Stop:
    """Where adding seeds ended for a method.

    Args:
        subset: whose scores decided.
        said: what was decided, or why not.
        confidence: of the interval of the last look that makes it one of 95 % at
            whatever look it ended.
        level: of significance that the method had at this look, with all methods open.

    """

    subset: str
    said: str
    confidence: float
    level: float

    def on(self, subset: str) -> str:
        """What is said of a subset: no other has a rule of its own."""
        if subset == self.subset:
            return self.said
        return f"not decided: seeds were added by {self.subset}"


@dataclass(frozen=True)
class Answer:
    """A method against the first.

    Args:
        difference: over the seeds that both have.
        p: after Holm's correction.
        other: the difference for other sentences too, or why it is not known.
        other_p: of that, after Holm's correction; nan if it is not known.
        need: what it would take to know more of these sentences.
        elsewhere: and of others; None if that is not known, or sentences leave nothing.
        floor: what no number of seeds shows less than for other sentences; nan if it is
            not known, 0 if sentences leave nothing.
        said: better, worse, undecided or why there is no answer.

    """

    difference: Difference
    p: float
    other: Crossed | str
    other_p: float
    need: Need | None
    elsewhere: Need | None
    floor: float
    said: str


def answers(
    by_method: Mapping[str, Sequence[Result]], scored: "Scored", subset: str
) -> dict[str, Answer]:
    """Every method but the first, in one setting and subset."""
    first, *others = by_method
    scores = {m: scored.scores(mine, subset) for m, mine in by_method.items()}
    stops = {m: scored.stops.get((by_method[m][0].setting, m)) for m in others}
    levels = {m: stop.confidence if stop else CONFIDENCE for m, stop in stops.items()}
    found = {m: difference(scores[m], scores[first], levels[m]) for m in others}
    two = {m: (by_method[m], by_method[first]) for m in others}
    both = {m: (scores[m], scores[first]) for m in others}
    crosses = {
        m: elsewhere(two[m], scored.metric, subset, found[m], both[m], levels[m])
        for m in others
    }
    ps = _corrected({m: one.p for m, one in found.items()})
    other_ps = _corrected(
        {m: _p_of_enough(one, crosses[m]) for m, one in found.items()}
    )
    made = {}
    for method in others:
        one, other, stop = found[method], crosses[method], stops[method]
        made[method] = Answer(
            one,
            ps[method],
            other,
            math.nan if stop else other_ps[method],  # of a fixed number of seeds
            *needs(one, other, len(others), sum(map(seconds, two[method])), stop),
            _floor(other, len(others)),
            stop.on(subset)
            if stop
            else _said(one, ps[method], other_ps[method], both[method], scored, first),
        )
    return made


def _corrected(ps: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(ps, holm([*ps.values()]), strict=True))


def p_of(other: Crossed | str) -> float:
    """For other sentences too; nan if it is not known."""
    return math.nan if isinstance(other, str) else other.p


def _p_of_enough(found: Difference, other: Crossed | str) -> float:
    return p_of(other) if found.pairs >= FEWEST else math.nan


def needs(
    found: Difference,
    other: Crossed | str,
    methods: int,
    time: float,
    stop: Stop | None,
) -> tuple[Need | None, Need | None]:
    """What more would take, of these sentences and of others.

    Of others a verdict takes both tests, so that the larger number counts.
    """
    level, lasting = stop.level if stop else None, left(found, other)
    mine = need(found, methods, time, level)
    if not (mine and lasting.error):
        return mine, None
    crossed_too = need(found, methods, time, level, lasting) or mine
    shown = max(mine.shown, crossed_too.shown)
    half = max(mine.half, crossed_too.half)
    return mine, replace(mine, shown=shown, half=half)


def left(found: Difference, other: Crossed | str) -> Lasting:
    """What sentences leave of the error, in the spread of the differences."""
    if isinstance(other, str) or not found.spread > 0:
        return NOTHING
    return Lasting(other.floor / found.spread, other.sentences)


def _floor(other: Crossed | str, methods: int) -> float:
    return math.nan if isinstance(other, str) else floor(other.floor, ERROR / methods)


def seconds(results: Sequence[Result]) -> float:
    """Of a run: the median; nan if none ended."""
    known = [r.seconds for r in results if r.ok and r.seconds]
    return statistics.median(known) if known else math.nan


def elsewhere(
    two: Sequence[Sequence[Result]],
    metric: str,
    subset: str,
    found: Difference,
    scores: tuple[Mapping[int, float], Mapping[int, float]],
    confidence: float = CONFIDENCE,
) -> Crossed | str:
    """The same difference for other sentences, or why it is not known."""
    if math.isnan(found.spread):
        return ""
    predicted = [
        {r.seed: one for r in mine if (one := r.recorded(subset))} for mine in two
    ]
    try:
        gaps = paired(predicted[0], predicted[1], metric, scores)
    except NotBySentenceError as error:
        return str(error)
    return crossed(gaps, found.mean, confidence)


def _said(
    found: Difference,
    p: float,
    other_p: float,
    scores: tuple[Mapping[int, float], Mapping[int, float]],
    scored: "Scored",
    first: str,
) -> str:
    """Of these sentences, and of others where that is known."""
    if found.pairs < FEWEST:
        return TOO_FEW
    if math.isnan(p):
        whose = "its own" if all(map(math.isfinite, scores[1].values())) else first
        return f"no answer: a score is not finite ({whose})"
    if p >= ERROR:
        return f"undecided ({chance(p)})"
    side = f"{towards(found, scored)} than {first}"
    if other_p < ERROR:
        return f"{side} ({chance(p)}; other sentences {chance(other_p)})"
    there = "" if math.isnan(other_p) else f", undecided on others ({chance(other_p)})"
    return f"{side} on these sentences ({chance(p)}){there}"


def chance(p: float) -> str:
    """A p-value for people."""
    return "p < 0.001" if p < 0.0005 else f"p {p:.3f}"


def towards(found: Difference, scored: "Scored") -> str:
    """Better or worse."""
    return "better" if (found.mean > 0) == scored.larger else "worse"


# --- in words and as rows -------------------------------------------------------------


def sentence(method: str, first: str, answer: Answer) -> str:
    """One method's answer, and what it would take to know more, for people."""
    parts = [f"{method}: {answer.said}."]
    if answer.need:
        parts.append(_needed(answer.difference, answer.need, first, method))
    if isinstance(answer.other, str):
        if answer.other:
            parts.append(f"No interval for other sentences: {answer.other}.")
    elif answer.floor:
        parts.append(_of_others(answer, answer.other.sentences))
    return " ".join(parts)


def _of_others(answer: Answer, sentences: int) -> str:
    """What it would take for other sentences."""
    needed, least = answer.elsewhere, amount(answer.floor)
    never = f"no number of seeds shows less than {least}"
    if needed is None:
        return f"For other sentences than these {sentences}, {never}."
    said = f"For other sentences than these {sentences} it is {amount(needed.shown)}"
    if needed.half >= MOST:
        return f"{said}; {never}, so that half of it takes more sentences."
    return f"{said}, and half of it takes {needed.half}; {never}."


def _needed(found: Difference, needed: Need, first: str, method: str) -> str:
    could = "could have shown" if found.pairs >= FEWEST else "would show"
    time = "" if math.isnan(needed.hours) else f", {duration(needed.hours)} of runs"
    takes = f"{needed.half - found.pairs} more of {first} and {method}"
    if needed.own:  # what was added by looking is looked at no more
        takes = "new ones, in a comparison of its own"
    return (
        f"{needed.seeds} seeds {could} a difference of {amount(needed.shown)}; half of "
        f"it takes {counted(needed.half)}: {takes}{time}."
    )


def counted(seeds: int) -> str:
    """A number of seeds for people."""
    return f"over {MOST}" if seeds >= MOST else str(seeds)


def amount(size: float) -> str:
    """A difference, in three digits behind the point or two that count."""
    return f"{size:.3f}" if 0.1 <= size < HUGE else f"{size:#.2g}"


def duration(hours: float, seeds: int = 0) -> str:
    """Hours of so many seeds for people; nan are those of runs of unknown time."""
    if math.isnan(hours):
        return "an unknown time"
    over, minutes = "over " if seeds >= MOST else "", round(60 * hours)
    if hours >= 1:
        return f"{over}{hours:.1f} hours"
    return f"{over}{minutes} minute{'s' * (minutes != 1)}"


def row(method: str, answer: Answer) -> dict[str, str]:
    """One method's answer as a row of decisions.csv."""
    made = {"method": method, "decision": answer.said}
    if answer.need:
        made |= {
            "seeds": str(answer.need.seeds),
            "could show": number(answer.need.shown),
            "seeds for half": _finite(answer.need.half),
            "hours for half": number(_hours(answer.need)),
        }
    if answer.elsewhere:
        made |= {
            "could show of others": number(answer.elsewhere.shown),
            "seeds for half of others": _finite(answer.elsewhere.half),
        }
    if isinstance(answer.other, Crossed):
        made["p other sentences"] = number(answer.other_p)
        made["sentences show"] = number(answer.floor)
    return made


def _hours(needed: Need) -> float:
    return math.inf if needed.half >= MOST else needed.hours


def _finite(seeds: int) -> str:
    """For programs; inf where so many are not looked for."""
    return "inf" if seeds >= MOST else str(seeds)


def number(value: float) -> str:
    """For programs; empty where it is not known."""
    return "" if math.isnan(value) else f"{value:.6g}"
