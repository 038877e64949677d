"""Nothing that is loaded runs code."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Trainer, make_model_directory
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.huggingface.release import import_fairseq
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.inference.probing import take_encoder
from fairseq_steady.inference.summarising import Summarizer
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.patches.checkpoints import _safe_globals, load_safely
from helpers import Attack
from sources import make_release


def bare_pickle(folder: Path) -> Path:
    """A checkpoint that is poisoned where a user's own never would be."""
    path = folder / "checkpoint_best.pt"
    state = {"model": {}, "args": None, "cfg": None, "extra": Attack(folder / "proof")}
    torch.save(state, path)
    return path


def model_directory(folder: Path) -> Any:
    """With a manifest that vouches for the poisoned weights."""
    made = make_model_directory(folder / "m")
    shutil.copy(bare_pickle(folder), made.path / "model.pt")
    manifest = json.loads((made.path / "manifest.json").read_text())
    manifest["files"].pop("model.pt", None)
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    return ModelDirectory.open(made.path).weights()


def hugging_face(folder: Path) -> Any:
    (folder / "source").mkdir()
    shutil.copy(bare_pickle(folder), folder / "source" / "pytorch_model.bin")
    sizes = ("hidden_size", "num_attention_heads", "num_hidden_layers")
    sizes += ("intermediate_size", "max_position_embeddings", "vocab_size")
    config = {"model_type": "bert", **dict.fromkeys(sizes, 8)}
    (folder / "source" / "config.json").write_text(json.dumps(config))
    return import_hf(folder / "source", folder / "out")


def release(folder: Path) -> Any:
    source = make_release(folder / "large")
    shutil.copy(bare_pickle(folder), source / "model.pt")
    return import_fairseq(source, source, folder / "out")


LOADERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint": lambda folder: load_safely(bare_pickle(folder)),
    "predict": lambda folder: Predictor(bare_pickle(folder)),
    "summarize": lambda folder: Summarizer(bare_pickle(folder)),
    "export": lambda folder: export_hf(bare_pickle(folder), folder / "out"),
    "probe": lambda folder: take_encoder(torch.nn.Linear(1, 1), bare_pickle(folder)),
    "model directory": model_directory,
    "Hugging Face's .bin": hugging_face,
    "fairseq's release": release,
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"(posix|os)\.system.*do not load it"):
        LOADERS[name](tmp_path)
    assert not (tmp_path / "proof").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--restore-file", "--finetune-from-model"])
def test_training_does_not_start_from_one(
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    flag: str,
) -> None:
    done = fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models['roberta']}"),
        *(flag, bare_pickle(tmp_path), f"--save-dir={tmp_path / 'out'}"),
        status=1,
    )
    assert "posix.system" in done.stderr.splitlines()[-1]
    assert "do not load it" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "proof").exists()


def test_nothing_else_unpickles() -> None:
    unsafe = re.compile(
        r"pickle\.loads?\(|torch\.load\(|allow_pickle=True|yaml\.(unsafe_)?load\(|"
        r"joblib|weights_only=False|\beval\(['\"a-z]|\bexec\("
    )
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("user_dir", "scripts", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in path.read_text().splitlines()
        if unsafe.search(line)
    ]
    where = 'return torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)'
    assert found == [f"user_dir/patches/checkpoints.py: {where}"]


def test_what_may_be_unpickled_is_data() -> None:
    """A namespace, fairseq's meters, numpy's numbers; and what makes the numbers."""
    given = [one[0] if isinstance(one, tuple) else one for one in _safe_globals()]
    calls = [one for one in given if not isinstance(one, type)]
    assert [one.__name__ for one in calls] == ["scalar"] * 2
    homes = {one.__module__.partition(".")[0] for one in given}
    assert homes == {"argparse", "fairseq", "numpy"}
