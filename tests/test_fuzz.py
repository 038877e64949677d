"""Whatever a user types or has in a file: it trains, or one line says what to mend.

    bash scripts/test.sh -m slow tests/test_fuzz.py

tries other cases at each start.
"""

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fairseq_steady  # noqa: F401  fills the registries
import pytest
from conftest import SCORE_FLAGS, TRAIN, Zygote, sentences
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from helpers import LOOSE, glue_row, is_clear, make_sentiment_data, write_split
from hypothesis import given, settings
from hypothesis import strategies as st

# --- raw files ------------------------------------------------------------------------


def make_glue(folder: Path) -> None:
    for task in ("cola", "stsb", "rte"):
        for split in ("train", "valid"):
            write_split(folder, task, split, [glue_row(task, n) for n in range(12)])


def make_nli(folder: Path) -> None:
    languages, labels = ("en", "ur"), ("entailment", "neutral", "contradictory")
    rows = [(text, f"w{n}", n) for n, (text, _) in enumerate(sentences(12))]
    train = [f"{one}\t{two}\t{labels[n % 3]}" for one, two, n in rows]
    (folder / "multinli.train.en.tsv").write_text(
        "\n".join(["premise\thypo\tlabel", *train])
    )
    dev = [f"{languages[n % 2]}\t{labels[n % 2]}\t{one}\t{two}" for one, two, n in rows]
    (folder / "xnli.dev.tsv").write_text(
        "\n".join(["language\tgold_label\tsentence1\tsentence2", *dev])
    )


def make_tables(folder: Path) -> None:
    lines = [f"{text}\t{label}" for text, label in sentences(12)]
    for split in ("train", "valid"):
        (folder / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *lines]))


def make_scores(folder: Path) -> None:
    rows = [f"{text}\tw{n}\t{n / 3:.2f}" for n, (text, _) in enumerate(sentences(12))]
    (folder / "train.tsv").write_text("\n".join(["a\tb\tscore", *rows]))
    found = [dict(zip(["a", "b", "score"], r.split("\t"), strict=True)) for r in rows]
    (folder / "valid.jsonl").write_text("\n".join(json.dumps(one) for one in found))


def make_cola(folder: Path) -> None:
    for name in ("in_domain_train", "in_domain_dev", "out_of_domain_dev"):
        lines = [f"src\t{label}\t\t{text}" for text, label in sentences(12)]
        (folder / f"{name}.tsv").write_text("\n".join(lines))


def make_articles(folder: Path) -> None:
    texts = [text for text, _ in sentences(12)]
    rows = [f'"{text}","{text.split()[0]}"' for text in texts]
    (folder / "train.csv").write_text("\n".join(["source,target", *rows]) + "\n")
    for side in ("source", "target"):
        (folder / f"valid.{side}").write_text("\n".join(texts) + "\n")


ARTICLES = ["--summarization-form=custom", "--summarization-max-length=4"]
Task = tuple[str, Callable[[Path], Any], list[str]]
TASKS: dict[str, Task] = {
    "cola": ("roberta", make_cola, []),
    "uci_sentiment": ("roberta", make_sentiment_data, []),
    "glue": ("roberta", make_glue, ["--glue-task=rte"]),
    "glue_multitask": ("deberta", make_glue, ["--multitask-names=cola,stsb"]),
    "nli": ("roberta", make_nli, ["--nli-task=xnli"]),
    "text_classification": ("roberta", make_tables, []),
    "text_regression": ("deberta", make_scores, SCORE_FLAGS[1:]),
    "summarization": ("bart", make_articles, ARTICLES),
}

# --- what goes wrong in them ----------------------------------------------------------

JUNK = [b"", b"\t", b"\n", b"\n\n", b"\r\n", b'"', b",", b"\0", b"\xff\xfe", b"{", b"}"]
JUNK += [b"\xef\xbb\xbf", "\u2028".encode(), b"nan", b"-1", b"1e999", b"w1 " * 60, b"?"]


@dataclasses.dataclass(frozen=True)
class Edit:
    """Bytes of one file from one place on, replaced; or no such file."""

    file: int
    place: int
    length: int
    junk: bytes
    how: str

    def apply(self, folder: Path) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = files[self.file % len(files)]
        data = path.read_bytes()
        place = self.place % (len(data) + 1)
        if self.how == "line":  # at the start of a line, where columns are
            place = data.rfind(b"\n", 0, place) + 1
        if self.how == "remove":
            path.unlink()
        else:
            rest = b"" if self.how == "cut" else data[place + self.length :]
            path.write_bytes(data[:place] + self.junk + rest)


EDITS = st.builds(
    Edit,
    file=st.integers(0, 8),
    place=st.integers(0, 2000),
    length=st.sampled_from([0, 0, 1, 5, 40]),
    junk=st.sampled_from(JUNK) | st.binary(max_size=6),
    how=st.sampled_from(["insert", "insert", "line", "line", "cut", "remove"]),
)

# --- command lines --------------------------------------------------------------------

VALUES = ["0", "1", "-1", "2", "7", "0.5", "1.5", "1e-3", "-0.1", "nan", "inf", "", "é"]
VALUES += ["abc", "/nowhere", "train", "valid", "cola", "none", "true", "1,2", "a b"]
#: fairseq's own that everybody sets.
COMMON = [
    *("arch", "batch-size", "best-checkpoint-metric", "clip-norm", "criterion"),
    *("dropout", "finetune-from-model", "label-smoothing", "log-interval", "lr"),
    *("lr-scheduler", "max-epoch", "max-tokens", "num-workers", "optimizer"),
    *("patience", "restore-file", "save-interval-updates", "seed", "task"),
    *("total-num-update", "update-freq", "valid-subset", "validate-interval-updates"),
    *("warmup-updates", "required-batch-size-multiple", "ddp-backend", "train-subset"),
]
OURS = ("steady_", "summarization_", "multitask_", "glue_", "uci_", "nli_")


def names_of(config: type) -> list[str]:
    """Flags of a dataclass."""
    return [f.name.replace("_", "-") for f in dataclasses.fields(config)]


def method_flags(registry: dict[str, type], kind: str) -> list[list[str]]:
    """Each of our methods, with each of its flags in turn."""
    found = []
    for name, config in registry.items():
        if config.__module__.startswith("fairseq_steady"):
            own = name.split("_ada")[0].replace("_", "-")
            found += [
                [f"--{kind}={name}", f"--{flag}"]
                for flag in names_of(config)
                if flag.startswith(own)
            ]
    return found


METHODS = [
    *method_flags(CRITERION_DATACLASS_REGISTRY, "criterion"),
    *method_flags(OPTIMIZER_DATACLASS_REGISTRY, "optimizer"),
]


@st.composite
def flags(draw: st.DrawFn, task: str) -> list[str]:
    """One flag, or a method and one of its flags, with any value."""
    own = [
        [f"--{flag}"]
        for flag in names_of(TASK_DATACLASS_REGISTRY[task])
        if flag.replace("-", "_").startswith(OURS)
    ]
    common = [[f"--{flag}"] for flag in COMMON]
    kind = draw(st.sampled_from([own, common, METHODS]))
    *before, last = draw(st.sampled_from(kind))
    return [*before, f"{last}={draw(st.sampled_from(VALUES))}"]


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[Edit], list[str]]:
    """A task, what happened to its files, what was typed."""
    task = draw(st.sampled_from(sorted(TASKS)))
    edits = draw(st.lists(EDITS, max_size=2))
    typed = draw(st.lists(flags(task), max_size=2))
    return task, edits, [word for words in typed for word in words]


# --- the runs -------------------------------------------------------------------------


#: What is written there must not be written into this checkout.
FOLDERS = re.compile(r"^(--steady-(?:record|cache-dir)=)(?=.)")


def run(
    zygote: Zygote, models: dict[str, Path], case: tuple[str, list[Edit], list[str]]
) -> None:
    task, edits, typed = case
    family, make, own = TASKS[task]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        data.mkdir()
        make(data)
        for edit in edits:
            edit.apply(data)
        words = [*TRAIN, data, f"--task={task}", f"--steady-model={models[family]}"]
        words += [*own, "--no-save", f"--save-dir={folder / 'out'}"]
        words += [FOLDERS.sub(rf"\1{folder}/", word) for word in typed]
        (done,) = zygote.run(["fairseq-train", *map(str, words), "--max-update=1"])
    assert is_clear(done), done.stderr[-2500:]


@settings(LOOSE, max_examples=15, derandomize=True)
@given(case=cases())
def test_it_trains_or_says_in_one_line_what_to_mend(
    case: Any, zygote: Zygote, models: dict[str, Path]
) -> None:
    run(zygote, models, case)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@settings(LOOSE, max_examples=600)
@given(case=cases())
def test_for_ten_minutes(case: Any, zygote: Zygote, models: dict[str, Path]) -> None:
    run(zygote, models, case)
