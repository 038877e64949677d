"""The command, its pages and its smaller subcommands, as a user runs them."""

import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import zipfile
from argparse import SUPPRESS
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import fairseq_steady
import pytest
from conftest import ROOT, environment, run_command
from fairseq_steady import commands
from fairseq_steady.commands import export_hf, extras, get_data
from fairseq_steady.errors import UserError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef

sys.path.insert(0, str(ROOT / "scripts"))
import make_acceptability

# --- the embedded corpus ----------------------------------------------------------


@pytest.fixture(scope="session")
def corpus() -> dict[str, list[list[str]]]:
    files = make_acceptability.corpus()
    return {name: [line.split("\t") for line in lines] for name, lines in files.items()}


def test_the_corpus_has_colas_layout_and_balanced_labels(
    corpus: dict[str, list[list[str]]],
) -> None:
    for name, rows in corpus.items():
        assert abs(len(rows) - make_acceptability.SIZES[name]) < 4
        assert all(len(row) == 4 for row in rows)
        assert all((row[1] == "0") == (row[2] == "*") for row in rows)
        for phenomenon in {row[0] for row in rows}:
            labels = [row[1] for row in rows if row[0] == phenomenon]
            assert labels.count("1") * 2 == len(labels), phenomenon


def test_no_sentence_is_in_two_files_and_phenomena_differ_out_of_domain(
    corpus: dict[str, list[list[str]]],
) -> None:
    sentences = [row[3] for rows in corpus.values() for row in rows]
    assert len(sentences) == len(set(sentences))
    phenomena = {name: {row[0] for row in rows} for name, rows in corpus.items()}
    trained = phenomena["in_domain_train.tsv"]
    assert phenomena["in_domain_dev.tsv"] == trained
    assert not phenomena["out_of_domain_dev.tsv"] & trained
    words = {
        name: {w.strip(".").lower() for row in rows for w in row[3].split()}
        for name, rows in corpus.items()
    }
    new = words["out_of_domain_dev.tsv"] - words["in_domain_train.tsv"]
    assert len(new) / len(words["out_of_domain_dev.tsv"]) > 0.7


def test_single_words_do_not_tell_good_from_bad(
    corpus: dict[str, list[list[str]]],
) -> None:
    train, dev = corpus["in_domain_train.tsv"], corpus["in_domain_dev.tsv"]
    counts = CountVectorizer(token_pattern=r"\S+")
    model = LogisticRegression(max_iter=2000)
    model.fit(counts.fit_transform([r[3] for r in train]), [r[1] for r in train])
    for rows in (dev, corpus["out_of_domain_dev.tsv"]):
        predicted = model.predict(counts.transform([r[3] for r in rows]))
        # 0.5 is the most that any count of words can reach on crossed choices.
        assert abs(matthews_corrcoef([r[1] for r in rows], predicted)) < 0.3


def test_the_corpus_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        subprocess.run(
            [sys.executable, ROOT / "scripts/make_acceptability.py", tmp_path / name],
            check=True,
        )
    for name in make_acceptability.SIZES:
        one, other = ((tmp_path / side / name).read_bytes() for side in ("a", "b"))
        assert one == other


# --- get_data -------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Serves one archive, and breaks off the first answer half-way."""

    content = b""
    ranges: list[str | None]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = self.content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if asked else body[: len(body) // 2])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A source on a local server: files one.txt and two.txt in a zip."""
    files = {"one.txt": b"1" * 5000, "two.txt": os.urandom(300_000)}
    archive = tmp_path / "made.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name, data in files.items():
            made.writestr(f"inner/{name}", data)
    Server.content, Server.ranges = archive.read_bytes(), []
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = get_data.Source(
        f"http://127.0.0.1:{server.server_port}/made.zip",
        {
            name: get_data.hashlib.sha256(data).hexdigest()
            for name, data in files.items()
        },
        "none",
    )
    monkeypatch.setitem(get_data.SOURCES, "cola", source)
    yield files
    server.shutdown()


def test_a_broken_download_is_resumed_and_checked(served: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="broke off after .* again"):
        get_data.get("cola", out, None)
    assert not (out / "one.txt").exists()
    get_data.get("cola", out, None)
    assert {n: (out / n).read_bytes() for n in served} == served
    assert Server.ranges == [None, f"bytes={len(Server.content) // 2}-"]
    get_data.get("cola", out, None)  # nothing left to do
    assert len(Server.ranges) == 2
    assert sorted(p.name for p in out.iterdir()) == ["one.txt", "two.txt"]


def test_from_takes_folders_and_archives_and_refuses_other_content(
    served: Any, tmp_path: Path
) -> None:
    get_data.get("cola", tmp_path / "a", tmp_path / "made.zip")
    get_data.get("cola", tmp_path / "b", tmp_path / "a")
    assert (tmp_path / "b" / "two.txt").read_bytes() == served["two.txt"]
    (tmp_path / "a" / "two.txt").write_text("changed")
    with pytest.raises(UserError, match="is not the published two"):
        get_data.get("cola", tmp_path / "c", tmp_path / "a")
    (tmp_path / "a" / "two.txt").unlink()
    with pytest.raises(UserError, match="two.* is missing"):
        get_data.get("cola", tmp_path / "c", tmp_path / "a")
    assert not (tmp_path / "c").exists()


def test_data_that_is_not_free_says_where_it_is(tmp_path: Path) -> None:
    done = run_command("get-data", "twitter", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: twitter is not free to redistribute")
    assert "Analytics Vidhya" in done.stderr
    assert "--from PATH" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- the pages --------------------------------------------------------------------

HELP = """
import contextlib, io, json, sys
from fairseq_steady import commands

pages = {}
for name in commands.COMMANDS:
    said = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        commands.main([name, "--help"])
    pages[name] = said.getvalue(), sorted({m.partition(".")[0] for m in sys.modules})
print(json.dumps(pages))
"""
#: What may be slow to import; packages of Python itself are not.
HEAVY = {
    *("fairseq", "fairseq_cli", "hydra", "matplotlib", "numpy", "omegaconf"),
    *("pandas", "rich", "rouge_score", "scipy", "sklearn", "statsmodels", "tabulate"),
    *("tokenizers", "torch", "transformers"),
}


@pytest.fixture(scope="module")
def pages() -> dict[str, tuple[str, list[str]]]:
    """What each --help prints, and the packages imported by then."""
    command = [sys.executable, "-c", HELP]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment()
    )
    found: dict[str, tuple[str, list[str]]] = json.loads(done.stdout)
    return found


def test_help_imports_nothing_heavy(pages: dict[str, tuple[str, list[str]]]) -> None:
    for name, (_, packages) in pages.items():
        assert not HEAVY & set(packages), name


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_page_has_a_line_an_example_and_what_comes_out(
    pages: dict[str, tuple[str, list[str]]], name: str
) -> None:
    text = pages[name][0]
    assert text.startswith(f"usage: fairseq-steady {name}")
    what = text.split("\n\n")[1]
    assert what.endswith((".", "?"))
    assert len(what.splitlines()) == 1
    assert f"\n    fairseq-steady {name}" in text
    assert "what comes out" in text
    assert "None" not in text
    assert max(map(len, text.splitlines())) < 100


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_page_shows_every_flag_with_its_default(name: str) -> None:
    module = importlib.import_module(
        f"fairseq_steady.commands.{commands.COMMANDS[name]}"
    )
    for action in module.parser()._actions:
        assert action.help, action.dest
        silent = action.default in (None, False, []) or action.help == SUPPRESS
        if not silent and name != "compare":  # --settings has one for no setting
            assert "%(default)s" in action.help, action.dest


def test_the_overview_names_every_subcommand_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert commands.main(["--help"]) == 0
    text = capsys.readouterr().out
    listed = [line.split()[0] for line in text.splitlines() if line[:2] == "  "]
    assert listed == list(commands.COMMANDS)
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fairseq-steady {fairseq_steady.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predit"], "error: no command predit; did you mean predict?\n"),
        (["zzz"], "error: no command zzz; see fairseq-steady --help\n"),
        ([], "error: no command; see fairseq-steady --help\n"),
        (
            ["predict", "c.pt", "--modle=m"],
            "error: unrecognized arguments: --modle=m; did you mean --model?\n",
        ),
        (
            ["predict", "c.pt", "--max-tokens", "0"],
            "error: argument --max-tokens: 0 is not a number from 1; "
            "see fairseq-steady predict --help\n",
        ),
        (
            ["predict", "c.pt", "a.txt", "--text", "x"],
            "error: --text and a.txt: give one of them; "
            "see fairseq-steady predict --help\n",
        ),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    try:
        status: Any = commands.main(words)
    except SystemExit as stop:
        status = stop.code
    assert (status, capsys.readouterr()) == (2, ("", said))


def test_what_an_extra_installs_is_asked_for_by_name() -> None:
    extras.require("compare", "json")
    said = "^this needs nobody_has_it, which is not installed: pip install '{}'$"
    with pytest.raises(UserError, match=said.format(r"fairseq-steady\[export\]")):
        extras.require("export", "json", "nobody_has_it")


def test_a_folder_of_checkpoints_is_no_source(tmp_path: Path) -> None:
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        (tmp_path / name).touch()
    best = tmp_path / "checkpoint_best.pt"
    said = f"^{tmp_path} is a folder of checkpoints; name one, such as {best}$"
    with pytest.raises(UserError, match=said):
        export_hf.main([str(tmp_path), str(tmp_path / "out")])


# --- the module, the list and the check -----------------------------------------------


def test_the_module_prints_the_folder_for_user_dir() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_steady"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
        cwd="/",
    )
    assert (Path(done.stdout.strip()) / "criterions" / "sift.py").is_file()


def listed(*words: str) -> str:
    done = run_command("list", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_list_names_every_component_with_flags_defaults_and_help() -> None:
    text = listed()
    for name in (
        *("--criterion plain", "--criterion sift", "--arch steady", "--task cola"),
        *("--task text_classification", "--task text_regression"),
        *("--task uci_sentiment", "--optimizer sage"),
    ):
        assert f"\n{name}\n" in text
    assert (
        "--sift-lambda (default: 2.5; paper: 2.5)\n        factor of the regulariser"
        in text
    )
    assert "--uci-twitter-dev (default: 0.1)\n" in text
    assert "--bert-adam-anchor (default: 0.0)\n" in text
    assert "\n    --steady-reinit-head\n" in text  # a switch has no default
    assert "\n    --sage-bias-correction (paper: True)\n" in text
    names = "".join(text.partition("--arch, sizes with a name:")[2].split())
    assert names.startswith("deberta_base,deberta_large,deberta_v2_xlarge,")
    assert (
        "deberta_v3_base,deberta_v3_large,deberta_v3_small,deberta_v3_xsmall" in names
    )
    for name in ("--task sentence_prediction", "--arch roberta", "--optimizer adam"):
        assert f"\n{name}\n" not in text  # fairseq's own


def test_a_flag_that_components_share_is_listed_once() -> None:
    text = listed()
    flags = [line.split()[0] for line in text.splitlines() if line[:6] == "    --"]
    shared = [flag for flag in set(flags) if flags.count(flag) > 1]
    assert shared == []
    first = text.partition("\n--task cola")[0]
    assert first.startswith("--task, flags of every one:\n    --steady-model\n")
    assert "--task, flags of text_classification, text_regression:\n" in first
    own = text.partition("\n--task glue\n")[2].partition("\n--")[0]
    assert [w for w in own.split() if w[:2] == "--"] == ["--glue-task"]


def test_the_list_shows_what_is_asked_for() -> None:
    cola = listed("cola")
    assert "--steady-max-length\n" in cola  # shared ones too
    assert cola.startswith("--task cola\n")
    assert cola.count("\n--") == 0
    sift = [w for w in listed("sift").split() if w[:2] == "--"]
    assert sift[:2] == ["--criterion", "--sift-lambda"]  # its own first
    assert "--label-smoothing" in sift
    assert "--encoder-layers (default: 12)\n" in listed("deberta_v3_base")
    assert "--encoder-embed-dim (default: 384)\n" in listed("deberta_v3_xsmall")
    optimizers = listed("--kind", "optimizer")
    named = [line for line in optimizers.splitlines() if line[:2] == "--"]
    assert named == [
        *("--optimizer bert_adam", "--optimizer pats_adamax", "--optimizer sage"),
    ]
    done = run_command("list", "sifd")
    assert done.returncode == 1
    assert done.stderr == "error: no component sifd; did you mean sift?\n"


def test_check_env_is_content_here() -> None:
    done = run_command("check")
    assert done.returncode == 0, done.stdout
    assert "PROBLEM" not in done.stdout
    assert importlib.metadata.version("fairseq-fixed") in done.stdout
