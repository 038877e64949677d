"""Raw files as people have them: read right, or refused in one line."""

import errno
import json
import re
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fairseq_steady.data import (
    SentenceTokenizer,
    find_file,
    halves,
    read_table,
    stratified_subset,
)
from fairseq_steady.data.ragged import Ragged, repeated
from fairseq_steady.data.readers import read_columns, read_sentence_tab_label
from fairseq_steady.data.sampling import balanced_subset, parse_size
from fairseq_steady.errors import UserError, explanation
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.tasks.summarization import SummarizationConfig, SummarizationTask
from fairseq_steady.tasks.text import TextClassificationConfig, TextClassificationTask
from fairseq_steady.tasks.uci_sentiment import (
    UciSentimentConfig,
    UciSentimentTask,
    read_tweets,
)
from helpers import encode, make_sentiment_data

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def tokenizer(models: dict[str, Path]) -> SentenceTokenizer:
    directory = ModelDirectory.open(models["roberta"])
    return SentenceTokenizer(directory, directory.dictionary(), 8)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- the traps of the published files -------------------------------------------


def test_cola_rows_and_a_last_line_without_a_newline(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'gj04\t1\t\tIt\'s "so".\ngj04\t0\t*\tHim  went.')
    rows = list(read_columns(path, 4, [3], 1))
    assert [(r.texts[0], r.label, r.line) for r in rows] == [
        ('It\'s "so".', "1", 1),
        ("Him  went.", "0", 2),
    ]


def test_uci_lines_hold_quotes_other_separators_and_crlf(tmp_path: Path) -> None:
    text = 'He said "no\t0\nA\x85B\u2028C\t1\r\nTab\there too.  \t1\n'
    rows = list(read_sentence_tab_label(write(tmp_path / "u.txt", text)))
    assert [r.label for r in rows] == ["0", "1", "1"]
    assert rows[1].texts[0] == "A\x85B\u2028C"
    assert rows[2].texts[0] == "Tab\there too."


def test_tweets_are_repaired_mapped_and_deduplicated(tmp_path: Path) -> None:
    smile = "so happy 😀"
    broken = smile.encode().decode("latin1")
    lines = ["id,label,tweet", f"1,0,{broken}", '2,1,"a, ""b"""', f"3,0,{smile}"]
    rows = list(read_tweets(write(tmp_path / "t.csv", "\n".join(lines))))
    assert [(r.texts[0], r.label) for r in rows] == [(smile, "1"), ('a, "b"', "0")]


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_tables_with_named_columns(tmp_path: Path, form: str) -> None:
    rows = [("one\u00a0two", 'x, "y" \'z', "1.5"), ("q", "é", "0")]
    if form == "jsonl":
        text = "\n".join(
            json.dumps({"a": a, "b": b, "s": float(s)}) for a, b, s in rows
        )
    elif form == "csv":
        quoted = [
            ",".join('"' + c.replace('"', '""') + '"' for c in row) for row in rows
        ]
        text = "\n".join(["a,b,s", *quoted]) + "\n"
    else:
        text = "\n".join(["a\tb\ts", *("\t".join(row) for row in rows)])
    path = write(tmp_path / f"f.{form}", "\ufeff" + text if form == "csv" else text)
    examples = list(read_table(path, ["a", "b"], "s", scores=True))
    assert [e.texts for e in examples] == [(a, b) for a, b, _ in rows]
    assert [float(e.label) for e in examples] == [1.5, 0.0]


# --- bad input: file, line, value, mend -----------------------------------------

BAD = {
    "column": ("t.tsv", "text\tlabl\na\t1\n", r"t\.tsv:1: no column 'label'.*name"),
    "width": ("t.tsv", "text\tlabel\na\t1\t2\n", r":2: 3 columns where .* 2; mend"),
    "sentence": ("t.tsv", "text\tlabel\na\t1\n  \t1\n", r":3: an empty sentence"),
    "label": ("t.tsv", "text\tlabel\na\t\n", r":2: an empty label"),
    "line": ("t.tsv", "text\tlabel\n\na\t1\n", r":2: an empty line; remove"),
    "encoding": ("t.tsv", b"text\tlabel\na\t1\ncaf\xe9\t1\n", r":3: byte 0xe9.*iconv"),
    "nul": ("t.tsv", "text\tlabel\na\0\t1\n", r":2: a NUL"),
    "nul in json": (
        "t.jsonl",
        '{"text": "a\\u0000", "label": 1}\n',
        r":1: column 'text' holds a NUL character; remove it",
    ),
    "header only": ("t.csv", "text,label\n", r"a header and no rows"),
    "empty": ("t.csv", " \n", r"is empty"),
    "quote": ("t.csv", 'text,label\n"a"b,1\n', r":2: not CSV.*quotes"),
    "semicolons and a quote": (
        *("t.csv", 'text;label\n"a";1\n'),
        r":1: 'text;label' is one column; is it parted by ';'.*with commas",
    ),
    "json": ("t.jsonl", '{"text": "a", "label": 1}\n[1]\n', r":2: '\[1\]' is not a"),
    "suffix": ("t.xlsx", "x", r"none of \.tsv, \.csv, \.jsonl"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    name, content, message = BAD[case]
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as caught:
        list(read_table(path, ["text"], "label"))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_cola_and_uci_rows_name_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tsv", "a\t1\t\tb\nx\t1\n")
    with pytest.raises(UserError, match=r"c\.tsv:2: 2 tab.*there should be 4"):
        list(read_columns(path, 4, [3], 1))
    path = write(tmp_path / "u.txt", "good\t1\nno tab at all\n")
    with pytest.raises(UserError, match=r"u\.txt:2: no tab in 'no tab at all'"):
        list(read_sentence_tab_label(path))


def test_a_file_is_found_below_the_folder_and_doubt_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no a\.txt"):
        find_file(tmp_path, "a.txt")
    (tmp_path / "raw").mkdir()
    path = write(tmp_path / "raw" / "a.txt", "1")
    assert find_file(tmp_path, "a.txt") == path
    write(tmp_path / "a.txt", "1")
    find_file(tmp_path, "a.txt")
    write(tmp_path / "a.txt", "2")
    with pytest.raises(UserError, match="several different files"):
        find_file(tmp_path, "a.txt")
    with pytest.raises(UserError, match="not a folder"):
        find_file(tmp_path / "nowhere", "a.txt")


# --- cache ------------------------------------------------------------------------


def test_ids_carry_special_tokens_and_long_sentences_are_cut_and_counted(
    tmp_path: Path, tokenizer: SentenceTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    long = " ".join(f"w{i}" for i in range(20))
    path = write(tmp_path / "u.txt", f"w0 w1\t1\n{long}\t0\nhuh w3\t1\n")
    encoded = encode(path, tokenizer)
    # <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> 4, w0 5, ...
    assert encoded.tokens[0].tolist() == [0, 5, 6, 2]
    assert encoded.tokens[1].tolist() == [0, *range(5, 11), 2]
    assert encoded.tokens[2].tolist() == [0, 3, 8, 2]
    assert encoded.targets.tolist() == [1, 0, 1]
    assert "1 of 3 sentences cut to 8 tokens" in caplog.text


def test_the_second_time_comes_from_the_cache_and_any_change_misses_it(
    tmp_path: Path, tokenizer: SentenceTokenizer
) -> None:
    path = write(tmp_path / "u.txt", "w0\t1\nw1 w2\t0\n")
    calls = []

    def reader(p: Path) -> Any:
        calls.append(p)
        return read_sentence_tab_label(p)

    first = encode(path, tokenizer, reader=reader)
    again = encode(path, tokenizer, reader=reader)
    assert len(calls) == 1
    assert [t.tolist() for t in again.tokens] == [t.tolist() for t in first.tokens]
    assert again.targets.tolist() == first.targets.tolist()
    encode(path, tokenizer, reader=reader, labels=("1", "0"))
    write(path, "w0\t1\nw1 w2\t1\n")
    encode(path, tokenizer, reader=reader)
    tokenizer.max_length = 7
    encode(path, tokenizer, reader=reader)
    assert len(calls) == 4


def test_a_bad_row_leaves_no_cache(
    tmp_path: Path, tokenizer: SentenceTokenizer
) -> None:
    path = write(tmp_path / "u.txt", "w0\t1\nw1\t7\n")
    with pytest.raises(UserError, match=r"u\.txt:2: label '7' is none of: 0, 1"):
        encode(path, tokenizer)
    assert not list((tmp_path / "fairseq-steady").iterdir())
    write(path, "w0\t1\nw1\tx\n")
    with pytest.raises(UserError, match=r"u\.txt:2: score 'x' is not a finite number"):
        encode(path, tokenizer, labels=None)


def test_a_folder_that_cannot_be_written_costs_only_a_warning(
    tmp_path: Path, tokenizer: SentenceTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "u.txt", "w0\t1\nw1\t0\n")
    write(tmp_path / "blocked", "a file where a folder should be")
    encoded = encode(path, tokenizer, cache_dir=tmp_path / "blocked" / "cache")
    assert len(encoded) == 2
    assert "--steady-cache-dir" in caplog.text


# --- samples ------------------------------------------------------------------------


def test_subsets_keep_the_proportions_and_depend_on_their_seed_only() -> None:
    targets = np.array([0] * 30 + [1] * 70)
    chosen, rest = stratified_subset(targets, 20, seed=3)
    assert targets[chosen].sum() == 14
    assert sorted([*chosen, *rest]) == list(range(100))
    assert (chosen == stratified_subset(targets, 20, seed=3)[0]).all()
    assert (chosen != stratified_subset(targets, 20, seed=4)[0]).any()
    one, other = halves(targets[:-1], seed=0)
    assert (len(one), len(other)) == (49, 50)
    assert not set(one) & set(other)
    scores = np.linspace(0, 1, 9)
    assert len(stratified_subset(scores, 4, 0)[0]) == 4


def test_a_balanced_subset_has_all_of_the_rarest_class() -> None:
    targets = np.array([2, 0] * 3 + [2] * 70 + [1] * 20 + [0])
    labels = ["rare", "some", "many"]
    chosen = balanced_subset(targets, 0, labels, "--balanced")
    assert np.bincount(targets[chosen]).tolist() == [4, 4, 4]
    assert (np.diff(chosen) > 0).all()  # sorted, each once
    assert (chosen == balanced_subset(targets, 0, labels, "--balanced")).all()
    assert (chosen != balanced_subset(targets, 1, labels, "--balanced")).any()
    with pytest.raises(UserError, match="--balanced: there is no .* of class .none.;"):
        balanced_subset(targets, 0, [*labels, "none"], "--balanced")


def test_a_run_can_train_on_as_many_of_each_class(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    """And on a part of these; what it is evaluated on stays as it is."""
    for split, rare in {"train": 6, "valid": 2}.items():
        rows = [f"w{n % 20},{'ham' if n < rare else 'spam'}" for n in range(30)]
        write(tmp_path / f"{split}.csv", "\n".join(["text,label", *rows]))
    cfg = TextClassificationConfig(
        data=str(tmp_path),
        steady_model=str(models["roberta"]),
        steady_train_balanced=True,
    )
    for cfg.steady_train_size, left in (None, 6), ("4", 2):
        task = TextClassificationTask.setup_task(cfg)
        for split in ("train", "valid"):
            task.load_dataset(split)
        found = task.datasets["train"].encoded.targets
        assert np.bincount(found).tolist() == [left, left]
        assert np.bincount(task.training_set().encoded.targets).tolist() == [left, left]
        valid = task.datasets["valid"].encoded.targets
        assert sorted(np.bincount(valid).tolist()) == [2, 28]


@pytest.mark.parametrize("size", [3, 5, 10, 50, 90, 97])
def test_both_parts_have_one_of_each_class(size: int) -> None:
    """In proportion alone, 10 of these had none of the rarer two."""
    targets = np.array([0] * 92 + [1] * 5 + [2] * 3)
    for seed in range(5):
        chosen, rest = stratified_subset(targets, size, seed)
        assert (len(chosen), len(rest)) == (size, 100 - size)
        assert sorted([*chosen, *rest]) == list(range(100))
        assert set(targets[chosen]) == set(targets[rest]) == {0, 1, 2}
    one, other = stratified_subset(np.array([0, 0, 0, 0, 1, 1]), 2, 0)
    assert (len(one), len(other)) == (2, 4)


@pytest.mark.parametrize(("text", "size"), [("1000", 1000), ("0.1", 855), ("1", 1)])
def test_sizes_are_counts_or_fractions(text: str, size: int) -> None:
    assert parse_size(text, 8551, "--f") == size


@pytest.mark.parametrize("text", ["0", "-1", "9000", "1.5", "many", "nan", "inf"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--f {text} is neither"):
        parse_size(text, 8551, "--f")


def test_a_class_too_small_to_split_is_named() -> None:
    with pytest.raises(UserError, match="cannot take 3 of 4"):
        stratified_subset(np.array([0, 0, 0, 1]), 3, 0)


# --- texts of one split in another ----------------------------------------------------


def ragged(*rows: list[int]) -> Ragged:
    return Ragged.of([np.array(row) for row in rows])


def test_rows_are_repeated_where_every_side_is() -> None:
    rows = ragged([1, 2], [3], [1, 2], [1]), ragged([7], [8], [9], [7])
    among = ragged([2], [1, 2], [3], [5]), ragged([7], [7], [9], [8])
    parts = {"all": rows[:1], "last": [rows[0].take(np.array([2, 3]))]}
    assert repeated(parts, among[:1]) == {"all": 3, "last": 1}
    assert repeated({"both sides": rows}, among) == {"both sides": 1}
    others = [among[0].take(np.array([0, 3]))]
    assert repeated(parts, others) == {"all": 0, "last": 0}


def test_what_is_trained_on_is_counted(tmp_path: Path, models: dict[str, Path]) -> None:
    """In halves of the texts as well, and of those that are trained on alone."""
    rows = [f"w{n} w{n + 1},{'ab'[n % 2]}" for n in range(20)]
    write(tmp_path / "train.csv", "\n".join(["text,label", *rows]))
    mine = [*rows[:3], "w1  w2,a", "w1 w9,b", "w9 w1,a"]
    write(tmp_path / "valid.csv", "\n".join(["text,label", *mine]))
    cfg = TextClassificationConfig(
        data=str(tmp_path), steady_model=str(models["roberta"])
    )
    found = []
    for cfg.steady_train_size in (None, "2"):
        task = TextClassificationTask.setup_task(cfg)
        for split in ("valid", "train"):
            task.load_dataset(split)
        found.append(task.trained_on()["valid"])
    kept = {tuple(row.tolist()) for row in task.datasets["train"].encoded.tokens}
    tokens = task.datasets["valid"].encoded.tokens
    assert found == [4, sum(tuple(row.tolist()) in kept for row in tokens)]
    assert found[1] < 4


def test_of_articles_that_are_trained_on_the_summaries_may_differ(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    for split, summaries, other in (("train", "abc", "w8"), ("val", "xbz", "w9")):
        lines = [f"w{n} w{n},w{ord(s) % 9}" for n, s in enumerate(summaries, 1)]
        lines.append(f"w7 {other},w1")
        write(tmp_path / f"{split}.csv", "\n".join(["source,target", *lines]))
    cfg = SummarizationConfig(data=str(tmp_path), steady_model=str(models["bart"]))
    task = SummarizationTask.setup_task(cfg)
    for split in ("valid", "train"):
        task.load_dataset(split)
    assert len(task.datasets["valid"]) == 4
    assert task.trained_on() == {"valid": 3}


def test_digests_are_of_folders_too_and_tell_namesakes_apart(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    data, other = tmp_path / "data", tmp_path / "noisy" / "data"
    (data / "train").mkdir(parents=True)
    other.mkdir(parents=True)
    write(data / "train" / "a.story", "w1 w2\n\n@highlight\n\nw1\n")
    cfg = SummarizationConfig(data=str(data), steady_model=str(models["bart"]))
    cfg.summarization_bertscore = str(models["roberta"])
    found = []
    for text in ("w3", "w4"):
        task = SummarizationTask.setup_task(cfg)
        task.load_dataset("train")
        found.append(task.files)
        write(data / "train" / "a.story", f"{text}\n\n@highlight\n\nw1\n")
    assert {*found[0]} == {*found[1]} == {"dict.txt", "data/train"}
    assert found[0]["data/train"] != found[1]["data/train"]
    assert [one.path for one in task.models()] == [models["bart"], models["roberta"]]
    for folder, text in ((data, "a"), (other, "b"), (data, "a")):
        write(folder / "x.tsv", text)
        task.reads(folder / "x.tsv")
    digests = [sha256(text.encode()).hexdigest() for text in "ab"]
    assert [task.files[f"{at}data/x.tsv"] for at in ("", "noisy/")] == digests


def test_one_file_cannot_be_divided_where_a_class_has_one_row(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    rows = [f"w{n},{'ab'[n % 2]}" for n in range(20)]
    path = write(tmp_path / "mine.csv", "\n".join(["text,label", *rows, "w3,c"]))
    cfg = TextClassificationConfig(data=str(path), steady_model=str(models["roberta"]))
    said = (
        f"{path} is to be divided into train and valid: cannot take 3 of 21 sentences "
        "in proportion: there is only one of class 'c'; add some of it, remove it, or "
        "name a folder with a file for each split"
    )
    with pytest.raises(UserError, match=re.escape(said)):
        TextClassificationTask.setup_task(cfg).load_dataset("train")


def test_a_file_that_nobody_may_read_is_one_line(tmp_path: Path) -> None:
    for path in ("a.csv", Path("a.csv")):
        error = PermissionError(errno.EACCES, "Permission denied", path)
        assert (
            explanation(error) == "a.csv cannot be read or written (Permission denied)"
        )


# --- Twitter to UCI -------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["twitter", "uci"])
def test_the_sentiment_protocol_never_tests_on_what_it_trains_on(
    tmp_path: Path, models: dict[str, Path], stage: str
) -> None:
    cfg = UciSentimentConfig(
        data=str(make_sentiment_data(tmp_path)),
        steady_model=str(models["roberta"]),
        uci_stage=stage,
        seed=1,
    )
    task = UciSentimentTask.setup_task(cfg)
    parts = {}
    for split in ("train", "valid", "amazon", "imdb", "yelp"):
        task.load_dataset(split)
        parts[split] = task.datasets[split].encoded
    sizes = {name: len(part) for name, part in parts.items()}
    expected = {"train": 54, "valid": 6, "amazon": 40, "imdb": 40, "yelp": 40}
    if stage == "uci":
        expected |= {"train": 12, "amazon": 36, "imdb": 36, "yelp": 36}
    assert sizes == expected
    trained = {tuple(t.tolist()) for t in parts["train"].tokens}
    for name in ("valid", "amazon", "imdb", "yelp"):
        assert not trained & {tuple(t.tolist()) for t in parts[name].tokens}
    if stage == "uci":
        assert parts["train"].targets.sum() == 6
    with pytest.raises(UserError, match="no split 'test'"):
        task.load_dataset("test")
    cfg.steady_split_dev = True
    halves_of = UciSentimentTask.setup_task(cfg)
    for split in ("valid", "test"):
        halves_of.load_dataset(split)
        parts[split] = halves_of.datasets[split].encoded
    assert (len(parts["valid"]), len(parts["test"])) == (3, 3)
    assert not {tuple(t.tolist()) for t in parts["test"].tokens} & trained


def test_a_missing_file_is_named(tmp_path: Path, tokenizer: SentenceTokenizer) -> None:
    with pytest.raises(UserError, match=r"nothing\.txt does not exist"):
        encode(tmp_path / "nothing.txt", tokenizer)


def test_a_tokeniser_of_another_model_is_refused(models: dict[str, Path]) -> None:
    directory = ModelDirectory.open(models["roberta"])
    dictionary = directory.dictionary()
    stranger = SimpleNamespace(indices={"<s>": 0})
    with pytest.raises(UserError, match="the dictionary lacks"):
        SentenceTokenizer(directory, stranger, 8)
    SentenceTokenizer(directory, dictionary, 8)
