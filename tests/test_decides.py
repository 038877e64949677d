"""A comparison that decides, or says what it would take."""

import csv
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairseq_steady.commands import compare
from fairseq_steady.comparison import (
    adding,
    comparing,
    execution,
    planning,
    sequential,
    table,
    winner_card,
)
from fairseq_steady.comparison.answers import (
    amount,
    answers,
    counted,
    duration,
    needs,
    sentence,
)
from fairseq_steady.comparison.answers import row as answer_row
from fairseq_steady.comparison.crossed import (
    NotBySentenceError,
    crossed,
    paired,
    sentence_shares,
)
from fairseq_steady.comparison.definitions import Definitions
from fairseq_steady.comparison.plan import Plan, Run, every, following
from fairseq_steady.comparison.power import (
    Lasting,
    floor,
    need,
    pairs_for,
    power,
    smallest,
    upper_spread,
)
from fairseq_steady.comparison.results import Result
from fairseq_steady.comparison.results import write as write_result
from fairseq_steady.comparison.sequential import decided, levels, spent
from fairseq_steady.comparison.significance import Difference, holm, interval, p_value
from fairseq_steady.comparison.table import Scored
from fairseq_steady.errors import UserError
from helpers import MCC, Instant, result, write_all
from scipy import stats
from sklearn import metrics
from statsmodels.stats.power import TTestPower

ACCURACY = Scored("accuracy", True, "valid")
RNG = np.random.default_rng(7)

# --- sentences' shares in a score -----------------------------------------------------


def left_out(score: Callable[..., float], gold: Any, given: Any) -> np.ndarray:
    """Tukey's pseudo-values, a sentence at a time."""
    many, whole = len(gold), score(gold, given)
    without = [
        score(np.delete(gold, i, 0), np.delete(given, i, 0)) for i in range(many)
    ]
    return many * whole - (many - 1) * np.array(without)


def macro_f1(gold: Any, given: Any) -> float:
    return float(metrics.f1_score(gold, given, average="macro", zero_division=0))


@pytest.mark.parametrize(
    ("metric", "classes", "score"),
    [
        ("accuracy", 3, metrics.accuracy_score),
        ("mcc", 2, metrics.matthews_corrcoef),
        ("mcc", 3, metrics.matthews_corrcoef),
        ("f1", 2, metrics.f1_score),
        ("macro_f1", 3, macro_f1),
        ("balanced_accuracy", 3, metrics.balanced_accuracy_score),
    ],
)
def test_shares_in_scores_of_classes(
    metric: str, classes: int, score: Callable[..., float]
) -> None:
    gold = np.arange(40) % classes
    outputs = RNG.normal(size=(40, classes)) + 1.5 * np.eye(classes)[gold]
    given = outputs.argmax(1)
    whole, shares = sentence_shares(metric, outputs, gold.astype(float))
    assert whole == pytest.approx(score(gold, given))
    np.testing.assert_allclose(shares, left_out(score, gold, given), atol=1e-12)
    if metric == "accuracy":
        np.testing.assert_allclose(shares, given == gold, atol=1e-12)


def test_shares_where_any_number_of_labels_hold() -> None:
    gold = (RNG.random((30, 3)) < 0.4).astype(float)
    outputs = RNG.normal(size=(30, 3)) + gold
    for average in ("micro", "macro"):

        def score(g: Any, o: Any, average: str = average) -> float:
            return float(metrics.f1_score(g, o > 0, average=average, zero_division=0))

        _, shares = sentence_shares(f"{average}_f1", outputs, gold)
        np.testing.assert_allclose(shares, left_out(score, gold, outputs), atol=1e-12)


def weighted(x: np.ndarray, y: np.ndarray, w: np.ndarray, ranked: bool) -> float:
    """Correlation where sentences weigh; ranks are shares of weight below."""
    if ranked:
        x, y = (
            np.array([w[v < a].sum() + w[v == a].sum() / 2 for a in v]) for v in (x, y)
        )
    x, y = x - w @ x, y - w @ y
    return float((w * x) @ y / math.sqrt((w * x) @ x * ((w * y) @ y)))


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_shares_in_correlations_are_derivatives(metric: str) -> None:
    """What a little more weight on a sentence changes, ties included."""
    x = np.round(RNG.normal(size=25), 1)
    y = np.round(x + RNG.normal(size=25))
    score, shares = sentence_shares(metric, x[:, None], y)
    assert score == pytest.approx(getattr(stats, f"{metric}r")(x, y).statistic)
    even, more = np.full(25, 1 / 25), 1e-7
    for place in range(25):
        w = (1 - more) * even + more * np.eye(25)[place]
        slope = (weighted(x, y, w, metric == "spearman") - score) / more
        assert shares[place] == pytest.approx(score + slope, abs=1e-5)
    assert sentence_shares(metric, np.ones((25, 1)), y)[1].tolist() == [0.0] * 25


def test_seeds_and_sentences_by_hand() -> None:
    """Mean squares of a table of two seeds and four sentences, from their sums."""
    gaps = np.array([[1.0, 0, 2, 1], [3.0, 1, 2, 6]])
    # Seeds' means 1 and 3; sentences' 2, 1/2, 2, 7/2; all 2.
    by_seed = 4 * ((1 - 2) ** 2 + (3 - 2) ** 2)
    by_sentence = 2 * (0 + 2.25 + 0 + 2.25) / 3
    whole = np.sum((gaps - 2) ** 2)
    by_both = (whole - by_seed - 3 * by_sentence) / 3
    lasting = by_sentence - by_both
    assert lasting > 0
    total = by_seed + lasting
    freedom = (total / by_seed) ** 2
    half = stats.t.ppf(0.975, freedom) * math.sqrt(total / 8)
    found = crossed(gaps, 0.5)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    p = 2 * stats.t.cdf(-0.5 / math.sqrt(total / 8), freedom)
    assert found.p == pytest.approx(p)
    assert (found.floor, found.sentences) == (pytest.approx((lasting / 8) ** 0.5), 4)


def test_without_a_share_of_sentences_it_is_the_interval_over_seeds() -> None:
    of_seeds = RNG.normal(size=(6, 1))
    noise = RNG.normal(size=(6, 500))
    noise -= noise.mean(0) + noise.mean(1, keepdims=True) - noise.mean()
    gaps = of_seeds + noise  # no sentence differs from another over all seeds
    found = crossed(gaps, float(gaps.mean()))
    assert (found.low, found.high) == pytest.approx(interval(gaps.mean(1).tolist()))
    assert found.floor == 0
    for seeds, sentences in ((5, 13), (3, 7), (10, 97), (6, 11)):
        one = np.zeros((seeds, sentences))
        one[1, 2] = 1 / 3  # a single answer differs: both variances are the same
        assert crossed(one, float(one.mean())).floor == 0
    # Every seed misses another sentence: their means are the same by chance, and the
    # seeds vary as single answers do.
    one = 0.8 * np.eye(5, 20) + 0.01
    by_both = np.sum((one - one.mean(1, keepdims=True) - one.mean(0) + one.mean()) ** 2)
    half = stats.t.isf(0.025, 4) * math.sqrt(by_both / 4 / 19 / 100)
    found = crossed(one, float(one.mean()))
    assert found.high - found.low == pytest.approx(2 * half)
    nothing = crossed(np.zeros((5, 20)), 0.0)
    assert (nothing.low, nothing.high, nothing.p) == (0, 0, 1)
    assert crossed(np.ones((5, 20)), 1.0).p == 0
    # The same of every seed: sentences alone.
    same = np.repeat(RNG.normal(size=(1, 50)), 5, 0)
    found = crossed(same, float(same.mean()))
    expected = stats.t.interval(0.95, 49, same.mean(), stats.sem(same[0]))
    assert (found.low, found.high) == pytest.approx(expected)


def answered(answers: str, gold: str = "0110") -> Any:
    """Predictions of two classes."""
    outputs = [[1.0 - int(one), float(one)] for one in answers]
    return {"outputs": outputs, "gold": [float(one) for one in gold]}


@pytest.mark.parametrize(
    ("broken", "metric", "said"),
    [
        (answered("0111"), "accuracy", "not of the evaluation that is compared"),
        (answered("0110", "0111"), "accuracy", "the seeds have different sentences"),
        (None, "accuracy", "no predictions were recorded"),
        (answered("0110"), "accuracy_worst", "share in accuracy_worst is not known"),
        (answered("0110"), "pearson", "a sentence's share in pearson is not known"),
        (
            {"outputs": [[math.nan, 0.0]] * 4, "gold": [0, 1, 1, 0]},
            "accuracy",
            "predictions are not finite",
        ),
        (
            {"outputs": [[1.0], [0.0, 1.0]] * 2, "gold": [0, 1, 1, 0]},
            "accuracy",
            "predictions are not as many of each",
        ),
        (
            {"outputs": [[1.0, 0.0]] * 4, "gold": [0, 1, 1, 5]},
            "accuracy",
            "the seeds have different sentences",
        ),
    ],
)
def test_why_there_is_no_interval_for_other_sentences(
    broken: Any, metric: str, said: str
) -> None:
    good = {seed: answered("0110") for seed in (1, 2)}
    method = {1: answered("0110"), **({2: broken} if broken else {})}
    ones = {1: 1.0, 2: 1.0}
    with pytest.raises(NotBySentenceError, match=said):
        paired(method, good, metric, (ones, ones))
    for alone in (answered("0", "0"), written(1.0, gold=[1])):
        name = "rouge1" if "scores" in alone else "accuracy"
        with pytest.raises(NotBySentenceError, match="one alone says nothing"):
            paired({1: alone}, {1: alone}, name, ({1: 1.0}, {1: 1.0}))


def test_a_score_that_is_a_mean_of_scores_has_the_mean_of_their_shares() -> None:
    one, other = answered("01100111", "01101101"), answered("01101100", "01101101")
    gold = np.array(one["gold"])
    shares, means = [], []
    for found in (one, other):
        found["score_of"] = ["accuracy", "f1"]
        given = np.array(found["outputs"]).argmax(1)
        of = [
            left_out(f, gold, given) for f in (metrics.accuracy_score, metrics.f1_score)
        ]
        shares.append(np.mean(of, 0))
        means.append((np.mean(given == gold) + metrics.f1_score(gold, given)) / 2)
    gaps = paired({1: one}, {1: other}, "score", ({1: means[0]}, {1: means[1]}))
    np.testing.assert_allclose(gaps[0], shares[0] - shares[1], atol=1e-12)


def written(*scores: float, gold: Sequence[float] = (7, 8, 9)) -> Any:
    """What summaries scored."""
    return {"scores": {"rouge1": [*scores]}, "gold": [*gold]}


def test_summaries_are_paired_article_by_article() -> None:
    """ROUGE is a mean over articles: each one's score is its share."""
    plain = {1: written(10, 20, 30), 2: written(11, 21, 31)}
    method = {1: written(13, 20, 33), 2: written(12, 20, 34)}
    means = {1: 22.0, 2: 22.0}, {1: 20.0, 2: 21.0}
    found = paired(method, plain, "rouge1", means)
    assert found.tolist() == [[3, 0, 3], [1, -1, 3]]
    for seed, broken, metric, said in (
        (2, written(12, 20, 35), "rouge1", "not of the evaluation that is compared"),
        (2, written(12, 20, 34, gold=(7, 8, 1)), "rouge1", "different sentences"),
        (2, written(12, 20, math.nan), "rouge1", "summaries are not finite"),
        (2, written(12, 20, 34), "rouge2", "rouge2 is no mean over summaries"),
    ):
        with pytest.raises(NotBySentenceError, match=said):
            paired({**method, seed: broken}, plain, metric, means)
    scores = (20.0, 21.0, 22.0, 22.0)
    made = [
        result(
            *("r3f" if by_seed is method else "plain", seed),
            evaluations=[{"updates": 1, "valid": {"rouge1": scores[place]}}],
            **{"predictions": {}, "summaries": {"valid": by_seed[seed]}},
        )
        for place, (by_seed, seed) in enumerate(product((plain, method), (1, 2)))
    ]
    rouge = Scored("rouge1", True, "valid")
    by_method = {"plain": made[:2], "r3f": made[2:]}
    other = answers(by_method, rouge, "valid")["r3f"].other
    assert other == crossed(found, 1.5)


# --- power ----------------------------------------------------------------------------


def test_power_is_statsmodels() -> None:
    theirs = TTestPower()
    for pairs, level, effect in ((5, 0.05, 1.0), (9, 0.0125, 0.7), (40, 0.05, 0.1)):
        expected = theirs.power(effect, pairs, level)
        assert power(effect, pairs, level) == pytest.approx(expected, abs=1e-6)
    expected = theirs.solve_power(nobs=10, alpha=0.0125, power=0.8)
    assert smallest(10, 0.0125) == pytest.approx(expected, abs=1e-4)
    expected = theirs.solve_power(effect_size=0.3, alpha=0.05, power=0.8)
    assert pairs_for(0.3, 0.05) == math.ceil(expected) == 90
    assert pairs_for(50.0, 0.05) == pairs_for(1e300, 0.05) == 5
    assert pairs_for(1e-5, 0.05) == 10**6


def test_where_seeds_were_added_more_takes_a_comparison_of_its_own() -> None:
    found = Difference(0.0, -0.01, 0.01, 1.0, 5, 0.01)
    needed = need(found, 2, 1800.0, level=0.001)
    assert needed is not None
    # Of t with 4 degrees of freedom; statsmodels' search ends too early here.
    limit, effect = stats.t.isf(0.0005, 4), needed.shown / 0.01
    assert stats.nct.sf(limit, 4, effect * math.sqrt(5)) == pytest.approx(0.8, abs=1e-6)
    half = TTestPower().solve_power(effect_size=effect / 2, alpha=0.025, power=0.8)
    assert (needed.own, needed.half) == (True, max(5, math.ceil(half)))
    # The first of many looks is to show nothing.
    first = levels(tuple(range(5, 41)), 0.05)[0]
    assert need(found, 1, 10.0, level=first) is None
    assert need(found, 1, 10.0, level=0.0) is None
    assert needed.hours == needed.half / 2


def test_what_it_would_take() -> None:
    """Spread 0.01 of 5 pairs, two methods: 0.05 / 2; half an effect takes 13 pairs."""
    found = Difference(0.0, -0.01, 0.01, 1.0, 5, 0.01)
    needed = need(found, 2, 1800.0)
    assert needed is not None
    theirs = TTestPower().solve_power(nobs=5, alpha=0.025, power=0.8)
    assert needed.shown == pytest.approx(0.01 * theirs, rel=1e-4)
    half = TTestPower().solve_power(effect_size=theirs / 2, alpha=0.025, power=0.8)
    assert needed.half == math.ceil(half)
    assert needed.hours == (needed.half - 5) / 2
    assert need(Difference(0.1, 0.1, 0.1, 0.06, 5, 0.0), 2, 1.0) is None
    assert (
        need(Difference(0.1, math.nan, math.nan, math.nan, 1, math.nan), 2, 1) is None
    )
    # Chi-squared with one degree is below 0.0642 with a chance of 20 %.
    assert upper_spread(1.0, 2) == pytest.approx(0.0641848**-0.5, rel=1e-5)
    assert floor(0.01, 0.05) == pytest.approx(0.01 * (1.959964 + 0.841621), rel=1e-6)


def test_what_it_would_take_of_other_sentences_too() -> None:
    """Their error stays: 0.002 beside a spread of 0.01, which five seeds divide."""
    found = Difference(0.0, -0.01, 0.01, 1.0, 5, 0.01)
    needed = need(found, 1, 1800.0, lasting=Lasting(0.2, 60))
    assert needed is not None

    def chance(difference: float, seeds: int) -> float:
        """Of Hillis's t test: ddf_H from the mean squares, as its paper has it."""
        by_seed, total = 0.01**2, 0.01**2 + seeds * 0.002**2
        freedom = min(total**2 / (by_seed**2 / (seeds - 1)), 60 - 1)
        limit, centre = stats.t.isf(0.025, freedom), difference * (seeds / total) ** 0.5
        return float(stats.nct.sf([limit, -limit], freedom, centre) @ [1, -1] + 1)

    assert chance(needed.shown, 5) == pytest.approx(0.8, abs=1e-6)
    half = next(n for n in range(5, 10**4) if chance(needed.shown / 2, n) >= 0.8)
    assert needed.half == half > need(found, 1, 1800.0).half  # type: ignore[union-attr]
    # Half of it is less than what is left however many the seeds.
    never = need(found, 1, 1800.0, lasting=Lasting(3.0, 60))
    assert never is not None
    assert never.shown / 2 < floor(0.03, 0.05)
    assert never.half == 10**6
    # Without anything that lasts it is the question about these sentences.
    assert need(found, 1, 1800.0, lasting=Lasting(0.0)) == need(found, 1, 1800.0)
    assert pairs_for(1e5, 0.05, Lasting(2e4)) == 5
    assert pairs_for(1e5, 0.05, Lasting(1e5)) == 10**6


# --- looking after every seed ---------------------------------------------------------


def test_error_is_spent_as_published() -> None:
    """As ldbounds and gsDesign have it."""
    assert spent(0.25, 0.05) == pytest.approx(8.857543832e-05, rel=1e-8)
    assert spent(1.0, 0.03) == pytest.approx(0.03)


@pytest.mark.parametrize("looks", [(5, 6, 7, 8), (2, 3, 6), tuple(range(5, 21))])
def test_levels_spend_what_they_may_of_t_tests(looks: tuple[int, ...]) -> None:
    """Of 200,000 comparisons; normal levels would err in 5.6 % at 5 to 8 seeds."""
    gaps = np.random.default_rng(1).standard_normal((200_000, looks[-1]))
    told = np.zeros(len(gaps), bool)
    for look, limit in zip(looks, levels(looks, 0.05), strict=True):
        told |= stats.ttest_1samp(gaps[:, :look], 0, axis=1).pvalue < limit
        may = spent(look / looks[-1], 0.05)
        noise = math.sqrt(may * (1 - may) / len(gaps))
        assert np.mean(told) == pytest.approx(may, abs=4 * noise)


def test_levels_of_many_seeds_are_the_published_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bounds of five equal looks, 2.5 % on each side, as ldbounds and gsDesign have."""
    sides = lambda share, level: 2 * spent(share, level / 2)  # noqa: E731
    levels.cache_clear()
    monkeypatch.setattr(sequential, "spent", sides)
    bounds = stats.norm.isf(np.array(levels((10, 20, 30, 40, 50), 0.05)) / 2)
    levels.cache_clear()
    published = [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]
    assert bounds.tolist() == pytest.approx(published, abs=0.02)
    assert bounds[0] == pytest.approx(published[0], abs=1e-4)


def test_a_level_of_one_look_is_the_whole() -> None:
    assert levels((7,), 0.05) == pytest.approx((0.05,))
    rising = levels(tuple(range(5, 21)), 0.05)
    assert rising[0] == pytest.approx(spent(0.25, 0.05))
    assert all(a < b for a, b in pairwise(rising))
    assert rising[-1] < 0.05


def test_a_level_of_next_to_nothing_leaves_all_to_the_last_look() -> None:
    first, last = levels((2, 45), 0.05)
    assert 0 < first < 1e-18
    assert last == pytest.approx(0.05, rel=0.01)


def test_holms_correction_at_each_look() -> None:
    looks = (5, 10)
    (_, half), (_, whole) = levels(looks, 0.025), levels(looks, 0.05)
    between = (half + whole) / 2
    # Alone below the whole, but not below what each of two has.
    assert decided({"a": [0.9, between], "b": [0.9, 0.9]}, looks) == {}
    # Once b is decided, a has all of it: at the same look, and at a later one.
    told = {"a": [0.9, between], "b": [0.9, half / 2]}
    assert decided(told, looks) == {"b": 1, "a": 1}
    assert decided({"a": [0.9, between], "b": [1e-9]}, looks) == {"b": 0, "a": 1}
    assert decided({"a": [math.nan, math.nan], "b": [1e-9]}, looks) == {"b": 0}


def options(out: Path, *more: str, seeds: int = 5) -> list[str]:
    methods = ["--methods", "plain", "--seeds", *map(str, range(1, seeds + 1))]
    return ["--out", str(out), *methods, *more]


def drawn(run: Any) -> float:
    """A normal number for a method and a seed."""
    return float(np.random.default_rng([run.seed, *run.method.encode()]).normal())


class Arena:
    """Scores with a spread of 0.01 over seeds, drawn once for each run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **better: float) -> None:
        def score(run: Run) -> float | None:
            up = better.get(run.method, 0.0)
            return None if math.isnan(up) else 0.5 + up + 0.01 * drawn(run)

        self.executor = Instant(score)
        monkeypatch.setattr(comparing, "make_executor", lambda _: self.executor)
        #: subsets that runs have to be evaluated on, by each comparison
        self.asked: list[dict[str, str]] = []
        #: and of how many commands it was asked
        self.checked: list[int] = []

        def read(runs: Sequence[Run], subsets: Any = None) -> None:
            self.asked.append(subsets)
            self.checked.append(len(runs))

        monkeypatch.setattr(comparing, "check", read)
        monkeypatch.setattr(comparing, "read", read)
        # No pictures, ensembles or report.
        tables = lambda *args: write_all(*args[:3])  # noqa: E731
        monkeypatch.setattr(comparing, "_write", tables)
        monkeypatch.setattr("fairseq_steady.comparison.execution._POLL", 0)

    def compare(self, out: Path, *more: str, seeds: int = 5) -> int:
        self.executor.started.clear()
        methods = ["--methods", "plain", "clear=--x", "alike1=--y"]
        command = [*options(out, seeds=seeds), *methods, *more, "--", "D"]
        return compare.main(command)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def gaps_to_plain(out: Path, method: str) -> list[float]:
    """A method's scores out of domain, less those of plain with the same seed."""
    scores: dict[str, dict[str, float]] = {}
    for row in rows(out / "runs.csv"):
        scores.setdefault(row["method"], {})[row["seed"]] = float(row["mcc ood"])
    return [score - scores["plain"][seed] for seed, score in scores[method].items()]


UNTIL = "--until-decided", "--budget", "9h"


@pytest.mark.parametrize("more", [(), ("--tuning-seeds", "8", "9"), UNTIL])
def test_a_metric_that_runs_do_not_have_is_refused_after_the_first(
    more: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arena = Arena(monkeypatch)
    grid = [*more, "--methods", "plain=--lr {1,2}", "clear=--lr {1,2}"]
    options = grid if "--tuning-seeds" in more else more
    assert arena.compare(tmp_path, *options, "--metric", "mmc") == 1
    assert "error: no metric mmc; choose --metric from mcc" in capsys.readouterr().err
    assert len(arena.executor.started) <= 2, "those that run together"
    assert arena.compare(tmp_path, *options, "--metric", "mmc") == 1
    assert arena.executor.started == [], "what has ended said so"
    assert arena.compare(tmp_path, *options, "--metric", "mcc") == 0


def test_a_metric_is_looked_for_after_a_seed_for_the_budget_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runs may stand, and say nothing of it, as those that diverged."""
    arena, checks = Arena(monkeypatch), []

    def run_all(*args: Any, **more: Any) -> list[Result]:
        checks.append(more.get("check"))
        return execution.run_all(*args, **more)

    monkeypatch.setattr(adding, "run_all", run_all)
    assert arena.compare(tmp_path, *UNTIL) == 0
    first, others, *_ = checks
    assert first is others is not None


def test_a_metric_of_another_setting_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But one of none is, once a run of each has ended."""
    arena = Arena(monkeypatch)
    start = arena.executor.start

    def other(run: Run, slot: int) -> Any:
        made = start(run, slot)
        if run.setting == "stsb":
            one = [{"updates": 10, "valid": {"pearson": 0.5}}]
            named = {"setting": run.setting, "command": list(run.command)}
            found = result(run.method, run.seed, evaluations=one, **named)
            write_result(run.folder / "result.json", found)
        return made

    arena.executor.start = other  # type: ignore[method-assign]
    settings = ["--settings", "stsb=--u", "cola=--v"]
    assert arena.compare(tmp_path / "a", *settings, "--metric", "mmc") == 1
    assert 16 <= len(arena.executor.started) <= 17
    assert arena.compare(tmp_path / "a", *settings, "--metric", "mcc") == 0
    found = rows(tmp_path / "a" / "table.csv")
    assert {row["setting"] for row in found} == {"cola"}
    assert arena.compare(tmp_path / "a", *settings, *UNTIL, "--metric", "mcc") == 1
    said = "error: --until-decided valid: setting stsb has mcc on no subset; give it a"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a" / adding.RULE).exists(), "there a look would be counted"


def test_seeds_are_added_until_it_is_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arena, out = Arena(monkeypatch, clear=0.03), tmp_path / "out"
    adding = ["--until-decided", "ood", "--at-most", "9"]
    assert arena.compare(out, *adding) == 0
    started = arena.executor.started[15:]
    found = rows(out / "decisions.csv")
    decided_of = {r["method"]: r for r in found if r["subset"] == "ood"}
    said = {method: r["decision"] for method, r in decided_of.items()}
    told = int(said["clear"].split()[2])
    # No predictions of these scores are on record.
    side = "better than plain on these sentences"
    assert said["clear"] == f"decided after {told} seeds: {side}"
    assert 5 < told < 9
    assert said["alike1"] == "undecided at 9 seeds, the most allowed"
    # What is decided has no further seeds; the first method has all of them.
    expected = [
        f"{method} seed {seed}"
        for seed in range(6, 10)
        for method in ("plain", "clear", "alike1")
        if method != "clear" or seed <= told
    ]
    assert started == expected
    found = {r["method"]: r for r in rows(out / "table.csv") if r["subset"] == "ood"}
    assert (found["clear"]["n"], found["plain"]["n"]) == (f"{told} of {told}", "9 of 9")
    # No p of a fixed number of seeds, and an interval at the last look's level.
    assert "p (Holm)" not in found["clear"]
    assert found["clear"]["decision"] == said["clear"]
    assert not any(row.get("p other sentences") for row in decided_of.values())
    gaps = gaps_to_plain(out, "clear")
    level = levels((5, 6, 7, 8, 9), 0.05)[told - 5]
    low, high = interval(gaps, 1 - level)
    shown = f"{np.mean(gaps):+.3f} [{low:+.3f}, {high:+.3f}]"
    assert found["clear"]["difference [95 %]"] == shown
    assert "Lan and DeMets 1983" in (out / "table.md").read_text()
    # What its last look could have shown, with two methods open.
    spread = np.std(gaps_to_plain(out, "alike1"), ddof=1)
    could = smallest(9, levels((5, 6, 7, 8, 9), 0.025)[-1]) * spread
    assert float(decided_of["alike1"]["could show"]) == pytest.approx(could, rel=1e-4)
    # Again, and with the last results gone: the same decisions.
    before = (out / "table.csv").read_text(), (out / "decisions.csv").read_text()
    assert arena.compare(out, *adding) == 0
    assert arena.executor.started == []
    for seed in (8, 9):
        (out / "alike1" / f"seed{seed}" / "result.json").unlink()
    assert arena.compare(out, *adding) == 0
    assert arena.executor.started == ["alike1 seed 8", "alike1 seed 9"]
    after = (out / "table.csv").read_text(), (out / "decisions.csv").read_text()
    assert after == before


def test_a_budget_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs take 9 s: 15 of the first seeds, then 3 a seed; 0.05 hours are 180 s."""
    arena = Arena(monkeypatch)
    assert arena.compare(tmp_path, "--until-decided", "--budget", "0.05h") == 0
    assert len(arena.executor.started) == 18
    said = {(r["subset"], r["decision"]) for r in rows(tmp_path / "decisions.csv")}
    assert said == {
        ("valid", "undecided after 6 seeds: out of budget"),
        ("ood", "not decided: seeds were added by valid"),
    }
    assert arena.compare(tmp_path, "--until-decided", "--budget", "0.05h") == 0
    assert arena.executor.started == []


def test_a_budget_that_the_first_seeds_exceed_is_said_after_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six runs of 9 s tune, and 15 are those of the first seeds: 189 s."""
    arena = Arena(monkeypatch)
    grid = ["--methods", "plain", "clear=--x", "alike1=--y", "--until-decided", "ood"]
    budget = [*grid, "--budget", "0.05h"]
    command = [*options(tmp_path), *budget, "--", "D", "--lr", "{1,2}"]
    assert compare.main(command) == 1
    assert len(arena.executor.started) == 6 + 3
    said = (
        "--budget is exceeded by 5 %: tuning took 1 minute, and a seed of all methods"
    )
    assert f"error: {said} 0 minutes, of which --seeds asks" in capsys.readouterr().err
    command[command.index("0.05h")] = "0.06h"
    assert compare.main(command) == 0
    order = [f"{m} seed {s}" for s in range(1, 6) for m in ("plain", "clear", "alike1")]
    assert arena.executor.started[6:21] == order  # none twice
    made = [f"{r['method']} seed {r['seed']}" for r in rows(tmp_path / "runs.csv")]
    assert made[:15] == order
    # What is there is shown, whatever it took.
    command[command.index("0.06h")] = "0.01h"
    assert compare.main(command) == 0
    said = {r["decision"] for r in rows(tmp_path / "decisions.csv")}
    assert "undecided after 5 seeds: out of budget" in said


RULE = ["--until-decided", "ood", "--at-most", "6"]


def test_results_that_were_looked_at_by_one_rule_have_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arena = Arena(monkeypatch)
    assert arena.compare(tmp_path, "--until-decided", "ood", "--at-most", "6") == 0
    assert "comparison of its own" in (tmp_path / "table.md").read_text()
    for more, seeds in (
        (["--until-decided", "ood", "--at-most", "9"], 5),
        (["--until-decided", "valid", "--at-most", "6"], 5),
        (["--until-decided", "--at-most", "6"], 5),  # valid is what picks
        (["--until-decided", "ood", "--at-most", "12"], 8),
        # Of fewer methods, or against another, each would have a larger share.
        ([*RULE, "--methods", "plain", "alike1=--y"], 5),
        ([*RULE, "--methods", "clear=--x", "plain", "alike1=--y"], 5),
        ([*RULE, "--select", "ood"], 5),
        ([*RULE, "--methods", "plain", "alike1=--y", "clear=--x", "more=--z"], 5),
    ):
        assert arena.compare(tmp_path, *more, seeds=seeds) == 1
        assert arena.executor.started == []
        said = capsys.readouterr().err
        assert "is decided by --until-decided ood with --seeds 1 2 3 4 5, --at" in said
        rule = "6, --methods plain alike1 clear, --metric mcc, --select valid; looks"
        assert rule in said
    # In another order they are the same question.
    order = ["--methods", "plain", "alike1=--y", "clear=--x"]
    assert arena.compare(tmp_path, *RULE, *order) == 0
    # A table of a fixed number of seeds says that this was none.
    said = "--until-decided was used here, too; these p and intervals, of a fixed"
    assert arena.compare(tmp_path, seeds=6) == 0
    assert said in (tmp_path / "table.md").read_text()
    assert arena.compare(tmp_path / "fresh", seeds=6) == 0
    assert said not in (tmp_path / "fresh" / "table.md").read_text()
    rule = tmp_path / "until-decided.json"
    rule.write_text(rule.read_text().replace('"mcc"', '"f1"'))
    assert arena.compare(tmp_path, *RULE) == 1
    assert "--metric f1, --select valid; looks by another" in capsys.readouterr().err
    rule.write_text("{}")
    assert arena.compare(tmp_path, seeds=9) == 1
    assert arena.executor.started == []
    assert "until-decided.json: field 'subset' is missing" in capsys.readouterr().err


def test_a_table_that_was_read_before_is_a_look_that_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arena, noted = Arena(monkeypatch), "A table of these runs was made before."
    assert arena.compare(tmp_path / "fresh", *RULE) == 0
    assert arena.compare(tmp_path / "fresh", *RULE) == 0  # its own is no other
    assert noted not in (tmp_path / "fresh" / "table.md").read_text()
    assert "that look" not in capsys.readouterr().err
    assert arena.compare(tmp_path / "few", seeds=3) == 0  # says nothing of any
    assert arena.compare(tmp_path / "few", *RULE) == 0
    assert "that look" not in capsys.readouterr().err
    assert arena.compare(tmp_path / "read") == 0
    assert arena.compare(tmp_path / "read", *RULE) == 0
    assert "had a table before --until-decided: that look" in capsys.readouterr().err
    assert arena.compare(tmp_path / "read", *RULE) == 0
    assert noted in (tmp_path / "read" / "table.md").read_text()


def test_a_crash_that_is_mended_changes_no_look_that_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking ends at the crash; without it, at what was seen before it."""
    arena = Arena(monkeypatch, clear=0.03)
    asked = arena.executor.score
    for crashing in (3, 6):
        out = tmp_path / str(crashing)
        arena.executor.score = lambda run, seed=crashing: (
            None if (run.method, run.seed) == ("alike1", seed) else asked(run)
        )
        assert arena.compare(out, *RULE[:3], "9") == 1
        alike = [name for name in arena.executor.started if "alike1" in name]
        assert alike == [f"alike1 seed {s}" for s in range(1, max(5, crashing) + 1)]
        found = {r["method"]: r for r in rows(out / "decisions.csv")}
        said = f"no answer yet: seed {crashing} crashed; the same command tries again"
        assert found["alike1"]["decision"] == said
        assert found["clear"]["decision"].startswith("decided after")
        arena.executor.score = asked
        assert arena.compare(out, *RULE[:3], "9") == 0
        assert arena.executor.started[0] == f"alike1 seed {crashing}"
        assert arena.compare(tmp_path / "whole", *RULE[:3], "9") == 0
        for name in ("decisions.csv", "runs.csv"):
            whole = (tmp_path / "whole" / name).read_text()
            assert (out / name).read_text() == whole


def test_the_subset_that_picks_is_no_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arena = Arena(monkeypatch)
    said = "warning: valid picks each run's evaluation and decides, too, which flatters"
    for subset, warns in (("ood", False), ("valid", True)):
        out = tmp_path / subset
        assert arena.compare(out, "--until-decided", subset, "--at-most", "6") == 0
        assert (said in (shown := capsys.readouterr().err)) == warns
        assert ("let another decide: ood\n" in shown) == warns


def test_the_first_of_several_tasks_picks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --select, where no subset is called valid."""

    def of_tasks(*given: Any, **changed: Any) -> Any:
        made = result(*given, **changed)
        one = made.evaluations[0]
        tasks = {"updates": 10, "rte": one["valid"], "cola": one["ood"]}
        return dataclasses.replace(made, evaluations=[tasks])

    monkeypatch.setattr("helpers.result", of_tasks)
    arena = Arena(monkeypatch, clear=0.5)
    assert arena.compare(tmp_path, "--until-decided", "--at-most", "6") == 0
    said = {(r["method"], r["subset"]): r["decision"]
            for r in rows(tmp_path / "decisions.csv")}  # fmt: skip
    told = "decided after 5 seeds: better than plain on these sentences"
    assert said["clear", "rte"] == told
    assert said["clear", "cola"] == "not decided: seeds were added by rte"


def test_what_only_crashes_has_no_further_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arena = Arena(monkeypatch, clear=math.nan)
    assert arena.compare(tmp_path, "--until-decided", "--at-most", "6") == 1
    assert arena.executor.started[15:] == ["plain seed 6", "alike1 seed 6"]
    said = {
        r["method"]: r["decision"]
        for r in rows(tmp_path / "decisions.csv")
        if r["subset"] == "valid"
    }
    again = "the same command tries again"
    assert said["clear"] == f"no answer yet: seed 1 crashed; {again}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--at-most", "9"], "--at-most goes with --until-decided; add it"),
        (["--budget", "6h"], "--budget goes with --until-decided; add it"),
        (["--until-decided"], "--until-decided compares; name two or more --methods"),
        (["--plan"], "--plan and --expect go together; give both or neither"),
        (["--expect", "0.1"], "--plan and --expect go together; give both or neither"),
        (
            ["--plan", "--expect", "0.1", "--until-decided"],
            "--plan and --until-decided: give one of them",
        ),
        (
            ["--plan", "--expect", "0.1"],
            "--plan takes the spread of differences from pilot runs: two methods or "
            "more, and two seeds of each that end; give more with --methods",
        ),
        (["--budget", "6"], "argument --budget: 6 is no time such as 6h or 90m"),
        (["--expect", "0"], "argument --expect: 0 is not a number above 0"),
        (
            ["--methods", "a", "b", "--until-decided", "--seeds", "1", "2"],
            "--until-decided begins with 5 seeds, not 2; give more with --seeds",
        ),
        (
            ["--methods", "a", "b", "--until-decided", "--at-most", "5"],
            "--at-most 5 leaves nothing to add to 5 seeds; raise it",
        ),
        (
            ["--methods", "a=--x {1,2}", "--tuning-seeds", "5", "9"],
            "--tuning-seeds 5 are among --seeds: the scores of seeds that chose the "
            "flags flatter them; name others, or give --count-tuning-seeds",
        ),
    ],
)
def test_flags_that_do_not_go_together(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    Arena(monkeypatch)
    try:
        status: Any = compare.main([*options(tmp_path), *more, "--", "D"])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr().err
    assert status in (1, 2)
    assert said.startswith(f"error: {message}")
    assert len(said.splitlines()) == 1


def test_an_unknown_subset_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arena = Arena(monkeypatch)
    assert arena.compare(tmp_path, "--until-decided", "test", "--select", "ood") == 1
    # It is asked for before anything is trained, where the command says what there is.
    assert arena.asked == [{"--select": "ood", "--until-decided": "test"}]
    said = "error: --until-decided test: the runs have mcc on valid, ood; name one"
    assert said in capsys.readouterr().err


# --- a plan, and what stands under a table --------------------------------------------


def test_a_pilot_says_how_many_seeds_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arena = Arena(monkeypatch)
    assert arena.compare(tmp_path, "--plan", "--expect", "0.01", seeds=3) == 0
    found = {(r["method"], r["subset"]): r for r in rows(tmp_path / "plan.csv")}
    one, other = (
        [0.01 * drawn(Run("", method, seed, tmp_path, ())) for seed in (1, 2, 3)]
        for method in ("clear", "plain")
    )
    spread = float(np.std(np.subtract(one, other), ddof=1))
    for name, of in (("seeds", spread), ("80 % sure", upper_spread(spread, 3))):
        theirs = TTestPower().solve_power(effect_size=0.01 / of, alpha=0.025, power=0.8)
        assert found["clear", "valid"][name] == str(max(5, math.ceil(theirs)))
    said = capsys.readouterr().out
    assert "All together: " in said
    assert "a chance of 80 %" in " ".join(said.split())
    assert not (tmp_path / "table.md").exists()
    # Over so many seeds the time is not known either.
    assert arena.compare(tmp_path, "--plan", "--expect", "1e-9", seeds=3) == 0
    (row, *_) = rows(tmp_path / "plan.csv")
    assert row["seeds"] == "over 1000000"
    assert row["further time"].startswith("over ")
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"says: over [0-9.]+ hours of further runs", said)
    # Two seeds of two methods are the least.
    assert arena.compare(tmp_path, "--plan", "--expect", "0.01", seeds=1) == 1
    assert "error: --plan takes the spread" in capsys.readouterr().err


def test_a_plan_says_what_no_number_of_seeds_shows() -> None:
    made = judged(np.random.default_rng(3), 4, 4, 1)
    (answer,) = answers(table.by_name(made), ACCURACY, "valid").values()
    said = "more: no number of seeds shows {:g} for other sentences than these"
    for expect, warned in ((0.9 * answer.floor, True), (1.1 * answer.floor, False)):
        (rows,), (lines,) = (
            found.values() for found in planning.planned(made, ACCURACY, expect)
        )
        assert rows[0]["sentences show"] == amount(answer.floor)
        assert not isinstance(answer.other, str)
        spread = answer.difference.spread
        lasting = Lasting(answer.other.floor / spread, 40)
        takes = pairs_for(expect / spread, 0.05, lasting)
        assert rows[0]["seeds for others"] == counted(takes)
        assert (takes == 10**6) == warned
        assert any(one.startswith(said.format(expect)) for one in lines) == warned


def test_a_plan_says_whom_it_knows_nothing_of() -> None:
    """One differs alike with every seed, one diverged, one ended once."""
    scores = {"plain": (0.5, 0.6), "more": (0.6, 0.8), "alike": (0.75, 0.85)}
    made = [
        result(method, seed, score, predictions={})
        for method, both in scores.items()
        for seed, score in enumerate(both)
    ]
    made += [result("lost", 0, 0.5), result("lost", 1, status="diverged: loss")]
    made += [result("once", 0, 0.5), result("once", 1, status="crashed: rain")]
    found, said = planning.planned(made, MCC, 0.1)
    title = next(iter(found))
    assert [row["method"] for row in found[title]] == ["more"]
    assert said[title][1:] == [
        "alike: the seeds so far all differ alike, by chance; run more of them first",
        "lost: a run has no finite score; a table will have no mean",
        "once: fewer than two seeds ended in both; run more of them first",
    ]
    # A setting without a row is said under the first table; without any, that is all.
    alone = [r for r in made if r.method in ("plain", "alike")]
    other = [dataclasses.replace(r, setting="other") for r in alone]
    _, lines = planning.planned([*made, *other], MCC, 0.1)
    said = "mcc on valid: alike: the seeds so far all differ alike, by chance; run"
    assert f"other, {said} more of them first" in lines[title]
    with pytest.raises(UserError, match=f"no spread of differences: {said} more"):
        planning.planned(alone, MCC, 0.1)


def stored(method: str, seed: int, answers: str, **changed: Any) -> Result:
    """A run of eight sentences, half of each class."""
    gold = "01010101"
    right = np.mean([a == b for a, b in zip(answers, gold, strict=True)])
    evaluations = [{"updates": 10, "valid": {"accuracy": float(right)}}]
    given = {"predictions": {"valid": answered(answers, gold)}, **changed}
    return result(method, seed, evaluations=evaluations, **given)


ANSWERS = ["01011101", "01010111", "11010111", "00010101", "01110001"]


def two_methods(**changed: Any) -> list[Result]:
    better = ["01010101", "01010101", "01010111", "01010101", "01010101"]
    return [
        *(stored("plain", s, one, **changed) for s, one in enumerate(ANSWERS, 1)),
        *(stored("more", s, one, **changed) for s, one in enumerate(better, 1)),
    ]


def test_every_form_says_what_was_decided_and_what_it_would_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = two_methods()
    # Gaps: 1, 1, 1, 1 and 2 of 8 sentences.
    scores = {m: ACCURACY.scores([r for r in made if r.method == m], "valid")
              for m in ("plain", "more")}  # fmt: skip
    gaps = [scores["more"][s] - scores["plain"][s] for s in range(1, 6)]
    write_all(tmp_path, made, ACCURACY)
    (_, row) = rows(tmp_path / "table.csv")
    low, high = interval(gaps)
    assert row["difference [95 %]"] == f"{np.mean(gaps):+.3f} [{low:+.3f}, {high:+.3f}]"
    p = p_value(gaps)
    assert row["p (Holm)"] == f"{p:.3f} ({p:.3f})"
    gold = np.array(answered("01010101")["outputs"])
    given = np.array([r.predictions["valid"]["outputs"] for r in made])
    right = (given == gold).all(-1).astype(float)
    other = crossed(right[5:] - right[:5], float(np.mean(gaps)))
    assert row[table.OTHER] == f"[{other.low:+.3f}, {other.high:+.3f}]"

    needed = need(Difference(*[0.0] * 4, 5, float(np.std(gaps, ddof=1))), 1, 18.0)
    assert needed is not None
    assert max(p, other.p) < 0.05
    verdict = f"better than plain (p {p:.3f}; other sentences p {other.p:.3f})"
    (decision,) = rows(tmp_path / "decisions.csv")
    assert decision["decision"] == verdict
    assert float(decision["p other sentences"]) == pytest.approx(other.p, rel=1e-5)
    assert float(decision["could show"]) == pytest.approx(needed.shown, rel=1e-5)
    assert decision["seeds for half"] == str(needed.half)
    line = (
        f"more: {verdict}. 5 seeds could have shown a difference of "
        f"{needed.shown:.3f}; half of it takes {needed.half}: {needed.half - 5} more "
        f"of plain and more, {60 * needed.hours:.0f} minutes of runs."
    )
    table.show(
        table.tables(made, ACCURACY), Definitions(""), table.notes(made, ACCURACY)
    )
    console = " ".join(capsys.readouterr().out.split())
    forms = [
        console,
        (tmp_path / "table.md").read_text(),
        (tmp_path / "table.tex").read_text(),
        winner_card.describe(made, ACCURACY),
    ]
    for form in forms:
        assert line in form


def judged(
    rng: np.random.Generator, seeds: int, better: int, worse: int
) -> list[Result]:
    """Runs of 40 sentences: ``more`` is right on some more, and wrong on others."""
    gold = np.arange(40) % 2
    made = []
    for seed, method in product(range(1, seeds + 1), ("plain", "more")):
        wrong = np.arange(better) if method == "plain" else better + np.arange(worse)
        chance = 20 + rng.choice(20, rng.integers(1, 3), replace=False)
        wrong = np.append(wrong, chance)
        given = gold.copy()
        given[wrong] = 1 - given[wrong]
        predictions = {"valid": answered("".join(map(str, given)), "01" * 20)}
        score = {"accuracy": float(np.mean(given == gold))}
        evaluations = [{"updates": 10, "valid": score}]
        made.append(
            result(method, seed, evaluations=evaluations, predictions=predictions)
        )
    return made


@pytest.mark.parametrize(
    ("better", "worse", "said"),
    [
        (14, 0, r"better than plain \(p < 0.001; other sentences p < 0.001\)"),
        (
            *(4, 1),
            r"better than plain on these sentences \(p (< )?0.\d{3}\), undecided on "
            r"others \(p 0.\d{3}\)",
        ),
        (0, 0, r"undecided \(p \d.\d{3}\)"),
    ],
)
def test_a_verdict_says_of_which_sentences_it_is(
    better: int, worse: int, said: str
) -> None:
    """Every seed agrees on a few sentences: others may say the opposite."""
    made = judged(np.random.default_rng(3), 6, better, worse)
    by_method = table.by_name(made)
    found = answers(by_method, ACCURACY, "valid")["more"]
    assert re.fullmatch(said, found.said)
    # What no number of seeds shows allows for the number of methods, as p does.
    other = [dataclasses.replace(r, method="other") for r in by_method["more"]]
    both = answers({**by_method, "other": other}, ACCURACY, "valid")["more"]
    assert not isinstance(both.other, str)
    assert both.floor == pytest.approx(floor(both.other.floor, 0.025))
    assert (both.p, both.other_p) == (
        min(1, 2 * found.p),
        pytest.approx(min(1, 2 * found.other_p)),
    )
    # A method with too few seeds asks nothing.
    few = [dataclasses.replace(r, method="few") for r in by_method["more"][:3]]
    beside = answers({**by_method, "few": few}, ACCURACY, "valid")
    assert beside["more"].other_p == found.other_p
    assert math.isnan(beside["few"].other_p)
    # A score that is not finite is said to be whose it is.
    for method, whose in (("plain", "plain"), ("more", "its own")):
        lost = {"evaluations": [], "status": "diverged: loss"}
        broken = [
            dataclasses.replace(r, **lost) if (r.method, r.seed) == (method, 2) else r
            for r in made
        ]
        (answer,) = answers(table.by_name(broken), ACCURACY, "valid").values()
        assert answer.said == f"no answer: a score is not finite ({whose})"


def test_a_look_with_a_crashed_run_is_none(tmp_path: Path) -> None:
    """Five seeds have p 0.035: too large at the first look, not at the last."""
    shape = np.array([-1, -0.7, 0, 0.7, 1])
    gaps = 0.01 + 0.0071 * shape / np.std(shape, ddof=1)
    assert levels((5, 6), 0.05)[0] < p_value(gaps.tolist()) < levels((5, 6), 0.05)[1]
    made = [result("plain", seed, 0.5, predictions={}) for seed in range(1, 7)]
    made += [result("more", s, 0.5 + g, predictions={}) for s, g in enumerate(gaps, 1)]
    crash = result("more", 6, status="crashed: rain", evaluations=[])
    plan = Plan(tmp_path, {"plain": (), "more": ()}, [1, 2, 3, 4, 5], (), {"": ()})
    state = adding._State(plan, adding.Rule("valid", 6), MCC, [*made, crash])
    assert (state.told(), state.open()) == ({}, [])
    whole = dataclasses.replace(state, results=[*made, result("more", 6, 0.51)])
    assert whole.told() == {("", "more"): 6}


@pytest.mark.parametrize(("better", "told"), [(14, 5), (4, None)])
def test_seeds_are_added_until_other_sentences_say_so_too(
    tmp_path: Path, better: int, told: int | None
) -> None:
    made = judged(np.random.default_rng(3), 8, better, 1)
    plan = Plan(tmp_path, {"plain": (), "more": ()}, [1, 2, 3, 4, 5], (), {"": ()})
    rule = adding.Rule("valid", 8)
    seeds = [r for r in made if r.seed <= 5]
    executor = Instant(lambda _: None)
    write = lambda runs, *_, **__: [  # noqa: E731
        r for r in made for run in runs if (r.method, r.seed) == (run.method, run.seed)
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adding, "run_all", write)
        found, scored = adding.until_decided(plan, {}, executor, rule, ACCURACY, seeds)
    stop = scored.stops["", "more"]
    # Of a fixed number of seeds, which these were not.
    assert math.isnan(answers(table.by_name(found), scored, "valid")["more"].other_p)
    last = told or 8
    assert len(found) == 2 * last
    said = "undecided at 8 seeds, the most allowed"
    assert stop.said == (
        f"decided after {told} seeds: better than plain" if told else said
    )
    assert stop.level == levels((5, 6, 7, 8), 0.05)[last - 5]
    gaps = np.array([0.0] * 8)  # over seeds alone both are told at once
    for one in made:
        gaps[one.seed - 1] += (1 if one.method == "more" else -1) * (
            one.evaluations[0]["valid"]["accuracy"]
        )
    assert decided(
        {"more": [p_value(gaps[:n].tolist()) for n in (5, 6, 7, 8)]}, (5, 6, 7, 8)
    )


@pytest.mark.parametrize(("share", "reached"), [(0.2, True), (1.0, False)])
def test_what_it_takes_for_other_sentences_is_said(share: float, reached: bool) -> None:
    """Of a standard error that stays, as a share of the spread over seeds."""
    made = judged(np.random.default_rng(3), 6, 4, 0)
    (one,) = answers(table.by_name(made), ACCURACY, "valid").values()
    assert not isinstance(one.other, str)
    spread = one.difference.spread
    asked = need(one.difference, 1, 18.0, lasting=Lasting(one.other.floor / spread, 40))
    mine = one.need
    assert asked is not None
    assert mine is not None
    assert one.elsewhere is not None
    # Both tests have to tell: the other has more degrees of freedom.
    assert one.elsewhere.shown == max(asked.shown, mine.shown)
    assert one.elsewhere.half == max(asked.half, mine.half)
    left = share * spread
    asked = need(one.difference, 1, 18.0, lasting=Lasting(share, 40))
    assert asked is not None
    assert (asked.half < 10**6) == reached
    other = dataclasses.replace(one.other, floor=left)
    made_up = dataclasses.replace(one, other=other, elsewhere=asked, floor=left)
    said = f"For other sentences than these 40 it is {amount(asked.shown)}"
    never = f"no number of seeds shows less than {amount(left)}"
    half = f", and half of it takes {asked.half}; {never}."
    more = f"; {never}, so that half of it takes more sentences."
    line = sentence("more", "plain", made_up)
    assert line.endswith(said + (half if reached else more))
    shown = answer_row("more", made_up)
    assert float(shown["could show of others"]) == pytest.approx(asked.shown, rel=1e-5)
    assert shown["seeds for half of others"] == (str(asked.half) if reached else "inf")
    hours = answer_row("more", dataclasses.replace(made_up, need=asked))
    assert (hours["hours for half"] == "inf") != reached


def test_what_others_take_is_no_less_than_what_these_do() -> None:
    """A verdict of others takes both tests, and theirs has more degrees of freedom."""
    made = judged(np.random.default_rng(3), 6, 0, 0)
    (one,) = answers(table.by_name(made), ACCURACY, "valid").values()
    assert not isinstance(one.other, str)
    theirs = need(one.difference, 12, 18.0, None, Lasting(0.15, 40))
    mine = need(one.difference, 12, 18.0)
    assert theirs is not None
    assert mine is not None
    assert theirs.shown < mine.shown
    other = dataclasses.replace(one.other, floor=0.15 * one.difference.spread)
    _, both = needs(one.difference, other, 12, 18.0, None)
    assert both is not None
    assert (both.shown, both.half) == (mine.shown, max(mine.half, theirs.half))
    row = planning._for_others(one, 10.0, 0.05, 12)
    assert row["seeds for others"] == "12"


def test_times_and_numbers_of_any_size() -> None:
    shown = [duration(minutes / 60) for minutes in (0, 1, 59, 90)]
    assert shown == ["0 minutes", "1 minute", "59 minutes", "1.5 hours"]
    assert duration(math.nan) == "an unknown time"
    assert [amount(size) for size in (0.0123, 0.5, 4e30)] == [
        "0.012",
        "0.500",
        "4.0e+30",
    ]
    assert table.number(math.nan) == ""
    numbers = [table.number(one, sign="+") for one in (0.5, -1e30, math.inf)]
    assert numbers == ["+0.500", "-1.000e+30", "+inf"]


def test_old_results_have_no_interval_for_other_sentences() -> None:
    (_, row) = next(iter(table.tables(two_methods(predictions={}), ACCURACY).values()))
    assert row[table.OTHER] == ""
    ((line,),) = table.notes(two_methods(predictions={}), ACCURACY).values()
    said = "No interval for other sentences: no predictions were recorded."
    assert line.endswith(said)


def test_few_seeds_decide_nothing_but_tell_what_more_would() -> None:
    made = [r for r in two_methods() if r.seed in (1, 3, 4)]
    made[3] = stored("more", 1, ANSWERS[0])
    ((line,),) = table.notes(made, ACCURACY).values()
    assert line.startswith(
        "more: undecided: fewer than 5 seeds ended in both. 5 seeds would show a "
    )


# --- tuning ---------------------------------------------------------------------------


def test_tuning_is_paid_for_and_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arena = Arena(monkeypatch)
    grids = ["--methods", "plain=--lr {1,2,3}", "alike1=--lr {4,5,6}"]
    assert arena.compare(tmp_path, *grids, "--tuning-seeds", "6", "8") == 0
    assert len(arena.executor.started) == 2 * 3 * 2 + 2 * 5
    # What is chosen is evaluated on more than tuning, as on files of --steady-also.
    assert arena.checked == [2 * 3 * 2, 2 * 5]
    found = rows(tmp_path / "table.csv")
    assert {r["tuning runs"] for r in found} == {"6"}
    assert {r["seed"] for r in rows(tmp_path / "runs.csv")} == set("12345")
    # Added seeds are none that chose the flags either.
    more = [*grids, "--tuning-seeds", "6", "8", "--at-most", "7"]
    assert arena.compare(tmp_path, *more, "--until-decided", "ood") == 0
    assert arena.asked[-2:] == [None, {"--until-decided": "ood"}]
    added = {name.split()[-1] for name in arena.executor.started}
    assert added == {"7", "9"}
    again = [*grids, "--tuning-seeds", "5", "--count-tuning-seeds"]
    assert arena.compare(tmp_path / "asked", *again) == 0
    assert following([4, 2], 3, but=[6]) == [5, 7, 8]


def test_the_seed_that_tunes_stays_the_same_where_seeds_are_added(
    tmp_path: Path,
) -> None:
    grid = {"a": ("--x", "{1,2}")}
    for seeds, tuning in (([1, 2], 1000), ([1, 2, 3, 4], 1000), ([1000, 1002], 1001)):
        plan = Plan(tmp_path, grid, seeds, (), {"": ()})
        tried = {run.seed for run in every(plan.tuning())}
        assert tried == {tuning}


# --- and does it hold? ----------------------------------------------------------------


def test_intervals_hold_and_tables_are_seldom_wrong() -> None:
    """A little of scripts/simulate_comparison.py, which has the numbers."""
    rng = np.random.default_rng(5)
    draws = rng.normal(size=(400, 5)).tolist()
    held = np.mean([low <= 0 <= high for low, high in map(interval, draws)])
    assert 0.92 < held < 0.98
    told = [min(holm([p_value(one) for one in rng.normal(size=(4, 6)).tolist()]))
            for _ in range(300)]  # fmt: skip
    assert np.mean(np.array(told) < 0.05) < 0.09
    covered = []
    for _ in range(300):
        seeds, sentences = 0.05 * rng.normal(size=(5, 1)), rng.normal(size=(1, 200))
        gaps = seeds + sentences + rng.normal(size=(5, 200))
        found = crossed(gaps, float(gaps.mean()))
        covered.append(found.low <= 0 <= found.high)
    assert 0.91 < np.mean(covered) < 0.985
