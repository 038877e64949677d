"""DeBERTa equals transformers' in gradients too."""

from typing import Any

import pytest
import torch
import transformers
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq_steady.huggingface.checking import load_encoder
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.models.disentangled import (
    Relative,
    RelativePositions,
    bucket,
    by_distance,
)
from fairseq_steady.models.families.deberta import SECOND, join
from sources import DEBERTA, make_source
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

LENGTHS = (40, 23, 31)


@pytest.fixture(scope="module", params=DEBERTA)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any, dict[str, Any]]:
    """transformers' model and ours with the same weights, and our form."""
    base = tmp_path_factory.mktemp("deberta")
    source = make_source(base / "source", request.param)
    directory = import_hf(source, base / "model")
    theirs = transformers.AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    return theirs, load_encoder(directory), directory.manifest.architecture


def hidden_states(theirs: Any, ours: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of random tokens, padded, at every layer; real positions only.

    Ids from 5 on are the same on both sides: the first four are special, and the mask
    token is the last.
    """
    torch.manual_seed(4)
    tokens = torch.randint(5, 100, (len(LENGTHS), max(LENGTHS)))
    real = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    given = tokens.masked_fill(~real, theirs.config.pad_token_id)
    found = theirs(given, real.long(), output_hidden_states=True).hidden_states
    own = ours(
        tokens.masked_fill(~real, 1), features_only=True, return_all_hiddens=True
    )[1]["inner_states"]
    mine = torch.stack([state.transpose(0, 1)[real] for state in own])
    return torch.stack([state[real] for state in found]), mine


def test_states_and_gradients_equal_transformers(
    pair: tuple[Any, Any, dict[str, Any]],
) -> None:
    theirs, ours, form = pair
    expected, found = hidden_states(theirs, ours)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    for states in (expected, found):
        (states**3).mean().backward()
    encoder = ours.encoder.sentence_encoder
    wanted = dict(theirs.named_parameters())
    relative = wanted["encoder.rel_embeddings.weight"].grad
    same(encoder.relative.embedding.weight.grad, relative)
    words = wanted["embeddings.word_embeddings.weight"].grad[5:100]
    same(encoder.embed_tokens.weight.grad[5:100], words)
    for index, layer in enumerate(encoder.layers):
        gradients = {n: p.grad for n, p in layer.self_attn.named_parameters()}
        prefix = f"encoder.layer.{index}.attention.self."
        if form["deberta_key_bias"]:
            for name, own in SECOND.items():
                if prefix + name + ".weight" in wanted:
                    same(
                        gradients[f"{own}.weight"],
                        wanted[prefix + name + ".weight"].grad,
                    )
            continue
        three = [gradients[f"{name}_proj.weight"] for name in "qkv"]
        joined = join(three, form["encoder_attention_heads"])
        same(joined, wanted[prefix + "in_proj.weight"].grad)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float(expected.abs().max()) > 0
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(("buckets", "furthest"), [(256, 512), (8, 20), (48, 128)])
def test_buckets_are_those_of_the_published_weights(
    buckets: int, furthest: int
) -> None:
    distance = torch.arange(-2 * furthest, 2 * furthest + 1)
    expected = make_log_bucket_position(distance, buckets, furthest).long()
    assert torch.equal(bucket(distance, buckets, furthest), expected)
    assert torch.equal(bucket(distance, 0, furthest), distance)


@pytest.mark.parametrize("steps", [1, 7, 256, 300])
def test_products_by_distance_are_those_of_each_pair(steps: int) -> None:
    """In blocks too, uneven ones included."""
    own = torch.randn(2, 3, steps, 4, dtype=torch.float64)
    distances = torch.randn(3, 4, 2 * steps - 1, dtype=torch.float64)
    found = by_distance(own, distances)
    assert found.shape == (2, 3, steps, steps)
    products = own @ distances
    for i, j in ((0, 0), (0, steps - 1), (steps - 1, 0), (steps // 2, steps // 3)):
        expected = products[:, :, i, j - i + steps - 1]
        torch.testing.assert_close(found[:, :, i, j], expected)


def test_only_the_distances_that_occur_are_projected() -> None:
    """At 30 positions, 59 of 512; beyond 129, as many as there are buckets."""
    relative = RelativePositions(4, 256, 512, norm=True)
    made: Relative = relative(30)
    assert made.table.shape == (59, 4)
    assert made.rows.tolist() == list(range(59))
    assert relative(512).table.shape == (511, 4)
    assert relative(3000).table.shape == (512, 4)


def test_sizes_are_those_of_the_published_models() -> None:
    """Parameters of all layers, as the papers and model cards count them."""
    import argparse

    millions = {"deberta_v3_xsmall": 21, "deberta_v3_base": 85, "deberta_v3_large": 302}
    for name, expected in millions.items():
        args = argparse.Namespace()
        ARCH_CONFIG_REGISTRY[name](args)
        width, inner = args.encoder_embed_dim, args.encoder_ffn_embed_dim
        layer = 4 * width**2 + 2 * width * inner
        assert layer * args.encoder_layers / 1e6 == pytest.approx(expected, abs=1)
