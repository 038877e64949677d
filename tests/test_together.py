"""What is tested alone elsewhere, put together: each was a fault once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Trainer
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.inference.averaging import mean_weights
from fairseq_steady.inference.predicting import Predictor
from helpers import write_split

#: A layer of each side, for fairseq's architectures.
SMALL = [
    f"--{side}-{name}"
    for side in ("encoder", "decoder")
    for name in ("layers=1", "embed-dim=16", "ffn-embed-dim=16", "attention-heads=2")
]
ENCODER = [*SMALL[:4], "--max-positions=32"]
BOTH = [*SMALL, "--max-source-positions=32", "--max-target-positions=32"]
SCRATCH = ["--steady-from-scratch", "--max-update=1", "--disable-validation"]


def lines(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path, cola_data: Path) -> Path:
    """Data of several tasks."""
    spans = {"start1": 0, "end1": 2, "start2": 0, "end2": 2}
    word = {"word": "w1", "sentence1": "w1 w2", "sentence2": "w1 w3", **spans}
    texts = {"document": "w1 w2 w3 w4", "summary": "w1 w2"}
    chosen = {"premise": "w1", "choice1": "w2", "choice2": "w3", "question": "cause"}
    for split in ("train", "val"):
        lines(tmp_path / f"WiC/{split}.jsonl", *({**word, "label": True},) * 8)
        lines(tmp_path / f"COPA/{split}.jsonl", *({**chosen, "label": 1},) * 8)
    for split in ("train", "valid"):
        lines(tmp_path / f"news/{split}.jsonl", *(texts,) * 8)
    (tmp_path / "cola").symlink_to(cola_data)
    return tmp_path


#: The data, flags, those of the architecture, and what is said.
REFUSED: dict[str, tuple[str, str, list[str], str]] = {
    "an architecture without heads": (
        *("cola", "--task=cola --arch=transformer", [*BOTH, *SCRATCH]),
        "--arch: this architecture has no classification heads, which the task needs",
    ),
    "words before a decoder": (
        *("WiC", "--task=superglue --superglue-task=wic --arch=bart_base"),
        [*BOTH, *SCRATCH],
        "reads words where an encoder leaves them, and ",
    ),
    "ends before a decoder": (
        *("cola", "--task=cola --steady-special-tokens --arch=bart_base"),
        [*BOTH, *SCRATCH],
        "--steady-special-tokens does not go with BART's head",
    ),
    "summaries without a decoder": (
        *("news", "--task=summarization --arch=roberta --steady-model=BART"),
        [*ENCODER, *SCRATCH, "--summarization-form=gigaword"],
        "--arch: this architecture has no decoder, which summarization needs",
    ),
    "scores of summaries": (
        *("news", "--task=summarization --steady-model=BART"),
        ["--summarization-form=gigaword", "--regression-target"],
        "--regression-target is for fairseq's own tasks; scores are learnt",
    ),
    "weights of choices": (
        *("COPA", "--task=superglue --superglue-task=copa"),
        ["--steady-class-weights=1,2"],
        "--steady-class-weights is for classes, and copa chooses among texts; leave",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_go_together_is_one_line(
    models: dict[str, Path], folder: Path, fairseq_train: Trainer, what: str
) -> None:
    data, task, more, message = REFUSED[what]
    flags = task.replace("BART", str(models["bart"])).split()
    done = fairseq_train(
        *(folder / data, f"--steady-model={models['roberta']}", "--no-save"),
        *(*flags, *more, "--max-update=1"),
        status=1,
    )
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_architecture_of_its_own_predicts_and_is_not_exported(
    models: dict[str, Path], folder: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    fairseq_train(
        *(folder / "cola", "--task=cola", f"--steady-model={models['deberta']}"),
        *("--arch=deberta_v3_base", *ENCODER, *SCRATCH, f"--save-dir={tmp_path}"),
    )
    path = tmp_path / "checkpoint_last.pt"
    assert next(iter(Predictor(path)(["w1 w2"]))).label in ("0", "1")
    with pytest.raises(UserError, match="an --arch of its own, which has no form in"):
        export_hf(path, tmp_path / "out")


def test_an_evaluation_that_is_cut_short_keeps_no_outputs(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    """Sentences that were not judged had outputs of 0 and the first class."""
    done = fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models['roberta']}"),
        *("--max-update=2", "--no-save", f"--steady-record={tmp_path}"),
        *("--max-valid-steps=1", "--valid-subset=valid"),
        "--validate-interval-updates=1",
    )
    assert (tmp_path / "valid-2.json").is_file()
    found = json.loads((tmp_path / "valid-1.json").read_text())
    assert not {"outputs", "gold"} & set(found)
    assert 0 <= found["metrics"]["accuracy"] <= 1
    assert done.stderr.count("valid was not evaluated to its end") == 1


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CoLA and SST-2, in GLUE's layout."""
    data = tmp_path_factory.mktemp("glue")
    for split in ("train", "valid"):
        texts = [(f"w{n} w{n + 1}", n % 2) for n in range(16)]
        write_split(data, "cola", split, [f"s\t{y}\t*\t{text}" for text, y in texts])
        write_split(data, "sst2", split, [f"{text}\t{y}" for text, y in texts])
    rows = ["index\tsentence", *(f"{n}\tw{n} w3" for n in range(5))]
    (data / "SST-2/test.tsv").write_text("\n".join([*rows, ""]))
    return data


SEVERAL = ["--task=glue_multitask", "--multitask-names=cola,sst2"]


def test_one_class_of_the_first_of_several_tasks_picks_checkpoints(
    models: dict[str, Path], glue: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    from fairseq_steady.commands import submission

    done = fairseq_train(
        *(glue, *SEVERAL, f"--steady-model={models['roberta']}", "--max-epoch=2"),
        *("--best-checkpoint-metric=recall_1", f"--save-dir={tmp_path}"),
    )
    assert "cola_best_recall_1" in done.stderr
    assert "sst2_recall_1" not in done.stderr
    # The leaderboard's file is of one head.
    best = tmp_path / "checkpoint_best.pt"
    words = [str(best), str(glue), str(tmp_path / "sent"), "--cpu"]
    assert submission.main([*words, "--head", "sst2"]) == 0
    sent = (tmp_path / "sent/SST-2.tsv").read_text().splitlines()
    assert [line.partition("\t")[0] for line in sent] == ["index", *"01234"]
    assert {line.partition("\t")[2] for line in sent[1:]} <= {"0", "1"}
    with pytest.raises(UserError, match="several heads; --head names one: cola, sst2"):
        submission.main(words)


def test_a_pooler_is_not_for_a_head_that_goes_on(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    common = [cola_data, "--task=cola", f"--steady-model={models['roberta']}"]
    common += ["--max-update=1", "--disable-validation"]
    fairseq_train(*common, f"--save-dir={tmp_path}")
    common += [f"--finetune-from-model={tmp_path}/checkpoint_last.pt", "--no-save"]
    done = fairseq_train(*common, "--steady-pooler", status=1)
    last = done.stderr.splitlines()[-1]
    assert "--steady-pooler is for a new head, and that of " in last
    assert last.endswith("goes on; add --steady-new-head, or leave it out")


def test_heads_of_other_tasks_have_no_mean(tmp_path: Path) -> None:
    paths = []
    for of in ("cola", "sst2"):
        paths.append(tmp_path / f"{of}.pt")
        head = {"sentence_classification_head": {"labels": ["0", "1"], "of": of}}
        kept = {"model": {"w": torch.ones(2)}, "task_state": {"heads": head}}
        torch.save(kept, paths[-1])
    mean_weights([paths[0], paths[0]])
    with pytest.raises(UserError, match=r"has heads for .*sst2.*cola.* have no mean"):
        mean_weights(paths)
