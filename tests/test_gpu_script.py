"""gpu.sh: each step on its own, and a report of all."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

#: Stands for the interpreter: one step fails, one can be slow, transformers is missing.
PYTHON = """\
#!/bin/sh
case "$*" in
  *"import transformers"*) exit 1 ;;
  *make_acceptability*) mkdir -p "$2" && echo text >"$2/in_domain_train.tsv" ;;
  *methods.py*) echo "error: no such method" >&2; exit 3 ;;
  *precisions*) echo "| plain |"; sleep "$SLOW" ;;
  *) echo "did $1" ;;
esac
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    path.write_text(PYTHON)
    path.chmod(0o755)
    return path


def run(python: Path, out: Path, **more: str) -> tuple[int, list[str], str]:
    """Exit status, what it said, and the report."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/benchmarks/gpu.sh"), str(out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": str(python), "DEVICE": "cpu", "SLOW": "0", **more},
    )
    said = [line.partition(", ")[0] for line in done.stderr.splitlines()]
    return done.returncode, said, (out / "report.md").read_text()


def test_a_failing_step_is_reported_and_the_next_goes_on(
    python: Path, tmp_path: Path
) -> None:
    status, said, report = run(python, tmp_path / "out")
    assert status == 1
    assert "gpu.sh: prepare: ok" in said
    assert "gpu.sh: methods: FAILED (3)" in said
    assert "gpu.sh: optimizers: ok" in said
    assert said[-1] == f"gpu.sh: {tmp_path}/out/report.md"
    assert "| tests | left out: they want a GPU | | |" in report
    assert "| deberta | left out: transformers is not installed | | |" in report
    assert "## methods\n\n```\nerror: no such method\n```" in report
    assert "## runs-speed\n\n```\n| plain |\n```" in report
    assert str(tmp_path) not in report
    chosen = run(python, tmp_path / "chosen", ONLY="here padding")
    assert (chosen[0], chosen[1][:2]) == (
        0,
        ["gpu.sh: here: ok", "gpu.sh: padding: ok"],
    )


def test_what_finds_no_time_is_a_failure(python: Path, tmp_path: Path) -> None:
    status, said, report = run(
        python, tmp_path / "out", SLOW="60", SECONDS_LEFT="3", ONLY="runs"
    )
    assert status == 1
    assert said[0].startswith("gpu.sh: runs-precisions: FAILED (over ")
    assert said[1] == "gpu.sh: runs-speed: no time left"
    assert "| runs-workers | no time left | 0 |" in report
    status, said, _ = run(python, tmp_path / "late", SECONDS_LEFT="0", ONLY="memory")
    assert (status, said[0]) == (1, "gpu.sh: memory: no time left")
