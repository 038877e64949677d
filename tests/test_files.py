"""Whole writes, checked reads: user_dir/files.py."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from fairseq_steady import errors, files
from fairseq_steady.errors import UserError
from pydantic import ConfigDict, Field

WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: files.write_text(path, "new"),
    "json": lambda path: files.write_json(path, {"new": 1}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_link_is_replaced_and_not_followed(
    tmp_path: Path, write: Callable[[Path], Any]
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "out"
    victim.write_text("keep me")
    path.symlink_to(victim)
    write(path)
    assert victim.read_text() == "keep me"
    assert not path.is_symlink()
    assert "new" in path.read_text()


def test_scratch_names_differ_and_permissions_follow_the_umask(tmp_path: Path) -> None:
    names = []
    before = os.umask(0o027)
    try:
        for number in range(2):
            with files.whole_file(tmp_path / f"{number}") as file:
                file.write(b"x")
                names += [path.name for path in tmp_path.glob(".*")]
            with files.whole_folder(tmp_path / f"folder{number}") as scratch:
                names.append(scratch.name)
    finally:
        os.umask(before)
    assert len({name.split("-")[1] for name in names}) == 4
    assert stat.S_IMODE((tmp_path / "0").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder0").stat().st_mode) == 0o750


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    path, folder = tmp_path / "a", tmp_path / "b"
    path.write_text("before")
    with suppress(KeyError), files.whole_file(path) as file:
        file.write(b"half")
        raise KeyError
    with suppress(KeyError), files.whole_folder(folder) as scratch:
        (scratch / "half").touch()
        raise KeyError
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(UserError, match="a exists; remove it"):
        files.whole_folder(path).__enter__()
    assert path.read_text() == "before"


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    with files.whole_file(tmp_path / "checkpoint_last.pt") as file:
        (left,) = tmp_path.iterdir()
        name = left.name
        file.write(b"whole")
    others = [tmp_path / other for other in ("a.tmp", ".b.tmp", name + "x", "c.pt")]
    for path in [tmp_path / name, *others]:
        path.touch()
    files.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(
        [*others, tmp_path / "checkpoint_last.pt"]
    )


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    files.write_text(tmp_path / ("n" * 255), "x")
    assert len(list(tmp_path.iterdir())) == 1


def test_who_else_could_have_written_is_named(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    path.touch(0o644)
    link.symlink_to(path)
    assert files.foreign(path) is None
    assert files.foreign(link) is None
    path.chmod(0o646)
    assert files.foreign(path) == files.foreign(link) == "everybody"
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    assert files.foreign(folder) == "everybody"
    folder.chmod(0o1777)  # as /tmp: others cannot touch what is mine
    assert files.foreign(folder) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_foreign(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    path.touch()
    link.symlink_to(path)
    os.chown(path, 1234, 1234)
    assert files.foreign(path) == files.foreign(link) == "user 1234"
    os.chown(path, 0, 0)
    os.chown(link, 1234, 1234, follow_symlinks=False)
    assert files.foreign(link) == "user 1234"


@dataclass
class Inner:
    __pydantic_config__ = ConfigDict(extra="forbid")
    rates: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


@dataclass
class Schema:
    __pydantic_config__ = ConfigDict(extra="forbid")
    count: Annotated[int, Field(ge=1)]
    inner: Inner
    name: str = "x"


GOOD = '{"count": 2, "inner": {"rates": {"a": 1}}}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\xff", "is not JSON"),
        ("[]", ": the whole: input should be an object, not a list"),
        ("{}", "field 'count' is missing"),
        (GOOD.replace("2", '"2"'), "field 'count': .*integer, not '2'"),
        (GOOD.replace("2", "2.5"), "field 'count': .*integer, not 2.5"),
        (GOOD.replace("2", "true"), "field 'count': .*integer, not True"),
        (GOOD.replace("2", "0"), "field 'count': .*greater than or equal to 1, not 0"),
        (GOOD.replace("1", "NaN"), "field 'inner.rates.a': .*finite number, not nan"),
        (GOOD.replace("1", "-1"), "field 'inner.rates.a': .*not -1"),
        (GOOD.replace("1", "[]"), "field 'inner.rates.a': .*not a list"),
        (GOOD.replace('"rates"', '"rats"'), "field 'inner.rates' is missing"),
        (GOOD.replace("}}}", '}, "z": 1}}'), "there is no field 'inner.z'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=rf"x\.json.*{said}.*; mend it$"):
        files.read_json(path, Schema, "mend it")


def test_what_is_right_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(GOOD)
    found = files.read_json(tmp_path / "x.json", Schema, "mend it")
    assert found == Schema(2, Inner({"a": 1.0}))
    with pytest.raises(UserError, match=r"y\.json cannot be read \(No such file"):
        files.read_json(tmp_path / "y.json", Schema, "mend it")
    with pytest.raises(UserError, match="cannot be read"):
        files.read_json(tmp_path, Schema, "mend it")


def test_json_keeps_what_it_can_and_names_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    files.write_json(path, {"é": np.float64(0.5), "p": Path("a")})
    assert path.read_text("utf-8") == '{"é": 0.5, "p": "a"}\n'
    files.write_json(path, "\ud83d")  # half a character
    assert path.read_bytes() == b'"\\ud83d"\n'


def test_what_is_too_long_is_neither_shown_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert files.short("x" * 58) == f"'{'x' * 58}'"
    assert files.short("x" * 59) == f"'{'x' * 56}..."
    (tmp_path / "x.json").write_text(GOOD)
    monkeypatch.setattr(files, "_JSON_BYTES", len(GOOD))
    assert files.read_json(tmp_path / "x.json", Schema, "mend it").count == 2
    monkeypatch.setattr(files, "_JSON_BYTES", len(GOOD) - 1)
    with pytest.raises(UserError, match=r"x\.json is too large .*; mend it"):
        files.read_json(tmp_path / "x.json", Schema, "mend it")


def test_an_error_is_one_visible_line(capsys: pytest.CaptureFixture[str]) -> None:
    errors._show(UserError, UserError("a\x1b[1m\nb é"), None)
    assert capsys.readouterr().err == "error: a\\x1b[1m\\nb é\n"
