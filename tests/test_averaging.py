"""Averages of weights: kept checkpoints, their mean, evaluated as in training."""

import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from conftest import run_forking
from fairseq_steady.comparison import ensembles, worker
from fairseq_steady.comparison.plan import Plan, named
from fairseq_steady.comparison.results import write as write_result
from fairseq_steady.errors import UserError
from fairseq_steady.inference import averaging
from fairseq_steady.inference.averaging import mean_weights
from fairseq_steady.inference.predicting import Predictor
from helpers import checkpoint, result
from sklearn.metrics import matthews_corrcoef


def test_soup_end_to_end(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    """Of heads that are bounded: what is evaluated is what is written."""
    out, method = tmp_path / "out", "r4f=--criterion r4f --r4f-norm exact"
    done = run_forking(
        "compare", "--out", out, "--methods", method, "--seeds", 1, 2, "--jobs", 2,
        "--keep", "--", cola_data, "--task=cola", "--cpu", "--batch-size=8",
        f"--steady-model={models['roberta']}", "--optimizer=adam", "--lr=1e-3",
        "--steady-updates", 10, "--user-dir", Path(worker.__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    folders = [out / "r4f" / name for name in ("seed1", "seed2", "average")]
    one, other, mean = (checkpoint(f, "checkpoint_best.pt")["model"] for f in folders)
    assert "spectral" in "".join(one)
    assert "spectral" not in "".join(mean)
    for name, weight in mean.items():
        expected = (one[name].double() + other[name].double()) / 2
        torch.testing.assert_close(weight.double(), expected, rtol=0, atol=1e-7)

    # The row is of the evaluation, and that of the checkpoint that is left.
    rows = {
        (r["subset"], r["method"]): r
        for r in csv.DictReader((out / "table.csv").open())
    }
    found = json.loads((folders[2] / "result.json").read_text())
    row = rows["ood", "r4f: average of weights of 2 seeds"]
    assert row["mean ± std"] == f"{found['evaluations'][0]['ood']['mcc']:.3f}"
    assert row["n"] == "made of 2"
    assert rows["ood", "r4f"]["n"] == "2 of 2"
    lines = (cola_data / "out_of_domain_dev.tsv").read_text().splitlines()
    predicted = Predictor(folders[2] / "checkpoint_best.pt", cpu=True)(
        [line.split("\t")[3] for line in lines]
    )
    outputs = np.array(found["predictions"]["ood"]["outputs"])
    p = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    given = [[one.probabilities["0"], one.probabilities["1"]] for one in predicted]
    np.testing.assert_allclose(p, given, atol=1e-5)

    gold = [int(line.split("\t")[1]) for line in lines]
    mcc = matthews_corrcoef(gold, outputs.argmax(1))
    assert found["evaluations"][0]["ood"]["mcc"] == pytest.approx(mcc, abs=1e-12)
    assert found["command"][:4] == [
        *("average", *(str(f / "checkpoint_best.pt") for f in folders[:2]), "--")
    ]  # fmt: skip


def test_what_is_averaged_and_when_again(tmp_path: Path) -> None:
    """Runs that ended and left a checkpoint, two or more; again if one is newer."""
    plan = Plan(
        tmp_path, named(["plain", "sift"], "method"), [1, 2, 3], ("D",), {"": ()}
    )
    runs, results = plan.runs(), []
    for run in runs:
        results.append(result(run.method, run.seed, 0.5, command=list(run.command)))
        run.folder.mkdir(parents=True)
        (run.folder / "checkpoint_best.pt").touch()
    results[2] = result("plain", 2, status="crashed: x")
    for run in runs[3:6:2]:  # sift has one left
        (run.folder / "checkpoint_best.pt").unlink()
    (made,) = ensembles.averages(tmp_path, results)
    assert made.folder == tmp_path / "plain" / "average"
    kept = [str(run.folder / "checkpoint_best.pt") for run in (runs[0], runs[4])]
    flags = ["D", "--criterion", "plain", "--seed", "1"]
    assert [*made.command] == ["average", *kept, "--", *flags]
    path = made.folder / "result.json"
    for newer, command, stays in ((0, made.command, True), (0, ("average",), False),
                                  (9, made.command, False)):  # fmt: skip
        write_result(path, result(made.method, 1, 0.5, command=list(command)))
        moment = path.stat().st_mtime + newer
        os.utime(kept[1], (moment, moment))
        ensembles.averages(tmp_path, results)
        assert path.exists() is stays


def test_what_saw_the_others_sentences_is_not_averaged(tmp_path: Path) -> None:
    """With a split for each seed, one's test sentences are another's for training."""
    results = [result("plain", seed, 0.5) for seed in (1, 2, 3)]
    for one in results:
        folder = tmp_path / "plain" / f"seed{one.seed}"
        folder.mkdir(parents=True)
        (folder / "checkpoint_best.pt").touch()
    other: Any = {"ood": {"gold": [0, 1, 0], "outputs": [[0, 1]] * 3}}
    results[1] = replace(results[1], predictions={**results[1].predictions, **other})
    (made,) = ensembles.averages(tmp_path, results)
    assert made.method == "plain: average of weights of 2"
    assert [Path(one).parent.name for one in made.command[1:3]] == ["seed1", "seed3"]
    assert ensembles.averages(tmp_path, results[:2]) == []


def save(path: Path, **weights: torch.Tensor) -> Path:
    extra = {"fairseq_steady": {}, "fairseq_steady_data": {"a": "b"}}
    torch.save({"model": weights, "extra_state": extra}, path)
    return path


def test_the_mean_keeps_types_and_no_past(tmp_path: Path) -> None:
    halves = [torch.tensor([value]).half() for value in (1.0, 2.0, 4.5)]
    paths = [
        save(tmp_path / f"{i}.pt", w=half, count=torch.tensor(7))
        for i, half in enumerate(halves)
    ]
    state = mean_weights(paths)
    assert state["model"]["w"].dtype == torch.float16
    assert state["model"]["w"].item() == 2.5
    assert state["model"]["count"].item() == 7
    kept = {"fairseq_steady_data": {"a": "b"}, "fairseq_steady_averaged": 3}
    assert state["extra_state"] == kept


def test_another_model_is_refused(tmp_path: Path) -> None:
    one = save(tmp_path / "one.pt", w=torch.ones(2))
    other = save(tmp_path / "other.pt", w=torch.ones(3))
    said = r"other.pt is of another model than .*one.pt: w is of shape \(3,\), not of"
    with pytest.raises(UserError, match=said):
        mean_weights([one, other])
    other = save(tmp_path / "other.pt", v=torch.ones(2))
    with pytest.raises(UserError, match="v is of shape .2,., not not there"):
        mean_weights([one, other])


def test_its_own_command_makes_the_folder_before_it_averages(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reached: list[Any] = []

    def stop(paths: Any) -> NoReturn:
        reached.append(paths)
        raise KeyboardInterrupt

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["averaging", *map(str, words)])
        averaging.main()

    monkeypatch.setattr(averaging, "mean_weights", stop)
    flags = ["--", cola_data, "--task=cola", f"--steady-model={models['roberta']}"]
    flags += ["--optimizer=adam", "--batch-size=8", "--lr=1e-3", "--save-dir"]
    with pytest.raises(KeyboardInterrupt):
        run("a.pt", "b.pt", *flags, tmp_path / "new" / "average")
    assert (tmp_path / "new" / "average").is_dir()
    assert reached == [[Path("a.pt"), Path("b.pt")]]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--save-dir .*file cannot be written to"):
        run("a.pt", *flags, tmp_path / "file")
    (tmp_path / "b").mkdir()
    best = save(tmp_path / "b" / "checkpoint_best.pt", w=torch.ones(2))
    held = best.read_bytes()
    with pytest.raises(UserError, match="checkpoint_best.pt is of a training; name"):
        run(tmp_path / "b" / "checkpoint_last.pt", *flags, tmp_path / "b")
    assert best.read_bytes() == held
    for words in (["a.pt", "b.pt"], flags, []):
        with pytest.raises(UserError, match="^name checkpoints, then -- and fairseq"):
            run(*words)
    run("--help")
    assert "CHECKPOINT CHECKPOINT ... -- " in capsys.readouterr().out
    assert len(reached) == 1
