"""``--steady-also``: further labelled files, each evaluated as a subset of its own."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from ..data import Example, read_table
from ..data.cache import Reader
from ..data.readers import error_at, is_table, shown
from ..data.tables import (
    PAIR,
    NoHeaderError,
    columns_of,
    guess_columns,
    read_minimal_pairs,
)
from ..errors import UserError
from ..flags import option

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
#: Names of splits that every task has.
_TAKEN = ("train", "valid", "test")
#: Instead of files: none, whatever was said before.
NONE = "none"


@dataclass
class AlsoConfig:
    """Flags of every task with one head."""

    steady_also: Optional[str] = option(
        None,
        "evaluate further labelled files, with the task's columns, each under a name "
        "of its own, as amazon=FILE,imdb=FILE; a file of minimal pairs too; none: "
        "leave them out, whatever was said before",
    )
    steady_also_labels: Optional[str] = option(
        None,
        "the task's name of each class in those files, as Negative=0,Positive=1; of "
        "minimal pairs as good=1",
    )
    steady_quoted_tsv: bool = option(
        False,
        "cells of your own .tsv files stand in quotes where they hold one, as pandas "
        "writes them; default: a quote is text",
    )


@dataclass(frozen=True)
class Form:
    """What a task's own tables look like.

    Args:
        columns: names of the one or two text columns.
        label: name of the label column.
        labels: the classes; None for scores.
        quoted: whether .tsv files have quotes around cells.
        task: its name, for the cache.
        bare: reads the task's own files, if those name no columns.
        own: whether the classes are the user's, whose meaning only the user knows.

    """

    columns: Sequence[str]
    label: str
    labels: Sequence[str] | None
    quoted: bool
    task: str = ""
    bare: Reader | None = None
    own: bool = False


def further(cfg: Any) -> dict[str, Path]:
    """The files of ``--steady-also`` by name.

    Args:
        cfg: the task's.

    Raises:
        UserError: a part is not NAME=FILE, or a name is every task's, or there twice.

    """
    found: dict[str, Path] = {}
    said = cfg.steady_also
    for part in said.split(",") if said not in (None, NONE) else ():
        name, equals, file = (each.strip() for each in part.partition("="))
        if not (equals and file and _NAME.fullmatch(name)):
            raise UserError(
                f"--steady-also: {shown(part.strip())} is not NAME=FILE; write letters "
                "or digits, =, and a labelled file (no comma in its path), with commas "
                "between several"
            )
        if name in (*_TAKEN, *found):
            raise UserError(
                f"--steady-also: the name '{name}' is taken; choose another for {file}"
            )
        found[name] = Path(file)
    if cfg.steady_also_labels and said is None:
        raise UserError(
            "--steady-also-labels is for the files of --steady-also; name one"
        )
    return found


def check_there(files: dict[str, Path], splits: Collection[str]) -> None:
    """Refuse a file that is missing, or has a split's name, before any training.

    Args:
        files: by name.
        splits: of the task.

    Raises:
        UserError: names it.

    """
    for name, path in files.items():
        if name in splits:
            raise UserError(
                f"--steady-also: the name '{name}' is taken; choose another for {path}"
            )
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there"
            raise UserError(
                f"--steady-also {name}={path}: {path} {what}; name a labelled file"
            )


def reading(path: Path, form: Form, told: str | None) -> tuple[Reader, str, bool]:
    """How a further file reads.

    Args:
        path: of the file.
        form: of the task's own tables.
        told: ``--steady-also-labels``.

    Returns:
        A reader, what tells it from other ways, and whether the sentences are minimal
        pairs: the acceptable one of each first.

    Raises:
        UserError: the file does not fit the task.

    """
    names = _names(path, form)
    wanted = [*form.columns, form.label]
    if not set(wanted) <= set(names):
        if set(PAIR) <= set(names):
            return *_pairs(path, form, told), True
        guessed = _guessed(path, form, names)
        if guessed is None and form.bare:
            return form.bare, f"as {form.task}'s own", False
        wanted = list(guessed or wanted)
    *columns, label = wanted
    classes = renaming(told, form.labels)
    mend = f"call the columns of this file {', '.join(wanted)}"

    def read(file: Path) -> Iterable[Example]:
        table = read_table(file, columns, label, form.labels is None, form.quoted, mend)
        return _renamed(file, table, classes, form.labels)

    return read, f"also {wanted} {classes} {form.quoted}", False


def _names(path: Path, form: Form) -> list[str]:
    """Of a table's columns; none where the task's own files have none either."""
    if not is_table(path):
        return []
    try:
        return columns_of(path, form.quoted)
    except UserError:
        if form.bare is None:
            raise
        return []  # said better by the one who reads rows without a header


def _guessed(path: Path, form: Form, names: Sequence[str]) -> tuple[str, str] | None:
    if len(form.columns) > 1 or len(names) != 2:
        return None
    try:
        return guess_columns(path, form.labels is None, form.quoted)
    except NoHeaderError:
        if form.bare is None:
            raise
        return None


def _pairs(path: Path, form: Form, told: str | None) -> tuple[Reader, str]:
    """Two classes of one sentence are told apart by pairs."""
    if len(form.columns) > 1 or len(form.labels or ()) != 2:
        raise UserError(
            f"{path} holds minimal pairs, which a task of two classes of single "
            "sentences can rank; leave it out of --steady-also"
        )
    bad, good = _bad_and_good(path, form, renaming(told, form.labels))

    def read(file: Path) -> Iterable[Example]:
        return read_minimal_pairs(file, good, bad, form.quoted)

    return read, f"minimal pairs {good} {bad} {form.quoted}"


#: Of classes with these names the second is the acceptable one, as in CoLA.
_BY_NUMBER = ("0", "1")


def _bad_and_good(path: Path, form: Form, told: dict[str, str]) -> tuple[str, str]:
    """The classes of unacceptable and of acceptable sentences.

    Raises:
        UserError: nobody says which is which, or both are one.

    """
    first, second = form.labels or ()
    other = {first: second, second: first}
    if "good" in told or "bad" in told:
        good = told.get("good") or other[told["bad"]]
        if told.get("bad", other[good]) != good:
            return other[good], good
        raise UserError(f"--steady-also-labels: good and bad are both {shown(good)}")
    if form.own and (first, second) != _BY_NUMBER:
        raise UserError(
            f"{path} holds minimal pairs: say which class their acceptable sentences "
            f"are of, as in --steady-also-labels good={second}"
        )
    return first, second


def renaming(given: str | None, labels: Sequence[str] | None) -> dict[str, str]:
    """Names of classes in files, and the task's for them.

    Args:
        given: ``--steady-also-labels``.
        labels: the task's classes; None for scores.

    Raises:
        UserError: a part is not THEIRS=OURS.

    """
    found: dict[str, str] = {}
    for part in given.split(",") if given else ():
        theirs, equals, ours = (each.strip() for each in part.partition("="))
        if not (theirs and equals and ours in (labels or ())):
            raise UserError(
                f"--steady-also-labels: {shown(part.strip())} is not THEIRS=OURS; the "
                f"task's classes are {', '.join(labels or ('none: it has scores',))}"
            )
        if theirs in found:
            raise UserError(
                f"--steady-also-labels {given} names {shown(theirs)} twice; name each "
                "class of the files once"
            )
        found[theirs] = ours
    return found


def _renamed(
    path: Path,
    examples: Iterable[Example],
    told: dict[str, str],
    labels: Sequence[str] | None,
) -> Iterator[Example]:
    for example in examples:
        label = told.get(example.label, example.label)
        if labels is not None and label not in labels:
            problem = f"label {shown(label)} is none of: {', '.join(labels)}"
            mend = f"say which it is, as in --steady-also-labels {label}={labels[0]}"
            raise error_at(path, example.line, problem, mend)
        yield replace(example, label=label)
