"""Every family in real runs: two workers, kill -9 and all that comes after.

RoBERTa goes through the same with every method in test_family_training.py.
"""

import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TRAIN, Zygote
from fairseq_steady.errors import UserError
from fairseq_steady.tasks._ranges import check_passes
from fairseq_steady.tasks.glue_multitask import MultitaskTask
from helpers import (
    NO_DROPOUT,
    assert_equal_weights,
    checkpoint,
    start_train,
    train_on_workers,
    wait_for,
)
from method_table import TRAINED
from tiny import FAMILIES

#: Of each family, a method: one that meets what is the family's own, where one does.
RUN = {
    "bart": "r_drop-some",
    "deberta": "smart",
    "modernbert": "r4f",  # two matrices and a norm in its head
    "mpnet": "r3f",
    "electra": "sift-cached",  # what is kept has the width before the projection
    "distilbert": "freelb",
    "albert": "hype",  # noise enters its layers, which are shared
}
#: Encoder-decoders and DeBERTa are here for whoever changes them.
EACH = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in ("bart", "deberta")))
    for name in RUN
]


def common(models: dict[str, Path], data: Path, family: str) -> list[str]:
    model = f"--steady-model={models[family]}"
    flags = [*TRAIN, data, "--task=cola", model, *TRAINED[RUN[family]]]
    return [*map(str, flags), "--no-epoch-checkpoints", "--disable-validation"]


def test_every_family_runs() -> None:
    assert set(RUN) == set(FAMILIES) - {"roberta"}


@pytest.mark.parametrize("family", EACH)
def test_two_workers_equal_one_process(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    family: str,
) -> None:
    """After an epoch whose last batch is one worker's alone; see test_family_training.

    Shared layers and tables get a gradient from each of their uses, summed once.
    """
    flags = [*common(models, cola_data, family), *NO_DROPOUT, "--adam-eps=1e-3"]
    flags += ["--max-update=7", "--batch-size=4", "--steady-train-size=35"]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = ["fairseq-train", *flags, "--update-freq=2", f"--save-dir={one}"]
    (done,) = zygote.run(alone)
    assert done.returncode == 0, done.stderr[-3000:]
    train_on_workers(zygote, *flags, f"--save-dir={two}")
    assert_equal_weights(one, two, tolerance=1e-6)


@pytest.mark.parametrize("family", EACH)
def test_killed_and_gone_on_with_it_ends_at_the_very_same_weights(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    family: str,
) -> None:
    """By SIGKILL between two checkpoints, with dropout in all its places."""
    flags = [*common(models, cola_data, family), "--activation-dropout=0.1"]
    flags += ["--optimizer=bert_adam", "--bert-adam-anchor=0.1", "--max-update=14"]
    flags += ["--steady-layer-decay=0.9", "--steady-reinit-layers=1"]
    flags += ["--save-interval-updates=4", "--keep-interval-updates=1"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    (done,) = zygote.run(["fairseq-train", *flags, f"--save-dir={whole}"])
    assert done.returncode == 0, done.stderr[-3000:]
    process: Any = None
    while process is None or process.returncode != -signal.SIGKILL:
        process = start_train(zygote, *flags, f"--save-dir={parts}")
        wait_for(process, '"num_updates": "6"')
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (done,) = zygote.run(["fairseq-train", *flags, f"--save-dir={parts}"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Loaded checkpoint" in done.stderr
    assert_equal_weights(whole, parts)
    ends = (checkpoint(folder)["extra_state"] for folder in (whole, parts))
    states = [end.get("fairseq_steady", {}).get("perturbations") for end in ends]
    assert [state is not None for state in states] == [family == "electra"] * 2
    if states[0]:
        one, two = (state[""] for state in states)
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_a_method_cannot_be_is_refused(
    models: dict[str, Path], cola_data: Path, zygote: Zygote
) -> None:
    """What recomputes a pass, leaves out layers that workers wait for, or looks."""
    bart = ["fairseq-train", str(cola_data), *map(str, TRAIN), "--task=cola"]
    bart += [f"--steady-model={models['bart']}", "--arch=bart_base", "--no-save"]
    again = ["--checkpoint-activations"]
    cases = {
        "--criterion smart differentiates within a pass": ["smart", *again],
        "--criterion freelb differentiates within a pass": ["freelb", *again],
        "that --hype-dropout off has left out": ["hype", *again],
    }
    commands = [[*bart, f"--criterion={c}", *more] for c, *more in cases.values()]
    for said, done in zip(cases, zygote.run(*commands), strict=True):
        assert done.returncode == 1
        assert said in done.stderr.strip().splitlines()[-1], done.stderr[-800:]
    plain, drops = (
        SimpleNamespace(_name="plain"),
        SimpleNamespace(encoder_layerdrop=0.5),
    )
    r3f = SimpleNamespace(_name="r3f")
    for backend, count, looks, chosen, refused in (
        ("pytorch_ddp", 2, False, plain, True),
        ("legacy_ddp", 2, False, r3f, False),
        ("pytorch_ddp", 1, False, r3f, False),
        ("pytorch_ddp", 2, True, plain, False),
        ("pytorch_ddp", 2, True, r3f, True),
    ):
        root = SimpleNamespace(
            model=drops,
            criterion=chosen,
            task=SimpleNamespace(),
            distributed_training=SimpleNamespace(
                ddp_backend=backend,
                distributed_world_size=count,
                find_unused_parameters=looks,
            ),
        )
        said = "-layerdrop leaves layers .* give --ddp-backend legacy_ddp"
        with pytest.raises(UserError, match=said) if refused else nullcontext():
            check_passes(root)
    workers = root.distributed_training
    hype = SimpleNamespace(_name="hype", hype_dropout="off")
    smart = SimpleNamespace(_name="smart", smart_dropout="off")
    one = SimpleNamespace(**vars(workers) | {"distributed_world_size": 1})
    for model, mixout, chosen, refused in (
        (SimpleNamespace(), 0.1, hype, "hype-dropout off leaves out --steady-mixout"),
        (drops, 0.0, hype, "hype-dropout off leaves out --encoder-layerdrop"),
        (SimpleNamespace(), 0.0, hype, ""),
        (drops, 0.1, smart, ""),
        (drops, 0.1, SimpleNamespace(_name="hype", hype_dropout="independent"), ""),
    ):
        root = SimpleNamespace(
            model=model,
            criterion=chosen,
            task=SimpleNamespace(steady_mixout=mixout),
            distributed_training=one,
        )
        with pytest.raises(UserError, match=refused) if refused else nullcontext():
            check_passes(root)
    root.distributed_training = workers
    task = SimpleNamespace(cfg=SimpleNamespace(_get_root=lambda: root))
    with pytest.raises(UserError, match="is not for several heads, which all get a"):
        MultitaskTask.settle_data(task)  # type: ignore[arg-type]
