"""Tiny random models of every form, made once, and ways to run commands on them.

Which way: a fork of the zygote (``fairseq_train``, ``run_command``, ``zygote.run``)
takes a tenth of a second to start, since fairseq and the plugin are imported already;
it is right wherever only the outcome matters. A fork can be met while it runs, too, by
signals or a full disk (``start_train`` of helpers.py), and what a command starts can be
forks of it in turn (``run_forking``). A real process (``fairseq_command``) takes
seconds; it is right where the start itself is tested: what importing does,
``--user-dir``, the environment, the launchers, GPUs, how Python ends. What only calls
functions needs neither.
"""

import functools
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary
from fairseq_steady.model_dir import Manifest, ModelDirectory, write_model_directory
from fairseq_steady.models.building import build
from fairseq_steady.models.families import FAMILIES
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

ROOT = Path(__file__).parent.parent
#: The installed command.
FAIRSEQ_STEADY = Path(sys.executable).with_name("fairseq-steady")
torch.set_num_threads(1)  # tiny models gain nothing from more
#: Tests write nothing below the user's home.
_CACHES = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _CACHES.name
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read once, when triton is imported

WORDS = [f"w{i}" for i in range(60)]
ENCODER = {
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "max_positions": 32,
    "layer_norm_eps": 1e-12,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "pooler_dropout": 0.1,
}
DECODER = {
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "max_source_positions": 32,
    "max_target_positions": 32,
}
#: Distances reach beyond buckets, and the convolution takes part.
DEBERTA = {
    "deberta_buckets": 6,
    "deberta_max_distance": 8,
    "deberta_conv_kernel": 3,
    "layer_norm_eps": 1e-7,
}
#: Sentences are longer than the window of every second layer; products are steep.
MODERNBERT = {
    "encoder_ffn_embed_dim": 8,
    "modernbert_pattern": "gl",
    "modernbert_window": 6,
    "layer_norm_eps": 1e-5,
}
#: Embeddings narrower than the layers, which ALBERT shares.
NARROW = {"embedding_size": 12}
PARTS = {
    "bart": DECODER,
    "deberta": DEBERTA,
    "modernbert": MODERNBERT,
    "electra": NARROW,
    "albert": NARROW | {"encoder_passes": 3},
}
SPECIAL = {name: name for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")}


def word_tokenizer() -> Tokenizer:
    """One token a word, <s> and </s> around."""
    symbols = [*SPECIAL, *WORDS]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """The command line of a second worker, once read, silences the process."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's tokenised files go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fairseq-steady"


def make_model_directory(
    out: Path, family: str = "roberta", **changed: object
) -> ModelDirectory:
    """A tiny random model of a family, written as a model directory."""
    dictionary = Dictionary()
    for word in ["<mask>", *WORDS]:
        dictionary.add_symbol(word)
    architecture = {**ENCODER, **PARTS.get(family, {}), **changed}
    manifest = Manifest(family, architecture, SPECIAL)
    torch.manual_seed(0)
    model = build(manifest, dictionary)
    # A spread as in trained models, so that logits and attention are not flat.
    state = {
        k: torch.randn_like(v) * 0.3 if v.is_floating_point() and v.dim() > 1 else v
        for k, v in model.state_dict().items()
    }
    return write_model_directory(
        out, manifest, state, dictionary, word_tokenizer().to_str()
    )


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model directories by family."""
    base = tmp_path_factory.mktemp("models")
    return {name: make_model_directory(base / name, name).path for name in FAMILIES}


def sentences(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Random words; the label says whether w0 is among them."""
    import random

    rng = random.Random(seed)
    rows = []
    for i in range(count):
        words = rng.choices(WORDS[1:], k=rng.randint(3, 12))
        if i % 2:
            words[rng.randrange(len(words))] = "w0"
        rows.append((" ".join(words), i % 2))
    return rows


@pytest.fixture(scope="session")
def cola_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in CoLA's layout."""
    folder = tmp_path_factory.mktemp("cola")
    for name, count in (
        ("in_domain_train", 64),
        ("in_domain_dev", 24),
        ("out_of_domain_dev", 20),
    ):
        lines = [f"src\t{label}\t\t{text}" for text, label in sentences(count)]
        (folder / f"{name}.tsv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def score_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of scored sentence pairs, as TSV with named columns."""
    folder = tmp_path_factory.mktemp("scores")
    for name, count in (("train", 48), ("valid", 19)):
        rows = [
            f"{text}\t{text.split()[0]}\t{len(text.split()) / 3:.3f}"
            for text, _ in sentences(count)
        ]
        (folder / f"{name}.tsv").write_text("a\tb\tscore\n" + "\n".join(rows) + "\n")
    return folder


SCORE_FLAGS = [
    "--task=text_regression",
    "--steady-text-column=a",
    "--steady-pair-column=b",
    "--steady-label-column=score",
]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **extra}


def fairseq_command(*flags: object, program: str = "fairseq-train") -> list[str]:
    """A fairseq command of this environment with the plugin of this checkout."""
    executable = Path(sys.executable).with_name(program)
    start = [str(executable)]
    if not executable.exists():  # packages that only PYTHONPATH names
        start = [sys.executable, "-m", program.replace("fairseq-", "fairseq_cli.")]
    return [*start, *map(str, flags), "--user-dir", str(ROOT / "user_dir")]


TRAIN = [
    "--cpu",
    "--batch-size=8",
    "--optimizer=adam",
    "--lr=1e-3",
    "--lr-scheduler=fixed",
    "--log-format=json",
    "--log-interval=1",
]


class Started:
    """A command in a fork of the zygote, met while it runs, as by a Popen."""

    def __init__(self, zygote: "Zygote", command: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            pipe = os.path.join(folder, "pipe")
            os.mkfifo(pipe)
            self.zygote = zygote
            self.pid: int = zygote.ask({"start": command, "pipe": pipe})
            self.stdout = open(pipe, errors="replace")  # noqa: SIM115
        self.returncode: int | None = None

    def poll(self, long: bool = False) -> int | None:
        """The exit status, if it has ended."""
        if self.returncode is None:
            self.returncode = self.zygote.ask({"wait": self.pid, "long": long})
        return self.returncode

    def communicate(self) -> str:
        """What else it says, until it has ended."""
        with self.stdout:
            rest = self.stdout.read()
        self.poll(long=True)
        return rest

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Zygote:
    """Commands in forks of a process that has fairseq and the plugin imported."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=ROOT,
        )
        while self._answer() != "ready\n":  # imports may log
            assert self.process.poll() is None

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self, question: object) -> Any:
        """Its answer; see zygote.py."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self._answer())

    def run(self, *commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
        """Run commands at the same time; all output is in stderr, but for scripts."""
        return [
            subprocess.CompletedProcess(command, *ended)
            for command, ended in zip(commands, self.ask(commands), strict=True)
        ]

    def start(self, command: list[str]) -> Started:
        """Run one in a session of its own, and do not wait for it."""
        return Started(self, command)


@functools.cache
def the_zygote() -> Zygote:
    """The one of this process; it ends when its input does."""
    return Zygote()


@pytest.fixture(scope="session")
def zygote() -> Zygote:
    """One for all tests."""
    return the_zygote()


def run_command(name: str, *args: object) -> subprocess.CompletedProcess[str]:
    """A subcommand of fairseq-steady, in a process of its own."""
    (done,) = the_zygote().run(["fairseq-steady", name, *map(str, args)])
    return done


def run_forking(name: str, *args: object) -> subprocess.CompletedProcess[str]:
    """The same; the Python programs that it starts are forks as well."""
    (done,) = the_zygote().run(["forking", "fairseq-steady", name, *map(str, args)])
    return done


Trainer = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def fairseq_train(zygote: Zygote) -> Trainer:
    """Run fairseq-train in a process of its own; fail on another exit status."""

    def run(*flags: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        (done,) = zygote.run(["fairseq-train", *map(str, (*TRAIN, *flags))])
        assert done.returncode == status, done.stderr[-3000:]
        return done

    return run
