"""Encoders that skip padding equal fairseq's own."""

import copy
import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import environment
from fairseq.models.transformer import TransformerEncoderBase
from fairseq.modules import FairseqDropout, LayerDropModuleList, gelu
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models import (
    attention,
    building,
    disentangled,
    packed,
    relative,
)
from fairseq_steady.models.attention import Varlen, attend, packs
from fairseq_steady.models.disentangled import DisentangledEncoder
from fairseq_steady.models.dropout import Dropout, drop
from fairseq_steady.models.packed import (
    PackedEncoder,
    PackedEncoderLayer,
    Packing,
    pack,
)
from fairseq_steady.models.projected import ProjectedEncoder
from fairseq_steady.models.relative import RelativeEncoder
from fairseq_steady.models.steady import HEAD
from fairseq_steady.regularizers import find_encoder
from tiny import FAMILIES, build
from torch import Tensor, nn

#: Real tokens of a batch: lengths, padded on either side; none padded; of one token;
#: with padding between.
PATTERNS = {
    "right": [(0, 7), (0, 3), (0, 5), (0, 3), (0, 1)],
    "left": [(0, 7), (4, 7), (2, 7), (4, 7)],
    "none": [(0, 4), (0, 4), (0, 4)],
    "one token": [(0, 1), (0, 1)],
    "between": [(0, 7), (0, 2, 5, 7)],
}


@pytest.fixture(params=FAMILIES)
def path(request: pytest.FixtureRequest, models: dict[str, Path]) -> Path:
    return models[request.param]


@pytest.fixture(params=[family for family in FAMILIES if family != "modernbert"])
def model(request: pytest.FixtureRequest, models: dict[str, Path]) -> Any:
    """A tiny model in float64, dropout off; ModernBERT's angles are in fp32."""
    return build(models[request.param]).double()


def batch_of(pattern: str, size: int) -> Tensor:
    """Token ids between the special ones and ``size``, and padding, 1."""
    spans = PATTERNS[pattern]
    tokens = torch.ones(len(spans), max(span[-1] for span in spans), dtype=torch.long)
    generator = torch.Generator().manual_seed(3)
    for row, span in zip(tokens, spans, strict=True):
        for start, end in zip(span[::2], span[1::2], strict=True):
            row[start:end] = torch.randint(4, size, (end - start,), generator=generator)
    return tokens


@pytest.fixture
def tokens(model: Any) -> Tensor:
    """Sentences of different lengths, padded."""
    return batch_of("right", len(find_encoder(model).dictionary))


def unpacked(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same weights with fairseq's own layers, or every position computed."""
    plain = copy.deepcopy(model)
    encoder = find_encoder(plain)
    if isinstance(encoder, DisentangledEncoder | RelativeEncoder):
        every = functools.partial(Packing, packs=False)
        for module in (disentangled, relative):
            monkeypatch.setattr(module, "packed_on_cpu", every)
        return plain
    if type(encoder) is PackedEncoder:
        encoder.__class__ = TransformerEncoderBase
    else:
        assert isinstance(encoder, ProjectedEncoder)
    for layer in encoder.layers:
        assert type(layer) is PackedEncoderLayer
        layer.__class__ = TransformerEncoderLayerBase
        layer.register_forward_pre_hook(lambda *_: None)  # so it sees whole batches
    return plain


def gradients(model: Any, loss: Tensor) -> Tensor:
    """Of all parameters, in one row."""
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def outputs(model: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    """Every layer's states at real tokens, and all gradients of a function of them."""
    encoder = find_encoder(model)
    found = encoder(tokens, torch.tensor(0), return_all_hiddens=True)
    states = torch.stack([*found["encoder_states"], *found["encoder_out"]])
    real = states.transpose(1, 2)[:, tokens.ne(encoder.padding_idx)]
    return real.detach(), gradients(encoder, (real**3).sum())


def same(one: Any, other: Any) -> None:
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("step", [2, 32])  # sentences in several blocks, or in one
@pytest.mark.parametrize("pattern", PATTERNS)
def test_packed_layers_equal_fairseqs(
    model: Any, pattern: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_STEP", step)
    encoder = find_encoder(model)
    if pattern == "between" and isinstance(encoder, RelativeEncoder):
        pattern = "left"  # MPNet's distances are between tokens, with no gap
    batch = batch_of(pattern, len(encoder.dictionary))
    model.train()
    mine = outputs(model, batch)
    same(mine, outputs(unpacked(model, monkeypatch), batch))


def test_attention_with_dropout_is_equal_where_nothing_is_dropped(
    model: Any, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probability that rounds to 0 goes the way of all others."""
    plain = unpacked(model, monkeypatch)
    found = outputs(nothing_dropped(model), tokens)
    same(found, outputs(plain, tokens))


def nothing_dropped(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = 1e-9
    return model.train()


@pytest.mark.parametrize("prepare", [lambda model: model, nothing_dropped])
def test_padding_comes_out_as_0(
    model: Any, tokens: Tensor, prepare: Callable[[Any], Any]
) -> None:
    """A sentence of nothing else too."""
    encoder = find_encoder(prepare(model))
    tokens[-1] = encoder.padding_idx
    out = encoder(tokens, torch.tensor(0))["encoder_out"][0].transpose(0, 1)
    padding = tokens.eq(encoder.padding_idx)
    assert not bool(out[padding].any())
    assert bool(out[~padding].all(1).all())
    assert bool(gradients(encoder, (out**3).sum()).isfinite().all())


def test_tokens_are_packed_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear layers and norms see the real tokens alone, one row each."""
    seen: list[torch.Size] = []
    encoder: Any = find_encoder(build(path))
    tokens, layer = batch_of("right", len(encoder.dictionary)), encoder.layers[0]
    for part in (layer.fc1, layer.self_attn.v_proj, layer.final_layer_norm):
        part.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    spread, spreads = Packing.spread, []
    monkeypatch.setattr(
        Packing, "spread", lambda self, x: spreads.append(1) or spread(self, x)
    )
    encoder(tokens, torch.tensor(0))
    assert {shape[:-1] for shape in seen} == {(int(tokens.ne(1).sum()),)}
    if not isinstance(encoder, DisentangledEncoder):  # whose attention spreads
        assert len(spreads) == 1


@pytest.mark.parametrize("pattern", ["right", "left", "none"])
def test_a_head_gets_what_it_reads(
    models: dict[str, Path], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last layer only first tokens, if all sentences have one there."""
    for family in ("roberta", "deberta"):
        model = build(models[family]).double()
        encoder = find_encoder(model)
        batch = batch_of(pattern, len(encoder.dictionary))
        rows: list[int] = []
        last = encoder.layers[-1].fc1
        handle = last.register_forward_hook(lambda _, i, __: rows.append(len(i[0])))  # noqa: B023
        found = []
        for plain in (False, True):
            one = unpacked(model, monkeypatch) if plain else model
            logits = one(batch, classification_head_name=HEAD)[0]
            # What fairseq's layers make of padding is theirs.
            read = logits[batch[:, 0].ne(encoder.padding_idx)]
            found.append((read.detach(), gradients(one, (read**3).sum())))
        same(*found)
        real = int(batch.ne(encoder.padding_idx).sum())
        assert rows[0] == (real if pattern == "left" else len(batch))
        handle.remove()
        assert not encoder.first_only
        monkeypatch.undo()


def test_other_readers_get_every_position(models: dict[str, Path]) -> None:
    """A head of another kind, states of all layers, features."""
    model = build(models["roberta"])
    batch = batch_of("right", len(find_encoder(model).dictionary))
    features = model(batch, features_only=True)[0]
    assert bool(features[0].all(1).all())
    _, extra = model(batch, classification_head_name=HEAD, return_all_hiddens=True)
    torch.testing.assert_close(extra["inner_states"][-1].transpose(0, 1), features)
    model.classification_heads[HEAD] = nn.Identity()
    torch.testing.assert_close(model(batch, classification_head_name=HEAD)[0], features)


def wrap(layer: Any, seen: list[torch.Size]) -> None:
    """As fairseq's checkpointing of activations does."""
    own = layer.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(x.shape)
        return own(x, *args, **kwargs)

    layer.forward = forward


WATCHES: dict[str, Callable[[Any, list[torch.Size]], Any]] = {
    "before": lambda layer, seen: layer.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape)
    ),
    "after": lambda layer, seen: layer.register_forward_hook(
        lambda _, __, output: seen.append(output.shape)
    ),
    "wrapper": wrap,
}


@pytest.mark.parametrize("watch", WATCHES)
def test_whoever_watches_a_layer_sees_whole_batches(
    model: Any, tokens: Tensor, watch: str
) -> None:
    encoder = find_encoder(model)
    seen: list[torch.Size] = []

    def first() -> Tensor:
        found: Tensor = encoder(tokens, torch.tensor(0))["encoder_out"][0][0]
        return found

    expected, read = outputs(model, tokens), first()
    for layer in encoder.layers:
        WATCHES[watch](layer, seen)
    same(outputs(model, tokens), expected)
    encoder.first_only = True
    torch.testing.assert_close(first(), read)
    whole = (tokens.shape[1], len(tokens), model.form["encoder_embed_dim"])
    assert seen == 2 * [whole] * len(getattr(encoder, "order", encoder.layers))


@pytest.mark.parametrize("seed", range(3))
def test_every_layer_is_packed_however_many_are_dropped(
    models: dict[str, Path], seed: int
) -> None:
    """Before a model is evaluated: it is built in training."""
    encoder = build(models["roberta"]).encoder.sentence_encoder
    layers = list(encoder.layers.children())
    for layer in layers:
        layer.__class__ = TransformerEncoderLayerBase
    encoder.layers = LayerDropModuleList(p=0.9, modules=layers)
    torch.manual_seed(seed)
    pack(encoder.train())
    assert {type(layer) for layer in layers} == {PackedEncoderLayer}


def test_a_dropped_layer_is_left_out(path: Path) -> None:
    directory = ModelDirectory.open(path)
    manifest, dictionary = directory.manifest, directory.dictionary()
    model = building.build(manifest, dictionary, encoder_layerdrop=0.5).train()
    batch = batch_of("right", len(find_encoder(model).dictionary))
    found = set()
    for seed in range(20):
        torch.manual_seed(seed)
        states = find_encoder(model)(batch, torch.tensor(0), return_all_hiddens=True)
        found.add(len(states["encoder_states"]) - 1)
    encoder: Any = find_encoder(model)
    assert found == {*range(len(getattr(encoder, "order", encoder.layers)) + 1)}


# --- dropout --------------------------------------------------------------------------


def test_dropout_acts_in_training_only(path: Path) -> None:
    model = build(path, dropout=0.5).train()
    batch = batch_of("right", len(find_encoder(model).dictionary))
    first, second = (outputs(model, batch)[0] for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    first, second = (outputs(model, batch)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_have_their_probability_and_keep_the_mean(p: float) -> None:
    torch.manual_seed(0)
    count = 1_000_003
    x = torch.ones(count, requires_grad=True)
    dropped = drop(x, p)
    zeros = dropped.eq(0)
    assert float(zeros.double().mean()) == pytest.approx(p, abs=0.002)
    assert float(dropped.double().mean()) == pytest.approx(1, abs=0.01)
    assert len(dropped.unique()) == 2
    assert float(dropped.max()) == pytest.approx(1 / (1 - p), rel=2e-4)
    # Neighbours, in and beyond one random word, know nothing of each other.
    for lag in (1, 2, 3, 4):
        both = (zeros[lag:] & zeros[:-lag]).double().mean()
        assert float(both) == pytest.approx(p * p, abs=0.002)
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.equal(gradient, dropped)


@pytest.mark.parametrize("kind", [torch.double, torch.float32, torch.bfloat16])
def test_a_mask_is_kept_in_a_byte_and_has_gradients_of_gradients(
    kind: torch.dtype,
) -> None:
    x, w = (torch.randn(9, 9, dtype=kind, requires_grad=True) for _ in range(2))
    kept: list[int] = []

    def note(saved: Tensor) -> Tensor:
        kept.append(saved.element_size())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        y = drop(x, 0.5)
    assert kept == [1]
    (gradient,) = torch.autograd.grad(y, x, w, create_graph=True)
    assert torch.equal(gradient, (w * (y != 0) * 2).to(kind))
    (again,) = torch.autograd.grad(gradient.sum(), w)
    assert torch.equal(again, (y != 0).to(kind) * 2)


def test_masks_follow_torchs_generator() -> None:
    module, x = Dropout(0.5), torch.randn(3, 7)
    torch.manual_seed(1)
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(first, module(x))
    # 0.1 is 6554 parts of 65536.
    exact = 65536 / (65536 - 6554)
    assert float(drop(torch.ones(99).double(), 0.1).max()) == exact
    low = module(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert bool(low.isfinite().all())
    assert bool(drop(x, 0.999999).isfinite().all())
    for unchanged in (module.eval()(x), Dropout(0.0)(x)):
        assert unchanged is x


def test_every_dropout_of_an_encoder_draws_so(path: Path) -> None:
    encoder = find_encoder(build(path))
    kinds = {type(m) for m in encoder.modules() if isinstance(m, FairseqDropout)}
    assert kinds == {Dropout}


def test_half_precision_is_not_copied_for_an_activation(path: Path) -> None:
    layers = find_encoder(build(path)).layers
    assert {layer.activation_fn for layer in layers} == {nn.functional.gelu}
    x = torch.randn(3, 50).bfloat16()
    assert torch.equal(nn.functional.gelu(x), gelu(x))


def test_attention_drops_weights() -> None:
    """With an identity as values the weights themselves come out."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 64, 3, 5, 5).double().unbind()
    bias = torch.randn(64, 1, 1, 5).double()
    bias[0, 0, 0, 3:] = -math.inf
    eye = torch.eye(5).double().expand(64, 3, 5, 5)
    weights = (q @ k.transpose(2, 3) * 0.3 + bias).softmax(-1)
    torch.testing.assert_close(attend(q, k, eye, bias, 0.3, 0.0), weights)
    torch.manual_seed(1)
    found = attend(q, k, eye, bias, 0.3, 0.25)
    kept = found.ne(0)
    torch.testing.assert_close(found, torch.where(kept, weights / 0.75, 0))
    assert float(kept[1:].double().mean()) == pytest.approx(0.75, abs=0.03)
    torch.manual_seed(1)
    v = torch.randn(64, 3, 5, 5).double()
    torch.manual_seed(1)
    torch.testing.assert_close(attend(q, k, v, bias, 0.3, 0.25), found @ v)


# --- flash-attn -----------------------------------------------------------------------


def flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
) -> Tensor:
    """What flash-attn computes, sentence by sentence, without dropout."""
    assert dropout_p == 0
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    bounds = [one.tolist() for one in (cu_seqlens_q, cu_seqlens_k)]
    out = []
    for i in range(len(bounds[0]) - 1):
        (a, b), (c, d) = ((one[i], one[i + 1]) for one in bounds)
        assert b - a <= max_seqlen_q
        assert d - c <= max_seqlen_k
        scores = torch.einsum("qhd,khd->hqk", q[a:b], k[c:d]) / math.sqrt(q.size(-1))
        out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[c:d]))
    return torch.cat(out)


@pytest.mark.parametrize("pattern", ["right", "none", "left"])
def test_flash_attention_of_packed_tokens_is_equal(
    models: dict[str, Path], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(models["roberta"]).double().train()
    batch = batch_of(pattern, len(find_encoder(model).dictionary))
    found = []
    for kind in (packed.Blocks, Varlen):
        monkeypatch.setattr(packed, "Blocks", kind)
        monkeypatch.setattr(attention, "_flash", lambda: flash)
        logits = model(batch, classification_head_name=HEAD)[0]
        head = gradients(model, (logits**3).sum())
        found.append((*outputs(model, batch), logits.detach(), head))
    same(*found)


@pytest.mark.parametrize(
    ("dtype", "capability", "installed", "expected"),
    [
        (torch.float16, (8, 0), True, True),
        (torch.bfloat16, (9, 0), True, True),
        (torch.float32, (9, 0), True, False),
        (torch.float16, (7, 5), True, False),
        (torch.float16, (8, 0), False, False),
    ],
)
def test_a_gpu_packs_where_flash_attn_may_run(
    dtype: torch.dtype,
    capability: tuple[int, int],
    installed: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(attention, "_installed", lambda: installed)
    x: Any = SimpleNamespace(device=torch.device("cuda"), dtype=dtype)
    assert packs(x) is expected
    full: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: dtype)
    assert packs(full) is expected
    assert packs(torch.zeros(1))
    assert not packs(torch.zeros(1, device="meta"))


# --- memory ---------------------------------------------------------------------------

#: Prints the large pages, in kB, that a table's gradient of 48 MB stands in.
LARGE = """
import re
import fairseq_cli.train, fairseq_steady.tasks, torch
held = torch.ones(30_000, 400)
pages = re.findall(r"AnonHugePages:\\s+(\\d+)", open("/proc/self/smaps").read())
print(sum(map(int, pages)))
"""
_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not _PAGES.exists() or "[never]" in _PAGES.read_text(), reason="no large pages here"
)
def test_the_plugin_comes_before_torchs_first_tensor() -> None:
    """Which is when torch looks whether to ask for large pages."""
    given = {k: v for k, v in environment().items() if k != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, "-c", LARGE]
    done = subprocess.run(
        command, env=given, capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) > 40_000


def test_few_compiled_products_are_kept() -> None:
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"
