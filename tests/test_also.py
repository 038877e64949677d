"""Further labelled files: tables, the task's own form, minimal pairs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Trainer
from fairseq_steady.data import read_table
from fairseq_steady.data.readers import read_columns
from fairseq_steady.errors import UserError
from fairseq_steady.scores.metrics import MARGINS, margins, ranked
from fairseq_steady.tasks._also import Form, check_there, further, reading
from fairseq_steady.tasks.cola import ColaTask
from fairseq_steady.tasks.glue import GlueConfig, GlueTask
from fairseq_steady.tasks.uci_sentiment import UciSentimentTask
from helpers import logged

#: What each row's two sentences are; w59 and w1 are words of the tiny models.
PAIRS = [(f"w{n} w{n + 1} w59", f"w59 w{n} w{n + 1} w{n + 2}") for n in range(1, 14)]


def write_pairs(path: Path) -> Path:
    rows = [{"sentence_good": a, "sentence_bad": b, "UID": "island"} for a, b in PAIRS]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_each_file_is_a_subset(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    pairs = write_pairs(tmp_path / "island.jsonl")
    table, own = tmp_path / "reviews.tsv", tmp_path / "more.tsv"
    table.write_text('Sentiment\tText\nGood\t"w3 w4 ""w5"""\nBad\tw6\nGood\tw1\n')
    own.write_text("src\t1\t\tw7 w8\nsrc\t0\t*\tw9\n")
    record = tmp_path / "record"
    done = fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models['roberta']}"),
        f"--steady-also=blimp={pairs}, reviews={table},more={own}",
        *("--steady-also-labels=Good=1,Bad=0", "--steady-quoted-tsv"),
        *("--max-update=2", "--no-save", f"--steady-record={record}"),
    )
    found: dict[str, Any] = {
        name: json.loads((record / f"{name}-2.json").read_text())
        for name in ("valid", "ood", "blimp", "reviews", "more")
    }
    assert found["reviews"]["gold"] == [1, 0, 1]
    assert found["more"]["gold"] == [1, 0]
    assert "ranked" not in found["more"]["metrics"]
    blimp = found["blimp"]
    assert blimp["gold"] == [1, 0] * len(PAIRS)
    outputs = np.array(blimp["outputs"])
    margin = (outputs[:, 1] - outputs[:, 0]).reshape(-1, 2)
    share = np.mean([good > bad for good, bad in margin])
    assert 0 < share < 1, "a pair of each kind, or the test tells nothing"
    assert blimp["metrics"]["ranked"] == pytest.approx(share, abs=1e-12)
    assert float(logged(done, "blimp")[-1]["blimp_ranked"]) == pytest.approx(
        share, abs=1e-3
    )


def test_minimal_pairs_pick_checkpoints_if_they_are_first(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    pairs = write_pairs(tmp_path / "island.jsonl")
    common = [cola_data, "--task=cola", f"--steady-model={models['roberta']}"]
    common += [f"--steady-also=blimp={pairs}", "--best-checkpoint-metric=ranked"]
    done = fairseq_train(
        *(*common, "--valid-subset=blimp,valid", "--max-epoch=3"),
        *("--lr=3e-3", f"--save-dir={tmp_path}/out"),
    )
    found = [float(one["blimp_ranked"]) for one in logged(done, "blimp")]
    assert len({*found}) > 1, "or the test tells nothing"
    assert float(logged(done, "blimp")[-1]["blimp_best_ranked"]) == max(found)
    assert not [name for name in logged(done, "valid")[-1] if "ranked" in name]
    done = fairseq_train(*common, "--max-update=2", "--no-save", status=1)
    assert "ranked is of minimal pairs, and valid has none; name a" in done.stderr
    assert "train_inner" not in done.stderr


def test_pairs_are_ranked_over_workers_and_batches() -> None:
    torch.manual_seed(0)
    logits, gold = torch.randn(8, 2), torch.tensor([1, 0] * 4)
    logits[6] = logits[7]  # equal: not ranked right
    margin = (logits[:, 1] - logits[:, 0]).tolist()
    right = [margin[n] > margin[n + 1] for n in range(0, 8, 2)]

    def summed(*batches: list[int]) -> torch.Tensor:
        parts = [margins(logits[b], gold[b], torch.tensor(b), 8) for b in batches]
        return sum(part[MARGINS] for part in parts)  # type: ignore[return-value]

    assert not right[3]
    assert ranked(summed([7, 0, 3], [2, 1], [4, 5, 6])) == sum(right) / 4
    assert ranked(summed([7, 0, 3], [2, 1], [4, 5, 6, 0, 3])) == sum(right) / 4
    assert ranked(summed([0, 1, 2, 3, 4])) == sum(right[:2]) / 2
    assert np.isnan(ranked(torch.zeros(3, 8, dtype=torch.float64)))


FORM = Form(["sentence"], "label", ("0", "1"), quoted=False)


@pytest.mark.parametrize(
    ("name", "text", "changed", "expected"),
    [
        ("a.csv", "label,sentence\n1,a b\n", {}, [("a b", "1")]),
        ("a.tsv", "text\tgrade\na\tX\nb\tX\nc\t0\n", {}, [("a", "1"), ("b", "1")]),
        ("a.tsv", 'sentence\tlabel\n"a ""b"""\tX\n', {}, [('"a ""b"""', "1")]),
        (
            "a.tsv",
            'sentence\tlabel\n"a ""b"""\tX\n',
            {"quoted": True},
            [('a "b"', "1")],
        ),
        ("a.tsv", "x\t0\t*\tbad\n", {"bare": True}, [("bad", "0")]),
        ("a.tsv", "a\t0\nb\t1\nc\t0\n", {"bare": 2}, [("a", "0"), ("b", "1")]),
    ],
)
def test_how_a_file_reads(
    tmp_path: Path,
    name: str,
    text: str,
    changed: dict[str, Any],
    expected: list[tuple[str, str]],
) -> None:
    path = tmp_path / name
    path.write_text(text)
    if changed.get("bare"):
        count, text_at = (4, 3) if changed["bare"] is True else (2, 0)
        changed = {"bare": lambda file: read_columns(file, count, [text_at], 1)}
    reader, _, pairs = reading(path, Form(**{**vars(FORM), **changed}), "X=1")
    found = [(example.texts[0], example.label) for example in reader(path)]
    assert (found[: len(expected)], pairs) == (expected, False)


@pytest.mark.parametrize(
    ("text", "changed", "message"),
    [
        ("sentence,label\na,2\n", {}, "a.csv:2: label '2' is none of: 0, 1; .*2=0$"),
        (
            "sentence,x,y\na,2,3\n",
            {},
            "a.csv:1: no column 'label' among: sentence, x, y; call the columns of",
        ),
        ("sentence_good,sentence_bad\na,\n", {}, "a.csv:2: an empty sentence"),
        (
            "sentence_good,sentence_bad\na,b\n",
            {"labels": ("0", "1", "2")},
            "a.csv holds minimal pairs, which a task of two classes of single",
        ),
        ("sentence_good,sentence_bad\na,b\n", {"labels": None}, "holds minimal pairs"),
        (
            "a,0\nb,1\nc,0\nd,0\n",
            {},
            "a.csv, line 1: '0' is a label, as of a file without",
        ),
        (
            "sentence,label\na,b\n",
            {"labels": None},
            "--steady-also-labels: 'X=1' is not",
        ),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, text: str, changed: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        list(reading(path, Form(**{**vars(FORM), **changed}), "X=1")[0](path))


@pytest.mark.parametrize(
    ("labels", "own", "told", "good"),
    [
        (("0", "1"), False, None, "1"),
        (("0", "1"), True, None, "1"),
        (("no", "yes"), False, None, "yes"),
        (("acceptable", "unacceptable"), True, "good=acceptable", "acceptable"),
        (("acceptable", "unacceptable"), True, "bad=unacceptable", "acceptable"),
        (("0", "1"), True, "good=0,bad=1", "0"),
        (("a", "b"), True, None, "say which class .* in --steady-also-labels good=b"),
        (("a", "b"), True, "good=a,bad=a", "good and bad are both 'a'"),
    ],
)
def test_the_class_of_acceptable_sentences_is_known_or_said(
    tmp_path: Path, labels: tuple[str, str], own: bool, told: str | None, good: str
) -> None:
    path = write_pairs(tmp_path / "a.jsonl")
    form = Form(("sentence",), "label", labels, False, own=own)
    if good not in labels:
        with pytest.raises(UserError, match=good):
            reading(path, form, told)
        return
    reader, _, pairs = reading(path, form, told)
    bad = labels[labels[0] == good]
    assert pairs
    assert [example.label for example in reader(path)] == [good, bad] * len(PAIRS)


def test_glues_files_without_a_header_are_further_files_too(
    models: dict[str, Path], tmp_path: Path, own_cache: Path
) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("src\t1\t\tw1 w2\nsrc\t0\t*\tw3\n")
    given = {"data": str(tmp_path), "steady_model": str(models["roberta"])}
    cfg = GlueConfig(**given, glue_task="cola", steady_also=f"more={path}")
    found, _ = GlueTask.setup_task(cfg)._read_any("more")  # type: ignore[attr-defined]
    assert (found.targets.tolist(), found.tokens.sizes.tolist()) == ([1, 0], [4, 3])
    taken = GlueConfig(**given, glue_task="mnli", steady_also=f"mismatched={path}")
    task: Any = GlueTask.setup_task(taken)
    with pytest.raises(
        UserError, match="the name 'mismatched' is taken; choose another"
    ):
        check_there(task.also, task.splits)
    quoted = GlueConfig(**given, glue_task="rte", steady_quoted_tsv=True)
    with pytest.raises(
        UserError, match="--steady-quoted-tsv is for tables of your own"
    ):
        GlueTask.setup_task(quoted)


@pytest.mark.parametrize(
    ("task", "name"), [(ColaTask, "ood"), (UciSentimentTask, "imdb")]
)
def test_a_split_of_the_task_is_no_name(task: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\tlabel\na\t1\n")
    with pytest.raises(UserError, match=f"the name '{name}' is taken; choose another"):
        check_there({name: tmp_path / "a.tsv"}, task.splits)
    check_there({"mine": tmp_path / "a.tsv"}, task.splits)


@pytest.mark.parametrize(
    ("also", "labels", "message"),
    [
        ("file.tsv", None, "'file.tsv' is not NAME=FILE"),
        ("", None, "'' is not NAME=FILE"),
        ("a b=file.tsv", None, "'a b=file.tsv' is not NAME=FILE"),
        ("a=x,,b=y", None, "'' is not NAME=FILE"),
        ("valid=file.tsv", None, "the name 'valid' is taken"),
        ("a=x,a=y", None, "the name 'a' is taken; choose another for y"),
        (None, "a=b", "--steady-also-labels is for the files of --steady-also"),
    ],
)
def test_flags_that_cannot_be_meant(
    also: str | None, labels: str | None, message: str
) -> None:
    cfg = SimpleNamespace(steady_also=also, steady_also_labels=labels)
    with pytest.raises(UserError, match=message):
        further(cfg)


def test_none_leaves_out_what_was_said_before(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """So that a comparison can tune on one subset alone."""
    given = {"data": str(tmp_path), "steady_model": str(models["roberta"])}
    cfg = GlueConfig(
        **given,
        glue_task="cola",
        steady_also="none",
        steady_also_labels="A=0,B=1",
        steady_quoted_tsv=True,
    )
    assert not GlueTask.setup_task(cfg).also


def test_a_quoted_tsv_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\na\t0\n"b" c\t1\n')
    with pytest.raises(
        UserError, match="a.tsv:3: not a quoted TSV .*; mend the quotes"
    ):
        list(read_table(path, ["text"], "label", quoted=True))


def test_a_missing_file_is_said_before_training(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    done = fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models['roberta']}"),
        *("--max-update=2", "--no-save", f"--steady-also=x={tmp_path / 'no.tsv'}"),
        status=1,
    )
    assert "no.tsv is not there; name a labelled file" in done.stderr
