"""ModernBERT equals transformers' in every form that its configuration has."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import Trainer
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq_steady.errors import UserError
from fairseq_steady.files import conform
from fairseq_steady.huggingface.checking import hidden_state_error, load_encoder
from fairseq_steady.huggingface.config import read_config
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.huggingface.sources import Weights
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.model_dir import Manifest, ModelDirectory
from fairseq_steady.models import attention, neighbours
from fairseq_steady.models import packed as packed_module
from fairseq_steady.models.attention import attend
from fairseq_steady.models.building import build
from fairseq_steady.models.families.base import BRACKETS
from fairseq_steady.models.families.modernbert import FAMILY
from fairseq_steady.models.neighbours import attend_near, parts
from fairseq_steady.models.starting import reinitialise
from fairseq_steady.models.steady import HEAD, take_pooler
from fairseq_steady.optim import tag_parameters
from fairseq_steady.optim.tags import tag_of
from fairseq_steady.regularizers.injection import capture, find_encoder
from helpers import LOOSE, logged
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import make_modernbert, make_source
from torch.utils._python_dispatch import TorchDispatchMode

WORDS = 60
STACK = "encoder.sentence_encoder."
PURPOSE = "ModernBertForSequenceClassification"
#: All that a configuration may choose, beside the published form.
FORMS: dict[str, dict[str, Any]] = {
    "published": {"num_hidden_layers": 4},
    "biases": {
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias"), True),
        **{"classifier_bias": True, "classifier_pooling": "mean"},
    },
    "every second": {"global_attn_every_n_layers": 2, "local_attention": 2},
    "its own order": {
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "hidden_activation": "gelu_new",
        "classifier_activation": "relu",
    },
    "one layer": {"num_hidden_layers": 1, "attention_bias": True},
    "odd window": {
        **{"local_attention": 41, "norm_eps": 1e-3, "mlp_bias": True},
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 50.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 9.0},
        },
    },
    "itself alone": {"local_attention": 0, "norm_bias": True},
}
#: Sentences are longer than the windows, and than a block of queries.
LENGTHS = (150, 3, 131, 40, 77)


def their_config(**changed: Any) -> Any:
    ids = dict.fromkeys(("cls", "bos"), 0) | dict.fromkeys(("sep", "eos"), 2)
    return transformers.ModernBertConfig(
        **{
            "vocab_size": WORDS,
            "hidden_size": 24,
            "intermediate_size": 20,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "local_attention": 8,
            "initializer_range": 0.3,
            "num_labels": 3,
            "pad_token_id": 1,
            **{f"{name}_token_id": index for name, index in ids.items()},
            **changed,
        }
    )


def their_model(config: Any) -> Any:
    torch.manual_seed(1)
    model = transformers.ModernBertForSequenceClassification(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=1, std=0.3)
    return model


def dictionary() -> Dictionary:
    made = Dictionary()
    for index in range(WORDS - len(made)):
        made.add_symbol(str(index))
    return made


def as_ours(theirs: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Our model with the weights of theirs, head included, and its form."""
    state = {n.removeprefix("model."): t for n, t in theirs.state_dict().items()}
    made = FAMILY.read(Weights(Path("x"), state), config, np.arange(WORDS), False)
    model = build(Manifest(FAMILY.name, made.form, {}), dictionary())
    model.register_classification_head(HEAD, num_classes=3)
    names = FAMILY.kinds["modernbert"].head
    head = {
        name: state[f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}"]
        for name in FAMILY.head_shapes(made.form)
    }
    model.load_state_dict(made.state, strict=False)
    model.classification_heads[HEAD].load_state_dict(head)
    return model.eval(), made.form


def batch(lengths: tuple[int, ...], left: bool = False) -> tuple[Any, Any]:
    """Random tokens and where they are real."""
    torch.manual_seed(4)
    tokens = torch.randint(5, WORDS, (len(lengths), max(lengths)))
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    real = real.flip(1) if left else real
    return tokens.masked_fill(~real, 1), real


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("form", "lengths", "packed"),
    [
        *((form, LENGTHS, True) for form in FORMS),
        ("published", (140, 140), True),
        ("biases", LENGTHS, False),
        ("odd window", (5, 9, 2), True),
    ],
)
def test_states_logits_and_gradients_equal_transformers(
    form: str,
    lengths: tuple[int, ...],
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of every layer and every parameter; packed as on a CPU, and padded."""
    monkeypatch.setattr(packed_module, "packs", lambda _: packed)
    config = their_config(**FORMS[form])
    theirs = their_model(config)
    ours, arguments = as_ours(theirs, config.to_dict())
    tokens, real = batch(lengths)
    expected = theirs(tokens, real.long(), output_hidden_states=True)
    found, more = ours(tokens, return_all_hiddens=True, classification_head_name=HEAD)
    states = [state.transpose(0, 1)[real] for state in more["inner_states"]]
    assert len(states) == len(expected.hidden_states) == config.num_hidden_layers + 1
    for mine, other in zip(states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine, other[real], rtol=0, atol=1e-4)
    torch.testing.assert_close(found, expected.logits, rtol=0, atol=1e-4)
    # The last layer computes what the head reads, and no more: the same again.
    alone = ours(tokens, classification_head_name=HEAD)[0]
    torch.testing.assert_close(alone, expected.logits, rtol=0, atol=1e-4)
    hidden = ours(tokens, features_only=True)[0][real]
    ((hidden**3).mean() + alone.square().sum()).backward()
    other = (expected.hidden_states[-1][real] ** 3).mean()
    (other + expected.logits.square().sum()).backward()
    compare_gradients(theirs, ours, arguments)


def compare_gradients(theirs: Any, ours: Any, form: dict[str, Any]) -> None:
    own, wanted = gradients(ours), gradients(theirs)
    kind, rows = FAMILY.kinds["modernbert"], torch.arange(WORDS)
    mine = {f"model.{n}": t for n, t in FAMILY.write(own, form, kind, rows).items()}
    for name, module in kind.head.items():
        for part in ("weight", "bias"):
            key = f"classification_heads.{HEAD}.{name}.{part}"
            mine |= {f"{module}.{part}": own[key]} if key in own else {}
    assert mine.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(
            mine[name], gradient, rtol=0, atol=1e-4 * max(1, scale), msg=name
        )


def test_padding_on_the_left_changes_nothing() -> None:
    ours, _ = as_ours(their_model(config := their_config()), config.to_dict())
    with torch.no_grad():
        (right, real), (left, where) = batch(LENGTHS), batch(LENGTHS, left=True)
        left[where] = right[real]
        found = (ours(t, features_only=True)[0] for t in (right, left))
        one, two = (x[r] for x, r in zip(found, (real, where), strict=True))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


# --- attention to neighbours ----------------------------------------------------------


def test_masks_of_dropout_are_the_same_on_the_way_back() -> None:
    """Beside torch's own way back; far from any key, padding is no NaN."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 150, 4, requires_grad=True) for _ in range(3))
    real, weights = torch.ones(2, 150, dtype=torch.bool), torch.randn(2, 3, 150, 4)
    real[1, 20:], weights[1, :, 20:] = False, 0
    plan = parts(real, 5)
    assert len(plan) == 3
    found = []
    for mixed in (
        lambda: attend_near(q, k, v, plan, 0.5, 0.4),
        lambda: torch.cat(
            [
                attend(q[:, :, i], k[:, :, j], v[:, :, j], b, 0.5, 0.4)
                for i, j, b in plan
            ],
            2,
        ),
    ):
        torch.manual_seed(7)
        out = mixed()
        after = torch.rand(1)
        made = torch.autograd.grad((out * weights).sum(), (q, k, v))
        found.append((out, after, *made, torch.rand(1)))
    for one, two in zip(*found, strict=True):
        assert bool(one.isfinite().all())
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def flash(q: Any, k: Any, v: Any, **given: Any) -> Any:
    """What flash-attn computes; its windows want whole queries."""
    queries, keys = (given[f"cu_seqlens_{one}"].tolist() for one in "qk")
    reach, out = given.get("window_size", (-1, -1))[0], []
    assert reach < 0 or queries == keys
    for a, b, c, d in zip(queries, queries[1:], keys, keys[1:], strict=False):
        scores = torch.einsum("qhd,khd->hqk", q[a:b], k[c:d]) * q.size(-1) ** -0.5
        far = (torch.arange(b - a)[:, None] - torch.arange(d - c)).abs() > reach
        if reach >= 0:
            scores = scores.masked_fill(far, -torch.inf)
        out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[c:d]))
    return torch.cat(out)


@pytest.mark.parametrize("form", ["published", "one layer", "every second"])
def test_flash_attention_of_packed_tokens_is_equal(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = their_config(**FORMS[form])
    ours, _ = as_ours(their_model(config), config.to_dict())
    tokens, _ = batch(LENGTHS)

    def outcome() -> list[torch.Tensor]:
        ours.zero_grad()
        logits = ours(tokens, classification_head_name=HEAD)[0]
        logits.square().sum().backward()
        return [logits, *gradients(ours).values()]

    expected = outcome()
    monkeypatch.setattr(attention, "_flash", lambda: flash)
    for name in ("Blocks", "NearBlocks"):
        monkeypatch.setattr(neighbours, name, attention.Varlen)
    for one, two in zip(outcome(), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made."""

    most = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, torch.Tensor):
                self.most = max(self.most, one.numel())
        return out


@pytest.mark.parametrize("packed", [True, False])
def test_no_layer_of_neighbours_makes_a_square(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_module, "packs", lambda _: packed)
    steps = 8192
    config = their_config(
        **{"layer_types": ["sliding_attention"] * 2, "num_hidden_layers": 2},
        **{"local_attention": 128, "num_attention_heads": 1, "hidden_size": 8},
        intermediate_size=8,
    )
    ours, _ = as_ours(their_model(config), config.to_dict())
    tokens, _ = batch((steps, steps - 9))
    with Largest() as seen:
        ours(tokens, features_only=True)[0].square().mean().backward()
    assert seen.most < 100 * steps


# --- in and out -----------------------------------------------------------------------


def old_spelling(config: dict[str, Any], every: int) -> dict[str, Any]:
    """A config.json of transformers 4."""
    ropes = config.pop("rope_parameters")
    del config["layer_types"]
    return config | {
        "global_attn_every_n_layers": every,
        "global_rope_theta": ropes["full_attention"]["rope_theta"],
        "local_rope_theta": ropes["sliding_attention"]["rope_theta"],
        **{"position_embedding_type": "absolute", "reference_compile": None},
    }


def test_out_and_in_again_every_form_is_the_same(tmp_path: Path) -> None:
    """What config.json says of a form means that form, to transformers too."""
    for form, changed in FORMS.items():
        config = their_config(**changed)
        _, arguments = as_ours(their_model(config), config.to_dict())
        said = FAMILY.settings(arguments, FAMILY.kinds["modernbert"])
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": "modernbert", **said})
        )
        again = read_config(tmp_path)[1]
        assert _arguments(again) == arguments, form
        theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        for name in said.keys() - {"global_rope_theta", "local_rope_theta"}:
            if name != "global_attn_every_n_layers":
                assert getattr(theirs, name) == getattr(config, name), (form, name)


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    state = their_model(transformers.ModernBertConfig(**config)).state_dict()
    short = {n.removeprefix("model."): t for n, t in state.items()}
    return FAMILY.read(
        Weights(Path("x"), short), config, np.arange(len(short[FAMILY.words])), False
    ).form


#: What a drawn configuration may be refused for, and what says so.
FLAWS: list[tuple[dict[str, Any], str]] = [
    ({"hidden_activation": "silu"}, "hidden_activation 'silu'"),
    ({"classifier_activation": "tanh"}, "classifier_activation 'tanh'"),
    ({"sparse_prediction": True}, "sparse_prediction True"),
    ({"num_hidden_layers": 0}, "'num_hidden_layers': input should be greater"),
    ({"num_attention_heads": 99}, "is not a multiple of num_attention_heads 99"),
]


@st.composite
def configurations(draw: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What transformers is told, and config.json."""
    heads, every = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    switches = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")
    bends, theta = st.sampled_from(["gelu", "gelu_pytorch_tanh", "relu"]), st.floats
    chosen = {
        "num_hidden_layers": draw(st.integers(1, 5)),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.sampled_from([6, 4, 2])),
        "intermediate_size": draw(st.integers(1, 9)),
        "local_attention": draw(st.integers(0, 200)),
        "norm_eps": draw(st.sampled_from([1e-12, 1e-5, 1e-2])),
        "hidden_activation": draw(bends),
        "classifier_activation": draw(bends),
        "classifier_pooling": draw(st.sampled_from(["cls", "mean"])),
        "global_attn_every_n_layers": every,
        **{name: draw(st.booleans()) for name in switches},
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": draw(theta(2, 1e6))}
            for kind in ("full_attention", "sliding_attention")
        },
    }
    own_order = draw(st.booleans())
    if own_order:
        kinds = st.sampled_from(["full_attention", "sliding_attention"])
        count = chosen["num_hidden_layers"]
        chosen["layer_types"] = draw(st.lists(kinds, min_size=count, max_size=count))
    said = their_config(**chosen).to_dict()
    if not own_order and draw(st.booleans()):
        said = old_spelling(said, every)
    return chosen, json.loads(json.dumps(said))


@settings(LOOSE, max_examples=20)
@given(drawn=configurations(), lengths=st.lists(st.integers(1, 90), max_size=3))
def test_any_configuration_is_equal_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, drawn: Any, lengths: list[int]
) -> None:
    chosen, said = drawn
    folder = tmp_path_factory.mktemp("drawn")
    for flaw, why in FLAWS:
        (folder / "config.json").write_text(json.dumps(said | flaw))
        with pytest.raises(UserError, match=why) as caught:
            read_config(folder)
        assert "\n" not in str(caught.value)
    (folder / "config.json").write_text(json.dumps(said))
    _, config = read_config(folder)
    theirs = their_model(their_config(**chosen))
    ours, form = as_ours(theirs, config)
    conform(FAMILY.architecture, form, "form", "")
    tokens, real = batch((90, *lengths))
    with torch.no_grad():
        expected = theirs(tokens, real.long()).logits
        found = ours(tokens, classification_head_name=HEAD)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "decoder": (
        {"model_type": "modernbert-decoder"},
        "model_type 'modernbert-decoder' cannot be imported; known: bert, ",
    ),
    "activation": (
        {"hidden_activation": "silu"},
        "hidden_activation 'silu' cannot be imported; only one of gelu, gelu_new, "
        "gelu_pytorch_tanh, relu",
    ),
    "head's activation": (
        {"classifier_activation": "mish"},
        "classifier_activation 'mish' cannot be imported; only one of gelu, ",
    ),
    "sparse": (
        {"sparse_prediction": True},
        "sparse_prediction True cannot be imported; only false",
    ),
    "too few layers": (
        {"layer_types": ["full_attention"]},
        "layer_types ['full_attention'] cannot be imported; only 3, one a layer",
    ),
    "another kind of layer": (
        {"layer_types": ["linear_attention"] * 3},
        "config.json: field 'layer_types.0': input should be 'full_attention' or "
        "'sliding_attention', not 'linear_attention'",
    ),
    "stretched positions": (
        {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2}}},
        "cannot be imported; only rope_type 'default'",
    ),
    "stretched positions of old": (
        {"rope_scaling": {"type": "linear", "factor": 2}},
        "rope_scaling {'type': 'linear', 'factor': 2} cannot be imported; only none",
    ),
    "odd heads": (
        {"num_attention_heads": 8},
        "hidden_size 24 cannot be imported; only an even number of channels a head",
    ),
    "wider heads": ({"head_dim": 16}, "head_dim 16 cannot be imported; only 6"),
    "pooling": (
        {"classifier_pooling": "max"},
        "config.json: field 'classifier_pooling': input should be 'cls' or 'mean'",
    ),
    "window": (
        {"local_attention": -1},
        "field 'local_attention': input should be greater than or equal to 0, not -1",
    ),
    "theta": (
        {"global_rope_theta": None},
        "field 'global_rope_theta': input should be a valid number, not None",
    ),
    "more layers": (
        {"layer_types": None, "num_hidden_layers": 4},
        "the weights lack layers.3.attn_norm.weight",
    ),
    "biases": ({"mlp_bias": True}, "the weights lack layers.0.mlp.Wi.bias"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("hf") / "source", "modernbert")


@pytest.mark.parametrize("how", BAD)
def test_what_is_refused_is_one_line(how: str, source: Path, tmp_path: Path) -> None:
    changed, said = BAD[how]
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text()) | changed
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        import_hf(tmp_path, tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_tied_words_or_not_are_those_of_the_encoder(tmp_path: Path) -> None:
    """The decoder of pretraining is left behind, its own table with it."""
    source = tmp_path / "source"
    source.mkdir()
    make_modernbert(source, tie_word_embeddings=False).save_pretrained(source)
    directory = import_hf(source, tmp_path / "model")
    assert directory.manifest.special_tokens == BRACKETS
    assert max(hidden_state_error(source, directory)) <= 1e-5
    assert export_hf(directory.path, tmp_path / "out") <= 1e-5
    again = import_hf(tmp_path / "out", tmp_path / "again")
    mine, wanted = again.weights()[0], directory.weights()[0]
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[name], wanted[name]) for name in mine)
    assert again.manifest.architecture == directory.manifest.architecture


def test_the_head_of_pretraining_starts_a_head_when_asked(
    source: Path, tmp_path: Path
) -> None:
    """As transformers' own classes do; only the classifier is new."""
    directory = import_hf(source, tmp_path / "model")
    model = load_encoder(directory)
    model.register_classification_head(HEAD, num_classes=2)
    take_pooler(model, directory)
    theirs = transformers.ModernBertForSequenceClassification.from_pretrained(source)
    head = model.classification_heads[HEAD]
    assert torch.equal(head.dense.weight, theirs.head.dense.weight)
    assert torch.equal(head.layer_norm.weight, theirs.head.norm.weight)
    assert not bool((head.layer_norm.weight == 1).any())


# --- at work --------------------------------------------------------------------------


def test_sizes_are_those_of_the_published_models() -> None:
    """149 and 395 million parameters with 50,368 words, as the paper counts them."""
    for name, expected in {"modernbert_base": 149, "modernbert_large": 395}.items():
        args = type("Args", (), {})()
        ARCH_CONFIG_REGISTRY[name](args)
        width, inner = args.encoder_embed_dim, args.encoder_ffn_embed_dim
        layer = 4 * width**2 + 3 * width * inner
        total = args.encoder_layers * layer + 50_368 * width
        assert total / 1e6 == pytest.approx(expected, abs=1)


def test_its_layers_decay_are_drawn_again_and_take_noise(
    models: dict[str, Path],
) -> None:
    """The last norm counts as the top layer's; the first layer has no norm before."""
    model = load_encoder(ModelDirectory.open(models["modernbert"]))
    tag_parameters(model, layer_decay=0.5)
    named = dict(model.named_parameters())
    scales = {name: tag_of(p).lr_scale for name, p in named.items()}  # type: ignore[union-attr]
    assert scales[f"{STACK}layers.0.fc1.weight"] == 0.5
    assert scales[f"{STACK}layers.1.self_attn.q_proj.weight"] == 1
    assert scales[f"{STACK}layer_norm.weight"] == 1
    assert scales[f"{STACK}layernorm_embedding.weight"] == 0.25
    assert scales[f"{STACK}embed_tokens.weight"] == 0.25
    changed = reinitialise(model, 1, head=False, seed=0)
    assert set(changed) == {
        *(name for name in named if name.startswith(f"{STACK}layers.1.")),
        f"{STACK}layer_norm.weight",
    }
    assert f"{STACK}layers.1.self_attn_layer_norm.weight" in changed
    assert f"{STACK}layers.0.self_attn_layer_norm.weight" not in named
    encoder, tokens = find_encoder(model), torch.tensor([[0, 9, 2]])
    seen = []
    for point in ("word", "norm"):  # no positions are added between the two
        with capture(encoder, point) as found:  # type: ignore[arg-type]
            model(tokens, features_only=True)
        seen += found
    words = named[f"{STACK}embed_tokens.weight"][tokens]
    assert all(torch.equal(one, words) for one in seen)
    assert len(seen) == 2


def test_a_trained_one_predicts_as_its_export_does(
    source: Path, tmp_path: Path, cola_data: Path, fairseq_train: Trainer
) -> None:
    """With dropout in all its places."""
    directory = import_hf(source, tmp_path / "model")
    common = [cola_data, "--task=cola", f"--steady-model={directory.path}"]
    common += ["--criterion=r_drop", "--r-drop-lambda=2", "--no-epoch-checkpoints"]
    common += ["--dropout=0.1", "--attention-dropout=0.1", "--activation-dropout=0.1"]
    common += ["--optimizer=bert_adam", "--steady-layer-decay=0.9"]
    done = fairseq_train(*common, "--max-epoch=2", f"--save-dir={tmp_path / 'a'}")
    losses = [float(line["train_task_loss"]) for line in logged(done, "train")]
    assert losses[-1] < losses[0]
    path = tmp_path / "a/checkpoint_last.pt"
    assert export_hf(path, tmp_path / "out") <= 1e-5
    classify = transformers.pipeline("text-classification", str(tmp_path / "out"))
    texts = ["日本語 mixed", "it's can't 'quoted'", "x"]
    for found, theirs in zip(
        Predictor(path)(texts), classify(texts, top_k=None), strict=True
    ):
        expected = {score["label"]: score["score"] for score in theirs}
        assert found.probabilities == pytest.approx(expected, abs=1e-5)
