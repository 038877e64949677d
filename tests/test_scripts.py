"""The scripts, as a user runs them."""

import csv
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import compare
import get_data
import make_acceptability
import pytest
from conftest import ROOT, environment, run_script
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef

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
    with pytest.raises(get_data.FetchError, match="broke off after .* again"):
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
    with pytest.raises(get_data.FetchError, match="is not the published two"):
        get_data.get("cola", tmp_path / "c", tmp_path / "a")
    (tmp_path / "a" / "two.txt").unlink()
    with pytest.raises(get_data.FetchError, match="two.* is missing"):
        get_data.get("cola", tmp_path / "c", tmp_path / "a")
    assert not (tmp_path / "c").exists()


def test_data_that_is_not_free_says_where_it_is(tmp_path: Path) -> None:
    done = run_script("get_data.py", "twitter", tmp_path)
    assert done.returncode == 1
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
    text = module("--list")
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
    done = run_script("check_env.py")
    assert done.returncode == 0, done.stdout
    assert "PROBLEM" not in done.stdout
    assert importlib.metadata.version("fairseq-fixed") in done.stdout


# --- compare ----


def compare_flags(models: dict[str, Path], data: Path) -> list[str]:
    return [
        *(str(data), "--user-dir", str(ROOT / "user_dir"), "--task=cola", "--cpu"),
        *(f"--steady-model={models['roberta']}", "--batch-size=8", "--no-save"),
        *("--optimizer=adam", "--lr=1e-3", "--max-update", "12"),
    ]


def run_compare(out: Path, flags: list[str], *methods: str) -> Any:
    seeds = ["--seeds", "1", "2"]
    return run_script(
        "compare.py", "--out", out, "--jobs", 2, "--methods", *methods, *seeds,
        "--", *flags,
    )  # fmt: skip


def test_two_methods_with_two_seeds_end_to_end(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    flags, out = compare_flags(models, cola_data), tmp_path / "out"
    done = run_compare(out, flags, "plain", "zero=--criterion sift --sift-lambda 0")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = list(csv.DictReader((out / "runs.csv").open()))
    scores = {(r["method"], r["seed"]): (r["mcc valid"], r["mcc ood"]) for r in rows}
    # Lambda 0 is plain: a paired design gives it plain's very scores, seed by seed.
    for seed in ("1", "2"):
        assert scores["plain", seed] == scores["zero", seed]
    table = list(csv.DictReader((out / "table.csv").open()))
    assert [row["runs"] for row in table] == ["2 of 2", "2 of 2"]
    assert "mcc valid" in done.stdout
    assert (out / "scores.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((out / "plain" / "seed1" / "result.json").read_text())
    assert result["evaluations"][-1]["updates"] == 12
    assert result["seconds_per_update"] > 0
    assert result["versions"]["torch"]

    # Again: nothing runs; a missing run is filled; another plan is refused.
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("result.json")}
    gone = out / "zero" / "seed2" / "result.json"
    gone.unlink()
    done = run_compare(out, flags, "plain", "zero=--criterion sift --sift-lambda 0")
    assert done.returncode == 0
    changed = {p for p, t in stamps.items() if p.stat().st_mtime_ns != t}
    assert changed == {gone}
    done = run_compare(out, [*flags, "--lr=2e-3"], "plain")
    assert done.returncode == 1
    assert "is of another plan" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failed_run_is_reported_and_the_others_are_kept(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    flags = compare_flags(models, cola_data)
    done = run_compare(tmp_path, flags, "plain", "bad=--criterion sift --sift-step=-1")
    assert done.returncode == 1
    table = {r["method"]: r for r in csv.DictReader((tmp_path / "table.csv").open())}
    assert table["plain"]["runs"] == "2 of 2"
    assert table["bad"]["runs"] == "0 of 2"
    runs = (tmp_path / "runs.csv").read_text()
    assert "error: --sift-step -1.0 is out of range" in runs


def test_a_killed_comparison_goes_on_where_it_was(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    flags = compare_flags(models, cola_data)
    command = [
        *(sys.executable, str(ROOT / "scripts" / "compare.py"), "--out", str(tmp_path)),
        *("--methods", "plain", "--seeds", "1", "2", "--", *flags),
    ]
    started = subprocess.Popen(command, env=environment(), start_new_session=True)
    first = tmp_path / "plain" / "seed1" / "result.json"
    for _ in range(600):
        if first.is_file() and (tmp_path / "plain" / "seed2").is_dir():
            break
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    stamp = first.stat().st_mtime_ns
    assert not (tmp_path / "plain" / "seed2" / "result.json").is_file()
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    assert first.stat().st_mtime_ns == stamp
    assert (tmp_path / "plain" / "seed2" / "result.json").is_file()


def result(method: str, seed: int, *scores: float, **changed: Any) -> compare.Result:
    evaluations = [
        {"updates": 10 * (i + 1), "valid": {"mcc": s}, "ood": {"mcc": s / 2}}
        for i, s in enumerate(scores)
    ]
    return compare.Result(
        method, seed, [], evaluations=evaluations, seconds_per_update=0.5, **changed
    )


def test_scores_are_read_at_the_best_first_subset() -> None:
    results = [result("a", 1, 0.1, 0.4, 0.2), result("a", 2, 0.2, 0.2)]
    assert compare.values(results, "mcc") == {
        "a": {"valid": [0.4, 0.2], "ood": [0.2, 0.1]}
    }
    assert compare.best_evaluation(results[1], "mcc")["updates"] == 10
    (row,) = compare.summary([*results, result("a", 3, status="failed")], "mcc")
    assert row["mcc valid"] == "0.300 +- 0.141"
    assert row["runs"] == "2 of 3"
    with pytest.raises(
        compare.PlanError, match="no metric f9 in the logs; choose from mcc"
    ):
        compare.values(results, "f9")


def test_plans_are_paired_and_checked(tmp_path: Path) -> None:
    runs = compare.plan(tmp_path, ["plain", "b=--criterion sift --x {seed}"], [1, 2])
    assert [(r.seed, r.method) for r in runs] == [
        *((1, "plain"), (1, "b")),
        *((2, "plain"), (2, "b")),
    ]
    assert runs[3].command(["D"]) == [
        *("fairseq-train", "D", "--criterion", "sift", "--x", "2", "--seed", "2")
    ]
    for methods, seeds in ((["a", "a"], [1]), (["a"], [1, 1]), (["=x"], [1])):
        with pytest.raises(compare.PlanError):
            compare.plan(tmp_path, methods, seeds)
