"""A method from outside the package: one file, and the entry point that names it."""

import json
import subprocess
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import tiny
from conftest import FAIRSEQ_STEADY, ROOT, TRAIN, environment, fairseq_command
from fairseq.tasks import TASK_REGISTRY
from fairseq_steady import plugins
from fairseq_steady.commands.listing import components, whole
from fairseq_steady.errors import UserError
from fairseq_steady.patches.checkpoints import check_names

#: All that a method is: options, regulariser, criterion.
METHOD = """
from dataclasses import dataclass

from fairseq.criterions import register_criterion
from fairseq_steady.criterions.options import divergence, dropout, probing, strength
from fairseq_steady.criterions.penalty import PenaltyCriterion
from fairseq_steady.criterions.plain import PlainConfig
from fairseq_steady.flags import SHARE, option
from fairseq_steady.presets import Paper
from fairseq_steady.regularizers import DropoutMode, Penalty


@dataclass
class ShrinkConfig(PlainConfig):
    shrink_lambda: float = strength(1.0)
    shrink_share: float = option(0.5, "by how much embeddings shrink", SHARE)
    shrink_divergence: str = divergence()
    shrink_dropout: DropoutMode = dropout("off")
    shrink_probe_interval: int = probing()


@register_criterion("shrink", dataclass=ShrinkConfig)
class ShrinkCriterion(PenaltyCriterion):
    method = "shrink"
    paper = Paper("a paper of mine", {"shrink_share": 0.25})
    cfg: ShrinkConfig

    def regularizer(self, model):
        kept = 1 - self.cfg.shrink_share
        return lambda view: Penalty(
            view.divergence(view.forward(view.embedded * kept), view.clean)
        )
"""

#: A family like another, under a name of its own.
FAMILY = """
from dataclasses import replace

from fairseq_steady.models.families import FAMILIES, register

known = FAMILIES["roberta"]
kinds = {"data2vec-text": known.kinds["roberta"]}
register(replace(known, name="data2vec-text", kinds=kinds))
"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder on the path, as an installed package leaves it."""
    (tmp_path / "shrinking.py").write_text(METHOD)
    info = tmp_path / "shrinking-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shrinking\nVersion: 1")
    named = "[fairseq_steady.plugins]\nshrink = shrinking\n"
    (info / "entry_points.txt").write_text(named)
    return tmp_path


def test_a_method_of_one_file_outside_the_package_trains(
    outside: Path, models: dict[str, Path], cola_data: Path
) -> None:
    model = f"--steady-model={models['roberta']}"
    flags = ("--no-save", "--criterion=shrink", "--task=cola", model, "--max-update=2")
    done = subprocess.run(
        fairseq_command(*TRAIN, cola_data, *flags, f"--save-dir={outside / 'run'}"),
        capture_output=True,
        text=True,
        check=False,
        env=environment(PYTHONPATH=str(outside)),
        cwd=ROOT,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    inner = [row for row in said.splitlines() if "| INFO | train_inner | {" in row]
    assert len(inner) == 2
    for row in inner:
        logged = json.loads(row[row.index("{") :])
        found, task = float(logged["shrink_divergence"]), float(logged["task_loss"])
        assert found > 1e-3
        assert float(logged["loss"]) == pytest.approx(task + found, abs=2e-3)


def test_its_options_are_checked_as_ours_are(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(outside)
    plugins.load_plugins()
    said = "^--shrink-share 1.0 is out of range: by how much embeddings shrink, in"
    with pytest.raises(UserError, match=said):
        tiny.make_criterion("shrink", share=1.0)
    assert tiny.make_criterion("shrink").terms.strength == 1
    shown = list(whole(components(), ["shrink"]))
    assert shown[0] == "--criterion shrink"
    assert "    --shrink-share (default: 0.5; paper: 0.25)" in shown
    assert "        by how much embeddings shrink, in [0, 1)" in shown


def test_a_family_from_outside_is_known_where_models_come_in(outside: Path) -> None:
    (outside / "shrinking.py").write_text(FAMILY)
    (outside / "source").mkdir()
    (outside / "source/config.json").write_text('{"model_type": "t5"}')
    done = subprocess.run(
        [FAIRSEQ_STEADY, "import", outside / "source", outside / "out"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(PYTHONPATH=str(outside)),
    )
    assert done.returncode == 1
    assert done.stderr.endswith(
        "model_type 't5' cannot be imported; known: bert, roberta, "
        "xlm-roberta, camembert, deberta, deberta-v2, modernbert, bart, mbart, mpnet, "
        "electra, distilbert, albert, data2vec-text (an encoder-decoder of another "
        "form than BART's)\n"
    )


def test_a_plugin_that_cannot_be_imported_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = EntryPoint("mine", "no_such_module", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken])
    said = r"^the plugin 'mine' \(no_such_module\) cannot be imported: ModuleNotFound"
    with pytest.raises(UserError, match=said):
        plugins.load_plugins()


def test_a_plugin_that_takes_a_name_of_ours_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = METHOD.replace('"shrink"', '"r3f"').replace("Shrink", "Again")
    (tmp_path / "taking.py").write_text(again)
    monkeypatch.syspath_prepend(tmp_path)
    taking = EntryPoint("mine", "taking", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [taking])
    said = r"^the plugin 'mine' \(taking\) cannot be imported: ValueError: .*\(r3f\)"
    with pytest.raises(UserError, match=said):
        plugins.load_plugins()


def test_checkpoints_of_a_loaded_plugins_task_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = type("Task", (), {"__module__": "theirs.tasks"})
    monkeypatch.setitem(TASK_REGISTRY, "theirs", task)
    state = {"cfg": {"model": {"_name": "steady"}, "task": {"_name": "theirs"}}}
    with pytest.raises(UserError, match="^run.pt is of task 'theirs', which this"):
        check_names(state, "run.pt")
    monkeypatch.setattr(plugins, "_LOADED", {"theirs"})
    check_names(state, "run.pt")
