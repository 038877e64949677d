"""Reading and writing whole files: the one place where either is done.

What is written appears under its name when it is complete, or not at all; scratch
names cannot be guessed and never follow a link; permissions follow the umask. What is
read back from disk is checked for its structure by :func:`read_json` or
:func:`conform`.
"""

import functools
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from .errors import UserError

Model = TypeVar("Model")

#: Characters of a name that a scratch name repeats; file systems end at 255 bytes.
_KEPT = 60
#: A scratch name.
_LEFT = re.compile(r"\..+-[0-9a-f]{16}\.tmp", re.DOTALL)
#: Largest JSON file that is read: far above any of ours, far below memory.
_JSON_BYTES = 2**30


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- whole or not at all --------------------------------------------------------------


def _scratch(path: Path) -> Path:
    """A name beside ``path`` that nobody can have put a link at."""
    return path.with_name(f".{path.name[-_KEPT:]}-{secrets.token_hex(8)}.tmp")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a scratch file for writing; its content takes ``path``'s place at the end.

    A link at ``path`` is replaced, not followed. After an exception nothing is left.

    Args:
        path: in a folder that exists.

    Raises:
        OSError: the file cannot be written.

    """
    scratch = _scratch(path)
    descriptor = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
        scratch.replace(path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise


def own_file(path: Path, mode: str) -> IO[str]:
    """Open a file that grows, as a log does, for writing; no link is followed.

    Args:
        path: in a folder that exists.
        mode: as :func:`open` takes it: ``w``, or ``a`` to add to what is there.

    Raises:
        UserError: it cannot be written, or is a link or no file.

    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

    try:
        file = open(  # noqa: SIM115
            path, mode, encoding="utf-8", errors="backslashreplace", opener=opener
        )
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); remove it, or choose "
            "another folder"
        ) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path} is no file; remove it")
    return file


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make a scratch folder; it becomes ``path`` at the end, with all that is in it.

    After an exception nothing is left.

    Args:
        path: its parent is made where it is missing.

    Raises:
        UserError: ``path`` exists.
        OSError: the folder cannot be written.

    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists; remove it or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch(path)
    scratch.mkdir()
    try:
        yield scratch
        scratch.rename(path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left behind in a folder of one writer."""
    for path in folder.glob(".*.tmp"):
        if _LEFT.fullmatch(path.name) and path.is_file():
            with suppress(OSError):
                path.unlink()


def sweep_folder(path: Path) -> None:
    """Remove what writers of one folder that were killed left behind.

    Args:
        path: of the folder, which nobody is writing.

    """
    name = f".{glob.escape(path.name[-_KEPT:])}-{'[0-9a-f]' * 16}.tmp"
    for left in path.parent.glob(name):
        shutil.rmtree(left, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, whole or not at all; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        # Lone surrogates, as Python's JSON lets in, are written as JSON has them.
        file.write(text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write JSON, whole or not at all; what JSON does not have becomes text."""
    text = json.dumps(content, default=str, indent=indent, ensure_ascii=False)
    write_text(path, text + "\n")


# --- believed or not ------------------------------------------------------------------


def foreign(path: Path) -> str | None:
    """Who else could have written a file or folder, or None if only this user could.

    Args:
        path: exists; of a link both it and what it leads to are judged.

    Returns:
        ``user 1001``, ``everybody`` or None. Root may write anywhere, so it is trusted.

    """
    for found in (path.lstat(), path.stat()):
        if found.st_uid not in (0, os.geteuid()):
            return f"user {found.st_uid}"
    sticky_folder = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    open_to_all = found.st_mode & stat.S_IWOTH and not sticky_folder
    return "everybody" if open_to_all else None


# --- checked as it is read ------------------------------------------------------------


def _make(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(_make)


def short(value: object) -> str:
    """A value as an error shows it: quoted and short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refusal(where: object, error: ValidationError, mend: str) -> UserError:
    first = error.errors(include_url=False, include_context=False)[0]
    # Where either of two forms will do, pydantic names one, as "list[int]", besides.
    place = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
    if first["type"] == "json_invalid":
        return UserError(f"{where} is not JSON ({first['msg']}); {mend}")
    problem = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] in ("missing", "missing_argument"):
        return UserError(f"{where}: field '{place}' is missing; {mend}")
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return UserError(f"{where}: there is no field '{place}'; {mend}")
    found = "" if isinstance(first["input"], dict | list) else short(first["input"])
    found = found or f"a {type(first['input']).__name__}"
    field = f"field '{place}'" if place else "the whole"
    return UserError(f"{where}: {field}: {problem}, not {found}; {mend}")


def conform(schema: type[Model], data: Any, where: object, mend: str) -> Model:
    """Data as a schema describes it.

    Args:
        schema: a type pydantic knows: a TypedDict, a dataclass, a BaseModel.
        data: of unknown structure.
        where: the file, for the error.
        mend: what the user can do about it.

    Raises:
        UserError: names ``where``, the field, what it should be and what it is.

    """
    try:
        found: Model = _adapter(schema).validate_python(data, strict=True)
    except ValidationError as error:
        raise _refusal(where, error, mend) from None
    return found


def read_json(path: Path, schema: type[Model], mend: str) -> Model:
    """A JSON file as a schema describes it.

    Args:
        path: of the file.
        schema: as :func:`conform` takes it.
        mend: what the user can do about a file that is not so.

    Raises:
        UserError: the file cannot be read, is no JSON, or a field is not as the schema
            says; the message names file and field.

    """
    try:
        if path.stat().st_size > _JSON_BYTES:
            raise UserError(f"{path} is too large to be what it should be; {mend}")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {mend}") from None
    try:
        found: Model = _adapter(schema).validate_json(content, strict=True)
    except ValidationError as error:
        raise _refusal(path, error, mend) from None
    return found
