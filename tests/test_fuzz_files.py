"""Whatever a file holds and a user types: it is read, or one line says what to mend.

    bash scripts/test.sh -m slow tests/test_fuzz_files.py

takes under ten minutes and tries other cases at each start.
"""

import copy
import json
import math
import tempfile
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TRAIN, Trainer, Zygote, make_model_directory, sentences
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.data.cache import encode_cached
from fairseq_steady.data.readers import read_sentence_tab_label
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.checking import load_encoder
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.model_dir import ModelDirectory
from helpers import LOOSE, is_clear, write_all
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import make_source

# --- what goes wrong in a structure ---------------------------------------------------

ODD: list[Any] = [None, True, False, 0, -1, 1, 2, 1.5, -0.1, math.nan, math.inf, 10**30]
ODD += ["", "x", "../x", "/", "${oc.env:HOME}", "é\u200b", "a" * 5000, "1", "true"]
ODD += ["__import__('os')", [], {}, [1], ["x"], {"a": 1}, [[[]]], {"": None}]
#: What only pickles hold.
ODD_OBJECTS: list[Any] = [torch.ones(2), torch.ones(0), Namespace(), Namespace(a=1)]
ODD_OBJECTS += [np.float64(1), (1, "x"), b"x", torch.ones(1, dtype=torch.long)]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place below a structure, itself first."""
    found = [path]
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value[:4])
    for key, inner in entries:
        found += places(inner, (*path, key))
    return found


def changed(value: Any, path: tuple[Any, ...], how: str, odd: Any) -> Any:
    """The structure with one place replaced, removed or added to."""
    if not path:
        return odd
    made = copy.deepcopy(value)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    if how == "remove":
        del inner[path[-1]]
    elif how == "add" and isinstance(inner, dict):
        inner[odd if isinstance(odd, str | int | bool) else "more"] = odd
    else:
        inner[path[-1]] = odd
    return made


@st.composite
def edits(draw: st.DrawFn, good: Any, objects: bool = False) -> Any:
    """A structure after one or two changes."""
    made = good
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(places(made)[1:] or [()]))
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        odd = draw(st.sampled_from([*ODD, *(ODD_OBJECTS if objects else [])]))
        made = changed(made, path, how, odd)
    return made


def as_json(content: Any) -> str:
    return json.dumps(content)


def reads(action: Callable[[], Any]) -> None:
    """It works, or it ends in an error for the user."""
    with suppress(UserError):
        action()


def both(cases: int) -> Any:
    """The short form for every run of the tests, the long one by its marker."""
    return pytest.mark.parametrize(
        "examples", [cases, pytest.param(cases * 40, marks=pytest.mark.slow)]
    )


def explore(case: st.SearchStrategy[Any], check: Callable[[Any], None], n: int) -> None:
    """Check ``n`` cases, the same ones where they are few."""

    @settings(LOOSE, max_examples=n, derandomize=n < 200)
    @given(case)
    def run(drawn: Any) -> None:
        check(drawn)

    run()


# --- model directories ----------------------------------------------------------------


@both(40)
def test_manifests(models: dict[str, Path], tmp_path: Path, examples: int) -> None:
    good = {
        name: json.loads((path / "manifest.json").read_text())
        for name, path in models.items()
    }
    folders = {}
    for name, path in models.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        for file in path.iterdir():
            if file.name != "manifest.json":
                (folders[name] / file.name).symlink_to(file)

    def check(case: tuple[str, Any]) -> None:
        name, manifest = case
        (folders[name] / "manifest.json").write_text(as_json(manifest))
        reads(lambda: use(folders[name]))

    every = [edits(one).map(lambda m, n=name: (n, m)) for name, one in good.items()]
    explore(st.one_of(every), check, examples)


def use(path: Path) -> None:
    directory = ModelDirectory.open(path)
    dictionary = directory.dictionary()
    SentenceTokenizer(directory, dictionary, 8).encode([("w0 w1",), ("w0", "w1")])
    load_encoder(directory)


LINES = [b"w1 1", b"w1", b"", b" ", b"w1 x", b"\xff 1", b"a b 1", b"#fairseq:overwrite"]
LINES += [b"w1 -1", b"w1 1\r", "é 1".encode(), "\u2028 1".encode(), b"w1 1 #x"]


@both(20)
def test_dictionaries(tmp_path: Path, examples: int) -> None:
    made = make_model_directory(tmp_path / "m").path
    lines = (made / "dict.txt").read_bytes().split(b"\n")

    def check(case: tuple[int, int, bytes]) -> None:
        place, removed, line = case
        content = [*lines[:place], line, *lines[place + removed :]]
        (made / "dict.txt").write_bytes(b"\n".join(content))
        reads(lambda: use(made))

    place = st.integers(0, len(lines))
    case = st.tuples(place, st.integers(0, 2), st.sampled_from(LINES) | st.binary())
    explore(case, check, examples)


# --- checkpoints ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(
    models: dict[str, Path],
    cola_data: Path,
    fairseq_train: Trainer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A checkpoint with a teacher."""
    out = tmp_path_factory.mktemp("trained")
    fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models['roberta']}"),
        *("--criterion=smart", "--smart-bregman=momentum", "--max-update=1"),
        f"--save-dir={out}",
    )
    return out / "checkpoint_last.pt"


@both(30)
def test_checkpoints(trained: Path, tmp_path: Path, examples: int) -> None:
    path = tmp_path / "checkpoint_last.pt"

    def check(state: Any) -> None:
        torch.save(state, path)
        reads(lambda: list(Predictor(path)(["w0 w1"])))

    good = torch.load(trained, weights_only=True)
    explore(edits(good, objects=True), check, examples)


@both(8)
def test_checkpoints_that_a_run_goes_on_from(
    trained: Path,
    tmp_path: Path,
    models: dict[str, Path],
    cola_data: Path,
    zygote: Zygote,
    examples: int,
) -> None:
    path = tmp_path / "checkpoint_last.pt"
    words = ["fairseq-train", *TRAIN, cola_data, "--task=cola", "--criterion=smart"]
    words += ["--smart-bregman=momentum", f"--steady-model={models['roberta']}"]
    words += ["--max-update=2", "--no-save"]

    def check(case: tuple[str, Any]) -> None:
        flag, state = case
        torch.save(state, path)
        (done,) = zygote.run([*map(str, words), f"{flag}={path}"])
        assert is_clear(done), done.stderr[-2500:]

    good = torch.load(trained, weights_only=True)
    flags = st.sampled_from(["--restore-file", "--finetune-from-model"])
    explore(st.tuples(flags, edits(good, objects=True)), check, examples)


# --- caches ---------------------------------------------------------------------------


@both(25)
def test_caches(models: dict[str, Path], tmp_path: Path, examples: int) -> None:
    """Whatever an entry holds, the ids and targets are those of the file."""
    directory = ModelDirectory.open(models["roberta"])
    tokenizer = SentenceTokenizer(directory, directory.dictionary(), 8)
    path = tmp_path / "u.txt"
    path.write_text("w0\t1\nw1 w2\t0\n")

    def encode() -> Any:
        return encode_cached(
            path, read_sentence_tab_label, "uci", ("0", "1"), tokenizer, tmp_path / "c"
        )

    encode()
    (entry,) = (tmp_path / "c").iterdir()
    good = {stored.name: stored.read_bytes() for stored in entry.iterdir()}

    def check(case: tuple[str, int, int, bytes]) -> None:
        name, place, length, junk = case
        content = good[name]
        place %= len(content)
        (entry / name).write_bytes(content[:place] + junk + content[place + length :])
        found = encode()
        # Also where an id or a label was changed to another: there are checksums.
        assert [one.tolist() for one in found.tokens] == [[0, 5, 2], [0, 6, 7, 2]]
        assert found.targets.tolist() == [1, 0]

    place = st.integers(0, 10**6)
    length = st.sampled_from([0, 1, 1, 4, 100, 10**6])
    name = st.sampled_from(sorted(good))
    explore(st.tuples(name, place, length, st.binary(max_size=8)), check, examples)


# --- Hugging Face directories ---------------------------------------------------------


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT as transformers saves it."""
    return make_source(tmp_path_factory.mktemp("hf") / "bert", "bert")


SIDE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@both(25)
def test_imports(hugging_face: Path, tmp_path: Path, examples: int) -> None:
    source = tmp_path / "source"
    source.mkdir()
    good = {}
    for file in hugging_face.iterdir():
        (source / file.name).symlink_to(file)
        if file.name in SIDE_FILES:
            good[file.name] = json.loads(file.read_text())

    def check(case: tuple[str, Any]) -> None:
        name, content = case
        (source / name).unlink()
        (source / name).write_text(as_json(content))
        number = len(list(tmp_path.iterdir()))
        out = tmp_path / f"out{number}"
        try:
            reads(lambda: import_hf(source, out))
        finally:
            (source / name).unlink()
            (source / name).symlink_to(hugging_face / name)
        assert out.exists() == (out / "manifest.json").exists()

    every = [edits(one).map(lambda c, n=name: (n, c)) for name, one in good.items()]
    explore(st.one_of(every), check, examples)


# --- result files ---------------------------------------------------------------------


@both(40)
def test_results(tmp_path: Path, examples: int) -> None:
    from fairseq_steady.comparison import table, winner_card
    from fairseq_steady.comparison.results import Result, load, write

    def scores(value: float) -> dict[str, Any]:
        return {"updates": 5, "valid": {"accuracy": value, "loss": 1.0}}

    chosen = {"best_checkpoint_metric": "accuracy"}
    chosen |= {"maximize_best_checkpoint_metric": True}
    config = {"checkpoint": chosen, "dataset": {"valid_subset": "valid"}}
    config |= {"task": {"_name": "cola", "data": "d", "steady_model": "m"}}
    known = {"valid": {"outputs": [[0.1, 0.9], [1.0, 0.0]], "gold": [1, 0]}}
    made = [
        Result("", method, seed, ["fairseq-train"], "ok", config,
               [scores(0.5), scores(0.25 * seed)], known, 0.1, 2.0, 100.0)
        for method in ("plain", "sift")
        for seed in (1, 2, 3)
    ]  # fmt: skip
    path, first = tmp_path / "result.json", tmp_path / "first.json"
    write(first, made[0])
    good = json.loads(first.read_text())
    scored = table.Scored("accuracy", True, "valid")

    def check(content: Any) -> None:
        path.write_text(as_json(content))
        reads(lambda: report(load(path)))

    def report(read: Any) -> None:
        everything = [read, *made[1:]]
        write_all(tmp_path, everything, scored)
        (tmp_path / "card.md").write_text(winner_card.describe(everything, scored))

    explore(edits(good), check, examples)


# --- command lines --------------------------------------------------------------------

WORDS = ["", "a b", "sift=--criterion sift", "a={1,2}"]
WORDS += """
    - -- -x --help 0 -1 1e9 nan x é / . /nowhere CHECKPOINT MODEL DATA TABLE OUT cola
    rte plain --cpu --tsv --model --head --beam --max-tokens --text-column --pair-column
    --lead --column --out --methods --seeds --gpt2-bpe --bert2bert --licence --teacher
    --table --metric --list --jobs --select --settings
""".split()  # noqa: SIM905
TOOLS = ["predict", "summarize", "import", "export", "compare", "probe", "rouge"]
TOOLS += ["submission", "sensitivity"]


@both(12)
def test_command_lines(
    trained: Path,
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    examples: int,
) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{text},{label}" for text, label in sentences(4)]
    table.write_text("\n".join(["text,label", *rows]))
    known = {"CHECKPOINT": trained, "MODEL": models["roberta"], "DATA": cola_data}
    known |= {"TABLE": table, "LICENCE": ROOT / "LICENSE"}

    def check(case: tuple[str, list[str]]) -> None:
        tool, typed = case
        with tempfile.TemporaryDirectory() as folder:
            places = {**known, "OUT": Path(folder) / "out"}
            words = [str(places.get(word, word)) for word in typed]
            (done,) = zygote.run(["elsewhere", tool, *words])
        lines = done.stderr.strip().splitlines() or [""]
        assert "Traceback" not in done.stderr, (case, done.stderr[-2500:])
        assert done.returncode in (0, 1, 2, 130), case
        assert done.returncode == 0 or ": " in lines[-1], (case, lines)

    words = st.lists(st.sampled_from(WORDS), max_size=6)
    explore(st.tuples(st.sampled_from(TOOLS), words), check, examples)
