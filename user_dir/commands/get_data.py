"""Fetch a data set from its official address, or take it from files you have.

    fairseq-steady get-data cola data/cola
    fairseq-steady get-data uci data/sentiment
    fairseq-steady get-data twitter data/sentiment --from ~/Downloads/train.csv

Every file's sha256 is checked. A broken download is resumed by the same command.
cola: CoLA public 1.1; uci: sentences about Amazon, IMDb and Yelp; twitter: tweets, which
may not be redistributed, so that --from names the file you have.
"""

import hashlib
import http.client
import os
import stat
import struct
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import UserError, visible
from ..files import foreign, sha256, whole_file
from .page import Page, page

USAGE = "NAME OUT [--from PATH]"
OUT = """\
what comes out:
  the files, in OUT; on standard output where, and under what licence.
"""

#: Above every file and archive of these data sets: 3.1 MB is the largest.
_LARGEST = 2**24
#: Files of one name that are looked into.
_TRIED = 16
_BLOCK = 2**16
_ZIP = b"PK\x03\x04"
#: What zipfile raises for archives that are none.
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError),
    *(OSError, ValueError, RuntimeError),
)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Args:
        address: of a zip archive; None where it may not be redistributed.
        files: sha256 of each file that the tasks read.
        licence: under what terms.
        ask: where a person gets it, when there is no address.

    """

    address: str | None
    files: dict[str, str]
    licence: str
    ask: str = ""


SOURCES = {
    "cola": Source(
        "https://nyu-mll.github.io/CoLA/cola_public_1.1.zip",
        {
            "in_domain_train.tsv": "f320a10f92d3bce6b29152fde322a362eac39238e50d8de0c8815457fdf4fc12",
            "in_domain_dev.tsv": "77176f6a03faa5a1c4f23c69971fc1bff565931112fb65af47b2d6e24b7f42f7",
            "out_of_domain_dev.tsv": "201b9c57b2a20f1282242eec0ed8995729e3be19c29a46c047b3727338836c05",
        },
        "research, fair use (see the corpus README)",
    ),
    "uci": Source(
        "https://archive.ics.uci.edu/static/public/331/sentiment+labelled+sentences.zip",
        {
            "amazon_cells_labelled.txt": "47003fc0a0d4840b00e96e715b6189bad09e7443a3da41c4cbe12ffc79f86ae3",
            "imdb_labelled.txt": "aef2e49e3da25714d61175e3a6e68eeef74a20a2f914318dc3be9947ea86512d",
            "yelp_labelled.txt": "c76468b7b5c6e56a0804d728345c5f84aa2142ddb214420f61cc9cfd4c00d2ea",
        },
        "CC BY 4.0",
    ),
    "twitter": Source(
        None,
        {
            "train.csv": "4f1bfabc2908029734fb2acd34028a8dfd1b92098bddfe60b0f0836c964e26ab"
        },
        "terms of the competition, not to be redistributed",
        "sign up for the practice problem 'Twitter Sentiment Analysis' (hatred speech) "
        "at Analytics Vidhya, or find the same train.csv at Kaggle, and pass it with "
        "--from PATH",
    ),
}


# --- what there is to choose from -----------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A file under a wanted name."""

    where: str
    content: bytes

    @property
    def digest(self) -> str:
        """Its sha256."""
        return hashlib.sha256(self.content).hexdigest()


def read(file: IO[bytes], where: str) -> Found:
    """A whole file, which may say of itself that it is smaller than it is.

    Raises:
        UserError: it is larger than any of the data sets.

    """
    content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise UserError(
            f"{where} is larger than {_LARGEST >> 20} MiB: not published so"
        )
    return Found(where, content)


def from_archive(path: Path, name: str) -> Iterator[Found]:
    """The members of a zip archive under a name, in whatever folder of it.

    Nothing is unpacked onto the disk, so no name in the archive says where to.

    Raises:
        UserError: the archive or a member is damaged or cannot be read.

    """
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if PurePosixPath(member.filename).name != name or member.is_dir():
                    continue
                where = f"{path}, {visible(member.filename)}"
                if reason := unreadable(member):
                    raise UserError(f"{where} is {reason}")
                with archive.open(member) as file:
                    yield read(file, where)
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(
            f"{where} is damaged ({error or type(error).__name__})"
        ) from None


def unreadable(member: zipfile.ZipInfo) -> str | None:
    """Why a member is not to be read, or None."""
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.flag_bits & 1:
        return "encrypted; unpack it yourself and pass the folder with --from"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return (
            f"packed by method {member.compress_type}; unpack it yourself and pass the "
            "folder with --from"
        )
    return None


def from_folder(given: Path, name: str) -> Iterator[Found]:
    """A file, or those below a folder, under a name."""
    for path in [given] if given.is_file() else given.rglob(name):
        if path.name == name and path.is_file():
            with path.open("rb") as file:
                yield read(file, str(path))


def is_archive(path: Path) -> bool:
    """Whether a file starts as a zip archive does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def choose(source: Source, given: Path) -> dict[str, Found]:
    """The published files among what a path holds, all of them.

    Raises:
        UserError: a file is missing, damaged, or is not the published one.

    """
    if not given.exists():
        raise UserError(f"--from {given} does not exist")
    look = from_archive if is_archive(given) else from_folder
    chosen = {}
    for name, wanted in source.files.items():
        first = None
        for found in islice(look(given, name), _TRIED):
            first = first or found
            if found.digest == wanted:
                chosen[name] = found
                break
        else:
            if first is None:
                raise UserError(f"{name} is missing in {given}")
            raise UserError(
                f"{first.where} is not the published {name}: sha256 {first.digest} "
                f"instead of {wanted}"
            )
    return chosen


def place(chosen: dict[str, Found], out: Path) -> None:
    """Write the files, each whole; one that is there already stays as it is."""
    out.mkdir(parents=True, exist_ok=True)
    for name, found in chosen.items():
        path = out / name
        if path.is_symlink() or not path.is_file() or sha256(path) != found.digest:
            with whole_file(path) as file:
                file.write(found.content)


# --- the download ---------------------------------------------------------------------


class _Web(urllib.request.OpenerDirector):
    """Speaks http and https, also where an answer leads elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        for handler in (
            *(urllib.request.ProxyHandler, urllib.request.UnknownHandler),
            *(urllib.request.HTTPHandler, urllib.request.HTTPSHandler),
            *(
                urllib.request.HTTPDefaultErrorHandler,
                urllib.request.HTTPErrorProcessor,
            ),
            urllib.request.HTTPRedirectHandler,
        ):
            self.add_handler(handler())


def open_part(path: Path) -> IO[bytes]:
    """What an earlier try has left of a download, or a new file; the end is next.

    Raises:
        UserError: somebody else may have put it there.

    """

    def opener(name: str, flags: int) -> int:
        flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(name, flags, 0o666)

    mend = f"{path} is not a file of this program; remove it"
    try:
        file = open(path, "r+b", opener=opener)  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{mend} ({error.strerror})") from None
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or foreign(path):
        file.close()
        raise UserError(mend)
    file.seek(0, os.SEEK_END)
    return file


def download(address: str, part: Path) -> None:
    """Fetch into ``part``, going on where an earlier try broke off.

    Raises:
        UserError: the address cannot be reached, or gives something else.

    """
    with open_part(part) as file:
        try:
            fetch(address, file)
        except urllib.error.HTTPError as error:
            if error.code == 416 and file.tell():  # nothing left to ask for
                return
            said = visible(f"{error.code} {error.reason}")
            raise UserError(f"{address} answers {said}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, UserError):
                raise
            reason = visible(
                str(getattr(error, "reason", error) or type(error).__name__)
            )
            raise UserError(
                f"{address} cannot be reached, or broke off ({reason}); run the same "
                "command again to go on. Offline? Fetch it elsewhere and pass it with "
                "--from PATH"
            ) from None


def fetch(address: str, file: IO[bytes]) -> None:
    """Append what is missing; write all anew where the server cannot go on.

    Raises:
        UserError: the answer ended early, or is no part of what was asked for.

    """
    have = file.tell()
    request = urllib.request.Request(address, headers={"User-Agent": "fairseq-steady"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _Web().open(request, timeout=30) as response:
        start = have if continues(response, have) else 0
        file.truncate(file.seek(start))
        length = response.headers.get("Content-Length") or ""
        whole = start + int(length) if length.isdecimal() else None
        copy(response, file, start, whole)
    if whole and file.tell() < whole:
        raise UserError(
            f"{address} broke off after {file.tell()} of {whole} bytes; run the same "
            "command again to go on"
        )


def continues(response: Any, have: int) -> bool:
    """Whether an answer goes on at a byte; where it does not say, its hash will."""
    where = response.headers.get("Content-Range")
    return response.status == 206 and (not where or where.startswith(f"bytes {have}-"))


def copy(response: Any, file: IO[bytes], start: int, whole: int | None) -> None:
    """Read to the end, but no more than any of the archives has.

    Raises:
        UserError: there is more.

    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        TextColumn("downloading"), *columns, console=Console(stderr=True)
    ) as progress:
        bar = progress.add_task("", total=whole, completed=start)
        while block := response.read(_BLOCK):
            file.write(block)
            progress.advance(bar, len(block))
            if file.tell() > _LARGEST:
                file.truncate(0)
                raise UserError(
                    f"the answer is larger than {_LARGEST >> 20} MiB: not the archive"
                )


def get(name: str, out: Path, given: Path | None) -> None:
    """Have the files of a data set in ``out``.

    Raises:
        UserError: with what to do about it.

    """
    source = SOURCES[name]
    if given is not None:
        place(choose(source, given), out)
        return
    if all(
        (out / f).is_file() and sha256(out / f) == h for f, h in source.files.items()
    ):
        return
    if source.address is None:
        raise UserError(f"{name} is not free to redistribute: {source.ask}")
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".{name}.zip.part"
    download(source.address, part)
    try:
        if not is_archive(part):
            raise UserError("that is no zip archive")
        chosen = choose(source, part)
    except UserError as error:
        raise UserError(
            f"{source.address}: {error}. What was downloaded is removed, so the same "
            "command downloads it anew"
        ) from None
    finally:
        part.unlink()
    place(chosen, out)


def parser() -> Page:
    """The page of get-data."""
    found = page("get-data", __doc__, USAGE, OUT)
    add = found.add_argument_group("arguments").add_argument
    add("name", choices=SOURCES, metavar="NAME", help=", ".join(SOURCES))
    add("out", type=Path, metavar="OUT", help="folder for the files")
    add(
        "--from", dest="given", type=Path, metavar="PATH",
        help="file, folder or zip you have already; nothing is fetched",
    )  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch one data set."""
    args = parser().parse_args(argv)
    try:
        get(args.name, args.out, args.given)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    print(f"{args.out}: {args.name}, licence: {SOURCES[args.name].licence}")
    return 0
