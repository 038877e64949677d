"""GLUE: every official layout, and training from each."""

import json
from pathlib import Path

import pytest
from conftest import Trainer
from fairseq_steady.data.glue import LAYOUTS
from fairseq_steady.data.layouts import find_split, read_split
from fairseq_steady.errors import UserError
from helpers import AWKWARD, HEADERS, glue_row, logged, write_split


@pytest.mark.parametrize("task", list(LAYOUTS))
def test_official_rows_are_read(tmp_path: Path, task: str) -> None:
    layout = LAYOUTS[task]
    path = write_split(tmp_path, task, "train", [glue_row(task, n) for n in range(7)])
    for data in (tmp_path, path.parent):
        assert find_split(data, layout, "train") == path
    found = list(read_split(path, layout))
    assert len(found) == 7
    assert found[3].texts[0] == f"{AWKWARD} w3"
    assert [len(example.texts) for example in found] == [len(layout.texts)] * 7
    if layout.labels:
        wanted = [layout.labels[n % len(layout.labels)] for n in range(7)]
        assert [example.label for example in found] == wanted
    else:
        assert found[3].label == "3.250"


def test_the_original_releases_of_mrpc_and_stsb(tmp_path: Path) -> None:
    path = tmp_path / "msr_paraphrase_train.txt"
    path.write_text("\ufeff" + HEADERS["mrpc"] + "\r\n" + glue_row("mrpc", 1) + "\r\n")
    (example,) = read_split(path, LAYOUTS["mrpc"])
    assert example.label == "1"
    path = tmp_path / "sts-train.csv"
    cells = ["main-captions", "MSRvid", "2012test", "1", "3.800", "a", "b"]
    extra = [*cells, "http://one", "http://two"]
    path.write_text("\n".join("\t".join(c) for c in (cells, extra)) + "\n")
    found = list(read_split(path, LAYOUTS["stsb"]))
    assert [(e.texts, e.label) for e in found] == [(("a", "b"), "3.800")] * 2


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("rte", f"{HEADERS['rte']}\n1\ta\tb\n", "train.tsv:2: 3 columns where the"),
        ("qqp", f"{HEADERS['rte']}\n1\ta\tb\tc\n", "has no labels|no column"),
        ("sst2", "sentence\tlabel\na\t0\textra\n", "train.tsv:2: 3 columns"),
        ("cola", "src\t1\tsentence\n", "train.tsv:1: 3 tab-separated columns"),
        ("mnli", "index\tsentence1\tsentence2\n0\ta\tb\n", "has no labels: it is for"),
        ("rte", f"{HEADERS['rte']}\n1\ta\t\tentailment\n", "an empty sentence"),
    ],
)
def test_rows_that_do_not_fit_are_an_error(
    tmp_path: Path, task: str, text: str, message: str
) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        list(read_split(path, LAYOUTS[task]))


@pytest.mark.parametrize("task", list(LAYOUTS))
def test_every_task_trains_and_reports_its_metric(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer, task: str
) -> None:
    layout = LAYOUTS[task]
    for split in {"train", "valid", "mismatched"} & layout.files.keys():
        write_split(tmp_path, task, split, [glue_row(task, n) for n in range(12)])
    done = fairseq_train(
        *(tmp_path, "--task=glue", f"--glue-task={task}", "--criterion=smart"),
        *(f"--steady-model={models['roberta']}", "--max-update=2", "--no-save"),
        f"--steady-record={tmp_path / 'record'}",
    )
    config = json.loads((tmp_path / "record" / "config.json").read_text())
    assert config["checkpoint"]["best_checkpoint_metric"] == layout.metric
    assert f"valid_{layout.metric}" in logged(done, "valid")[-1]
    assert bool(logged(done, "mismatched")) == (task == "mnli")


def test_mistakes_are_one_line(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    common = [tmp_path, "--task=glue", f"--steady-model={models['roberta']}"]
    done = fairseq_train(*common, "--max-update=1", status=1)
    assert "error: --glue-task is missing; choose from cola, sst2" in done.stderr
    done = fairseq_train(*common, "--glue-task=rte", "--max-update=1", status=1)
    assert "has no train.tsv for the split 'train'" in done.stderr or (
        "has no dev.tsv" in done.stderr
    )
