"""Our criterions with fairseq's own tasks, on data that fairseq binarised."""

from pathlib import Path
from typing import Any

import pytest
from conftest import TRAIN, WORDS, Zygote, sentences
from helpers import logged
from method_table import METHODS, arguments

SIZES = [
    *("--encoder-layers=2", "--encoder-embed-dim=16", "--encoder-ffn-embed-dim=32"),
    "--encoder-attention-heads=2",
]
DECODER = [
    *("--decoder-layers=2", "--decoder-embed-dim=16", "--decoder-ffn-embed-dim=32"),
    *("--decoder-attention-heads=2", "--max-source-positions=32"),
    *("--max-target-positions=32", "--share-all-embeddings"),
]
#: So that nothing but the perturbation makes a divergence.
STILL = ["--dropout=0", "--attention-dropout=0"]
STOCK = {name: row for name, row in METHODS.items() if row.stock is not None}


def seq2seq(method: str) -> list[str]:
    row = STOCK[method]
    return [*arguments(method, row.stock or {}), *(STILL if row.divergence else [])]


def run(zygote: Zygote, *command: Any, status: int = 0) -> Any:
    (done,) = zygote.run([str(part) for part in command])
    assert done.returncode == status, done.stderr[-3000:]
    return done


def binarise(zygote: Zygote, folder: Path, out: Path, *flags: str) -> None:
    prefixes = [f"--{s}pref={folder / s}" for s in ("train", "valid")]
    only = ["--workers=1", f"--destdir={out}"]
    run(zygote, "fairseq-preprocess", *prefixes, *only, *flags)


@pytest.fixture(scope="module")
def translation(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    """Copy a sentence backwards."""
    folder = tmp_path_factory.mktemp("translation")
    for split, count in (("train", 48), ("valid", 12)):
        lines = [text for text, _ in sentences(count)]
        turned = [" ".join(reversed(line.split())) for line in lines]
        (folder / f"{split}.a").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.b").write_text("\n".join(turned) + "\n")
    out = folder / "bin"
    binarise(zygote, folder, out, "-s=a", "-t=b", "--joined-dictionary")
    return out


@pytest.mark.parametrize("method", STOCK)
def test_bart_translates_with_every_criterion(
    translation: Path, tmp_path: Path, zygote: Zygote, method: str
) -> None:
    done = run(
        zygote,
        *("fairseq-train", *TRAIN, translation, "--task=translation"),
        *("--arch=bart_base", *SIZES, *DECODER, "--label-smoothing=0.1"),
        *(*seq2seq(method), "--max-epoch=8", "--no-save"),
        *(f"--save-dir={tmp_path}", "--lr=5e-3"),
    )
    losses = [float(line["train_task_loss"]) for line in logged(done, "train")]
    assert losses[-1] < losses[0] - 0.1
    valid = logged(done, "valid")[-1]
    assert float(valid["valid_ppl"]) == pytest.approx(
        2 ** float(valid["valid_nll_loss"]), rel=0.02
    )
    if method in ("sift", "smart", "r3f", "r_drop"):
        assert float(logged(done, "train")[-1][f"train_{method}_divergence"]) > 0


def test_r4f_without_a_head_is_refused(
    translation: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """Before the first batch: nothing is written."""
    done = run(
        zygote,
        *("fairseq-train", *TRAIN, translation, "--task=translation"),
        *("--arch=bart_base", *SIZES, *DECODER, "--criterion=r4f", "--max-update=1"),
        f"--save-dir={tmp_path}",
        status=1,
    )
    assert any(
        line.startswith("error: --criterion r4f bounds the weights of a classification")
        for line in done.stderr.splitlines()
    )
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(
    ("method", "arch"), [("sift", "roberta_base"), ("r3f", "deberta_v3_base")]
)
def test_sentence_prediction_of_fairseqs_own(
    tmp_path: Path, zygote: Zygote, method: str, arch: str
) -> None:
    for split, count in (("train", 40), ("valid", 16)):
        rows = sentences(count)
        (tmp_path / split).write_text("\n".join(text for text, _ in rows) + "\n")
        labels = tmp_path / "labels"
        labels.mkdir(exist_ok=True)
        (labels / split).write_text("\n".join(f"y{y}" for _, y in rows) + "\n")
    words = tmp_path / "dict.txt"
    words.write_text("".join(f"{word} 1\n" for word in [*WORDS, "<mask>"]))
    out = tmp_path / "bin"
    binarise(zygote, tmp_path, out / "input0", "--only-source", f"--srcdict={words}")
    binarise(zygote, tmp_path / "labels", out / "label", "--only-source")
    done = run(
        zygote,
        *("fairseq-train", *TRAIN, out, "--task=sentence_prediction"),
        *(f"--arch={arch}", *SIZES, "--max-positions=32", "--num-classes=2"),
        *("--init-token=0", "--separator-token=2", f"--criterion={method}"),
        *(*STILL, "--max-epoch=2", "--no-save", f"--save-dir={tmp_path}"),
        *("--required-batch-size-multiple=1", "--find-unused-parameters"),
        *("--best-checkpoint-metric=mcc", "--maximize-best-checkpoint-metric"),
    )
    assert "valid_mcc" in logged(done, "valid")[-1]
    assert float(logged(done, "train")[-1][f"train_{method}_divergence"]) > 0
