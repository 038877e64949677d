"""Mends, in the installed files, what Python 3.14 breaks before the plugin loads.

Set-up runs this file by its path there: fairseq does not import without the first mend,
and fairseq-hydra-train parses its command line before it imports the plugin.
"""

import hashlib
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Mend(NamedTuple):
    """One text in one installed file, for the one release that is known."""

    package: str
    file: str
    #: SHA-256 of the release's file, and once mended; line ends are \n.
    released: str
    mended: str
    old: str
    new: str


MENDS = (
    # Optional[int] prints as "int | None" there, and fairseq looks for "Optional".
    Mend(
        "fairseq",
        "dataclass/utils.py",
        "901b08c0d0cf2261f2d25e73484993f207f160b4fe0a81bbdf2dd772f957b516",
        "7d05d5fab9404799efb50e40e4184ad07cff4238bdd160064b7b0cb46946c52b",
        """\
    typestring = str(field_type)
""",
        """\
    args = getattr(field_type, "__args__", ())
    if type(None) in args:
        return next(kind for kind in args if kind is not type(None))
    typestring = str(field_type)
""",
    ),
    # argparse there looks for "%" in every help text; this one is no text.
    # Source: facebookresearch/hydra#3121
    Mend(
        "hydra",
        "_internal/utils.py",
        "7d7bfffc8a85ea71f23b82037dd62b023809c3cc946f4fca52ec18b7c007451b",
        "913c1953c54108d4f977b1662058f8d262532d06b25abbf8ee1186a6c9809269",
        """\
    class LazyCompletionHelp:
""",
        """\
    class LazyCompletionHelp:
        def __contains__(self, text: str) -> bool:
            return False

""",
    ),
)


def apply(mend: Mend, path: Path) -> str:
    """Mend one file unless it is mended.

    Returns:
        What is wrong, or nothing.
    """
    # fairseq's sources have Windows's line ends, its wheel has not.
    source = path.read_bytes().replace(b"\r\n", b"\n")
    digest = hashlib.sha256(source).hexdigest()
    if digest == mend.released:
        # Whole or not at all, and never through a link into an installer's cache.
        beside = path.with_suffix(".mended")
        beside.write_bytes(source.replace(mend.old.encode(), mend.new.encode()))
        shutil.copymode(path, beside)
        beside.replace(path)
    elif digest != mend.mended:
        return f"error: {path} is not the release that is known here; left as it is"
    return ""


def located(mend: Mend) -> Path:
    """The installed file, found without importing its package."""
    spec = find_spec(mend.package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"error: {mend.package} is not installed")
    return Path(spec.origin).parent / mend.file


def main() -> int:
    """Mend every file; 1 if one is another release."""
    wrong = [said for mend in MENDS if (said := apply(mend, located(mend)))]
    for said in wrong:
        print(said)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
