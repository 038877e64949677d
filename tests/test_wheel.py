"""The wheel, installed beside torch and fairseq where nothing else of ours is seen."""

import ast
import csv
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import pytest
from conftest import ROOT, environment
from fairseq_steady import commands
from fairseq_steady.inference.predicting import Predictor

#: What the wheel is built from.
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
#: What the extras install, by the names under which it is found.
EXTRAS = ("matplotlib", "mpl_toolkits", "statsmodels", "submitit", "transformers")
#: Modules that import an extra as they are imported: figures, after extras.require;
#: triton, which torch's CUDA builds bring, where kernels.py has found it.
NEEDY = {
    *("comparison/figures.py", "comparison/report.py"),
    "regularizers/triton_kl.py",
}
WITH_TORCH = {"triton"}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the sources, nor met there."""
    base = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        (base / "source").mkdir(exist_ok=True)
        shutil.copy(ROOT / name, base / "source")
    for name in ("user_dir", "examples"):
        leave = shutil.ignore_patterns("__pycache__", "results", "*.png")
        shutil.copytree(ROOT / name, base / "source" / name, ignore=leave)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--no-build-isolation", "-w", base, base / "source"],
        check=True,
        capture_output=True,
    )
    (made,) = base.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, installed in an environment with the base requirements alone.

    What is installed here is linked into it: all but this package and the extras.
    """
    base = tmp_path_factory.mktemp("environment")
    venv.create(base, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", base / "bin" / "python", "install"]
    subprocess.run(
        [*pip, "-q", "--no-deps", "--no-index", "--no-compile", wheel],
        check=True,
        capture_output=True,
    )
    (site,) = base.glob("lib/python*/site-packages")
    (base / "extras").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        ours = "fairseq_steady" in path.name or path.suffix == ".pth"
        extra = re.match(r"\w+", path.name)[0] in EXTRAS  # type: ignore[index]
        if not ours and not (site / path.name).exists():
            folder = base / "extras" if extra else site
            (folder / path.name).symlink_to(path)
    # As pip would have made it.
    train = base / "bin" / "fairseq-train"
    text = Path(sys.executable).with_name("fairseq-train").read_text()
    train.write_text(f"#!{base}/bin/python\n{text.partition(chr(10))[2]}")
    train.chmod(0o755)
    return base / "bin" / "fairseq-steady"


@pytest.fixture(scope="module")
def run(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run it in a folder far from the sources."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def call(
        *words: object, extras: bool = False, status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        path = {"PYTHONPATH": str(program.parents[1] / "extras")} if extras else {}
        done = subprocess.run(
            [program, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env=environment(**path),
            cwd=elsewhere,
        )
        assert done.returncode == status, done.stderr[-2000:]
        return done

    return call


def test_the_wheel_has_every_file_of_every_room(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {n for n in archive.namelist() if ".dist-info/" not in n}
    source = ROOT / "user_dir"
    kept = (".py", ".md", ".typed", ".yaml", ".css", ".jinja", ".js")
    wanted = {
        f"fairseq_steady/{path.relative_to(source)}"
        for path in source.rglob("*")
        if path.suffix in kept or path.name == "py.typed"
    }
    examples = {
        f"fairseq_steady/{path.relative_to(ROOT)}"
        for path in (ROOT / "examples").rglob("*.yaml")
    }
    assert packed == wanted | examples
    assert "fairseq_steady/examples/hydra/cola.yaml" in packed
    assert "fairseq_steady/commands/predict.py" in packed


def requirements(wheel: Path) -> tuple[set[str], set[str]]:
    """What the wheel asks for always, and in its extras, as import names."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/METADATA")]
        asked = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
    modules = importlib.metadata.packages_distributions()

    def imported(lines: list[str]) -> set[str]:
        names = {_plain(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]
        return {
            m for m, made_by in modules.items() if names & set(map(_plain, made_by))
        }

    base = [line for line in asked or () if "extra ==" not in line]
    more = [
        line for line in asked or () if re.search("extra == .(compare|export)", line)
    ]
    return imported(base), imported(more)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_whatever_is_imported_is_asked_for(wheel: Path) -> None:
    base, extras = requirements(wheel)
    assert {"rich", "torch", "tabulate"} <= base
    assert {"matplotlib", "transformers"} <= extras - base
    for path in sorted((ROOT / "user_dir").rglob("*.py")):
        tree = ast.parse(path.read_text())
        at_once = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            else:
                continue
            for name in {n.partition(".")[0] for n in names} - sys.stdlib_module_names:
                needy = str(path.relative_to(ROOT / "user_dir")) in NEEDY
                later = needy or id(node) not in at_once
                known = base | extras | WITH_TORCH if later else base
                assert name in known, f"{path}:{node.lineno}: {name}"


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_subcommand_has_its_page(run: Run, name: str) -> None:
    assert run(name, "--help").stdout.startswith(f"usage: fairseq-steady {name}")


@pytest.fixture(scope="module")
def compared(
    run: Run,
    models: dict[str, Path],
    cola_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The results of a run, its checkpoint kept."""
    out = tmp_path_factory.mktemp("compared")
    flags = ["--task=cola", "--cpu", f"--steady-model={models['roberta']}"]
    flags += ["--batch-size=8", "--optimizer=adam", "--lr=1e-3", "--max-update=6"]
    done = run(
        *("compare", "--out", out, "--methods", "sift", "--seeds", 1),
        *("--keep", "--", cola_data, *flags),
        extras=True,
    )
    assert "sift" in done.stdout
    return out


def test_runs_are_compared(compared: Path) -> None:
    with (compared / "table.csv").open() as file:
        rows = {(row["method"], row["subset"]): row for row in csv.DictReader(file)}
    assert {key: row["n"] for key, row in rows.items()} == {
        ("sift", subset): "1 of 1" for subset in ("valid", "ood")
    }
    assert (compared / "scores.png").is_file()


def test_the_kept_checkpoint_predicts_without_the_extras(
    run: Run, compared: Path
) -> None:
    checkpoint = compared / "sift" / "seed1" / "checkpoint_best.pt"
    done = run("predict", checkpoint, "--cpu", "--text", "w0 w1", "--with-text")
    found = json.loads(done.stdout)
    (here,) = Predictor(checkpoint, cpu=True)(["w0 w1"])
    assert found["text"] == "w0 w1"
    assert found["label"] == here.label
    assert found["probabilities"] == pytest.approx(here.probabilities)


def test_a_command_without_its_extra_says_which(run: Run, tmp_path: Path) -> None:
    words = ["--out", tmp_path, "--methods", "plain", "--seeds", 1, "--", "D"]
    said = "error: this needs {}, which is not installed: pip install '{}'\n"
    for command, module, extra in (
        (["compare", *words], "matplotlib", "compare"),
        (["export", tmp_path, tmp_path / "out"], "transformers", "export"),
        (
            ["sensitivity", tmp_path / "c.pt", tmp_path / "a.png"],
            "matplotlib",
            "compare",
        ),
    ):
        done = run(*command, status=1)
        assert done.stderr == said.format(module, f"fairseq-steady[{extra}]")


def test_rouge_needs_no_extra(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two\nthree\n")
    done = run("rouge", tmp_path / "a.txt", tmp_path / "a.txt")
    assert done.stdout.splitlines()[:2] == [
        "2 summaries, with stemming",
        "rouge1     100.00",
    ]
