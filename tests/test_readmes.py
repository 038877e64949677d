"""What the papers say: commands, links, flags, paths and figures.

Every command in a ``bash`` block is read by the parser of its program, launchers and
examples by those of what they start; the cheap ones are run, on tiny models.
"""

import argparse
import ast
import csv
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import fairseq_steady.tasks  # noqa: F401  registers everything
import pytest
import torch
import yaml
from conftest import ROOT, WORDS, Zygote, environment, sentences
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from fairseq_steady import __version__, commands
from fairseq_steady.commands import compare
from fairseq_steady.comparison.comparing import make_plan
from fairseq_steady.comparison.reading import refusal
from fairseq_steady.optim import PRESETS
from sources import make_source

PAPERS = [
    *sorted(ROOT.glob("*.md")),
    *(
        path
        for folder in ("examples", "scripts", "tests", "user_dir")
        for path in sorted((ROOT / folder).rglob("*.md"))
        if "results" not in path.parts  # written by compare
    ),
]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> Iterator[tuple[int, str]]:
    """First line and text of each block in a language."""
    for found in FENCE.finditer(text):
        if found[2] == language:
            yield text.count("\n", 0, found.start()) + 2, textwrap.dedent(found[3])


def prose(path: Path) -> str:
    """What stands outside the blocks."""
    return FENCE.sub("", path.read_text("utf-8"))


# --- commands -------------------------------------------------------------------------


class Command(NamedTuple):
    """One command of a paper: where it stands, its words, and where it writes."""

    where: str
    words: list[str]
    out: str


def split(line: str) -> list[str]:
    """Words as bash splits them, without a comment."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="<>|;&")
    lexer.whitespace_split = True
    return list(lexer)


def commands_in(text: str) -> Iterator[tuple[int, list[str], str]]:
    """Line, words and standard output's file of each command in a text's blocks."""
    for start, block in blocks(text, "bash"):
        gone = 0
        # A mark keeps count of the lines that are joined.
        for offset, line in enumerate(block.replace("\\\n", "\0").split("\n")):
            words = split(line.replace("\0", " "))
            place, gone = start + offset + gone, gone + line.count("\0")
            out = ""
            for sign in ("<", ">"):
                if sign in words:
                    at = words.index(sign)
                    out = words[at + 1] if sign == ">" else out
                    del words[at : at + 2]
            if words:
                yield place, words, out


def commands_of(path: Path) -> Iterator[Command]:
    """The commands of a paper."""
    for line, words, out in commands_in(path.read_text("utf-8")):
        yield Command(f"{name_of(path)}:{line}", words, out)


def commands_of_quickstart() -> Iterator[Command]:
    """What the first command of the README says last."""
    name = "scripts/quickstart.sh"
    last = (ROOT / name).read_text("utf-8").partition("cat <<EOF\n")[2]
    shown = last.replace("\\\\", "\\").replace("$model", "models/minilm")
    typed = "\n".join(row for row in shown.splitlines() if row.startswith("  "))
    for _, words, out in commands_in(f"```bash\n{typed}\n```"):
        # One is of the script's variables, which compare has read already.
        if words[1] != "--help" and "$" not in words[1]:
            yield Command(f"{name}:{words[1]}", words, out)


COMMANDS = [
    *(command for path in PAPERS for command in commands_of(path)),
    *commands_of_quickstart(),
]


class Parsed(BaseException):
    """A parser was content; nothing was done yet."""


def stop_when_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command go no further than its command line."""
    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)

        def parse_and_stop(*args: Any, parse: Any = parse, **kwargs: Any) -> NoReturn:
            parse(*args, **kwargs)
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, name, parse_and_stop)


def check_training(words: Sequence[str]) -> None:
    assert refusal([*words]) is None, words
    assert "--user-dir" in words
    assert "--save-dir" in words, "this would write into checkpoints/"


def check_comparison(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command asks fairseq's parser before anything is trained."""

    def read(_: Any, **kwargs: Any) -> NoReturn:
        given = json.loads(kwargs["input"])
        asked, subsets = given["commands"], given["subsets"]
        # Methods, or points of a grid: as many as the command names, else several.
        named = len(os.environ.get("METHODS", "").split()) or 2
        rates = [name.strip() for name, _ in asked] == ["plain"] * 6  # the league's
        assert rates or len(asked) >= named
        for name, flags in asked:
            assert refusal(flags, subsets) is None, (name, flags)
        raise Parsed

    monkeypatch.setattr(subprocess, "run", read)
    monkeypatch.setattr(sys, "argv", ["fairseq-steady", *words])
    with pytest.raises(Parsed):
        commands.main()


def check_steady(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, *rest = words
    assert name in commands.COMMANDS
    if name == "train":
        check_training([*rest, "--user-dir", "user_dir"])
    elif name in ("compare", "probe"):
        check_comparison(words, monkeypatch)
    elif name == "hydra-train":
        folder = ROOT / rest[rest.index("--config-dir") + 1]
        assert (folder / f"{rest[rest.index('--config-name') + 1]}.yaml").is_file()
    else:
        stop_when_parsed(monkeypatch)
        monkeypatch.setattr(sys, "argv", ["fairseq-steady", *words])
        with pytest.raises(Parsed):
            commands.main()


def bash(*words: object, **variables: str) -> str:
    done = subprocess.run(
        ["bash", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**variables),
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_lines(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def started_by(script: str, args: Sequence[str], folder: Path) -> list[list[str]]:
    """Subcommands that a script of examples/ starts, with stand-ins for them."""
    stand_in = """#!/usr/bin/env bash
printf '%s\\0' "$@" >"$(mktemp "$LOG/$(ls "$LOG" | wc -l).XXXX")"
if [ "$1" = compare ]; then
  mkdir -p "$3" && echo "plain,--lr 1e-4,0.5,yes" >"$3/tuning.csv"
fi
"""
    folder.joinpath("log").mkdir()
    folder.joinpath("fairseq-steady").write_text(stand_in)
    folder.joinpath("fairseq-steady").chmod(0o755)
    args = [re.sub("^(runs/|data$)", rf"{folder}/\1", arg) for arg in args]
    for name in ("amazon_cells", "imdb", "yelp"):  # what the league looks into itself
        write_lines(folder / "data" / "uci" / f"{name}_labelled.txt", "Good.\t1")
    for name in ("orig", "new"):
        write_lines(folder / "data" / "CAD" / "sentiment" / name / "test.tsv", "")
    log, python = str(folder / "log"), str(folder / "python")
    bash(script, *args, LOG=log, PYTHON=python)
    calls = sorted(Path(log).iterdir(), key=lambda p: int(p.name.split(".")[0]))
    assert calls
    return [call.read_text().split("\0")[:-1] for call in calls]


def check_script(
    words: list[str], variables: dict[str, str], tmp: Path, patch: pytest.MonkeyPatch
) -> None:
    script, *args = words
    assert (ROOT / script).is_file()
    bash("-n", script)
    if script.startswith("scripts/launch/"):
        variables = {"GPUS": "0" if "local" in script else "8", **variables}
        for line in bash(script, "--dry-run", *args, **variables).splitlines():
            launched = shlex.split(line)
            place = [Path(word).name for word in launched].index("fairseq-train")
            check_training(launched[place + 1 :])
    elif script.startswith("examples/"):
        for variable, value in variables.items():
            patch.setenv(variable, value)
        for call in started_by(script, args, tmp):
            with patch.context() as inner:
                check_steady(call, inner)


def check_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] != "-m":
        ast.parse((ROOT / words[0]).read_text("utf-8"))
    elif words[1] == "fairseq_steady.inference.probing":
        assert refusal([*words[2:], "--user-dir", "user_dir"]) is None
    elif words[1] == "fairseq_steady.inference.averaging":
        flags = words[words.index("--") + 1 :]
        assert refusal([*flags, "--user-dir", "user_dir"]) is None
    else:
        assert words[1] == "fairseq_steady"
        check_steady(words[2:], monkeypatch)


@pytest.mark.parametrize("command", COMMANDS, ids=[c.where for c in COMMANDS])
def test_every_command_is_one_that_its_program_takes(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    # Nobody's data are here.
    monkeypatch.setattr("fairseq_steady.tasks._also.check_there", lambda *_: None)
    words, variables = list(command.words), {}
    assert not {"|", ";", "&", "&&", "..."} & set(words)
    while re.match(r"[A-Z_]+=", words[0]):
        variable, _, variables[variable] = words.pop(0).partition("=")
    program, *rest = words
    if program == ".venv/bin/fairseq-train":
        check_training(rest)
    elif program == ".venv/bin/fairseq-steady":
        check_steady(rest, monkeypatch)
    elif program == ".venv/bin/python":
        check_python(rest, monkeypatch)
    elif program == "sbatch":
        script = next(word for word in rest if word.endswith(".sh"))
        script_on = rest[rest.index(script) :]
        check_script(script_on, variables, tmp_path, monkeypatch)
    else:
        assert program == "bash", "no program that is known here"
        check_script(rest, variables, tmp_path, monkeypatch)


def test_commands_are_found() -> None:
    found = {command.where.partition(":")[0] for command in COMMANDS}
    assert {"README.md", "scripts/launch/README.md", "examples/cola/README.md"} < found
    assert len([*commands_of_quickstart()]) == 3
    assert len(COMMANDS) > 50
    text = """
  ```bash
  a 'b c' \\
    d  # e

  NAME=x f < g > h
  ```
"""
    assert list(commands_in(text)) == [
        (3, ["a", "b c", "d"], ""),
        (6, ["NAME=x", "f"], "h"),
    ]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["predict"], "required"),
        (["predict", "c.pt", "--tsvv"], "--tsvv"),
        (["import", "a"], "required"),
    ],
)
def test_a_wrong_command_is_noticed(
    words: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        check_steady(words, monkeypatch)
    assert problem in capsys.readouterr().err


# --- a newcomer's first hour ----------------------------------------------------------


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    models: dict[str, Path],
    cola_data: Path,
) -> Path:
    """A folder with what the papers' commands name."""
    here = tmp_path_factory.mktemp("hour")
    for folder in ("models", "data/mine", "runs", "exported"):
        (here / folder).mkdir(parents=True)
    (here / "models/minilm").symlink_to(models["roberta"])
    (here / "data/cola").symlink_to(cola_data)
    for split_name, count in (("train", 40), ("valid", 12), ("test", 8)):
        rows = [f"{text}\t{('b', 'a')[label]}\n" for text, label in sentences(count, 5)]
        path = here / f"data/mine/{split_name}.tsv"
        path.write_text("sentence\ttopic\n" + "".join(rows))
    lines = "".join(f"{word} w0 w1 .\n" for word in WORDS[:5])
    for name in ("sentences.txt", "articles.txt", "summaries.txt", "references.txt"):
        (here / name).write_text(lines)
    return here


def at(here: Path, words: Sequence[str]) -> list[str]:
    """The same words with paths below a folder, and the program's own name."""
    named = re.compile(r"^(models|data|runs|exported)/|^\w+\.(txt|png)$")
    program = Path(words[0]).name
    moved = [str(here / word) if named.match(word) else word for word in words[1:]]
    return [program, *moved, *(["--cpu"] if program == "fairseq-train" else [])]


def one(paper: str, *texts: str) -> Command:
    """The only command of a paper that has these words."""
    found = [
        command
        for command in COMMANDS
        if command.where.startswith(f"{paper}:")
        and set(texts) <= {word.rpartition("/")[2] for word in command.words}
    ]
    assert len(found) == 1, (paper, texts, found)
    return found[0]


@pytest.fixture(scope="module")
def trained(place: Path, zygote: Zygote) -> Path:
    """The folder after the README's trainings."""
    wanted = [
        one("README.md", "fairseq-train", "cola"),
        one("README.md", "fairseq-train", "mine"),
    ]
    sensible = [at(place, command.words) for command in wanted]
    pats = ["data/cola", "--user-dir", "user_dir", "--task", "cola", "--cpu"]
    pats += ["--steady-model", "models/minilm", "--optimizer", "pats_adamax"]
    pats += ["--max-epoch", "1", "--save-dir", "runs/pats"]
    for done in zygote.run(*sensible, at(place, ["fairseq-train", *pats])):
        assert done.returncode == 0, done.stderr[-3000:]
    return place


def test_the_readmes_commands_work_one_after_another(
    trained: Path, zygote: Zygote
) -> None:
    rooms = "user_dir/{}/README.md"
    wanted = [
        one("README.md", "predict", "--text"),
        one("README.md", "predict", "sentences.txt"),
        one("README.md", "rouge"),
        one(rooms.format("optim"), "sensitivity"),
        one("README.md", "list", "sift"),
    ]
    runs = [at(trained, command.words) for command in wanted]
    told, predicted, scored, drawn, listed = zygote.run(*runs)
    for done in (told, predicted, scored, drawn, listed):
        assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in predicted.stdout.splitlines()]
    assert len(rows) == 5
    assert json.loads(told.stdout)["label"] in ("0", "1")
    assert all(row["label"] in row["probabilities"] for row in rows)
    assert "rouge1     100.00" in scored.stdout
    assert "quartiles" in drawn.stdout
    assert (trained / "sensitivity.png").is_file()
    assert "--criterion sift" in listed.stdout
    assert (trained / "runs/mine/checkpoint_best.pt").is_file()


def python_of(room: str) -> str:
    """The only block of Python in a room's paper."""
    path = ROOT / "user_dir" / room / "README.md"
    (found,) = blocks(path.read_text("utf-8"), "python")
    return found[1]


def test_no_python_but_that_of_the_rooms() -> None:
    counts = [len([*blocks(p.read_text("utf-8"), "python")]) for p in PAPERS]
    assert sum(counts) == len(("inference", "optim", "regularizers"))


def test_the_python_of_inference_predicts(trained: Path) -> None:
    found: dict[str, Any] = {}
    text = python_of("inference").replace("runs/", f"{trained}/runs/")
    exec(text, found)  # noqa: S102
    assert len(found["labels"]) == 2
    assert set(found["labels"]) <= {"0", "1"}


def test_the_python_of_optim_decays_matrices_alone() -> None:
    model = torch.nn.Linear(3, 2)
    found: dict[str, Any] = {"model": model}
    exec(python_of("optim"), found)  # noqa: S102
    before = [p.detach().clone() for p in (model.weight, model.bias)]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    found["optimizer"].step()
    torch.testing.assert_close(
        model.weight, before[0] * (1 - 5e-5 * 0.01), rtol=1e-7, atol=0
    )
    assert torch.equal(model.bias, before[1])


def test_the_python_of_regularizers_trains_with_smart(tmp_path: Path) -> None:
    """One ascent, in a ball of 0.2 times each sentence's embeddings, in the loss."""
    source = make_source(tmp_path / "bert", "bert")
    found: dict[str, Any] = {}
    text = python_of("regularizers").replace("path/to/huggingface-bert", str(source))
    exec(text, found)  # noqa: S102
    penalty, words, mask = (found[name] for name in ("penalty", "words", "mask"))
    assert penalty.cost == pytest.approx(5 / 3)
    sizes = [words[i][mask[i]].square().mean().sqrt() for i in range(2)]
    assert 0.1 * sum(sizes) < penalty.logged["rms"] <= 0.2001 * sum(sizes)
    task = torch.nn.functional.cross_entropy(found["clean"], found["labels"])
    assert penalty.value.mean() > 0
    torch.testing.assert_close(found["loss"], task + penalty.value.mean())
    fresh = type(found["model"]).from_pretrained(source, num_labels=2)
    name = "bert.embeddings.word_embeddings.weight"
    moved = found["model"].get_parameter(name) - fresh.get_parameter(name)
    assert 1e-5 < moved.abs().max() < 2e-4  # three updates at 5e-5


def test_the_yaml_of_the_tasks_room_is_composed(place: Path, zygote: Zygote) -> None:
    command = one("user_dir/tasks/README.md", "hydra-train")
    words = [re.sub("=(data|models)/", rf"={place}/\1/", w) for w in command.words[2:]]
    more = ["optimization.max_update=1", "common.cpu=true", "checkpoint.no_save=true"]
    out = [f"hydra.run.dir={place}/hydra", f"checkpoint.save_dir={place}/hydra"]
    (done,) = zygote.run(["hydra", *words, *more, *out])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "method: smart" in done.stderr


# --- links, paths, names --------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Names that GitHub gives the headings."""
    heads = re.findall(r"^#+ +(.*)$", prose(path), re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAPERS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", PAPERS, ids=name_of)
def test_names_in_the_text_are_there(path: Path) -> None:
    if path.name == "CHANGELOG.md":  # it has the old ones too
        return
    text = prose(path)
    for name in re.findall(r"`((?:scripts|user_dir|tests|examples)/[\w./-]+)", text):
        assert (ROOT / name).exists() or "calm" in name, name
    for name in re.findall(r"`fairseq-steady ([a-z][a-z-]*)", text):
        assert name in commands.COMMANDS
    for name in re.findall(r"`([a-z_]+\.py)`", text):
        assert any(ROOT.glob(f"[ust]*/**/{name}")), name


def registered() -> dict[str, Any]:
    """Every flag of the plugin's components, and its default."""
    kinds = [TASK_DATACLASS_REGISTRY, MODEL_DATACLASS_REGISTRY]
    kinds += [registry["dataclass_registry"] for registry in REGISTRIES.values()]
    return {
        "--" + item.name.replace("_", "-"): item.default
        for kind in kinds
        for config in kind.values()
        if config.__module__.startswith("fairseq_steady")
        for item in dataclasses.fields(config)
        if item.metadata.get("help")
    }


FLAGS = registered()
#: What plugin flags begin with.
OURS = re.compile(
    r"`(--(?:steady|smart|sift|r3f|r4f|r-drop|hype|freelb|bert-adam|pats|sage|glue"
    r"|multitask|nli|superglue|uci|summarization)-[a-z0-9-]+)"
)


@pytest.mark.parametrize("path", PAPERS, ids=name_of)
def test_flags_in_the_text_exist(path: Path) -> None:
    for flag in OURS.findall(prose(path)):
        assert flag in FLAGS


def shown(default: Any) -> str:
    """A default as the tables have it."""
    if default is False:
        return "off"
    if default is None or default is dataclasses.MISSING:
        return ""
    return str(getattr(default, "value", default))


def test_tables_of_flags_say_what_the_code_does() -> None:
    rows: dict[str, str] = {}
    for path in PAPERS:
        for table in prose(path).split("| flag | default |")[1:]:
            found = re.findall(r"^\| `(--[\w-]+)` \|([^|]*)\|", table, re.M)
            rows |= {flag: default.strip() for flag, default in found}
    left_out = ("--data", "--architecture")
    assert rows == {f: shown(d) for f, d in FLAGS.items() if f not in left_out}


def test_every_method_has_its_section() -> None:
    for kind, room in (("criterion", "regularizers"), ("optimizer", "optim")):
        registry = REGISTRIES[kind]["dataclass_registry"]
        ours = {
            name
            for name, config in registry.items()
            if config.__module__.startswith("fairseq_steady")
        }
        text = (ROOT / "user_dir" / room / "README.md").read_text("utf-8")
        assert ours <= set(re.findall(r"^## (\w+)$", text, re.M))


def test_rows_of_a_table_have_its_columns() -> None:
    for path in PAPERS:
        width = 0
        for line in prose(path).splitlines():
            # A | inside code parts no cells.
            cells = re.sub(r"`[^`]*`|\\\|", "", line).count("|")
            width = (width or cells) if line.startswith("|") else 0
            assert cells == width or not width, f"{path}: {line}"


def test_the_presets_of_pats_are_the_codes() -> None:
    rows = table_rows(
        (ROOT / "user_dir/optim/README.md").read_text(), "`--pats-preset`"
    )
    for row in rows:
        preset = PRESETS[row["`--pats-preset`"].split("`")[1]]
        said = [float(row[name]) for name in ("lambda", "gamma", "beta", "p")]
        assert said == [preset.noise, preset.gamma, preset.beta, preset.p]
        assert ("learning rate" in row["noise is"]) == (preset.noise_scale == "lr")
    assert len(rows) == len(PRESETS)


# --- figures --------------------------------------------------------------------------


def table_rows(text: str, first: str) -> list[dict[str, str]]:
    """Rows of the first table whose header begins so, by column."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def measured(path: str) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of a table.csv by method and subset."""
    with (ROOT / path).open(newline="", encoding="utf-8") as file:
        return {(row["method"], row["subset"]): row for row in csv.DictReader(file)}


def test_quickstarts_figures_are_those_measured() -> None:
    found = measured("examples/quickstart/table.csv")
    rows = table_rows((ROOT / "README.md").read_text("utf-8"), "method")
    assert len(rows) == 2
    for row in rows:
        method = row["method"].partition(",")[0]
        valid, ood = found[method, "valid"], found[method, "ood"]
        assert row["MCC in domain"] == valid["mean ± std"]
        assert row["MCC out of domain"] == ood["mean ± std"]
        for column in ("n", "s/update", "time", "memory"):
            assert row[column] == valid[column]


@pytest.mark.parametrize(
    ("section", "results"),
    [
        ("200 updates, 10 seeds", "200"),
        ("The same 200 updates", "200-eleven"),
        ("3 epochs' worth", "96"),
    ],
)
def test_the_familys_figures_are_those_measured(section: str, results: str) -> None:
    everything = measured(f"examples/family/results/{results}/table.csv")
    found = {key: row for key, row in everything.items() if ":" not in key[0]}
    text = (ROOT / "examples/family/README.md").read_text("utf-8")
    rows = table_rows(text[text.index(f"## {section}") :], "method")
    assert len(rows) == len({method for method, _ in found})
    for row in rows:
        for subset in ("valid", "test", "ood"):
            assert row[subset] == found[row["method"], subset]["mean ± std"]


# --- archives of results --------------------------------------------------------------

BF16 = "MORE='--steady-autocast bf16"
MPNET = "MORE='--batch-size-valid 256 --steady-autocast bf16'"
DEFAULTS = (
    "--batch-size-valid 128' "
    "bash examples/defaults/run.sh data/glue models/bge runs/defaults_bge 1"
)
#: The command that goes on from an archive, as its study's page says.
GOES_ON = {
    "base_size/results/cola": f"TASKS=cola {MPNET} "
    "bash examples/base_size/run.sh data/glue models/mpnet runs/base_size 1",
    "base_size/results/sst2": f"TASKS=sst2 {MPNET} "
    "bash examples/base_size/run.sh data/glue models/mpnet runs/base_size 1",
    "defaults/results/cola": f"METHODS='sift sift-old' TASKS=cola {BF16} {DEFAULTS}",
    "defaults/results/cola_minilm": "UPDATES=200 RATE=4e-4 TASKS=cola "
    f"METHODS='sift sift-old freelb freelb-old' {BF16} --batch-size-valid 128' bash "
    "examples/defaults/run.sh data/glue models/minilm runs/defaults_longer 1",
    **{
        f"defaults/results/ends_bge/{task}": "ONCE=1 METHODS='sift smart r3f r4f "
        f"r_drop hype freelb' {BF16} --batch-size-valid 128' bash "
        "examples/defaults/run.sh data/glue models/bge runs/ends_bge 1"
        for task in ("sst2", "stsb", "cola")
    },
    "defaults/results/ends_minilm/cola": "ONCE=1 TASKS=cola UPDATES=200 RATE=4e-4 "
    f"METHODS='smart r3f r4f r_drop hype' {BF16} --batch-size-valid 128' bash "
    "examples/defaults/run.sh data/glue models/minilm runs/ends_minilm 1",
    **{
        f"defaults/results/ends_minilm/{task}": "ONCE=1 TASKS='sst2 stsb' RATE=2e-4 "
        f"METHODS='sift smart r3f r4f r_drop hype freelb' {BF16} --batch-size-valid "
        "128' bash examples/defaults/run.sh data/glue models/minilm runs/ends_minilm 1"
        for task in ("sst2", "stsb")
    },
    "defaults/results/sst2": f"METHODS='sift sift-old' TASKS=sst2 {BF16} {DEFAULTS}",
    "defaults/results/stsb": f"METHODS='sift sift-old' TASKS=stsb {BF16} {DEFAULTS}",
    "defaults/results/sst2_minilm": "METHODS='smart smart-old r3f r3f-old r4f r4f-old "
    "r_drop r_drop-old hype hype-old freelb freelb-old' "
    "TASKS=sst2 RATE=2e-4 MORE='--batch-size-valid 256' "
    "bash examples/defaults/run.sh data/glue models/minilm runs/defaults_minilm 1",
    "economy/results/sst2": f"TASKS=sst2 {BF16}' bash examples/economy/run.sh "
    "data/glue models/bge runs/economy-bf16 1",
    "economy/results/stsb": f"TASKS=stsb {BF16}' bash examples/economy/run.sh "
    "data/glue models/bge runs/economy-bf16 1",
    "family/results/200": "bash examples/family/run.sh data/cola models/minilm "
    "runs/family200 1000 200 4e-4 1",
    "few_sample/results/again": "bash examples/few_sample/run.sh again data/cola "
    "models/bge runs/few 4",
    "few_sample/results/bias": "bash examples/few_sample/run.sh bias data/cola "
    "models/bge runs/few 1",
    "few_sample/results/lambdas": f"RATE=2e-4 {BF16} --batch-size-valid 128' "
    "bash examples/few_sample/run.sh lambdas data/cola models/bge runs/few 1",
    "few_sample/results/longer": "LENGTHS='100 200 400 800' bash "
    "examples/few_sample/run.sh longer data/cola models/bge runs/few 1",
    "few_sample/results/noise": "RATE=2e-4 bash examples/few_sample/run.sh noise "
    "data/cola models/bge runs/few 1",
    "few_sample/results/reinit": "bash examples/few_sample/run.sh reinit data/cola "
    "models/bge runs/few 1",
    "out_of_domain/results/sst2": f"{BF16}' bash examples/out_of_domain/run.sh sst2 "
    "data models/bge runs/out_of_domain 1",
    "uci_sentiment/results/balanced/twitter": f"BALANCED=1 {BF16} --batch-size-valid "
    "128' bash examples/uci_sentiment/run.sh data/sentiment models/minilm runs/uci "
    "3000 94 1",
    "uci_sentiment/results/balanced/uci": f"BALANCED=1 {BF16} --batch-size-valid 128' "
    "bash examples/uci_sentiment/run.sh data/sentiment models/minilm runs/uci 3000 "
    "94 1",
    "uci_sentiment/results/twitter": "bash examples/uci_sentiment/run.sh "
    "data/sentiment models/minilm runs/uci 1000 31 1",
    "uci_sentiment/results/uci": "bash examples/uci_sentiment/run.sh data/sentiment "
    "models/minilm runs/uci 1000 31 1",
}


def planned(command: str, folder: Path) -> set[tuple[str, ...]]:
    """What an example's command trains."""
    words = shlex.split(command)
    place = words.index("bash")
    script, *args = words[place + 1 :]
    found: set[tuple[str, ...]] = set()
    with pytest.MonkeyPatch.context() as patch:
        for word in words[:place]:
            patch.setenv(*word.split("=", 1))
        calls = started_by(script, args, folder)
    for name, *call in calls:
        assert name == "compare"
        runs = make_plan(compare.parser().parse_args(call)).runs()
        found |= {run.command for run in runs}
    return {tuple(w.replace(f"{folder}/", "") for w in words) for words in found}


@pytest.mark.parametrize("archive", GOES_ON)
def test_an_archive_is_what_its_command_goes_on_from(
    archive: str, tmp_path: Path
) -> None:
    """compare takes no result of another command."""
    page = ROOT / "examples" / archive.partition("/")[0] / "README.md"
    typed, _, seed = GOES_ON[archive].partition("bash ")[2].rpartition(" ")
    assert typed in " ".join(page.read_text("utf-8").split())
    wanted, made = planned(GOES_ON[archive], tmp_path), set()
    with tarfile.open(ROOT / "examples" / archive / "results.tar.xz") as tar:
        for name in tar.getnames():
            last = name.endswith(f"/seed{seed}/result.json")
            if last and (file := tar.extractfile(name)):
                made.add(tuple(json.load(file)["command"]))
    assert made
    assert made <= wanted


#: The columns of the league's standing table, and where they come from.
LEAGUE = {
    "SST-2": ("sst2", "test"),
    "Amazon": ("sst2", "amazon"),
    "IMDb": ("sst2", "imdb"),
    "Yelp": ("sst2", "yelp"),
    "reviews": ("sst2", "original"),
    "rewritten": ("sst2", "revised"),
    "STS-B": ("stsb", "test"),
}


def test_the_leagues_standing_table_is_that_of_its_tasks() -> None:
    text = (ROOT / "examples/league/README.md").read_text("utf-8")
    found = table_rows(text, "difference to `plain`")
    tables = {t: measured(f"examples/league/results/{t}/table.csv")
              for t in ("sst2", "stsb")}  # fmt: skip
    assert len(found) == 13
    for row, (column, (task, subset)) in product(found, LEAGUE.items()):
        method = row["difference to `plain`"].split("`")[1]
        said = tables[task][method, subset]
        if method == "plain":
            assert row[column] == said["mean ± std"].split()[0]
            continue
        low, high = said["seeds x sentences [95 %]"].strip("[]").split(", ")
        p = float(said["p (Holm)"].split("(")[1].strip("<)"))
        stars = "*" * (float(low) > 0 or float(high) < 0) + "*" * (p < 0.05)
        assert row[column] == said["difference [95 %]"].split()[0] + stars


TUNED = {
    "league/results/sst2": 13,
    "league/results/stsb": 13,
    "few_sample/results/sage": 2,
    "few_sample/results/tuned": 2,
    "few_sample/results/tuned_again": 2,
}


@pytest.mark.parametrize(("study", "methods"), TUNED.items())
def test_tuned_runs_have_the_settings_that_tuning_chose(
    study: str, methods: int
) -> None:
    folder = ROOT / "examples" / study
    with (folder / "tuning.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["chosen"]]
    flags = {row["method"]: row["flags"].removeprefix("'").split() for row in rows}
    with tarfile.open(folder / "results.tar.xz") as tar:
        for name in tar.getnames():
            _, method, seed, _ = name.split("/")
            file = tar.extractfile(name)
            command = json.load(file)["command"] if file else []
            # A method's flags are the last.
            places = [
                len(command) - 1 - command[::-1].index(flag)
                for flag in flags[method][::2]
            ]
            said = [command[place + 1] for place in places]
            assert said == flags[method][1::2]
            assert command[command.index("--seed") + 1] == seed.removeprefix("seed")
    assert len(flags) == methods


def test_every_archive_is_gone_on_from() -> None:
    kept = [p.parent for p in (ROOT / "examples").rglob("results.tar.xz")]
    found = {p.relative_to(ROOT / "examples").as_posix() for p in kept}
    # These are of no script that starts compare, or of settings that tuning chose.
    others = {"economy/results/precision", "probe/results", *TUNED}
    others |= {"defaults/results/freelb_radii", "defaults/results/r3f_radii"}
    others |= {"league/results/stsb_correction"}
    # Of a default that has changed.
    others |= {f"defaults/results/ends_radius2/{t}" for t in ("sst2", "stsb", "cola")}
    assert found - {*GOES_ON} == others
    assert {*GOES_ON} <= found


# --- the other papers -----------------------------------------------------------------


def test_the_readme_takes_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200


def test_versions_agree() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    newest = re.search(
        r"^## \[(.*?)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M
    )
    assert newest
    assert cited["version"] == newest[1] == __version__
    assert cited["date-released"] == newest[2]
    assert cited["cff-version"] == "1.2.0"
    assert cited["license"] == "MIT"


def test_every_paper_that_is_linked_can_be_cited() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["references"]
    known = {reference["url"] for reference in cited}
    for path in PAPERS:
        linked = re.findall(r"\((https://arxiv\.org/abs/[\d.]+)\)", prose(path))
        assert set(linked) <= known, path


def test_where_modules_went() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    moved = re.findall(r"`fairseq_steady\.((?:\w+\.)+\w+)`", text)
    assert "inference.predicting" in moved
    for module in moved:
        path = ROOT / "user_dir" / module.replace(".", os.sep)
        assert path.is_dir() or path.with_suffix(".py").is_file(), module
    for name in re.findall(r"`fairseq-steady ([a-z-]+)`", text):
        assert name in commands.COMMANDS
