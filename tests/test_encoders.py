"""MPNet and other small encoders equal transformers', gradients included."""

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.huggingface.checking import assert_equal
from fairseq_steady.huggingface.exporting import Original, export_hf
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.inference.loading import load_classifier
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models import relative
from fairseq_steady.models.building import load_encoder
from fairseq_steady.models.packed import Packing
from fairseq_steady.models.relative import RelativeBias, bucket
from fairseq_steady.models.steady import HEAD
from sources import SMALL, SPECIAL_WORDS, make_small, many_scripts
from torch import nn
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder


@dataclass(frozen=True)
class Pair:
    """transformers' model and ours with the same weights."""

    source: Path
    directory: ModelDirectory
    theirs: Any
    ours: Any
    original: Original = field(repr=False)


@pytest.fixture(scope="module", params=SMALL)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    base = tmp_path_factory.mktemp("small")
    source = make_small(base / "source", request.param)
    directory = import_hf(source, base / "model")
    theirs = transformers.AutoModel.from_pretrained(source, dtype=torch.float32)
    ours = load_encoder(directory)
    original = Original(directory, ours, {})
    return Pair(source, directory, theirs.eval(), ours, original)


# --- what it computes -----------------------------------------------------------------

#: Beyond the last bucket of distances, and with several buckets of lengths.
LENGTHS = (150, 40, 23, 31, 1)


def test_states_and_gradients_equal_transformers(pair: Pair) -> None:
    """At every layer and of every parameter, with padding."""
    torch.manual_seed(4)
    tokens = torch.randint(5, 100, (len(LENGTHS), max(LENGTHS)))
    real = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    padding = pair.theirs.config.pad_token_id
    given = {
        "input_ids": tokens.masked_fill(~real, padding),
        "attention_mask": real.long(),
    }
    expected = pair.theirs(**given, output_hidden_states=True).hidden_states
    own = pair.original.rows[given["input_ids"]]
    extra = pair.ours(own, features_only=True, return_all_hiddens=True)[1]
    found = [state.transpose(0, 1) for state in extra["inner_states"]]
    assert len(found) == len(expected) == pair.theirs.config.num_hidden_layers + 1
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine[real], other[real], rtol=0, atol=1e-4)
    for states in (found, expected):
        (torch.stack([state[real] for state in states]) ** 3).mean().backward()
    same_gradients(pair)


def same_gradients(pair: Pair) -> None:
    """Ours are renamed as weights are, when they go out."""
    ours = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in pair.ours.named_parameters()
    }
    original = pair.original
    found = original.family.write(ours, original.form, original.kind, original.rows)
    checked = set()
    for name, parameter in pair.theirs.named_parameters():
        if parameter.grad is None or "token_type" in name:
            continue  # poolers; type 0 went into the positions
        expected = parameter.grad
        scale = float(expected.abs().max())
        torch.testing.assert_close(
            found[name], expected, rtol=0, atol=1e-4 * max(scale, 1e-3), msg=name
        )
        checked.add(name)
    assert {n for n in found if "token_type" not in n} <= checked


def test_tokens_equal_transformers_in_many_scripts(pair: Pair, tmp_path: Path) -> None:
    """Rows of embeddings are compared: ids differ where special tokens move."""
    theirs = transformers.AutoTokenizer.from_pretrained(pair.source)
    texts = many_scripts(300)
    texts += [f"a {word} b{word}" for word in SPECIAL_WORDS]
    given = [*((t,) for t in texts), *zip(texts[::3], texts[1::3], strict=False)]
    tokenizer = SentenceTokenizer(
        pair.directory, pair.directory.dictionary(), 200, spelled=True
    )
    for text, ids in zip(given, tokenizer.encode(given)[0], strict=True):
        wanted = theirs(*text, truncation=True, max_length=200)["input_ids"]
        assert pair.original.rows[wanted].tolist() == ids.tolist(), text


#: What an export says otherwise, and means the same by.
NEWLY_SAID = {
    *("architectures", "vocab_size", "type_vocab_size", "sinusoidal_pos_embds"),
    *("bos_token_id", "eos_token_id", "classifier_dropout"),
}


def test_out_and_in_again_is_the_same(pair: Pair, tmp_path: Path) -> None:
    assert export_hf(pair.directory.path, tmp_path / "out") <= 1e-5
    config = json.loads((tmp_path / "out/config.json").read_text())
    theirs = json.loads((pair.source / "config.json").read_text())
    for name in config.keys() & theirs.keys() - NEWLY_SAID:
        assert config[name] == theirs[name], name
    again = import_hf(tmp_path / "out", tmp_path / "again")
    mine, wanted = again.weights()[0], pair.directory.weights()[0]
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[name], wanted[name]) for name in mine)
    assert again.dictionary().symbols == pair.directory.dictionary().symbols
    assert again.manifest.architecture == pair.directory.manifest.architecture


# --- MPNet ----------------------------------------------------------------------------


def test_buckets_are_those_of_the_published_weights() -> None:
    distance = torch.arange(-600, 601)
    assert torch.equal(
        bucket(distance), MPNetEncoder.relative_position_bucket(distance)
    )


def test_each_pair_of_positions_has_its_distances_number() -> None:
    bias = RelativeBias(3)
    whole = bias(40)
    for i, j in ((0, 0), (0, 39), (39, 0), (20, 13), (13, 20)):
        row = int(bucket(torch.tensor(j - i)))
        assert torch.equal(whole[:, i, j], bias.embedding.weight[row])


def test_both_spellings_of_unknown_words_are_kept(tmp_path: Path) -> None:
    """MPNet's is [UNK]; its <unk> is another token, with a row of its own."""
    source = make_small(tmp_path / "source", "mpnet")
    directory = import_hf(source, tmp_path / "model")
    symbols = directory.dictionary().symbols
    assert symbols[:5] == ["<s>", "<pad>", "</s>", "<unk>", "other:<unk>"]
    table = directory.weights()[0]["encoder.sentence_encoder.embed_tokens.weight"]
    model = transformers.AutoModel.from_pretrained(source)
    rows = model.get_input_embeddings().weight
    assert torch.equal(table[3], rows[4])
    assert torch.equal(table[4], rows[3])


def test_a_gpus_way_is_the_same(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches stay padded there."""
    model = pair.ours
    tokens = torch.randint(5, 100, (2, 40))
    tokens[1, 30:] = 1
    expected = model(tokens, features_only=True)[0]
    every = functools.partial(Packing, packs=False)
    monkeypatch.setattr(relative, "_packing", every)
    found = model(tokens, features_only=True)[0]
    real = tokens.ne(1)
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)


# --- heads ----------------------------------------------------------------------------

NAMES = ["Neutral", "Entailment", "Contra diction"]


@pytest.fixture(scope="module", params=[k for k in SMALL if k != "mpnet-relu"])
def headed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ModelDirectory]:
    base = tmp_path_factory.mktemp("headed")
    names = {"id2label": dict(enumerate(NAMES))}
    source = make_small(
        base / "source", request.param, "ForSequenceClassification", **names
    )
    return source, import_hf(source, base / "model")


def test_a_classifier_comes_in_and_goes_out_with_its_head(
    headed: tuple[Path, ModelDirectory], tmp_path: Path
) -> None:
    """Sentences and pairs; hidden states are compared besides."""
    source, directory = headed
    assert directory.manifest.head == {"labels": NAMES}
    assert assert_equal(source, directory) <= 1e-5
    assert export_hf(directory.path, tmp_path / "out") <= 1e-5
    config = json.loads((tmp_path / "out/config.json").read_text())
    theirs = json.loads((source / "config.json").read_text())
    assert config["architectures"] == theirs["architectures"]
    assert config["id2label"] == theirs["id2label"]
    again = import_hf(tmp_path / "out", tmp_path / "again")
    mine, wanted = again.head(), directory.head()
    assert all(torch.equal(mine[name], wanted[name]) for name in wanted)


def test_its_activation_is_the_familys(headed: tuple[Path, ModelDirectory]) -> None:
    source, directory = headed
    model, _ = load_classifier(directory)
    bend = model.classification_heads[HEAD].activation_fn
    wanted = {"Electra": "gelu", "DistilBert": "relu"}
    named = transformers.AutoConfig.from_pretrained(source).architectures[0]
    activation = wanted.get(named.removesuffix("ForSequenceClassification"), "tanh")
    x = torch.linspace(-3, 3, 9)
    expected = getattr(torch if activation == "tanh" else nn.functional, activation)(x)
    torch.testing.assert_close(bend(x), expected)
