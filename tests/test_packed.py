"""Layers that skip padding equal fairseq's own."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from fairseq_steady.models import disentangled
from fairseq_steady.models.disentangled import DisentangledLayer
from fairseq_steady.models.packed import PackedEncoderLayer, Packing
from fairseq_steady.regularizers import find_encoder
from tiny import FAMILIES, batch, build, make_dataset


@pytest.fixture(params=FAMILIES)
def path(request: pytest.FixtureRequest, models: dict[str, Path]) -> Path:
    return models[request.param]


@pytest.fixture
def model(path: Path) -> Any:
    """A tiny model in float64, dropout off."""
    return build(path).double()


@pytest.fixture
def tokens(path: Path) -> torch.Tensor:
    """Sentences of different lengths, padded."""
    padded: torch.Tensor = batch(make_dataset(path))["net_input"]["src_tokens"]
    assert padded.eq(1).any()
    return padded


def unpacked(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same weights with fairseq's own layers, or every position computed."""
    plain = copy.deepcopy(model)
    for layer in find_encoder(plain).layers:
        if isinstance(layer, DisentangledLayer):
            monkeypatch.setattr(disentangled, "Packing", Everything)
        else:
            assert type(layer) is PackedEncoderLayer
            layer.__class__ = TransformerEncoderLayerBase
    return plain


class Everything(Packing):
    """As on a GPU."""

    def __init__(self, padding: torch.Tensor) -> None:
        super().__init__(padding)
        self.real = None


def outputs(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states at real tokens, and all gradients of a function of them."""
    encoder = find_encoder(model)
    hidden = encoder(tokens, torch.tensor(0))["encoder_out"][0].transpose(0, 1)
    real = hidden[tokens.ne(encoder.padding_idx)]
    model.zero_grad()
    (real**3).sum().backward()
    gradients = [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
    return real.detach(), torch.cat(gradients)


@pytest.mark.parametrize("training", [True, False])
def test_packed_layers_equal_fairseqs(
    model: Any, tokens: torch.Tensor, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.train(training)
    packed = outputs(model, tokens)
    whole = outputs(unpacked(model, monkeypatch), tokens)
    for mine, theirs in zip(packed, whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_padding_costs_no_linear_work(model: Any, tokens: torch.Tensor) -> None:
    """What the feed-forward layers see are the real tokens, one row each."""
    seen: list[torch.Size] = []
    layer = find_encoder(model).layers[0]
    for linear in (layer.fc1, layer.self_attn.v_proj):
        linear.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    outputs(model, tokens)
    assert {shape[0] for shape in seen} == {int(tokens.ne(1).sum())}
    # Without padding there is nothing to pack.
    seen.clear()
    whole = tokens[tokens.ne(1).all(1)]
    outputs(model, whole)
    assert {shape[:-1].numel() for shape in seen} == {whole.numel()}


def test_dropout_acts_in_training_only(path: Path, tokens: torch.Tensor) -> None:
    model = build(path, dropout=0.5)
    first, second = (outputs(model, tokens)[0] for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    first, second = (outputs(model, tokens)[0] for _ in range(2))
    assert torch.equal(first, second)
