"""Flags that people type: each trains, or one line names it and the mend."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SCORE_FLAGS, Trainer, Zygote
from fairseq_steady.errors import UserError, explanation
from fairseq_steady.patches import refusals
from fairseq_steady.patches.checkpoints import load_safely
from fairseq_steady.patches.finite import of_losses
from helpers import checkpoint, logged, run_flags, start_two, wait_for

BARE = ["--cpu", "--log-format=json", "--log-interval=1"]
LENGTH = ["--batch-size=8", "--max-update=2"]
OPTIMIZER = ["--optimizer=adam", "--lr=1e-3", "--lr-scheduler=fixed"]


def command(models: dict[str, Path], data: Any, out: Path, *flags: Any) -> list[str]:
    own = [f"--steady-model={models['roberta']}", f"--save-dir={out}"]
    words = [data, "--task=cola", *BARE, *own, *flags]
    return ["fairseq-train", *map(str, words)]


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error, which is all that is said after the log."""
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), last
    return last.removeprefix("error: ")


def refusals_of(
    zygote: Zygote, commands: dict[str, list[str]]
) -> dict[str, subprocess.CompletedProcess[str]]:
    """All of them at once."""
    return dict(zip(commands, zygote.run(*commands.values()), strict=True))


# --- what one line says ---------------------------------------------------------------

TYPED = {
    "--num-classes=2": "--num-classes is no flag of this task: leave it out: the task "
    "takes the classes from its data",
    "--init-token=0": "the model directory's tokeniser adds the special tokens",
    "--separator-token=2": "the model directory's tokeniser adds the special tokens",
    "--no-shuffle": "training is shuffled each epoch, by --seed",
    "--shorten-method=truncate": "use --steady-max-length",
    "--max-positions=128": "use --steady-max-length",
    "--report-mcc": "--best-checkpoint-metric names the one that picks checkpoints",
    "--report-accuracy-and-f1": "are always logged",
    "--epochs=3": "use --max-epoch, or --steady-epochs",
    "--learning-rate=1e-3": "use --lr",
    "--sift-lamda=1": "there is no flag --sift-lamda; did you mean --sift-lambda?",
    "--criteron=sift": "there is no flag --criteron; did you mean --criterion?",
    "--user_dir=x": "there is no flag --user_dir; did you mean --user-dir?",
    "--smart-eps=1": "--smart-eps goes with --criterion smart; give that too",
    "--steady-text-column=a": "goes with --task text_classification, --task text_reg",
    "--zzz": "there is no flag --zzz; see fairseq-steady list",
    "--criterion=smrt": "--criterion has no 'smrt'; did you mean smart?",
    "--optimizer=adamm": "--optimizer has no 'adamm'; did you mean adam?",
    "--optimizer=adamw": "--optimizer has no 'adamw'; here it is bert_adam",
    "--task=colla": "--task has no 'colla'; did you mean cola?",
    "--lr-scheduler=linear": "--lr-scheduler has no 'linear'; here it is polynomial_de",
    "--arch=robertaa": "has no 'robertaa'; did you mean roberta",
    "--lr=abc": "--lr 'abc': numbers wanted",
    "--lr=nan": "--lr 'nan': numbers wanted",
    "--max-update=2.5": "--max-update '2.5': a whole number wanted",
    "--update-freq=1.5": "--update-freq '1.5': numbers wanted",
    "--distributed-world-size=0": "--distributed-world-size 0 is out of range: >= 1",
    "--write-checkpoints-asynchronously": "writes each checkpoint whole",
    "--log-file=/proc/x/y": "--log-file /proc/x cannot be written to",
}


def test_a_flag_that_is_none_gets_one_line(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """Before anything is loaded; where fairseq has pages of usage there is one line."""
    ends = [*LENGTH, *OPTIMIZER]
    commands = {
        flag: command(models, cola_data, tmp_path, *ends, flag) for flag in TYPED
    }
    for flag, done in refusals_of(zygote, commands).items():
        assert TYPED[flag] in last_line(done), flag
        assert "usage:" not in done.stderr
        assert len(done.stderr.strip().splitlines()) < 10


VALUES = {
    "--seed=-1": "--seed is not in 0 to 4294967295",
    "--num-workers=-1": "--num-workers -1 is out of range: >= 0",
    "--clip-norm=-1": "--clip-norm -1.0 is out of range: >= 0",
    "--clip-norm=nan": "--clip-norm nan is out of range: >= 0",
    "--lr=1e999": "--lr [inf] is out of range: >= 0",
    "--update-freq=0": "--update-freq [0] is out of range: >= 1",
    "--batch-size=0": "--batch-size 0 is out of range: >= 1",
    "--max-epoch=-1": "--max-epoch -1 is out of range: >= 0",
    "--patience=-3": "--patience -3 is out of range: >= -1",
    "--log-interval=0": "--log-interval 0 is out of range: >= 1",
    "--save-interval=0": "--save-interval 0 is out of range: >= 1",
    "--adam-betas=(0.9,0.98": "--adam-betas (0.9,0.98: two numbers in [0, 1)",
    "--adam-betas=(2,3)": "--adam-betas (2,3): two numbers in [0, 1)",
    "--adam-eps=nan": "--adam-eps nan is out of range: >= 0",
    "--optimizer-overrides={bad": "--optimizer-overrides {bad: names and values",
    "--patience=1 --disable-validation": "--patience 1 counts evaluations",
    "--stop-min-lr=1": "--stop-min-lr 1 is not below --lr 0.001",
    "--lr-scheduler=inverse_sqrt --warmup-updates=0": "give --warmup-updates 1 or more",
    "--lr-scheduler=tri_stage": "--lr-scheduler tri_stage needs --phase-ratio",
    "--lr-scheduler=pass_through": "use polynomial_decay or fixed",
    "--optimizer=composite": "use one optimizer, for example bert_adam",
    "--optimizer=adafactor --relative-step": "fairseq always gives it --lr",
    "--lr-scheduler=manual --epoch2lr={1:1e-4}": "--epoch2lr {1:1e-4}: numbers from 1",
    "--lr-scheduler=manual --update2lr={'2-':1}": "--update2lr {'2-':1}: numbers from",
    "--lr-scheduler=manual --epoch2lr={'1':-1}": "--epoch2lr {'1':-1}: numbers from",
    "--lr-scheduler=manual --epoch2lr={": "as {'1': 1e-4, '2-3': 5e-5, '4,6': 1e-5}",
    "--best-checkpoint-metric=MCC": "did you mean mcc?",
    "--best-checkpoint-metric=acc": "did you mean accuracy?",
    "--best-checkpoint-metric=unique": "unique is nothing that evaluations of this",
    "--best-checkpoint-metric=bertscore": "bertscore is nothing that evaluations of",
    "--valid-subset=nope": "cola has no split 'nope'",
    "--checkpoint-suffix=_x": "--checkpoint-suffix _x is for models in several files",
    "--combine-valid-subsets": "name the splits with --valid-subset",
    "--tensorboard-logdir=/proc/x": "--tensorboard-logdir /proc/x cannot be written",
    "--steady-record=/proc/x": "--steady-record /proc/x cannot be written",
    "--save-dir=/proc/x": "--save-dir /proc/x cannot be written",
    "--classification-head-name=other": "the model's heads are sentence_classification",
    "--regression-target": "--task text_regression",
    "--criterion=sentence_prediction": "with --task cola choose from ",
    "--bf16": "are for TPUs and need torch_xla",
    "--tpu": "are for TPUs and need torch_xla",
    "--fp16": "a CPU trains in fp32",
    "--fp16 --amp": "--fp16 and --amp: give one of them",
    "--fp16 --bf16": "--fp16 and --bf16 (or --tpu): give one of them",
    "--cpu-offload": "--cpu-offload goes with --ddp-backend fully_sharded",
    "--ddp-backend=fully_sharded": "need fairscale and several GPUs",
    "--zero-sharding=os": "need fairscale and several GPUs",
    "--pipeline-model-parallel": "--pipeline-model-parallel is for models that fairseq",
    "--model-parallel-size=2": "--model-parallel-size is for Megatron's models",
    "--distributed-world-size=2": "with scripts/launch/local.sh 2, or leave it out",
    "--optimizer=lamb": "this --optimizer needs apex",
}


@pytest.mark.parametrize("half", [0, 1])
def test_a_value_that_cannot_be_meant_is_refused_before_training(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote, half: int
) -> None:
    ends = [*LENGTH, *OPTIMIZER]
    commands = {
        words: command(models, cola_data, tmp_path, *ends, *words.split(" "))
        for words in list(VALUES)[half::2]
    }
    for words, done in refusals_of(zygote, commands).items():
        assert VALUES[words] in last_line(done), words
        assert not logged(done, "train_inner"), words
    assert not list(tmp_path.glob("*.pt"))


def test_a_bug_keeps_its_traceback() -> None:
    assert explanation(UserError("said")) == "said"
    for error in (KeyError("x"), AttributeError("cfg"), ValueError("no"), OSError("x")):
        assert explanation(error) is None


# --- too long, not finite -------------------------------------------------------------


def test_no_sentence_is_too_long_for_a_batch_unsaid(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """fairseq leaves the long ones of training out, and fails on them in evaluation."""
    lengths = {
        name: [
            len(line.split("\t")[3].split()) + 2
            for line in (cola_data / f"{name}.tsv").read_text().splitlines()
        ]
        for name in ("in_domain_train", "in_domain_dev")
    }
    most = max(lengths["in_domain_train"])
    number = lengths["in_domain_train"].index(most) + 1
    dev = max(lengths["in_domain_dev"])
    common = ["--max-update=1", *OPTIMIZER]
    tokens = {
        "short": [f"--max-tokens={most - 1}", "--disable-validation"],
        "valid": [f"--max-tokens={most}", f"--max-tokens-valid={dev - 1}"],
        "fits": [f"--max-tokens={most}"],
    }
    done = refusals_of(
        zygote,
        {
            name: command(models, cola_data, tmp_path / name, *common, *flags)
            for name, flags in tokens.items()
        },
    )
    assert last_line(done["short"]).startswith(
        f"the longest sentence of train (number {number} of 64, from {cola_data}) has "
        f"{most} tokens, more than --max-tokens {most - 1}: raise it to {most} or more"
    )
    said = last_line(done["valid"])
    assert said.startswith("the longest sentence of valid (number")
    assert f"has {dev} tokens, more than --max-tokens-valid {dev - 1}" in said
    assert done["fits"].returncode == 0, done["fits"].stderr[-2000:]
    assert not list((tmp_path / "short").glob("*.pt"))


def test_a_number_that_is_none_names_update_method_and_mend(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    common = ["--batch-size=8", "--max-update=6", *OPTIMIZER]
    half = ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale=1"]
    wild = {
        "sift": ["--criterion=sift", "--lr=1e12"],
        "sgd": ["--optimizer=sgd", "--lr=1e30", "--clip-norm=1"],
        "amp": ["--lr=1e12", "--amp"],
        "half": ["--lr=1e12", *half, "--min-loss-scale=0.5"],
    }
    done = refusals_of(
        zygote,
        {
            name: command(models, cola_data, tmp_path / name, *common, *flags)
            for name, flags in wild.items()
        },
    )
    for name, one in done.items():
        said = last_line(one)
        method = "sift" if name == "sift" else "plain"
        assert re.match(rf"(after )?update \d of --criterion {method}: the ", said), (
            said
        )
        assert "checkpoints from before are intact" in said
        assert not (tmp_path / name / "crash.pt").exists()
    assert "update 2 of --criterion sift" in last_line(done["sift"])  # 1 ruined it
    assert "Lower --lr (1e+12) or --sift-lambda or" in last_line(done["sift"])
    assert "set --clip-norm 1" in last_line(done["sift"])
    assert "set --clip-norm" not in last_line(done["sgd"])
    assert "half precision at every --min-loss-scale" in last_line(done["half"])


# --- resuming -------------------------------------------------------------------------


def test_going_on_with_something_else_names_both(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    first = [*OPTIMIZER, "--batch-size=8", "--no-epoch-checkpoints"]
    (done,) = zygote.run(
        command(models, cola_data, tmp_path / "a", *first, "--max-update=2")
    )
    assert done.returncode == 0, done.stderr[-2000:]
    path = tmp_path / "a" / "checkpoint_last.pt"
    other = f"--finetune-from-model={path}"
    bart = f"--steady-model={models['bart']}"
    cases = {
        "--criterion=smart": "trained with --criterion plain, and the command line has "
        "--criterion smart: go on with plain, start anew with another --save-dir",
        "--optimizer=sgd": "trained with --optimizer adam, and the command line has "
        "--optimizer sgd",
        "--lr-scheduler=polynomial_decay": "--lr-scheduler fixed, and the command line "
        "has --lr-scheduler polynomial_decay",
        bart: "is of another model than the command line's: family roberta there, bart "
        "here",
        f"{other} --reset-optimizer": "--finetune-from-model resets everything but",
        f"{other} --restore-file={path}": "and --restore-file: give one of them",
        f"--finetune-from-model={path.parent}": f"{path.parent} is a folder; name a "
        "checkpoint in it, such as checkpoint_best.pt",
        "--steady-train-size=8": "there are fewer batches than then",
    }
    more = [*first, "--max-update=4"]
    commands = {
        words: command(models, cola_data, tmp_path / "a", *more, *words.split(" "))
        for words in cases
    }
    before = path.read_bytes()
    for words, one in refusals_of(zygote, commands).items():
        assert cases[words] in last_line(one), words
    assert path.read_bytes() == before
    (reset,) = zygote.run(
        command(
            *(models, cola_data, tmp_path / "a", *more),
            *("--lr-scheduler=polynomial_decay", "--reset-lr-scheduler"),
        )
    )
    assert reset.returncode == 0, reset.stderr[-2000:]


def test_going_on_with_an_average_of_the_weights(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    for updates in (1, 2):
        ends = ["--batch-size=8", f"--max-update={updates}", *OPTIMIZER]
        flags = ["--store-ema", "--no-epoch-checkpoints", *ends]
        (done,) = zygote.run(command(models, cola_data, tmp_path, *flags))
        assert done.returncode == 0, done.stderr[-2000:]
    history = checkpoint(tmp_path)["optimizer_history"]
    assert history[-1]["num_updates"] == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is a folder; name a checkpoint in it, such as checkpoint_best.pt"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is no torch checkpoint; na"),
        (b"w1 w2\n", "is no torch checkpoint; name one that fairseq-train wrote"),
        (b"", "is not a whole torch checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "c.pt"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_safely(path)
    assert str(caught.value).startswith(f"{path} {said}")


# --- defaults that train --------------------------------------------------------------


def test_what_nobody_says_trains(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """64 sentences: 3 epochs of 2 batches of 32, rising at first and ending at 0."""
    done = refusals_of(
        zygote,
        {
            "nothing": command(models, cola_data, tmp_path / "nothing"),
            "tokens": command(
                *(models, cola_data, tmp_path / "tokens", "--max-tokens=64"),
                *("--lr=1e-3", "--max-epoch=1", "--optimizer=adam"),
            ),
            "length": command(
                models, cola_data, tmp_path / "length", "--max-update=20", "--lr=1e-4"
            ),
        },
    )
    for one in done.values():
        assert one.returncode == 0, one.stderr[-2000:]
    cfg = {name: checkpoint(tmp_path / name)["cfg"] for name in done}
    bare = cfg["nothing"]
    assert bare["dataset"]["batch_size"] == 32
    assert bare["optimizer"]["_name"] == "bert_adam"
    assert bare["optimizer"]["bert_adam_bias_correction"] is True
    assert bare["optimization"]["lr"] == [5e-5]
    assert bare["lr_scheduler"]["total_num_update"] == 6
    assert (
        "--batch-size 32 --max-epoch 3 --optimizer bert_adam" in done["nothing"].stderr
    )
    rates = [float(line["lr"]) for line in logged(done["nothing"], "train_inner")]
    assert len(rates) == 6
    assert max(rates) == pytest.approx(5e-5)
    assert rates[-1] == 0
    # What is said stays: tokens for sentences, this optimizer, this rate throughout.
    assert cfg["tokens"]["dataset"]["batch_size"] is None
    assert cfg["tokens"]["optimizer"]["_name"] == "adam"
    assert cfg["tokens"]["lr_scheduler"]["_name"] == "fixed"
    assert cfg["length"]["lr_scheduler"]["warmup_updates"] == 2
    assert cfg["length"]["lr_scheduler"]["total_num_update"] == 20
    assert cfg["length"]["optimization"]["lr"] == [1e-4]
    assert cfg["length"]["optimization"]["max_epoch"] == 0


def test_defaults_leave_alone_what_is_said() -> None:
    every = {"batch_size", "optimizer", "lr", "max_update", "lr_scheduler"}
    assert refusals.unsaid(every, "adam") == {}
    assert refusals.unsaid(every - {"lr"}, "sgd") == {}
    assert refusals.unsaid(every - {"lr"}, "adam") == {"lr": "5e-05"}
    recipe = refusals.unsaid({"steady_epochs"}, None)
    assert "lr_scheduler" not in recipe
    assert "max_epoch" not in recipe
    for end in (
        "patience",
        "stop_time_hours",
        "stop_min_lr",
    ):  # in nobody knows how many
        chosen = refusals.unsaid({end}, None)
        assert not {"max_epoch", "lr_scheduler", "warmup_updates"} & {*chosen}
    constant = refusals.unsaid({"lr_scheduler"}, None)
    assert constant["max_epoch"] == 3
    assert "lr_scheduler" not in constant
    assert "max_epoch" not in refusals.unsaid(
        {"lr_scheduler", "total_num_update"}, None
    )
    assert "lr_scheduler" not in refusals.unsaid({"max_tokens", "max_epoch"}, None)


def test_a_schedule_of_fairseqs_older_kind_is_followed(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    """It has no dataclass, and its configuration no name."""
    manual = ["--lr-scheduler=manual", "--epoch2lr={}"]
    done = fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models['roberta']}", *manual),
        *("--update2lr={'1-2': 1e-3, '3-9': 1e-4}", "--max-update=4"),
        *("--log-interval=1", "--disable-validation", "--no-save"),
    )
    rates = [float(line["lr"]) for line in logged(done, "train_inner")]
    assert rates == [1e-3, 1e-3, 1e-4, 1e-4]


# --- rates that stay low --------------------------------------------------------------

POLYNOMIAL = "--lr-scheduler=polynomial_decay --total-num-update"
REMARKED = {
    "--warmup-updates=100": "--lr 0.001 is not reached before the end: 100 updates of "
    "warm-up, and 2 in all; lower --warmup-updates (the rate gets to 2e-05)",
    "--lr-scheduler=inverse_sqrt --warmup-updates=4000": "(the rate gets to 5e-07)",
    f"{POLYNOMIAL}=50 --warmup-updates=100": "100 updates of warm-up, and 2 in all",
    f"{POLYNOMIAL}=1": "--total-num-update 1 is before --max-update 2: the learning "
    "rate is 0 for all",
    "--max-update=0 --max-epoch=1 --warmup-updates=8": "warm-up, and 8 in all",
    "--warmup-updates=1": "",
}


def test_a_rate_that_never_rises_is_remarked(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    ends = [*LENGTH, *OPTIMIZER, "--disable-validation", "--no-save"]
    commands = {
        words: command(models, cola_data, tmp_path, *ends, *words.split(" "))
        for words in REMARKED
    }
    for words, done in refusals_of(zygote, commands).items():
        assert done.returncode == 0, done.stderr[-2000:]
        assert REMARKED[words] in done.stderr, words
        quiet = "WARNING | fairseq_steady.tasks._recipe" not in done.stderr
        assert quiet == (REMARKED[words] == ""), words


# --- paths ----------------------------------------------------------------------------


def test_a_path_is_a_path(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """With a colon, which fairseq splits at, with spaces; or not one that will do."""
    good = [tmp_path / "a:b", tmp_path / "a b", tmp_path / "it's {x}=1"]
    for folder in good:
        shutil.copytree(cola_data, folder)
    (tmp_path / "empty").mkdir()
    bad = {
        tmp_path / "empty": "empty holds no in_domain_dev.tsv",
        cola_data / "in_domain_train.tsv": "in_domain_train.tsv is not a folder",
        tmp_path / "none": "none is not a folder",
        tmp_path / "${x}": "is taken for a reference",
    }
    ends = [*LENGTH, *OPTIMIZER, "--no-save"]
    found = zygote.run(
        *(command(models, path, tmp_path / "out", *ends) for path in (*good, *bad))
    )
    for done in found[: len(good)]:
        assert done.returncode == 0, done.stderr[-2000:]
    for done, said in zip(found[len(good) :], bad.values(), strict=True):
        assert said in last_line(done)


def test_scores_ask_for_no_flag(
    models: dict[str, Path], score_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """--regression-target where scores are learnt anyway does no harm."""
    words = [score_data, *SCORE_FLAGS, *BARE, *LENGTH, *OPTIMIZER, "--no-save"]
    words += [f"--steady-model={models['roberta']}", f"--save-dir={tmp_path}"]
    words += ["--regression-target"]
    (done,) = zygote.run(["fairseq-train", *map(str, words)])
    assert done.returncode == 0, done.stderr[-2000:]


# --- Ctrl-C ---------------------------------------------------------------------------


def test_ctrl_c_says_what_is_kept(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """Of two workers the first one says it; both end as SIGINT ends a program."""
    arguments = [*run_flags(models, cola_data, "plain", tmp_path), "--max-epoch=600"]
    workers = start_two(zygote, *arguments)
    wait_for(workers[0], '"num_updates": "6"')
    for worker in workers:
        os.killpg(worker.pid, signal.SIGINT)
    said = [worker.communicate() for worker in workers]
    assert all("Traceback" not in text for text in said), said
    assert [worker.returncode for worker in workers] == [-signal.SIGINT] * 2, said
    last = tmp_path / "checkpoint_last.pt"
    assert f"interrupted; {last} is kept: the same command goes on" in said[0]
    assert checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"] >= 4
    assert "interrupted" not in said[1]


def test_an_evaluation_without_a_finite_loss_ends_the_run() -> None:
    cfg = SimpleNamespace(
        optimization=SimpleNamespace(lr=[0.5], clip_norm=1.0),
        criterion=SimpleNamespace(_name="plain"),
        common=SimpleNamespace(fp16=False, amp=False),
    )
    trainer = SimpleNamespace(cfg=cfg, get_num_updates=lambda: 7)
    step = of_losses(lambda _, loss: {"loss": loss})
    assert step(trainer, 1.5) == {"loss": 1.5}
    said = r"after update 7 of --criterion plain: the loss of the evaluation is nan"
    with pytest.raises(UserError, match=said):
        step(trainer, float("nan"))
