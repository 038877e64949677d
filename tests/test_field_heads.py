"""Heads and labels in the field: names decide, and what is logged can be believed."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SCORE_FLAGS, Trainer, Zygote, make_model_directory, sentences
from fairseq.logging import metrics
from fairseq_steady.criterions.kinds import Classes, Scores, kind_of
from fairseq_steady.criterions.plain import PlainCriterion
from fairseq_steady.errors import UserError
from fairseq_steady.inference import probing
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.model_dir import write_model_directory
from fairseq_steady.models.steady import HEAD
from fairseq_steady.scores.metrics import (
    COUNTS,
    SCATTERED,
    class_counts,
    one_class,
    one_score,
)
from fairseq_steady.tasks._heads import Head, Start, moves, stored_heads
from fairseq_steady.tasks._steady import follow_metric
from helpers import (
    HALF,
    assert_equal_weights,
    checkpoint,
    glue_row,
    logged,
    train_on_workers,
    write_split,
)
from omegaconf import OmegaConf

TEXT = "--task=text_classification"
#: Nothing is learnt: the evaluation is of what was loaded.
STILL = ["--lr=0", "--max-update=1", "--no-epoch-checkpoints"]
OUTPUT = f"classification_heads.{HEAD}.out_proj."
Run = Callable[..., Any]

# --- the same head under other labels -----------------------------------------------


def table(folder: Path, labels: list[str], train: int = 64) -> Path:
    """Train and valid sets; the last word tells the class when there are three."""
    folder.mkdir()
    for split, count in (("train", train), ("valid", 24)):
        rows = []
        for i, (text, label) in enumerate(sentences(count)):
            three = len(labels) == 3
            ended = f"{text.replace('w0', 'w1')} w{50 + i % 3}" if three else text
            rows.append(f"{ended}\t{labels[i % 3 if three else label]}")
        (folder / f"{split}.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("tables")
    return {
        "moods": table(base / "moods", ["neg", "pos"]),
        "mail": table(base / "mail", ["ham", "spam"]),
        "three": table(base / "three", ["a", "b", "c"]),
    }


#: By name: the data, what is trained on them.
FIRST: dict[str, tuple[str, list[str]]] = {
    "moods": ("moods", []),
    "sorted the other way": ("moods", ["--steady-labels=pos,neg"]),
    "r4f": ("moods", ["--criterion=r4f"]),
    "three": ("three", []),
}


@pytest.fixture(scope="module")
def trained(
    models: dict[str, Path],
    tables: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    fairseq_train: Trainer,
) -> dict[str, Path]:
    """Checkpoint folders of short runs."""
    base = tmp_path_factory.mktemp("trained")
    for name, (data, flags) in FIRST.items():
        fairseq_train(
            *(tables[data], TEXT, f"--steady-model={models['roberta']}", *flags),
            *("--max-update=6", "--lr=3e-3", "--no-epoch-checkpoints"),
            f"--save-dir={base / name}",
        )
    return {name: base / name for name in FIRST}


def answers(folder: Path) -> list[dict[str, float]]:
    """Probabilities by class of some texts."""
    predict = Predictor(folder / "checkpoint_last.pt")
    return [found.probabilities for found in predict(text for text, _ in sentences(9))]


@pytest.fixture
def go_on(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> Callable[..., Any]:
    """Start from a checkpoint without learning anything."""

    def run(data: Path, before: Path, *flags: str, status: int = 0) -> Any:
        start = [f"--finetune-from-model={before / 'checkpoint_last.pt'}"]
        if any(flag.startswith("--restore-file") for flag in flags):
            start = []
        return fairseq_train(
            *(data, TEXT, f"--steady-model={models['roberta']}", *start, *STILL),
            *(f"--save-dir={tmp_path / 'second'}", *flags),
            status=status,
        )

    return run


RESTORED = [f"--reset-{w}" for w in ("optimizer", "dataloader", "meters")]
#: First run, second run's data and flags, where each of its outputs comes from.
TAKEN: dict[str, tuple[str, str, list[str], list[int]]] = {
    "as it is": ("moods", "moods", [], [0, 1]),
    "another order": ("moods", "moods", ["--steady-labels=pos,neg"], [1, 0]),
    "the checkpoint's order": ("sorted the other way", "moods", [], [0, 1]),
    "renamed": ("moods", "mail", ["--steady-label-map=neg=ham,pos=spam"], [0, 1]),
    "renamed, another order": (
        *("moods", "mail"),
        ["--steady-label-map=pos=spam, neg=ham", "--steady-labels=spam,ham"],
        [1, 0],
    ),
    "a plain head from a bounded one": (
        *("r4f", "moods", ["--steady-labels=pos,neg"], [1, 0]),
    ),
    "a bounded one": (
        *("r4f", "moods"),
        ["--criterion=r4f", "--steady-labels=pos,neg"],
        [1, 0],
    ),
    "three turned round": ("three", "three", ["--steady-labels=c,a,b"], [2, 0, 1]),
    "restored": (
        *("moods", "moods"),
        ["--restore-file=LAST", *RESTORED, "--steady-labels=pos,neg"],
        [1, 0],
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_checkpoints_answers_stay_right(
    tables: dict[str, Path],
    trained: dict[str, Path],
    tmp_path: Path,
    go_on: Run,
    case: str,
) -> None:
    first, data, flags, order = TAKEN[case]
    last = str(trained[first] / "checkpoint_last.pt")
    flags = [flag.replace("LAST", last) for flag in flags]
    done = go_on(tables[data], trained[first], *flags)
    called = {"neg": "ham", "pos": "spam"} if data == "mail" else {}
    bounded = "--criterion=r4f" in flags  # whose bound an update makes more exact
    before, after = trained[first], tmp_path / "second"
    for old, new in zip(answers(before), answers(after), strict=True):
        renamed = {called.get(label, label): share for label, share in old.items()}
        assert new == pytest.approx(renamed, abs=1e-3 if bounded else 1e-6)
    weights = [checkpoint(folder)["model"] for folder in (before, after)]
    for name in ("bias", "spectral_original" if bounded else "weight"):
        assert torch.equal(weights[1][OUTPUT + name], weights[0][OUTPUT + name][order])
    said = "put in the order" if order != sorted(order) else "goes on: classes"
    assert said in done.stderr


def test_a_part_of_the_checkpoints_classes_keeps_all_of_them(
    tables: dict[str, Path], trained: dict[str, Path], tmp_path: Path, go_on: Run
) -> None:
    part = tmp_path / "three"  # a new run may have other data by the same name
    part.mkdir()
    for split in ("train", "valid"):
        lines = (tables["three"] / f"{split}.tsv").read_text().splitlines()
        kept = [line for line in lines if not line.endswith("\tb")]
        (part / f"{split}.tsv").write_text("\n".join(kept) + "\n")
    done = go_on(part, trained["three"])
    assert "train.tsv: 43 sentences (a: 22, b: 0, c: 21)" in done.stderr
    assert answers(tmp_path / "second")[0] == pytest.approx(
        answers(trained["three"])[0]
    )


ASKS = "--steady-new-head leaves it behind"
#: First run, second run's data and flags, what the error says.
REFUSED: dict[str, tuple[str, str, list[str], str]] = {
    "other names": (
        *("moods", "mail", []),
        "has a head for classes neg, pos, and this run is for classes ham, spam: "
        f"{ASKS}, --steady-label-map says which is which, as in neg=ham,pos=spam",
    ),
    "more": (
        "moods",
        "three",
        [],
        f"neg, pos, and this run is for classes a, b, c: {ASKS}",
    ),
    "fewer": (
        *("three", "three", ["--steady-labels=a,c"]),
        f"classes a, b, c, and this run is for classes a, c: {ASKS}",
    ),
    "scores": (
        *("moods", "moods", ["--task=text_regression"]),
        f"classes neg, pos, and this run is for scores: {ASKS}",
    ),
    "an unknown name": (
        *("moods", "mail", ["--steady-label-map=bad=ham,pos=spam"]),
        "has no class 'bad' but classes neg, pos; write OLD=NEW, its name of a class "
        "first",
    ),
    "a map of one of two": (
        *("moods", "mail", ["--steady-label-map=neg=ham"]),
        "classes ham, pos, and this run is for classes ham, spam: "
        f"{ASKS}, --steady-label-map says which is which, as in neg=ham,pos=spam",
    ),
    "one named class": (
        *("moods", "moods", ["--steady-labels=neg"]),
        "only one class (neg) in --steady-labels; classification needs two or more",
    ),
    "a map of one to two": (
        *("moods", "mail", ["--steady-label-map=neg=ham,pos=ham"]),
        "--steady-label-map makes 'ham' of two classes of",
    ),
    "no map": (
        *("moods", "mail", ["--steady-label-map=ham"]),
        "--steady-label-map: 'ham' is not OLD=NEW",
    ),
    "a map and a new head": (
        *("moods", "mail", ["--steady-label-map=neg=ham", "--steady-new-head"]),
        "give it with --finetune-from-model, or a model that has a head, and without "
        "--steady-new-head",
    ),
    "a name twice": (
        *("moods", "moods", ["--steady-labels=neg,pos,neg"]),
        "--steady-labels neg,pos,neg: label 'neg' is there twice",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_classes_are_refused_before_training(
    tables: dict[str, Path],
    trained: dict[str, Path],
    tmp_path: Path,
    go_on: Run,
    case: str,
) -> None:
    first, data, flags, message = REFUSED[case]
    done = go_on(tables[data], trained[first], *flags, status=1)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not list(tmp_path.rglob("*.pt"))


def test_scores_do_not_become_classes(
    models: dict[str, Path],
    tables: dict[str, Path],
    score_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    go_on: Run,
) -> None:
    fairseq_train(
        *(score_data, *SCORE_FLAGS, f"--steady-model={models['roberta']}", *STILL),
        f"--save-dir={tmp_path / 'first'}",
    )
    done = go_on(tables["moods"], tmp_path / "first", status=1)
    assert (
        f"has a head for scores, and this run is for classes neg, pos: {ASKS}"
        in (done.stderr.strip().splitlines()[-1])
    )


def test_a_run_goes_on_with_the_classes_it_began_with(
    models: dict[str, Path],
    tables: dict[str, Path],
    trained: dict[str, Path],
    fairseq_train: Trainer,
) -> None:
    """Its optimizer's state is in their order too."""
    folder = trained["sorted the other way"]
    kept = (folder / "checkpoint_last.pt").read_bytes()
    model = f"--steady-model={models['roberta']}"
    resume = [TEXT, model, "--max-update=8", f"--save-dir={folder}"]
    resume += ["--lr=3e-3", "--no-epoch-checkpoints"]
    for data, named in (("moods", ["--steady-labels=neg,pos"]), ("mail", [])):
        done = fairseq_train(tables[data], *resume, *named, status=1)
        last = done.stderr.strip().splitlines()[-1]
        assert "has a head for classes pos, neg, and this run is for classes" in last
        assert "a run goes on with what it began with" in last
        assert "give it the same again, or begin another with --save-dir and" in last
    assert (folder / "checkpoint_last.pt").read_bytes() == kept
    # A damaged last checkpoint is judged by the one that takes its place.
    (folder / "checkpoint_last.pt").write_bytes(kept[:1000])
    done = fairseq_train(tables["mail"], *resume, status=1)
    assert "checkpoint_best.pt has a head for classes pos, neg" in done.stderr
    (folder / "checkpoint_last.pt").write_bytes(kept)
    # Without names the checkpoint's are taken, though the data's sort otherwise.
    done = fairseq_train(tables["moods"], *resume)
    assert "goes on: classes pos, neg" in done.stderr
    assert checkpoint(folder)["task_state"]["labels"] == ["pos", "neg"]


def test_ids_mean_the_tokens_they_meant(
    models: dict[str, Path],
    tables: dict[str, Path],
    trained: dict[str, Path],
    tmp_path: Path,
    go_on: Run,
) -> None:
    """Another dictionary of the same size fits, and every word is another one."""
    other = tmp_path / "other"
    shutil.copytree(models["roberta"], other)
    lines = (other / "dict.txt").read_text().splitlines(keepends=True)
    (other / "dict.txt").write_text("".join([*lines[1:], lines[0]]))
    said = f"was trained with another dictionary than {other / 'dict.txt'}; "
    path = trained["moods"] / "checkpoint_last.pt"
    with pytest.raises(UserError) as caught:
        Predictor(path, str(other))
    assert str(caught.value) == f"{path} {said}name its own with --model"
    again = f"--save-dir={tmp_path / 'again'}"
    shutil.copytree(trained["moods"], tmp_path / "again")
    model = f"--steady-model={other}"
    for start, flags in (
        (str(path), []),
        (
            f"the checkpoint in {tmp_path / 'again'}",
            [again, "--restore-file=checkpoint_last.pt"],
        ),
    ):
        done = go_on(tables["moods"], trained["moods"], model, *flags, status=1)
        last = done.stderr.strip().splitlines()[-1]
        assert last == f"error: {start} {said}give its own with --steady-model"


@pytest.mark.parametrize("precision", [[], HALF])
def test_a_new_head_leaves_the_checkpoints_behind(
    tables: dict[str, Path],
    trained: dict[str, Path],
    tmp_path: Path,
    go_on: Run,
    precision: list[str],
) -> None:
    """Also where the optimizer has a copy of the weights."""
    new = ["--steady-new-head", "--seed=7", *precision]
    go_on(tables["mail"], trained["moods"], *new)
    before, after = (
        checkpoint(folder)["model"]
        for folder in (trained["moods"], tmp_path / "second")
    )
    change = {
        n: float((after[n].float() - old).abs().max()) for n, old in before.items()
    }
    heads = [name for name in change if name.startswith("classification_heads")]
    assert change[OUTPUT + "weight"] > 0.1
    assert max(change[name] for name in change.keys() - heads) < 1e-3
    # A run that goes on keeps the head it has trained.
    again = [*new, "--max-update=2", "--seed=8"]
    go_on(tables["mail"], trained["moods"], *again)
    ended = checkpoint(tmp_path / "second")
    assert ended["optimizer_history"][-1]["num_updates"] == 2
    assert all(torch.equal(after[name], ended["model"][name]) for name in heads)


def test_a_new_head_may_have_other_classes(
    tables: dict[str, Path], trained: dict[str, Path], tmp_path: Path, go_on: Run
) -> None:
    done = go_on(tables["three"], trained["moods"], "--steady-new-head")
    assert "train.tsv: 64 sentences (a: 22" in done.stderr
    model = checkpoint(tmp_path / "second")["model"]
    assert model[OUTPUT + "weight"].shape == (3, 16)


# --- one task after another -----------------------------------------------------------


@pytest.fixture(scope="module")
def glue(
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    fairseq_train: Trainer,
) -> Callable[..., Any]:
    """Train tasks of GLUE in folders of their own, from the one trained before."""
    base = tmp_path_factory.mktemp("glue")
    for task in ("rte", "qnli", "sst2", "cola"):
        for split in ("train", "valid"):
            write_split(
                base, task, split, [glue_row(task, number) for number in range(16)]
            )

    def run(before: str | None, *flags: str, status: int = 0) -> Any:
        start = f"--finetune-from-model={base / str(before) / 'checkpoint_last.pt'}"
        return fairseq_train(
            *(base, f"--steady-model={models['roberta']}", *STILL),
            *([start] if before else []),
            *(f"--save-dir={tempfile.mkdtemp(dir=base)}", *flags),
            status=status,
        )

    for task in ("rte", "sst2"):
        run(None, "--task=glue", f"--glue-task={task}", f"--save-dir={base / task}")
    names = "--multitask-names=sst2,rte"
    run(None, "--task=glue_multitask", names, f"--save-dir={base / 'both'}")
    return run


def test_equal_names_of_another_task_are_not_the_same(glue: Run) -> None:
    done = glue("rte", "--task=glue", "--glue-task=qnli", status=1)
    assert (
        "has a head for classes entailment, not_entailment of rte, and this run is for "
        f"classes entailment, not_entailment of qnli: {ASKS}"
    ) in done.stderr
    same = "--steady-label-map=entailment=entailment"
    done = glue("rte", "--task=glue", "--glue-task=qnli", same)
    assert "goes on: classes entailment, not_entailment" in done.stderr
    done = glue("rte", "--task=glue", "--glue-task=rte")
    assert "goes on: classes entailment, not_entailment of rte" in done.stderr
    done = glue("sst2", "--task=glue", "--glue-task=cola", status=1)
    assert "classes 0, 1 of sst2, and this run is for classes 0, 1 of cola" in (
        done.stderr
    )


def test_heads_of_several_tasks_are_found_by_name(glue: Run) -> None:
    several = ["--task=glue_multitask", "--multitask-names=rte,cola"]
    done = glue("both", *several)
    assert "goes on: classes entailment, not_entailment of rte" in done.stderr
    assert "has no head 'cola' but sst2, rte: 'cola' starts anew" in done.stderr
    done = glue("both", "--task=glue", "--glue-task=rte")
    assert f"has no head '{HEAD}' but sst2, rte: '{HEAD}' starts anew" in done.stderr
    done = glue("rte", *several)
    assert f"has no head 'rte' but {HEAD}: 'rte' starts anew" in done.stderr
    done = glue(None, *several, "--steady-label-map=0=1", status=1)
    assert "error: --steady-label-map is for one head; leave it out" in done.stderr


def stored(outputs: int = 2, **state: Any) -> Head:
    """What a checkpoint says of its head."""
    weight = {OUTPUT + "weight": torch.zeros(outputs, 3)}
    return stored_heads({"model": weight, **state}, Path("x.pt"))[HEAD]


UNNAMED = "a task that names no classes"


def test_checkpoints_from_before_say_their_classes_by_task() -> None:
    def task(name: str, **cfg: Any) -> dict[str, Any]:
        return {"cfg": {"task": {"_name": name, **cfg}}}

    assert stored(**task("cola")) == Head(("0", "1"), "cola")
    assert stored(**task("uci_sentiment")) == Head(("0", "1"), "uci_sentiment")
    rte = Head(("entailment", "not_entailment"), "rte")
    assert stored(**task("glue", glue_task="rte")) == rte
    assert stored(1, **task("glue", glue_task="stsb")) == Head(None, "stsb")
    assert stored(1, **task("text_regression")) == Head(None)
    labels = {"task_state": {"labels": ["neg", "pos"]}}
    assert stored(**task("text_classification"), **labels) == Head(("neg", "pos"))
    model = {
        f"classification_heads.{n}.out_proj.weight": torch.zeros(2, 3)
        for n in ("rte", "cola")
    }
    both = task("glue_multitask", multitask_names="rte, cola")
    found = stored_heads({"model": model, **both}, Path("x.pt"))
    assert found == {"rte": rte, "cola": Head(("0", "1"), "cola")}
    # fairseq's own keeps its names in files beside the data.
    for other in ({}, task("sentence_prediction", num_classes=2), {"cfg": None}):
        assert stored(**other) == Head(("0", "1"), UNNAMED)


def test_names_that_do_not_fit_the_outputs_are_none() -> None:
    said = {"h": {"labels": ["a", "b"], "of": ""}}
    model = {"classification_heads.h.out_proj.weight": torch.zeros(3, 2)}
    (head,) = stored_heads(
        {"model": model, "task_state": {"heads": said}}, Path("x")
    ).values()
    assert head == Head(("0", "1", "2"), "a task that names no classes")


def test_a_head_without_names_needs_a_map() -> None:
    start = Start(Path("x.pt"), {HEAD: Head(("0", "1"), UNNAMED)}, resumes=False)
    for mine in (Head(("0", "1")), Head(("neg", "pos"))):
        with pytest.raises(
            UserError, match=f"0, 1 of {UNNAMED}.*as in 0={mine.labels[0]}"
        ):
            moves(start, {HEAD: mine})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1], "x.pt: the whole: input should be a valid dictionary"),
        ({}, "x.pt: field 'model' is missing"),
        ({"model": {}, "cfg": 3}, "x.pt: field 'cfg': "),
        ({"model": {}, "task_state": {"heads": 3}}, "x.pt: field 'task_state.heads': "),
        ({"model": {}, "cfg": {"task": {"_name": 3}}}, "x.pt: cfg.task: field '_name'"),
    ],
)
def test_a_checkpoint_of_another_structure_is_one_line(
    state: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        stored_heads(state, Path("x.pt"))


def test_an_error_shows_a_dozen_of_many_classes() -> None:
    assert str(Head(tuple(map(str, range(77))))).endswith("10, 11 and 65 more")


# --- the best checkpoint --------------------------------------------------------------


def test_the_lowest_loss_is_the_best(
    models: dict[str, Path],
    tables: dict[str, Path],
    tmp_path: Path,
    fairseq_train: Trainer,
) -> None:
    done = fairseq_train(
        *(tables["moods"], TEXT, f"--steady-model={models['roberta']}"),
        *("--best-checkpoint-metric=loss", "--lr=3e-3", "--max-epoch=6"),
        *("--no-epoch-checkpoints", f"--save-dir={tmp_path}"),
        *("--lr-scheduler=reduce_lr_on_plateau", "--lr-shrink=0.5"),
    )
    found = [float(line["valid_loss"]) for line in logged(done, "valid")]
    assert found[-1] == min(found) < found[0]
    best = checkpoint(tmp_path, "checkpoint_best.pt")["extra_state"]
    assert best["val_loss"] == pytest.approx(min(found), abs=1e-5)
    assert float(logged(done, "valid")[-1]["valid_best_loss"]) == min(found)
    # Halved where the loss rose, and only there.
    rises = sum(after >= min(found[: n + 1]) for n, after in enumerate(found[1:-1]))
    last = float(logged(done, "train")[-1]["train_lr"])
    assert last == pytest.approx(3e-3 * 0.5**rises)
    assert "the best checkpoint is that of the smallest loss" in done.stderr


def test_a_plateau_is_as_long_in_a_resumed_run(
    models: dict[str, Path],
    tables: dict[str, Path],
    tmp_path: Path,
    fairseq_train: Trainer,
) -> None:
    """Only the first evaluation is a gain; the third after it lowers the rate."""
    common = [tables["moods"], TEXT, f"--steady-model={models['roberta']}", "--lr=1e-3"]
    common += ["--no-epoch-checkpoints", "--lr-scheduler=reduce_lr_on_plateau"]
    common += ["--lr-patience=2", "--lr-threshold=1", "--lr-shrink=0.5"]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    fairseq_train(*common, "--max-epoch=3", f"--save-dir={broken}")
    for folder in (broken, whole):
        done = fairseq_train(*common, "--max-epoch=5", f"--save-dir={folder}")
        rates = [float(line["train_lr"]) for line in logged(done, "train")]
        assert rates[-2:] == [1e-3, 5e-4]
    assert_equal_weights(broken, whole)


@pytest.mark.parametrize(
    ("metric", "larger"),
    [
        ("loss", False),
        ("task_loss", False),
        ("ppl", False),
        ("mcc", True),
        ("f1", True),
    ],
)
@pytest.mark.parametrize("said", [True, False])
def test_a_metric_knows_its_direction(metric: str, larger: bool, said: bool) -> None:
    """Whatever the flag says, on the command line or in YAML."""
    key = "maximize_best_checkpoint_metric"
    root = OmegaConf.create(
        {
            "checkpoint": {"best_checkpoint_metric": metric, key: said},
            "lr_scheduler": {"_name": "reduce_lr_on_plateau", key: said},
        }
    )
    follow_metric(root)
    assert root.checkpoint[key] == root.lr_scheduler[key] == larger
    follow_metric(
        OmegaConf.create({"checkpoint": root.checkpoint, "lr_scheduler": None})
    )


# --- many classes ---------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 77, 1000])
def test_classes_cost_one_meter(classes: int) -> None:
    """fairseq sorts all meters at every new one: K^2 of them took minutes."""
    kind = Classes(HEAD, classes)
    sample = {"target": torch.arange(8) % classes}
    with metrics.aggregate(new_root=True) as meters:
        for _ in range(3):
            log = kind.scores(torch.eye(8, classes), sample, training=True)
            log |= {"loss": torch.tensor(1.0), "sample_size": 8, "nsentences": 8}
            PlainCriterion.reduce_metrics([log, log])
        found = meters.get_smoothed_values()
        state = meters.state_dict()
    right = {2: 5, 77: 8, 1000: 8}[classes]  # of no logit but 0 the first is largest
    assert found["accuracy"] == right / 8
    assert [name for name in meters if name.startswith("_")] == [COUNTS]
    assert meters[COUNTS].sum.shape == (3, classes)
    assert int(meters[COUNTS].sum[1].sum()) == 3 * 2 * 8
    (kept,) = [meter for _, name, _, meter in state if name == COUNTS]
    assert kept["sum"].numel() == 3 * classes  # what a checkpoint keeps


def test_an_epoch_without_a_batch_has_no_score() -> None:
    """As when every step of it overflowed, after fairseq has reset the meters."""
    log = {**class_counts(torch.tensor([1]), torch.tensor([1]), 2), "sample_size": 1}
    with metrics.aggregate(new_root=True) as meters:
        PlainCriterion.reduce_metrics([log])
        meters.reset()
        assert np.isnan(meters.get_smoothed_values()["mcc"])


def test_a_resumed_epoch_counts_its_first_half_too(
    models: dict[str, Path],
    tables: dict[str, Path],
    tmp_path: Path,
    fairseq_train: Trainer,
) -> None:
    common = [tables["moods"], TEXT, f"--steady-model={models['roberta']}"]
    common += ["--no-epoch-checkpoints", "--disable-validation"]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    fairseq_train(*common, "--max-update=5", f"--save-dir={broken}")
    again = fairseq_train(*common, "--max-update=8", f"--save-dir={broken}")
    once = fairseq_train(*common, "--max-update=8", f"--save-dir={whole}")
    ended = [logged(done, "train")[-1] for done in (again, once)]
    for score in ("train_accuracy", "train_f1", "train_mcc"):
        assert ended[0][score] == ended[1][score]


# --- what is said of scores -----------------------------------------------------------


def test_a_record_names_the_class_of_f1(
    models: dict[str, Path],
    tables: dict[str, Path],
    tmp_path: Path,
    fairseq_train: Trainer,
) -> None:
    for data, of in (("mail", "spam"), ("three", "the mean over classes")):
        record = tmp_path / data
        done = fairseq_train(
            *(tables[data], TEXT, f"--steady-model={models['roberta']}", *STILL),
            *(f"--save-dir={record}", f"--steady-record={record}"),
        )
        assert f"f1 is of: {of}" in done.stderr
        # Predictions are in the record, and not in the checkpoint too.
        kept = checkpoint(record)["extra_state"]["metrics"]["valid"]
        assert [meter["sum"] for _, name, _, meter in kept if name == SCATTERED] == [0]
        (found,) = record.glob("valid-*.json")
        assert json.loads(found.read_text())["f1_of"] == of


def summed(gold: list[int], given: list[int], classes: int = 2) -> torch.Tensor:
    return class_counts(torch.tensor(given), torch.tensor(gold), classes)[COUNTS]


def test_one_class_for_everything_is_remarked() -> None:
    labels = ["neg", "pos"]
    assert one_class(summed([0] * 7 + [1] * 3, [0] * 10), labels) == (
        "every one of 10 predictions is 'neg', the most common class: 70.0 % of the "
        "subset"
    )
    said = one_class(summed([0] * 7 + [1] * 3, [1] * 10), labels)
    assert said is not None
    assert "is 'pos', not the commonest: 30.0 % of" in said
    quiet = [
        summed([0] * 7 + [1] * 3, [0] * 9 + [1]),  # two classes
        summed([0] * 10, [0] * 10),  # gold has one class
        summed([0] * 5 + [1] * 4, [0] * 9),  # few sentences
    ]
    assert [one_class(counts, labels) for counts in quiet] == [None] * 3


def test_one_score_for_everything_is_remarked() -> None:
    gold = torch.linspace(0, 5, 12)
    ones, missing = torch.ones(12), torch.zeros(3, 3)
    still = torch.stack([ones * 2.5 + torch.arange(12) * 1e-4, gold, ones])
    assert one_score(torch.cat([still, missing], dim=1)) == (
        "every one of 12 predictions is 2.501, where gold scores are 0 to 5"
    )
    live = torch.stack([ones * 2.5 + torch.arange(12) * 1e-2, gold, ones])
    assert one_score(live) is None
    assert one_score(torch.stack([ones, ones, ones])) is None
    assert one_score(still[:, :9]) is None


@pytest.mark.parametrize("kind", ["classes", "scores"])
def test_a_dead_model_is_remarked_once_by_all_workers_and_at_the_end(
    models: dict[str, Path],
    tables: dict[str, Path],
    score_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    kind: str,
) -> None:
    data = [tables["mail"], TEXT] if kind == "classes" else [score_data, *SCORE_FLAGS]
    logs = train_on_workers(
        *(zygote, *data, f"--steady-model={models['roberta']}"),
        *("--lr=10", "--max-epoch=3", "--no-save", f"--save-dir={tmp_path}"),
    )
    said = [line for log in logs for line in log.splitlines() if "every one of" in line]
    count = 24 if kind == "classes" else 19
    warned, ended = said
    for line in said:
        assert f"valid: every one of {count} predictions is " in line
        assert "train longer, or try another --lr" in line
    assert "WARNING" in warned
    lines = logs[0].splitlines()
    assert "| done: best " in lines[lines.index(ended) + 1]


# --- near by --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (4, 1), (1, 4)])
def test_the_squared_error_pairs_each_score_with_its_own(
    shape: tuple[int, ...],
) -> None:
    logits = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    target = torch.tensor([1.0, 0.0, 3.5, 5.0]).view(shape)
    assert float(Scores(HEAD, 1).loss(logits, target)) == 4.25
    assert float(Scores(HEAD, 1).loss(logits.view(-1), target)) == 4.25


def test_scores_have_one_output() -> None:
    cfg = SimpleNamespace(
        regression_target=True, label_smoothing=0.0, classification_head_name=HEAD
    )
    with pytest.raises(UserError, match="one output, and --num-classes is 3"):
        kind_of(SimpleNamespace(num_classes=3), cfg)


@pytest.fixture(scope="module")
def pooled(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a pooler."""
    base = tmp_path_factory.mktemp("pooled")
    plain = make_model_directory(base / "plain")
    weights, _ = plain.weights()
    pooler = {"dense.weight": torch.full((16, 16), 0.25), "dense.bias": torch.ones(16)}
    return write_model_directory(
        base / "with",
        plain.manifest,
        weights,
        plain.dictionary(),
        (plain.path / "tokenizer.json").read_text(),
        pooler,
    ).path


def test_the_pooler_starts_every_head(pooled: Path, glue: Run, tmp_path: Path) -> None:
    several = ["--task=glue_multitask", "--multitask-names=rte,cola"]
    own = [f"--steady-model={pooled}", f"--save-dir={tmp_path}"]
    glue(None, *several, *own, "--steady-pooler")
    model = checkpoint(tmp_path)["model"]
    for name in ("rte", "cola"):
        dense = f"classification_heads.{name}.dense."
        assert (model[dense + "weight"] == 0.25).all()
        assert (model[dense + "bias"] == 1).all()


@pytest.mark.parametrize(
    "task", [["glue_multitask", "--multitask-names=rte,cola"], ["summarization"]]
)
def test_a_probe_is_of_one_tasks_classes_or_scores(
    models: dict[str, Path],
    cola_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: list[str],
) -> None:
    model = f"--steady-model={models['bart']}"
    command = ["probing", str(cola_data), "--task", *task, model, "--cpu"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(UserError, match=f"{task[0]} has no classes or scores of its"):
        probing.main()
