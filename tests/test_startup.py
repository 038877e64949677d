"""What starts: parts that stand alone, what is imported, what is said."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import (
    FAIRSEQ_STEADY,
    ROOT,
    TRAIN,
    environment,
    fairseq_command,
    run_command,
)

#: Parts that need no fairseq, and how long one may take beyond torch.
PURE = ("", ".optim", ".regularizers", ".errors", ".files", ".comparison.plan")
#: Prints what imports of pure parts take, bring along and change.
ALONE = """
import json, logging, signal, sys, time, warnings
import torch
blocked = "fairseq hydra sklearn scipy rouge_score nltk transformers tensorboard pandas"
for name in [*blocked.split(), "matplotlib", "tokenizers"]:
    sys.modules[name] = None
def state():
    return repr((sys.excepthook, warnings.filters, logging.root.level,
        logging.root.handlers, logging.root.manager.disable,
        torch.serialization.get_safe_globals(), signal.getsignal(signal.SIGTERM),
        torch.load, torch.get_num_threads(), torch.initial_seed(), sys.path))
before, started = state(), time.process_time()
for part in PARTS:
    __import__("fairseq_steady" + part)
took = time.process_time() - started
print(json.dumps([before == state(), took, before, state()]))
"""


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """A real process, as a user starts it."""
    return subprocess.run(
        [*map(str, command)],
        check=False,
        env=environment(**variables),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize("parts", [PURE, PURE[1:3]], ids=["all", "mathematics"])
def test_pure_parts_need_no_fairseq_and_change_nothing(parts: tuple[str, ...]) -> None:
    done = run(sys.executable, "-c", ALONE.replace("PARTS", repr(parts)))
    assert done.returncode == 0, done.stderr
    unchanged, took, before, after = json.loads(done.stdout)
    assert unchanged, (before, after)
    assert took < 2
    assert done.stderr == ""


def test_the_mathematics_changes_no_trainer_and_the_plugin_brings_nothing_slow() -> (
    None
):
    """fairseq itself brings scikit-learn and scipy."""
    code = """
import json, sys, fairseq.trainer
trainer, modules = fairseq.trainer.Trainer, set(sys.modules)
before = dict(vars(trainer))
import fairseq_steady.optim, fairseq_steady.regularizers, fairseq_steady.files
same = before == dict(vars(trainer))
import fairseq_steady.tasks
changed = before != dict(vars(trainer))
brought = sorted({name.partition(".")[0] for name in set(sys.modules) - modules})
print(json.dumps([same, changed, brought]))
"""
    same, changed, brought = json.loads(run(sys.executable, "-c", code).stdout)
    assert same
    assert changed
    reading = {"pydantic", "pydantic_core", "annotated_types", "typing_inspection"}
    assert "fairseq_steady" in brought
    theirs = {*brought} - sys.stdlib_module_names
    assert theirs <= reading | {"fairseq_steady", "tokenizers"}


def training(models: dict[str, Path], data: Path, out: Path) -> list[str]:
    flags = [data, "--task=cola", f"--steady-model={models['roberta']}"]
    flags += ["--max-update=2", f"--save-dir={out}", "--no-save"]
    return [*map(str, (*TRAIN, *flags))]


#: What a training of sentences never needs, and fairseq brings none of.
SLOW = {"rouge_score", "nltk", "transformers", "matplotlib", "statsmodels", "submitit"}
SLOW |= {"safetensors", "google.protobuf.descriptor_pb2"}
#: A line that says something of no use before the first useful one.
NOISE = re.compile(
    r"UserWarning|FutureWarning|tensorboardX|version_base|JobRuntime|DEBUG"
)


def test_known_warnings_are_silent_unless_they_are_asked_for(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    flags = training(models, cola_data, tmp_path)
    plain = run(*fairseq_command(*flags))
    assert plain.returncode == 0, plain.stderr
    assert plain.stderr == ""
    # Said before the plugin is there.
    early = [line for line in plain.stdout.splitlines() if NOISE.search(line)]
    assert [line.split(" | ")[-1] for line in early] == [
        "Please install tensorboardX: pip install tensorboardX"
    ]
    spoken = {"FAIRSEQ_STEADY_VERBOSE": "1", "PYTHONPROFILEIMPORTTIME": "1"}
    asked = run(*fairseq_command(*flags), **spoken)
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", asked.stderr, re.M))
    assert "user_dir.tasks.cola" in imported
    assert not SLOW & (imported | {name.partition(".")[0] for name in imported})
    assert asked.stderr.count("UserWarning") >= 6
    assert "The version_base parameter is not specified" in asked.stderr
    ours = run(FAIRSEQ_STEADY, "train", *flags)
    assert ours.returncode == 0, ours.stderr
    assert ours.stderr == ""
    assert not NOISE.search(ours.stdout)
    assert '"num_updates": "2"' in ours.stdout
    # The same training, to the last figure.
    loss = re.compile(r'"(?:train_)?loss": "([\d.]+)"')
    assert loss.findall(ours.stdout) == loss.findall(plain.stdout) != []


@pytest.mark.parametrize("command", ["predict", "list", "train", "hydra-train"])
def test_help_is_a_page_and_nothing_else(command: str) -> None:
    done = run(FAIRSEQ_STEADY, command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not NOISE.search(done.stdout)
    assert len(done.stdout.splitlines()) <= 60
    assert f"fairseq-steady {command}" in done.stdout


def test_train_takes_this_folder_and_one_beside_it(
    models: dict[str, Path], cola_data: Path, tmp_path: Path
) -> None:
    """A method of one's own, trained with this plugin's task."""
    own = tmp_path / "own_plugin"
    own.mkdir()
    (own / "__init__.py").write_text(
        "from fairseq.criterions import register_criterion\n"
        "from fairseq_steady.criterions.plain import PlainConfig, PlainCriterion\n\n\n"
        '@register_criterion("doubled", dataclass=PlainConfig)\n'
        "class Doubled(PlainCriterion):\n    pass\n"
    )
    flags = training(models, cola_data, tmp_path / "out")
    same = run_command("train", *flags, "--user-dir=user_dir")
    assert same.returncode == 0, same.stderr
    both = run_command("train", *flags, "--user-dir", own, "--criterion=doubled")
    assert both.returncode == 0, both.stderr
    assert "Doubled" in both.stdout


def test_trains_exit_status_is_fairseqs(tmp_path: Path) -> None:
    done = run_command("train", tmp_path, "--task=colla")
    assert done.returncode == 1
    assert done.stderr == "error: --task has no 'colla'; did you mean cola?\n"
