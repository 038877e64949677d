"""The divergence in chunks of rows, and noise on either side of an encoder-decoder."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.data import Dictionary
from fairseq_steady.errors import UserError
from fairseq_steady.regularizers import (
    DIVERGENCES,
    chunked,
    derived,
    draw,
    noise_keys,
    shares,
)
from fairseq_steady.regularizers import chunked as chunked_function
from method_table import METHODS
from tiny import build, sym
from torch import Tensor

# --- the divergence ----------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of seven at a time."""
    import sys

    module = sys.modules[chunked_function.__module__]
    monkeypatch.setattr(module, "_ENTRIES", 21)


def logits() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 5, 7, generator=generator, dtype=torch.float64)
    real = torch.rand(4, 5, generator=generator) < 0.6
    real[2] = False
    return a, b, real


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("consume", [False, True])
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_chunks_equal_the_direct_divergence(name: str, consume: bool) -> None:
    measure, (a, b, real) = DIVERGENCES[name], logits()
    weights = torch.arange(1.0, 5.0, dtype=torch.float64)
    found = []
    for in_chunks in (False, True):
        leaves = [x.clone().requires_grad_() for x in (a, b)]
        one, other = (2 * leaf for leaf in leaves)
        if in_chunks:
            values = chunked(measure, one, other, real, consume)
        else:
            values = (measure(one, other) * real).sum(1)
        (values * weights).sum().backward()
        found.append((values.detach(), *(leaf.grad for leaf in leaves)))
    for direct, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, direct, rtol=1e-10, atol=1e-12)
    assert float(found[1][0][2]) == 0


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", ["sym_kl", "kl"])
def test_a_fixed_side_gets_no_gradient_and_no_rows_are_0(name: str) -> None:
    measure, (a, b, real) = DIVERGENCES[name], logits()
    for live, fixed in ((a, b), (b, a)):
        live.requires_grad_()
        chunked(measure, a, b, real, consume=live is b).sum().backward()
        direct = (measure(a, b) * real).sum()
        (expected,) = torch.autograd.grad(direct, live)
        torch.testing.assert_close(live.grad, expected)
        assert fixed.grad is None
        live.requires_grad_(False).grad = None
    a.requires_grad_()
    nothing = chunked(measure, a, b, torch.zeros_like(real))
    assert nothing.tolist() == [0, 0, 0, 0]
    nothing.sum().backward()
    assert a.grad is not None
    assert not a.grad.any()


@pytest.mark.usefixtures("small_chunks")
def test_rows_far_apart_share_a_chunk_with_others() -> None:
    """Logits that differ by 100 leave the closed form's sums for the general one."""
    a, b, real = logits()
    a[0, 0, 0] += 100
    b[1, 2, 3] += 100
    leaves = [x.requires_grad_() for x in (a, b)]
    ours = chunked(DIVERGENCES["sym_kl"], a, b, real)
    direct = (sym(a, b) * real).sum(1)
    torch.testing.assert_close(ours, direct, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(direct.sum(), leaves)
    for found, theirs in zip(
        torch.autograd.grad(ours.sum(), leaves), expected, strict=True
    ):
        torch.testing.assert_close(found, theirs, rtol=1e-10, atol=1e-12)


def test_a_loss_scale_saves_gradients_in_half_precision() -> None:
    """Most are under 2e-8: 0 in fp16, unless they are scaled before rounding."""
    generator = torch.Generator().manual_seed(0)
    b, z = torch.randn(2, 1, 1, 60000, generator=generator)
    halves = [x.half().requires_grad_() for x in (b + 1e-3 * z, b)]
    real = torch.ones(1, 1, dtype=torch.bool)
    (2.0**15 * chunked(DIVERGENCES["sym_kl"], *halves, real)).sum().backward()
    exact = [x.detach().double().requires_grad_() for x in halves]
    (2.0**15 * sym(*exact)).sum().backward()
    for half, one in zip(halves, exact, strict=True):
        assert half.grad is not None
        assert one.grad is not None
        assert float(one.grad.abs().median()) < 2.0**15 * 2e-8
        error = (half.grad - one.grad).abs().max() / one.grad.abs().max()
        assert float(error) < 2e-3


@pytest.mark.usefixtures("small_chunks")
def test_logits_with_another_use_are_not_consumed_silently() -> None:
    a, b, real = logits()
    leaf = a.requires_grad_()
    used = leaf * 1
    # The square keeps the logits for its own backward.
    total = (used**2).sum() + chunked(DIVERGENCES["kl"], used, b, real, True).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


# --- noise on the encoder, the decoder, or both --------------------------------------


def criterion(method: str, **flags: Any) -> Any:
    """A criterion of a sequence-to-sequence task, in training mode."""
    dictionary = Dictionary()
    task = SimpleNamespace(target_dictionary=dictionary)
    cfg = CRITERION_DATACLASS_REGISTRY[method](
        **{f"{method}_{name}": value for name, value in flags.items()}
    )
    cfg.sentence_avg = False
    return CRITERION_REGISTRY[method](cfg, task).train()


def sample(path: Path, extra: int = 0) -> dict[str, Any]:
    """Articles and summaries of different lengths, with some padding more."""
    dataset = tiny.make_dataset(path)
    made = tiny.batch(dataset)
    source = made["net_input"]["src_tokens"]
    target = source[:, :6].clone()
    pad = torch.full((len(source), extra), 1)
    made["net_input"]["src_tokens"] = torch.cat([source, pad], 1)
    made["net_input"]["prev_output_tokens"] = torch.cat([target.roll(1, 1), pad], 1)
    made["target"] = torch.cat([target, pad], 1)
    made["ntokens"] = int(target.ne(1).sum())
    return made


@pytest.mark.parametrize("method", ["r3f", "smart", "sift"])
def test_every_side_reaches_the_logits_differently(
    models: dict[str, Path], method: str
) -> None:
    model = build(models["bart"])
    radius = {
        "r3f": {"eps": 0.1},
        "smart": {"eps": 0.1, "init": 0.1},
        "sift": {"init": 0.1},
    }[method]
    found = [
        tiny.loss_of(
            criterion(method, side=side, **radius), model, sample(models["bart"])
        )[f"{method}_divergence"]
        for side in ("encoder", "decoder", "both")
    ]
    assert min(found) > 1e-6
    assert len({round(value, 9) for value in found}) == 3


@pytest.mark.parametrize("side", ["encoder", "decoder", "both"])
def test_padding_changes_nothing(models: dict[str, Path], side: str) -> None:
    model = build(models["bart"]).double()
    losses = []
    for extra in (0, 3):
        torch.manual_seed(1)
        made = criterion("r3f", side=side, eps=0.1)
        losses.append(made(model, sample(models["bart"], extra))[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-9)


def test_r3f_on_both_sides_equals_a_reference(models: dict[str, Path]) -> None:
    """Embeddings replaced by hand, KL by its definition, one sentence at a time."""
    model, data = build(models["bart"]).double(), sample(models["bart"])
    found = tiny.loss_of(criterion("r3f", side="both", eps=0.1), model, data)
    keys = noise_keys(data["id"], seed=11)
    total = 0.0
    for row, key in enumerate(keys):
        source = data["net_input"]["src_tokens"][row]
        source = source[source.ne(1)][None]
        given = data["net_input"]["prev_output_tokens"][row]
        net_input = {
            "src_tokens": source,
            "src_lengths": torch.tensor([source.size(1)]),
            "prev_output_tokens": given[None],
        }
        real = given.ne(1)
        mask = torch.cat([torch.ones(source.size(1)), real.double()]).bool()[None]
        z = draw("uniform", key[None], mask, 16, 0.1).double()
        parts = [z[:, : source.size(1)], z[:, source.size(1) :]]
        clean = model(**net_input)[0]
        hooks = embed_with(model, parts)
        noised = model(**net_input)[0]
        for hook in hooks:
            hook.remove()
        counted = data["target"][row].ne(1)
        total += float(sym(noised[0][counted], clean[0][counted]).sum())
    bits = total / torch.log(torch.tensor(2.0)).item()
    assert found["r3f_divergence"] == pytest.approx(bits, rel=1e-5)


@pytest.mark.parametrize("side", ["encoder", "decoder", "both"])
@pytest.mark.parametrize("method", ["r3f", "smart", "sift"])
def test_some_summaries_have_their_own_terms(
    models: dict[str, Path], method: str, side: str
) -> None:
    """Cut to the longest article and the longest summary among them."""
    model, data = build(models["bart"]), sample(models["bart"])
    flags = METHODS[method].live
    full, part = (criterion(method, side=side, fraction=f, **flags) for f in (1, 0.5))
    sizes = set()
    for seed in range(8):
        torch.manual_seed(seed)
        _, seen = full.clean(model, data, full.kinds[None])
        terms = full.regularizer(model)(seen.view).value
        drawn = shares(derived(noise_keys(data["id"], seed), 1)) < 0.5
        sizes.add(int(drawn.sum()))
        torch.manual_seed(seed)
        found = part.train_outcome(model, data, part.kinds[None])
        added = found.loss - found.task_loss
        expected = part.terms.strength * 2 * terms[drawn].sum()
        torch.testing.assert_close(added, expected, rtol=1e-3, atol=1e-6)
    assert len(sizes) > 2


def embed_with(model: Any, parts: list[Tensor]) -> list[Any]:
    """Add to the look-ups of the encoder, then of the decoder."""
    left = list(parts)

    def shift(_: Any, __: Any, output: Tensor) -> Tensor:
        return output + left.pop(0)

    return [model.encoder.embed_tokens.register_forward_hook(shift)]


def test_an_encoder_alone_has_no_decoder_to_perturb(models: dict[str, Path]) -> None:
    made = tiny.make_criterion("r3f", side="decoder")
    with pytest.raises(UserError, match="has no decoder that embeds tokens"):
        made.check_model(build(models["roberta"]))
