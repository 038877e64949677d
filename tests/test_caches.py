"""A tokenised cache is believed where it is ours, whole and of these very data."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.data.cache import check_ids, encode_cached
from fairseq_steady.data.pair_dataset import encode_pairs
from fairseq_steady.data.pairs import find_pairs, read_pairs
from fairseq_steady.data.readers import read_sentence_tab_label
from fairseq_steady.model_dir import ModelDirectory
from helpers import Attack

pytestmark = pytest.mark.usefixtures("own_cache")

#: What honest entries hold: <s> w1 w2 </s>, and so on.
TOKENS, TARGETS = [[0, 5, 2], [0, 6, 7, 2]], [1, 0]


@pytest.fixture
def tokenizer(models: dict[str, Path]) -> SentenceTokenizer:
    directory = ModelDirectory.open(models["roberta"])
    return SentenceTokenizer(directory, directory.dictionary(), 8)


class Sentences:
    """Two sentences, and how often their file was read."""

    def __init__(self, folder: Path, tokenizer: SentenceTokenizer) -> None:
        self.path, self.tokenizer, self.reads = folder / "u.txt", tokenizer, 0
        self.path.write_text("w0\t1\nw1 w2\t0\n")

    def reader(self, path: Path) -> Any:
        self.reads += 1
        return read_sentence_tab_label(path)

    def encode(self, labels: tuple[str, ...] | None = ("0", "1")) -> Any:
        return encode_cached(
            self.path, self.reader, "uci", labels, self.tokenizer, None
        )

    def entry(self) -> Path:
        (found,) = self.path.parent.rglob("*.npz")
        return found

    def is_right(self) -> bool:
        found = self.encode()
        tokens = [one.tolist() for one in found.tokens]
        return tokens == TOKENS and found.targets.tolist() == TARGETS


@pytest.fixture
def sentences(tmp_path: Path, tokenizer: SentenceTokenizer) -> Sentences:
    made = Sentences(tmp_path, tokenizer)
    made.encode()
    assert made.is_right()
    assert made.reads == 1
    return made


def rewritten(**changed: Any) -> Callable[[Path], None]:
    """An entry with some arrays replaced, well-formed otherwise."""

    def change(path: Path) -> None:
        with np.load(path) as stored:
            arrays = dict(stored)
        given = {k: v(arrays[k]) if callable(v) else v for k, v in changed.items()}
        arrays |= given
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})

    return change


def compressed(path: Path) -> None:
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez_compressed(path, **arrays)


def huge(path: Path) -> None:
    """A header of 2^40 numbers."""
    header = io.BytesIO()
    form = {"descr": "<i4", "fortran_order": False, "shape": (2**40,)}
    np.lib.format.write_array_header_1_0(header, form)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, header.getvalue() if "tokens" in name else data)


def broken(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def pickled(path: Path) -> None:
    """Objects, whose loading would run what they say."""
    proof = path.with_name("proof")
    rewritten(tokens=np.array([Attack(proof)], dtype=object))(path)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a pickle": pickled,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("text"),
    "a broken byte": broken,
    "a broken stream": lambda path: (compressed(path), broken(path)),
    "compressed": compressed,
    "a huge header": huge,
    "no targets": rewritten(targets=None),
    "fewer targets": rewritten(targets=np.array([1])),
    "a class too high": rewritten(targets=np.array([1, 2])),
    "a class below 0": rewritten(targets=np.array([1, -1])),
    "scores": rewritten(targets=np.array([1.0, 0.0])),
    "targets of text": rewritten(targets=np.array(["1", "0"])),
    "an id too high": rewritten(tokens=lambda t: t + 1000),
    "an id below 0": rewritten(tokens=lambda t: t - 10),
    "ids that are not whole": rewritten(tokens=lambda t: t.astype(float)),
    "ids in a column": rewritten(tokens=lambda t: t[:, None]),
    "negative lengths": rewritten(lengths=np.array([9, -2])),
    "an empty sentence": rewritten(lengths=np.array([7, 0])),
    "lengths too long": rewritten(lengths=np.array([3, 5])),
    "lengths of text": rewritten(lengths=np.array(["3", "4"])),
    "truncated of text": rewritten(truncated=np.array("many")),
    "more truncated than there are": rewritten(truncated=np.array(3)),
    "other data": rewritten(key=np.array("0" * 64)),
    "no key": rewritten(key=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_again(sentences: Sentences, damage: str) -> None:
    DAMAGES[damage](sentences.entry())
    assert sentences.is_right()
    assert not list(sentences.path.parent.rglob("proof"))
    assert sentences.reads == 2
    assert sentences.is_right()
    assert sentences.reads == 2


def test_other_content_under_the_entrys_name_is_not_believed(
    sentences: Sentences,
) -> None:
    """As when an entry was copied, or its name collides."""
    old = sentences.entry()
    content = old.read_bytes()
    sentences.path.write_text("w0\t1\nw1 w2\t1\n")
    sentences.encode()
    (new,) = set(sentences.path.parent.rglob("*.npz")) - {old}
    new.write_bytes(content)
    assert sentences.encode().targets.tolist() == [1, 1]


def test_scores_that_are_not_finite_are_not_believed(sentences: Sentences) -> None:
    sentences.entry().unlink()
    sentences.encode(labels=None)
    rewritten(targets=np.array([np.nan, 1.0]))(sentences.entry())
    assert sentences.encode(labels=None).targets.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_others_can_write_is_not_believed(
    sentences: Sentences, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    entry = sentences.entry()
    rewritten(targets=np.array([0, 1]))(entry)  # well-formed, and wrong
    path = entry if which == "file" else entry.parent
    path.chmod(0o777)
    assert sentences.is_right()
    assert f"{path} can be written by everybody and is not believed" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_an_entry_of_another_user_is_not_believed(
    sentences: Sentences, caplog: pytest.LogCaptureFixture
) -> None:
    entry = sentences.entry()
    rewritten(targets=np.array([0, 1]))(entry)
    os.chown(entry, 1234, 1234)
    assert sentences.is_right()
    assert "can be written by user 1234 and is not believed" in caplog.text


def test_a_link_in_the_cache_is_not_written_through(sentences: Sentences) -> None:
    entry, victim = sentences.entry(), sentences.path.parent / "victim"
    victim.write_text("keep me")
    entry.unlink()
    entry.symlink_to(victim)
    assert sentences.is_right()
    assert victim.read_text() == "keep me"


def test_the_first_id_beyond_the_dictionary_is_refused() -> None:
    check_ids(np.array([9]), np.array([1]), 10)
    with pytest.raises(ValueError, match="an id outside the dictionary"):
        check_ids(np.array([10]), np.array([1]), 10)


# --- articles and summaries -----------------------------------------------------------


class Pairs:
    """Two pairs, and how often their files were read."""

    def __init__(self, folder: Path, tokenizer: SentenceTokenizer) -> None:
        self.folder, self.tokenizer, self.reads = folder, tokenizer, 0
        (folder / "train.source").write_text("w0 w1\nw2\n")
        (folder / "train.target").write_text("w0\nw2\n")

    def encode(self) -> Any:
        files = find_pairs(self.folder, "train")

        def read() -> Any:
            self.reads += 1
            return read_pairs(files, "", "")

        return encode_pairs(files, read, "x", (self.tokenizer, self.tokenizer), None)

    def entry(self) -> Path:
        (found,) = (self.folder / "fairseq-steady").iterdir()
        return found

    def is_right(self) -> bool:
        found = self.encode()
        sides = [
            [one.tolist() for one in side] for side in (found.source, found.target)
        ]
        return sides == [[[0, 5, 6, 2], [0, 7, 2]], [[0, 5, 2], [0, 7, 2]]]


@pytest.fixture
def pairs(tmp_path: Path, tokenizer: SentenceTokenizer) -> Pairs:
    made = Pairs(tmp_path, tokenizer)
    made.encode()
    assert made.is_right()
    assert made.reads == 1
    return made


def ids(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        path = folder / name
        if name.endswith(".npy"):
            np.save(path, change(np.load(path)))
        else:
            change(np.fromfile(path, np.int32)).astype(np.int32).tofile(path)

    return write


def about(**changed: Any) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        found = json.loads((folder / "about.json").read_text()) | changed
        (folder / "about.json").write_text(json.dumps(found))

    return write


FOLDERS: dict[str, Callable[[Path], Any]] = {
    "an id too high": ids("source.bin", lambda a: a + 1000),
    "an id below 0": ids("target.bin", lambda a: a - 10),
    "cut off": ids("source.bin", lambda a: a[:-1]),
    "ends that fall": ids("source.ends.npy", lambda a: a[::-1]),
    "a pickle": lambda folder: (folder / "source.ends.npy").write_bytes(
        pickle.dumps(Attack(folder.parent / "proof"))
    ),
    "ends of text": ids("source.ends.npy", lambda a: a.astype(str)),
    "fewer summaries": lambda folder: (
        ids("target.ends.npy", lambda a: a[:1])(folder),
        ids("target.bin", lambda a: a[:3])(folder),
    ),
    "no ends": lambda folder: (folder / "source.ends.npy").unlink(),
    "other data": about(key="0" * 64),
    "about of another form": about(truncated="many"),
    "about that is no JSON": lambda folder: (folder / "about.json").write_text("{"),
    "about with another field": about(more=1),
}


@pytest.mark.parametrize("damage", FOLDERS)
def test_a_damaged_folder_is_made_again(pairs: Pairs, damage: str) -> None:
    FOLDERS[damage](pairs.entry())
    assert pairs.is_right()
    assert not list(pairs.folder.rglob("proof"))
    assert pairs.reads == 2
    assert pairs.is_right()
    assert pairs.reads == 2


@pytest.mark.parametrize("which", ["entry", "cache"])
def test_a_folder_that_others_can_write_is_made_again(
    pairs: Pairs, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    entry = pairs.entry()
    ids("target.bin", lambda a: a[::-1])(entry)  # well-formed, and wrong
    path = entry if which == "entry" else entry.parent
    path.chmod(0o777)
    assert pairs.is_right()
    assert pairs.reads == 2
    assert f"{path} can be written by everybody and is not believed" in caplog.text


def test_stories_with_other_content_are_read_again(
    tmp_path: Path, tokenizer: SentenceTokenizer
) -> None:
    """The same name, size and time say nothing of what a file holds."""
    story = tmp_path / "train" / "a.story"
    story.parent.mkdir()
    story.write_text("w0\n\n@highlight\n\nw1\n")
    files, read = [story.parent], []

    def encode() -> Any:
        def pairs() -> Any:
            read.append(1)
            return read_pairs(files, "", "")

        return encode_pairs(files, pairs, "x", (tokenizer, tokenizer), None)

    encode(), encode()
    assert len(read) == 1
    before = story.stat()
    story.write_text("w3\n\n@highlight\n\nw1\n")
    os.utime(story, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert encode().source[0].tolist() == [0, 8, 2]
