"""The family: one row per method, every test on every row it applies to."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq_steady.criterions.plain import PlainConfig, PlainCriterion
from fairseq_steady.errors import UserError
from fairseq_steady.models.steady import HEAD
from fairseq_steady.regularizers import (
    Ascent,
    Schedule,
    SpectralBound,
    Teacher,
    ascend,
    bound_linear,
    derived,
    draw,
    noise_keys,
    sentence_start,
    spectral_bound,
)
from fairseq_steady.regularizers.ascent import length, project
from hypothesis import given, settings
from hypothesis import strategies as st
from method_table import METHODS as METHOD_TABLE
from method_table import OPTIMIZERS
from tiny import CLASSES, FAMILIES, Reference, batch, build, make_criterion, sym
from torch import Tensor, nn
from torch.nn.utils.parametrize import remove_parametrizations

ROWS = {name: row for name, row in METHOD_TABLE.items() if name != "plain"}
PACKAGE = "fairseq_steady."
METHODS = list(ROWS)
NOISED = [name for name, row in ROWS.items() if row.radius]
PENALTIES = [name for name, row in ROWS.items() if row.divergence]


def test_the_table_has_every_method_and_optimizer() -> None:
    ours = [
        {n for n, made in registry.items() if made.__module__.startswith(PACKAGE)}
        for registry in (CRITERION_REGISTRY, OPTIMIZER_REGISTRY)
    ]
    named = {flags[0].removeprefix("--optimizer=") for flags in OPTIMIZERS.values()}
    assert ours == [set(METHOD_TABLE), named]


def dataset(models: dict[str, Path], family: str = "roberta", **kinds: Any) -> Any:
    return tiny.make_dataset(models[family], **kinds)


def ready(method: str, model: Any, outputs: int = CLASSES, **flags: Any) -> Any:
    made = make_criterion(method, outputs, **flags)
    made.check_model(model)
    made.prepare_model(model)
    return made


# --- it is live -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "outputs"), [(FAMILIES[0], 1), *((f, CLASSES) for f in FAMILIES)]
)
@pytest.mark.parametrize("method", NOISED)
def test_the_perturbation_reaches_the_logits_with_dropout_off(
    models: dict[str, Path], method: str, family: str, outputs: int
) -> None:
    """The loss or the logits move away from the plain ones, with the radius."""
    model = build(models[family], outputs=outputs)
    sample = batch(dataset(models, family, regression=outputs == 1))
    moved = []
    for radius in (2e-3, 1e-2, 2e-2):
        flags = dict.fromkeys(ROWS[method].radius, radius)
        made = ready(method, model, outputs, **flags)
        kind = made.kinds[None]
        plain = made.plain_outcome(model, sample, kind)
        found = made.train_outcome(model, sample, kind)
        apart = (
            found.loss - plain.loss
            if method in PENALTIES
            else (found.logits - plain.logits)
        )
        moved.append(float(apart.detach().norm()))
    assert 0 < moved[0] < moved[1] < moved[2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHOD_TABLE)
def test_every_parameter_learns(
    models: dict[str, Path], method: str, family: str
) -> None:
    """From a finite gradient, and updates lower the loss; r4f bounds the head alone."""
    model = build(models[family])
    sample = batch(dataset(models, family))
    made = ready(method, model, **METHOD_TABLE[method].live)
    bounded = {n for n, _ in model.named_parameters() if "parametrizations" in n}
    layers = ("dense", "out_proj") if method == "r4f" else ()
    head = f"classification_heads.{HEAD}"
    assert bounded == {f"{head}.{n}.parametrizations.weight.original" for n in layers}
    torch.manual_seed(0)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-3), []
    for _ in range(3):
        optimizer.zero_grad()
        loss, size, _ = made(model, sample)
        loss.backward()
        losses.append(float(loss) / size)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            # Attention does not see the bias of its keys.
            assert bool(parameter.grad.any()) or "k_proj.bias" in name, name
        optimizer.step()
    assert min(losses[1:]) < losses[0]


def test_r_drop_is_dropouts_divergence_and_nothing_else(
    models: dict[str, Path],
) -> None:
    sample = batch(dataset(models))
    found = [
        tiny.loss_of(make_criterion("r_drop"), build(models["roberta"], rate), sample)
        for rate in (0.0, 0.1, 0.3)
    ]
    assert found[0]["r_drop_divergence"] < 1e-10
    assert 1e-3 < found[1]["r_drop_divergence"] < found[2]["r_drop_divergence"]
    assert found[0]["total"] == pytest.approx(
        tiny.loss_of(make_criterion("plain"), build(models["roberta"]), sample)["total"]
    )


def test_r3f_on_roberta_is_not_fairseqs(models: dict[str, Path]) -> None:
    """fairseq's own drops the noise; what it computes is re-written here."""
    model, sample = build(models["roberta"]), batch(dataset(models))

    def fairseqs(eps: float) -> float:
        encoder = model.encoder.sentence_encoder
        words = encoder.embed_tokens(sample["net_input"]["src_tokens"])
        noised = words.detach() + torch.empty_like(words).uniform_(-eps, eps)
        options = {"features_only": True, "classification_head_name": HEAD}
        one = model(**sample["net_input"], **options)[0]
        other = model(**sample["net_input"], **options, token_embeddings=noised)[0]
        return float(sym(one, other).sum())

    assert fairseqs(1e-5) == fairseqs(1.0) == 0

    def ours(eps: float) -> float:
        return tiny.loss_of(make_criterion("r3f", eps=eps), model, sample)[
            "r3f_divergence"
        ]

    assert 0 < ours(1e-5) < 1e-6 < 1e-2 < ours(1.0)


# --- equals an independent float64 reference ----------------------------------


def in_double(model: Any, sample: dict[str, Any]) -> Reference:
    return Reference(model.double(), sample)


def start_of(sample: dict[str, Any], noise: str, size: float) -> Tensor:
    mask = sample["net_input"]["src_tokens"].ne(1)
    torch.manual_seed(11)
    return draw(noise, noise_keys(sample["id"]), mask, 16, size).double()


def q_to_p(a: Tensor, b: Tensor) -> Tensor:
    """KL(q || p), q of the second, by its definition."""
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return (q.exp() * (q - p)).sum(-1)


MEASURES = {"auto": sym, "kl": q_to_p, "mse": lambda a, b: (a - b).pow(2).sum(-1)}


def rms_of(x: Tensor, sample: dict[str, Any]) -> Tensor:
    """Of each sentence's real tokens alone, shape (B, 1, 1)."""
    mask = sample["net_input"]["src_tokens"].ne(1)
    rows = [e[real].pow(2).mean().sqrt() for e, real in zip(x, mask, strict=True)]
    return torch.stack(rows).detach()[:, None, None]


def lengths(
    ref: Reference, sample: dict[str, Any], method: str, flags: dict[str, Any]
) -> dict[str, Any]:
    """The flags with relative lengths in embedding units, one per sentence."""
    if "eps_relative" not in flags or method == "hype":
        return flags
    unit = rms_of(ref.word, sample)
    words = sample["net_input"]["src_tokens"].ne(1).sum(1).view(-1, 1, 1)
    over = {"smart": 16 if flags.get("norm") == "l2" else 1, "freelb": 16 * words}
    length = unit * torch.as_tensor(over.get(method, 1)).double().sqrt()
    found = {"eps": flags["eps_relative"] * length, "unit": unit}
    found |= {"step": flags["step"] * length} if "step" in flags else {}
    return flags | found | {"length": length}


def smart_reference(
    ref: Reference, start: Tensor, flags: dict[str, Any], clean: Tensor
) -> Tensor:
    start = start * flags.get("unit", 1)
    step, eps, norm = flags["step"], flags["eps"], flags.get("norm", "linf")
    measure = MEASURES[flags.get("divergence", "auto")]
    climbed = MEASURES[flags["inner"]] if "inner" in flags else measure

    def ball(d: Tensor) -> Tensor:
        if norm == "linf":
            return d.clamp(-eps, eps)
        size = d.norm(dim=-1, keepdim=True)
        return torch.where(size > eps, d / size.clamp(min=1e-300) * eps, d)

    delta = ball(start)
    for _ in range(flags.get("steps", 1)):
        delta = delta.detach().requires_grad_()
        objective = climbed(ref.from_words(delta), clean.detach()).sum()
        (g,) = torch.autograd.grad(objective, delta)
        over = {"linf": float("inf"), "l2": 2.0}[norm]
        size = g.norm(over, dim=-1, keepdim=True)
        delta = ball(delta + step * g / torch.where(size == 0, 1, size))
    detach = not flags.get("live_embeddings")
    return measure(ref.from_words(delta.detach(), detach), clean)


def task_loss(logits: Tensor, sample: dict[str, Any]) -> Tensor:
    chosen = logits.log_softmax(-1).gather(1, sample["target"].view(-1, 1))
    return -chosen.sum()


def freelb_reference(ref: Reference, sample: dict[str, Any], flags: Any) -> Tensor:
    mask = sample["net_input"]["src_tokens"].ne(1)
    torch.manual_seed(11)
    keys = noise_keys(sample["id"])
    noise = flags.get("noise", "uniform")
    delta = sentence_start(noise, flags["init"], keys, mask, 16).double()
    delta = delta * flags.get("length", 1)

    def ball(d: Tensor) -> Tensor:
        size = d.flatten(1).norm(dim=1)[:, None, None]
        return torch.where(size > flags["eps"], d / size * flags["eps"], d)

    delta, total = ball(delta), torch.zeros((), dtype=torch.double)
    for k in range(4):
        delta = delta.detach().requires_grad_()
        loss = task_loss(ref.from_words(delta, detach=False), sample)
        total = total + loss / 4
        if k < 3:
            (g,) = torch.autograd.grad(loss, delta, retain_graph=True)
            unit = g / g.flatten(1).norm(dim=1)[:, None, None]
            delta = ball(delta + flags["step"] * unit)
    return total


def bounded(weight: Tensor) -> Tensor:
    return weight / torch.linalg.svdvals(weight.detach())[0].clamp(min=1)


def reference_loss(
    method: str, model: Any, sample: dict[str, Any], flags: dict[str, Any]
) -> Tensor:
    """Total training loss of one batch, in float64."""
    if method == "r4f":
        model = bound_by_svd(model)
    ref = in_double(model, sample)
    clean = ref.logits(ref.norm)
    flags = lengths(ref, sample, method, flags)
    plain = task_loss(clean, sample)
    if method == "smart":
        start = start_of(sample, "normal", flags["init"])
        term = smart_reference(ref, start, flags, clean).sum()
        return plain + flags.get("lambda", 1) * term
    if method in ("r3f", "r4f"):
        z = start_of(sample, flags.get("noise", "uniform"), 1.0) * flags["eps"]
        noised = ref.from_words(z, not flags.get("live_embeddings"))
        measure = MEASURES[flags.get("divergence", "auto")]
        return plain + flags.get("lambda", 1) * measure(noised, clean).sum()
    if method == "hype":
        mask = sample["net_input"]["src_tokens"].ne(1)
        torch.manual_seed(11)
        keys = noise_keys(sample["id"])
        kind, relative = flags.get("noise", "normal"), flags.get("eps_relative")
        size = flags.get("eps", relative)
        drawn = [draw(kind, derived(keys, i), mask, 16, 1.0) * size for i in range(2)]
        noise: list[Any] = [z.double() for z in drawn]
        if relative:
            noise = [lambda h, z=z: z * rms_of(h, sample) for z in noise]
        return task_loss(ref.logits(ref.norm, noise), sample)
    return freelb_reference(ref, sample, flags)


def bound_by_svd(model: Any) -> Any:
    """An r4f head as a plain one, bounded by an exact singular value."""
    head = model.classification_heads[HEAD]
    for linear in (head.dense, head.out_proj):
        original = linear.parametrizations.weight.original.detach().clone()
        remove_parametrizations(linear, "weight")
        linear.weight = nn.Parameter(bounded(original))
    return model


REFERENCES = [
    ("smart", {"lambda": 2.0}),
    ("smart", {"steps": 3, "live_embeddings": True}),
    ("smart", {"steps": 2, "norm": "l2", "eps": 0.2}),
    ("smart", {"inner": "mse", "norm": "l2"}),
    ("smart", {"divergence": "kl"}),
    ("r3f", {"lambda": 2.0, "divergence": "kl"}),
    ("r3f", {"noise": "normal", "live_embeddings": True}),
    ("r4f", {}),
    ("hype", {}),
    ("hype", {"noise": "uniform"}),
    ("freelb", {}),
    ("freelb", {"noise": "normal"}),
    *((m, {"eps_relative": 0.4}) for m in ("smart", "r3f", "r4f", "hype", "freelb")),
    ("smart", {"eps_relative": 0.4, "norm": "l2", "steps": 2}),
]


@pytest.mark.parametrize(("method", "extra"), REFERENCES)
def test_loss_and_gradient_equal_a_float64_reference(
    models: dict[str, Path], method: str, extra: dict[str, Any]
) -> None:
    flags = ROWS[method].live | extra
    if "eps_relative" in extra:
        del flags["eps"]
    model, sample = build(models["roberta"]), batch(dataset(models))
    made = ready(method, model, **flags)
    torch.manual_seed(11)
    loss, _, _ = made(model, sample)
    loss.backward()
    layer = model.encoder.sentence_encoder
    watched = [layer.embed_tokens.weight, layer.layers[0].fc1.weight]
    got = [p.grad.clone() for p in watched]
    model.zero_grad()
    expected = reference_loss(method, model, sample, flags)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-6)
    expected.backward()
    wanted = [layer.embed_tokens.weight.grad, layer.layers[0].fc1.weight.grad]
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=5e-3, atol=2e-4)


# --- what must not change -------------------------------------------------------


def gradients(made: Any, model: Any, sample: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(7)
    model.zero_grad()
    loss, _, _ = made(model, sample)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [m for m in METHODS if m != "r4f"])
def test_switched_off_it_is_bitwise_the_plain_loss(
    models: dict[str, Path], method: str, family: str
) -> None:
    model, sample = build(models[family], dropout=0.1), batch(dataset(models, family))
    off = make_criterion(method, **ROWS[method].off)
    plain = PlainCriterion(PlainConfig(), off.task).train()
    for one, other in zip(
        gradients(off, model, sample), gradients(plain, model, sample), strict=True
    ):
        assert torch.equal(one, other)


def test_r4f_without_noise_is_bitwise_plain_on_a_small_head(
    models: dict[str, Path],
) -> None:
    """Where every singular value is below 1 there is nothing to bound."""
    losses = []
    for method, flags in (("r4f", {"lambda": 0.0}), ("plain", {})):
        model = build(models["roberta"], dropout=0.1)
        for linear in model.classification_heads[HEAD].modules():
            if isinstance(linear, nn.Linear):
                torch.manual_seed(4)
                nn.init.normal_(linear.weight, std=1e-2)
        made = ready(method, model, **flags)
        losses.append(gradients(made, model, batch(dataset(models))))
    assert torch.equal(losses[0][0], losses[1][0])
    assert torch.equal(losses[0][1], losses[1][1])


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_never_perturbs(models: dict[str, Path], method: str) -> None:
    model, sample = build(models["roberta"], dropout=0.1), batch(dataset(models))
    made = ready(method, model, **ROWS[method].live).eval()
    plain = make_criterion("plain").eval()
    model.eval()
    with torch.no_grad():
        loss, _, log = made(model, sample)
        assert torch.equal(loss, plain(model, sample)[0])
    assert not any(name.startswith(f"{method}_") for name in log)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", NOISED)
def test_padding_batch_order_and_accumulation_change_nothing(
    models: dict[str, Path], method: str, family: str
) -> None:
    model, data = build(models[family]), dataset(models, family)
    made = ready(method, model, **ROWS[method].live)
    whole = tiny.loss_of(made, model, batch(data))
    turned = tiny.loss_of(made, model, batch(data, 3, 0, 4, 2, 1))
    alone = [tiny.loss_of(made, model, batch(data, i)) for i in range(5)]
    names = [n for n in whole if n in ("total", f"{method}_rms")]
    for name in [*names, *(n for n in whole if n.endswith("_divergence"))]:
        if not name.endswith("dropout_divergence"):
            assert turned[name] == pytest.approx(whole[name], rel=2e-5)
            total = sum(one[name] for one in alone)
            assert total == pytest.approx(whole[name], rel=2e-5)


class Wrapper(nn.Module):
    """Stands in for a distributed wrapper, and counts."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("method", METHODS)
def test_one_forward_goes_through_the_wrapper_per_micro_batch(
    models: dict[str, Path], method: str
) -> None:
    wrapped = Wrapper(build(models["roberta"])).train()
    made = ready(method, wrapped, **ROWS[method].live)
    for _ in range(2):
        made(wrapped, batch(dataset(models)))
    assert wrapped.calls == 2


# --- dropout --------------------------------------------------------------------


@pytest.mark.parametrize("method", PENALTIES)
def test_sharing_masks_leaves_only_the_perturbation(
    models: dict[str, Path], method: str
) -> None:
    model, sample = build(models["roberta"], dropout=0.3), batch(dataset(models))
    tiny_radius = dict.fromkeys(ROWS[method].radius, 1e-3)
    found = {
        mode: tiny.loss_of(
            ready(method, model, dropout=mode, **tiny_radius), model, sample
        )
        for mode in ("independent", "shared", "off")
    }
    name = f"{method}_divergence"
    assert found["independent"][name] > 100 * found["shared"][name] > 0
    assert found["independent"][name] > 100 * found["off"][name] > 0
    # The log says so too: almost all of the divergence is dropout's.
    probed = found["independent"][f"{method}_dropout_divergence"]
    assert 0.3 < probed / found["independent"][name] < 3
    assert f"{method}_dropout_divergence" not in found["shared"]


def test_measuring_dropouts_share_changes_no_weight(models: dict[str, Path]) -> None:
    """Nor the masks of the next batch of the same update."""
    model, sample = build(models["roberta"], dropout=0.3), batch(dataset(models))
    found = []
    for interval in (1, 0):
        made = make_criterion("r3f", probe_interval=interval)
        first = gradients(made, model, sample)
        found.append([*first, made(model, sample)[0].detach()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_freelb_tends_to_plain_as_its_radius_does_to_nothing(
    models: dict[str, Path],
) -> None:
    """To first order: a hundredth of the radius is a hundredth of the difference."""

    def gradient(method: str, **flags: Any) -> Tensor:
        model = build(models["roberta"], dropout=0.1)
        torch.manual_seed(11)
        loss, *_ = ready(method, model, **flags)(model, batch(dataset(models)))
        loss.backward()
        return torch.cat(
            [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        )

    plain = gradient("plain")
    far, near = (
        gradient("freelb", eps=0.3 * r, init=0.4 * r, step=0.05 * r) - plain
        for r in (1e-2, 1e-4)
    )
    assert 1e-3 < far.norm() / plain.norm() < 0.1
    assert 50 < far.norm() / near.norm() < 200


def test_freelb_repeats_one_mask_unless_told_otherwise(models: dict[str, Path]) -> None:
    model, sample = build(models["roberta"], dropout=0.3), batch(dataset(models))
    still = {"eps": 1e-9, "step": 1e-9, "init": 0.0}
    shared = tiny.loss_of(make_criterion("freelb", **still), model, sample)["total"]
    one = tiny.loss_of(make_criterion("freelb", steps=0, **still), model, sample)
    assert shared == pytest.approx(one["total"], rel=1e-6)
    other = tiny.loss_of(
        make_criterion("freelb", dropout="independent", **still), model, sample
    )
    assert other["total"] != pytest.approx(one["total"], rel=1e-3)


# --- precision, errors ----------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["autocast", "weights"])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_stays_finite_and_alive(
    models: dict[str, Path], method: str, dtype: torch.dtype, mode: str
) -> None:
    model, sample = build(models["roberta"], dropout=0.1), batch(dataset(models))
    made = ready(method, model, **ROWS[method].live)
    if mode == "weights":
        model.to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=mode == "autocast"):
        torch.manual_seed(11)
        loss, _, log = made(model, sample)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert log.get(f"{method}_refused", 0) == 0
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert log.get(f"{method}_divergence", torch.ones(())) > 0


def test_noise_lost_to_rounding_is_said_once(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model, sample = build(models["roberta"]).bfloat16(), batch(dataset(models))
    made = make_criterion("r3f", eps=1e-5)
    logs = [made(model, sample)[2] for _ in range(3)]
    assert caplog.text.count("rounding removes") == 1
    assert float(logs[0]["r3f_lost"]) / len(tiny.LENGTHS) > 0.9
    caplog.clear()
    fine = make_criterion("r3f", eps=0.5)
    fine(model, sample)
    assert "rounding" not in caplog.text


@pytest.mark.parametrize("method", ["smart", "freelb"])
def test_a_non_finite_inner_gradient_is_counted_and_reaches_no_weight(
    models: dict[str, Path], method: str
) -> None:
    model, sample = build(models["roberta"]), batch(dataset(models))
    made = make_criterion(method, **ROWS[method].live)
    real = torch.autograd.grad

    def broken(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        into_words, *others = real(*args, **kwargs)
        into_words[0] = torch.nan
        return into_words, *others

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", broken)
        loss, _, log = made(model, sample)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert loss.isfinite()
    assert float(log[f"{method}_refused"]) > 0


BAD = [(m, name, value) for m, row in ROWS.items() for name, value in row.bad.items()]


@pytest.mark.parametrize(("method", "name", "value"), BAD)
def test_values_that_cannot_be_meant_are_refused(
    method: str, name: str, value: Any
) -> None:
    flag = f"--{method}-{name}".replace("_", "-")
    with pytest.raises(UserError, match=f"{flag} {value}"):
        make_criterion(method, **{name: value})


@pytest.mark.parametrize(
    ("method", "name"),
    [*((m, "divergence") for m in (*PENALTIES, "r_drop")), ("smart", "inner")],
)
def test_a_divergence_that_is_always_0_is_refused(method: str, name: str) -> None:
    flag = f"--{method}-{name} kl is always 0 for".replace("_", "-")
    with pytest.raises(UserError, match=flag):
        make_criterion(method, outputs=1, **{name: "kl"})


def test_fairseqs_reduction_without_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="--r3f-reduction fairseq is about target tok"):
        make_criterion("r3f", reduction="fairseq")


def test_a_batch_that_amp_repeats_is_one_update_and_an_overflow_is_none() -> None:
    """The trainer calls itself for the first, through the same wrapper."""
    from fairseq_steady.patches.updates import telling_the_criterion

    heard: list[int] = []

    class Trainer:
        model, updates, retries, overflows = None, 0, 0, False
        is_fsdp = False

        def get_num_updates(self) -> int:
            return self.updates

        def get_criterion(self) -> Any:
            return SimpleNamespace(after_update=lambda _, update: heard.append(update))

        def train_step(self, samples: list[Any]) -> None:
            if self.retries > 0:
                self.retries -= 1
                return self.train_step(samples)
            self.updates += not self.overflows
            return None

    Trainer.train_step = telling_the_criterion(Trainer.train_step)
    trainer = Trainer()
    for retries, overflows in (
        (0, True),
        (0, False),
        (2, False),
        (0, True),
        (0, False),
    ):
        trainer.retries, trainer.overflows = retries, overflows
        trainer.train_step([{"id": 0}])
    assert heard == [1, 2, 3]


@pytest.mark.parametrize(
    ("given", "fsdp", "stepped"),
    [
        (["a", "b"], False, ["a", "b"]),
        (["a", {}], False, ["a"]),
        ([None, "b", {}], False, ["b"]),
        ([{}, {}], False, [{}]),
        (["a", {}], True, ["a", {}]),  # whose every pass is an exchange
    ],
)
def test_missing_batches_are_left_out_beside_real_ones(
    given: list[Any], fsdp: bool, stepped: list[Any]
) -> None:
    from fairseq_steady.patches.updates import telling_the_criterion

    trainer = SimpleNamespace(
        is_fsdp=fsdp, get_num_updates=lambda: 0, get_criterion=lambda: None
    )
    step = telling_the_criterion(lambda _, samples: samples)
    assert step(trainer, given) == stepped


def test_r4f_without_its_head_prepared_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="a task of this plugin"):
        make_criterion("r4f").before_update(build(models["roberta"]), 0)


# --- the ball -------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(
    st.floats(1e-6, 10),
    st.floats(1e-6, 10),
    st.integers(0, 3),
    st.integers(0, 2**31),
    st.sampled_from(["linf", "l2"]),
    st.sampled_from(["token", "sentence"]),
)
def test_the_perturbation_stays_in_its_ball(
    radius: float, step: float, steps: int, seed: int, norm: Any, level: Any
) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(2, 3, 4, generator=generator)
    w = torch.randn(3, 4, generator=generator)
    how = Ascent(steps, step, radius, norm=norm, level=level)
    delta, _ = ascend(lambda d: (d * w).sum().sin(), start, how)
    assert length(delta, how).max() <= radius * (1 + 1e-5)
    assert not delta.requires_grad


def test_normalize_is_mt_dnns_form() -> None:
    """delta <- (nu + eta g) / (||nu + eta g||_inf + 1e-6), the gradient as it is."""
    start = torch.randn(2, 3, 4)
    w = torch.randn(3, 4)
    how = Ascent(1, 0.3, 1.0, 8.0, projection="normalize")
    delta, _ = ascend(lambda d: (d * w).sum(), start, how)
    stepped = start + 0.3 * w
    expected = stepped / (stepped.abs().amax(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(delta, expected)
    assert torch.equal(project(start, Ascent(1, 1.0)), start)


# --- the teacher ----------------------------------------------------------------


def test_the_teacher_follows_by_its_schedule() -> None:
    student = nn.Linear(2, 2)
    momentum = Schedule("momentum", 0.9, 0.5, early=2, start=1)
    assert [momentum.decay(t) for t in (1, 2, 3)] == [0.0, 2 / 11, 3 / 12]
    assert momentum.decay(1000) == 0.9
    assert Schedule("momentum", 0.999, 0.99, early=500).decay(500) == pytest.approx(
        501 / 510
    )
    vanilla = Schedule("vanilla", every=3)
    assert [vanilla.decay(t) for t in range(1, 7)] == [1, 1, 0, 1, 1, 0]
    teacher = Teacher(student, momentum)
    averaged = student.weight.detach().clone()
    for update in range(1, 6):
        with torch.no_grad():
            student.weight += 1
        teacher.follow(student, update)
        decay = momentum.decay(update)
        averaged = decay * averaged + (1 - decay) * student.weight.detach()
        torch.testing.assert_close(teacher.model.weight.data, averaged)


def test_what_was_early_of_a_training_stays_so() -> None:
    """Going on for longer does not bend the teacher's decay."""
    student = nn.Linear(2, 2)
    first = Teacher(student, Schedule(early=1000))
    kept = first.state_dict()
    second = Teacher(student, Schedule(early=10))
    second.load_state_dict(kept)
    assert second.schedule == first.schedule
    del kept["early"]  # as older checkpoints have it
    third = Teacher(student, Schedule(early=10))
    third.load_state_dict(kept)
    assert third.schedule.early == 10


def test_the_teacher_is_fp32_quiet_and_outside_every_module(
    models: dict[str, Path],
) -> None:
    model = build(models["roberta"], dropout=0.3).bfloat16()
    made = make_criterion("smart", bregman="momentum", start_update=0)
    made(model, batch(dataset(models)))
    teacher = made._teacher.model
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.dtype == torch.float32 for p in teacher.parameters())
    assert not teacher.training
    assert list(made.parameters()) == []
    assert made.state_dict() == {}
    before = teacher.encoder.sentence_encoder.embed_tokens.weight.clone()
    with torch.no_grad():
        model.encoder.sentence_encoder.embed_tokens.weight += 1
    made.after_update(model, 50)
    after = teacher.encoder.sentence_encoder.embed_tokens.weight
    assert not torch.equal(before, after)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bregman_term_is_the_divergence_from_the_teacher(
    models: dict[str, Path], family: str
) -> None:
    model, sample = build(models[family]), batch(dataset(models, family))
    flags = {"lambda": 0.0, "bregman": "momentum", "mu": 3.0}
    made = make_criterion("smart", **flags)
    first = tiny.loss_of(made, model, sample)
    # Attention with a mask has another kernel where no gradient is asked for.
    assert first["smart_bregman"] == pytest.approx(0, abs=1e-11)
    assert first["total"] == pytest.approx(first["task_loss"] * made.kinds[None].unit)
    teacher = build(models[family]).eval()
    with torch.no_grad():
        model.classification_heads[HEAD].out_proj.weight[0] += 0.3
    found = tiny.loss_of(made, model, sample)
    with torch.no_grad():
        expected = sym(
            made.kinds[None].logits(model, sample),
            made.kinds[None].logits(teacher, sample),
        ).sum()
    assert found["smart_bregman"] * made.kinds[None].unit == pytest.approx(
        float(expected), rel=1e-4
    )
    plain = tiny.loss_of(make_criterion("plain"), model, sample)["total"]
    assert found["total"] == pytest.approx(plain + 3 * float(expected), rel=1e-4)


# --- the bounded head -----------------------------------------------------------


@pytest.mark.parametrize("bound", ["bound", "exact"])
def test_a_bounded_layer_has_its_spectral_norm(bound: Any) -> None:
    torch.manual_seed(0)
    for scale in (0.01, 1.0, 5.0):
        linear = nn.Linear(24, 16)
        with torch.no_grad():
            linear.weight.normal_().mul_(scale)
        before = linear.weight.detach().clone()
        bound_linear(linear, bound)
        largest = float(torch.linalg.svdvals(before)[0])
        kept = float(torch.linalg.svdvals(linear.weight.detach())[0])
        expected = min(1.0, largest) if bound == "bound" else 1.0
        assert kept == pytest.approx(expected, rel=0.02)
        if bound == "bound" and largest < 1:
            assert torch.equal(linear.weight, before)


def test_r4fs_head_is_1_lipschitz_on_random_pairs(models: dict[str, Path]) -> None:
    model = build(models["roberta"])
    head = model.classification_heads[HEAD]
    for linear in (head.dense, head.out_proj):
        with torch.no_grad():
            linear.weight.mul_(5)
    ready("r4f", model)
    model.eval()
    x = torch.randn(500, 4, 16) * torch.logspace(-2, 1, 500)[:, None, None]
    y = x + torch.randn(500, 4, 16) * torch.logspace(1, -3, 500)[:, None, None]
    ratio = (head(x) - head(y)).norm(dim=-1) / (x - y)[:, 0].norm(dim=-1)
    assert 0.01 < ratio.max() <= 1.02


def test_all_passes_of_a_step_see_one_matrix_and_the_next_step_another() -> None:
    linear = nn.Linear(8, 8)
    with torch.no_grad():
        linear.weight.mul_(9)
    bound_linear(linear)
    first = linear.weight.detach().clone()
    linear.train()(torch.randn(3, 8))
    assert torch.equal(linear.weight, first)
    bound = spectral_bound(linear)
    assert bound is not None
    bound.advance(linear.parametrizations.weight.original)
    assert (linear.weight - first).abs().max() > 0


@pytest.mark.parametrize("how", ["bound", "exact"])
def test_a_layer_of_zeros_is_bounded_once_it_is_none(how: Any) -> None:
    linear = nn.Linear(8, 5)
    nn.init.zeros_(linear.weight)
    bound_linear(linear, how)
    assert torch.equal(linear.weight, torch.zeros(5, 8))
    bound, original = spectral_bound(linear), linear.parametrizations.weight.original
    assert bound is not None
    with torch.no_grad():
        original.normal_(std=5)
    for _ in range(200):
        bound.advance(original)
    norm = torch.linalg.matrix_norm(linear.weight.detach(), 2)
    assert float(norm) == pytest.approx(1, abs=1e-3)


def test_power_iteration_stays_fp32() -> None:
    linear = nn.Linear(8, 8)
    bound_linear(linear)
    u = spectral_bound(linear).u.clone()
    linear.half()
    assert linear.weight.dtype == torch.float16
    assert torch.equal(spectral_bound(linear).u, u)
    assert isinstance(spectral_bound(linear), SpectralBound)


def test_a_bounded_layer_saves_and_loads_to_the_same_outputs() -> None:
    torch.manual_seed(1)
    linear, x = nn.Linear(8, 5), torch.randn(3, 8)
    with torch.no_grad():
        linear.weight.mul_(9)
    bound_linear(linear)
    expected, state = linear(x).detach(), linear.state_dict()
    plain = nn.Linear(8, 5)
    plain.load_state_dict({k: state[k] for k in ("weight", "bias")})
    assert torch.equal(plain(x), expected)
    again = nn.Linear(8, 5)
    bound_linear(again)
    again.load_state_dict(state)
    assert torch.equal(again(x), expected)
    original = again.parametrizations.weight.original
    assert torch.equal(original, linear.parametrizations.weight.original)


# --- sequence to sequence -------------------------------------------------------


class Sequences:
    """A batch for BART with targets of different length."""

    def __init__(self, models: dict[str, Path], pads: int = 0) -> None:
        data = dataset(models, "bart")
        self.sample = batch(data)
        rng = torch.Generator().manual_seed(2)
        rows = [torch.randint(5, 60, (n,), generator=rng) for n in (3, 6, 2, 5, 4)]
        width = max(map(len, rows)) + pads
        target = torch.full((len(rows), width), 1)
        for i, row in enumerate(rows):
            target[i, : len(row)] = row
        previous = torch.cat([torch.full((len(rows), 1), 2), target[:, :-1]], 1)
        inputs = {**self.sample["net_input"], "prev_output_tokens": previous}
        self.sample = {
            **self.sample,
            "target": target,
            "ntokens": int(target.ne(1).sum()),
            "net_input": inputs,
        }


def seq2seq(method: str, smoothing: float = 0.0, **flags: Any) -> Any:
    made = make_criterion(method, **flags)
    from fairseq_steady.criterions.kinds import Tokens

    made.kinds[None] = Tokens(1, smoothing, per_sentence=False)
    return made


@pytest.mark.parametrize("method", [m for m in METHODS if m != "r4f"])
def test_seq2seq_is_live_and_blind_to_the_targets_padding(
    models: dict[str, Path], method: str
) -> None:
    rate = 0.2 if method == "r_drop" else 0.0
    model = build(models["bart"], dropout=rate)
    made = seq2seq(method, **ROWS[method].live)
    short, long = Sequences(models), Sequences(models, pads=4)
    found = tiny.loss_of(made, model, short.sample)
    plain = tiny.loss_of(seq2seq("plain"), model, short.sample)
    assert abs(found["total"] - plain["total"]) > 1e-3
    assert found["sample_size"] == 20
    if method != "r_drop":
        padded = tiny.loss_of(made, model, long.sample)
        assert padded["total"] == pytest.approx(found["total"], rel=1e-5)


def test_seq2seq_loss_is_fairseqs_label_smoothed_one(models: dict[str, Path]) -> None:
    from fairseq.criterions.label_smoothed_cross_entropy import (
        label_smoothed_nll_loss,
    )

    model, sample = build(models["bart"]), Sequences(models, pads=2).sample
    made = seq2seq("plain", smoothing=0.1)
    found = tiny.loss_of(made, model, sample)
    logits = made.kinds[None].logits(model, sample)
    loss, nll = label_smoothed_nll_loss(
        logits.log_softmax(-1).flatten(0, 1), sample["target"].view(-1, 1), 0.1, 1
    )
    assert found["total"] == pytest.approx(float(loss), rel=1e-5)
    assert found["nll_loss"] * made.kinds[None].unit == pytest.approx(
        float(nll), rel=1e-5
    )


def test_fairseqs_reduction_is_the_padded_length_times_more(
    models: dict[str, Path],
) -> None:
    """Its lambda counts sum / B * N: at equal lengths exactly T_max times."""
    model, sample = build(models["bart"]), Sequences(models).sample
    sample["target"] = sample["target"].masked_fill(sample["target"] == 1, 7)
    sample["ntokens"] = sample["target"].numel()
    ours = tiny.loss_of(seq2seq("r3f", eps=0.1), model, sample)["r3f_divergence"]
    made = seq2seq("r3f", eps=0.1)
    made.cfg.r3f_reduction = "fairseq"
    theirs = tiny.loss_of(made, model, sample)["r3f_divergence"]
    assert theirs == pytest.approx(ours * sample["target"].shape[1], rel=1e-5)


def test_a_seq2seq_task_is_recognised() -> None:
    from fairseq_steady.criterions.kinds import Tokens, kind_of

    dictionary = SimpleNamespace(pad=lambda: 1)
    task = SimpleNamespace(target_dictionary=dictionary, cfg=SimpleNamespace())
    cfg = SimpleNamespace(label_smoothing=0.1, sentence_avg=False)
    assert isinstance(kind_of(task, cfg), Tokens)
