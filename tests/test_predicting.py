"""Predictions of checkpoints, from Python and from the command line."""

import json
import os
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAIRSEQ_STEADY, SCORE_FLAGS, Trainer, environment, run_command
from fairseq_steady.commands import predict
from fairseq_steady.commands.predict import read_texts
from fairseq_steady.errors import UserError
from fairseq_steady.inference import loading
from fairseq_steady.inference.predicting import Predictor

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def trained(
    models: dict[str, Path],
    cola_data: Path,
    score_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    fairseq_train: Trainer,
) -> Train:
    """A folder with a checkpoint and the record of its last evaluation."""
    made: dict[Any, Path] = {}

    def train(kind: str, family: str = "roberta", criterion: str = "plain") -> Path:
        key = (kind, family, criterion)
        if key not in made:
            out = made[key] = tmp_path_factory.mktemp("trained")
            task = [cola_data, "--task=cola"]
            if kind == "scores":
                task = [score_data, *SCORE_FLAGS]
            fairseq_train(
                *(*task, f"--steady-model={models[family]}", "--max-update=9"),
                *(f"--criterion={criterion}", f"--save-dir={out}", "--lr=3e-3"),
                *(f"--steady-record={out}", "--no-epoch-checkpoints"),
            )
        return made[key]

    return train


def recorded(folder: Path) -> np.ndarray:
    (path,) = folder.glob("valid-9.json")
    return np.array(json.loads(path.read_text())["outputs"])


@pytest.mark.parametrize(
    ("family", "criterion"),
    [("roberta", "plain"), ("bart", "plain"), ("roberta", "r4f")],
)
def test_predictions_are_those_of_the_evaluation(
    trained: Train, cola_data: Path, family: str, criterion: str
) -> None:
    folder = trained("classes", family, criterion)
    predict = Predictor(folder / "checkpoint_last.pt", cpu=True)
    lines = (cola_data / "in_domain_dev.tsv").read_text().split("\n")
    texts = [line.split("\t")[3] for line in lines]
    wanted = torch.from_numpy(recorded(folder)).softmax(-1).tolist()
    # Whatever the batches, and in the order of the texts.
    for max_tokens in (8192, 30):
        found = list(predict(texts, max_tokens))
        probabilities = [list(one.probabilities.values()) for one in found]
        np.testing.assert_allclose(probabilities, wanted, atol=1e-5)
        best = ["01"[int(np.argmax(row))] for row in wanted]
        assert [one.label for one in found] == best


def test_scores_of_pairs(trained: Train, score_data: Path) -> None:
    folder = trained("scores")
    predict = Predictor(folder / "checkpoint_last.pt", cpu=True)
    rows = (score_data / "valid.tsv").read_text().splitlines()[1:]
    pairs = [(row.split("\t")[0], row.split("\t")[1]) for row in rows]
    found = [one.score for one in predict(pairs)]
    np.testing.assert_allclose(found, recorded(folder)[:, 0], atol=1e-5)
    assert next(predict(pairs)).label is None


def test_the_script_reads_files_and_standard_input(
    trained: Train, tmp_path: Path
) -> None:
    checkpoint = trained("classes") / "checkpoint_last.pt"
    (tmp_path / "a.txt").write_text("w0 w1\nw2 w3\n")
    (tmp_path / "a.jsonl").write_text('{"text": "w0 w1"}\n{"text": "w2 w3"}\n')
    inputs = [tmp_path / "a.txt", tmp_path / "a.jsonl"]
    done = run_command("predict", checkpoint, "--cpu", *inputs)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 4
    assert [one["label"] for one in found[:2]] == [one["label"] for one in found[2:]]
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1)
    piped = subprocess.run(
        [FAIRSEQ_STEADY, "predict", checkpoint, "--cpu", "--tsv"],
        input="w0 w1\nw2 w3\n",
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    rows = [line.split("\t") for line in piped.stdout.splitlines()]
    assert rows[0] == ["label", "0", "1"]
    assert [row[0] for row in rows[1:]] == [one["label"] for one in found[:2]]
    assert float(rows[1][1]) == pytest.approx(found[0]["probabilities"]["0"], abs=1e-5)


def test_sentences_may_be_typed_and_repeated_beside_their_answers(
    trained: Train, tmp_path: Path
) -> None:
    checkpoint = trained("classes") / "checkpoint_last.pt"
    typed = ["--text", "w0 w1", "--text", "w2 w3"]
    done = run_command("predict", checkpoint, *typed, "--cpu", "--with-text")
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(one) for one in found] == [["text", "label", "probabilities"]] * 2
    assert [one["text"] for one in found] == ["w0 w1", "w2 w3"]
    wanted = [one.label for one in Predictor(str(checkpoint), cpu=True)(typed[1::2])]
    assert [one["label"] for one in found] == wanted
    (tmp_path / "a.jsonl").write_text('{"text": "w0\\tw1"}\n')
    done = run_command("predict", checkpoint, tmp_path / "a.jsonl", "--cpu", "--tsv",
        "--with-text",
    )  # fmt: skip
    head, row = done.stdout.splitlines()
    assert head == "text\tlabel\t0\t1"
    assert row.split("\t")[0] == r"w0\tw1"
    assert len(row.split("\t")) == 4


def test_typed_pairs_have_a_tab_between_them(trained: Train) -> None:
    checkpoint = trained("scores") / "checkpoint_last.pt"
    done = run_command("predict", checkpoint, "--text", "w0\tw1", "--with-text")
    (found,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert found["text"] == ["w0", "w1"]
    assert found["score"] == pytest.approx(
        next(Predictor(checkpoint, cpu=True)([("w0", "w1")])).score, abs=1e-5
    )
    done = run_command("predict", checkpoint, "--text", "w0")
    assert done.returncode == 1
    assert "error: --text:1: 0 tabs in 'w0'; the checkpoint reads pairs" in done.stderr


def test_a_table_without_a_tables_name_is_no_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text('{"text": "w0"}\n')
    with pytest.raises(UserError, match=r"a\.txt:1: .* is a row of a table.*\.jsonl"):
        list(read_texts(path, ["text"]))
    path.write_text("id,text\n7,w0\n")
    assert list(read_texts(path, ["text"])) == ["id,text", "7,w0"]
    assert "a.txt:1: 'id,text' is answered as a text" in capsys.readouterr().err
    path.write_text('"sentence", label\n')
    assert len(list(read_texts(path, ["text"], aliases={"text": ("sentence",)}))) == 1
    assert "is answered as a text" in capsys.readouterr().err
    for line in ("[1] the text", '{"level": 3}', "[" * 2000):
        path.write_text(f"{line}\n")
        assert list(read_texts(path, ["text"])) == [line]
    assert not capsys.readouterr().err


def test_a_column_wants_a_table_and_texts_a_list(trained: Train) -> None:
    checkpoint = trained("classes") / "checkpoint_last.pt"
    done = run_command("predict", checkpoint, "--text", "w0", "--text-column", "Foo")
    assert done.returncode == 1
    assert "error: --text-column Foo is a column of a table: name a" in done.stderr
    args, columns = Namespace(text_column=None, pair_column="Bar"), ["a", "b"]
    with pytest.raises(UserError, match="^--pair-column Bar is a column of a table"):
        predict._check_columns(args, SimpleNamespace(columns=columns))  # type: ignore[arg-type]
    predict._check_columns(args, SimpleNamespace(columns=None))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="^'w0 w1' is one text; give a list of them$"):
        list(Predictor(checkpoint, cpu=True)("w0 w1"))


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """Whether its first text is a pair is not looked for."""
    lines = [f"w{n}\tw{n}" for n in range(3)]
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join(lines))
    args = Namespace(text=None, text_column=None, pair_column=None, inputs=[path])
    assert predict.columns_of(args, None) == ["text", "pair"]
    reading, writing = os.pipe()
    os.write(writing, path.read_bytes())
    os.close(writing)
    args.inputs = [Path(f"/dev/fd/{reading}")]
    assert predict.columns_of(args, None) == ["text"]
    found = read_texts(args.inputs[0], ["text", "pair"])
    assert list(found) == [(f"w{n}", f"w{n}") for n in range(3)]
    os.close(reading)


def test_a_checkpoint_of_fairseqs_own_task_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint_best.pt"
    path.touch()
    task = SimpleNamespace(cfg=SimpleNamespace(_name="sentence_prediction"))
    utils = SimpleNamespace(
        load_checkpoint_to_cpu=lambda *_: {},
        load_model_ensemble_and_task=lambda *_, **__: (
            [torch.nn.Linear(1, 1)],
            0,
            task,
        ),
    )
    monkeypatch.setattr(loading, "checkpoint_utils", utils)
    monkeypatch.setattr(loading, "_check_model", lambda *_: None)
    with pytest.raises(
        UserError, match="is of fairseq's task sentence_prediction; the"
    ):
        loading.load_trained(path)


def test_every_text_of_a_row_has_its_name() -> None:
    """COPA's have three, and a TSV's header has a cell for each."""
    args = Namespace(text=["a"], text_column="x", pair_column=None, inputs=[])
    names = predict.columns_of(args, ("premise", "choice1", "choice2"))
    assert names == ["x", "choice1", "choice2"]


def test_columns_are_those_of_the_training(trained: Train, score_data: Path) -> None:
    checkpoint = trained("scores") / "checkpoint_last.pt"
    done = run_command("predict", checkpoint, score_data / "valid.tsv", "--cpu")
    scores = [json.loads(line)["score"] for line in done.stdout.splitlines()]
    np.testing.assert_allclose(scores, recorded(trained("scores"))[:, 0], atol=1e-5)


def test_a_batch_has_tokens(trained: Train) -> None:
    predict = Predictor(trained("classes") / "checkpoint_last.pt", cpu=True)
    with pytest.raises(UserError, match="^max_tokens 0 is not a number from 1$"):
        list(predict(["w0"], 0))


def test_a_model_directory_that_has_moved_is_asked_for_and_found_near_the_checkpoint(
    trained: Train, models: dict[str, Path], tmp_path: Path
) -> None:
    state = torch.load(trained("classes") / "checkpoint_last.pt", weights_only=False)
    state["cfg"]["task"]["steady_model"] = "models/tiny"
    checkpoint = tmp_path / "runs" / "checkpoint_last.pt"
    checkpoint.parent.mkdir()
    torch.save(state, checkpoint)
    said = (
        f"^{checkpoint} was trained from the model directory models/tiny, which is not "
        "there; name it: --model {}$"
    )
    with pytest.raises(UserError, match=said.format("DIR")):
        Predictor(checkpoint)
    shutil.copytree(models["roberta"], tmp_path / "models" / "tiny")
    with pytest.raises(UserError, match=said.format(tmp_path / "models" / "tiny")):
        Predictor(checkpoint)
    predict = Predictor(checkpoint, str(tmp_path / "models" / "tiny"), cpu=True)
    assert next(predict(["w0"])).label in ("0", "1")


def test_mistakes_are_one_line(trained: Train, tmp_path: Path) -> None:
    checkpoint = trained("classes") / "checkpoint_last.pt"
    (tmp_path / "a.csv").write_text("sentence\nw0\n")
    done = run_command("predict", checkpoint, tmp_path / "a.csv")
    assert done.returncode == 1
    assert "a.csv:1: no column 'text' among: sentence; name yours" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(UserError, match="does not exist"):
        Predictor(tmp_path / "nothing.pt")


def test_a_submission_is_in_the_leaderboards_form(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    data = tmp_path / "glue" / "STS-B"
    data.mkdir(parents=True)
    names = "index\tsentence1\tsentence2"
    for name in ("train", "dev"):
        rows = [f"{i}\tw{i}\tw{i + 1}\t{i % 6}.0" for i in range(12)]
        (data / f"{name}.tsv").write_text("\n".join([f"{names}\tscore", *rows]) + "\n")
    rows = [f"{i}\tw{i}\tw{i + 2}" for i in range(5)]
    (data / "test.tsv").write_text("\n".join([names, *rows]) + "\n")
    fairseq_train(
        *(tmp_path / "glue", "--task=glue", "--glue-task=stsb", "--max-update=2"),
        *(f"--steady-model={models['roberta']}", f"--save-dir={tmp_path}"),
        "--no-epoch-checkpoints",
    )
    done = run_command("submission", tmp_path / "checkpoint_last.pt", tmp_path / "glue",
        tmp_path / "out", "--cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "out" / "STS-B.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == [*"01234"]
    assert all(0 <= float(line.split("\t")[1]) <= 5 for line in lines[1:])
