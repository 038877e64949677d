"""What the seeds of a method differ in, against scikit-learn, scipy and by hand."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairseq_steady.comparison import ensembles, instability, table
from fairseq_steady.comparison.recorded import Answers, metric_of, usable
from fairseq_steady.comparison.results import Result
from fairseq_steady.comparison.table import Scored
from helpers import MCC, result
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

LEFT_OUT = "ensembles left out"
RANDOM = np.random.default_rng(5)
PEARSON = Scored("pearson", True, "valid")
MICRO = Scored("micro_f1", True, "valid")


def classes(seeds: int, sentences: int = 40, k: int = 3) -> list[Answers]:
    gold = RANDOM.integers(0, k, sentences)
    return [Answers(RANDOM.normal(size=(sentences, k)), gold) for _ in range(seeds)]


def labels(seeds: int, sentences: int = 40, k: int = 3) -> list[Answers]:
    gold = RANDOM.integers(0, 2, (sentences, k))
    return [Answers(RANDOM.normal(size=(sentences, k)), gold) for _ in range(seeds)]


def numbers(seeds: int, sentences: int = 40) -> list[Answers]:
    gold = RANDOM.normal(size=sentences)
    return [Answers(RANDOM.normal(size=(sentences, 1)), gold) for _ in range(seeds)]


def stored(answers: list[Answers], metric: str, **changed: Any) -> list[Result]:
    """Runs that recorded these, each with its own score."""
    made = []
    for seed, one in enumerate(answers, 1):
        kept = {"outputs": one.outputs.tolist(), "gold": one.gold.tolist()}
        score = 0.1 * seed
        evaluations = [{"updates": 1, "valid": {metric: score}}]
        own = {"best_checkpoint_metric": metric, "maximize_best_checkpoint_metric": 1}
        config = {"checkpoint": own}
        given = {
            "evaluations": evaluations, "config": config, "predictions": {"valid": kept}
        }  # fmt: skip
        made.append(result("plain", seed, **{**given, **changed}))
    return made


# --- instability ------------------------------------------------------------------


def test_disagreement_is_the_mean_hamming_distance() -> None:
    made = classes(4)
    given = np.array([one.outputs.argmax(1) for one in made])
    expected = pdist(given, "hamming").mean()
    assert instability.disagreement(made) == pytest.approx(expected)
    one, other = labels(2)
    differs = [
        (a > 0).tolist() != (b > 0).tolist()
        for a, b in zip(one.outputs, other.outputs, strict=True)
    ]
    assert instability.disagreement([one, other]) == pytest.approx(np.mean(differs))
    made = numbers(3)
    distances = pdist(np.array([one.outputs[:, 0] for one in made]), "cityblock")
    assert instability.disagreement(made) == pytest.approx(distances.mean() / 40)
    assert np.isnan(instability.disagreement(made[:1]))


def by_hand(confidence: list[float], right: list[bool]) -> float:
    """Guo et al., equation 3, bin by bin."""
    total = 0.0
    for m in range(1, 16):
        low, high = (m - 1) / 15, m / 15
        inside = [i for i, c in enumerate(confidence) if low < c <= high]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


def test_calibration_error_is_that_of_the_paper() -> None:
    (one,) = classes(1, 300)
    powers = np.exp(one.outputs)
    p = powers / powers.sum(1, keepdims=True)
    right = [int(np.argmax(row)) == g for row, g in zip(p, one.gold, strict=True)]
    expected = by_hand([max(row) for row in p], right)
    assert instability.calibration_error(one) == pytest.approx(expected)
    (one,) = labels(1, 200)
    p = (1 / (1 + np.exp(-one.outputs))).ravel()
    right = [(x > 0.5) == bool(g) for x, g in zip(p, one.gold.ravel(), strict=True)]
    expected = by_hand([max(x, 1 - x) for x in p], right)
    assert instability.calibration_error(one) == pytest.approx(expected)
    assert np.isnan(instability.calibration_error(numbers(1)[0]))


def test_certain_and_right_is_calibrated() -> None:
    gold = np.array([0, 1])
    sure = Answers(np.array([[900.0, -900.0], [-900.0, 900.0]]), gold)
    assert instability.calibration_error(sure) == 0
    assert instability.calibration_error(Answers(sure.outputs, 1 - gold)) == 1


def test_a_bin_has_its_upper_end() -> None:
    """Wrong at confidence 1 and right at 0.95 are in one: |0 + 1 - 1 - 0.95| / 2."""
    outputs = np.array([[900.0, -900.0], [np.log(19), 0.0]])
    one = Answers(outputs, np.array([1, 0]))
    assert instability.calibration_error(one) == pytest.approx(0.95 / 2)


def test_the_table_has_every_subset_and_the_worst(tmp_path: Path) -> None:
    made = [result("plain", s, v) for s, v in ((1, 0.25), (2, 0.5), (3, -0.5))]
    made += [result("sift", 1, 0.75), result("sift", 2, status="crashed: x")]
    lost = {"status": "diverged: x", "predictions": {}}
    made += [result("sift", 3, **lost), result("smart", 1, **lost)]
    made += [result("r3f", 1, status="crashed: x"), result("hype", 1, 0.75)]
    made += [result("plain", 1, setting="b", status="crashed: x")]
    instability.show(instability.tables(made[-1:], MCC), MCC)  # nothing to be shown
    instability.write(tmp_path, instability.tables(made, MCC), MCC)
    with (tmp_path / "instability.csv").open(encoding="utf-8") as file:
        rows = {(r["method"], r["subset"]): r for r in csv.DictReader(file)}
    assert list(rows) == [
        ("plain", "valid"), ("plain", "ood"), ("plain", "worst (ood)"),
        ("sift", "valid"), ("sift", "ood"), ("sift", "worst (ood)"),
        ("smart", "valid"), ("smart", "ood"),
        ("hype", "valid"), ("hype", "ood"), ("hype", "worst (ood)"),
    ]  # fmt: skip
    for method, n, failed in (("sift", "2", "0.50"), ("smart", "1", "1.00")):
        for name in (one for one in rows if one[0] == method):
            assert (rows[name]["n"], rows[name]["mean"]) == (n, "nan"), name
            assert "worst" in name[1] or rows[name]["failed"] == failed
    plain = rows["plain", "valid"]
    assert (plain["mean"], plain["std"], plain["n"]) == ("0.083", "0.520", "3")
    # One of three is below the majority class; every seed says the same.
    assert (plain["failed"], plain["disagreement"]) == ("0.33", "0.000")
    # The worst is 0.125 and 0.25 out of domain, and -0.5 in it.
    worst = rows["plain", "worst (ood)"]
    assert (worst["mean"], worst["std"]) == ("-0.042", "0.402")
    assert (rows["hype", "valid"]["n"], rows["hype", "valid"]["std"]) == ("1", "")
    said = (tmp_path / "instability.md").read_text()
    assert "arXiv 1706.04599" in said
    assert said.count("| plain ") == 3


def test_groups_are_subsets_of_accuracy() -> None:
    scored = Scored("accuracy", True, "valid")
    metrics = {"accuracy": 0.8, "accuracy_de": 0.9, "accuracy_worst": 0.1}
    one = result("m", 1, evaluations=[{"updates": 1, "valid": metrics}])
    (rows,) = instability.tables([one], scored).values()
    assert [r["subset"] for r in rows] == ["valid", "worst (valid)"]


def test_a_long_table_is_in_its_file_only(capsys: pytest.CaptureFixture[str]) -> None:
    made = [result(f"m{i}", 1, 0.5) for i in range(9)]
    instability.show(instability.tables(made, MCC), MCC)
    assert capsys.readouterr().out == ""
    instability.show(instability.tables(made[:8], MCC), MCC)
    assert "calibration error" in capsys.readouterr().out


# --- ensembles --------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [3, 4])
def test_ensembles_of_classes(seeds: int) -> None:
    made = classes(seeds)
    p = np.array([np.exp(a.outputs) / np.exp(a.outputs).sum(1)[:, None] for a in made])
    mean = p.mean(0)
    for i, answer in enumerate(ensembles.majority_vote(made)):
        votes = [int(a.outputs[i].argmax()) for a in made]
        most = max(map(votes.count, votes))
        tied = [k for k in set(votes) if votes.count(k) == most]
        assert answer == max(tied, key=lambda k: mean[i, k])
    assert ensembles.mean_answer(made).tolist() == mean.argmax(1).tolist()
    gold, given = made[0].gold, mean.argmax(1)
    for metric, expected in (
        ("accuracy", accuracy_score(gold, given)),
        ("mcc", matthews_corrcoef(gold, given)),
        ("macro_f1", f1_score(gold, given, average="macro")),
    ):
        assert metric_of(given, made[0], metric) == pytest.approx(expected)
    assert np.isnan(metric_of(given, made[0], "loss"))


def test_ensembles_of_labels_and_scores() -> None:
    made = labels(4)
    p = np.mean([1 / (1 + np.exp(-a.outputs)) for a in made], 0)
    votes = np.sum([a.outputs > 0 for a in made], 0)
    expected = np.where(votes == 2, p > 0.5, votes > 2)
    assert ensembles.majority_vote(made).tolist() == expected.tolist()
    assert ensembles.mean_answer(made).tolist() == (p > 0.5).tolist()
    f1 = f1_score(made[0].gold, expected, average="micro")
    assert metric_of(expected, made[0], "micro_f1") == pytest.approx(f1)
    made = numbers(3)
    mean = np.mean([a.outputs[:, 0] for a in made], 0)
    assert [*ensembles.together(made)] == ["mean score"]
    found = metric_of(ensembles.mean_answer(made), made[0], "pearson")
    assert found == pytest.approx(pearsonr(mean, made[0].gold).statistic)


@pytest.mark.parametrize(
    ("made", "scored", "kinds"),
    [
        (classes(3), MCC, ["majority vote", "mean probability"]),
        (labels(3), MICRO, ["majority vote", "mean probability"]),
        (numbers(3), PEARSON, ["mean score"]),
    ],
)
def test_further_rows_say_what_they_are_made_of(
    made: list[Answers], scored: Scored, kinds: list[str]
) -> None:
    runs = stored(made, scored.metric)
    single = table.tables(runs, scored)
    (rows,), said = (lambda t: (t[0].values(), t[1]))(
        ensembles.extended(single, runs, scored)
    )
    (before,) = single.values()
    assert rows[: len(before)] == before
    assert [r["method"] for r in rows[1:]] == [f"plain: {k} of 3 seeds" for k in kinds]
    columns = {name for row in before for name in row}
    for row in rows[1:]:
        assert row["n"] == "made of 3"
        assert set(row) <= columns  # nothing to test
        assert "p (Holm)" not in row
    assert "never tested against single runs" in said["of n seeds"]
    assert LEFT_OUT not in said


def test_two_have_no_majority() -> None:
    assert [*ensembles.together(classes(2))] == ["mean probability"]


def test_whose_predictions_cannot_be_used_is_said() -> None:
    one, two, three, four = stored(classes(4), "mcc")
    one.predictions = {}
    two.predictions["valid"]["outputs"][0][0] = float("nan")
    wrote = replace(one, seed=5, summaries={"valid": {"scores": {}, "gold": [1.0]}})
    found, notes = usable([one, two, three, four, wrote], "valid")
    assert list(found) == [3, 4]  # and of summaries there is nothing to say
    three.predictions["valid"]["gold"][0] = 7.0
    four.predictions["valid"]["outputs"][0] = [0.0]
    assert notes == [
        "plain seed 1 on valid: no predictions were recorded",
        "plain seed 2 on valid: its outputs are not all finite",
    ]
    first, _ = stored(classes(2), "mcc")
    (other,) = stored(classes(1, 50), "mcc")
    found, notes = usable([three, four, first, replace(other, seed=9)], "valid")
    assert list(found) == [1]
    assert [note.partition(": ")[2] for note in notes] == [
        "its gold answers are none of its classes",
        "its outputs are of different numbers of classes",
        "it was evaluated on other sentences",
    ]
    runs = [one, two]
    made, said = ensembles.extended(table.tables(runs, MCC), runs, MCC)
    assert len(next(iter(made.values()))) == 1
    (reasons,) = said.values()  # with no rows there is nothing else to define
    assert "plain seed 1 on valid: no predictions were recorded; plain" in reasons


def test_a_metric_of_more_than_answers_has_no_ensemble() -> None:
    runs = stored(classes(2), "loss")
    scored = Scored("loss", False, "valid")
    made, said = ensembles.extended(table.tables(runs, scored), runs, scored)
    assert len(next(iter(made.values()))) == 1
    assert said == {LEFT_OUT: "valid: loss is not of answers alone."}


def test_an_ensemble_says_of_how_many_and_is_of_the_tables_evaluations() -> None:
    runs = stored(classes(3), "mcc")
    lost = replace(runs[0], seed=9, status="diverged: loss", evaluations=[])
    made, _ = ensembles.extended(table.tables(runs, MCC), [*runs, lost], MCC)
    (rows,) = made.values()
    assert rows[1]["method"] == "plain: majority vote of 3 of 4 seeds"
    # The last evaluation is kept, and by F1 the first one counts.
    for run, better in zip(runs, (0.1, 0.9, 0.9), strict=True):
        (one,) = run.evaluations
        run.evaluations[:] = [
            {"updates": 1, "valid": {"mcc": -1.0, "f1": better}},
            {**one, "updates": 2, "valid": {**one["valid"], "f1": 0.5}},
        ]
    f1 = Scored("f1", True, "valid")
    made, said = ensembles.extended(table.tables(runs, f1), runs, f1)
    assert len(next(iter(made.values()))) == 1
    left = "plain: runs keep what is best by mcc, at other updates than these"
    assert said == {LEFT_OUT: f"{left}."}
