"""One object is all that a model family needs: ELECTRA, from this file alone.

It stands where the package's own does; nothing else of that is used.
"""

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from conftest import ROOT, run_command
from fairseq import utils
from fairseq.models.roberta.model import base_architecture
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface import exporting
from fairseq_steady.huggingface.checking import TOLERANCE, assert_equal, load_encoder
from fairseq_steady.huggingface.exporting import Original, export_hf
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.architectures import Count, Encoder
from fairseq_steady.models.families import FAMILIES
from fairseq_steady.models.families.base import ACTIVATIONS, BRACKETS, Kind, activation
from fairseq_steady.models.families.roberta import (
    FAMILY,
    EncoderConfig,
    EncoderFamily,
    SteadyRoberta,
)
from fairseq_steady.models.starting import reinitialise
from fairseq_steady.models.steady import HEAD
from fairseq_steady.optim import tag_parameters
from fairseq_steady.optim.tags import tag_of
from fairseq_steady.regularizers.injection import capture, find_decoder, find_encoder
from sources import SIZE, train_wordpiece
from torch import nn

# --- the family: nothing else in this file knows of it --------------------------------


class ElectraConfig(EncoderConfig, total=False):
    embedding_size: Count


@dataclass(frozen=True, kw_only=True)
class ElectraFamily(EncoderFamily):
    """BERT's body, and a head with another activation."""

    def check_config(self, config: dict[str, Any], path: Path) -> None:
        if config.get("embedding_size") != config["hidden_size"]:
            raise UserError(f"{path}: embedding_size is not hidden_size")

    def arguments(self, config: dict[str, Any], first: int) -> dict[str, Any]:
        return super().arguments(config, first) | {"pooler_activation_fn": "gelu"}

    def settings(self, form: dict[str, Any], kind: Kind) -> dict[str, Any]:
        size = {"embedding_size": form["encoder_embed_dim"]}
        return super().settings(form, kind) | size


ELECTRA = ElectraFamily(
    name="electra",
    kinds={
        "electra": Kind(
            "Electra",
            prefix="electra.",
            special=BRACKETS,
            vocabulary="wordpiece",
            head={"dense": "classifier.dense", "out_proj": "classifier.out_proj"},
            types=2,
        )
    },
    config=ElectraConfig,
    architecture=Encoder,
    model=SteadyRoberta,
    complete=base_architecture,
    stacks=FAMILY.stacks,
    words=FAMILY.words,
    unmissed=("discriminator_predictions.", "embeddings.position_ids"),
    typed=True,
)


# --- what is made of it ---------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelDirectory:
    """A tiny random ELECTRA, imported."""
    monkeypatch.setitem(FAMILIES, "electra", ELECTRA)
    source = tmp_path / "source"
    source.mkdir()
    train_wordpiece(source, cased=True)
    rows = len((source / "vocab.txt").read_text("utf-8").split("\n")) - 1
    config = transformers.ElectraConfig(
        vocab_size=rows,
        embedding_size=SIZE["hidden_size"],
        max_position_embeddings=256,
        **SIZE,
    )
    torch.manual_seed(1)
    transformers.ElectraForPreTraining(config).save_pretrained(source)
    return import_hf(str(source), str(tmp_path / "model"))


def test_it_comes_in_and_goes_out(directory: ModelDirectory, tmp_path: Path) -> None:
    assert directory.manifest.family == "electra"
    assert directory.family is ELECTRA
    assert assert_equal(str(tmp_path / "source"), directory) <= TOLERANCE
    assert export_hf(str(directory.path), str(tmp_path / "out")) <= TOLERANCE
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == [
        "ElectraModel"
    ]
    again = import_hf(tmp_path / "out", tmp_path / "again")
    mine, wanted = again.weights()[0], directory.weights()[0]
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[name], wanted[name]) for name in mine)


def test_its_head_goes_out_where_transformers_has_it(
    directory: ModelDirectory, tmp_path: Path
) -> None:
    model = load_encoder(directory)
    model.register_classification_head(HEAD, num_classes=3)
    nn.init.normal_(model.classification_heads[HEAD].dense.weight)
    nn.init.normal_(model.classification_heads[HEAD].out_proj.weight)
    task = SimpleNamespace(
        num_classes=3, head=HEAD, labels=["a", "b", "c"], several=False
    )
    task.max_positions = lambda: directory.manifest.architecture["max_positions"]
    original = Original(directory, model.eval(), {}, task)
    exporting._write(original, tmp_path)
    assert exporting.logit_error(original, tmp_path, ["naïve café", "x"]) <= TOLERANCE
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["architectures"] == ["ElectraForSequenceClassification"]
    # The activation is the family's: BERT's would give other logits.
    model.classification_heads[HEAD].activation_fn = torch.tanh
    assert exporting.logit_error(original, tmp_path, ["naïve café", "x"]) > TOLERANCE


def test_its_layers_decay_are_drawn_again_and_take_noise(
    directory: ModelDirectory,
) -> None:
    model = load_encoder(directory)
    tag_parameters(model, layer_decay=0.5)
    scales = {n: tag_of(p).lr_scale for n, p in model.named_parameters()}  # type: ignore[union-attr]
    assert scales["encoder.sentence_encoder.layers.0.fc1.weight"] == 0.25
    assert scales["encoder.sentence_encoder.layers.2.fc1.weight"] == 1
    assert scales["encoder.sentence_encoder.embed_tokens.weight"] == 0.125
    changed = reinitialise(model, 1, head=False, seed=0)
    assert {name.split(".")[3] for name in changed} == {"2"}
    with pytest.raises(UserError, match="0 to 3, the layers of this model's encoder"):
        reinitialise(model, 4, head=False, seed=0)
    with capture(find_encoder(model), "norm") as seen:
        model(torch.tensor([[0, 9, 2]]), features_only=True)
    assert seen[0].shape == (1, 3, 24)


def test_what_it_refuses_is_refused(directory: ModelDirectory, tmp_path: Path) -> None:
    path = tmp_path / "source" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "embedding_size": 12}))
    with pytest.raises(UserError, match="embedding_size is not hidden_size"):
        import_hf(tmp_path / "source", tmp_path / "no")
    path.write_text(json.dumps({**config, "embedding_size": 0}))
    with pytest.raises(UserError, match="'embedding_size': .*equal to 1, not 0"):
        import_hf(tmp_path / "source", tmp_path / "no")


def test_without_its_object_nothing_knows_it(
    directory: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FAMILIES, "electra")
    with pytest.raises(UserError, match="'electra' is not one of: roberta, deberta, "):
        ModelDirectory.open(directory.path)
    with pytest.raises(UserError, match="model_type 'electra' cannot be imported"):
        import_hf(tmp_path / "source", tmp_path / "no")


# --- families in general --------------------------------------------------------------


class Odd(nn.Module):
    """Two stacks under names of its own; the first has two layers, the other three."""

    stacks = ("reader.first", "writer")

    def __init__(self) -> None:
        super().__init__()

        def stack(layers: int) -> nn.Module:
            made = nn.Module()
            made.embed_tokens = nn.Embedding(5, 4)
            made.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))
            return made

        self.reader, self.writer = nn.Module(), stack(3)
        self.reader.first = stack(2)


def test_stacks_are_found_by_the_names_that_a_model_gives() -> None:
    model = Odd()
    assert find_encoder(model) is model.reader.first
    assert find_decoder(model) is model.writer
    tag_parameters(model)
    depths = {n: tag_of(p).depth for n, p in model.named_parameters()}  # type: ignore[union-attr]
    assert depths["reader.first.embed_tokens.weight"] == 0
    assert depths["reader.first.layers.1.weight"] == 2
    assert depths["writer.layers.0.weight"] == 3
    assert depths["writer.layers.2.bias"] == 5
    changed = reinitialise(model, 1, head=False, seed=0)
    assert changed == ["writer.layers.2.weight", "writer.layers.2.bias"]
    with pytest.raises(UserError, match="0 to 3, the layers of this model's writer"):
        reinitialise(model, 4, head=False, seed=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_built_model_has_its_familys_stacks(
    models: dict[str, Path], family: str
) -> None:
    model = load_encoder(ModelDirectory.open(models[family]))
    wanted = FAMILIES[family]
    assert model.stacks == wanted.stacks
    assert find_encoder(model) is model.get_submodule(wanted.stacks[0])
    assert hasattr(model, "decoder") == wanted.decodes == (len(wanted.stacks) == 2)


def test_a_manifest_of_no_type_of_its_family_is_one_line(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    directory = ModelDirectory.open(models["roberta"])
    (tmp_path / "m").mkdir()
    for path in directory.path.iterdir():
        (tmp_path / "m" / path.name).symlink_to(path)
    (tmp_path / "m/manifest.json").unlink()
    manifest = json.loads((directory.path / "manifest.json").read_text())
    manifest["source"] = {"model_type": "t5"}
    (tmp_path / "m/manifest.json").write_text(json.dumps(manifest))
    done = run_command("export", tmp_path / "m", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path / 'm'}: model_type 't5' is none that family roberta has "
        "(bert, roberta, xlm-roberta, camembert); import the model again\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("theirs", ACTIVATIONS)
def test_activations_are_the_same_functions(theirs: str) -> None:
    assert activation({"hidden_act": theirs, "activation": "x"}, "hidden_act") == theirs
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    ours = utils.get_activation_fn(ACTIVATIONS[theirs])(x)
    expected = transformers.activations.ACT2FN[theirs](x)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def named_in_code(path: Path, word: str) -> bool:
    """Whether a name, a string or an import of a file has a word; not its texts."""
    tree = ast.parse(path.read_text("utf-8"))
    texts = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    rest = [node for node in ast.walk(tree) if id(node) not in texts]
    found = [getattr(node, "id", getattr(node, "value", None)) for node in rest]
    found += [getattr(node, "attr", getattr(node, "name", None)) for node in rest]
    found += [getattr(node, "module", None) for node in rest]
    return any(isinstance(text, str) and word in text.lower() for text in found)


def test_a_family_is_named_by_its_file_and_one_line() -> None:
    """Beside them: DeBERTa's network, whose arguments have the name."""
    package = ROOT / "user_dir"
    naming = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if named_in_code(path, "deberta")
    }
    assert naming == {
        "models/disentangled.py",
        "models/families/__init__.py",
        "models/families/deberta.py",
    }
