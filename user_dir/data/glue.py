"""The eight GLUE tasks: how their official files read."""

from collections.abc import Sequence

from .layouts import Bare, Layout

_COLA = Bare(4, (3,), 1)
_STSB = Bare(7, (5, 6), 4)
_MRPC: dict[str, Sequence[str]] = {
    "train": ("train.tsv", "msr_paraphrase_train.txt"),
    "valid": ("dev.tsv",),
    "test": ("test.tsv", "msr_paraphrase_test.txt"),
}
_STSB_FILES: dict[str, Sequence[str]] = {
    "train": ("train.tsv", "sts-train.csv"),
    "valid": ("dev.tsv", "sts-dev.csv"),
    "test": ("test.tsv", "sts-test.csv"),
}
_MNLI: dict[str, Sequence[str]] = {
    "train": ("train.tsv",),
    "valid": ("dev_matched.tsv",),
    "mismatched": ("dev_mismatched.tsv",),
    "test": ("test_matched.tsv",),
    "test_mismatched": ("test_mismatched.tsv",),
}
_BINARY = ("0", "1")
_ENTAILED = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")
LAYOUTS = {
    "cola": Layout(
        "CoLA",
        texts=["sentence"],
        label="label",
        labels=_BINARY,
        metric="mcc",
        bare={"train.tsv": _COLA, "dev.tsv": _COLA},
    ),
    "sst2": Layout("SST-2", ["sentence|content"], "label", _BINARY, "accuracy"),
    "mrpc": Layout(
        "MRPC",
        texts=["#1 String", "#2 String"],
        label="Quality",
        labels=_BINARY,
        metric="f1",
        files=_MRPC,
    ),
    "stsb": Layout(
        "STS-B",
        texts=_PAIR,
        label="score",
        labels=None,
        metric="pearson",
        files=_STSB_FILES,
        bare=dict.fromkeys(("sts-train.csv", "sts-dev.csv", "sts-test.csv"), _STSB),
    ),
    # A few questions hold a line end, or nothing: such pairs are left out.
    "qqp": Layout(
        "QQP",
        texts=["question1", "question2"],
        label="is_duplicate",
        labels=_BINARY,
        metric="f1",
        broken=True,
    ),
    "mnli": Layout(
        "MNLI",
        texts=_PAIR,
        label="gold_label",
        labels=("contradiction", "neutral", "entailment"),
        metric="accuracy",
        files=_MNLI,
    ),
    "qnli": Layout("QNLI", ["question", "sentence"], "label", _ENTAILED, "accuracy"),
    "rte": Layout("RTE", _PAIR, "label", _ENTAILED, "accuracy"),
}


#: What the leaderboard calls a task's predictions, by split.
SUBMISSIONS = {
    "cola": {"test": "CoLA"},
    "sst2": {"test": "SST-2"},
    "mrpc": {"test": "MRPC"},
    "stsb": {"test": "STS-B"},
    "qqp": {"test": "QQP"},
    "mnli": {"test": "MNLI-m", "test_mismatched": "MNLI-mm"},
    "qnli": {"test": "QNLI"},
    "rte": {"test": "RTE"},
}
