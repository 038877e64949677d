"""The plan of the house holds: who imports whom, short functions, no old path."""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, environment
from rooms import BEGIN, END, README, ROOMS, USER_DIR, imports, says, table

#: Lines of a function without its docstring.
LONG = 35
#: Longer ones: the first checks eleven arguments.
LONGER = {"optim/pats.py: __init__"}


def test_every_room_is_in_the_table() -> None:
    folders = {path.parent.name for path in USER_DIR.glob("*/__init__.py")}
    modules = {path.stem for path in USER_DIR.glob("[!_]*.py")}
    assert set(ROOMS) == folders | modules
    assert all(len(says(name)) > 20 for name in ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_table_allows(room: str) -> None:
    wrong = [
        f"{one.path.relative_to(USER_DIR)}:{one.line} imports {one.name}"
        for one in imports(room)
        if not ROOMS[room].allows(one.name, one.late)
    ]
    assert not wrong, "mend the import, or the table in tests/rooms.py"


def test_a_part_of_a_name_allows_nothing() -> None:
    assert ROOMS["scores"].allows("scipy", True)
    assert not ROOMS["scores"].allows("scipy", False)
    assert not ROOMS["scores"].allows("sci", True)


def test_imports_of_the_package_are_relative() -> None:
    named = [one for room in ROOMS for one in imports(room) if one.absolute]
    assert {one.name for one in named} & {*ROOMS, "fairseq_steady", "user_dir"} == set()


def test_the_readme_has_the_table() -> None:
    """Line counts may be of another day: python tests/rooms.py --write."""

    def without_counts(text: str) -> list[str]:
        return [line.rpartition("| ")[0] for line in text.splitlines()]

    shown = README.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    assert without_counts(shown) == without_counts(table())


IMPORTING = """
import importlib, logging, pkgutil, sys, warnings
blocked, *rooms = sys.argv[1:]
for name in blocked.split(","):
    sys.modules[name] = None  # importing it fails
if "torch" not in blocked:
    import torch
def state():
    root = logging.getLogger()
    # scikit-learn has filters of its own.
    filters = warnings.filters[:] if "comparison" not in rooms else None
    return sys.excepthook, root.level, root.handlers[:], filters
before = state()
for name in rooms:
    room = importlib.import_module(f"fairseq_steady.{name}")
    for found in pkgutil.iter_modules(room.__path__):
        if found.name == "triton_kl" and sys.platform != "linux":
            continue  # triton is for Linux alone
        importlib.import_module(f"fairseq_steady.{name}.{found.name}")
assert state() == before
"""


@pytest.mark.parametrize(
    "words",
    [
        ("fairseq,omegaconf,hydra,sklearn", "regularizers", "optim"),
        ("fairseq,omegaconf,hydra", "comparison"),
        ("fairseq,torch,numpy,rich,transformers,matplotlib", "commands"),
    ],
)
def test_what_stands_alone_does(words: tuple[str, ...]) -> None:
    """Every module is imported without some libraries, and nothing global moves."""
    command = [sys.executable, "-c", IMPORTING, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""


def functions() -> Iterator[tuple[int, str, Path]]:
    """Length without the docstring, name and file of every function."""
    for path in sorted(USER_DIR.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                described = ast.get_docstring(node) is not None
                own = (first.end_lineno or 0) - first.lineno + 1 if described else 0
                yield (node.end_lineno or 0) - node.lineno + 1 - own, node.name, path


def test_functions_are_short() -> None:
    found = list(functions())
    assert statistics.median(length for length, _, _ in found) < 10
    long = {f"{p.relative_to(USER_DIR)}: {name}" for n, name, p in found if n > LONG}
    assert long == LONGER


#: Where things were before version 0.2.0; the changelog may name them.
OLD = (
    r"scripts/(compare|comparison|predict|probe|import_hf|export_hf|get_data|summarize"
    r"|submission|score_rouge|check_env|hydra_train|sensitivity|benchmark_\w+)\b",
    r"fairseq_steady\.(importing|exporting|ground|durable|workers|safe|generating"
    r"|predicting|probing|metrics|rouge|hf_\w+)\b",
    r"user_dir/(importing|exporting|ground|durable|workers|safe|generating|predicting"
    r"|probing|metrics|rouge)\b",
    r"comparison[./](card|statistics|probing)\b",
    r"criterions[./]_(flags|kinds|options|penalty)\b",
    r"optimizers[./]_groups\b",
)


def test_no_old_path_is_left() -> None:
    old = re.compile("|".join(OLD))
    folders = ("user_dir", "tests", "scripts", "examples", ".ci")
    paths = [*ROOT.glob("*.*"), *(p for f in folders for p in (ROOT / f).rglob("*"))]
    read = [
        path
        for path in paths
        if path.suffix in (".py", ".md", ".sh", ".toml", ".yaml", ".cff")
        and path.name not in ("CHANGELOG.md", "test_rooms.py")
    ]
    assert len(read) > 150
    left = {
        f"{path}: {found.group()}"
        for path in read
        for found in old.finditer(path.read_text("utf-8"))
    }
    assert left == set()


def test_no_test_file_imports_another() -> None:
    """What two need stands in conftest.py, helpers.py, sources.py or tiny.py."""
    found = [
        path.name
        for path in Path(__file__).parent.glob("*.py")
        if re.search(r"^\s*(from|import) test_", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert found == []
