"""Tokenise each file once."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ConfigDict
from typing_extensions import TypedDict

from ..errors import UserError
from ..files import foreign, read_json, sha256, write_json
from .forms import ONE_ROW, Form
from .noticing import listening
from .ragged import Encoded
from .readers import Example, error_at, plain_number, shown
from .stored import Chunk, Entry, believed, kept
from .tokenizing import SentenceTokenizer, chunked
from .waiting import counted

logger = logging.getLogger(__name__)

#: Of what is stored, of all kinds of data.
VERSION = 4


def default_folder() -> Path:
    """Where a user's programs keep what they can make again.

    Source: the XDG base directory specification, which has relative paths ignored.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME") or "")
    try:
        base = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in containers
        return _in_temp()
    return base / "fairseq-steady"


def _in_temp() -> Path:
    """The same among temporary files, where anybody may have taken its name."""
    named = Path(tempfile.gettempdir()) / f"fairseq-steady-{os.geteuid()}"
    with suppress(OSError):
        named.mkdir(0o700)
    ours = named.is_dir() and foreign(named) is None
    return named if ours else Path(tempfile.mkdtemp(prefix="fairseq-steady-"))


#: What to do about a label that is not known.
_MEND = "mend the row"
Reader = Callable[[Path], Iterable[Example]]


def key_of(*recipe: object) -> str:
    """Digest of all that decides what is stored."""
    return hashlib.sha256(repr(recipe).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """Digest of a raw file.

    Raises:
        UserError: it cannot be read.

    """
    try:
        return sha256(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def class_targets(
    path: Path, examples: Sequence[Example], labels: Sequence[str], mend: str = _MEND
) -> np.ndarray:
    """Index of each example's label.

    Raises:
        UserError: a label that is not among ``labels``; ``mend`` is what to do.

    """
    index = _places(path, examples, labels, mend)
    return np.array([index[example.label] for example in examples], np.int64)


def label_targets(
    path: Path, examples: Sequence[Example], labels: Sequence[str], mend: str = _MEND
) -> np.ndarray:
    """Whether each label holds for each example, shape (N, L).

    Raises:
        UserError: a label that is not among ``labels``; ``mend`` is what to do.

    """
    index = _places(path, examples, labels, mend)
    targets = np.zeros((len(examples), len(labels)), np.bool_)
    for row, example in enumerate(examples):
        targets[row, [index[name] for name in example.names]] = True
    return targets


def _places(
    path: Path, examples: Sequence[Example], labels: Sequence[str], mend: str
) -> dict[str, int]:
    """Index of each label, all of the examples' being there."""
    index = {label: i for i, label in enumerate(labels)}
    for example in examples:
        for name in example.names:
            if name not in index:
                problem = f"label {shown(name)} is none of: {', '.join(labels)}"
                raise error_at(path, example.line, problem, mend)
    return index


def score_targets(path: Path, examples: Sequence[Example]) -> np.ndarray:
    """Each example's label as a number.

    Raises:
        UserError: a label that is not a finite number.

    """
    scores = []
    for example in examples:
        score = plain_number(example.label)
        if not np.isfinite(score):
            problem = f"score {shown(example.label)} is not a finite number"
            raise error_at(path, example.line, problem, "mend the row")
        scores.append(score)
    return np.array(scores)


def encode_cached(
    path: Path,
    reader: Reader,
    description: str,
    labels: Sequence[str] | None,
    tokenizer: SentenceTokenizer,
    cache_dir: Path | None,
    several: bool = False,
    form: Form = ONE_ROW,
    mend: str = _MEND,
) -> Encoded:
    """Read, check and tokenise a file, or take the result of an earlier time.

    Args:
        path: the raw file.
        reader: turns it into examples.
        description: tells this reader and its options from any other.
        labels: the known labels in class order; None for scores.
        tokenizer: of the model directory.
        cache_dir: where results are kept; None for :func:`default_folder`.
        several: examples have any number of the labels, as the description says.
        form: rows of tokens that an example becomes.
        mend: what to do about a label that is not known.

    Raises:
        UserError: the file cannot be read or a row is wrong. Nothing is cached then.

    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file; rename or remove it")
    if not path.is_file():
        raise UserError(f"{path} does not exist; get it with fairseq-steady get-data")
    recipe = (VERSION, digest_of(path), description, labels, tokenizer.digest)
    key = key_of(*recipe, tokenizer.max_length)
    folder = (cache_dir or default_folder()) / f"{path.stem}-{key[:16]}"
    classes = None if labels is None else len(labels)
    entry = Entry(path, folder, key, tokenizer.symbols, form.sides, classes, several)
    targets = _targets(labels, several, mend)
    encoded = kept(entry, lambda: _chunks(path, reader, targets, tokenizer, form))
    if truncated := sum(encoded.truncated):
        logger.warning(
            "%s: %d of %d sentences cut to %d tokens",
            *(path, truncated, len(encoded) * form.rows, tokenizer.max_length),
        )
    return encoded


def _chunks(
    path: Path,
    reader: Reader,
    targets: Callable[[Path, Sequence[Example]], np.ndarray],
    tokenizer: SentenceTokenizer,
    form: Form,
) -> Iterator[Chunk]:
    """Some rows at a time, checked and tokenised."""
    for examples in chunked(counted(reader(path), f"{path}: rows tokenised")):
        found = targets(path, examples)
        ids, cut = form.encode(path, examples, tokenizer)
        yield Chunk(ids, found, cut)


def _targets(
    labels: Sequence[str] | None, several: bool, mend: str
) -> Callable[[Path, Sequence[Example]], np.ndarray]:
    """What makes targets of examples."""
    if labels is None:
        return score_targets
    made = label_targets if several else class_targets
    return partial(made, labels=labels, mend=mend)


class _Classes(TypedDict):
    """Labels as they are stored; the key is of them, too, so that damage shows."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    key: str
    lines: dict[str, int]


def classes_cached(
    path: Path, reader: Reader, description: str, cache_dir: Path | None
) -> dict[str, int]:
    """Labels of a file and the first line of each, now or of an earlier time.

    Args:
        path: the raw file.
        reader: turns it into examples.
        description: as :func:`encode_cached` takes it.
        cache_dir: the same.

    Raises:
        UserError: the file cannot be read or a row is wrong. Nothing is cached then.

    """
    recipe = (VERSION, digest_of(path), description)
    folder = cache_dir or default_folder()
    stored = folder / f"{path.stem}-{key_of(*recipe)[:16]}.json"
    with suppress(OSError, UserError):
        found = read_json(stored, _Classes, "") if believed(stored) else None
        if found and found["key"] == key_of(*recipe, found["lines"]):
            return found["lines"]
    lines: dict[str, int] = {}
    with listening():  # said when its rows are tokenised
        for example in counted(reader(path), f"{path}: rows looked at"):
            for name in example.names:
                lines.setdefault(name, example.line)
    with suppress(OSError):  # said when its rows are tokenised
        folder.mkdir(0o700, parents=True, exist_ok=True)
        write_json(stored, {"key": key_of(*recipe, lines), "lines": lines})
    return lines
