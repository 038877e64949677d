"""A file from the web, gone on with where an earlier try broke off."""

import http.client
import os
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

from .errors import UserError, visible
from .files import foreign

_BLOCK = 2**16


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


def _open_part(path: Path) -> IO[bytes]:
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


def download(address: str, part: Path, most: int) -> None:
    """Fetch into ``part``, going on where an earlier try broke off.

    Args:
        address: of a file.
        part: what there is of it, or will be.
        most: bytes that it may have.

    Raises:
        UserError: the address cannot be reached, or gives something else.

    """
    with _open_part(part) as file:
        try:
            _fetch(address, file, most)
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


def _fetch(address: str, file: IO[bytes], most: int) -> None:
    """Append what is missing; write all anew where the server cannot go on.

    Raises:
        UserError: the answer ended early, or is no part of what was asked for.

    """
    have = file.tell()
    request = urllib.request.Request(address, headers={"User-Agent": "fairseq-steady"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _Web().open(request, timeout=30) as response:
        start = have if _continues(response, have) else 0
        file.truncate(file.seek(start))
        length = response.headers.get("Content-Length") or ""
        whole = start + int(length) if length.isdecimal() else None
        _copy(response, file, start, whole, most)
    if whole and file.tell() < whole:
        raise UserError(
            f"{address} broke off after {file.tell()} of {whole} bytes; run the same "
            "command again to go on"
        )


def _continues(response: Any, have: int) -> bool:
    """Whether an answer goes on at a byte; where it does not say, its hash will."""
    where = response.headers.get("Content-Range")
    return response.status == 206 and (not where or where.startswith(f"bytes {have}-"))


def _copy(
    response: Any, file: IO[bytes], start: int, whole: int | None, most: int
) -> None:
    """Read to the end, but no more than the archive can have.

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
            if file.tell() > most:
                file.truncate(0)
                size = f"{most >> 20} MiB" if most >> 20 << 20 == most else f"{most} B"
                raise UserError(f"the answer is larger than {size}: not the archive")
