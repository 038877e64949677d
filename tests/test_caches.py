"""A tokenised cache is believed where it is ours, whole and of these very data."""

import io
import json
import os
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.data.cache import encode_cached
from fairseq_steady.data.pair_dataset import encode_pairs
from fairseq_steady.data.pairs import find_pairs, read_pairs
from fairseq_steady.data.readers import read_sentence_tab_label
from fairseq_steady.data.stored import check_ids
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
        (found,) = (self.path.parent / "fairseq-steady").iterdir()
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


Damage = Callable[[Path], Any]


def signed(folder: Path, name: str, content: bytes) -> None:
    """A file of an entry with other content, and the checksum of that."""
    (folder / name).write_bytes(content)
    about(lambda found: found["checksums"].update({name: zlib.crc32(content)}))(folder)


def about(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def write(folder: Path) -> None:
        path = folder / "about.json"
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    return write


def ids(change: Callable[[np.ndarray], np.ndarray], name: str = "ids-0.bin") -> Damage:
    def write(folder: Path) -> None:
        found = change(np.fromfile(folder / name, np.int32))
        signed(folder, name, found.tobytes())

    return write


def array(name: str, change: Callable[[np.ndarray], Any]) -> Damage:
    def write(folder: Path) -> None:
        content = io.BytesIO()
        np.save(content, change(np.load(folder / name)), allow_pickle=True)
        signed(folder, name, content.getvalue())

    return write


def targets(*given: object) -> Damage:
    return array("targets.npy", lambda _: np.array(given))


def ends(*given: object) -> Damage:
    return array("ends-0.npy", lambda _: np.array(given))


def huge(folder: Path) -> None:
    """A header of 2^40 numbers."""
    header = io.BytesIO()
    form = {"descr": "<i8", "fortran_order": False, "shape": (2**40,)}
    np.lib.format.write_array_header_1_0(header, form)
    signed(folder, "targets.npy", header.getvalue() + b"\0" * 64)


def pickled(folder: Path) -> None:
    """Objects, whose loading would run what they say."""
    attack = np.array([Attack(folder.with_name("proof"))] * 2, dtype=object)
    array("targets.npy", lambda _: attack)(folder)


def bare_pickle(folder: Path) -> None:
    content = pickle.dumps(Attack(folder.with_name("proof")))
    signed(folder, "ends-0.npy", content)


def broken(folder: Path) -> None:
    """An id that is another, and as good as any."""
    path = folder / "ids-0.bin"
    path.write_bytes(path.read_bytes().replace(b"\6", b"\5"))


DAMAGES: dict[str, Damage] = {
    "a pickle": bare_pickle,
    "an array of objects": pickled,
    "cut off": ids(lambda a: a[:-1]),
    "cut off within an id": lambda f: signed(
        f, "ids-0.bin", (f / "ids-0.bin").read_bytes()[:-2]
    ),
    "empty": lambda f: signed(f, "ids-0.bin", b""),
    "text": lambda f: (f / "targets.npy").write_text("text"),
    "an archive": lambda f: signed(f, "targets.npy", b"PK\3\4"),
    "another id": broken,
    "a huge header": huge,
    "no ids": lambda f: (f / "ids-0.bin").unlink(),
    "no ends": lambda f: (f / "ends-0.npy").unlink(),
    "no targets": lambda f: (f / "targets.npy").unlink(),
    "fewer targets": targets(1),
    "targets in a column": array("targets.npy", lambda a: a[:, None]),
    "a class too high": targets(1, 2),
    "a class below 0": targets(1, -1),
    "scores": targets(1.0, 0.0),
    "targets of text": targets("1", "0"),
    "an id too high": ids(lambda a: a + np.int32(1000)),
    "an id below 0": ids(lambda a: a - np.int32(10)),
    "ends of text": ends("3", "7"),
    "ends that are not whole": ends(3.0, 7.0),
    "ends in a column": array("ends-0.npy", lambda a: a[:, None]),
    "ends that fall": ends(9, 7),
    "an empty sentence": ends(7, 7),
    "ends too far": ends(3, 8),
    "truncated of text": about(lambda a: a.update(truncated=["many"])),
    "truncated below 0": about(lambda a: a.update(truncated=[-1])),
    "more truncated than there are": about(lambda a: a.update(truncated=[3])),
    "truncated of another side": about(lambda a: a.update(truncated=[0, 0])),
    "other data": about(lambda a: a.update(key="0" * 64)),
    "no key": about(lambda a: a.pop("key")),
    "no checksum": about(lambda a: a["checksums"].popitem()),
    "about with another field": about(lambda a: a.update(more=1)),
    "about that is no JSON": lambda f: (f / "about.json").write_text("{"),
    "no about": lambda f: (f / "about.json").unlink(),
    "a file": lambda f: (shutil.rmtree(f), f.write_text("text")),
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
    sentences.path.write_text("w0\t1\nw1 w2\t1\n")
    sentences.encode()
    (new,) = set(old.parent.iterdir()) - {old}
    shutil.rmtree(new)
    shutil.copytree(old, new)
    assert sentences.encode().targets.tolist() == [1, 1]


def test_scores_that_are_not_finite_are_not_believed(sentences: Sentences) -> None:
    shutil.rmtree(sentences.entry())
    sentences.encode(labels=None)
    targets(np.nan, 1.0)(sentences.entry())
    assert sentences.encode(labels=None).targets.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("which", ["file", "entry", "cache"])
def test_what_others_can_write_is_not_believed(
    sentences: Sentences, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    entry = sentences.entry()
    targets(0, 1)(entry)  # well-formed, and wrong
    places = {"file": entry / "ids-0.bin", "entry": entry, "cache": entry.parent}
    path = places[which]
    path.chmod(0o777)
    assert sentences.is_right()
    assert f"{path} can be written by everybody and is not believed" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_an_entry_of_another_user_is_not_believed(
    sentences: Sentences, caplog: pytest.LogCaptureFixture
) -> None:
    entry = sentences.entry()
    targets(0, 1)(entry)
    os.chown(entry, 1234, 1234)
    assert sentences.is_right()
    assert "can be written by user 1234 and is not believed" in caplog.text


@pytest.mark.parametrize("what", ["file", "folder", "nothing"])
def test_a_link_in_the_cache_is_not_written_through(
    sentences: Sentences, what: str
) -> None:
    entry, victim = sentences.entry(), sentences.path.parent / "victim"
    shutil.rmtree(entry)
    entry.symlink_to(victim)
    kept = victim / "about.json" if what == "folder" else victim
    kept.parent.mkdir(exist_ok=True)
    if what != "nothing":
        kept.write_text("keep me")
    assert sentences.is_right()
    assert not entry.is_symlink()
    assert kept.exists() == (what != "nothing")
    assert what == "nothing" or kept.read_text() == "keep me"


def test_the_first_id_beyond_the_dictionary_is_refused() -> None:
    check_ids(np.array([0, 9]), 10)
    for wrong in (10, -1):
        with pytest.raises(ValueError, match="an id outside the dictionary"):
            check_ids(np.array([0, wrong, 5]), 10)


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
            return read_pairs(files)

        return encode_pairs(files, read, "x", (self.tokenizer, self.tokenizer), None)

    def entry(self) -> Path:
        (found,) = (self.folder / "fairseq-steady").iterdir()
        return found

    def is_right(self) -> bool:
        found = self.encode()
        sides = [[one.tolist() for one in side] for side in found.sides]
        return sides == [[[0, 5, 6, 2], [0, 7, 2]], [[0, 5, 2], [0, 7, 2]]]


@pytest.fixture
def pairs(tmp_path: Path, tokenizer: SentenceTokenizer) -> Pairs:
    made = Pairs(tmp_path, tokenizer)
    made.encode()
    assert made.is_right()
    assert made.reads == 1
    return made


FOLDERS: dict[str, Damage] = {
    "an id too high": ids(lambda a: a + np.int32(1000), "ids-1.bin"),
    "another id": lambda f: (f / "ids-1.bin").write_bytes(
        (f / "ids-1.bin").read_bytes().replace(b"\7", b"\5")
    ),
    "ends that fall": array("ends-1.npy", lambda a: a[::-1]),
    "fewer summaries": lambda f: (
        array("ends-1.npy", lambda a: a[:1])(f),
        ids(lambda a: a[:3], "ids-1.bin")(f),
    ),
    "targets": array("targets.npy", lambda _: np.array([1, 0])),
    "truncated of one side": about(lambda a: a.update(truncated=[0])),
    "more summaries truncated than there are": about(
        lambda a: a.update(truncated=[0, 3])
    ),
    "other data": about(lambda a: a.update(key="0" * 64)),
}


@pytest.mark.parametrize("damage", FOLDERS)
def test_a_damaged_folder_is_made_again(pairs: Pairs, damage: str) -> None:
    FOLDERS[damage](pairs.entry())
    assert pairs.is_right()
    assert not list(pairs.folder.rglob("proof"))
    assert pairs.reads == 2
    assert pairs.is_right()
    assert pairs.reads == 2


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
            return read_pairs(files)

        return encode_pairs(files, pairs, "x", (tokenizer, tokenizer), None)

    encode(), encode()
    assert len(read) == 1
    before = story.stat()
    story.write_text("w3\n\n@highlight\n\nw1\n")
    os.utime(story, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert encode().tokens[0].tolist() == [0, 8, 2]
