"""Tokenise each file once."""

import hashlib
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import foreign, sha256, whole_file
from .readers import Example, error_at, plain_number, shown
from .tokenizing import SentenceTokenizer
from .waiting import counted

logger = logging.getLogger(__name__)

_VERSION = 2


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


@dataclass(frozen=True)
class Encoded:
    """Tokenised sentences with their targets.

    Args:
        tokens: one int32 array of fairseq ids per sentence.
        targets: class indices (int64) or scores (float64), shape (N,).
        truncated: how many sentences were cut to the maximum length.

    """

    tokens: list[np.ndarray]
    targets: np.ndarray
    truncated: int

    def take(self, indices: np.ndarray) -> "Encoded":
        """A subset, in the order given."""
        tokens = [self.tokens[i] for i in indices]
        return Encoded(tokens, self.targets[indices], self.truncated)


def concatenate(parts: Sequence[Encoded]) -> Encoded:
    """Several files as one set."""
    return Encoded(
        [tokens for part in parts for tokens in part.tokens],
        np.concatenate([part.targets for part in parts]),
        sum(part.truncated for part in parts),
    )


Reader = Callable[[Path], Iterable[Example]]


def class_targets(
    path: Path, examples: Sequence[Example], labels: Sequence[str]
) -> np.ndarray:
    """Index of each example's label.

    Raises:
        UserError: a label that is not among ``labels``.

    """
    index = {label: i for i, label in enumerate(labels)}
    for example in examples:
        if example.label not in index:
            raise error_at(
                path,
                example.line,
                f"label {shown(example.label)} is none of: {', '.join(labels)}",
                "mend the row or name the labels with --steady-labels",
            )
    return np.array([index[example.label] for example in examples], np.int64)


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
) -> Encoded:
    """Read, check and tokenise a file, or take the result of an earlier time.

    Args:
        path: the raw file.
        reader: turns it into examples.
        description: tells this reader and its options from any other.
        labels: the known labels in class order; None for scores.
        tokenizer: of the model directory.
        cache_dir: where results are kept; None for :func:`default_folder`.

    Raises:
        UserError: the file cannot be read or a row is wrong. Nothing is cached then.

    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file; rename or remove it")
    if not path.is_file():
        raise UserError(f"{path} does not exist; get it with fairseq-steady get-data")
    recipe = (_VERSION, sha256(path), description, labels, tokenizer.digest)
    key = hashlib.sha256(repr((*recipe, tokenizer.max_length)).encode()).hexdigest()
    folder = cache_dir or default_folder()
    cached = folder / f"{path.stem}-{key[:16]}.npz"
    classes = None if labels is None else len(labels)
    encoded = _load(cached, key, tokenizer.symbols, classes)
    if encoded is None:
        encoded = _encode(path, reader, labels, tokenizer)
        _save(encoded, cached, key)
    if encoded.truncated:
        logger.warning(
            "%s: %d of %d sentences cut to %d tokens",
            path,
            encoded.truncated,
            len(encoded.tokens),
            tokenizer.max_length,
        )
    return encoded


def _encode(
    path: Path,
    reader: Reader,
    labels: Sequence[str] | None,
    tokenizer: SentenceTokenizer,
) -> Encoded:
    examples = list(counted(reader(path), f"{path}: rows read"))
    targets = (
        score_targets(path, examples)
        if labels is None
        else class_targets(path, examples, labels)
    )
    tokens, truncated = tokenizer.encode([example.texts for example in examples])
    return Encoded(tokens, targets, truncated)


def believed(path: Path) -> bool:
    """Whether a cache entry is there and only this user can have written it."""
    if not path.exists():
        return False
    for place in (path.parent, path):
        if who := foreign(place):
            logger.warning(
                "%s can be written by %s and is not believed; made again", place, who
            )
            return False
    return True


def _load(path: Path, key: str, symbols: int, classes: int | None) -> Encoded | None:
    """A cache entry, or None when there is none, or it is damaged or of other data."""
    try:
        if not believed(path):
            return None
        _check_stored(path)
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in _FIELDS}
        check_ids(found["tokens"], found["lengths"], symbols)
        _check_targets(found["targets"], len(found["lengths"]), classes)
        truncated = int(found["truncated"])
        if str(found["key"]) != key or not 0 <= truncated <= len(found["lengths"]):
            raise ValueError("of other data")
    except DAMAGES:
        return None
    ends = np.cumsum(found["lengths"])[:-1]
    return Encoded(np.split(found["tokens"], ends), found["targets"], truncated)


#: What numpy and zipfile say of a file that is damaged, or made to do damage.
DAMAGES = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
)
_FIELDS = ("tokens", "lengths", "targets", "truncated", "key")


def _check_stored(path: Path) -> None:
    """Our entries are not compressed, so that none unpacks to more than it is."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("compressed")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("larger than its file")


def check_ids(ids: np.ndarray, lengths: np.ndarray, symbols: int) -> None:
    """Refuse sequences that are not of a dictionary's ids.

    Args:
        ids: of all sequences, end to end, shape (total,).
        lengths: of each sequence, shape (N,).
        symbols: of the dictionary.

    Raises:
        ValueError: a shape, type or range is wrong.

    """
    if any(array.ndim != 1 or array.dtype.kind != "i" for array in (ids, lengths)):
        raise ValueError("shape or type")
    if len(lengths) and lengths.min() < 1:
        raise ValueError("an empty sequence")
    if lengths.sum() != len(ids):
        raise ValueError("cut off")
    if len(ids) and not (ids.min() >= 0 and ids.max() < symbols):
        raise ValueError("an id outside the dictionary")


def _check_targets(targets: np.ndarray, count: int, classes: int | None) -> None:
    """As many classes below ``classes``, or as many finite scores, as sentences."""
    kind = "f" if classes is None else "i"
    if targets.shape != (count,) or targets.dtype.kind != kind:
        raise ValueError("targets")
    if not np.isfinite(targets).all():
        raise ValueError("a score that is not finite")
    if classes and count and not (targets.min() >= 0 and targets.max() < classes):
        raise ValueError("a class that is not there")


def _save(encoded: Encoded, path: Path, key: str) -> None:
    """Write whole or not at all; a folder that cannot be written costs only time."""
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(
                file,
                tokens=np.concatenate(encoded.tokens),
                lengths=np.array([len(tokens) for tokens in encoded.tokens]),
                targets=encoded.targets,
                truncated=encoded.truncated,
                key=key,
            )
    except OSError as error:
        logger.warning(
            "cannot cache in %s (%s); name a folder with --steady-cache-dir",
            path.parent,
            error.strerror,
        )
