"""Text from names and files, made safe for the program that reads it next.

One function per format, called at the one place where text enters it.
"""

import re
import shlex
from collections.abc import Mapping, Sequence

import yaml

from .errors import visible

#: What Markdown or HTML would act on; an entity never does. An underscore within a
#: word and a bracket without a link are text as they are.
_MARKDOWN = re.compile(
    r"[&<>|`*~$\\]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|:(?=//)|(?<=www)\."
)
#: A number, a mean with its deviation, or a difference with its interval.
_NUMBER = r"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf|nan)"
_NUMERIC = re.compile(rf"{_NUMBER}(?: ± {_NUMBER}| \[{_NUMBER}, {_NUMBER}\])?", re.I)
#: What makes a spreadsheet read a cell as a formula; it knows the wide forms too.
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
_TSV = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def markdown(text: str) -> str:
    """Text in Markdown, also in a cell of a table or a heading."""
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", visible(text))


def code(text: str) -> str:
    """Text as code within a line of Markdown."""
    shown = visible(text)
    fence = "`" * (_longest(shown) + 1)
    space = " " if shown[:1] == "`" or shown[-1:] == "`" else ""
    return f"{fence}{space}{shown}{space}{fence}"


def code_block(text: str, language: str) -> str:
    """Lines as a block of code in Markdown, which no line of theirs can end."""
    fence = "`" * max(3, _longest(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def header(fields: Mapping[str, str | list[str]]) -> str:
    """The YAML between the dashes at the head of a Markdown file: texts and lists."""
    shown = {
        name: visible(text) if isinstance(text, str) else list(map(visible, text))
        for name, text in fields.items()
    }
    dumped = yaml.safe_dump(
        shown, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return f"---\n{dumped}---"


def csv_cell(text: str) -> str:
    """Text in CSV, which no spreadsheet takes for a formula; numbers stay numbers."""
    shown = visible(text)
    formula = shown.startswith(_FORMULA) and not _NUMERIC.fullmatch(shown)
    return f"'{shown}" if formula else shown


def tsv_cell(text: str) -> str:
    r"""Text in a TSV without quoting: tab, newline and backslash as ``\t`` and so."""
    return text.translate(_TSV)


def command(words: Sequence[str]) -> str:
    """Words as bash reads them; what a terminal would act on is spelt out."""
    return " ".join(map(_word, words))


def _word(word: str) -> str:
    if re.sub(r"[\n\t]", "", word).isprintable():
        return shlex.quote(word)
    spelt = (c if c.isprintable() else f"\\U{ord(c):08x}" for c in word)
    return "$'" + "".join(rf"\{c}" if c in "\\'" else c for c in spelt) + "'"
