"""Fetch a data set from its official address, or take it from files you have.

    fairseq-steady get-data cola data/cola
    fairseq-steady get-data uci data/sentiment
    fairseq-steady get-data twitter data/sentiment --from ~/Downloads/train.csv
    fairseq-steady get-data snli data/snli
    fairseq-steady get-data dialogsum data/dialogsum

The sha256 of every file, or of the archive of snli, anli and xnli, is checked (of one
file of dialogsum git's own digest); that of scitail's is not known and is shown. A
broken download is resumed by the same command.
cola: CoLA public 1.1; uci: sentences about Amazon, IMDb and Yelp; twitter: tweets, which
may not be redistributed, so that --from names the file you have; snli: SNLI 1.0;
scitail: SciTail 1.1; anli: ANLI 1.0; xnli: XNLI 1.0, which has no training set;
dialogsum: DialogSum; scitldr: SciTLDR-A, the abstracts.
"""

import hashlib
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from ..errors import UserError, visible
from ..fetching import download
from ..files import sha256, whole_file
from .page import Page, page

USAGE = "NAME OUT [--from PATH]"
OUT = """\
what comes out:
  the files, in OUT; on standard output where, and under what licence.
"""

#: Above every file and archive of which each file is known: 3.1 MB is the largest.
_LARGEST = 2**24
#: Above every file of the others: SNLI's training set has about half.
_LARGEST_MEMBER = 2**30
#: Files of one name that are looked into.
_TRIED = 16
_BLOCK = 2**16
#: Digits of git's digests; sha256 has more.
_GIT = 40
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
        address: of a zip archive, or with {} of each file; None where there is none
            for programs.
        files: sha256 of each file that the tasks read, or git's digest of it.
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
    "dialogsum": Source(
        "https://raw.githubusercontent.com/cylnlp/dialogsum/"
        "848cc8c05e0a04def79326539de827f1b28786a0/DialogSum_Data/{}",
        {
            "dialogsum.train.jsonl": "0a02b0f0cbe801a75384ba28364a7528b9340587",
            "dialogsum.dev.jsonl": "436721e0a3571eef7072964f80e042fb151d8c6178db1a688ce8f803bbf0a13f",
            "dialogsum.test.jsonl": "6de36eca7e7b9b10975fd5ea3f47391df172d8b3c15d03d84d763cbaab015fda",
        },
        "CC BY-NC-SA 4.0",
    ),
    "scitldr": Source(
        "https://raw.githubusercontent.com/allenai/scitldr/"
        "5ccad9c00a60ad75c9e04abf7f27d0f53f983b20/SciTLDR-Data/SciTLDR-A/{}",
        {
            "train.jsonl": "b222771d387be585cfdf5ae957b36757138415a352e0a3e3b23f73f87c3b1119",
            "dev.jsonl": "3191fa98ccc09521332b7a1cd63b1930be4e8df125a235ccd31e40329709525e",
            "test.jsonl": "fb42dd6cd4f4a1928ae8a01a189456fbfe994a07e938bd49f68653933f6503c9",
        },
        "Apache-2.0",
    ),
}


@dataclass(frozen=True)
class Archive:
    """A data set that is known by its archive.

    Args:
        address: of a zip archive.
        size: its bytes.
        digest: its sha256; empty where it is not known.
        members: the files that the tasks read, below the archive's own folder.
        licence: under what terms.

    """

    address: str
    size: int
    digest: str
    members: tuple[str, ...]
    licence: str


_SPLITS = ("train", "dev", "test")
ARCHIVES = {
    "snli": Archive(
        "https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
        94_550_081,
        "afb3d70a5af5d8de0d9d81e2637e0fb8c22d1235c2749d83125ca43dab0dbd3e",
        tuple(f"snli_1.0_{split}.jsonl" for split in _SPLITS),
        "CC BY-SA 4.0",
    ),
    "scitail": Archive(
        "http://data.allenai.org.s3.amazonaws.com/downloads/SciTailV1.1.zip",
        14_174_621,
        "",
        tuple(f"scitail_1.0_{split}.tsv" for split in _SPLITS),
        "see the archive's README",
    ),
    "anli": Archive(
        "https://dl.fbaipublicfiles.com/anli/anli_v1.0.zip",
        18_708_061,
        "e5c058f2bb4e6190b0651badca2c590e45db95248f8b28cde674615ee40820bf",
        tuple(f"R{n}/{split}.jsonl" for n in (1, 2, 3) for split in _SPLITS),
        "CC BY-NC 4.0",
    ),
    "xnli": Archive(
        "https://dl.fbaipublicfiles.com/XNLI/XNLI-1.0.zip",
        17_865_352,
        "4ba1d5e1afdb7161f0f23c66dc787802ccfa8a25a3ddd3b165a35e50df346ab1",
        ("xnli.dev.tsv", "xnli.test.tsv"),
        "CC BY-NC 4.0",
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

    def differs(self, wanted: str) -> str | None:
        """What it is instead of the file of a digest; None if it is that."""
        found = self.digest
        if len(wanted) == _GIT:
            blob = b"blob %d\0" % len(self.content) + self.content
            found = hashlib.sha1(blob).hexdigest()  # noqa: S324  git's own
        kind = "git's" if len(wanted) == _GIT else "sha256"
        return None if found == wanted else f"{kind} {found} instead of {wanted}"


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
            if not found.differs(wanted):
                chosen[name] = found
                break
        else:
            if first is None:
                raise UserError(f"{name} is missing in {given}")
            raise UserError(
                f"{first.where} is not the published {name}: {first.differs(wanted)}"
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


# --- from its address -----------------------------------------------------------------


def get(name: str, out: Path, given: Path | None) -> None:
    """Have the files of a data set in ``out``.

    Raises:
        UserError: with what to do about it.

    """
    source = SOURCES[name]
    if given is not None:
        place(choose(source, given), out)
        return
    missing = {f: d for f, d in source.files.items() if not is_there(out / f, d)}
    if missing and source.address is None:
        raise UserError(f"{name} is not free to redistribute: {source.ask}")
    if source.address and "{}" in source.address:
        for file, digest in missing.items():
            get_file(source.address.format(file), file, digest, out)
    elif source.address and missing:
        get_zip(name, source, source.address, out)


def get_zip(name: str, source: Source, address: str, out: Path) -> None:
    """Have the files of an archive in ``out``.

    Raises:
        UserError: it cannot be had, or is another.

    """
    with downloaded(name, address, out) as part:
        if not is_archive(part):
            raise UserError("that is no zip archive")
        chosen = choose(source, part)
    place(chosen, out)


def is_there(path: Path, wanted: str) -> bool:
    """Whether a file is there and whole."""
    if not path.is_file() or path.stat().st_size > _LARGEST:
        return False
    return not Found(str(path), path.read_bytes()).differs(wanted)


def get_file(address: str, name: str, wanted: str, out: Path) -> None:
    """Have one file in ``out``.

    Raises:
        UserError: it cannot be had, or is another.

    """
    with downloaded(name, address, out) as part:
        with part.open("rb") as file:
            found = read(file, str(part))
        if wrong := found.differs(wanted):
            raise UserError(f"that is not the published {name}: {wrong}")
    place({name: found}, out)


@contextmanager
def downloaded(
    name: str, address: str, out: Path, size: int | None = None
) -> Iterator[Path]:
    """An archive, or a file, beside what it is for, removed whatever becomes of it.

    Raises:
        UserError: names the address, also where the archive is found to be wrong.

    """
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".{name}.part"
    download(address, part, size or _LARGEST)
    try:
        yield part
    except UserError as error:
        raise UserError(
            f"{address}: {error}. What was downloaded is removed, so the same command "
            "downloads it anew"
        ) from None
    finally:
        part.unlink()


# --- large archives, whose files are known by their names -----------------------------


def get_archive(name: str, out: Path, given: Path | None) -> None:
    """Have the files of a data set in ``out``, each whole.

    Raises:
        UserError: with what to do about it.

    """
    source = ARCHIVES[name]
    if given is not None:
        if not is_archive(given):
            file = source.address.rpartition("/")[2]
            raise UserError(
                f"--from {given} is no zip archive; name {file}, or use the folder "
                "that it was unpacked to as it is"
            )
        check_archive(source, given)
        unpack(source, given, out)
        return
    if all((out / member).is_file() for member in source.members):
        return
    with downloaded(name, source.address, out, source.size) as part:
        check_archive(source, part)
        unpack(source, part, out)


def check_archive(source: Archive, path: Path) -> None:
    """Refuse what is not the published archive; show a digest that is not known.

    Raises:
        UserError: its size or sha256 is another.

    """
    size, digest = path.stat().st_size, sha256(path)
    if size != source.size:
        raise UserError(
            f"{path} is not the published archive: {size} bytes instead of "
            f"{source.size}"
        )
    if not source.digest:
        print(f"{path}: sha256 {digest}, not known and not checked", file=sys.stderr)
    elif digest != source.digest:
        raise UserError(
            f"{path} is not the published archive: sha256 {digest} instead of "
            f"{source.digest}"
        )


def unpack(source: Archive, path: Path, out: Path) -> None:
    """Write the files that the tasks read, and no others.

    Raises:
        UserError: one is missing or damaged.

    """
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for name in source.members:
                member = find_member(archive, name, path)
                where = f"{path}, {visible(member.filename)}"
                if reason := unreadable(member):
                    raise UserError(f"{where} is {reason}")
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as file, whole_file(out / name) as target:
                    write_blocks(file, target, where)
    except UserError:
        raise
    except _BROKEN as error:
        why = error or type(error).__name__
        raise UserError(f"{where} cannot be unpacked ({why})") from None


def find_member(archive: zipfile.ZipFile, name: str, path: Path) -> zipfile.ZipInfo:
    """The member of a name, folders included, in whatever folder of the archive.

    Raises:
        UserError: there is none.

    """
    wanted = PurePosixPath(name).parts
    for member in archive.infolist():
        if PurePosixPath(member.filename).parts[-len(wanted) :] == wanted:
            return member
    raise UserError(f"{name} is missing in {path}")


def write_blocks(file: IO[bytes], target: IO[bytes], where: str) -> None:
    """Copy a file, which may say of itself that it is smaller than it is.

    Raises:
        UserError: it is larger than any of the data sets.

    """
    while block := file.read(_BLOCK):
        target.write(block)
        if target.tell() > _LARGEST_MEMBER:
            raise UserError(
                f"{where} is larger than {_LARGEST_MEMBER >> 20} MiB: not published so"
            )


def parser() -> Page:
    """The page of get-data."""
    found = page("get-data", __doc__, USAGE, OUT)
    add = found.add_argument_group("arguments").add_argument
    names = [*SOURCES, *ARCHIVES]
    add("name", choices=names, metavar="NAME", help=", ".join(names))
    add("out", type=Path, metavar="OUT", help="folder for the files")
    add(
        "--from", dest="given", type=Path, metavar="PATH",
        help="file, folder or zip you have already; nothing is fetched",
    )  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch one data set."""
    args = parser().parse_args(argv)
    known = args.name in ARCHIVES
    try:
        (get_archive if known else get)(args.name, args.out, args.given)
    except OSError as error:
        where = error.filename or args.out  # a full disk names no file
        raise UserError(f"{where}: {error.strerror}") from None
    source = ARCHIVES[args.name] if known else SOURCES[args.name]
    print(f"{args.out}: {args.name}, licence: {source.licence}")
    return 0
