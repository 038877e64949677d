"""What is said of data, whoever reads them and however often."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fairseq_steady.data import SentenceTokenizer, encode_cached
from fairseq_steady.data.layouts import reader
from fairseq_steady.data.nli import LAYOUTS as NLI
from fairseq_steady.data.noticing import say
from fairseq_steady.data.pair_dataset import encode_pairs
from fairseq_steady.data.pairs import Columns, read_pairs
from fairseq_steady.data.tables import read_table
from fairseq_steady.model_dir import ModelDirectory

pytestmark = pytest.mark.usefixtures("own_cache")
CLASSES = ("contradiction", "neutral", "entailment")


@pytest.fixture
def tokenizer(models: dict[str, Path]) -> SentenceTokenizer:
    directory = ModelDirectory.open(models["roberta"])
    return SentenceTokenizer(directory, directory.dictionary(), 8)


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
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


# --- said in every run ----------------------------------------------------------------


def test_rows_left_out_are_counted_in_every_run_wherever_the_file_is(
    tmp_path: Path, tokenizer: SentenceTokenizer, heard: Callable[[], list[str]]
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
    assert heard() == [f"{path} (en): 2 of 4 {tail}"]
    assert encode(path) == 2
    assert encode(path) == 2
    assert heard() == [f"{path} (en): 2 of 4 {tail}"]
    moved.parent.mkdir()
    shutil.move(path, moved)
    assert encode(moved) == 2
    assert heard() == [f"{moved} (en): 2 of 4 {tail}"]


def test_what_is_remarked_of_a_table_is_said_once_a_run(
    tmp_path: Path, tokenizer: SentenceTokenizer, heard: Callable[[], list[str]]
) -> None:
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"a ""b"" c"\t0\nw1\t1\n')

    def read(file: Path) -> Any:
        return read_table(file, ["text"], "label")

    expected = [
        f"{path}:2: a cell in doubled quotes, as pandas writes them; a .tsv has no "
        "quoting here, so they stay in the text: read it with --steady-quoted-tsv, or "
        "write the table as .csv"
    ]
    for _ in range(2):
        list(read(path))  # as to find its classes
        encode_cached(path, read, "table", ("0", "1"), tokenizer, None)
        assert heard() == expected


def test_what_was_heard_before_an_error_is_said(
    tmp_path: Path, tokenizer: SentenceTokenizer, heard: Callable[[], list[str]]
) -> None:
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"a ""b"" c"\t0\nw1\t\n')
    with pytest.raises(ValueError, match="t.tsv:3: an empty label"):
        encode_cached(
            *(path, lambda p: read_table(p, ["text"], "label"), "table", ("0", "1")),
            *(tokenizer, None),
        )
    (said,) = heard()
    assert said.startswith(f"{path}:2: a cell in doubled quotes")


def test_articles_without_a_summary_are_counted_in_every_run(
    tmp_path: Path, models: dict[str, Path], heard: Callable[[], list[str]]
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
        assert heard() == [f"{path}: 2 of 4 rows have no summary, and are left out"]
