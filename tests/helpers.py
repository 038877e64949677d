"""What several test files use: data, runs of fairseq-train, and what they leave."""

import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from conftest import (
    ROOT,
    TRAIN,
    Started,
    Zygote,
    environment,
    fairseq_command,
    sentences,
)
from fairseq_steady.comparison.plan import Run
from fairseq_steady.comparison.results import Result
from fairseq_steady.comparison.results import write as write_result
from fairseq_steady.comparison.table import (
    Scored,
    definitions,
    notes,
    tables,
    write_rows,
    write_tables,
)
from fairseq_steady.data import SentenceTokenizer, encode_cached
from fairseq_steady.data.glue import LAYOUTS
from fairseq_steady.data.readers import read_sentence_tab_label
from hypothesis import HealthCheck, settings
from method_table import TRAINED

NO_DROPOUT = ["--dropout=0", "--attention-dropout=0", "--pooler-dropout=0"]


def logged(done: subprocess.CompletedProcess[str], tag: str) -> list[dict[str, Any]]:
    """Values of each JSON log line with a tag."""
    lines = (line.split(" | ", 3) for line in (done.stdout + done.stderr).splitlines())
    return [
        json.loads(parts[3])
        for parts in lines
        if len(parts) == 4 and parts[2] == tag and parts[3].startswith("{")
    ]


def checkpoint(folder: Path, name: str = "checkpoint_last.pt") -> dict[str, Any]:
    import fairseq_steady.tasks  # noqa: F401  allow-lists what a checkpoint holds

    state: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return state


def assert_equal_weights(one: Path, other: Path, tolerance: float = 0.0) -> None:
    a, b = checkpoint(one)["model"], checkpoint(other)["model"]
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def scalars(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [e.value for e in events.Scalars(tag)] for tag in tags}


def free_port() -> int:
    """Below the ports that the system gives to whoever connects to something."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def train_on_workers(
    zygote: Zygote, *flags: object, count: int = 2, backend: str = "legacy_ddp"
) -> list[str]:
    """Real gloo processes; returns their logs."""
    together = [
        *(f"--distributed-world-size={count}", "--distributed-no-spawn"),
        *("--distributed-backend=gloo", f"--ddp-backend={backend}"),
        f"--distributed-init-method=tcp://127.0.0.1:{free_port()}",
    ]
    command = ["fairseq-train", *map(str, (*TRAIN, *flags, *together))]
    ranks = (f"--distributed-rank={rank}" for rank in range(count))
    done = zygote.run(*([*command, rank] for rank in ranks))
    for worker in done:
        assert worker.returncode == 0, worker.stderr[-3000:]
    return [worker.stderr for worker in done]


def cola(models: dict[str, Path], data: Path, method: str) -> list[Any]:
    model = f"--steady-model={models['roberta']}"
    return [data, "--task=cola", model, *TRAINED[method], "--no-epoch-checkpoints"]


YAML = ROOT / "examples" / "hydra"


def start_from_yaml(
    zygote: Zygote,
    task: str,
    method: str,
    model: Path,
    data: Path,
    out: Path,
    *more: str,
) -> str:
    (done,) = zygote.run(
        [
            *("hydra", f"--config-dir={YAML}", f"--config-name={task}"),
            *(f"method={method}", f"task.data={data}", f"task.steady_model={model}"),
            *("optimization.max_update=1", "dataset.batch_size=4", "common.cpu=true"),
            *(f"checkpoint.save_dir={out}", f"hydra.run.dir={out}"),
            *("checkpoint.no_save=true", "common.log_format=json"),
            *(f"+task.steady_cache_dir={out}", *more),
        ]
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


#: Header of each official file; the columns of texts and label hold what they say.
HEADERS = {
    "sst2": "sentence\tlabel",
    "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\t"
    "sentence2\tscore",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "mnli": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\t"
    "sentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\t"
    "label1\tgold_label",
    "qnli": "index\tquestion\tsentence\tlabel",
    "rte": "index\tsentence1\tsentence2\tlabel",
}


#: A quote that never closes, a vertical tab, a line separator: a row all the same.
AWKWARD = 'w1 "w2\x0b w3\u2028 w4'


def glue_row(task: str, number: int) -> str:
    """One official row; texts hold the number, labels take turns."""
    layout = LAYOUTS[task]
    label = layout.labels[number % len(layout.labels)] if layout.labels else "2.5"
    if not layout.labels:
        label = f"{number % 6}.250"
    if task == "cola":
        return f"gj04\t{label}\t*\t{AWKWARD} w{number}"
    texts = iter([f"{AWKWARD} w{number}", f"w{number + 1} w5"])
    named = [name for text in layout.texts for name in text.split("|")]
    cells = []
    for column in HEADERS[task].split("\t"):
        value = label if column == layout.label else "x"
        cells.append(next(texts) if column in named else value)
    return "\t".join(cells)


def write_split(folder: Path, task: str, split: str, rows: list[str]) -> Path:
    layout = LAYOUTS[task]
    (folder / layout.folder).mkdir(parents=True, exist_ok=True)
    path = folder / layout.folder / layout.files[split][0]
    lines = rows if task == "cola" else [HEADERS[task], *rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


#: Attention does not see the bias of its keys, so that bias has the rounding of zero
#: for a gradient, which a small epsilon would blow up to full steps; and PATS's noise
#: takes its size from one over such roundings.
EPSILON = {
    "bert_adam": ["--bert-adam-eps=1e-3"],
    "pats_adamax": ["--pats-adamax-eps=1e-3", "--pats-eps=1e-5"],
    "pats-B": ["--pats-adamax-eps=1e-3"],
    "sage": ["--sage-eps=1e-3", "--sage-guard=1e-6"],
}


def run_flags(models: dict[str, Path], data: Path, method: str, out: Path) -> list[str]:
    return [
        *map(str, (*TRAIN, data, f"--steady-model={models['roberta']}", "--task=cola")),
        *(*TRAINED[method], "--no-epoch-checkpoints", "--save-interval-updates=4"),
        *("--keep-interval-updates=1", "--max-epoch=6", f"--save-dir={out}"),
    ]


def start_train(zygote: Zygote, *arguments: str) -> Started:
    """fairseq-train in a fork, in a process group of its own."""
    return zygote.start(["fairseq-train", *arguments])


def start_module(*arguments: str) -> subprocess.Popen[str]:
    """fairseq-train's module, as Python itself starts and ends it."""
    return subprocess.Popen(
        [sys.executable, "-m", "fairseq_cli.train", *fairseq_command(*arguments)[1:]],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(zygote: Zygote, *arguments: str) -> list[Started]:
    """Two gloo workers."""
    together = [
        *("--distributed-world-size=2", "--distributed-no-spawn"),
        *("--distributed-backend=gloo", "--ddp-backend=legacy_ddp"),
        f"--distributed-init-method=tcp://127.0.0.1:{free_port()}",
    ]
    ranks = (f"--distributed-rank={rank}" for rank in (0, 1))
    return [start_train(zygote, *arguments, *together, rank) for rank in ranks]


def wait_for(process: subprocess.Popen[str] | Started, text: str) -> str:
    """Read the log up to a line."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return "".join(seen)
    raise AssertionError("".join(seen)[-3000:])


class Attack:
    """Runs code when unpickled without care."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file grows beyond 1,000 bytes, also for root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def encode(path: Path, tokenizer: SentenceTokenizer, **changed: Any) -> Any:
    options: dict[str, Any] = {
        "reader": read_sentence_tab_label,
        "description": "uci",
        "labels": ("0", "1"),
        "cache_dir": None,
    } | changed
    return encode_cached(path, tokenizer=tokenizer, **options)


def make_sentiment_data(folder: Path) -> Path:
    for seed, name in enumerate(("amazon_cells", "imdb", "yelp")):
        lines = [f"{text}\t{label}" for text, label in sentences(40, seed + 1)]
        (folder / f"{name}_labelled.txt").write_text("\n".join(lines) + "\n", "utf-8")
    tweets = [f"{i},{1 - y},{t}" for i, (t, y) in enumerate(sentences(60, 9))]
    (folder / "train.csv").write_text("\n".join(["id,label,tweet", *tweets]), "utf-8")
    return folder


def is_clear(done: subprocess.CompletedProcess[str]) -> bool:
    """It trained, or it ended with one line for the user."""
    if "Traceback" in done.stderr:
        return False
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return done.returncode == 0 or "error: " in last


LOOSE = settings(
    deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


MCC = Scored("mcc", True, "valid")


CONFIG = {
    "checkpoint": {
        "best_checkpoint_metric": "mcc",
        "maximize_best_checkpoint_metric": True,
    },
    "task": {"_name": "cola", "data": "data/cola", "steady_model": "models/x"},
}


def write_all(out: Path, results: list[Result], scored: Scored) -> None:
    """The files of a comparison's tables, without ensembles."""
    write_rows(out, results, scored)
    said = notes(results, scored)
    write_tables(out, tables(results, scored), definitions(scored), said)


def result(method: str, seed: int, *scores: float, **changed: Any) -> Result:
    """A stored result; the out-of-domain score is half the other."""
    given: dict[str, Any] = {
        "setting": "",
        "command": ["fairseq-train"],
        "config": CONFIG,
        "evaluations": [
            {"updates": 10 * (i + 1), "valid": {"mcc": s}, "ood": {"mcc": s / 2}}
            for i, s in enumerate(scores)
        ],
        "predictions": {
            subset: {"gold": [0, 1, 1], "outputs": [[0, 1]] * 3}
            for subset in ("valid", "ood")
        },
        "seconds_per_update": 0.5,
        "seconds": 9.0,
        "peak_mb": 100.0,
        "versions": {"torch": "2"},
    }
    return Result(method=method, seed=seed, **{**given, **changed})


class Instant:
    """Runs that have ended when they start, scored by a function of their command."""

    def __init__(self, score: Callable[[Run], float | None], jobs: int = 2) -> None:
        self.jobs = jobs
        self.score = score
        self.started: list[str] = []

    def start(self, run: Run, slot: int) -> Any:
        self.started.append(run.name)
        score = self.score(run)
        if score is not None:
            named = {"setting": run.setting, "command": list(run.command)}
            made = result(run.method, run.seed, score, **named)
            write_result(run.folder / "result.json", made)
        methods = {"done": True, "reason": "lightning", "stop": None}
        return type(
            "Job", (), {name: lambda _, v=v: v for name, v in methods.items()}
        )()


HALF = ["--fp16", "--fp16-no-flatten-grads"]
