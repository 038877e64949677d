"""Would a broken line pass the tests? Break each listed one and see.

    python tests/mutants.py                   # every entry of mutants.toml
    python tests/mutants.py --only ascent.py  # those whose line or tests have this
    python tests/mutants.py --list            # what there is, nothing run

An entry of ``tests/mutants.toml`` names a file, a text that occurs in it exactly
once, what takes its place, and the tests that ought to notice. Copies of the checkout
in a temporary folder are changed, never the checkout, and the tests run in forks of a
process that has torch and fairseq imported already.

A line each says what came of it:

    killed    a test failed
    timeout   the tests did not end: noticed too
    survived  every test passed. Write the test that is missing, or say in
              ``explained`` why no user is hurt
    explained survived, and the entry says why that hurts nobody
    stale     the text is not in the file exactly once: refresh the entry

First come the named tests without any change, which have to pass, and the canaries:
changes that only tests of a copy can notice, in this process and in those that tests
start. The exit status is 1 when a mutant survived unexplained or is stale, and 2 when
a test fails by itself or a canary survived, for then nothing else means anything.
"""

import argparse
import importlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")
#: What the tests need of a checkout.
COPIED = ("user_dir", "tests", "scripts", "examples", "pyproject.toml", "setup.py")
FURTHER = ("README.md", "CHANGELOG.md", "LICENSE", "constraints")
#: Seconds that tests may take at least, and times as long as without a change.
_PATIENCE, _TIMES = 60.0, 6.0
#: pytest's exit statuses: all passed; some failed, or a file cannot be imported.
_PASSED, _FAILED = 0, (1, 2)
_TIMEOUT = -1
#: What takes long to import and is no part of this package.
_HEAVY = (
    *("fairseq_cli.train", "torch._dynamo", "pytest", "hypothesis", "transformers"),
    *("scipy.stats", "sklearn.metrics", "statsmodels.stats.multitest", "matplotlib"),
)


@dataclass(frozen=True)
class Mutant:
    """One change.

    Args:
        file: below the checkout.
        old: text that occurs there exactly once.
        new: what takes its place.
        tests: arguments of pytest: files below ``tests``, perhaps ``-k`` and more.
        explained: why nobody is hurt where it survives; empty where somebody is.
        canary: whether it checks this program, not the tests.

    """

    file: str
    old: str
    new: str
    tests: str
    explained: str = ""
    canary: bool = False

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}: {old}  ->  {new or '(nothing)'}"

    @property
    def stale(self) -> bool:
        """Whether the file does not hold the text exactly once."""
        path = ROOT / self.file
        return not path.is_file() or path.read_text("utf-8").count(self.old) != 1


@dataclass(frozen=True)
class Job:
    """Tests to run on one copy, changed or not.

    Args:
        tests: arguments of pytest.
        mutant: the change; None for none.
        limit: seconds until it is ended.

    """

    tests: str
    mutant: Mutant | None = None
    limit: float = 10 * _PATIENCE


@dataclass(frozen=True)
class Done:
    """What came of a job: pytest's exit status, or -1 for no end; and its output."""

    job: Job
    status: int
    seconds: float
    output: str


def read(path: Path) -> list[Mutant]:
    """The list: a table for each file, its tests, its mutants."""
    tables = tomllib.loads(path.read_text("utf-8"))
    return [
        Mutant(file, **({"tests": table["tests"]} | entry))
        for file, table in tables.items()
        for entry in table["mutants"]
    ]


# --- a copy of the checkout -----------------------------------------------------------


def copy(folder: Path) -> None:
    """What tests need, with the package under its own name before any installed one."""
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in (*COPIED, *FURTHER):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        elif source.is_file():
            shutil.copy(source, folder / name)
    (folder / "fairseq_steady").symlink_to("user_dir")


@contextmanager
def changed(folder: Path, mutant: Mutant | None) -> Iterator[None]:
    """Put a mutant into a copy for a while."""
    if mutant is None:
        yield
        return
    path = folder / mutant.file
    before = path.read_text("utf-8")
    path.write_text(before.replace(mutant.old, mutant.new), "utf-8")
    try:
        yield
    finally:
        path.write_text(before, "utf-8")


# --- forks ----------------------------------------------------------------------------


def warm_up() -> None:
    """Import what all tests need, and nothing that is to be changed."""
    os.environ["TRITON_INTERPRET"] = "1"  # as conftest.py has it; triton comes too
    for name in _HEAVY:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    package = [name for name in sys.modules if name.startswith("fairseq_steady")]
    if package:
        raise SystemExit(f"{package[0]} is imported before the forks")


def pytest_in(folder: Path, tests: str) -> int:
    """In the child: run tests of a copy; returns pytest's exit status."""
    import pytest

    os.chdir(folder)
    here = str(Path(__file__).parent)
    sys.path[:] = [str(folder), *(p for p in sys.path if p not in ("", here))]
    os.environ["PYTHONPATH"] = str(folder)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    files = [
        str(folder / "tests" / word) if word.endswith(".py") else word
        for word in shlex.split(tests)
    ]
    quiet = ["-x", "-q", "--no-header", "--tb=short", "--durations=0"]
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
    return int(pytest.main([*quiet, *plugins, *files]))


def fork(folder: Path, job: Job) -> tuple[int, int]:
    """Start a job; returns its process and the file of its output."""
    output, path = tempfile.mkstemp()
    os.unlink(path)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setsid()
            os.dup2(output, 1)
            os.dup2(output, 2)
            status = pytest_in(folder, job.tests)
            sys.stdout.flush()
        finally:
            os._exit(status)
    return child, output


def wait(child: int, limit: float) -> Iterator[int | None]:
    """None while it runs, then its exit status; at the end nothing is left of it."""
    until, status = time.monotonic() + limit, None
    try:
        while status is None:
            ended, code = os.waitpid(child, os.WNOHANG)
            if ended:
                status = os.waitstatus_to_exitcode(code)
            elif time.monotonic() > until:
                status = _TIMEOUT
            yield status
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if status in (None, _TIMEOUT):
            os.waitpid(child, 0)


def run(folder: Path, job: Job) -> Iterator[Done | None]:
    """One job on a copy: None while it runs, then what came of it."""
    started, status = time.monotonic(), _PASSED
    with changed(folder, job.mutant):
        child, output = fork(folder, job)
        for found in wait(child, job.limit):
            if found is None:
                yield None
            else:
                status = found
    os.lseek(output, 0, os.SEEK_SET)
    with os.fdopen(output, errors="replace") as file:
        yield Done(job, status, time.monotonic() - started, file.read())


def run_all(folders: Sequence[Path], jobs: Sequence[Job]) -> Iterator[Done]:
    """Every job, as many at a time as there are copies, in the order they end."""
    left = list(jobs)
    running: dict[Path, Iterator[Done | None]] = {}
    while left or running:
        for folder in folders:
            if folder not in running and left:
                running[folder] = run(folder, left.pop(0))
        for folder, steps in list(running.items()):
            done = next(steps)
            if done is not None:
                del running[folder]
                yield done
        time.sleep(0.02)


# --- what it means --------------------------------------------------------------------


def verdict(done: Done) -> str:
    """The word for a mutant's end."""
    if done.status == _TIMEOUT:
        return "timeout"
    if done.status in _FAILED:
        return "killed"
    if done.status != _PASSED:
        return "error"
    mutant = done.job.mutant
    return "explained" if mutant and mutant.explained else "survived"


def say(word: str, seconds: float, what: object) -> None:
    """One line of the report."""
    print(f"{word:9} {seconds:6.1f} s  {what}", flush=True)


def baseline(folders: Sequence[Path], mutants: Sequence[Mutant]) -> dict[str, float]:
    """Seconds that each list of tests takes; it has to pass.

    Raises:
        SystemExit: with status 2, a test fails without any change.

    """
    each = dict.fromkeys(mutant.tests for mutant in mutants)
    seconds = {}
    for done in run_all(folders, [Job(tests) for tests in each]):
        passed = done.status == _PASSED
        say("passes" if passed else "fails", done.seconds, done.job.tests)
        if passed:
            seconds[done.job.tests] = done.seconds
        else:
            print(done.output[-3000:], file=sys.stderr)
    if len(seconds) < len(each):
        raise SystemExit(2)
    return seconds


def judge(
    folders: Sequence[Path], mutants: Sequence[Mutant], seconds: dict[str, float]
) -> Counter[str]:
    """Run mutants, a line each; how many ended how."""
    jobs = [Job(m.tests, m, max(_PATIENCE, _TIMES * seconds[m.tests])) for m in mutants]
    found: Counter[str] = Counter()
    for done in run_all(folders, jobs):
        word = verdict(done)
        found[word] += 1
        say(word, done.seconds, done.job.mutant)
        if word == "error":
            print(done.output[-3000:], file=sys.stderr)
    return found


def with_copies(count: int, use: Callable[[list[Path]], int]) -> int:
    """Call with copies of the checkout, which are removed at the end."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as base:
        folders = [Path(base).resolve() / str(number) for number in range(count)]
        for folder in folders:
            copy(folder)
        return use(folders)


def check(folders: Sequence[Path], mutants: Sequence[Mutant], stale: int) -> int:
    """Baseline, canaries, mutants, summary; returns the exit status."""
    seconds = baseline(folders, mutants)
    canaries = [mutant for mutant in mutants if mutant.canary]
    if judge(folders, canaries, seconds)["killed"] < len(canaries):
        print("a canary survived: what is tested is not the copy", file=sys.stderr)
        return 2
    found = judge(folders, [m for m in mutants if not m.canary], seconds)
    found["stale"] += stale
    total = sum(found.values())
    print(f"{total} mutants: " + ", ".join(f"{n} {word}" for word, n in found.items()))
    return int(any(found[word] for word in ("survived", "stale", "error")))


def chosen(mutants: Sequence[Mutant], texts: Sequence[str] | None) -> list[Mutant]:
    """Those whose line or tests have one of some texts; all of them without any."""
    lines = [(mutant, f"{mutant} {mutant.tests}") for mutant in mutants]
    return [
        mutant
        for mutant, line in lines
        if not texts or any(text in line for text in texts)
    ]


def main() -> int:
    """Read the list, report; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", help="those whose line has one of these")
    parser.add_argument("--jobs", type=int, default=2, help="at the same time")
    parser.add_argument("--list", action="store_true", help="print them, run nothing")
    args = parser.parse_args()
    mutants = chosen(read(LIST), args.only)
    stale = [mutant for mutant in mutants if mutant.stale]
    for mutant in stale:
        say("stale", 0, mutant)
    fresh = [mutant for mutant in mutants if not mutant.stale]
    if args.list:
        for mutant in fresh:
            print(f"{mutant}\n    {mutant.tests}")
        return int(bool(stale))
    warm_up()
    # So that the copies are removed and the tests stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return with_copies(max(1, args.jobs), lambda f: check(f, fresh, len(stale)))


if __name__ == "__main__":
    raise SystemExit(main())
