"""What the papers say of results and of runs, beside what is kept and what is done."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fairseq_steady.tasks  # noqa: F401  registers everything
import pytest
import torch
from conftest import ROOT
from fairseq import options
from fairseq_steady.patches import announcing

EXAMPLES = ROOT / "examples"
#: Scores of runs that are in no table: their archive has them, or nothing is kept.
ELSEWHERE = {
    "cola": {"0.178 ± 0.081"},
    "probe": {"0.825 ± 0.009", "0.821 ± 0.009", "0.824 ± 0.001", "0.826 ± 0.000"},
}
STUDIES = sorted(p.parent.name for p in EXAMPLES.glob("*/README.md"))
INTERVAL = re.compile(r"([+-]\d\.\d{3}) \(([+-]\d\.\d{3}) to ([+-]\d\.\d{3})\)")
SCORE = re.compile(r"-?\d\.\d{3} ± \d\.\d{3}")


def kept(study: str) -> str:
    """The tables that are kept of a study."""
    paths = (EXAMPLES / study).glob("results/**/*")
    tables = [p for p in paths if p.suffix in (".csv", ".md")]
    return "".join(p.read_text("utf-8") for p in tables).replace("+-", "±")


def intervals(study: str) -> Iterator[tuple[str, str, str]]:
    """Differences with each of their intervals, over seeds and over sentences too."""
    number = r"[+-]\d\.\d{3}"
    for row in kept(study).splitlines():
        if difference := re.search(rf"({number}) \[", row):
            for ends in re.findall(rf"\[({number}), ({number})\]", row):
                yield (difference[1], *ends)


def test_the_claims_have_the_intervals_of_the_studies_they_name() -> None:
    rows = (EXAMPLES / "claims.md").read_text("utf-8").splitlines()
    checked, linked = 0, []
    for row in rows:
        linked = re.findall(r"\]\((\w+)/README", row) or linked  # or "the same"
        for said in INTERVAL.findall(row):
            assert said in set().union(*map(intervals, linked)), row
            checked += 1
    assert checked > 25


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_the_scores_of_its_tables(study: str) -> None:
    text = (EXAMPLES / study / "README.md").read_text("utf-8")
    assert {*SCORE.findall(text)} - {*SCORE.findall(kept(study))} == ELSEWHERE.get(
        study, set()
    )
    assert {*INTERVAL.findall(text)} <= {*intervals(study)}


def test_the_scores_in_the_tables_are_those_of_the_runs() -> None:
    checked = 0
    for path in EXAMPLES.rglob("results/**/runs.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            runs = [*csv.DictReader(file)]
        table = path.with_name("table.csv").read_text("utf-8")
        for row in csv.DictReader(table.splitlines()):
            if not row.get("mean ± std") or ":" in row["method"]:
                continue
            column = f"{row['metric']} {row['subset']}"
            same = [r for r in runs if r["method"] == row["method"] and r.get(column)]
            mine = [r for r in same if r.get("setting") == row.get("setting")]
            scores = torch.tensor([float(r[column]) for r in mine], dtype=torch.float64)
            mean, _, spread = row["mean ± std"].partition(" ± ")
            assert float(mean) == pytest.approx(float(scores.mean()), abs=6e-4)
            if spread:
                assert float(spread) == pytest.approx(float(scores.std()), abs=6e-4)
            checked += 1
    assert checked > 250


@pytest.mark.parametrize(
    ("words", "schedule"),
    [
        ([], "polynomial_decay"),
        (["--lr=1e-4", "--max-update=9"], "polynomial_decay"),
        (["--optimizer=bert_adam"], "fixed"),
        (["--max-tokens=99"], "fixed"),
    ],
)
def test_who_names_an_optimizer_names_its_schedule(
    words: list[str], schedule: str
) -> None:
    parser = options.get_training_parser()
    typed = ["d", "--task=cola", "--steady-model=m", *words]
    assert options.parse_args_and_arch(parser, typed).lr_scheduler == schedule


@pytest.mark.parametrize("every", [0, 40])
def test_a_run_says_that_a_recipe_keeps_a_third_checkpoint(
    every: int, tmp_path: Path
) -> None:
    saving = SimpleNamespace(
        no_last_checkpoints=False,
        no_epoch_checkpoints=True,
        no_save_optimizer_state=False,
        save_interval_updates=every,
        keep_interval_updates=1 if every else -1,
    )
    cfg = SimpleNamespace(
        checkpoint=saving, dataset=SimpleNamespace(disable_validation=False)
    )
    task = SimpleNamespace(model=torch.nn.Linear(2, 2))
    run = SimpleNamespace(saves=True, cfg=cfg, task=task, folder=tmp_path)
    third = ", the newest evaluation's" if every else ""
    said = f"results: {tmp_path}: checkpoint_best.pt, checkpoint_last.pt{third}"
    assert announcing._results(run) == said
