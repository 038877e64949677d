"""What a newcomer sees in the first hour: few lines, one file, the way on."""

import logging
import os
import shlex
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Zygote, make_model_directory, run_command, sentences
from fairseq.data.iterators import CountingIterator
from fairseq.logging import progress_bar
from fairseq_steady.data import waiting
from fairseq_steady.data.cache import default_folder, encode_cached
from fairseq_steady.data.readers import read_sentence_tab_label
from fairseq_steady.data.tables import NoHeaderError, guess_columns
from fairseq_steady.data.tokenizing import SentenceTokenizer
from fairseq_steady.errors import UserError
from fairseq_steady.files import own_file
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.patches import announcing
from helpers import checkpoint, free_port
from omegaconf import OmegaConf

#: Where fairseq's own lines, and everything that happens, are kept.
LOG = "train.log"


def table(path: Path, count: int, header: str = "text,label") -> Path:
    """A CSV of two classes in alternation."""
    rows = [f"{text},{'pos' if one else 'neg'}" for text, one in sentences(count)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one's own, with 40 and 24 rows."""
    folder = tmp_path_factory.mktemp("mine")
    table(folder / "train.csv", 40)
    table(folder / "valid.csv", 24)
    return folder


def command(model: Path, data: Path, out: Path, *flags: str) -> list[str]:
    """What a newcomer types, and ten updates of it."""
    return [
        *("fairseq-train", str(data), "--task=text_classification", "--cpu"),
        *(f"--steady-model={model}", f"--save-dir={out}", "--batch-size=20"),
        *("--criterion=smart", "--max-epoch=10", *flags),
    ]


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The log lines, without time, level and name."""
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split(" | ", 3) for line in done.stderr.splitlines()]
    return [parts[3] for parts in lines if len(parts) == 4]


# --- before, on the way, after --------------------------------------------------------


@pytest.fixture(scope="module")
def trained(
    models: dict[str, Path],
    mine: Path,
    tmp_path_factory: pytest.TempPathFactory,
    zygote: Zygote,
) -> tuple[Path, list[str]]:
    """A newcomer's run: its folder, and what it said."""
    out = tmp_path_factory.mktemp("trained")
    (done,) = zygote.run(command(models["roberta"], mine, out))
    assert "Traceback" not in done.stderr
    return out, said(done)


def test_a_run_says_five_things_before_it_begins(
    trained: tuple[Path, list[str]], mine: Path, models: dict[str, Path]
) -> None:
    out, lines = trained
    begun = next(i for i, line in enumerate(lines) if line.startswith("epoch 001"))
    first = [line for line in lines[:begun] if "tells nothing apart" not in line]
    assert first[0].startswith("not given, so chosen: --optimizer bert_adam")
    assert first[1:] == [
        f"data: {mine}: train 40 sentences (neg: 20, pos: 20); "
        "valid 24 sentences (neg: 12, pos: 12), 24 of them in train too",
        f"model: SteadyRoberta from {models['roberta']}, 6,370 parameters",
        "method: smart --smart-lambda 1.0",
        "training: 20 updates, 10 epochs of 2, batches of 20; bert_adam --lr 5e-05, "
        "polynomial_decay",
        f"results: {out}: checkpoint_best.pt, checkpoint_last.pt; the rest of the "
        f"log: {out / LOG}",
    ]


def test_the_rest_is_in_a_file(trained: tuple[Path, list[str]]) -> None:
    out, lines = trained
    kept = (out / LOG).read_text()
    for line in (
        *("{'_name': None, 'common': {", "(sentence_encoder): PackedEncoder("),
        *("task: TextClassificationTask", "Start iterating over samples"),
        "train.csv: 40 sentences (neg: 20, pos: 20)",
    ):
        assert line in kept
        assert not any(line in other for other in lines)
    assert lines[-1] in kept


def test_every_tenth_update_says_where_the_run_is(
    trained: tuple[Path, list[str]],
) -> None:
    placed = [line for line in trained[1] if "update=" in line]
    assert [line.split(" update=")[1].split(",")[0] for line in placed] == [
        "10 of 20",
        "20 of 20",
    ]
    assert ", left=0 s, " in placed[1]


def test_what_is_not_known_is_not_logged(trained: tuple[Path, list[str]]) -> None:
    """smart looks at dropout's divergence once."""
    assert sum("smart_dropout_divergence" in line for line in trained[1]) == 2
    assert not any(" None" in line or "=None" in line for line in trained[1])


def test_the_last_lines_say_how_to_go_on(
    trained: tuple[Path, list[str]], mine: Path
) -> None:
    out, lines = trained
    best = out / "checkpoint_best.pt"
    score = checkpoint(out, best.name)["extra_state"]["best"]
    update = checkpoint(out, best.name)["optimizer_history"][-1]["num_updates"]
    assert lines[-2] == f"done: best accuracy {score:.4g} at update {update}: {best}"
    ahead = f"go on with: fairseq-steady predict {best} FILE"
    assert lines[-1] == ahead
    words = shlex.split(ahead.removeprefix("go on with: fairseq-steady "))
    done = run_command(*words[:-1], mine / "valid.csv", "--cpu")
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 24


def test_two_checkpoints_are_kept_and_nothing_beside_the_data(
    trained: tuple[Path, list[str]], mine: Path
) -> None:
    assert sorted(path.name for path in trained[0].iterdir()) == [
        "checkpoint_best.pt",
        "checkpoint_last.pt",
        LOG,
    ]
    assert sorted(path.name for path in mine.iterdir()) == ["train.csv", "valid.csv"]


def test_epochs_are_kept_where_that_is_said_and_a_resumed_log_goes_on(
    trained: tuple[Path, list[str]],
    models: dict[str, Path],
    mine: Path,
    tmp_path: Path,
    zygote: Zygote,
) -> None:
    out, _ = trained
    before = (out / LOG).read_text()
    flags = {
        "every": ["--steady-epoch-checkpoints", "--max-epoch=2"],
        "second": ["--save-interval=2", "--max-epoch=2", "--lr-scheduler=fixed"],
        "none": ["--no-save", "--max-epoch=1"],
    }
    commands = [
        command(models["roberta"], mine, tmp_path / name, *more)
        for name, more in flags.items()
    ]
    again = command(models["roberta"], mine, out, "--max-epoch=11")
    every, second, none, resumed = map(said, zygote.run(*commands, again))
    kept = {p.name for p in (tmp_path / "every").glob("*.pt")}
    assert kept >= {"checkpoint1.pt", "checkpoint2.pt"}
    assert any("checkpoint_last.pt, one an epoch;" in line for line in every)
    assert (tmp_path / "second" / "checkpoint2.pt").is_file()
    assert second
    assert none[-1].endswith("nothing is kept (--no-save)")
    assert not list((tmp_path / "none").glob("*"))
    assert (out / LOG).read_text().startswith(before)
    assert any(line.startswith("Loaded checkpoint") for line in resumed)
    assert any("22 updates, 11 epochs of 2, 20 of them done" in one for one in resumed)
    assert any("training: 2 updates, 1 epoch of 2, " in line for line in none)
    (idle,) = map(said, zygote.run(again))
    assert idle[-2].startswith(
        "done: nothing was left to train (a larger --max-epoch, --max-update, "
    )


def test_two_workers_say_everything_once(
    models: dict[str, Path], mine: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """A rate that leaves the model at one class: said once, and again at the end."""
    together = [
        *("--distributed-world-size=2", "--distributed-no-spawn", "--max-epoch=2"),
        *("--distributed-backend=gloo", "--ddp-backend=legacy_ddp", "--lr=0"),
        f"--distributed-init-method=tcp://127.0.0.1:{free_port()}",
    ]
    words = command(models["roberta"], mine, tmp_path / "out", *together)
    first, other = zygote.run(*([*words, f"--distributed-rank={n}"] for n in (0, 1)))
    lines = said(first)
    assert sum(line.startswith("data: ") for line in lines) == 1
    warned = ["tells nothing apart" in line for line in lines]
    assert (sum(warned), warned[-1]) == (2, False)
    assert any(
        "2 updates, 2 epochs of 1, batches of 20 x 2 workers" in x for x in lines
    )
    assert said(other) == []
    bad = [*words[:1], str(tmp_path / "nowhere"), *words[2:]]
    failed = zygote.run(*([*bad, f"--distributed-rank={n}"] for n in (0, 1)))
    assert all("error: " in done.stderr for done in failed)


# --- what is shown --------------------------------------------------------------------


def configuration(**common: Any) -> Any:
    """As much of fairseq's as a run looks at first."""
    return OmegaConf.create(
        {
            "task": {"steady_model": "m"},
            "common": {"log_format": None, **common},
            "checkpoint": {"no_save": True, "save_dir": "x"},
            "distributed_training": {"distributed_rank": 0},
        }
    )


@pytest.fixture
def run() -> Iterator[announcing.Run]:
    found = announcing.Run()
    yield found
    found.end()


@pytest.fixture
def terminal() -> Iterator[Callable[[str, int, str], list[str]]]:
    """Logs a line; what a handler of the root logger showed of it."""
    shown: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(record.getMessage())

    handler = Handler()
    logging.getLogger().addHandler(handler)

    def log(name: str, level: int, text: str) -> list[str]:
        shown.clear()
        logging.getLogger(name).log(level, text)
        return list(shown)

    yield log
    logging.getLogger().removeHandler(handler)


def test_verbose_runs_programs_and_other_tasks_see_everything(
    run: announcing.Run,
    terminal: Callable[[str, int, str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = ("fairseq_cli.train", logging.WARNING - 1, "task: ATask")
    run.begin(configuration())
    assert terminal(*line) == []
    assert terminal("fairseq.trainer", logging.WARNING, "careful") == ["careful"]
    assert terminal("py.warnings", logging.WARNING, "deprecated") == []
    assert terminal("fairseq_steady.x", logging.WARNING - 1, "said") == ["said"]
    stock = configuration()
    stock.task = {"data": "d"}
    for other in (configuration(log_format="json"), stock):
        run.begin(other)
        assert terminal(*line) == ["task: ATask"]
    monkeypatch.setenv("FAIRSEQ_STEADY_VERBOSE", "1")
    run.begin(configuration())
    assert terminal(*line) == ["task: ATask"]
    monkeypatch.setenv("FAIRSEQ_STEADY_VERBOSE", "0")
    run.begin(configuration())
    assert terminal(*line) == []


def test_a_log_is_no_link_and_begins_anew_unless_its_run_goes_on(
    tmp_path: Path,
) -> None:
    path, victim = tmp_path / LOG, tmp_path / "victim"
    for goes_on, expected in ((False, "a\n"), (True, "a\na\n"), (False, "a\n")):
        with own_file(path, "a" if goes_on else "w") as file:
            file.write("a\n")
        assert path.read_text() == expected
    victim.write_text("keep me")
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(UserError, match=r"train\.log cannot be written \(Too many"):
        own_file(path, "w")
    assert victim.read_text() == "keep me"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (3570, "1 h 0 min"),
        (4330, "1 h 12 min"),
    ],
)
def test_durations_are_as_people_say_them(seconds: float, text: str) -> None:
    assert announcing.duration(seconds) == text


def test_in_a_terminal_the_bar_is_of_the_whole_run(
    run: announcing.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of four epochs of five updates, one of which is done."""
    monkeypatch.setattr(announcing, "RUN", run)
    for of_the_head in ("announcement", "details"):
        monkeypatch.setattr(announcing, of_the_head, lambda _: [])
    monkeypatch.setattr(progress_bar.sys.stderr, "isatty", lambda: True, raising=False)
    run.cfg, run.task = (
        OmegaConf.create({"optimization": {"max_update": 0, "max_epoch": 4}}),
        object(),
    )
    original = progress_bar.progress_bar
    made = announcing.bars(getattr(original, "__wrapped__", original))
    iterator = CountingIterator(range(4), start=1, total=5)
    bar = made(iterator, log_format="tqdm", epoch=3)
    assert (bar.tqdm.n, bar.tqdm.total, bar.tqdm.initial) == (11, 20, 11)
    next(iter(bar))
    run.started -= 90  # type: ignore[operator]
    second = made(CountingIterator(range(5)), log_format="tqdm", epoch=4)
    form = second.tqdm.format_dict
    assert (form["n"], form["total"], form["initial"]) == (15, 20, 11)
    assert form["elapsed"] == pytest.approx(90, abs=5)
    assert run.place(15)["left"] == "2 min"  # 4 took 90 s, 5 are left
    valid = made(range(3), log_format="tqdm", epoch=4, prefix="valid")
    assert valid.tqdm.total == 3


def test_sizes_are_said_where_they_are_large() -> None:
    import torch

    model = torch.nn.Linear(1000, 1000)
    assert announcing.checkpoint_bytes(model, True) == 3 * 4 * 1_001_000
    assert announcing.checkpoint_bytes(model, False) == 4 * 1_001_000


# --- one file -------------------------------------------------------------------------


def test_one_file_is_data_and_its_two_columns_are_found(
    models: dict[str, Path], tmp_path: Path, zygote: Zygote
) -> None:
    one = table(tmp_path / "data" / "mails.csv", 60, "mail,kind")
    common = (models["roberta"], one)
    flags = ["--max-epoch=1", "--disable-validation", "--no-save"]
    done, other, test = zygote.run(
        command(*common, tmp_path / "out", "--max-epoch=1"),
        command(*common, tmp_path / "other", *flags, "--steady-label-column=topic"),
        command(*common, tmp_path / "test", "--valid-subset=test", "--max-epoch=1"),
    )
    lines = said(done)
    assert (
        f"{one} has two columns: 'mail' is taken for the text and 'kind' for the "
        "label; if not, name them with --steady-text-column and --steady-label-column"
    ) in lines
    assert (
        f"{one} is one file: a tenth of its rows, in proportion of the classes, is "
        "'valid' and the rest 'train', drawn by --steady-subset-seed 0"
    ) in lines
    assert any(
        "train 54 sentences (neg: 27, pos: 27); valid 6 sentences (neg: 3, pos: 3)" in x
        for x in lines
    )
    kept = checkpoint(tmp_path / "out")["cfg"]["task"]
    assert (kept["steady_text_column"], kept["steady_label_column"]) == ("mail", "kind")
    assert other.stderr.splitlines()[-1] == (
        f"error: {one}:1: no column 'text' among: mail, kind; name yours with "
        "--steady-text-column and --steady-label-column"
    )
    assert test.stderr.splitlines()[-1].startswith(
        f"error: {one} is one file, divided into train and valid, and has no split "
        "'test'"
    )
    # predict asks for no column either.
    best = tmp_path / "out" / "checkpoint_best.pt"
    predicted = run_command("predict", best, one, "--cpu")
    assert len(predicted.stdout.splitlines()) == 60


@pytest.mark.parametrize(
    ("text", "scores", "expected"),
    [
        ("a,b\nx y,0\nz,1\nw,0\n", False, ("a", "b")),
        ("a,b\n0,x y\n1,z\n0,w\n", False, ("b", "a")),
        ("a,b\nx,0\ny,1\n", False, None),  # neither comes again
        ("a,b\nx y,0.5\nz,1\n", True, ("a", "b")),
        ("a,b\n2,0.5\n3,1\n", True, None),
        ("a,b,c\nx,y,0\nz,w,0\n", False, None),
    ],
)
def test_columns_are_guessed_only_where_it_is_plain(
    tmp_path: Path, text: str, scores: bool, expected: tuple[str, str] | None
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert guess_columns(path, scores) == expected


@pytest.mark.parametrize(
    ("text", "scores", "label"),
    [
        ("x y,ham\nz,spam\nw,ham\nv,ham\n", False, "ham"),
        ("0,x y\n1,z\n0,w\n0,v\n", False, "0"),
        ("x,0.5\ny,1\nz,2.5\n", True, "0.5"),
    ],
)
def test_a_first_row_is_not_taken_for_names(
    tmp_path: Path, text: str, scores: bool, label: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    said = f"t.csv, line 1: '{label}' is a label, as of a file without a header; put"
    with pytest.raises(NoHeaderError, match=said):
        guess_columns(path, scores)
    path.with_suffix(".jsonl").write_text(
        '{"x": "a", "0": "0"}\n{"x": "b", "0": "0"}\n'
    )
    assert guess_columns(path.with_suffix(".jsonl"), scores=False) == ("x", "0")


# --- caches and patience --------------------------------------------------------------


def test_caches_are_kept_where_the_users_others_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, expected in (
        (str(tmp_path / "x"), tmp_path / "x" / "fairseq-steady"),
        ("relative", tmp_path / ".cache" / "fairseq-steady"),
        ("", tmp_path / ".cache" / "fairseq-steady"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_folder() == expected


def test_without_a_home_a_cache_is_not_where_others_can_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = default_folder()
    assert found == tmp_path / f"fairseq-steady-{os.geteuid()}" == default_folder()
    assert found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o777)  # as whoever took the name first leaves it
    other = default_folder()
    assert other.parent == tmp_path
    assert other != found
    assert other.stat().st_mode & 0o777 == 0o700


def tokenizer_of(model: Path) -> SentenceTokenizer:
    directory = ModelDirectory.open(model)
    return SentenceTokenizer(directory, directory.dictionary(), 8)


def test_a_new_cache_is_the_users_alone(
    own_cache: Path, tmp_path: Path, models: dict[str, Path]
) -> None:
    path = tmp_path / "u.txt"
    path.write_text("w0\t1\nw1\t0\n")
    tokenizer = tokenizer_of(models["roberta"])
    encode_cached(path, read_sentence_tab_label, "", ("0", "1"), tokenizer, None)
    assert len(list(own_cache.glob("u-*"))) == 1
    assert own_cache.stat().st_mode & 0o777 == 0o700


def test_chunks_are_tokenised_as_the_whole_is(
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """2,500 sentences, of which some are cut, in three chunks; each gives a sign."""
    tokenizer = tokenizer_of(models["roberta"])
    texts = [text for text, _ in sentences(2500)]
    monkeypatch.setattr(waiting, "_EVERY", 0.0)
    with caplog.at_level(logging.INFO):
        found, truncated = tokenizer.encode([(text,) for text in texts])
    whole = tokenizer._tokenizer.encode_batch(texts)
    assert len(found) == 2500
    for ours, theirs in zip(found, whole, strict=True):
        np.testing.assert_array_equal(ours, tokenizer.ids[theirs.ids])
    assert truncated == sum(len(text.split()) > 6 for text in texts)
    assert [record.getMessage() for record in caplog.records] == [
        "tokenised: 1,000 of 2,500 so far",
        "tokenised: 2,000 of 2,500 so far",
        "tokenised: 2,500 of 2,500 so far",
    ]


def test_waiting_is_announced_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A row a second."""
    clock = iter(range(100))
    monkeypatch.setattr(waiting.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO):
        assert list(waiting.counted("abcdefgh", "x.csv: rows read")) == [*"abcdefgh"]
    assert [record.getMessage() for record in caplog.records] == [
        "x.csv: rows read: 2 so far",
        "x.csv: rows read: 5 so far",
    ]


# --- summaries ------------------------------------------------------------------------


def test_a_form_that_the_model_has_no_positions_for_is_refused_first(
    tmp_path: Path, zygote: Zygote
) -> None:
    """32 positions; one is the beginning, one the last token's."""
    model = make_model_directory(tmp_path / "bart", "bart").path
    (tmp_path / "train.source").write_text("w1 w2\nw3\n")
    (tmp_path / "train.target").write_text("w1\nw3\n")
    words = [
        *("fairseq-train", str(tmp_path), "--task=summarization", "--cpu"),
        *(f"--steady-model={model}", f"--save-dir={tmp_path / 'out'}"),
    ]
    form, asked = zygote.run(
        [*words, "--summarization-form=cnn_dm"],
        [*words, "--summarization-max-length=31"],
    )
    assert form.returncode == asked.returncode == 1
    assert form.stderr.splitlines()[-1] == (
        "error: --summarization-min-length 55 (of --summarization-form cnn_dm) is more "
        "than the 30 tokens that this model's 32 positions leave a summary: give "
        "--summarization-min-length 30 or less"
    )
    assert "--summarization-max-length 31 is more than the 30" in asked.stderr


def test_a_criterion_of_the_old_kind_is_announced_too() -> None:
    given = Namespace(_name="mine", mine_eps=3, lr=1)
    assert announcing._method(given) == "method: mine --mine-eps 3"
