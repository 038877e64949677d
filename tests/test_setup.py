"""Set-up: which Python, which torch, and what it mends in installed files."""

import hashlib
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any, List, Optional, Union  # noqa: UP035

import pytest
from conftest import ROOT

VERSIONS = ["3.11", "3.12", "3.13", "3.14"]
TOOLS = """bash sh cat chmod cp dirname env grep ls mkdir paste rm sed sha256sum tail
touch uname"""
#: Stands for python3.x and for .venv/bin/python with its pip.
PYTHON = """\
#!/bin/sh
echo "${{CUDA_HOME:+CUDA_HOME }}$0 $*" >>"$LOG"
case "$*" in
  *ensurepip*) echo {version}; exit {venv} ;;
  *Python.h*) ;;
  *'version_info[:2]'*) echo {minor} ;;
  *'version("torch")'*) [ -e .venv/torch ] ;;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *torch.version.cuda*) [ -n "$CUDA_BUILD" ] ;;
  "-c "*cpp_extension*) touch {blocker} ;;
  *+cpu) [ -n "$CPU_BUILD" ] && touch .venv/torch ;;
  *install*torch*) touch .venv/torch ;;
esac
"""
#: What is built of fairseq's CUDA sources.
BLOCKER = ".venv/lib/python3.12/site-packages/fairseq/ngram_repeat_block_cuda.so"

INSTALLED = runpy.run_path(str(ROOT / "user_dir/patches/installed.py"))
MENDS = INSTALLED["MENDS"]


class House:
    """A copy of what set-up reads, and a PATH of stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.log = (folder / n for n in ("root", "bin", "log"))
        self.root.mkdir()
        self.bin.mkdir()
        for name in ("scripts", "constraints", "user_dir/patches"):
            shutil.copytree(ROOT / name, self.root / name)
        shutil.copy(ROOT / "setup.py", self.root)
        for name in TOOLS.split():
            (self.bin / name).symlink_to(shutil.which(name) or "")
        self.program("g++", "")

    def program(self, name: str, body: str) -> None:
        (self.bin / name).write_text(body or "#!/bin/sh\n")
        (self.bin / name).chmod(0o755)

    def python(self, name: str, version: str, venv: bool = True) -> None:
        minor = ".".join(version.split(".")[:2])
        body = PYTHON.format(
            version=version, minor=minor, venv=int(not venv), blocker=BLOCKER
        )
        self.program(name, body)

    def set_up(self, **variables: str) -> tuple[int, str]:
        """Exit status and what it said."""
        self.log.write_text("")
        env = {"PATH": str(self.bin), "LOG": str(self.log), **variables}
        command = [shutil.which("bash") or "", str(self.root / "scripts/setup.sh")]
        done = subprocess.run(
            command, check=False, env=env, capture_output=True, text=True
        )
        assert done.stdout == ""
        return done.returncode, done.stderr

    def pip(self) -> list[str]:
        """What pip was told to install, a line a call."""
        lines = self.log.read_text().splitlines()
        return [line.partition(" -c ")[2] for line in lines if "-m pip install" in line]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def torch_release() -> str:
    pins = (ROOT / "constraints/py311.txt").read_text()
    return re.findall(r"^torch==(.+)$", pins, re.M)[0]


# --- which Python -----------------------------------------------------------------

MEND = """
  Debian 12 or 13, Ubuntu 24.04: apt-get install python3-venv python3-dev g++
  anywhere else, with uv: uv python install 3.12, then \
PYTHON="$(uv python find 3.12)" bash scripts/setup.sh
"""


def test_without_a_usable_python_it_names_what_is_there_and_the_way_out(
    house: House,
) -> None:
    wanted = "set-up: no usable Python: wanted 3.11, 3.12, 3.13 or 3.14 with venv"
    assert house.set_up() == (1, f"{wanted}; found none{MEND}")
    house.python("python3", "3.10.12")
    house.python("python3.13", "3.13.5", venv=False)
    said = "python3.13 (3.13.5 without venv), python3 (3.10.12)"
    assert house.set_up() == (1, f"{wanted}; found {said}{MEND}")
    assert not (house.root / ".venv").exists()


def test_it_takes_the_first_that_is_usable_unless_one_is_named(house: House) -> None:
    house.python("python3.11", "3.11.2", venv=False)
    house.python("python3", "3.13.5")
    assert house.set_up()[0] == 0
    assert house.pip()[0].startswith("constraints/py313.txt ")
    shutil.rmtree(house.root / ".venv")
    house.python("own python", "3.12.1")
    assert house.set_up(PYTHON=f"{house.bin}/own python")[0] == 0
    assert house.pip()[0].startswith("constraints/py312.txt ")
    assert house.set_up(PYTHON="nowhere") == (0, "")
    shutil.rmtree(house.root / ".venv")
    status, said = house.set_up(PYTHON="nowhere")
    assert status == 1
    assert "found none" in said


@pytest.mark.parametrize(("version", "mended"), [("3.13.5", 0), ("3.14.0", 1)])
def test_installed_files_are_mended_for_314_alone(
    house: House, version: str, mended: int
) -> None:
    house.python("python3", version)
    status, said = house.set_up()
    assert status == 0, said
    assert said.count("set-up: mending what Python 3.14 breaks\n") == mended
    ran = f".venv/bin/python {INSTALLED['__file__'].removeprefix(f'{ROOT}/')}\n"
    assert house.log.read_text().count(ran) == mended


def test_what_is_offered_is_what_the_package_admits_and_pins_once() -> None:
    files = sorted((ROOT / "constraints").glob("*.txt"))
    minors = [file.stem.replace("py3", "3.") for file in files]
    assert minors == VERSIONS
    last = int(VERSIONS[-1].split(".")[1])
    admitted = f'python_requires=">={VERSIONS[0]},<3.{last + 1}"'
    assert admitted in (ROOT / "setup.py").read_text()
    for file in files:
        pins = dict(line.split("==") for line in file.read_text().splitlines())
        assert len(pins) == len(file.read_text().splitlines()), file
        assert pins == dict(line.split("==") for line in files[0].open().read().split())


# --- which torch ------------------------------------------------------------------


no_gpu = pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="has a GPU")


@no_gpu
def test_without_a_gpu_the_cpu_build_is_taken_where_there_is_one(house: House) -> None:
    house.python("python3", "3.13.5")
    status, said = house.set_up(CPU_BUILD="1")
    assert status == 0, said
    assert f"looking for torch {torch_release()}'s CPU build (0.2 GB)\n" in said
    assert "CUDA" not in said
    assert (
        f"constraints/py313.txt --no-deps torch=={torch_release()}+cpu" in house.pip()
    )
    assert house.set_up() == (0, "")
    assert house.pip() == []


@no_gpu
def test_where_no_index_has_it_the_download_is_told(house: House) -> None:
    house.python("python3", "3.13.5")
    status, said = house.set_up()
    assert status == 0, said
    assert "your package index has none; TORCH_INDEX=URL names one that has" in said
    assert "has CUDA: 2.7 GB to download, 4.6 GB on disk" in said
    assert "constraints/py313.txt torch" in house.pip()


def test_a_gpu_gets_the_usual_build(house: House) -> None:
    house.python("python3", "3.13.5")
    house.program("nvidia-smi", "")
    status, said = house.set_up(CPU_BUILD="1")
    assert status == 0, said
    assert not any("+cpu" in line for line in house.pip())
    assert "has CUDA: 2.7 GB to download, 4.6 GB on disk" in said


def test_torch_index_is_asked_for_torch_alone_and_is_remembered(house: House) -> None:
    house.python("python3", "3.13.5")
    assert house.set_up(CPU_BUILD="1")[0] == 0
    url = "https://wheels.example/cu126"
    status, said = house.set_up(TORCH_INDEX=url)
    assert status == 0, said
    asked = [line for line in house.pip() if url in line]
    assert asked == [
        f".venv/constraints.txt --force-reinstall --no-deps --index-url {url} "
        f"torch=={torch_release()}"
    ]
    freed = (house.root / ".venv/constraints.txt").read_text()
    assert not re.findall("^(nvidia|cuda)-", freed, re.M)
    assert f"torch=={torch_release()}\n" in freed
    assert house.set_up() == (0, "")
    assert house.set_up(TORCH_INDEX=url) == (0, "")


# --- fairseq's CUDA n-gram blocker --------------------------------------------------

NO_SOURCE = (
    "set-up: nvcc is here, and fairseq's CUDA n-gram blocker (summaries only) is not "
    "built: fairseq's packages lack its source; FAIRSEQ_SOURCE=DIR names a checkout of "
    "fairseq\n"
)
BUILDING = "set-up: building fairseq's CUDA n-gram blocker (1 to 3 minutes)\n"


@pytest.fixture
def source(house: House, tmp_path: Path) -> Path:
    """As much of a checkout of fairseq as is asked for, and a house to build in."""
    house.python("python3", "3.12.1")
    (house.root / BLOCKER).parent.mkdir(parents=True)
    folder = tmp_path / "fairseq/fairseq/clib/cuda"
    folder.mkdir(parents=True)
    (folder / "ngram_repeat_block_cuda.cpp").touch()
    return tmp_path / "fairseq"


@pytest.mark.parametrize(("nvcc", "cuda"), [(False, "1"), (True, ""), (False, "")])
def test_without_nvcc_or_cuda_nothing_is_built_or_said(
    house: House, source: Path, nvcc: bool, cuda: str
) -> None:
    if nvcc:
        house.program("nvcc", "")
    status, said = house.set_up(CUDA_BUILD=cuda)
    assert status == 0, said
    assert "n-gram" not in said
    assert house.set_up(CUDA_BUILD=cuda, FAIRSEQ_SOURCE=str(source))[1].endswith(
        "set-up: FAIRSEQ_SOURCE is for building with CUDA: it needs nvcc, and a torch "
        "that has CUDA\n"
    )


def test_with_nvcc_it_is_built_once_from_a_checkout_of_fairseq(
    house: House, source: Path
) -> None:
    house.program("nvcc", "")
    status, said = house.set_up(CUDA_BUILD="1")
    assert status == 0, said
    assert said.count(NO_SOURCE) == 1
    assert house.set_up(CUDA_BUILD="1") == (0, "")
    status, said = house.set_up(CUDA_BUILD="1", FAIRSEQ_SOURCE="/nowhere")
    assert status == 1
    assert said.endswith(
        "set-up: FAIRSEQ_SOURCE=/nowhere is no checkout of fairseq: it has no "
        "fairseq/clib/cuda/ngram_repeat_block_cuda.cpp\n"
    )
    status, said = house.set_up(CUDA_BUILD="1", FAIRSEQ_SOURCE=str(source))
    assert status == 0, said
    assert said.count(BUILDING) == 1
    assert f" {source}/fairseq/clib/cuda\n" in house.log.read_text()
    assert (house.root / BLOCKER).is_file()
    assert house.set_up(CUDA_BUILD="1", FAIRSEQ_SOURCE=str(source)) == (0, "")
    # Another torch wants another.
    status, said = house.set_up(CUDA_BUILD="1", TORCH_INDEX="https://wheels.example/")
    assert status == 0, said
    assert said.count(NO_SOURCE) == 1


def test_fairseq_is_not_built_with_cuda_sources_that_its_package_lacks(
    house: House,
) -> None:
    house.python("python3", "3.13.5")
    assert house.set_up(CUDA_HOME="/cuda")[0] == 0
    lines = [x for x in house.log.read_text().splitlines() if "-m pip install" in x]
    without = [line for line in lines if not line.startswith("CUDA_HOME ")]
    assert [line.split()[-1] for line in without] == ["fairseq-fixed"]
    assert len(lines) > 3


# --- what Python 3.14 breaks ------------------------------------------------------


def released(mend: Any, folder: Path) -> Path:
    """A copy of the file as its release has it, though set-up may have mended ours."""
    path = folder / "file.py"
    source = INSTALLED["located"](mend).read_bytes()
    path.write_bytes(source.replace(mend.new.encode(), mend.old.encode()))
    path.chmod(0o640)
    return path


@pytest.mark.parametrize("mend", MENDS, ids=lambda mend: mend.package)
def test_a_known_file_is_mended_once_and_another_is_left(
    mend: Any, tmp_path: Path
) -> None:
    path = released(mend, tmp_path)
    assert INSTALLED["apply"](mend, path) == ""
    mended = path.read_bytes()
    assert hashlib.sha256(mended).hexdigest() == mend.mended
    assert os.stat(path).st_mode & 0o777 == 0o640
    assert INSTALLED["apply"](mend, path) == ""
    assert path.read_bytes() == mended
    path.write_bytes(mended + b"\n")
    said = f"error: {path} is not the release that is known here; left as it is"
    assert INSTALLED["apply"](mend, path) == said
    assert path.read_bytes() == mended + b"\n"
    assert [file.name for file in tmp_path.iterdir()] == ["file.py"]


def test_mended_fairseq_reads_optional_types(tmp_path: Path) -> None:
    path = released(MENDS[0], tmp_path)
    INSTALLED["apply"](MENDS[0], path)
    read = runpy.run_path(str(path))["interpret_dc_type"]
    kinds = [Optional[int], Union[None, str], Optional[List[int]], List[str], Any, bool]  # noqa: UP006
    assert [read(kind) for kind in kinds] == [int, str, List[int], List[str], str, bool]  # noqa: UP006


def test_mended_hydra_has_help_that_can_be_searched(tmp_path: Path) -> None:
    path = released(MENDS[1], tmp_path)
    INSTALLED["apply"](MENDS[1], path)
    module: dict[str, Any] = {"__name__": "mended", "__package__": "hydra._internal"}
    exec(path.read_text("utf-8"), module)  # noqa: S102
    parser = module["get_args_parser"]()
    (lazy,) = (a.help for a in parser._actions if a.dest == "shell_completion")
    assert "%" not in lazy
    assert "shell completion" in repr(lazy)
