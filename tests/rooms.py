"""The table of rooms: what each folder of the package is, and what it may import.

python tests/rooms.py            # the table, as user_dir/README.md has it
python tests/rooms.py --write    # put it there
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

USER_DIR = Path(__file__).resolve().parent.parent / "user_dir"
README = USER_DIR / "README.md"
BEGIN, END = "<!-- rooms -->\n", "<!-- /rooms -->"
ANY = "anything"


@dataclass(frozen=True)
class Room:
    """What a room may import.

    Args:
        rooms: of this package, when it is imported.
        libraries: of others, when it is imported.
        later: of both, inside functions besides.

    """

    rooms: str = ""
    libraries: str = ""
    later: str = ""

    def allows(self, name: str, late: bool) -> bool:
        """Whether an import is in order."""
        now = {*self.rooms.split(), *self.libraries.split()}
        later = self.later.split()
        return name in now or (late and (self.later == ANY or name in later))


_READ = "numpy pydantic typing_extensions"
_FAIRSEQ = "fairseq omegaconf torch"
#: From what stands alone to what needs everything.
ROOMS = {
    "errors": Room(),
    "flags": Room("errors"),
    "escaping": Room("errors", "yaml"),
    "files": Room("errors", "pydantic"),
    "fetching": Room("errors files", "", "rich"),
    "plugins": Room("errors"),
    "presets": Room(),
    "seeds": Room("", "numpy"),
    "precision": Room("errors", "fairseq torch"),
    "fused": Room("models precision regularizers", "torch", "fairseq"),
    "regularizers": Room("errors flags", "numpy torch triton"),
    "optim": Room("errors flags seeds", "numpy torch"),
    "scores": Room("", "numpy torch", "regex rouge_score scipy"),
    "model_dir": Room("errors files models patches", f"fairseq torch {_READ}"),
    "patches": Room(
        "errors files flags fused model_dir models plugins presets tasks",
        f"{_FAIRSEQ} fairseq_cli psutil {_READ}",
    ),
    "data": Room(
        "errors files model_dir scores",
        f"fairseq tokenizers torch {_READ}",
        "google sklearn",
    ),
    "models": Room(
        "errors files flags model_dir optim regularizers seeds", f"{_FAIRSEQ} {_READ}"
    ),
    "criterions": Room(
        "errors flags models presets regularizers scores",
        "fairseq numpy omegaconf torch",
    ),
    "optimizers": Room("errors flags optim presets", _FAIRSEQ),
    "tasks": Room(
        "criterions data errors files flags inference model_dir models optim optimizers"
        " patches plugins precision presets regularizers scores",
        f"{_FAIRSEQ} numpy typing_extensions",
    ),
    "inference": Room(
        "criterions data errors files flags model_dir models patches regularizers"
        " scores tasks",
        f"{_FAIRSEQ} fairseq_cli numpy sklearn",
    ),
    "huggingface": Room(
        "data errors escaping files inference model_dir models patches",
        f"fairseq safetensors tokenizers torch {_READ}",
        "sentencepiece transformers",
    ),
    "comparison": Room(
        "errors escaping files scores",
        f"jinja2 markupsafe matplotlib rich scipy sklearn tabulate torch {_READ}",
        "fairseq submitit tasks",
    ),
    "commands": Room("errors escaping fetching files patches plugins", "", ANY),
}


@dataclass(frozen=True)
class Import:
    """One import of a room's file: a room or a library, and whether in a function."""

    path: Path
    line: int
    name: str
    late: bool
    absolute: bool


def files(room: str) -> list[Path]:
    """Its modules."""
    folder = USER_DIR / room
    return (
        sorted(folder.rglob("*.py")) if folder.is_dir() else [USER_DIR / f"{room}.py"]
    )


def late(tree: ast.AST) -> set[ast.AST]:
    """What runs only when a function is called, or never."""
    inside = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node
        for outer in ast.walk(tree)
        if isinstance(outer, inside)
        or (isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test))
        for node in ast.walk(outer)
    }


def imports(room: str) -> Iterator[Import]:
    """Everything a room imports from outside itself and the standard library."""
    for path in files(room):
        tree = ast.parse(path.read_text("utf-8"))
        lazily = late(tree)
        for node in ast.walk(tree):
            for name, absolute in _names(node, path):
                if name != room and name not in sys.stdlib_module_names:
                    yield Import(path, node.lineno, name, node in lazily, absolute)


def _names(node: ast.AST, path: Path) -> list[tuple[str, bool]]:
    """First part of what a statement imports, and whether it is no relative one."""
    if isinstance(node, ast.Import):
        return [(alias.name.split(".")[0], True) for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    if not node.level:
        return [(str(node.module).split(".")[0], True)]
    here = path.relative_to(USER_DIR).parts[:-1]
    base = [*here[: len(here) + 1 - node.level], *(node.module or "").split(".")]
    first = next(filter(None, base), "")
    found = [first] if first else [alias.name for alias in node.names]
    return [(name, False) for name in found if not name.startswith("__")]


def says(room: str) -> str:
    """First line of its docstring."""
    path = USER_DIR / room / "__init__.py"
    text = (path if path.is_file() else USER_DIR / f"{room}.py").read_text("utf-8")
    first = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return first.replace("``", "`").replace(":mod:`.", "`").rstrip(".")


def table() -> str:
    """The table in Markdown."""
    rows = ["| room | what it is | may import | lines |", "|---|---|---|---|"]
    for name, room in ROOMS.items():
        count = sum(len(path.read_text("utf-8").splitlines()) for path in files(name))
        ours = ", ".join(room.rooms.split()) or "no other room"
        theirs = ", ".join(room.libraries.split()) or "no library"
        later = f"; in functions {', '.join(room.later.split())}" if room.later else ""
        link = f"`{name}/`" if (USER_DIR / name).is_dir() else f"`{name}.py`"
        rows.append(f"| {link} | {says(name)} | {ours}; {theirs}{later} | {count} |")
    return "\n".join([*rows, ""])


def main() -> None:
    """Print it, or write it into the README."""
    if sys.argv[1:] != ["--write"]:
        print(table(), end="")
        return
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}{table()}{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
