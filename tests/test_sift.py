"""SiFT: it reaches the logits, equals an independent reference, and stays its size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import ROOT
from fairseq_steady.errors import UserError
from fairseq_steady.models.steady import HEAD
from fairseq_steady.regularizers import (
    Ascent,
    Penalty,
    SiFT,
    View,
    ascend,
    capture,
    draw,
    find_encoder,
    noise_keys,
    normalise_embeddings,
    squared_difference,
    substitute,
    symmetric_kl,
)
from tiny import (
    CLASSES,
    FAMILIES,
    Reference,
    batch,
    build,
    make_criterion,
    make_dataset,
    sym,
)
from torch import Tensor


def criterion(outputs: int = CLASSES, **flags: Any) -> Any:
    return make_criterion("sift", outputs, **flags)


def loss_of(model: Any, sample: dict[str, Any], **flags: Any) -> dict[str, float]:
    return tiny.loss_of(criterion(**flags), model, sample)


# --- it is live -----------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("point", ["word", "norm"])
def test_an_injected_value_reaches_the_logits_with_dropout_off(
    models: dict[str, Path], family: str, point: Any
) -> None:
    model, sample = build(models[family]), batch(make_dataset(models[family]))
    encoder = find_encoder(model)
    kind = criterion().kinds[None]
    call: Callable[[], Tensor] = lambda: kind.logits(model, sample)  # noqa: E731
    with capture(encoder, point) as seen:
        clean = call()
    with substitute(encoder, point, seen[0]):
        torch.testing.assert_close(call(), clean, rtol=0, atol=0)
    with substitute(encoder, point, seen[0] + torch.randn_like(seen[0])):
        assert (call() - clean).abs().max() > 1e-3
    torch.testing.assert_close(call(), clean, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_norm_means_in_each_family(models: dict[str, Path], family: str) -> None:
    """The README's table of it names each family; DeBERTa's and ModernBERT's is words.

    What has been normed is as wide as the embeddings, and is projected after that.
    """
    encoder: Any = find_encoder(build(models[family]).eval())
    tokens = torch.tensor([[0, 9, 8, 7, 2], [0, 9, 2, 1, 1]])
    real, normed = tokens.ne(1), []
    encoder.layernorm_embedding.register_forward_hook(
        lambda _, inputs, output: normed.append((inputs[0], output))
    )
    encoder(tokens)
    expected = encoder.embed_tokens.weight[tokens]
    if family not in ("deberta", "modernbert"):
        places = encoder.embed_positions.weight[2:][: tokens.size(1)]
        expected = expected + places
    ((before, after),) = normed
    torch.testing.assert_close(before[real], expected[real])
    entered = encoder.forward_embedding(tokens)[0]
    project = getattr(encoder, "projection", torch.nn.Identity())
    torch.testing.assert_close(entered[real], project(after)[real])
    wide = family in ("electra", "albert")
    assert (entered.size(-1), before.size(-1)) == (16, 12 if wide else 16)
    page = (ROOT / "user_dir/models/README.md").read_text()
    table = page.partition("### Where perturbations enter")[2].partition("\n## ")[0]
    named = [line.split("|")[1].lower() for line in table.splitlines() if "|" in line]
    assert family in ", ".join(named).replace(" ", "").split(",")


def test_word_injection_leaves_barts_decoder_alone(models: dict[str, Path]) -> None:
    model, sample = build(models["bart"]), batch(make_dataset(models["bart"]))
    decoder_inputs = []
    model.decoder.register_forward_pre_hook(lambda *_: None)
    encoder = find_encoder(model)
    hook = model.decoder.layernorm_embedding.register_forward_pre_hook(
        lambda _, inputs: decoder_inputs.append(inputs[0].detach().clone())
    )
    with capture(encoder, "word") as seen:
        criterion().kinds[None].logits(model, sample)
    with substitute(encoder, "word", seen[0] + 1):
        criterion().kinds[None].logits(model, sample)
    hook.remove()
    torch.testing.assert_close(decoder_inputs[0], decoder_inputs[1], rtol=0, atol=0)
    assert len(seen) == 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("outputs", [CLASSES, 1])
def test_the_term_grows_with_its_radius(
    models: dict[str, Path], family: str, outputs: int
) -> None:
    model = build(models[family], outputs=outputs)
    sample = batch(make_dataset(models[family], regression=outputs == 1))
    grown = [
        loss_of(model, sample, outputs=outputs, init=r, step=r)["sift_divergence"]
        for r in (1e-4, 1e-3, 1e-2, 1e-1)
    ]
    assert 0 < grown[0] < grown[1] < grown[2] < grown[3]
    # A divergence is quadratic in a small perturbation; gates are steeper.
    near = 0.2 if family == "modernbert" else 0.1
    assert grown[1] / grown[0] == pytest.approx(100, rel=near)


def test_the_ascent_beats_a_random_start(models: dict[str, Path]) -> None:
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    flags = {"init": 1e-2, "step": 1e-2}
    values = [
        loss_of(model, sample, steps=k, **flags)["sift_divergence"] for k in (0, 1, 3)
    ]
    assert values[0] < values[1] < values[2]


def penalty_of(made: Any, model: Any, sample: dict[str, Any]) -> Penalty:
    _, seen = made.clean(model, sample, made.kinds[None])
    found: Penalty = made.regularizer(model)(seen.view)
    return found


def test_both_sides_get_a_gradient_and_the_words_only_the_clean_one(
    models: dict[str, Path],
) -> None:
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    torch.manual_seed(11)
    made = criterion(init=0.3, step=0.1)
    penalty = penalty_of(made, model, sample)
    gradients = torch.autograd.grad(
        penalty.value.sum(), list(model.parameters()), allow_unused=True
    )
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert gradient is not None, name
        if not name.endswith("k_proj.bias"):  # attention is blind to it
            assert gradient.abs().max() > 0, name


# --- equals an independent float64 reference ----------------------------------


def reference_penalty(
    model: Any, sample: dict[str, Any], start: Tensor, step: float, eps: float | None
) -> Tensor:
    """SiFT with one ascent step on RoBERTa, written out by hand."""
    reference = Reference(model, sample)
    clean, detached = reference.logits(reference.norm), reference.norm.detach()
    base = (detached - detached.mean(-1, keepdim=True)) / (
        detached.var(-1, correction=0, keepdim=True) + 1e-7
    ).sqrt()
    delta = start.clone().requires_grad_()
    objective = sym(reference.logits(base + delta), clean.detach()).sum()
    (g,) = torch.autograd.grad(objective, delta)
    largest = g.abs().amax(-1, keepdim=True)
    delta = start + step * g / torch.where(largest == 0, 1, largest)
    if eps is not None:
        delta = delta.clamp(-eps, eps)
    return sym(reference.logits(base + delta.detach()), clean)


@pytest.mark.parametrize("eps", [None, 0.15])
def test_value_and_gradient_equal_the_reference(
    models: dict[str, Path], eps: float | None
) -> None:
    model = build(models["roberta"])
    sample = batch(make_dataset(models["roberta"]))
    parameters = list(model.parameters())
    torch.manual_seed(11)
    log = criterion(init=0.1, step=0.05, eps=eps)
    penalty = penalty_of(log, model, sample)
    got = torch.autograd.grad(penalty.value.sum(), parameters, allow_unused=True)

    mask = sample["net_input"]["src_tokens"].ne(1)
    torch.manual_seed(11)
    start = draw("clipped_normal", noise_keys(sample["id"]), mask, 16, 0.1).double()
    if eps is not None:
        start = start.clamp(-eps, eps)
    model.double()
    expected = reference_penalty(model, sample, start, 0.05, eps)
    torch.testing.assert_close(penalty.value.double(), expected, rtol=2e-3, atol=1e-7)
    wanted = torch.autograd.grad(expected.sum(), list(model.parameters()))
    for (name, _), one, other in zip(
        model.named_parameters(), got, wanted, strict=True
    ):
        torch.testing.assert_close(
            one.double(), other, rtol=5e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_linear_scorer_gives_the_closed_form() -> None:
    """f(x) = sum w x, squared difference: R = (sum w delta)^2, delta = eps sign w."""
    w = torch.tensor([0.5, -2.0, 1.0])
    mask = torch.ones(2, 4, dtype=torch.bool)
    eps = 0.01
    sift = SiFT(1e-6, Ascent(20, eps, radius=eps))

    def forward(x: Tensor) -> Tensor:
        return (x * w).sum((1, 2)).unsqueeze(-1)

    x = torch.randn(2, 4, 3)
    base = normalise_embeddings(x)
    keys = noise_keys([1, 2])
    penalty = sift(View(forward, x, mask, forward(base), keys, squared_difference))
    expected = (4 * eps * w.abs().sum()) ** 2
    torch.testing.assert_close(penalty.value, expected.expand(2), rtol=1e-3, atol=0)
    assert float(penalty.logged["rms"]) == pytest.approx(2 * eps)


# --- what must not change -------------------------------------------------------


@pytest.mark.parametrize("scale", [0.01, 30.0])
def test_scaling_the_embeddings_leaves_the_perturbed_pass_unchanged(
    models: dict[str, Path], scale: float
) -> None:
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    before = loss_of(model, sample, init=0.1, step=0.1)
    encoder = find_encoder(model)
    with torch.no_grad():
        encoder.embed_tokens.weight *= scale
        encoder.embed_positions.weight *= scale
    after = loss_of(model, sample, init=0.1, step=0.1)
    assert after["sift_divergence"] == pytest.approx(
        before["sift_divergence"], rel=1e-2
    )


def test_no_parameter_gets_a_gradient_from_the_ascent(models: dict[str, Path]) -> None:
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    with torch.no_grad():
        torch.manual_seed(11)
        made = criterion()
        penalty_of(made, model, sample)
    assert all(p.grad is None for p in model.parameters())


# --- dropout --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["shared", "off"])
def test_without_perturbation_the_passes_agree_exactly(
    models: dict[str, Path], mode: str
) -> None:
    model = build(models["roberta"], dropout=0.3)
    sample = batch(make_dataset(models["roberta"]))
    encoder, sift = find_encoder(model), criterion(dropout=mode)
    from fairseq_steady.regularizers import dropout_passes

    extra = dropout_passes(model, mode)
    with capture(encoder, "norm"):
        clean = sift.kinds[None].logits(model, sample)
    torch.rand(3)  # of somebody else
    drawn = torch.get_rng_state()
    with extra():
        again = sift.kinds[None].logits(model, sample)
    with extra():
        once_more = sift.kinds[None].logits(model, sample)
    assert torch.equal(again, once_more)
    assert torch.equal(again, clean) == (mode == "shared")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(module.training for module in model.modules())


# --- noise and ascent -----------------------------------------------------------


def test_a_non_finite_gradient_keeps_the_start_of_that_sentence_only() -> None:
    start = torch.full((3, 2, 2), 0.1)

    def objective(d: Tensor) -> Tensor:
        return d[0].sum() + (d[1] - 0.1).abs().sum().sqrt() + d[2].sum()

    delta, refused = ascend(objective, start, Ascent(2, 0.5))
    assert torch.equal(delta[1], start[1])
    torch.testing.assert_close(delta[0], torch.full((2, 2), 1.1))
    assert refused == 2


def test_a_zero_gradient_is_no_direction() -> None:
    start = torch.randn(2, 3, 4)
    delta, _ = ascend(lambda d: (d * 0).sum(), start, Ascent(1, 0.5))
    assert torch.equal(delta, start)


# --- precision, errors, warnings ------------------------------------------------


def test_an_encoder_without_the_point_is_named(tmp_path: Path) -> None:
    from conftest import make_model_directory

    path = make_model_directory(
        tmp_path / "prenorm", layernorm_embedding=False, encoder_normalize_before=True
    ).path
    model = build(path)
    with pytest.raises(UserError, match=r"no layernorm_embedding.*'norm'"):
        criterion()(model, batch(make_dataset(path)))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"lambda": -1.0}, "--sift-lambda -1.0"),
        ({"init": -0.1}, "--sift-init -0.1"),
        ({"step": 0.0}, "--sift-step 0.0"),
        ({"steps": -2}, "--sift-steps -2"),
        ({"eps": 0.0}, "--sift-eps 0.0"),
        ({"divergence": "sym_kl", "outputs": 1}, "--sift-divergence sym_kl"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(
    flags: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        criterion(**flags)


def test_a_dead_regulariser_warns_once(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    with torch.no_grad():
        model.classification_heads[HEAD].out_proj.weight.zero_()
    dead = criterion()
    for _ in range(25):
        dead(model, sample)
    assert caplog.text.count("exactly 0") == 1
    caplog.clear()
    alive, live_model = criterion(), build(models["roberta"])
    for _ in range(25):
        alive(live_model, sample)
    assert "exactly 0" not in caplog.text


def test_the_criterion_is_symmetric_kl_by_default_and_mse_for_scores() -> None:
    target = torch.zeros(1)
    kinds = [criterion(outputs=n).kinds[None] for n in (CLASSES, 1)]
    assert kinds[0].divergence("auto", target) is symmetric_kl
    a, b = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    assert kinds[1].divergence("auto", target)(a, b) == 4
