"""The comparison: planned, run for real, judged, shown."""

import csv
import hashlib
import io
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from conftest import Started, Zygote, run_forking
from fairseq_steady.commands import compare
from fairseq_steady.comparison import (
    comparing,
    execution,
    figures,
    instability,
    reading,
    results,
    table,
    winner_card,
    worker,
)
from fairseq_steady.comparison.command import check, make_executor, reasons
from fairseq_steady.comparison.command import read as read_commands
from fairseq_steady.comparison.execution import Local, crashed, prepare, run_all
from fairseq_steady.comparison.origins import unlike
from fairseq_steady.comparison.plan import Plan, Run, every, named, points
from fairseq_steady.comparison.recorded import majority_baseline
from fairseq_steady.comparison.results import Result, seconds_per_update
from fairseq_steady.comparison.results import write as write_result
from fairseq_steady.comparison.significance import (
    difference,
    expected_best,
    holm,
    interval,
    p_value,
)
from fairseq_steady.comparison.table import Scored
from fairseq_steady.comparison.worker import _version, locked
from fairseq_steady.errors import UserError
from fairseq_steady.patches import finite
from helpers import MCC, Instant, result, write_all
from pydantic import TypeAdapter
from sklearn.metrics import matthews_corrcoef
from statsmodels.stats.multitest import multipletests

#: A comparison adds it where it is missing.
PLUGIN = ["--user-dir", str(Path(worker.__file__).parents[1])]


# --- real processes ---------------------------------------------------------------


def flags(models: dict[str, Path], data: Path, *more: str) -> list[str]:
    return [
        *(str(data), "--task=cola", "--cpu"),
        *(f"--steady-model={models['roberta']}", "--batch-size=8"),
        *("--optimizer=adam", "--lr=1e-3", "--max-update", "12", *more),
    ]


def run_compare(out: Path, train: list[str], *options: str) -> Any:
    return run_forking("compare", "--out", out, *options, "--", *train)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_two_methods_with_two_seeds_end_to_end(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    train, out = flags(models, cola_data), tmp_path / "out"
    options = [
        *("--methods", "plain", "zero=--criterion sift --sift-lambda 0"),
        *("--seeds", "1", "2", "--jobs", "2"),
    ]
    done = run_compare(out, train, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = {
        (r["method"], r["seed"]): (r["mcc valid"], r["mcc ood"])
        for r in rows(out / "runs.csv")
    }
    # Lambda 0 is plain: a paired design gives it plain's very scores, seed by seed.
    for seed in ("1", "2"):
        assert scores["plain", seed] == scores["zero", seed]
    made_of = ["2 of 2"] * 2 + ["made of 2"] * 2  # ensembles of what was recorded
    assert [r["n"] for r in rows(out / "table.csv")] == made_of * 2
    assert "mcc on valid" in done.stdout
    assert "zero seed 2: ok" in done.stderr
    assert "Warning" not in done.stderr
    for name in figures.PANELS:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / f"{name}.svg").read_text()

    result = json.loads((out / "plain" / "seed1" / "result.json").read_text())
    assert result["evaluations"][-1]["updates"] == 12
    assert result["config"]["optimization"]["max_update"] == 12
    assert result["seconds_per_update"] > 0
    assert result["peak_mb"] > 100
    assert result["versions"]["torch"]
    names = "in_domain_train", "in_domain_dev", "out_of_domain_dev"
    files = [*(cola_data / f"{n}.tsv" for n in names), models["roberta"] / "model.pt"]
    assert result["files"] == {
        "/".join(file.parts[-2:]): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
    # The predictions are those of the reported evaluation, in the order of the file.
    best = Result(**result).best("valid", "mcc")
    for subset, file in (("valid", "in_domain_dev"), ("ood", "out_of_domain_dev")):
        found = result["predictions"][subset]
        lines = (cola_data / f"{file}.tsv").read_text().split("\n")
        assert found["gold"] == [float(line.split("\t")[1]) for line in lines]
        answers = np.argmax(found["outputs"], axis=1)
        assert matthews_corrcoef(found["gold"], answers) == pytest.approx(
            best[subset]["mcc"], abs=1e-12
        )

    # Again: nothing runs; a missing run is filled; another plan is refused.
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("result.json")}
    gone = out / "zero" / "seed2" / "result.json"
    gone.unlink()
    assert run_compare(out, train, *options).returncode == 0
    changed = {p for p, t in stamps.items() if p.stat().st_mtime_ns != t}
    assert changed == {gone}
    done = run_compare(out, [*train, "--lr=2e-3"], "--methods", "plain", "--seeds", "1")
    assert done.returncode == 1
    assert "is of another plan" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_crashed_run_is_reported_and_the_others_are_kept(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    bad = "bad=--criterion sift --sift-step=-1"
    done = run_compare(
        tmp_path, flags(models, cola_data, *PLUGIN), "--methods", "plain", bad,
        "--seeds", "1", "--jobs", "2",
    )  # fmt: skip
    assert done.returncode == 1
    found = {r["method"]: r for r in rows(tmp_path / "table.csv")}
    assert (found["plain"]["n"], found["bad"]["n"]) == ("1 of 1", "0 of 1")
    assert "error: --sift-step -1.0 is out of range" in done.stderr
    assert "--sift-step -1.0" in (tmp_path / "runs.csv").read_text()
    assert "Traceback" not in done.stderr


def test_unknown_methods_are_refused_before_anything_runs(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run_compare(
        out, flags(models, cola_data), "--seeds", "1", "--methods", "plain", "plane"
    )
    assert done.returncode == 1
    said = "fairseq-train refuses it: --criterion has no 'plane'; did you mean plain?"
    assert f"plane: {said}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--sift-labda=2"],
            "there is no flag --sift-labda; did you mean --sift-lambda?",
        ),
        (["--adam-eps=x"], "--adam-eps 'x': a number wanted"),
        ([], None),
    ],
)
def test_fairseqs_parser_is_asked(
    models: dict[str, Path],
    cola_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    message: str | None,
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    said = reading.refusal(flags(models, cola_data, *more))
    assert said is None if message is None else message in str(said)


def test_subsets_are_asked_for_before_training(
    models: dict[str, Path],
    cola_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    command = flags(models, cola_data)
    there, wrong = {"--select": "ood"}, {"--until-decided": "tset"}
    assert reading.refusal(command, there) is None
    said = "--until-decided tset: it is evaluated on valid, ood; name one of them"
    assert reading.refusal(command, there | wrong) == said
    # Further files, and what a task itself evaluates on.
    also = [*command, "--steady-also", f"tset={__file__}"]
    assert reading.refusal(also, wrong) is None
    gone = "--steady-also tset=x.tsv: x.tsv is not there; name a labelled file"
    assert reading.refusal([*command, "--steady-also=tset=x.tsv"]) == gone
    glue = [*command, "--task", "glue"]
    assert "--glue-task is missing" in str(reading.refusal(glue, wrong))
    said = "--until-decided tset: it is evaluated on valid, mismatched; name one of"
    assert said in str(reading.refusal([*glue, "--glue-task", "mnli"], wrong))
    said = "--until-decided tset: it is evaluated on valid, ood; name one of them"
    given = {"commands": [("of all plain", command)], "subsets": wrong}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(given)))
    assert reading.main() == 1
    assert capsys.readouterr().err == f"of all plain: {said}\n"


#: What compare.py does with its runs, without its tables.
DRIVER = """
import sys
from pathlib import Path
from fairseq_steady.comparison.execution import Local, run_all
from fairseq_steady.comparison.plan import Plan, named
plan = Plan(Path(sys.argv[1]), named(["plain"], "method"), [1, 2],
            tuple(sys.argv[2:]), {"": ()})
try:
    run_all(plan.runs(), Local(1))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_killed_anywhere_it_goes_on_where_it_was(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    # Long enough to be met.
    words = [str(driver), str(tmp_path), *flags(models, cola_data, "--max-update=60")]

    def start() -> Started:
        return zygote.start(["forking", *words])

    # Stopped, it takes its run along.
    first, second = (tmp_path / "plain" / f"seed{seed}" for seed in (1, 2))
    stopped = start()
    wait_for(first / "train.log")
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate()
    assert stopped.returncode == 130
    wait_until(lambda: free(first))
    assert not (first / "result.json").exists()

    # Killed, it leaves its run behind, which is waited for and not started twice.
    killed = start()
    wait_for(first / "result.json", second / "train.log")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    stamp = (first / "result.json").stat().st_mtime_ns
    inode = (second / "train.log").stat().st_ino
    again = start()
    again.communicate()
    assert again.returncode == 0
    assert (first / "result.json").stat().st_mtime_ns == stamp
    assert (second / "train.log").stat().st_ino == inode
    assert (second / "result.json").is_file()


def free(folder: Path) -> bool:
    with locked(folder) as mine:
        return mine is not None


def wait_until(happened: Callable[[], bool]) -> None:
    for _ in range(4500):
        if happened():
            return
        time.sleep(0.02)
    raise AssertionError("it never happened")


def wait_for(*paths: Path) -> None:
    wait_until(lambda: all(path.is_file() for path in paths))


SLURM = {
    "sbatch": """#!/bin/sh
echo $$ > "$FAKE/job"
SLURM_JOB_ID=7 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 \
SLURM_LOCALID=0 sh "$1" >/dev/null 2>&1 &
grep -h '^#SBATCH' "$1" > "$FAKE/asked"
echo Submitted batch job 7
""",
    "srun": """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; case "$1" in -*) ;; */*%*) shift;; esac; done
exec "$@"
""",
    "sacct": """#!/bin/sh
echo 'JobID|State|NodeList'
echo '7|RUNNING|here'
""",
}


def test_slurm_jobs_leave_the_same_results(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
) -> None:
    """Submitit's own scripts, started by a stand-in for sbatch."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in SLURM.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    words = ["--out", tmp_path / "out", "--methods", "plain", "--seeds", 1]
    words += ["--executor", "slurm", "--slurm", "slurm_partition=gpu", "timeout_min=5"]
    words += ["--", *flags(models, cola_data)]
    search = f"PATH={programs}{os.pathsep}{os.environ['PATH']}"
    command = ["forking", "fairseq-steady", "compare", *map(str, words)]
    (done,) = zygote.run([search, f"FAKE={tmp_path}", *command])
    assert done.returncode == 0, done.stderr[-2000:]
    assert "plain seed 1: ok" in done.stderr
    asked = (tmp_path / "asked").read_text()
    assert "--partition=gpu" in asked
    assert "--time=5" in asked
    (row,) = [r for r in rows(tmp_path / "out" / "table.csv") if r["subset"] == "valid"]
    assert row["n"] == "1 of 1"


# --- the plan ---------------------------------------------------------------------


def plan(out: Path, *methods: str, **changed: Any) -> Plan:
    given = {"seeds": [1, 2], "common": ("D",), "settings": {"": ()}, **changed}
    return Plan(out, named(methods, "method"), **given)


def test_runs_are_paired(tmp_path: Path) -> None:
    runs = plan(tmp_path, "plain", "b=--criterion sift --x {seed}").runs()
    assert [(r.seed, r.method) for r in runs] == [
        *((1, "plain"), (1, "b")),
        *((2, "plain"), (2, "b")),
    ]
    assert runs[3].command == (
        *("fairseq-train", "D", "--criterion", "sift", "--x", "2", "--seed", "2"),
    )
    assert runs[3].folder == tmp_path / "b" / "seed2"


def test_settings_come_before_methods(tmp_path: Path) -> None:
    settings = {"few": ("--n", "1"), "many": ("--n", "2")}
    runs = plan(tmp_path, "plain", settings=settings, seeds=[1]).runs()
    assert [r.folder for r in runs] == [
        tmp_path / "few" / "plain" / "seed1",
        tmp_path / "many" / "plain" / "seed1",
    ]
    assert runs[1].command[1:6] == ("D", "--n", "2", "--criterion", "plain")


def test_braces_are_grids() -> None:
    assert points(("--a", "{1,2}", "--b={x,y}", "{seed}")) == [
        ("--a", "1", "--b=x", "{seed}"),
        ("--a", "1", "--b=y", "{seed}"),
        ("--a", "2", "--b=x", "{seed}"),
        ("--a", "2", "--b=y", "{seed}"),
    ]
    assert points(("--a", "1")) == [("--a", "1")]


def test_tuning_sees_the_selecting_subset_only(tmp_path: Path) -> None:
    tried = plan(tmp_path, "a=--l {1,2}", "b=--m {3,4}", tuning_seeds=[5]).tuning()
    assert len(tried["", "a"]) == len(tried["", "b"]) == 2
    for grid in tried.values():
        for (run,) in grid:
            assert run.seed == 5
            assert run.command[-4:] == ("--valid-subset", "valid", "--seed", "5")
            assert run.folder.is_relative_to(tmp_path / "tuning")


@pytest.mark.parametrize(
    ("select", "kept"), [("valid", "none"), ("far", "far=b"), ("near", "near=c")]
)
def test_tuning_sees_no_further_file(tmp_path: Path, select: str, kept: str) -> None:
    given = ("--steady-also=x=a", "--steady-also", "far=b,near=c", "--x", "-1")
    tried = plan(tmp_path, "a=--l {1,2}", common=given, select=select).tuning()
    for (run,) in tried["", "a"]:
        only = ("--valid-subset", select, f"--steady-also={kept}")
        assert run.command[-5:-2] == only


def test_grids_may_stand_in_settings(tmp_path: Path) -> None:
    made = plan(tmp_path, "a=--x", settings={"s": ("--l", "{1,2}")})
    assert (made.tuned, made.trying, made.tuning_runs) == (True, [1000], 2)
    message = "s a 2, t a 1.*same number"
    with pytest.raises(UserError, match=message):
        plan(tmp_path, "a=--x", settings={"s": ("--l", "{1,2}"), "t": ()})


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["a", "a"], "a is named twice"),
        (["=x"], "has no name"),
        (["a="], "has no flags"),
        (["../a=--x"], "has no name"),
        (["-x=--a 1"], "has no name.*the first of them not - or [.]"),
        (["a" * 61 + "=--x"], "60 at most"),
        (["Tuning=--x"], "Tuning would be mistaken for a file of the results"),
        (["table.md=--x"], "mistaken for a file"),
        (["report.html=--x"], "mistaken for a file"),
        (["A", "a"], "A is named twice"),
        (["a=--x 'y"], "mend the quotes"),
        (["a=--x {1,2}", "b=--x 1"], "a 2, b 1.*same number"),
    ],
)
def test_plans_are_checked(tmp_path: Path, methods: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(tmp_path, *methods)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "expected at least one argument"),
        (["1", "1"], "a seed is given twice"),
        (["-1"], "error: seed -1 is not in 0 to 4294967295"),
    ],
)
def test_an_empty_or_repeated_seed_list_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    seeds: list[str],
    message: str,
) -> None:
    command = ["--out", str(tmp_path), "--methods", "plain"]
    try:
        status: Any = compare.main([*command, "--seeds", *seeds, "--", "D"])
    except SystemExit as stop:
        status = stop.code
    assert status
    assert message in capsys.readouterr().err


# --- the loop, with runs that end at once -------------------------------------------


def test_the_pace_leaves_out_evaluations_and_the_start() -> None:
    """Updates per second between evaluations, else what training takes of a second."""

    def lines(*entries: tuple[int, float, int] | str) -> list[str]:
        names = ("num_updates", "ups", "train_wall")
        said = [
            (e, {}) if isinstance(e, str) else
            ("train_inner", dict(zip(names, e, strict=True))) for e in entries
        ]  # fmt: skip
        return [f"t | INFO | {tag} | {json.dumps(values)}" for tag, values in said]

    slow = lines((10, 0.1, 40), (20, 0.1, 41), (30, 4, 19))
    # Ten in 41 whole seconds, and in 2.5 by updates per second.
    assert seconds_per_update(["x | y", *slow]) == (41 + 2.5) / 20
    assert seconds_per_update(slow[:1]) == 4.0
    fast = lines((10, 5, 0), (20, 50, 0), "valid", (30, 2, 1), (40, 40, 1), "train")
    assert seconds_per_update(fast) == pytest.approx(0.45 / 20)
    hidden = lines((10, 5, 0), "valid", (20, 2, 3), "valid", (40, 0.5, 4))
    assert seconds_per_update(hidden) == 7 / 30
    unsaid = lines((10, 5, 0), "valid", (20, 2, 0), "valid", (30, 0.5, 0))
    assert seconds_per_update(unsaid) == 1 / 1.25
    assert seconds_per_update(lines((10, 0, 0))) is None
    assert seconds_per_update([]) is None


def chain(base: Path, *names: str) -> list[Run]:
    runs: list[Run] = []
    for name in names:
        before = runs[-1] if runs else None
        runs.append(Run("", name, 1, base / name, ("c", name), after=before))
    return runs


def test_a_run_waits_for_the_one_it_starts_from(tmp_path: Path) -> None:
    executor = Instant(lambda _: 0.5)
    first, second, third = chain(tmp_path, "a", "b", "c")
    run_all([third, second, first], executor)
    assert executor.started == ["a seed 1", "b seed 1", "c seed 1"]
    task = json.loads((tmp_path / "b" / "run.json").read_text())
    assert task["after"] == str(tmp_path / "a" / "checkpoint_best.pt")


def test_what_follows_a_crash_crashes_with_it(tmp_path: Path) -> None:
    executor = Instant(lambda run: None if run.method == "a" else 0.5)
    found = run_all(chain(tmp_path, "a", "b", "c"), executor)
    assert executor.started == ["a seed 1"]
    assert [r.status for r in found] == [
        "crashed: lightning",
        "crashed: a seed 1 did",
        "crashed: b seed 1 did",
    ]


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    run = Run("", "a", 1, tmp_path / "a", ["nothing"])
    prepare(run)
    job = Local(1).start(run, 0)
    while not job.done():
        time.sleep(0.05)
    assert job.reason().startswith("the worker ended with status 1: ")
    assert job.reason().endswith("starts with no program; start the comparison again")


def test_what_is_not_installed_has_no_version() -> None:
    assert _version("numpy") == np.__version__
    assert _version("fairseq-unsteady") == "not installed"


def test_runs_that_all_crash_alike_are_not_all_tried(tmp_path: Path) -> None:
    """Three tell enough; one that trains, now or before, says the rest may too."""
    executor = Instant(lambda _: None, jobs=1)
    runs = [Run("", name, 1, tmp_path / name, ("c", name)) for name in "abcde"]
    said = r"the first 3 runs crashed: lightning \(log: .*/c/train.log\); mend that"
    with pytest.raises(UserError, match=said):
        run_all(runs, executor)
    assert executor.started == ["a seed 1", "b seed 1", "c seed 1"]

    some = Instant(lambda run: 0.5 if run.method == "b" else None)
    assert [result.ok for result in run_all(runs, some)] == [0, 1, 0, 0, 0]
    executor.started.clear()
    assert sum(result.ok for result in run_all(runs, executor)) == 1
    assert executor.started == ["a seed 1", "c seed 1", "d seed 1", "e seed 1"]


def test_healthy_runs_go_on_beside_three_that_crash(tmp_path: Path) -> None:
    """Only the first three that were started tell of all."""
    runs = [
        Run("", name, seed, tmp_path / name / f"{seed}", ("c", name))
        for name, seeds in (("plain", (1, 2)), ("bad", (1, 2, 3, 4)))
        for seed in seeds
    ]

    class Slow(Instant):
        """The healthy ones end when the others have crashed."""

        def start(self, run: Run, slot: int) -> Any:
            job = super().start(run, slot)
            if run.method == "plain":
                (run.folder / "result.json").rename(run.folder / "late")
                job.done = lambda: len(self.started) > 5 and self._end(run)
            return job

        def _end(self, run: Run) -> bool:
            if (run.folder / "late").exists():
                (run.folder / "late").rename(run.folder / "result.json")
            return True

    executor = Slow(lambda run: 0.5 if run.method == "plain" else None, jobs=3)
    assert [one.ok for one in run_all(runs, executor)] == [True] * 2 + [False] * 4
    # So are runs that follow others, as averages do.
    last = [Run("", "x", s, tmp_path / f"x{s}", ("c",)) for s in (1, 2, 3)]
    assert not any(one.ok for one in run_all(last, executor, trained=True))


def test_what_another_program_made_meanwhile_stands(tmp_path: Path) -> None:
    """Its result is taken if it is of the same plan, and not made again."""
    one, other = (Run("", n, 1, tmp_path / n, ("c", n)) for n in ("a", "b"))

    def score(run: Run) -> float:
        if run is one:
            command = [*other.command, *more]
            made = result("b", 1, 0.7, command=command)
            other.folder.mkdir(exist_ok=True)
            results.write(other.folder / "result.json", made)
        return 0.5

    more: list[str] = []
    executor = Instant(score, jobs=1)
    assert run_all([one, other], executor)[1].evaluations[0]["valid"] == {"mcc": 0.7}
    assert executor.started == ["a seed 1"]
    shutil.rmtree(tmp_path)
    more.append("--lr=1")
    with pytest.raises(UserError, match="b/result.json is of another plan"):
        run_all([one, other], executor)


def test_a_run_that_another_program_is_at_is_checked_too(tmp_path: Path) -> None:
    (run,) = chain(tmp_path, "a")
    run.folder.mkdir()
    with locked(run.folder):
        job = execution._Elsewhere(run.folder)
        assert not job.done()
    nobody: Any = None
    loop = execution._Loop(Instant(lambda _: 0.5), nobody, {}, trained=False)
    results.write(run.folder / "result.json", result("a", 1, 0.7, command=["d"]))
    with pytest.raises(UserError, match="is of another plan"):
        loop._finish(0, run, job)
    (run.folder / "result.json").unlink()
    with locked(run.folder):  # our worker came second, and left nothing
        ours: Any = SimpleNamespace(reason=lambda: "it was late")
        loop._finish(0, run, ours)
        waiting: Any = loop.running[0][1]
        assert isinstance(waiting, execution._Elsewhere)
        waiting.stop()  # not ours
    assert loop.known == {}


def test_a_killed_run_of_another_program_is_begun_again(tmp_path: Path) -> None:
    """What was waited for and left no result is a gap, not a crash."""
    executor, (run,), other = Instant(lambda _: 0.5), chain(tmp_path, "a"), ExitStack()
    run.folder.mkdir()
    assert other.enter_context(locked(run.folder))
    Timer(0.2, other.close).start()
    (made,) = run_all([run], executor)
    assert (made.status, executor.started) == ("ok", ["a seed 1"])


def test_a_training_holds_its_folder_when_its_worker_is_killed(tmp_path: Path) -> None:
    """Nobody clears the folder, or trains in it, while it still writes there.

    Who started the worker can end its training.
    """
    (run,) = chain(tmp_path, "a")
    run.folder.mkdir()
    prepare(replace(run, command=("probe",)))
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    worker = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys; from pathlib import Path;"
            "from fairseq_steady.comparison import worker;"
            "worker.PROGRAMS['probe'] = [sys.executable, '-c', sys.argv[1]];"
            "worker._flags = lambda *_: [];"
            "worker.train(Path(sys.argv[2]))",
            *(program, str(run.folder)),
        ],
        start_new_session=True,
    )
    log = run.folder / "train.log"
    wait_until(lambda: log.is_file() and log.read_text().endswith("\n"))
    worker.kill()
    worker.wait()
    assert not free(run.folder)
    ours = execution._Process(worker, io.BytesIO())
    nobody: Any = None
    loop = execution._Loop(Instant(lambda _: 0.5), nobody, {}, trained=False)
    loop._finish(0, run, ours)
    waiting: Any = loop.running[0][1]
    assert not waiting.done()
    assert waiting.worker is ours
    waiting.stop()
    wait_until(lambda: free(run.folder))
    ours.stop()  # of what has ended


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.kill(os.getpid(), 9)", "ended by signal 9 (Killed); so the kernel does"),
        ("os.kill(os.getpid(), 11)", "ended by signal 11 (Segmentation fault)"),
        ("sys.exit('error: no room')", "error: no room"),
        ("print(end='', flush=True); os._exit(3)", "a line like any other"),
    ],
)
def test_a_run_that_is_killed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, said: str
) -> None:
    """Not what its log happens to end with."""
    (run,) = chain(tmp_path, "a")
    run.folder.mkdir()
    prepare(replace(run, command=("probe",)))
    program = f"import os, sys; print('a line like any other', flush=True); {end}"
    monkeypatch.setitem(worker.PROGRAMS, "probe", [sys.executable, "-c", program])
    monkeypatch.setattr(worker, "_flags", lambda *_: [])
    worker.train(run.folder)
    status = results.load(run.folder / "result.json").status
    assert status.startswith(f"crashed: {said}")


def test_a_diverged_run_is_an_outcome(tmp_path: Path) -> None:
    """It has no score, and is not tried again; a crash is."""
    executor = Instant(lambda _: None)
    runs = [Run("", n, 1, tmp_path / n, ("c", n), keep=True) for n in "ab"]
    for run, status in zip(runs, ("diverged: nan", "crashed: rain"), strict=True):
        run.folder.mkdir()
        made = result(run.method, 1, status=status, command=[*run.command])
        results.write(run.folder / "result.json", made)
    assert [one.status for one in run_all(runs, executor)] == [
        "diverged: nan",
        "crashed: lightning",
    ]
    assert executor.started == ["b seed 1"]
    lost = [result("lost", s, 0.5) for s in (1, 2)]
    lost.append(result("lost", 3, status="diverged: nan"))
    row = table.tables([result("plain", 1, 0.4), *lost], MCC)[
        table.Title("", "valid", "mcc")
    ][1]
    assert (row["mean ± std"], row["n"], row["failed"]) == ("nan", "3 of 3", "1")
    assert reasons(lost) == ""
    # Also where no run is left that says what is always answered.
    assert table.failed(lost[2:], MCC, "valid") == 1


def test_every_grid_point_is_read_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    subsets: list[dict[str, str]] = []

    def read(_: Any, **given: Any) -> Any:
        said = json.loads(given["input"])
        asked.extend(flags for _, flags in said["commands"])
        subsets.append(said["subsets"])
        return subprocess.CompletedProcess([], 1, "", "b: no such flag\n")

    monkeypatch.setattr(subprocess, "run", read)
    tried = plan(tmp_path, "a=--l {1,2}", "b=--m {3,x}", tuning_seeds=[5, 6]).tuning()
    with pytest.raises(UserError, match="b: no such flag"):
        check(every(tried))
    with pytest.raises(UserError, match="b: no such flag"):
        read_commands(every(tried)[:1], {"--select": "ood"})
    assert subsets == [{}, {"--select": "ood"}]
    del asked[-1]
    assert [flags[1:3] for flags in asked] == [
        *(["--l", "1"], ["--l", "2"], ["--m", "3"], ["--m", "x"]),
    ]


def test_settings_of_slurm_are_for_slurm(tmp_path: Path) -> None:
    args = arguments(tmp_path, executor="local", slurm=["timeout_min=5"])
    with pytest.raises(UserError, match="--slurm is for --executor slurm; add it"):
        make_executor(args)


@pytest.mark.parametrize("evaluated", [False, True])
def test_what_finite_says_is_divergence(evaluated: bool) -> None:
    """The plugin's own words, whatever the method, are known again."""
    cfg = SimpleNamespace(
        criterion=SimpleNamespace(_name="sift"),
        optimization=SimpleNamespace(lr=[1.0], clip_norm=1),
    )
    trainer = SimpleNamespace(cfg=cfg, get_num_updates=lambda: 7)

    def train() -> None:
        if evaluated:
            finite.of_losses(lambda _: {"loss": math.nan})(trainer)
        with finite.naming_the_update(trainer):
            raise finite.NotFinite("the gradient is NaN or infinite")

    with pytest.raises(UserError) as error:
        train()
    assert worker._LOST.search(f"error: {error.value}")
    assert not worker._LOST.search("error: --sift-step -1.0 is out of range")


def test_what_started_from_a_lost_run_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Instant(lambda _: 0.5)
    runs = chain(tmp_path, "a", "b")
    run_all(runs, executor)
    run_all(runs, executor)
    assert executor.started == ["a seed 1", "b seed 1"]
    (tmp_path / "a" / "result.json").unlink()
    run_all(runs, executor)
    assert executor.started[2:] == ["a seed 1", "b seed 1"]
    assert "trained again" not in capsys.readouterr().err  # of a checkpoint's loss


def test_a_checkpoint_is_needed_only_while_something_starts_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Instant(lambda _: 0.5)
    first, last = chain(tmp_path, "a", "b")
    kept = replace(first, keep=True)
    runs = [kept, replace(last, after=kept)]
    run_all(runs, executor)
    run_all(runs, executor)  # nothing wrote a checkpoint, and nothing misses it
    assert "trained again" not in capsys.readouterr().err
    assert executor.started == ["a seed 1", "b seed 1"]
    (tmp_path / "b" / "result.json").unlink()
    run_all(runs, executor)
    assert executor.started[2:] == ["a seed 1", "b seed 1"]
    run_all([kept], executor)  # asked for by itself
    assert executor.started[4:] == ["a seed 1"]
    said = " ".join(capsys.readouterr().err.split())
    assert "or whose is gone, and are trained again: 1" in said
    write_result(first.folder / "result.json", crashed(kept, "lightning"))
    run_all([kept], executor)
    assert executor.started[5:] == ["a seed 1"]
    assert "trained again" not in capsys.readouterr().err


def test_what_another_process_has_made_again_is_not_made_twice(tmp_path: Path) -> None:
    """Two commands start where the same run crashed; one comes to it later."""
    (run,) = chain(tmp_path, "a")
    run.folder.mkdir()
    path = run.folder / "result.json"
    write_result(path, crashed(run, "lightning"))
    os.utime(path, ns=(1, 1))
    executor, display = Instant(lambda _: 0.5), mock.Mock()
    loop = execution._Loop(executor, display, {}, trained=True)
    (begun, start) = loop._begin, []

    def late(one: Run, slot: int) -> None:
        write_result(path, result("a", 1, 0.9, command=list(run.command)))
        start.append(one)
        begun(one, slot)

    loop._begin = late  # type: ignore[method-assign]
    loop.work([run])
    assert start == [run]
    assert executor.started == []
    assert loop.known[run.folder].evaluations[0]["valid"]["mcc"] == 0.9


def test_runs_that_were_not_made_alike_are_said(tmp_path: Path) -> None:
    alike = [result(m, s, 0.5) for m in ("plain", "more") for s in range(1, 6)]
    assert unlike(alike) == {}
    made = [
        replace(one, commit="b1", machine="laptop") if one.method == "more" else one
        for one in alike
    ]
    said = unlike([*made, result("lost", 1, status="crashed: x", versions={"x": "1"})])
    assert said == {
        "runs": "not all were made alike: commit unknown (plain), b1 (more); machine "
        "unknown (plain), laptop (more). Where methods differ in these, so may their "
        "scores for it, and times do not compare."
    }
    old = [replace(alike[0], versions={}), *alike[1:]]
    assert "torch unknown (plain), 2 (plain, more). W" in unlike(old)["runs"]
    many = [replace(one, commit=str(n)) for n, one in enumerate(alike[:5])]
    said = unlike(many)["runs"]
    assert "commit 0 (plain), 1 (plain), 2 (plain) and 2 more. W" in said


def test_runs_of_changed_files_are_said() -> None:
    read = {"SST-2/train.tsv": "0123456789", "SST-2/dev.tsv": "aa", "bge/model.pt": "b"}
    before = [replace(result("plain", s, 0.5), files=read) for s in (1, 2)]
    other = replace(result("e5", 1, 0.5), files={**read, "e5/model.pt": "c"})
    other.files.pop("bge/model.pt")
    assert unlike([*before, other]) == {}
    changed = {**read, "SST-2/train.tsv": "9876543210"}
    after = [replace(result("sift", 1, 0.5), files=changed), replace(before[0], seed=3)]
    said = unlike([*before, *after, replace(after[0], method="plain")])["runs"]
    assert "alike: SST-2/train.tsv 01234567 (plain), 98765432 (sift, plain). W" in said
    apart = [replace(before[0], setting="all"), replace(after[0], setting="half")]
    assert unlike(apart) == {}


def test_a_lock_is_free_when_its_process_is_gone(tmp_path: Path) -> None:
    (run,) = chain(tmp_path, "a")
    run.folder.mkdir()
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import fcntl, sys, time; f = open(sys.argv[1], 'w');"
            "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)",
            str(run.folder / "lock"),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with locked(run.folder) as mine:
        assert not mine
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(run.folder) as mine:
        assert mine


def test_an_interrupt_stops_what_runs(tmp_path: Path) -> None:
    stopped = []

    class Forever:
        jobs = 1

        def start(self, run: Run, slot: int) -> Any:
            def done(_: Any) -> bool:
                raise KeyboardInterrupt

            stop = lambda _: stopped.append(run.name)  # noqa: E731
            return type("Job", (), {"done": done, "stop": stop})()

    with pytest.raises(KeyboardInterrupt):
        run_all(chain(tmp_path, "a"), Forever())  # type: ignore[arg-type]
    assert stopped == ["a seed 1"]


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    for jobs, expected in (
        (1, ["4,5,6,7"]),
        (2, ["4,5", "6,7"]),
        (3, ["4", "5", "6"]),  # as many for each, or their batches would differ
        (5, ["4", "5", "6", "7", "4"]),
    ):
        shares = [Local(jobs)._environment(slot) for slot in range(jobs)]
        assert [one["CUDA_VISIBLE_DEVICES"] for one in shares] == expected


def arguments(out: Path, *methods: str, **changed: Any) -> Any:
    given = {
        "out": out, "methods": list(methods), "seeds": [1, 2], "settings": ["all="],
        "metric": None, "select": "valid", "tuning_seeds": None, "keep": False,
        "jobs": 1, "train": ["D"], "count_tuning_seeds": False,
    }  # fmt: skip
    return type("Arguments", (), {**given, **changed})()


def test_the_best_grid_point_is_chosen_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(run: Run) -> float:
        text = " ".join(run.command)
        return 0.9 if "--l 2" in text or "--m 3" in text else -0.1

    executor = Instant(score)
    args = arguments(tmp_path, "a=--l {1,2}", "b=--m {3,4}")
    made = comparing.make_plan(args)
    chosen, *_ = comparing.tune(made, executor, args)
    assert chosen == {("", "a"): 1, ("", "b"): 0}
    found = {(r["method"], r["flags"]): r for r in rows(tmp_path / "tuning.csv")}
    # A spreadsheet would read the flags as a formula; a negative number is one.
    assert found["a", "'--l 2"]["chosen"] == "yes"
    assert found["a", "'--l 1"]["mcc valid"] == "-0.1000"
    commands = {r.command for r in made.runs(chosen)}
    assert all("2" in c or "3" in c for c in commands)
    assert executor.started == [
        *["a seed 1000"] * 2,
        *["b seed 1000"] * 2,
    ]


def test_tuning_over_settings_of_several_metrics_is_one_line(tmp_path: Path) -> None:
    args = arguments(tmp_path, "a=--l {1,2}")
    args.settings = ["cola=", "stsb="]
    executor = Instant(lambda _: 0.5)
    start = executor.start

    def other(run: Run, slot: int) -> Any:
        made = start(run, slot)
        if run.setting == "stsb":
            one = [{"updates": 10, "valid": {"pearson": 0.5}, "ood": {"pearson": 0.4}}]
            named = {"setting": run.setting, "command": list(run.command)}
            found = result(run.method, run.seed, evaluations=one, **named)
            write_result(run.folder / "result.json", found)
        return made

    executor.start = other  # type: ignore[method-assign]
    with pytest.raises(UserError, match="setting stsb has no mcc on valid to tune by"):
        comparing.tune(comparing.make_plan(args), executor, args)


def test_a_crash_in_tuning_ends_it_before_anything_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chosen without the point, its retry would choose otherwise than the runs did."""
    scores = {("1", 8): 0.2, ("1", 9): 0.3, ("2", 9): 0.9, ("2", 1): 0.4}
    executor = Instant(lambda run: scores.get((run.command[3], run.seed)))
    monkeypatch.setattr(comparing, "make_executor", lambda _: executor)
    monkeypatch.setattr(comparing, "check", lambda _: None)
    monkeypatch.setattr(comparing, "read", lambda *_: None)
    command = ["--out", str(tmp_path), "--methods", "a=--x", "--seeds", "1"]
    command += ["--tuning-seeds", "8", "9", "--", "D", "--l", "{1,2}"]
    reported: list[Any] = []
    monkeypatch.setattr(comparing, "_write", lambda *given: reported.extend(given[-1]))
    assert compare.main(command) == 1
    assert len(executor.started) == 4
    assert not (tmp_path / "tuning.csv").exists()
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: in tuning 1 crashed: lightning. Mend that and give")
    scores["2", 8] = 0.7
    assert compare.main(command) == 0
    assert executor.started[4:] == ["a seed 8", "a seed 1"]
    for written in (rows(tmp_path / "tuning.csv"), reported):
        assert [row["chosen"] for row in written] == ["", "yes"]
        assert [row["mcc valid"] for row in written] == ["0.2500", "0.8000"]


# --- statistics, against scipy and by hand -------------------------------------------


def test_interval_and_p_are_students() -> None:
    """By hand: 5 differences, mean 0.3, sd 0.2; t of 4 degrees at 97.5 % is 2.776."""
    gaps = [0.3 + 0.2 * z for z in (-1.2, -0.4, 0.0, 0.4, 1.2)]
    spread = 0.2 * math.sqrt((2 * 1.44 + 2 * 0.16) / 4)
    half = 2.7764451 * spread / math.sqrt(5)
    assert interval(gaps) == pytest.approx((0.3 - half, 0.3 + half))
    assert interval(gaps, 0.5)[1] == pytest.approx(
        0.3 + 0.7406971 * spread / math.sqrt(5)
    )
    # |t| = 3.75: of the t distribution with 4 degrees, 1 - F in closed form.
    x = 0.3 / (spread / math.sqrt(5)) / 2
    tail = 1 - x / math.sqrt(1 + x**2) * (1 + 1 / (2 * (1 + x**2)))
    assert p_value(gaps) == pytest.approx(tail, rel=1e-9)


def test_differences_pair_seeds() -> None:
    found = difference({1: 0.5, 2: 0.6, 4: 0.9}, {2: 0.5, 1: 0.2, 3: 0.0})
    assert found.pairs == 2
    assert found.mean == pytest.approx(0.2)
    assert found.spread == pytest.approx(math.sqrt(0.02))
    assert math.isnan(found.low)
    assert math.isnan(found.p)  # fewer than five
    assert interval([0.1] * 5) == (0.1, 0.1)
    assert p_value([0.1] * 5) == 2 / 2**5
    assert p_value([0.0] * 5) == 1
    # What is equal but for rounding has no spread either.
    rounded = difference({1: 0.3, 2: 0.1}, {1: 0.2, 2: 0.0})
    assert rounded.spread == 0 != 0.3 - 0.2 - 0.1
    assert p_value([0.1, 0.1 + 1e-17, 0.3 - 0.2, 0.1, 0.1]) == 2 / 2**5
    assert all(map(math.isnan, interval([0.1, 0.2, 0.3, 0.4])))
    assert math.isnan(difference({1: 0.5}, {2: 0.5}).p)


def test_holms_correction() -> None:
    drawn = list(np.random.default_rng(1).uniform(0, 0.2, 9))
    assert holm(drawn) == pytest.approx(multipletests(drawn, method="holm")[1])
    assert holm([0.01, 0.04, math.nan, 0.03]) == pytest.approx(
        [0.03, 0.06, math.nan, 0.06], nan_ok=True
    )
    assert holm([]) == []


def earned(metric: str, gold: list[Any], classes: int) -> float:
    outputs = [[0.0] * classes] * len(gold)
    return majority_baseline(metric, {"gold": gold, "outputs": outputs})


@pytest.mark.parametrize(
    ("metric", "gold", "classes", "expected"),
    [
        ("mcc", [1, 1, 0, 1], 2, 0.0),
        ("accuracy", [1, 1, 0, 1], 2, 0.75),
        ("f1", [1, 1, 0, 1], 2, 6 / 7),
        ("f1", [1, 0], 2, 2 / 3),  # of equally frequent ones the better answer
        ("pearson", [0.1, 0.2], 1, 0.0),
        ("balanced_accuracy", [0, 0, 1], 2, 0.5),
        ("macro_f1", [0, 0, 1], 2, 0.4),
        ("f1", [0, 0, 2], 3, 0.8 / 3),  # over all classes, as it is logged
        ("subset_accuracy", [[1, 0], [1, 0], [1, 1], [0, 0]], 2, 0.5),
        ("micro_f1", [[1, 0], [1, 0], [1, 1], [0, 0]], 2, 6 / 8),
        ("macro_f1", [[1, 0], [1, 0], [1, 1], [0, 0]], 2, 6 / 7 / 2),
        ("loss", [1, 0], 2, math.nan),
        ("accuracy", [1, 1], 2, math.nan),  # no answer is told from the others
    ],
)
def test_majority_baselines(
    metric: str, gold: list[Any], classes: int, expected: float
) -> None:
    assert earned(metric, gold, classes) == pytest.approx(expected, nan_ok=True)


def test_expected_best_by_enumeration() -> None:
    scores = [0.3, 0.1, 0.7]
    pairs = [max(a, b) for a in scores for b in scores]
    assert expected_best(scores, 1) == pytest.approx(np.mean(scores))
    assert expected_best(scores, 2) == pytest.approx(np.mean(pairs))


# --- tables, figures, card, from stored results -------------------------------------


@pytest.fixture
def stored() -> list[Result]:
    return [
        *(result("plain", s, 0.1, v) for s, v in ((1, 0.2), (2, 0.3), (3, 0.0))),
        *(
            result("sift", s, v, 0.2, seconds_per_update=1.0)
            for s, v in ((1, 0.4), (2, 0.3), (3, 0.5))
        ),
        result("bad", 1, status="crashed: error: nothing"),
    ]


def test_time_is_that_of_all_updates() -> None:
    longer, shorter = result("longer", 1, 0.1, 0.2), result("shorter", 1, 0.1)
    shorter.seconds_per_update = 0.75
    costs = table._costs([shorter], [longer])
    assert (costs["s/update"], costs["time"]) == ("0.75", "0.75x")
    # What was cut short says nothing of what it costs.
    lost = [replace(shorter, status="diverged: loss", seconds_per_update=0.1)] * 3
    assert table._costs([*lost, shorter], [*lost, longer]) == costs


def test_a_run_of_unknown_time_is_not_one_of_none() -> None:
    made = [
        result("plain", seed, 0.5, seconds=at) for seed, at in ((1, 8.0), (2, None))
    ]
    axis = mock.MagicMock()
    axis.errorbar.return_value = [mock.MagicMock()]
    figures.costs(axis, made, MCC, "valid")
    assert axis.errorbar.call_args.args[:2] == (8.0, 0.5)
    figures.costs(axis, [replace(one, seconds=None) for one in made], MCC, "valid")
    assert axis.errorbar.call_count == 1


def test_a_setting_of_another_metric_has_no_table(tmp_path: Path) -> None:
    other = [{"updates": 10, "valid": {"pearson": 0.5}, "ood": {"pearson": 0.4}}]
    made = [
        result("plain", 1, 0.1, setting="cola"),
        result("plain", 1, setting="stsb", evaluations=other),
    ]
    write_all(tmp_path, made, MCC)
    assert {r["setting"] for r in rows(tmp_path / "table.csv")} == {"cola"}
    runs = {r["setting"]: r for r in rows(tmp_path / "runs.csv")}
    assert (runs["cola"]["mcc valid"], runs["stsb"]["mcc valid"]) == ("0.1", "")


def test_runs_share_the_cores_that_the_process_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7, 8, 9, 11})
    assert Local(2)._environment(0)["OMP_NUM_THREADS"] == "3"
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert Local(2)._environment(0)["OMP_NUM_THREADS"] == "4"


def test_tables_say_everything(stored: list[Result], tmp_path: Path) -> None:
    write_all(tmp_path, stored, MCC)
    found = {(r["method"], r["subset"]): r for r in rows(tmp_path / "table.csv")}
    plain, sift = found["plain", "valid"], found["sift", "valid"]
    # Seed 3 of plain is best at its first evaluation.
    assert plain["mean ± std"] == "0.200 ± 0.100"
    assert (plain["median"], plain["best"], plain["n"]) == ("0.200", "0.300", "3 of 3")
    assert sift["difference [95 %]"] == "+0.200"  # no interval of three seeds
    assert "p (Holm)" not in sift or not sift["p (Holm)"]
    assert (sift["time"], sift["memory"]) == ("2.00x", "1.00x")
    assert found["sift", "ood"]["mean ± std"] == "0.200 ± 0.050"
    assert found["bad", "valid"]["n"] == "0 of 1"
    text = (tmp_path / "table.md").read_text()
    assert "95 % t interval over seeds; none below 5 seeds" in text
    assert "| sift" in text
    assert r"0.400 $\pm$ 0.100" in (tmp_path / "table.tex").read_text()
    assert len(rows(tmp_path / "runs.csv")) == 7


def test_five_seeds_have_an_interval() -> None:
    made = [
        result(name, s, 0.1 * s + up, predictions={})
        for name, up in (("plain", 0), ("same", 0), ("up", 0.1))
        for s in range(1, 6)
    ]
    (found, _) = table.tables(made, MCC).values()
    assert [row["difference [95 %]"] for row in found] == [
        "", "+0.000 [+0.000, +0.000]", "+0.100 [+0.100, +0.100]",
    ]  # fmt: skip


def test_failed_runs_are_those_at_the_majority_baseline() -> None:
    low = [result("a", 1, 0.0), result("a", 2, -0.1), result("a", 3, 0.1)]
    assert table.failed(low, MCC, "valid") == 2
    unknown = [result("a", 1, 0.0, predictions={})]
    assert table.failed(unknown, MCC, "valid") is None


def test_a_wrong_metric_or_subset_names_the_right_ones(stored: list[Result]) -> None:
    with pytest.raises(UserError, match="no metric f9; choose --metric from mcc"):
        Scored("f9", True, "valid").best(stored[0])
    with pytest.raises(UserError, match="not evaluated on test but on valid, ood"):
        Scored("mcc", True, "test").best(stored[0])


def test_figures_are_drawn_from_stored_results(
    stored: list[Result], tmp_path: Path
) -> None:
    figures.draw_all(tmp_path, stored, MCC)
    made = {p.name for p in tmp_path.iterdir()}
    assert made == {f"{n}.{s}" for n in figures.PANELS for s in ("png", "svg")}
    before = (tmp_path / "scores.svg").read_text()
    figures.draw_all(tmp_path, stored, MCC)
    assert (tmp_path / "scores.svg").read_text() == before


def test_a_subset_without_the_metric_has_no_table(tmp_path: Path) -> None:
    """As one without groups, by the worst of them; the others have theirs."""
    made = [result(name, s, 0.1 * s) for name in ("a", "b") for s in (1, 2)]
    for one in made:
        metrics: Any = one.evaluations[0]
        metrics["ood"] = {"accuracy": 0.5}
    write_all(tmp_path, made, MCC)
    assert {row["subset"] for row in rows(tmp_path / "table.csv")} == {"valid"}
    assert "mcc ood" not in (tmp_path / "runs.csv").read_text()
    unstable = instability.tables(made, MCC)
    assert {row["subset"] for row in next(iter(unstable.values()))} == {"valid"}
    figures.draw_all(tmp_path, made, MCC)
    assert MCC.subsets(made) == ["valid"]
    # Nor has one setting of two, where the other has it.
    other = [result("a", 1, 0.3, setting="few")]
    figures.draw_all(tmp_path, [*made, *other], MCC)
    both = table.tables([*made, *other], MCC)
    assert [(t.setting, t.subset) for t in both] == [
        *(("", "valid"), ("few", "valid"), ("few", "ood")),
    ]


def test_settings_of_several_metrics_are_written_whole(tmp_path: Path) -> None:
    """What one of them lacks ends nothing, whichever comes first."""
    has = [result(m, s, 0.1 * s, setting="cola") for m in "ab" for s in (1, 2)]
    one = [{"updates": 10, "valid": {"pearson": 0.5}, "ood": {"pearson": 0.4}}]
    lacks = [replace(r, setting="stsb", evaluations=one) for r in has]
    args = arguments(tmp_path, "a", "b", metric="mcc", select=None)
    for made in ([*has, *lacks], [*lacks, *has]):
        out = tmp_path / made[0].setting
        scored = comparing.measure(args, comparing.make_plan(args), made)
        comparing._write(out, made, scored, [], [])
        assert (out / "report.html").is_file()
        unstable = rows(out / "instability.csv")
        assert {row["setting"] for row in unstable} == {"cola"}
        assert [row["subset"] for row in unstable[:3]] == [
            "valid",
            "ood",
            "worst (ood)",
        ]
    lost = [replace(r, status="diverged: x", evaluations=[]) for r in has[2:]]
    (of_one,) = instability.tables([*has[:2], *lost], MCC).values()
    assert [(r["method"], r["subset"], r["mean"]) for r in of_one[3:5]] == [
        ("b", "valid", "nan"), ("b", "ood", "nan"),
    ]  # fmt: skip
    args = arguments(tmp_path, "a", metric="f9", select=None)
    with pytest.raises(UserError, match="no metric f9; choose --metric from mcc"):
        comparing.measure(args, comparing.make_plan(args), [*has, *lacks])


def test_curves_leave_out_what_is_no_number() -> None:
    from matplotlib import pyplot

    axis = pyplot.figure().subplots()
    figures.curves(axis, [result("a", 1, 0.1, math.nan, 0.3)], MCC, "valid")
    assert [len(line.points) for line in axis.lines] == [2, 2]
    pyplot.close()


def test_the_card_of_several_settings_is_of_all_of_them() -> None:
    scores = {"few": {"plain": 0.1, "sift": 0.5}, "many": {"plain": 0.7, "sift": 0.6}}
    made = [
        result(method, seed, score, setting=setting, command=["c", "--n", setting])
        for setting, of in scores.items()
        for method, score in of.items()
        for seed in (1, 2)
    ]
    made.append(result("never", 1, status="crashed: rain", setting="few"))
    assert winner_card.winner(made, MCC) == "sift"
    # More seeds of one setting, as --until-decided adds them, are no vote of their own.
    more = [result("plain", seed, 0.7, setting="many") for seed in range(3, 20)]
    assert winner_card.winner([*made, *more], MCC) == "sift"
    # The easy half alone is no better than both.
    easy = result("easy", 1, 0.9, setting="many")
    assert winner_card.winner([*made, easy], MCC) == "sift"
    said = "over all of few, many; the command is few's"
    assert said in winner_card.describe(made, MCC)


def test_a_plugin_that_a_command_names_is_left_alone(
    stored: list[Result], tmp_path: Path
) -> None:
    run = Run("", "x", 1, tmp_path, ("fairseq-train", "d", "--user-dir=mine"))
    execution.prepare(run)
    task = worker._task(tmp_path / worker.TASK)
    assert "--user-dir" not in worker._flags(tmp_path, task)
    for one in stored:
        one.command = list(run.command)
    assert "\nfairseq-train d " in winner_card.describe(stored, MCC)


def test_the_card_of_summaries_has_how_many() -> None:
    gold: Any = {"gold": [1.0, 2.0], "scores": {"mcc": [0.1, 0.3]}}
    one = result("a", 1, 0.2, predictions={}, summaries={"valid": gold})
    assert "; evaluated on 2 valid\n" in winner_card.describe([one], MCC)
    bare = replace(one, summaries={})
    assert "; evaluated on valid, ood\n" in winner_card.describe([bare], MCC)


def test_the_card_is_the_winners(stored: list[Result]) -> None:
    text = winner_card.describe(stored, MCC)
    assert text.startswith("# cola, fine-tuned with sift")
    assert "Seeds: 1, 2, 3" in text
    assert "| sift" in text
    assert "licence" in text


def test_results_survive_the_file(tmp_path: Path) -> None:
    one = result("plain", 1, 0.1 + 0.2)
    write_result(tmp_path / "result.json", one)
    assert asdict(results.load(tmp_path / "result.json")) == asdict(one)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result.json is not JSON.*train that run ag"):
        results.load(tmp_path / "result.json")


# --- what a result says of its making ---------------------------------------------


def test_results_are_read_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = TypeAdapter(Result).validate_python(
            {
                "setting": "",
                "method": "plain",
                "seed": 1,
                "command": ["fairseq-train"],
                "evaluations": [{"updates": 3, "valid": {"mcc": 0.5}}],
            }
        )
    assert found.evaluations == [{"updates": 3, "valid": {"mcc": 0.5}}]


def test_the_commit_is_of_the_checkout_that_holds_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "worker.py"
    monkeypatch.setattr(worker, "__file__", str(here))
    assert worker._commit() == ""  # no checkout at all

    def git(*words: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        return subprocess.check_output(
            ["git", *author, *words], cwd=tmp_path, text=True
        ).strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "another project")
    here.write_text("")
    assert worker._commit() == ""  # installed inside another project's checkout
    git("add", here.name)
    git("commit", "-q", "-m", "this one")
    assert worker._commit() == git("rev-parse", "--short", "HEAD")
    monkeypatch.setenv("PATH", "")
    assert worker._commit() == ""  # no git on this machine
