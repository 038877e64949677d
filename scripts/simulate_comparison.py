"""Does the comparison hold what it promises? Runs made up with known differences.

    python scripts/simulate_comparison.py [PART ...] [--draws N] [--seed S]

Prints a Markdown table per part: intervals over seeds, intervals over seeds and
sentences, false positives of a table, of its verdicts where other sentences may say
otherwise, and adding seeds until it is decided.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from fairseq_steady.comparison.crossed import crossed, sentence_shares
from fairseq_steady.comparison.power import ERROR, pairs_for, smallest
from fairseq_steady.comparison.sequential import decided, levels
from fairseq_steady.comparison.significance import difference, holm, interval
from scipy import optimize, stats
from tabulate import tabulate

Array = np.ndarray
#: Standard deviation of a score over seeds, of its kind.
_SEEDS = 0.01
_SIZES = (200, 872, 2000)
_COUNTS = (5, 10, 20)
#: Draws that bootstraps, which are slow, are tried on.
_BOOTSTRAPS = 500
#: Methods beside the first.
_METHODS = 4


def shown(title: str, rows: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """A table on standard output."""
    print(
        f"\n**{title}**\n\n{tabulate(rows, columns, 'github', disable_numparse=True)}"
    )


def percent(share: float | np.floating) -> str:
    """Of hits among draws."""
    return f"{100 * float(share):.1f} %"


# --- differences over seeds -----------------------------------------------------------


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Scores of seeds around 0 that are normal."""
    return _SEEDS * rng.standard_normal(shape)


def failing(rng: np.random.Generator, *shape: int) -> Array:
    """The same where one run in ten falls to the majority class, ten deviations down.

    Its mean is 0 too.
    """
    lost = 10 * _SEEDS * (rng.random(shape) < 0.1)
    found: Array = normal(rng, *shape) - lost + _SEEDS
    return found


SHAPES = {"normal": normal, "one run in ten fails": failing}


def bca(gaps: Array) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean."""
    found = stats.bootstrap((gaps,), np.mean, n_resamples=999, rng=1)
    return found.confidence_interval.low, found.confidence_interval.high


def over_seeds(draws: int, rng: np.random.Generator) -> None:
    """Coverage of the interval over seeds, beside the bootstrap's."""
    rows = []
    for name, scores in SHAPES.items():
        for count in _COUNTS:
            gaps = scores(rng, draws, count) - scores(rng, draws, count)
            held = [low <= 0 <= high for low, high in map(interval, gaps.tolist())]
            few = gaps[:_BOOTSTRAPS]
            boot = [low <= 0 <= high for low, high in map(bca, few)]
            rows.append(
                [name, str(count), percent(np.mean(held)), percent(np.mean(boot))]
            )
    columns = ["scores", "seeds", "t", f"BCa bootstrap ({_BOOTSTRAPS})"]
    shown(f"95 % intervals over seeds, {draws} draws: coverage", rows, columns)


# --- predictions of runs, over seeds and sentences ------------------------------------


@dataclass(frozen=True)
class World:
    """How predictions come about: of the sentence, the method, the seed, and chance.

    Args:
        metric: of the scores.
        centre: what the first method's runs have on average, before chance.
        sentence: standard deviation of what all methods find hard.
        own: of what only one method does.
        noise: of what only one run does.
        seed: of a run's average.

    """

    metric: str
    centre: float
    sentence: float = 1.0
    own: float = 0.3
    noise: float = 0.5
    seed: float = 0.05

    def run(
        self, rng: np.random.Generator, task: "Task", shift: float, own: Array
    ) -> tuple[Array, Array]:
        """One run's predictions of a task's sentences."""
        level = self.centre + shift + self.seed * rng.standard_normal()
        hard = (
            self.sentence * task.hard + own + self.noise * rng.standard_normal(len(own))
        )
        if self.metric == "pearson":
            outputs = (level * task.gold + hard)[:, None]
        else:
            right = level + hard > 0
            second = np.where(right, task.gold, 1 - task.gold)
            outputs = np.stack([1 - second, second], 1)
        return outputs, task.gold

    def score(self, shift: float) -> float:
        """What runs have on average over all seeds and all sentences."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        levels = self.centre + shift + self.seed * nodes
        spread = math.sqrt(self.sentence**2 + self.own**2 + self.noise**2)
        right = stats.norm.cdf(levels / spread)
        scores = {
            "accuracy": right,
            "mcc": _mcc(right),
            "pearson": levels / np.sqrt(levels**2 + spread**2),
        }[self.metric]
        return float(weights @ scores / weights.sum())

    def shift(self, difference: float) -> float:
        """What lifts the average score by a difference."""
        if not difference:
            return 0.0
        wanted = self.score(0.0) + difference
        return float(optimize.brentq(lambda s: self.score(s) - wanted, 0, 2))


@dataclass(frozen=True)
class Task:
    """Test sentences.

    Args:
        gold: classes 0 and 1 (one in three, two in three), or scores.
        hard: what makes each hard for every method.

    """

    gold: Array
    hard: Array


def _mcc(right: Array) -> Array:
    """Of two classes, both right with this chance, where two in three are of one."""
    given = right * 2 / 3 + (1 - right) / 3
    both = right * 2 / 3
    found: Array = (both - given * 2 / 3) / np.sqrt(given * (1 - given) * 2 / 9)
    return found


WORLDS = [
    World("accuracy", 1.2),
    World("mcc", 1.2),
    World("pearson", 1.8),
]


def sentences(rng: np.random.Generator, world: World, many: int) -> Task:
    """A sample of test sentences."""
    if world.metric == "pearson":
        gold = rng.standard_normal(many)
    else:
        gold = (rng.random(many) < 2 / 3).astype(float)
    return Task(gold, rng.standard_normal(many))


def both(
    rng: np.random.Generator, world: World, shift: float, seeds: int, many: int
) -> tuple[Array, Array]:
    """Shares of two methods' sentences, each of shape (seeds, sentences)."""
    task = sentences(rng, world, many)
    found = []
    for up in (shift, 0.0):
        own = world.own * rng.standard_normal(many)
        runs = [world.run(rng, task, up, own) for _ in range(seeds)]
        found.append(np.array([sentence_shares(world.metric, *run)[1] for run in runs]))
    return found[0], found[1]


def _resampled(count: int, rng: np.random.Generator) -> Array:
    """How often each is drawn, in 300 draws of as many with replacement."""
    drawn = rng.integers(count, size=(300, count)) + count * np.arange(300)[:, None]
    found: Array = np.bincount(drawn.ravel(), minlength=300 * count).reshape(300, count)
    return found


def pigeonhole(gaps: Array, rng: np.random.Generator) -> tuple[float, float]:
    """Percentiles where seeds and sentences are resampled (Owen 2007)."""
    of_seeds, of_sentences = (_resampled(n, rng) for n in gaps.shape)
    means = np.sum(of_seeds @ gaps * of_sentences, 1) / gaps.size
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def over_both(draws: int, rng: np.random.Generator) -> None:
    """Coverage of the interval over seeds and sentences, beside two others."""
    rows = []
    for world in WORLDS:
        for effect in (0.0, 0.02):
            for seeds in _COUNTS:
                for many in _SIZES:
                    held = _coverage(draws, rng, world, effect, seeds, many)
                    row = [world.metric, f"{effect:g}", str(seeds), str(many)]
                    rows.append([*row, *map(percent, held)])
    columns = [
        *("metric", "difference", "seeds", "sentences"),
        *("seeds x sentences", "seeds alone", f"crossed bootstrap ({_BOOTSTRAPS})"),
    ]
    title = f"95 % intervals for other seeds and sentences, {draws} draws: coverage"
    shown(title, rows, columns)


def _coverage(
    draws: int,
    rng: np.random.Generator,
    world: World,
    effect: float,
    seeds: int,
    many: int,
) -> Array:
    shift, made = world.shift(effect), []
    for draw in range(draws):
        one, other = both(rng, world, shift, seeds, many)
        gaps = one - other
        found = crossed(gaps, float(gaps.mean()))
        known = [(found.low, found.high), interval(gaps.mean(1).tolist())]
        slow = pigeonhole(gaps, rng) if draw < _BOOTSTRAPS else (math.nan, math.nan)
        made.append([*known, slow])
    bounds = np.array(made)
    held = (bounds[..., 0] <= effect) & (effect <= bounds[..., 1])
    return np.array([*held.mean(0)[:2], held[:_BOOTSTRAPS, 2].mean()])


# --- false positives ------------------------------------------------------------------


def null_tables(draws: int, rng: np.random.Generator) -> None:
    """Tables of four methods that are the first one: how often is one told apart?"""
    rows = []
    for name, scores in SHAPES.items():
        for count in _COUNTS:
            drawn = scores(rng, draws, 1 + _METHODS, count)
            rows.append([name, str(count), percent(np.mean(list(map(_told, drawn))))])
    columns = ["scores", "seeds", "false positives"]
    title = f"{draws} tables of {_METHODS} methods without a difference, after Holm"
    shown(title, rows, columns)


def _told(table: Array) -> bool:
    first, *others = [dict(enumerate(row.tolist())) for row in table]
    return bool(min(holm([difference(one, first).p for one in others])) < ERROR)


# --- adding seeds ---------------------------------------------------------------------

_FIRST, _LAST = 5, 20


def _running_p(gaps: Array) -> Array:
    """p of the first n differences, n from 5 on; last axis."""
    counts = np.arange(1, gaps.shape[-1] + 1)
    means = np.cumsum(gaps, -1) / counts
    squares = np.cumsum(gaps**2, -1) - counts * means**2
    with np.errstate(all="ignore"):
        t = means / np.sqrt(squares / (counts - 1) / counts)
    found: Array = 2 * stats.t.sf(np.abs(t), counts - 1)
    return found[..., _FIRST - 1 :]


def until_decided(draws: int, rng: np.random.Generator) -> None:
    """Seeds 5 to 20, a look after each: errors, power and how many seeds it takes.

    The difference is what 20 seeds find with a chance of 80 %, asked once.
    """
    half = smallest(_LAST, ERROR / _METHODS) * _SEEDS * math.sqrt(2)
    rows = []
    for name, scores in SHAPES.items():
        for effect in (0.0, half, 1.5 * half, 2 * half):
            drawn = scores(rng, draws, 1 + _METHODS, _LAST)
            ps = _running_p(drawn[:, 1:] + effect - drawn[:, :1])
            rows.append([name, f"{effect:.4f}", *_judged(ps)])
    columns = [
        *("scores", "difference of all", "any decided", "of the methods"),
        *("seeds of a method", "p < 0.05 at any look"),
    ]
    shown(f"Until decided, {draws} comparisons of {_METHODS} methods", rows, columns)
    rows = [
        [str(methods), str(last), percent(_wrong(10 * draws, rng, methods, last))]
        for methods in (1, _METHODS)
        for last in (6, 8, 10, 12, _LAST)
    ]
    title = f"Until decided, {10 * draws} comparisons without a difference"
    shown(title, rows, ["methods", "seeds at most", "any decided"])
    rows = [[name, percent(wrong)] for name, wrong in _again(10 * draws, rng)]
    shown(f"The same where results are looked at again, {_METHODS} methods", rows,
          ["looks", "any told"])  # fmt: skip


def _wrong(draws: int, rng: np.random.Generator, methods: int, last: int) -> float:
    """Share of comparisons that tell any method from the first; none differs."""
    limits = levels(tuple(range(_FIRST, last + 1)), ERROR / methods)
    drawn = normal(rng, draws, 1 + methods, last)
    ps = _running_p(drawn[:, 1:] - drawn[:, :1])
    return float(np.mean((ps < limits).any((1, 2))))


def _again(draws: int, rng: np.random.Generator) -> list[tuple[str, float]]:
    """The same of tables that grow, each at a plain 5 %, and of rules that change."""
    drawn = normal(rng, draws, 1 + _METHODS, _LAST)
    every = _running_p(drawn[:, 1:] - drawn[:, :1])
    least = every.min(1)
    tables = [(5, 12), (5, 12, 20)]
    made = []
    for counts in tables:
        ps = least[:, [count - _FIRST for count in counts]]
        name = f"tables of {', '.join(map(str, counts))} seeds"
        made.append((name, float(np.mean((ps < ERROR / _METHODS).any(1)))))
    told = np.zeros(draws, bool)
    for last in (10, _LAST):
        looks = tuple(range(_FIRST, last + 1))
        told |= (least[:, : len(looks)] < levels(looks, ERROR / _METHODS)).any(1)
    made.append(("until decided, at most 10, then 20", float(np.mean(told))))
    limits = levels(tuple(range(_FIRST, _LAST + 1)), ERROR)
    each = float(np.mean((every < limits).any((1, 2))))
    made.append((f"until decided, at most {_LAST}, a method at a time", each))
    for name, ps, methods in (
        (f"{_METHODS} methods", least, _METHODS),
        ("one method", every[:, 0], 1),
    ):
        for last in (12, _LAST):
            looks = tuple(range(_FIRST, last + 1))
            seen = (ps[:, : len(looks)] < levels(looks, ERROR / methods)).any(1)
            after = float(np.mean(seen | (ps[:, 0] < ERROR / methods)))
            made.append((f"a table of 5, then at most {last}, {name}", after))
    return made


def pilots(draws: int, rng: np.random.Generator) -> None:
    """A pilot says how many seeds; it counts in the table. No method differs."""
    rows = []
    for first in (2, 3, 5):
        for size in (0.5, 1.0, 1.5):
            wrong = np.mean([_piloted(rng, first, size) for _ in range(draws)])
            rows.append([str(first), f"{size}", percent(wrong)])
    columns = ["pilot seeds", "difference, in standard deviations", "told"]
    shown(f"Seeds by a pilot's spread, {draws} draws", rows, columns)


def _piloted(rng: np.random.Generator, first: int, size: float) -> bool:
    gaps = rng.standard_normal(first)
    wanted = pairs_for(size / float(np.std(gaps, ddof=1)), ERROR)
    more = rng.standard_normal(max(wanted - first, 0))
    one, other = _by_seed([*gaps, *more]), _by_seed([0.0] * (first + len(more)))
    return bool(difference(one, other).p < ERROR)


def _by_seed(scores: Sequence[float]) -> dict[int, float]:
    return dict(enumerate(scores))


def _judged(ps: Array) -> list[str]:
    looks = range(_FIRST, _LAST + 1)
    told = [decided({str(m): p for m, p in enumerate(of.tolist())}, looks) for of in ps]
    stopped = [_FIRST + place for one in told for place in one.values()]
    all_seeds = sum(stopped) + _LAST * (ps.shape[0] * _METHODS - len(stopped))
    return [
        percent(np.mean([bool(one) for one in told])),
        percent(len(stopped) / ps.shape[0] / _METHODS),
        f"{all_seeds / ps.shape[0] / _METHODS:.1f}",
        percent(np.mean(ps.min((1, 2)) < ERROR)),
    ]


# --- verdicts, and other sentences ----------------------------------------------------


#: What a verdict goes by.
_JUDGES = ("seeds", "seeds and sentences")


def verdicts(draws: int, rng: np.random.Generator) -> None:
    """How often is a method told from the first that on all sentences is like it?"""
    rows = []
    for world in WORLDS:
        for many in _SIZES[:2]:
            found = [_verdicts(rng, world, many) for _ in range(draws)]
            for name, shares in zip(_JUDGES, np.mean(found, 0), strict=True):
                rows.append([world.metric, str(many), name, *map(percent, shares)])
    columns = ["metric", "sentences", "judged by", *(f"{n} seeds" for n in _COUNTS)]
    columns.append(f"until decided, {_FIRST} to {_LAST}")
    title = f"{draws} tables of a method without a difference on all sentences: told"
    shown(title, rows, columns)


def _verdicts(rng: np.random.Generator, world: World, many: int) -> Array:
    """Whether it is told, shape (2, 4): by seeds alone, and by sentences too."""
    one, other = both(rng, world, 0.0, _LAST, many)
    gaps, looks = one - other, range(_FIRST, _LAST + 1)
    alone = _running_p(gaps.mean(1))
    crosses = [crossed(gaps[:n], float(gaps[:n].mean())).p for n in looks]
    made = []
    for ps in (alone, np.maximum(alone, crosses)):
        at = [ps[count - _FIRST] < ERROR for count in _COUNTS]
        made.append([*at, bool(decided({"m": ps.tolist()}, looks))])
    return np.array(made)


PARTS: dict[str, tuple[Callable[[int, np.random.Generator], None], int]] = {
    "seeds": (over_seeds, 2000),
    "sentences": (over_both, 400),
    "tables": (null_tables, 2000),
    "until-decided": (until_decided, 2000),
    "pilots": (pilots, 2000),
    "verdicts": (verdicts, 400),
}


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[*PARTS], metavar="PART")
    parser.add_argument("--draws", type=int, help="default: 2000, or 400 of sentences")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for name in args.parts:
        simulate, draws = PARTS[name]
        simulate(args.draws or draws, np.random.default_rng(args.seed))


if __name__ == "__main__":
    main()
