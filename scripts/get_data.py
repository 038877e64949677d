"""Fetch a data set from its official address, or take it from files you have.

    python scripts/get_data.py cola data/cola
    python scripts/get_data.py uci data/sentiment
    python scripts/get_data.py twitter data/sentiment --from ~/Downloads/train.csv

Every file's sha256 is checked. A broken download is resumed by the same command.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
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


class FetchError(Exception):
    """One line for the user."""


def digest(path: Path) -> str:
    """Sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(address: str, target: Path) -> None:
    """Fetch to ``target``, going on where an earlier try broke off.

    Raises:
        FetchError: the address cannot be reached.

    """
    part = target.with_suffix(".part")
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"User-Agent": "fairseq-steady"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            resumed = response.status == 206
            size = int(response.headers.get("Content-Length") or 0)
            columns = (
                TextColumn(target.name),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
            )
            with (
                Progress(*columns, console=Console(stderr=True)) as progress,
                part.open("ab" if resumed else "wb") as file,
            ):
                done = have if resumed else 0
                bar = progress.add_task("", total=done + size or None, completed=done)
                while block := response.read(1 << 16):
                    file.write(block)
                    progress.advance(bar, len(block))
                if file.tell() < done + size:
                    raise FetchError(
                        f"{address} broke off after {file.tell()} of {done + size} "
                        "bytes; run the same command again to go on"
                    )
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing left to ask for
            part.replace(target)
            return
        raise FetchError(f"{address} answers {error.code} {error.reason}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise FetchError(
            f"{address} cannot be reached ({reason}); offline? fetch it elsewhere and "
            "pass it with --from PATH"
        ) from None
    part.replace(target)


def candidates(given: Path, scratch: Path) -> list[Path]:
    """The files a path stands for: itself, a folder's or an archive's.

    Raises:
        FetchError: there is no such path.

    """
    if not given.exists():
        raise FetchError(f"--from {given} does not exist")
    if given.is_file() and zipfile.is_zipfile(given):
        with zipfile.ZipFile(given) as archive:
            archive.extractall(scratch)
        given = scratch
    return [given] if given.is_file() else [p for p in given.rglob("*") if p.is_file()]


def place(source: Source, found: list[Path], out: Path) -> None:
    """Copy the files that match, all or none.

    Raises:
        FetchError: a file is missing or is not the published one.

    """
    chosen = {}
    for name, wanted in source.files.items():
        same_name = [path for path in found if path.name == name]
        good = [path for path in same_name if digest(path) == wanted]
        if not good and same_name:
            raise FetchError(
                f"{same_name[0]} is not the published {name}: sha256 "
                f"{digest(same_name[0])} instead of {wanted}"
            )
        if not good:
            raise FetchError(f"{name} is missing there")
        chosen[name] = good[0]
    out.mkdir(parents=True, exist_ok=True)
    for name, path in chosen.items():
        if not (out / name).exists() or not path.samefile(out / name):
            scratch = out / f".{name}.tmp"
            shutil.copyfile(path, scratch)
            scratch.replace(out / name)


def get(name: str, out: Path, given: Path | None) -> None:
    """Have the files of a data set in ``out``.

    Raises:
        FetchError: with what to do about it.

    """
    source = SOURCES[name]
    with tempfile.TemporaryDirectory() as scratch:
        if given is not None:
            place(source, candidates(given, Path(scratch)), out)
            return
        if all(
            (out / f).is_file() and digest(out / f) == h
            for f, h in source.files.items()
        ):
            return
        if source.address is None:
            raise FetchError(f"{name} is not free to redistribute: {source.ask}")
        out.mkdir(parents=True, exist_ok=True)
        archive = out / f".{name}.zip"
        if not archive.is_file():
            download(source.address, archive)
        if not zipfile.is_zipfile(archive):
            archive.unlink()
            raise FetchError(f"{source.address} gave something that is no zip archive")
        place(source, candidates(archive, Path(scratch)), out)
        archive.unlink()


def main() -> int:
    """Fetch one data set; 1 with one line when that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=SOURCES)
    parser.add_argument("out", type=Path, help="folder for the files")
    parser.add_argument(
        "--from", dest="given", type=Path, help="file, folder or zip you have already"
    )
    args = parser.parse_args()
    try:
        get(args.name, args.out, args.given)
    except FetchError as failure:
        print(f"get_data: {failure}", file=sys.stderr)
        return 1
    print(f"{args.out}: {args.name}, licence: {SOURCES[args.name].licence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
