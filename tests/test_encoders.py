"""MPNet and other small encoders equal transformers', gradients included."""

import json
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import transformers
from conftest import Trainer
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface import exporting
from fairseq_steady.huggingface.checking import assert_equal, hidden_state_error
from fairseq_steady.huggingface.exporting import Original, export_hf
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.inference.loading import load_classifier
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.building import load_encoder
from fairseq_steady.models.families.base import ACTIVATIONS
from fairseq_steady.models.relative import RelativeBias, bucket
from fairseq_steady.models.steady import HEAD, take_pooler
from fairseq_steady.optim import tag_parameters
from fairseq_steady.optimizers.groups import parameter_groups
from fairseq_steady.regularizers import (
    derived,
    draw,
    noise_keys,
    perturbed_layers,
)
from fairseq_steady.regularizers.injection import capture, find_encoder
from hypothesis import event, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
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


def test_what_no_published_model_has_is_refused(tmp_path: Path) -> None:
    """Another number of buckets; groups that are no groups; no layers for a group."""
    refused = [
        ("mpnet", {"relative_attention_num_buckets": 16}, "_buckets 16 cannot be impo"),
        ("albert", {"inner_group_num": 2}, "inner_group_num 2 is no published"),
        (
            "albert",
            {"num_hidden_groups": 4},
            "groups 4 is more than num_hidden_l",
        ),
        ("distilbert", {"n_heads": 5}, "dim 24 is not a multiple of n_heads 5"),
    ]
    for index, (kind, told, said) in enumerate(refused):
        source = make_small(tmp_path / f"{index}", kind)
        config = json.loads((source / "config.json").read_text()) | told
        (source / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=said):
            import_hf(source, tmp_path / "out")


def test_a_configuration_may_leave_its_defaults_out(tmp_path: Path) -> None:
    """They are transformers', of each family its own."""
    left = {
        "electra": ["classifier_dropout"],
        "albert": [
            *("hidden_act", "classifier_dropout_prob", "num_hidden_groups"),
            *("hidden_dropout_prob", "attention_probs_dropout_prob"),
        ],
        "distilbert": ["seq_classif_dropout", "dropout", "attention_dropout"],
    }
    found = {}
    for kind, names in left.items():
        source = make_small(tmp_path / kind, kind)
        config = json.loads((source / "config.json").read_text())
        kept = {name: value for name, value in config.items() if name not in names}
        (source / "config.json").write_text(json.dumps(kept))
        directory = import_hf(source, tmp_path / f"{kind}-model")
        assert max(hidden_state_error(source, directory)) <= 1e-5
        found[kind] = directory.manifest.architecture
    assert found["albert"]["activation_fn"] == "gelu_accurate"
    rates = {kind: form["pooler_dropout"] for kind, form in found.items()}
    assert rates == {"electra": 0.1, "albert": 0.1, "distilbert": 0.2}
    for name in ("dropout", "attention_dropout"):
        assert [form[name] for form in found.values()] == [0.1, 0.0, 0.1]
    assert {form["layer_norm_eps"] for form in found.values()} == {1e-12, 1e-6}
    assert found["distilbert"]["layer_norm_eps"] == 1e-12
    source = make_small(tmp_path / "own", "electra", classifier_dropout=0.3)
    form = import_hf(source, tmp_path / "own-model").manifest.architecture
    assert form["pooler_dropout"] == 0.3


def test_no_layer_at_all_is_equal_too(tmp_path: Path) -> None:
    """transformers gives no hidden states then, and the last of them."""
    source = make_small(tmp_path / "source", "bert-one-type", num_hidden_layers=0)
    errors = hidden_state_error(source, import_hf(source, tmp_path / "model"))
    assert len(errors) == 1
    assert errors[0] <= 1e-5


@pytest.mark.parametrize("kind", SMALL)
def test_a_pooler_starts_a_head_where_there_is_one(kind: str, tmp_path: Path) -> None:
    """BERT's, MPNet's and ALBERT's; another activation's is none of pretraining."""
    source = make_small(tmp_path / "source", kind)
    directory = import_hf(source, tmp_path / "model")
    model = load_encoder(directory)
    model.register_classification_head(HEAD, num_classes=2)
    theirs = transformers.AutoModel.from_pretrained(source)
    if not hasattr(theirs, "pooler"):
        with pytest.raises(
            UserError, match="has no pooler .*leave out --steady-pooler"
        ):
            take_pooler(model, directory)
        return
    take_pooler(model, directory)
    linear = getattr(theirs.pooler, "dense", theirs.pooler)
    dense = model.classification_heads[HEAD].dense
    assert torch.equal(dense.weight, linear.weight)
    assert torch.equal(dense.bias, linear.bias)


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
    (found,) = Predictor(directory.path)(["naïve, can't"])
    assert list(found.probabilities) == NAMES
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


def test_choices_go_out_under_electras_own_names(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    """transformers' class for them has another head than its classifier."""
    model = tiny.build(models["electra"], outputs=1).eval()
    directory = ModelDirectory.open(models["electra"])
    task = SimpleNamespace(num_classes=1, head=HEAD, labels=None, choices=2)
    task.max_positions = lambda: directory.manifest.architecture["max_positions"]
    original = Original(directory, model, {"model": {}}, task)
    original.check()
    exporting._write(original, tmp_path)
    assert exporting.logit_error(original, tmp_path, ["w1 w2", "w3"]) <= 1e-5
    assert load_file(tmp_path / "model.safetensors").keys() >= {
        *("sequence_summary.summary.weight", "classifier.bias"),
    }


# --- what training knows of it --------------------------------------------------------

NEW = ("mpnet", "electra", "distilbert", "albert")


def test_electras_own_layer_decay_is_asked_for_as_the_readme_says(
    models: dict[str, Path],
) -> None:
    """Its paper's 0.8, as its code counts: embeddings 0, layers from 1, head n + 2."""
    model = tiny.build(models["electra"])
    tag_parameters(model, layer_decay=0.8)
    for group in parameter_groups(model.parameters()):
        for name in group["names"]:
            layer = re.search(r"\.layers\.(\d)\.", name)
            depth = int(layer[1]) + 1 if layer else 0
            if "classification_heads" not in name:
                theirs = 0.8 ** (2 + 2 - depth)
                assert 0.64 * group["lr_scale"] == pytest.approx(theirs), name


def test_perturbations_enter_before_the_projection(models: dict[str, Path]) -> None:
    """Of ELECTRA and ALBERT; their shape is that of the narrow embeddings."""
    for family, width in (("mpnet", 16), ("electra", 12), ("albert", 12)):
        model = tiny.build(models[family]).eval()
        encoder = find_encoder(model)
        for point in ("word", "norm"):
            with capture(encoder, point) as seen:  # type: ignore[arg-type]
                model(torch.tensor([[0, 9, 8, 2]]), features_only=True)
            assert [value.shape for value in seen] == [(1, 4, width)]


@pytest.mark.parametrize("family", NEW)
def test_sums_from_layer_to_layer_stay_in_fp32_under_autocast(
    models: dict[str, Path], family: str
) -> None:
    model = tiny.build(models[family])
    tokens = torch.tensor([[0, 9, 8, 7, 2], [0, 9, 2, 1, 1]])
    expected = model(tokens, features_only=True)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = model(tokens, features_only=True)[0]
    assert found.dtype == torch.float32
    real = tokens.ne(1)
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=0.2)


def test_a_shared_layer_is_used_as_often_as_the_configuration_says(
    models: dict[str, Path],
) -> None:
    """Two layers three times, as transformers shares them out; layerdrop takes some."""
    encoder: Any = find_encoder(tiny.build(models["albert"]))
    assert encoder.order == [0, 0, 1]
    assert [list(encoder.layers).index(one) for one in encoder.passes] == [0, 0, 1]
    encoder.encoder_layerdrop = 0.9
    torch.manual_seed(0)
    assert {len(encoder.passes) for _ in range(20)} >= {0, 1}
    encoder.eval()
    assert len(encoder.passes) == 3


def test_each_pass_of_a_shared_layer_gets_its_own_noise(
    models: dict[str, Path],
) -> None:
    """Of hype; the first pass of each layer as where nothing is shared."""
    encoder = find_encoder(tiny.build(models["albert"]))
    tokens, keys = torch.tensor([[0, 9, 8, 2]]), noise_keys(torch.tensor([3]))
    mask = torch.ones(1, 4, dtype=torch.bool)
    seen: list[torch.Tensor] = []

    def see(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0].transpose(0, 1))

    for layer in encoder.layers:  # type: ignore[union-attr]
        layer.register_forward_pre_hook(see)
    with perturbed_layers(encoder, "normal", 0.1, keys, mask) as known:
        for layer in encoder.layers:  # type: ignore[union-attr]
            layer.register_forward_pre_hook(see)
        encoder(tokens)
    once = [draw("normal", derived(keys, i), mask, 16, 0.1) for i in range(3)]
    added = [
        after - before for before, after in zip(seen[::2], seen[1::2], strict=True)
    ]
    for noise, wanted in zip(added, (once[0], once[2], once[1]), strict=True):
        torch.testing.assert_close(noise, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(known.rms, once[0].square().mean().sqrt().view(1))


def test_layers_of_another_shape_are_not_perturbed(models: dict[str, Path]) -> None:
    """transformers' are called on (B, T, C): noise would go to other tokens."""
    encoder = find_encoder(tiny.build(models["roberta"]))
    keys, mask = noise_keys(torch.arange(2)), torch.ones(2, 3, dtype=torch.bool)
    with (
        perturbed_layers(encoder, "normal", 0.1, keys, mask),
        pytest.raises(
            UserError, match=r"layers of \(2, 3, 16\) and a mask of \(2, 3\)"
        ),
    ):
        encoder.layers[0](torch.zeros(2, 3, 16))  # type: ignore[index,operator]


TRAINED = {
    "mpnet": ["--criterion=r4f", "--r4f-eps=0.1", "--steady-reinit-layers=1"],
    "electra": ["--criterion=sift"],
    "distilbert": ["--criterion=r3f", "--r3f-eps=0.1"],
    "albert": ["--criterion=r4f", "--r4f-eps=0.1"],
}


@pytest.mark.parametrize("kind", TRAINED)
def test_a_trained_one_predicts_as_its_export_does(
    kind: str, tmp_path: Path, cola_data: Path, fairseq_train: Trainer
) -> None:
    import_hf(make_small(tmp_path / "source", kind), tmp_path / "model")
    fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={tmp_path / 'model'}"),
        *(*TRAINED[kind], "--max-update=3", "--lr=1e-3", "--optimizer=bert_adam"),
        *("--steady-layer-decay=0.9", "--no-epoch-checkpoints"),
        f"--save-dir={tmp_path / 'run'}",
    )
    path = tmp_path / "run/checkpoint_best.pt"
    assert export_hf(path, tmp_path / "out") <= 1e-5
    classify = transformers.pipeline("text-classification", str(tmp_path / "out"))
    texts = ["日本語 cat", "naïve, can't", "x"]
    for found, theirs in zip(
        Predictor(path)(texts), classify(texts, top_k=None), strict=True
    ):
        expected = {score["label"]: score["score"] for score in theirs}
        assert found.probabilities == pytest.approx(expected, abs=1e-5)


# --- whatever a configuration says ----------------------------------------------------

CONFIGS = {
    "mpnet": {"relative_attention_num_buckets": st.sampled_from([32, 32, 32, 16])},
    "electra": {
        "embedding_size": st.sampled_from([5, 8, 12]),
        "type_vocab_size": st.sampled_from([2, 1, 3, 0]),
    },
    "distilbert": {"sinusoidal_pos_embds": st.booleans()},
    "bert-one-type": {"type_vocab_size": st.sampled_from([1, 2, 3, 0])},
    "albert": {
        "embedding_size": st.sampled_from([5, 12]),
        "num_hidden_groups": st.sampled_from([1, 2, 1, 3]),
        "inner_group_num": st.sampled_from([1, 1, 1, 2]),
        "type_vocab_size": st.integers(1, 3),
    },
}
COMMON = {
    "hidden_size": st.sampled_from([8, 12, 20]),
    "num_attention_heads": st.sampled_from([4, 2, 1, 4, 2, 5]),
    "num_hidden_layers": st.integers(0, 4),
    "intermediate_size": st.integers(1, 20),
    "max_position_embeddings": st.integers(12, 60),
    "hidden_act": st.sampled_from([*ACTIVATIONS, *ACTIVATIONS, "silu"]),
    "layer_norm_eps": st.sampled_from([1e-12, 1e-5, 0.1]),
    "initializer_range": st.just(0.3),
}
OWN_NAMES = {
    **{"hidden_size": "dim", "num_attention_heads": "n_heads"},
    **{"num_hidden_layers": "n_layers", "intermediate_size": "hidden_dim"},
    "hidden_act": "activation",
}


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("vocabularies")
    for kind in CONFIGS:
        make_small(base / kind, kind)
    return base


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=6, deadline=None)
@given(data=st.data(), headed=st.booleans())
def test_any_configuration_imports_equal_or_is_refused(
    vocabularies: Path, data: st.DataObject, kind: str, headed: bool
) -> None:
    """With a head of three classes or without; its logits are compared, too."""
    auto = getattr(transformers, "AutoModel" + "ForSequenceClassification" * headed)
    given = data.draw(st.fixed_dictionaries(COMMON | CONFIGS[kind]))
    if kind == "distilbert":
        given = {OWN_NAMES.get(name, name): value for name, value in given.items()}
    with tempfile.TemporaryDirectory() as folder:
        source = shutil.copytree(vocabularies / kind, Path(folder, "source"))
        written = json.loads((source / "config.json").read_text()) | given
        written["id2label"] = dict(enumerate(NAMES))
        (source / "config.json").write_text(json.dumps(written))
        made = suppress(ValueError, ZeroDivisionError)  # a model nobody can make
        with made:
            config = transformers.AutoConfig.from_pretrained(source)
            auto.from_config(config).save_pretrained(source)
        said = ""
        try:
            directory = import_hf(source, Path(folder, "model"))
            assert (directory.manifest.head is not None) == headed
            assert assert_equal(source, directory) <= 1e-4
        except UserError as error:
            said = str(error)
        assert "\n" not in said
        assert "differ from" not in said
        assert "zip()" not in said
        event(f"{kind}: {'refused' if said else 'equal'}")


# --- what is refused, and why ---------------------------------------------------------

LORA = {"peft_type": "LORA", "base_model_name_or_path": "bert-base-cased"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "t5": ({"model_type": "t5"}, "(an encoder-decoder of another form than BART's)"),
    "gpt": ({"model_type": "gpt2"}, "(a decoder alone: no token of it sees those aft"),
    "by its class": (
        {"model_type": "new", "architectures": ["NewForCausalLM"]},
        "model_type 'new' cannot be imported; known: bert, roberta, xlm-roberta, ",
    ),
    "sound": ({"model_type": "hubert"}, "(it reads sound)"),
    "vision": ({"model_type": "vit"}, " (it reads pictures)"),
    "quantised": (
        {"model_type": "bert", "quantization_config": {"quant_method": "gptq"}},
        "weights quantised by 'gptq' cannot be imported; fp32, fp16 and bf16 can",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_forms_are_refused_with_their_reason(what: str, tmp_path: Path) -> None:
    config, said = REFUSED[what]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        import_hf(tmp_path, tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("has_model", [False, True])
def test_an_adapter_is_refused_until_it_is_merged(
    tmp_path: Path, has_model: bool
) -> None:
    source = tmp_path / "source"
    if has_model:
        make_small(source, "mpnet")
    source.mkdir(exist_ok=True)
    (source / "adapter_config.json").write_text(json.dumps(LORA))
    with pytest.raises(UserError, match="an adapter of bert-base-cased is no model; "):
        import_hf(source, tmp_path / "out")
    (source / "adapter_config.json").unlink()
    if has_model:
        state = load_file(source / "model.safetensors")
        name = "encoder.layer.0.attention.attn.q.lora_A.default.weight"
        save_file({**state, name: torch.ones(2, 24)}, source / "model.safetensors")
        with pytest.raises(UserError, match="the weights hold adapters .*_and_unload"):
            import_hf(source, tmp_path / "out")


def test_numbers_of_eight_bits_are_refused(tmp_path: Path) -> None:
    """Without their scale they mean nothing, though they are floating-point ones."""
    source = make_small(tmp_path / "source", "distilbert")
    state = load_file(source / "model.safetensors")
    name = "transformer.layer.1.ffn.lin1.weight"
    state[name] = state[name].to(torch.float8_e4m3fn)
    save_file(state, source / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name} is of float8_e4m3fn, no .*quantised"):
        import_hf(source, tmp_path / "out")
