"""The scripts, as a user runs them."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, environment, run_command
from fairseq_steady.commands import get_data
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


# --- the module and the check ----


def module(*args: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "fairseq_steady", *args],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
        cwd="/",
    ).stdout


def test_the_module_prints_the_folder_for_user_dir() -> None:
    folder = Path(module().strip())
    assert (folder / "criterions" / "sift.py").is_file()


def test_the_list_names_every_component_with_flags_defaults_and_help() -> None:
    text = module("list")
    for name in (
        *("--criterion plain", "--criterion sift", "--arch steady", "--task cola"),
        *("--task text_classification", "--task text_regression"),
        "--task uci_sentiment",
    ):
        assert f"\n{name}\n" in f"\n{text}"
    assert "--sift-lambda (default: 5.0)\n        factor of the regulariser" in text
    assert (
        "sentence_prediction" not in text.replace("fairseq's own", "").split("arch")[0]
    )


def test_the_installed_wheel_is_a_user_dir(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    """As after pip install without -e: another folder, another package name."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps"),
            *("--no-build-isolation", "--target", tmp_path / "site", ROOT),
        ],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    env = environment(PYTHONPATH=str(tmp_path / "site"))
    folder = subprocess.run(
        [sys.executable, "-m", "fairseq_steady"],
        capture_output=True,
        text=True,
        check=True,
        env=env,
        cwd=tmp_path,
    ).stdout.strip()
    assert folder == str(tmp_path / "site" / "fairseq_steady")
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("fairseq-train")),
            *(str(cola_data), "--user-dir", folder, "--task=cola", "--cpu"),
            *(f"--steady-model={models['roberta']}", "--criterion=sift"),
            *("--optimizer=adam", "--batch-size=8", "--max-update=2", "--no-save"),
            *(f"--save-dir={tmp_path / 'out'}", "--log-format=json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "valid_mcc" in done.stdout + done.stderr


def test_check_env_is_content_here() -> None:
    done = run_command("check")
    assert done.returncode == 0, done.stdout
    assert "PROBLEM" not in done.stdout
    assert importlib.metadata.version("fairseq-fixed") in done.stdout
