"""What is said of data, whoever reads them and however often."""

import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import WORDS, make_model_directory
from fairseq_steady.comparison import results
from fairseq_steady.comparison.recorded import majority_baseline, metric_of, usable
from fairseq_steady.comparison.results import Result
from fairseq_steady.data import SentenceTokenizer, encode_cached
from fairseq_steady.data.glue import LAYOUTS as GLUE
from fairseq_steady.data.layouts import find_split, read_split, reader
from fairseq_steady.data.nli import LAYOUTS as NLI
from fairseq_steady.data.noticing import say
from fairseq_steady.data.pair_dataset import encode_pairs
from fairseq_steady.data.pairs import Columns, find_pairs, read_pairs
from fairseq_steady.data.readers import read_sentence_tab_label
from fairseq_steady.data.sampling import parse_size
from fairseq_steady.data.superglue import TASKS
from fairseq_steady.data.superglue import read_split as read_superglue
from fairseq_steady.data.tables import read_parted, read_table
from fairseq_steady.errors import UserError
from fairseq_steady.model_dir import DICTIONARY, ModelDirectory
from fairseq_steady.tasks._also import renaming
from fairseq_steady.tasks._classes import check_score
from fairseq_steady.tasks._heads import Head, Start, renamed
from fairseq_steady.tasks._sentence import named_like
from fairseq_steady.tasks.cola import ColaTask
from fairseq_steady.tasks.glue_multitask import MultitaskTask
from fairseq_steady.tasks.summarization import SummarizationConfig, SummarizationTask
from fairseq_steady.tasks.text import TextClassificationTask
from fairseq_steady.tasks.uci_sentiment import repair

pytestmark = pytest.mark.usefixtures("own_cache")
CLASSES = ("contradiction", "neutral", "entailment")


@pytest.fixture
def tokenizer(models: dict[str, Path]) -> SentenceTokenizer:
    directory = ModelDirectory.open(models["roberta"])
    return SentenceTokenizer(directory, directory.dictionary(), 8)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Warnings of this run, a new one from each call on."""
    caplog.set_level(logging.WARNING)
    say.cache_clear()

    def take() -> list[str]:
        found = caplog.messages
        caplog.clear()
        say.cache_clear()
        return found

    yield take
    say.cache_clear()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def refused(said: str, call: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        call()


# --- said in every run ----------------------------------------------------------------


def test_rows_left_out_are_counted_in_every_run_wherever_the_file_is(
    tmp_path: Path, tokenizer: SentenceTokenizer, told: Callable[[], list[str]]
) -> None:
    rows = [
        {"sentence1": "w1", "sentence2": "w2", "gold_label": label, "language": "en"}
        for label in ("-", "entailment", "-", "neutral")
    ]
    path = write(tmp_path / "a" / "dev.jsonl", lines(*rows))
    moved = tmp_path / "b" / "dev.jsonl"
    tail = "rows have the label '-', which stands for no label, and are left out"

    def encode(file: Path) -> int:
        read = reader(NLI["xnli"], "en")
        return len(encode_cached(file, read, "nli", CLASSES, tokenizer, None))

    assert encode(path) == 2
    assert told() == [f"{path} (en): 2 of 4 {tail}"]
    assert encode(path) == 2
    assert encode(path) == 2
    assert told() == [f"{path} (en): 2 of 4 {tail}"]
    moved.parent.mkdir()
    shutil.move(path, moved)
    assert encode(moved) == 2
    assert told() == [f"{moved} (en): 2 of 4 {tail}"]


def test_what_is_remarked_of_a_table_is_said_once_a_run(
    tmp_path: Path, tokenizer: SentenceTokenizer, told: Callable[[], list[str]]
) -> None:
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"a ""b"" c"\t0\nw1\t1\n')

    def read(file: Path) -> Any:
        return read_table(file, ["text"], "label")

    expected = [
        f"{path}:2: a cell in doubled quotes, as pandas writes them, which stay in the "
        "text; a .tsv has no quoting here: read it with --steady-quoted-tsv, which "
        "tasks of sentences have, or write the table as .csv"
    ]
    for _ in range(2):
        list(read(path))  # as to find its classes
        encode_cached(path, read, "table", ("0", "1"), tokenizer, None)
        assert told() == expected


def test_what_was_heard_before_an_error_is_said(
    tmp_path: Path, tokenizer: SentenceTokenizer, told: Callable[[], list[str]]
) -> None:
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"a ""b"" c"\t0\nw1\t\n')
    with pytest.raises(ValueError, match="t.tsv:3: an empty label"):
        encode_cached(
            *(path, lambda p: read_table(p, ["text"], "label"), "table", ("0", "1")),
            *(tokenizer, None),
        )
    (said,) = told()
    assert said.startswith(f"{path}:2: a cell in doubled quotes")


def test_articles_without_a_summary_are_counted_in_every_run(
    tmp_path: Path, models: dict[str, Path], told: Callable[[], list[str]]
) -> None:
    """Rows, not lines; a blank cell is an empty one."""
    text = 'selftext,tldr\n"w1\n\nw2",w3\nw4,\nw5," "\nw6,w7\n'
    path = write(tmp_path / "tifu.csv", text)
    columns = Columns("selftext", (("tldr",),), partial=True)
    directory = ModelDirectory.open(models["bart"])
    sides = SentenceTokenizer(directory, directory.dictionary(), 8)
    for _ in range(2):
        found = encode_pairs(
            [path], lambda: read_pairs([path], columns), "", (sides, sides), None
        )
        assert len(found) == 2
        assert told() == [f"{path}: 2 of 4 rows have no summary, and are left out"]


def test_broken_rows_of_qqp_are_left_out_and_counted(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    """A line end within a question makes two lines of a row; one may be empty."""
    rows = ["1\t1\t2\ta\tb\t1", "2\t3\t4\tc", "d\t0", "3\t5\t6\te\t \t0"]
    path = write(
        tmp_path / "QQP" / "train.tsv",
        "\n".join(["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", *rows, ""]),
    )
    (found,) = read_split(find_split(tmp_path, GLUE["qqp"], "train"), GLUE["qqp"])
    assert (found.texts, found.label, found.line) == (("a", "b"), "1", 2)
    assert told() == [
        f"{path}: 3 of 4 rows are without all of their cells, and are left out"
    ]
    path.write_text("\n".join([path.read_text().split("\n")[0], rows[1], ""]))
    with pytest.raises(UserError, match="all 1 rows are without all of their cells"):
        list(read_split(path, GLUE["qqp"]))


# --- which file, which ids ------------------------------------------------------------


def test_another_dictionary_has_another_entry_of_the_cache(
    tmp_path: Path, tokenizer: SentenceTokenizer
) -> None:
    """One tokeniser with its symbols in another order gives other ids."""
    path = write(tmp_path / "u.txt", "w0 w1\t1\n")
    other = make_model_directory(tmp_path / "other").path / DICTIONARY
    other.write_text("".join(f"{word} 1\n" for word in ["<mask>", *WORDS[::-1]]))
    directory = ModelDirectory.open(other.parent)
    turned = SentenceTokenizer(directory, directory.dictionary(), 8)

    def encode(by: SentenceTokenizer) -> list[int]:
        read = read_sentence_tab_label
        found = encode_cached(path, read, "uci", ("0", "1"), by, None)
        return found.tokens[0].tolist()

    assert encode(tokenizer) == [0, 5, 6, 2]
    assert encode(turned) == [0, 4 + len(WORDS), 3 + len(WORDS), 2]


def test_names_of_files_in_any_case_are_found_and_read_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "Hard.TSV", "text\tlabel\na\t1\n")
    assert named_like(str(tmp_path), "Hard") == path
    row = "gj04\t1\t\tHi there."
    path = write(tmp_path / "CoLA" / "Train.tsv", f"{row}\n")
    found = read_split(find_split(tmp_path, GLUE["cola"], "train"), GLUE["cola"])
    assert [one.texts for one in found] == [("Hi there.",)]


def test_what_is_no_set_of_articles_is_not_taken_for_one(tmp_path: Path) -> None:
    write(tmp_path / "train", "w1\n")
    (tmp_path / "train.bin").mkdir()
    (tmp_path / "all_train.txt").mkdir()
    with pytest.raises(UserError, match="has no train set: neither train.csv"):
        find_pairs(tmp_path, "train")
    write(tmp_path / "._all.csv", "\0")  # as a Mac leaves beside a file
    path = write(tmp_path / "all.csv", "source,target\nw1,w2\n")
    assert find_pairs(tmp_path, "train") == [path]


def test_pairs_without_room_are_refused_and_not_left_whole(
    models: dict[str, Path],
) -> None:
    """The tokeniser does not cut what is shorter than its special tokens."""
    directory = ModelDirectory.open(models["roberta"])
    tokenizer = SentenceTokenizer(directory, directory.dictionary(), 4)
    said = (
        "4 tokens leave a pair no room: 3 are special; raise --steady-max-length to 5"
    )
    refused(said, lambda: tokenizer.encode([("w1 w2", "w3")]))
    refused(said, lambda: tokenizer.encode_words([("w1 w2", "w3")], [((0, 2), (0, 2))]))
    assert [ids.tolist() for ids in tokenizer.encode([("w1 w2 w3",)])[0]] == [
        [0, 6, 7, 2]
    ]


def test_letters_of_a_text_encoded_once_stay() -> None:
    twice = "caf\u00e9 \U0001f600".encode().decode("latin1")
    assert repair(twice) == "caf\u00e9 \U0001f600"
    assert repair(twice[:-1]) == "caf\u00e9 "  # an emoji cut off
    assert repair("caf\u00e9") == "caf\u00e9"
    assert repair("a \u00a0b") == "a b"  # as published, three times


def test_a_separator_that_ends_in_a_blank(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "text\tlabel\na\tx, y\nb\t \nc\tx, \n")
    found = read_parted(path, ["text"], "label", ", ")
    assert next(found).labels == ("x", "y")
    assert next(found).labels == ()
    refused("t.tsv:4: an empty label in 'x, '", lambda: next(found))
    (found,) = read_parted(
        write(path, "text\tlabel\na\t x y \n"), ["text"], "label", " "
    )
    assert found.labels == ("x", "y")


# --- said in one line -----------------------------------------------------------------


def test_what_is_wrong_is_said_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "\ntext,label\na,1\n")
    said = "t.csv:1: an empty line; remove it"
    refused(said, lambda: list(read_table(path, ["text"], "label")))
    row = {"premise": " ", "choice1": "a", "choice2": "b", "question": "cause"}
    copa = write(tmp_path / "val.jsonl", lines(row | {"idx": 0, "label": 0}))
    said = "val.jsonl:1: an empty sentence"
    refused(said, lambda: list(read_superglue(copa, TASKS["copa"])))


def test_one_point_nought_is_neither_one_nor_all() -> None:
    said = "--f 1.0 is neither a count from 1 to 500 nor a fraction"
    refused(said, lambda: parse_size("1.0", 500, "--f"))
    assert parse_size("20.0", 500, "--f") == 20


def test_a_class_that_is_renamed_twice() -> None:
    start = Start(Path("c.pt"), {"h": Head(("a", "b"))}, resumes=False)
    said = "--steady-label-map a=x,a=y renames 'a' twice; name each class once"
    refused(said, lambda: renamed(start, "h", "a=x,a=y"))
    said = "--steady-also-labels N=0,N=1 names 'N' twice"
    refused(said, lambda: renaming("N=0,N=1", ["0", "1"]))


def test_an_unknown_label_is_mended_by_flags_that_the_task_has(
    tmp_path: Path, tokenizer: SentenceTokenizer
) -> None:
    path = write(tmp_path / "u.txt", "w0\t2\n")
    for task in (ColaTask, TextClassificationTask):
        said = f"u.txt:1: label '2' is none of: 0, 1; {task.unknown}"
        with pytest.raises(UserError, match=said) as error:
            encode_cached(
                *(path, read_sentence_tab_label, "uci", ("0", "1"), tokenizer, None),
                mend=task.unknown,
            )
        flag = "--steady-labels" in str(error.value)
        assert flag == hasattr(task, "_named_labels")


def root(metric: str, subsets: str = "valid") -> Any:
    made = SimpleNamespace(
        checkpoint=SimpleNamespace(best_checkpoint_metric=metric),
        dataset=SimpleNamespace(valid_subset=subsets),
        distributed_training=SimpleNamespace(find_unused_parameters=False),
    )
    return lambda: made


def test_a_metric_that_only_other_tasks_log_is_refused_at_once() -> None:
    for metric in ("score", "rouge1"):
        said = f"{metric} is nothing that evaluations of this task log; choose from acc"
        refused(said, lambda m=metric: check_score(m, ["a", "b"], False, False))
    check_score("score", ["a", "b"], False, False, whole=True)
    labels = {"stsb": None, "cola": ("0", "1")}
    several: Any = SimpleNamespace(parts=labels, labels_of=labels.__getitem__)
    several.cfg = SimpleNamespace(_get_root=root("mcc", "stsb,cola"))
    said = "mcc is nothing that evaluations of this task log; choose from pearson, "
    refused(said, lambda: MultitaskTask.settle_data(several))
    for metric, subsets in (("mcc", "cola,stsb"), ("score", "stsb,cola")):
        several.cfg = SimpleNamespace(_get_root=root(metric, subsets))
        MultitaskTask.settle_data(several)
    summing: Any = SimpleNamespace(cfg=SummarizationConfig())
    summing.check_room = lambda *_: None
    summing.cfg._get_root = root("accuracy")
    said = "accuracy is nothing that evaluations of this task log; choose from rouge1"
    refused(said, lambda: SummarizationTask.settle_data(summing))


# --- what always giving one answer earns ----------------------------------------------

#: Answers to class 2 of 3 in two groups, and to others.
GOLD, GROUP = [2, 2, 0, 2, 1, 0], [0, 0, 0, 1, 1, 1]


def recorded(folder: Path, **more: Any) -> Result:
    """A run whose only evaluation gave class 0 everywhere."""
    content = {
        "subset": "valid",
        "updates": 1,
        "metrics": {"accuracy": 2 / 6},
        "outputs": [[1.0, 0.0, 0.0]] * 6,
        "gold": GOLD,
    }
    write(folder / "valid-1.json", json.dumps(content | more))
    made = Result("", "plain", 1, ["fairseq-train"])
    best = {"best_checkpoint_metric": "accuracy"}
    config = {
        "checkpoint": best | {"maximize_best_checkpoint_metric": True},
        "task": {"_name": "nli", "data": "d", "steady_model": "m"},
    }
    write(folder / "config.json", json.dumps(config))
    results.collect(made, folder)
    results.write(folder / "result.json", made)
    return results.load(folder / "result.json")


def test_groups_and_means_of_metrics_have_a_majority_baseline(tmp_path: Path) -> None:
    more = {"groups": ["en", "ur"], "group": GROUP}
    made = recorded(tmp_path, **more, score_of=["macro_f1", "accuracy"])
    found, _ = usable([made], "valid")
    expected = {  # of class 2, and what class 0 scored
        "accuracy_en": (2 / 3, 1 / 3),
        "accuracy_ur": (1 / 3, 1 / 3),
        "accuracy_mean": (1 / 2, 1 / 3),
        "accuracy_worst": (1 / 3, 1 / 3),
        "score": ((2 / 3 / 3 + 1 / 2) / 2, (1 / 2 / 3 + 1 / 3) / 2),
        "accuracy": (1 / 2, 1 / 3),
    }
    for metric, (baseline, own) in expected.items():
        earned = majority_baseline(metric, made.predictions["valid"])
        assert earned == pytest.approx(baseline), metric
        assert metric_of(found[1].given, found[1], metric) == pytest.approx(own)
    without = recorded(tmp_path / "without").predictions["valid"]
    assert without.keys() == {"outputs", "gold"}
    assert math.isnan(majority_baseline("score", without))
    assert math.isnan(majority_baseline("accuracy_en", without))


def test_groups_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    for group in (GROUP[1:], [*GROUP[1:], 2]):
        with pytest.raises(UserError, match=r"'predictions.valid': its 2 groups and"):
            recorded(tmp_path, groups=["en", "ur"], group=group)
