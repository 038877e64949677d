"""Every criterion beside transformers, smart-pytorch and fairseq itself.

    python scripts/benchmarks/peers.py MODEL TEXT [--part batch] [--out FOLDER]

MODEL is a model directory of an encoder, TEXT a file with a sentence a line. All have
the same weights, sentences and dropout, and take turns in one process, so that a busy
machine slows all of them; what is told are medians. The parts:

batch   forward and backward of a batch, of each criterion and of each peer
epoch   whole runs of fairseq-train and of transformers' Trainer, start and end included
growth  a batch of some of them with more sentences, more tokens and more layers

With --out the parts become CSV files and a figure there, and the tables of the README
beside them. Peers that are not installed are left out: pip install '.[benchmark]'.
"""

import argparse
import copy
import csv
import datetime
import importlib
import io
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fairseq_steady
import torch
from fairseq.criterions.sentence_prediction import (
    SentencePredictionConfig,
    SentencePredictionCriterion,
)
from fairseq_steady.criterions.plain import PlainCriterion
from fairseq_steady.data.readers import read_text
from fairseq_steady.errors import UserError
from fairseq_steady.files import whole_file, write_text
from fairseq_steady.huggingface.exporting import Original, export_hf
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.steady import HEAD
from fairseq_steady.precision import Autocast, keep_exact, unsupported
from fairseq_steady.regularizers import find_encoder
from methods import CASES, batch, floor, loss_of, make, seconds
from noise_radius import inputs, load
from torch import Tensor, nn
from torch.nn import functional as F

Sample = dict[str, Any]
Loss = Callable[[Sample], Tensor]
#: A row of a table: column names and what stands there.
Row = dict[str, str]
#: Updates of a turn: numbers, from the turn's first, and how much each counts.
Steps = tuple[tuple[int, int], ...]

ONE: Steps = ((0, 1),)
FOUR: Steps = ((0, 1), (1, 1), (2, 1), (3, 1))
USES = 8
#: Perturbations are found once and used again eight times.
CACHED: Steps = ((0, 1), (0, USES))


# --- what is timed --------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One criterion of ours.

    Args:
        criterion: its name.
        flags: with the method's prefix.
        floor: what its passes alone cost, over plain's.
        steps: updates of a turn.
        bf16: whether under torch's autocast.

    """

    criterion: str
    flags: dict[str, Any]
    floor: float
    steps: Steps = ONE
    bf16: bool = False

    def having(self, floor: float, steps: Steps = ONE, **flags: Any) -> "Case":
        """The same with more flags, given without prefix."""
        more = {f"{self.criterion}_{name}": value for name, value in flags.items()}
        return replace(self, flags=self.flags | more, floor=floor, steps=steps)


def cases() -> dict[str, Case]:
    """Every criterion, and the cheaper forms of some."""
    found = {label: Case(n, flags, floor(p)) for label, (n, flags, p) in CASES.items()}
    for name in ("sift", "smart", "r3f"):
        full, quarter = found[name], 1 + (found[name].floor - 1) / 4
        found[f"{name}, every 4"] = full.having(quarter, FOUR, every=4)
        found[f"{name}, fraction 1/4"] = full.having(quarter, FOUR, fraction=0.25)
    for name in ("sift", "smart"):
        full, cached = found[name], (found[name].floor + USES * 2) / (1 + USES)
        found[f"{name}, cache 8"] = full.having(cached, CACHED, cache=USES)
        # Two draws of sentences a turn.
        twice = (*CACHED, *((1, weight) for _, weight in CACHED))
        found[f"{name}, cache 8, fraction 1/4"] = full.having(
            1 + (cached - 1) / 4, twice, cache=USES, fraction=0.25
        )
    found["r3f, stop-gradient perturbed"] = found["r3f"].having(
        4 / 3, stop_gradient="perturbed"
    )
    for name in ("plain", "sift", "smart"):
        found[f"{name}, bf16"] = replace(found[name], bf16=True)
    return found


@dataclass(frozen=True)
class Models:
    """The same weights and head three times, in training mode.

    Args:
        ours: with this plugin's layers.
        fairseqs: with fairseq's own.
        transformers: with sdpa.
        ids: Hugging Face's number of each of fairseq's, shape (V,).

    """

    ours: Any
    fairseqs: Any
    transformers: Any
    ids: Tensor

    @classmethod
    def load(cls, path: Path, folder: Path, device: str) -> "Models":
        """From a model directory and its export.

        Raises:
            UserError: transformers' logits are others.

        """
        original = Original.open(path, None, teacher=False)
        ours, _ = load(path)
        theirs = _transformers(folder)
        head = ours.classification_heads[HEAD]
        for own, name in original.kind.head.items():
            part = head.get_submodule(own)
            theirs.get_submodule(name).load_state_dict(part.state_dict())
        ids = torch.empty(len(original.rows), dtype=torch.int64)
        ids[original.rows] = torch.arange(len(ids))
        fairseqs = _fairseqs(ours)
        keep_exact(ours.classification_heads)  # as --steady-autocast does
        return cls(ours, fairseqs, theirs, ids).to(device)

    @property
    def each(self) -> tuple[Any, Any, Any]:
        """All three."""
        return self.ours, self.fairseqs, self.transformers

    def to(self, device: str) -> "Models":
        """On a device, in training mode."""
        ours, fairseqs, theirs = (model.to(device).train() for model in self.each)
        return Models(ours, fairseqs, theirs, self.ids.to(device))

    def given(self, sample: Sample) -> dict[str, Tensor]:
        """A batch as transformers takes it."""
        tokens = sample["net_input"]["src_tokens"]
        real = tokens != find_encoder(self.ours).padding_idx
        return {"input_ids": self.ids[tokens], "attention_mask": real.long()}

    def cut(self, layers: int) -> "Models":
        """Copies of the first layers."""
        copied = copy.deepcopy(self)
        for model in (copied.ours, copied.fairseqs):
            encoder: Any = find_encoder(model)
            encoder.layers = encoder.layers[:layers]
        theirs = copied.transformers.base_model.encoder
        theirs.layer = theirs.layer[:layers]
        return copied

    @torch.no_grad()
    def check(self, sample: Sample) -> None:
        """See that all three answer the same.

        Raises:
            UserError: they do not.

        """
        given = {"features_only": True, "classification_head_name": HEAD}
        for model in self.each:
            model.eval()
        ours, fairseqs = (m(**sample["net_input"], **given)[0] for m in self.each[:2])
        theirs = self.transformers(**self.given(sample)).logits
        for model in self.each:
            model.train()
        off = max(float((ours - other).abs().max()) for other in (fairseqs, theirs))
        if not off < 1e-3:
            raise UserError(f"logits of the peers differ by {off:.2g}: nothing to time")


def _transformers(folder: Path) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    auto: Any = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(folder, num_labels=2, attn_implementation="sdpa")


def _fairseqs(model: Any) -> Any:
    """A copy in which every part is of fairseq's own class, as far as it has one."""
    copied = copy.deepcopy(model)
    for part in copied.modules():
        known = [c for c in type(part).__mro__ if c.__module__.startswith("fairseq.")]
        if type(part).__module__.startswith("fairseq_steady.") and known:
            part.__class__ = known[0]
    return copied


@dataclass(frozen=True)
class Contender:
    """Something that makes a loss of a batch.

    Args:
        model: what it trains.
        loss: of a batch.
        steps: updates of a turn.
        floor: what its passes alone cost, over plain's; None where nobody counted.
        criterion: of ours, to be told of updates.
        fresh: what that kept before the first.

    """

    model: nn.Module
    loss: Loss
    steps: Steps = ONE
    floor: float | None = None
    criterion: PlainCriterion | None = None
    fresh: dict[str, Any] = field(default_factory=dict)

    def seconds(self, sample: Sample, turn: int) -> float:
        """Mean time of the updates of a turn; a number met first begins afresh."""
        criterion, spent, last = self.criterion, 0.0, -1
        stride = 1 + self.steps[-1][0]
        for offset, weight in self.steps:
            update = turn * stride + offset
            torch.manual_seed(update)  # as fairseq does; it chooses the sentences
            if criterion and offset != last:
                criterion.restore_kept(self.fresh)
            if criterion:
                criterion.before_update(self.model, update)
            spent += weight * seconds(partial(self.loss, sample), self.model)
            if criterion:
                criterion.after_update(self.model, update + 1)
            last = offset
        return spent / sum(weight for _, weight in self.steps)


def in_bf16(loss: Loss, models: Models) -> Loss:
    """The same under torch's autocast, as ``--steady-autocast bf16`` has it."""
    cast: Loss = Autocast(models.ids.device.type, torch.bfloat16).around(loss)
    return cast


def ours(case: Case, models: Models) -> Contender:
    """One criterion."""
    criterion, model = make(case.criterion, case.flags), models.ours
    criterion.check_model(model)
    if type(criterion).prepare_model is not PlainCriterion.prepare_model:
        model = copy.deepcopy(model)
        criterion.prepare_model(model)
    loss: Loss = partial(loss_of, criterion, model)
    loss = in_bf16(loss, models) if case.bf16 else loss
    fresh = criterion.kept_state()
    return Contender(model, loss, case.steps, case.floor, criterion, fresh)


def transformers_plain(models: Models) -> Loss:
    """Cross-entropy as transformers computes it."""

    def loss(sample: Sample) -> Tensor:
        given = models.given(sample)
        found: Tensor = models.transformers(**given, labels=sample["target"]).loss
        return found

    return loss


def transformers_smart(models: Models) -> Loss:
    """smart-pytorch on transformers, as its page shows it: one ascent step."""
    smart: Any = importlib.import_module("smart_pytorch")
    model = models.transformers

    def loss(sample: Sample) -> Tensor:
        given = models.given(sample)
        embedded = model.get_input_embeddings()(given.pop("input_ids"))

        def logits(words: Tensor) -> Tensor:
            found: Tensor = model(inputs_embeds=words, **given).logits
            return found

        term = smart.SMARTLoss(logits, smart.kl_loss, loss_last_fn=smart.sym_kl_loss)
        clean = logits(embedded)
        found: Tensor = F.cross_entropy(clean, sample["target"]) + term(embedded, clean)
        return found

    return loss


def fairseqs_criterions(models: Models) -> tuple[Loss, Loss]:
    """fairseq's sentence_prediction, and the R3F among its examples."""
    from fairseq.examples.rxf.rxf_src.sentence_prediction_r3f import (
        SentencePredictionR3F,
    )

    task = SimpleNamespace(label_dictionary=None, target_dictionary=None)
    plain = SentencePredictionCriterion(SentencePredictionConfig(), task)
    r3f = SentencePredictionR3F(task, 1e-5, 1.0, "uniform", HEAD, False)
    return (
        partial(loss_of, plain, models.fairseqs),
        partial(loss_of, r3f.train(), models.fairseqs),
    )


def contenders(models: Models, only: Sequence[str]) -> dict[str, Contender]:
    """Those whose names match, in the order of the table; always both plain ones."""
    theirs, beside = transformers_plain(models), models.transformers
    plain, r3f = fairseqs_criterions(models)
    peers = {
        "transformers": Contender(beside, theirs, floor=1.0),
        "transformers, bf16": Contender(beside, in_bf16(theirs, models), floor=1.0),
        "fairseq": Contender(models.fairseqs, plain, floor=1.0),
        "fairseq's r3f": Contender(models.fairseqs, r3f, floor=2.0),
    }
    if find_spec("smart_pytorch"):
        # It lets the second pass train the word embeddings too.
        peers["smart-pytorch on transformers"] = Contender(
            beside, transformers_smart(models), floor=floor(CASES["smart"][2])
        )

    slow = unsupported(models.ids.device.type)

    def wanted(name: str) -> bool:
        always = name in ("plain", "transformers")
        left_out = slow and name.endswith("bf16")
        found = any(fnmatch(name, pattern) for pattern in only)
        return always or (found and not left_out)

    mine = {n: ours(case, models) for n, case in cases().items() if wanted(n)}
    return mine | {name: peer for name, peer in peers.items() if wanted(name)}


def take_turns(
    chosen: dict[str, Contender], sample: Sample, rounds: int
) -> dict[str, float]:
    """Median seconds of each; the first turn warms up."""
    taken: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(rounds + 1):
        for name, contender in chosen.items():
            taken[name].append(contender.seconds(sample, turn))
    return {name: statistics.median(spent[1:]) for name, spent in taken.items()}


# --- parts ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What every part measures with.

    Args:
        args: of the command line.
        models: in training mode, on the device.
        sentences: all of the file's first, padded.
        folder: an export of the model for transformers.
        scratch: for runs.
        cores: which this process was given.

    """

    args: argparse.Namespace
    models: Models
    sentences: dict[str, Tensor]
    folder: Path
    scratch: Path
    cores: list[int]

    def batch(self, count: int) -> Sample:
        """The first sentences."""
        lengths = self.sentences["src_lengths"][:count]
        tokens = self.sentences["src_tokens"][:count, : int(lengths.max())]
        return batch({"src_tokens": tokens, "src_lengths": lengths}, self.args.device)

    def unpadded(self, count: int, length: int) -> Sample:
        """Sentences one after the other, cut to rows of one length."""
        tokens = self.sentences["src_tokens"]
        pad = find_encoder(self.models.ours).padding_idx
        flat = tokens[tokens != pad]
        flat = flat.repeat(-(-count * length // len(flat)))[: count * length]
        lengths = torch.full((count,), length)
        rows = {"src_tokens": flat.view(count, length), "src_lengths": lengths}
        return batch(rows, self.args.device)


def batch_part(bench: Bench) -> list[Row]:
    """A batch of every criterion and peer."""
    sample = bench.batch(bench.args.sentences)
    bench.models.check(sample)
    chosen = contenders(bench.models, bench.args.only)
    found = take_turns(chosen, sample, bench.args.rounds)
    return [
        {
            "": name,
            "ms": f"{1e3 * spent:.0f}",
            "x plain": f"{spent / found['plain']:.2f}",
            "x transformers": f"{spent / found['transformers']:.2f}",
            "passes alone": f"{chosen[name].floor:.2f}",
        }
        for name, spent in found.items()
    ]


GROWTH = {
    "sentences": (8, 16, 32, 64),
    "tokens": (16, 32, 64, 128),
    "layers": (3, 6, 12),
}
#: Those that grow, and how many sentences there are of every number of tokens.
GROWING, UNPADDED = (
    ("plain", "smart", "transformers", "fairseq", "smart-pytorch*"),
    8,
)


def points(bench: Bench) -> Iterator[tuple[str, int, Models, Sample]]:
    """What grows and to how many, with models and batch."""
    models, form = bench.models, bench.models.ours.form
    for count in GROWTH["sentences"]:
        yield "sentences", count, models, bench.batch(count)
    for length in [n for n in GROWTH["tokens"] if n <= form["max_positions"]]:
        yield "tokens", length, models, bench.unpadded(UNPADDED, length)
    for layers in [n for n in GROWTH["layers"] if n <= form["encoder_layers"]]:
        sample = bench.batch(bench.args.sentences)
        yield "layers", layers, models.cut(layers), sample


def growth_part(bench: Bench) -> list[Row]:
    """Some of them with more sentences, tokens or layers."""
    rows = []
    for what, size, models, sample in points(bench):
        chosen = contenders(models, GROWING)
        found = take_turns(chosen, sample, bench.args.rounds)
        times = {name: f"{1e3 * spent:.0f}" for name, spent in found.items()}
        rows.append({"": what, "of": str(size), **times})
    return rows


# --- whole runs -----------------------------------------------------------------------


RATE = 5e-5


def write_data(bench: Bench, folder: Path) -> None:
    """Sentences with labels 0 and 1 in turn, to train on and to evaluate."""
    lines = [line for line in read_text(bench.args.text).split("\n") if line.strip()]
    first, rest = bench.args.epoch_sentences, bench.args.epoch_sentences // 2
    for name, some in (("train", lines[:first]), ("valid", lines[-rest:])):
        rows = [f"{' '.join(line.split())}\t{i % 2}\n" for i, line in enumerate(some)]
        write_text(folder / f"{name}.tsv", "text\tlabel\n" + "".join(rows))


def runs(bench: Bench, data: Path) -> dict[str, list[str]]:
    """Command lines without the folder they write to, which comes last."""
    args, here = bench.args, Path(__file__).parent
    updates = args.epochs * -(-args.epoch_sentences // args.sentences)
    same = [f"--batch-size={args.sentences}", f"--lr={RATE}"]
    trainer = [sys.executable, str(here / "trainer.py"), str(bench.folder), str(data)]
    trainer += [*same, f"--epochs={args.epochs}", f"--warmup={updates // 10}"]
    ours = [
        *(str(Path(sys.executable).with_name("fairseq-train")), str(data)),
        *("--user-dir", str(Path(fairseq_steady.__file__).parent)),
        *("--task=text_classification", f"--steady-model={args.model.resolve()}"),
        *("--optimizer=bert_adam", "--bert-adam-bias-correction", "--clip-norm=1"),
        *("--lr-scheduler=polynomial_decay", f"--warmup-updates={updates // 10}"),
        *(f"--max-epoch={args.epochs}", *same),
    ]
    smart = ["--criterion=smart", "--smart-fraction=0.25", "--smart-probe-interval=0"]
    if args.device == "cpu":
        ours.append("--cpu")
    found = {
        "transformers' Trainer": [*trainer, f"--device={args.device}"],
        "fairseq-train, plain": [*ours, "--criterion=plain"],
        "fairseq-train, smart, fraction 1/4": [*ours, *smart],
    }
    if not unsupported(args.device):
        half = ["--criterion=plain", "--steady-autocast=bf16"]
        found["fairseq-train, plain, bf16"] = [*ours, *half]
    return found


_DONE = re.compile(r"done training in ([\d.]+) seconds")


def run(command: list[str], scratch: Path, cores: list[int]) -> tuple[float, float]:
    """Seconds of a whole run, and of its training as it says itself.

    Raises:
        UserError: it failed.

    """
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        last = [out] if "trainer.py" in command[1] else [f"--save-dir={out}"]
        cache = {"XDG_CACHE_HOME": out}  # every run tokenises
        environment = {**os.environ, **cache, "OMP_NUM_THREADS": str(len(cores))}
        started = time.perf_counter()
        done = subprocess.run(
            [*command, *last],
            env={**environment, "FAIRSEQ_STEADY_VERBOSE": "1"},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=partial(os.sched_setaffinity, 0, cores),
        )
        whole = time.perf_counter() - started
    said = _DONE.search(done.stdout + done.stderr)
    if done.returncode or not said:
        raise UserError(f"{command[:3]} failed: {done.stderr.strip()[-500:]}")
    return whole, float(said[1])


def epoch_part(bench: Bench) -> list[Row]:
    """Whole runs, taking turns; without a GPU on one core, then on two."""
    data, most = bench.scratch / "data", len(bench.cores)
    write_data(bench, data)
    commands, rows = runs(bench, data), []
    counts = (1, 2) if bench.args.device == "cpu" else (most,)
    for threads in [n for n in counts if n <= most]:
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(bench.args.rounds):
            for name, command in commands.items():
                cores = bench.cores[:threads]
                taken[name].append(run(command, bench.scratch, cores))
        found = {
            name: [statistics.median(part) for part in zip(*spent, strict=True)]
            for name, spent in taken.items()
        }
        theirs = found["transformers' Trainer"]
        for name, (whole, training) in found.items():
            rows.append(
                {
                    "": name,
                    "threads": str(threads),
                    "s": f"{whole:.1f}",
                    "of it training, s": f"{training:.1f}",
                    "x faster": f"{theirs[0] / whole:.2f}",
                    "training, x faster": f"{theirs[1] / training:.2f}",
                }
            )
    return rows


# --- what is written ------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def conditions(bench: Bench, part: str) -> str:
    """How, on what and when."""
    args, sample = bench.args, bench.batch(bench.args.sentences)
    real = sample["ntokens"] / sample["net_input"]["src_tokens"].numel()
    threads = f"{torch.get_num_threads()} CPU thread(s), " if part != "epoch" else ""
    names = ("torch", "transformers", "smart-pytorch", "accelerate")
    versions = [f"{n} {version(n)}" for n in names if find_spec(n.replace("-", "_"))]
    return (
        f"{datetime.date.today()}, {hardware(args.device)}, {threads}"
        f"{', '.join(versions)}; batches of {args.sentences} sentences, "
        f"{real:.0%} of the tokens real; medians of {args.rounds} turns: "
        f"`peers.py MODEL TEXT --part {part}{given(args)}`"
    )


def given(args: argparse.Namespace) -> str:
    """What else the command line says, but for paths."""
    silent = vars(parser().parse_args(["MODEL", "TEXT"]))
    said = {n: v for n, v in vars(args).items() if v != silent[n]}
    for name in ("model", "text", "out", "part"):
        said.pop(name, None)
    words = {n: v if isinstance(v, list) else [v] for n, v in said.items()}
    return "".join(
        f" --{name.replace('_', '-')} {shlex.join(map(str, values))}"
        for name, values in words.items()
    )


def hardware(device: str) -> str:
    """The processor's name."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    with suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.machine()


def save(rows: list[Row], path: Path) -> None:
    """As CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def put(path: Path, part: str, text: str) -> None:
    """Renew the part's block of a README, if there is one."""
    if path.is_file():
        block = re.compile(rf"(<!-- {part} -->\n).*?(<!-- end -->)", re.S)
        old = path.read_text("utf-8")
        write_text(path, block.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", old))


FIGURE = "![Milliseconds of a batch against sentences, tokens, layers](growth.png)"


def plot(rows: list[Row], path: Path) -> None:
    """A panel for each thing that grows."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(GROWTH), figsize=(9.5, 3.2))
    for axis, what in zip(axes, GROWTH, strict=True):
        some = [row for row in rows if row[""] == what]
        sizes = [int(row["of"]) for row in some]
        for name in [n for n in some[0] if n not in ("", "of")]:
            axis.plot(sizes, [float(row[name]) for row in some], "o-", label=name, ms=3)
        axis.set(xscale="log", yscale="log", xlabel=what, xticks=sizes)
        axis.set_xticks(sizes, map(str, sizes))
        axis.minorticks_off()
    axes[0].set_ylabel("ms a batch")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=150)


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "batch": batch_part,
    "epoch": epoch_part,
    "growth": growth_part,
}


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("text", type=Path, help="a sentence a line")
    parser.add_argument("--out", type=Path, help="folder of the tables")
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--only", nargs="+", default=["*"], help="rows of the first, as 'smart*'"
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--sentences", type=int, default=32, help="of a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--epoch-sentences", type=int, default=640)
    parser.add_argument("--device", default="cpu")
    return parser


def main() -> None:
    """Measure, print and write."""
    args = parser().parse_args()
    cores = sorted(os.sched_getaffinity(0))
    torch.set_num_threads(args.threads)
    if args.device == "cpu":
        os.sched_setaffinity(0, cores[: args.threads])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "export"
        export_hf(args.model, folder)
        models = Models.load(args.model, folder, args.device)
        sentences = inputs(
            ModelDirectory.open(args.model), args.text, 4 * args.sentences
        )
        bench = Bench(args, models, sentences, folder, Path(scratch), cores)
        for part in args.part:
            rows = PARTS[part](bench)
            text = f"{table(rows)}\n\n{conditions(bench, part)}"
            print(f"{text}\n", flush=True)
            if args.out:
                save(rows, args.out / f"{part}.csv")
                if part == "growth":
                    plot(rows, args.out / "growth.png")
                    text = f"{FIGURE}\n\n{text}"
                put(args.out / "README.md", part, text)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
