"""Data of any size: read a line at a time, written in pieces, shared by processes."""

import csv
import errno
import io
import logging
import os
import pickle
import signal
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import sentences
from fairseq_steady.data import Example, Ragged, SentenceTokenizer, readers, stored
from fairseq_steady.data import tokenizing as chunks
from fairseq_steady.data.cache import classes_cached
from fairseq_steady.data.mixture import Mixture
from fairseq_steady.data.pair_dataset import encode_pairs
from fairseq_steady.data.pairs import find_pairs, read_pairs
from fairseq_steady.data.readers import (
    decoded,
    read_lines,
    read_sentence_tab_label,
    read_text,
    text_lines,
)
from fairseq_steady.data.tables import read_named
from fairseq_steady.data.waiting import one_at_a_time
from fairseq_steady.errors import UserError
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.tasks import _sentence
from fairseq_steady.tasks.text import TextClassificationConfig, TextClassificationTask
from helpers import encode, full_disk
from hypothesis import example, given
from hypothesis import strategies as st
from tiny import make_dataset
from tokenizers.processors import TemplateProcessing

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def tokenizer(models: dict[str, Path]) -> SentenceTokenizer:
    directory = ModelDirectory.open(models["roberta"])
    return SentenceTokenizer(directory, directory.dictionary(), 8)


# --- lines ----------------------------------------------------------------------------


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except UserError as error:
        return str(error)


def whole_lines(path: Path) -> list[tuple[int, str]]:
    """What :func:`read_lines` gives, from the whole file in memory."""
    found = []
    for number, line in enumerate(read_text(path).rstrip("\n").split("\n"), 1):
        if not line.strip():
            raise UserError(f"{path}:{number}: an empty line; remove it")
        found.append((number, line))
    return found


#: What lines are made of: ends, blanks, marks, and what is no text.
_PARTS = [b"a", b"\n", b"\r", b"\r\n", b" ", b"\t", "é".encode(), "😀".encode()]
_PARTS += ["\ufeff".encode(), "\u2028".encode(), b"\0", b"\xff", b"\xc3", b"PK\3\4"]


@pytest.mark.parametrize("piece", [32, 2**20])
@given(st.lists(st.sampled_from(_PARTS), max_size=40).map(b"".join))
@example(b"a\n\n\n")
@example(b"a\n\n \n")
@example(b"a\n\n\nb")
@example(b"a\n\xc3")
@example(b"a\r\r\n\r\nb\r")
@example("\ufeff\ufeffa\n\ufeffb".encode())
@example("\ufeff\n\n".encode())
@example(b"a\rb\r")
@example("é\n".encode()[:1])
@example(b"BZha\nb\n")
def test_a_line_at_a_time_is_what_the_whole_file_is(
    tmp_path_factory: pytest.TempPathFactory, piece: int, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(content)
    before, readers._PIECE = readers._PIECE, piece
    try:
        lines = outcome(lambda: list(read_lines(path)))
        text = outcome(lambda: "".join(text_lines(path)))
    finally:
        readers._PIECE = before
    assert lines == outcome(lambda: whole_lines(path))
    assert text == outcome(lambda: decoded(path, content))


def test_what_can_be_read_once_is_one_line() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"one\ntwo\n")
    os.close(writing)
    with pytest.raises(UserError, match=f"^/dev/fd/{reading} can be read only once"):
        list(read_lines(Path(f"/dev/fd/{reading}")))
    os.close(reading)


def test_cells_of_csv_keep_the_line_ends_within_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    content = b'text,label\r\n"a\rb\r\nc\n",1\rd,0\n"e""\r\r\n",1\n'
    path.write_bytes(content)
    text = io.StringIO(content.decode().replace("\r\n", "\n"), newline="")
    wanted = list(csv.reader(text, strict=True))[1:]
    found = list(read_named(path, ["text", "label"]))
    assert [list(row.values()) for _, row in found] == wanted
    assert [number for number, _ in found] == [5, 6, 8]


def test_aligned_files_of_other_lengths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.source").write_text("a\nb\nc\n")
    (tmp_path / "train.target").write_text("a\nb")
    files = find_pairs(tmp_path, "train")
    with pytest.raises(UserError, match="has 3 lines and .*target has 2; line n"):
        list(read_pairs(files))
    (tmp_path / "train.target").write_text("a\nb\nc")
    assert [pair.target for pair in read_pairs(files)] == ["a", "b", "c"]


# --- memory ---------------------------------------------------------------------------


def peak(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("form", ["lines", "csv"])
def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path,
    tokenizer: SentenceTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    """But for a length, an end, a place and a target of each row: 40 bytes or so."""
    monkeypatch.setattr(chunks, "_CHUNK", 100)
    monkeypatch.setattr(readers, "_PIECE", 2**10)
    rows = {"lines": "w{0} w1 w2 w3 w4 {0}\t1\n", "csv": '"w{0}, w1 w2 w3 {0}",1\n'}
    path = tmp_path / ("u.csv" if form == "csv" else "u.txt")

    def read(given: Path) -> Iterator[Example]:
        if form == "lines":
            return read_sentence_tab_label(given)
        named = read_named(given, ["text", "label"])
        return (Example((row["text"],), row["label"], n) for n, row in named)

    def of(count: int) -> int:
        header = "text,label\n" if form == "csv" else ""
        path.write_text(header + "".join(rows[form].format(i) for i in range(count)))
        return peak(lambda: encode(path, tokenizer, reader=read))

    of(100)
    assert of(14_000) - of(4_000) < 10_000 * 60
    found = encode(path, tokenizer, reader=read)
    assert len(found) == 4_000
    assert isinstance(found.tokens.ids, np.memmap)


# --- pieces ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 39, 40, 1000])
def test_pieces_do_not_show(
    tmp_path: Path, tokenizer: SentenceTokenizer, monkeypatch: Any, size: int
) -> None:
    monkeypatch.setattr(chunks, "_CHUNK", size)
    path = tmp_path / "u.txt"
    rows = sentences(40)
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    for _ in range(2):  # made, and from the cache
        found = encode(path, tokenizer)
        whole = tokenizer._tokenizer.encode_batch([text for text, _ in rows])
        wanted = [tokenizer.ids[one.ids].tolist() for one in whole]
        assert [one.tolist() for one in found.tokens] == wanted
        assert found.tokens.sizes.tolist() == [len(one) for one in wanted]
        assert found.targets.tolist() == [int(label) for _, label in rows]
        assert found.truncated == (sum(len(text.split()) > 6 for text, _ in rows),)
        some = found.take(np.array([30, 5])).take(np.array([1]))
        assert some.tokens[0].tolist() == wanted[5]
        assert some.targets.tolist() == [1]


def test_a_wrong_row_after_the_first_piece_leaves_nothing(
    tmp_path: Path, tokenizer: SentenceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_CHUNK", 2)
    path = tmp_path / "u.txt"
    path.write_text("w0\t1\nw1\t0\nw2\t1\nw3\t7\n")
    with pytest.raises(UserError, match=r"u\.txt:4: label '7' is none of: 0, 1"):
        encode(path, tokenizer)
    assert not list((tmp_path / "fairseq-steady").iterdir())
    with pytest.raises(UserError, match=r"u\.txt holds no rows; get it again"):
        encode(path, tokenizer, reader=lambda _: [])
    empty = tmp_path / "train.bin"
    empty.touch()
    both = tokenizer, tokenizer
    with pytest.raises(UserError, match=r"train\.bin holds no rows; get it again"):
        encode_pairs([empty], lambda: read_pairs([empty]), "", both, None)
    assert not list((tmp_path / "fairseq-steady").iterdir())


def no_temporary_folder() -> str:
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("a full disk", "File too large"),
        ("none", "No usable temporary directory found"),
        ("of all", "everybody can write there"),
    ],
)
def test_without_room_for_files_memory_holds_the_ids(
    tmp_path: Path,
    tokenizer: SentenceTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
    why: str,
) -> None:
    monkeypatch.setattr(chunks, "_CHUNK", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    if what == "none":
        monkeypatch.setattr("tempfile.gettempdir", no_temporary_folder)
    if what == "of all":
        (tmp_path / "tmp").chmod(0o777)
    path = tmp_path / "u.txt"
    path.write_text("w0 w1 w2 w3 w4 w5 w6\t1\nw0\t0\n" * 250)
    with full_disk():
        found = encode(path, tokenizer)
        with pytest.raises(UserError, match=r"u\.txt holds no rows; get it again"):
            stored._in_memory(stored.Entry(path, tmp_path, "", 9, 1, 2), [])
    assert [one.tolist() for one in found.tokens] == [
        *([0, 5, 6, 7, 8, 9, 10, 2], [0, 5, 2])
    ] * 250
    assert found.targets.tolist() == [1, 0] * 250
    assert found.truncated == (250,)
    assert f"{path}: its tokens are kept in memory" in caplog.text
    assert f"({why}); free some space, or name a folder with --steady" in caplog.text
    assert not list((tmp_path / "fairseq-steady").iterdir())
    assert not list((tmp_path / "tmp").iterdir())


def test_without_a_cache_the_files_are_gone_and_still_read(
    tmp_path: Path, tokenizer: SentenceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "blocked").touch()
    path = tmp_path / "u.txt"
    path.write_text("w0\t1\nw1 w2\t0\n")
    found = encode(path, tokenizer, cache_dir=tmp_path / "blocked" / "cache")
    assert not list((tmp_path / "tmp").iterdir())
    assert isinstance(found.tokens.ids, np.memmap)
    assert [one.tolist() for one in found.tokens] == [[0, 5, 2], [0, 6, 7, 2]]
    copy = pickle.loads(pickle.dumps(found))
    assert [one.tolist() for one in copy.tokens] == [[0, 5, 2], [0, 6, 7, 2]]


def test_workers_map_the_same_file(
    tmp_path: Path, tokenizer: SentenceTokenizer
) -> None:
    """As they are started: by what is pickled."""
    path = tmp_path / "u.txt"
    path.write_text("w0 w1 w2 w3 w4 w5\t1\nw0\t0\n" * 5000)
    for _ in range(2):  # made, and from the cache
        some = encode(path, tokenizer).tokens.take(np.array([1, 0]))
        sent = pickle.dumps(some)
        copy = pickle.loads(sent)
        assert len(sent) - some.ends.nbytes < 2000 < some.ids.nbytes
        assert isinstance(copy.ids, np.memmap)
        assert copy.ids.filename == some.ids.filename
        assert [one.tolist() for one in copy] == [one.tolist() for one in some]
    path.replace(some.ids.filename)  # another file under its name
    copy = pickle.loads(pickle.dumps(some))
    assert [one.tolist() for one in copy] == [one.tolist() for one in some]


def test_text_without_tokens_is_refused(tokenizer: SentenceTokenizer) -> None:
    """Around others there are special tokens; a model may have none."""
    tokenizer.encode([("",)])
    tokenizer._tokenizer.post_processor = TemplateProcessing("$A", "$A $B", [])
    assert tokenizer.encode([("w0",)])[0][0].tolist() == [5]
    with pytest.raises(UserError, match="text ' ' gives no tokens; remove it"):
        tokenizer.encode([("w0",), (" ",)])


# --- several processes ----------------------------------------------------------------


def test_one_tokenises_and_the_others_wait(
    tmp_path: Path, tokenizer: SentenceTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    path, reads = tmp_path / "u.txt", []
    path.write_text("w0\t1\nw1 w2\t0\n")
    begun, go_on = threading.Event(), threading.Event()
    found: list[Any] = []

    def reader(given: Path) -> Iterator[Example]:
        reads.append(given)
        begun.set()
        assert go_on.wait(30)
        return read_sentence_tab_label(given)

    def work() -> None:
        found.append(encode(path, tokenizer, reader=reader))

    class Waits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "another process does it" in record.getMessage():
                go_on.set()

    handler = Waits()
    logging.getLogger("fairseq_steady").addHandler(handler)
    try:
        with caplog.at_level(logging.INFO):
            workers = [threading.Thread(target=work) for _ in range(2)]
            workers[0].start()
            assert begun.wait(30)
            workers[1].start()
            for worker in workers:
                worker.join(60)
    finally:
        logging.getLogger("fairseq_steady").removeHandler(handler)
    assert len(reads) == 1
    assert [[one.tolist() for one in data.tokens] for data in found] == [
        [[0, 5, 2], [0, 6, 7, 2]]
    ] * 2
    assert f"{path}: tokenising: another process does it" in caplog.text
    assert len(list((tmp_path / "fairseq-steady").iterdir())) == 1


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    ready, say = os.pipe()
    child = os.fork()
    if not child:
        with one_at_a_time(lock, ""):
            os.write(say, b"x")
            signal.pause()
    assert os.read(ready, 1) == b"x"
    taken: list[bool] = []

    def take() -> None:
        with one_at_a_time(lock, "") as alone:
            taken.append(alone)

    waiting = threading.Thread(target=take)
    waiting.start()
    waiting.join(0.2)
    assert taken == []
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    waiting.join(30)
    assert taken == [True]
    assert not lock.exists()


def test_who_waited_holds_the_lock_that_others_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, seen = tmp_path / "lock", []

    def take() -> None:
        with one_at_a_time(lock, "") as alone:
            seen.append((alone, lock.exists()))

    waiting = threading.Thread(target=take)
    with one_at_a_time(lock, ""):
        waiting.start()
        waiting.join(0.2)
        assert seen == []
    waiting.join(30)
    assert seen == [(True, True)]
    with one_at_a_time(tmp_path / "nowhere" / "lock", "") as alone:
        assert not alone

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with one_at_a_time(lock, "") as alone:
        assert not alone


@pytest.mark.parametrize("when", ["before the lock", "before the folder", "meanwhile"])
def test_what_another_made_is_taken(
    tmp_path: Path, tokenizer: SentenceTokenizer, monkeypatch: Any, when: str
) -> None:
    """Between the first look and the lock; without locks, at any time."""
    path, reads, honest = tmp_path / "u.txt", [], stored._remove
    path.write_text("w0\t1\nw1 w2\t0\n")
    another = threading.Thread(target=lambda: encode(path, tokenizer, reader=reader))

    def reach(point: str) -> None:
        if point == when and threading.current_thread() is not another:
            another.start()
            another.join(30)

    def reader(given: Path) -> Iterator[Example]:
        reads.append(threading.current_thread() is another)
        reach("meanwhile")
        yield from read_sentence_tab_label(given)

    @contextmanager
    def no_lock(*_: object) -> Iterator[bool]:
        reach("before the lock")
        yield False

    def remove(folder: Path) -> None:
        honest(folder)
        reach("before the folder")

    monkeypatch.setattr(stored, "one_at_a_time", no_lock)
    monkeypatch.setattr(stored, "_remove", remove)
    found = encode(path, tokenizer, reader=reader)
    assert [one.tolist() for one in found.tokens] == [[0, 5, 2], [0, 6, 7, 2]]
    assert reads == ([False, True] if when == "meanwhile" else [True])
    (entry,) = (tmp_path / "fairseq-steady").iterdir()
    assert Path(found.tokens.ids.filename) == entry / "ids-0.bin"


@pytest.mark.parametrize("stem", ["u", "u" * 99])
def test_what_a_killed_process_left_is_removed(
    stem: str,
    tmp_path: Path,
    tokenizer: SentenceTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, cache = tmp_path / f"{stem}.txt", tmp_path / "fairseq-steady"
    path.write_text("w0\t1\nw1 w2\t0\n")
    ready, say = os.pipe()

    def reader(_: Path) -> list[Example]:
        os.write(say, b"x")
        signal.pause()
        return []

    child = os.fork()
    if not child:
        encode(path, tokenizer, reader=reader)
    assert os.read(ready, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = cache.glob(".*.tmp")
    others = left.with_name(f"{left.stem}-0123456789abcdef.tmp")  # of a longer name
    others.mkdir()
    with monkeypatch.context() as without_locks:
        without_locks.setattr(stored, "one_at_a_time", lambda *_: nullcontext(False))
        encode(path, tokenizer)
    assert left.exists()  # somebody may be writing it
    (entry,) = cache.glob("u*-*")
    (entry / "targets.npy").unlink()
    encode(path, tokenizer)
    assert sorted(cache.iterdir()) == [others, entry]


def test_nothing_is_written_where_others_can(
    tmp_path: Path, tokenizer: SentenceTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """They could put links and other ids there while the rows are tokenised."""
    path, cache, seen = tmp_path / "u.txt", tmp_path / "cache", []
    path.write_text("w0\t1\nw1 w2\t0\n")
    cache.mkdir()
    cache.chmod(0o777)

    def reader(given: Path) -> Iterator[Example]:
        seen.extend(cache.iterdir())
        yield from read_sentence_tab_label(given)

    for _ in range(2):
        found = encode(path, tokenizer, reader=reader, cache_dir=cache)
        assert [one.tolist() for one in found.tokens] == [[0, 5, 2], [0, 6, 7, 2]]
    assert seen == []
    said = f"cannot cache in {cache} (everybody can write there); name a folder with "
    assert caplog.text.count(f"{said}--steady-cache-dir") == 1


def test_nobody_else_can_make_this_user_wait(
    tmp_path: Path, tokenizer: SentenceTokenizer
) -> None:
    """In a folder where all can write, whoever holds a lock may do so for ever."""
    path, cache = tmp_path / "u.txt", tmp_path / "fairseq-steady"
    path.write_text("w0\t1\nw1 w2\t0\n")
    encode(path, tokenizer)
    (entry,) = cache.iterdir()
    cache.chmod(0o777)
    found: list[Any] = []
    work = threading.Thread(
        target=lambda: found.append(encode(path, tokenizer)), daemon=True
    )
    with one_at_a_time(cache / f".{entry.name}.lock", ""):
        work.start()
        work.join(20)
        assert [len(data) for data in found] == [2]


# --- what is looked up ----------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\nw0\tno\nw1\tyes\nw2\tno\nw3\tmaybe\n")
    return path


def test_the_classes_of_a_file_are_found_once(table: Path, tmp_path: Path) -> None:
    reads = []

    def reader(given: Path) -> Iterator[Example]:
        reads.append(given)
        for number, row in read_named(given, ["text", "label"]):
            yield Example((row["text"],), row["label"], number)

    def find(description: str = "") -> list[tuple[str, int]]:
        return list(classes_cached(table, reader, description, None).items())

    wanted = [("no", 2), ("yes", 3), ("maybe", 5)]
    assert [find(), find()] == [wanted, wanted]
    assert len(reads) == 1
    (stored,) = (tmp_path / "fairseq-steady").iterdir()
    good = stored.read_text()
    for damage in (good.replace("yes", "yse"), good[:-9], '{"key": "", "lines": {}}'):
        stored.write_text(damage)
        assert find() == wanted
        assert stored.read_text() == good
    assert len(reads) == 4
    stored.chmod(0o666)
    assert find() == wanted
    assert len(reads) == 5
    find("other columns")
    table.write_text(table.read_text() + "w4\tnever\n")
    assert find()[3] == ("never", 6)
    assert len(reads) == 7
    table.unlink()
    with pytest.raises(UserError, match=r"train\.tsv cannot be read \(No such file"):
        find()


def test_a_task_tokenises_its_data_once(
    table: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First for the schedule, then for the data set."""
    calls, honest = [], _sentence.encode_cached
    monkeypatch.setattr(
        _sentence, "encode_cached", lambda *given: calls.append(1) or honest(*given)
    )
    cfg = TextClassificationConfig(
        data=str(table.parent), steady_model=str(models["roberta"]), seed=1
    )
    task = TextClassificationTask.setup_task(cfg)
    assert len(task.training_set()) == len(task.training_set()) == 4
    task.load_dataset("train")
    assert len(calls) == 1
    assert task.labels == ["maybe", "no", "yes"]
    assert task.datasets["train"].encoded.targets.tolist() == [1, 2, 1, 0]
    assert list(task.files)[1:] == [f"{table.parent.name}/train.tsv"]


def test_lengths_of_many_are_those_of_each(models: dict[str, Path]) -> None:
    data = make_dataset(models["roberta"])
    rows = np.array([3, 0, 4])
    assert data.num_tokens_vec(rows).tolist() == [data.num_tokens(i) for i in rows]
    mixture = Mixture({"a": data, "b": data})
    batches = mixture.batch_by_size(np.arange(10), max_tokens=20)
    assert [list(batch) for batch in batches] == [
        *([0, 1], [2], [3], [4], [5, 6], [7], [8], [9])
    ]


def test_sequences_in_memory_are_as_those_on_disk() -> None:
    found = Ragged.of([np.array([5, 6]), np.array([7], np.int32)])
    assert (found.ids.dtype, found.ids.tolist()) == (np.int32, [5, 6, 7])
    assert found.ends.tolist() == [2, 3]
