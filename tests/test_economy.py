"""Regularisers of some updates, sentences or sides, and with kept perturbations."""

import dataclasses
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from fairseq_steady.errors import UserError
from fairseq_steady.regularizers import R3F, Ascent, derived, noise_keys, shares
from fairseq_steady.regularizers.cached import (
    Halves,
    PerturbationCache,
    Signs,
    packed_for,
)
from method_table import METHODS
from tiny import (
    FAMILIES,
    batch,
    build,
    in_turn,
    make_criterion,
    make_dataset,
    sym,
)
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

PENALTIES = [name for name, row in METHODS.items() if row.divergence]
CACHED = ["sift", "smart"]
SEED = 11
MODES = ["independent", "shared", "off"]


def tiny_one(models: dict[str, Path], dropout: float = 0.0) -> tuple[Any, Any]:
    """RoBERTa and a batch."""
    path = models["roberta"]
    return build(path, dropout), batch(make_dataset(path))


def ready(method: str, model: Any, **flags: Any) -> Any:
    made = make_criterion(method, **METHODS[method].live | flags)
    made.check_model(model)
    made.prepare_model(model)
    return made


def outcome(made: Any, model: Any, sample: dict[str, Any], seed: int = SEED) -> Any:
    torch.manual_seed(seed)
    return made.train_outcome(model, sample, made.kinds[None])


def gradients(loss: Tensor, model: Any) -> list[Tensor]:
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return [torch.zeros_like(p) if g is None else g for g, p in pairs]


def assert_equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def drawn(sample: dict[str, Any], fraction: float, seed: int = SEED) -> list[int]:
    """Rows that are chosen, from the sentences' own numbers."""
    found = shares(derived(noise_keys(sample["id"], seed), 1)).tolist()
    return [row for row, share in enumerate(found) if share < fraction]


def each(made: Any, model: Any, sample: dict[str, Any], seed: int = SEED) -> Tensor:
    """The divergence of each sentence when all of them are regularised."""
    torch.manual_seed(seed)
    _, seen = made.clean(model, sample, made.kinds[None])
    value: Tensor = made.regularizer(model)(seen.view).value
    return value


# --- every k --------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*PENALTIES, "r_drop"])
def test_other_updates_are_bitwise_plain_and_these_are_k_times_as_strong(
    models: dict[str, Path], method: str
) -> None:
    model, sample = (
        build(models["roberta"], 0.1),
        batch(make_dataset(models["roberta"])),
    )
    always, now_and_then = ready(method, model), ready(method, model, every=3)
    plain = make_criterion("plain").plain_outcome
    for update in range(7):
        now_and_then.before_update(model, update)
        found = outcome(now_and_then, model, sample)
        assert found.logged["passes"] >= len(sample["id"])
        if update % 3:
            torch.manual_seed(SEED)
            bare = plain(model, sample, always.kinds[None])
            assert_equal(gradients(found.loss, model), gradients(bare.loss, model))
            assert found.logged == {"regularised": 0, "passes": 5}
            continue
        full = outcome(always, model, sample)
        added, known = found.loss - found.task_loss, full.loss - full.task_loss
        torch.testing.assert_close(added, 3 * known, rtol=1e-5, atol=1e-7)
        assert torch.equal(found.logged["divergence"], full.logged["divergence"])


# --- a fraction of the sentences ------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "family", "mode"),
    [
        (method, family, MODES[(i + j) % 3])
        for i, method in enumerate(PENALTIES)
        for j, family in enumerate(FAMILIES)
    ],
)
def test_the_chosen_ones_have_their_own_term_over_the_fraction(
    models: dict[str, Path], method: str, family: str, mode: str
) -> None:
    """So that its expected value is the full term, each being drawn that often.

    Each mode with every method and every family, in turn.
    """
    model, sample = build(models[family]), batch(make_dataset(models[family]))
    sizes = set()
    for seed in (0, 3, 7, 12):
        # Without dropout a sentence's term does not depend on the others.
        terms = each(ready(method, model, dropout=mode), model, sample, seed)
        made = ready(method, model, dropout=mode, fraction=0.4)
        rows = drawn(sample, 0.4, seed)
        sizes.add(len(rows))
        found = outcome(made, model, sample, seed)
        expected = made.terms.strength * terms[rows].sum() / 0.4
        added = found.loss - found.task_loss
        torch.testing.assert_close(added, expected, rtol=2e-4, atol=1e-6)
        assert found.logged["regularised"] == len(rows)
        unit = made.kinds[None].unit
        if rows:
            wanted = float(terms[rows].sum().detach()) / 0.4 / unit
            assert float(found.logged["divergence"]) == pytest.approx(wanted, rel=1e-3)
    assert sizes == {1, 2, 3, 4}


def test_each_sentence_is_drawn_as_often_as_the_fraction_says() -> None:
    ids = torch.arange(50)
    many = torch.stack(
        [shares(derived(noise_keys(ids, seed), 1)) < 0.25 for seed in range(2000)]
    ).double()
    spread = math.sqrt(0.25 * 0.75 / 2000)
    assert float((many.mean(0) - 0.25).abs().max()) < 4 * spread
    # No sentence's turn says anything about another's, or about its next.
    related = torch.corrcoef(many.T) - torch.eye(50)
    assert float(related.abs().max()) < 0.12
    assert (
        abs(float(torch.corrcoef(torch.stack([many[1:, 0], many[:-1, 0]]))[0, 1])) < 0.1
    )


@pytest.mark.parametrize("method", [*PENALTIES, "r_drop"])
def test_a_batch_with_none_is_bitwise_plain_and_logs_the_same_names(
    models: dict[str, Path], method: str
) -> None:
    model, sample = (
        build(models["roberta"], 0.1),
        batch(make_dataset(models["roberta"])),
    )
    made = ready(method, model, fraction=0.1)
    none = next(seed for seed in range(99) if not drawn(sample, 0.1, seed))
    some = next(seed for seed in range(99) if drawn(sample, 0.1, seed))
    found = outcome(made, model, sample, none)
    torch.manual_seed(none)
    bare = make_criterion("plain").plain_outcome(model, sample, made.kinds[None])
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-7} if method == "r_drop" else {"rtol": 0, "atol": 0}
    )
    for one, other in zip(
        gradients(found.loss, model), gradients(bare.loss, model), strict=True
    ):
        torch.testing.assert_close(one, other, **tolerance)
    # Workers add up what they log, name by name.
    made._updates = 1  # past the first measurement of dropout
    other = outcome(made, model, sample, some)
    assert other.logged.keys() == outcome(made, model, sample, none).logged.keys()


@pytest.mark.parametrize(("method", "family"), in_turn(PENALTIES))
def test_order_padding_and_accumulation_choose_the_same(
    models: dict[str, Path], method: str, family: str
) -> None:
    model, data = build(models[family]), make_dataset(models[family])
    made = ready(method, model, fraction=0.5)
    whole = tiny.loss_of(made, model, batch(data))
    turned = tiny.loss_of(made, model, batch(data, 3, 0, 4, 2, 1))
    alone = [tiny.loss_of(made, model, batch(data, i)) for i in range(5)]
    assert 0 < whole[f"{method}_regularised"] < 5
    names = ["total", *(f"{method}_{n}" for n in ("rms", "divergence", "passes"))]
    near = 1e-4 if family == "modernbert" else 2e-5  # whose products are steep
    for name in names:
        assert turned[name] == pytest.approx(whole[name], rel=near)
        assert sum(one[name] for one in alone) == pytest.approx(whole[name], rel=near)


def test_r_drops_chosen_ones_have_the_mean_of_two_passes(
    models: dict[str, Path],
) -> None:
    model, sample = (
        build(models["roberta"], 0.3),
        batch(make_dataset(models["roberta"])),
    )
    made = ready("r_drop", model, fraction=0.5, **{"lambda": 2.0})
    rows = drawn(sample, 0.5)
    assert 0 < len(rows) < 5
    logits: list[Tensor] = []
    kind = made.kinds[None]
    plain_logits = kind.logits
    kind.logits = lambda *a: logits.append(plain_logits(*a)) or logits[-1]
    found = outcome(made, model, sample)
    one, other = logits[0][:5], logits[0][5:]
    losses = F.cross_entropy(one, sample["target"], reduction="none")
    seconds = F.cross_entropy(other, sample["target"][rows], reduction="none")
    task = losses.sum() + (seconds - losses[rows]).sum() / 2
    torch.testing.assert_close(found.task_loss, task)
    term = 2.0 / 0.5 * sym(other.double(), one[rows].double()).sum().float()
    torch.testing.assert_close(found.loss, task + term)
    assert found.logged["passes"] == 5 + len(rows)


# --- one side -------------------------------------------------------------------------


def test_a_stopped_side_gets_no_gradient_and_the_sides_add_up(
    models: dict[str, Path],
) -> None:
    model, sample = tiny_one(models)
    found = {
        side: outcome(ready("r3f", model, stop_gradient=side), model, sample)
        for side in ("none", "clean", "perturbed")
    }
    values = [float(o.loss.detach()) for o in found.values()]
    assert values[0] == values[1] == values[2]
    parts = {side: gradients(o.loss - o.task_loss, model) for side, o in found.items()}
    for both, clean, perturbed in zip(*parts.values(), strict=True):
        torch.testing.assert_close(both, clean + perturbed, rtol=1e-3, atol=1e-5)
    sizes = [sum(float(g.square().sum()) for g in p) for p in parts.values()]
    assert min(sizes) > 0
    # The word embeddings are detached in the noised pass, and live in the clean one.
    name = [n for n, _ in model.named_parameters()].index(
        "encoder.sentence_encoder.embed_tokens.weight"
    )
    assert not parts["clean"][name].any()
    assert parts["perturbed"][name].any()


def test_a_stopped_side_that_nothing_would_train_is_refused() -> None:
    for method in ("r3f", "r4f", "smart"):
        with pytest.raises(UserError, match=f"--{method}-live-embeddings"):
            make_criterion(method, live_embeddings=True, stop_gradient="perturbed")


def test_without_dropout_the_perturbed_side_has_the_gradient(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Averaged over noise and its opposite, as the README says of a radius of 0.03."""
    model, sample = tiny_one(models)
    module = sys.modules[R3F.__module__]
    plain_draw, total = module.draw, dict.fromkeys(("none", "clean", "perturbed"), 0.0)
    for seed in range(40):
        for sign in (1, -1):
            monkeypatch.setattr(module, "draw", lambda *a, s=sign: s * plain_draw(*a))
            for side in total:
                made = ready("r3f", model, eps=0.03, stop_gradient=side, dropout="off")
                found = outcome(made, model, sample, seed)
                added = gradients(found.loss - found.task_loss, model)
                total[side] = total[side] + torch.cat([g.flatten() for g in added])
    both, clean, perturbed = (torch.as_tensor(one).double() for one in total.values())
    shares_of = [float(one @ both / both.square().sum()) for one in (clean, perturbed)]
    assert shares_of == pytest.approx([1, 0], abs=0.15)


def test_a_side_without_the_gradient_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for dropout, warned in (("independent", False), ("shared", True), ("off", True)):
        caplog.clear()
        make_criterion("r3f", stop_gradient="perturbed", dropout=dropout)
        said = f"--r3f-stop-gradient perturbed .* --r3f-dropout is {dropout}"
        assert bool(re.search(said, caplog.text)) == warned
        make_criterion("r3f", stop_gradient="clean", dropout=dropout)


def test_a_copied_teacher_that_is_always_the_student_is_refused() -> None:
    vanilla = {"bregman": "vanilla", "every": 4}
    with pytest.raises(UserError, match=r"--smart-every 4 .* --smart-refresh 2"):
        make_criterion("smart", **vanilla, refresh=2)
    for flags in ({"refresh": 3}, {"refresh": 8}, {"bregman": "momentum"}):
        make_criterion("smart", **vanilla | flags)


def test_fairseqs_own_targets_of_one_column_are_no_sequences(
    models: dict[str, Path],
) -> None:
    """With --add-prev-output-tokens; and what is no tensor goes along."""
    model, data = build(models["bart"]), make_dataset(models["bart"])
    sample = batch(data)
    made = ready("smart", model, fraction=0.5)
    expected = outcome(made, model, sample).loss
    column = {**sample, "target": sample["target"][:, None]}
    assert torch.equal(outcome(made, model, column).loss, expected)
    passes = made.clean(model, sample, made.kinds[None])[1].passes
    inputs = {**sample["net_input"], "flag": True}
    more = dataclasses.replace(passes, sample={**sample, "net_input": inputs})
    part, columns, _ = more.some(torch.tensor([0, 4]))
    assert part.sample["net_input"]["flag"] is True
    longest = max(tiny.LENGTHS[0], tiny.LENGTHS[4])
    assert part.sample["net_input"]["src_tokens"].shape == (2, longest)
    assert columns.tolist() == [place < longest for place in range(max(tiny.LENGTHS))]


def test_fairseqs_reduction_of_some_sentences_is_refused() -> None:
    with pytest.raises(UserError, match="--r3f-reduction fairseq .* --r3f-fraction"):
        make_criterion("r3f", reduction="fairseq", fraction=0.5)


# --- what is kept ---------------------------------------------------------------------


def test_packed_forms_give_back_what_they_promise() -> None:
    rng = np.random.default_rng(0)
    delta = rng.normal(size=77).astype(np.float32) * 1e-5
    signs = Signs(2e-5)
    assert len(signs.pack(delta)) == signs.size(77) == 10
    back = signs.unpack(signs.pack(delta), 77)
    np.testing.assert_array_equal(back, np.where(delta >= 0, 2e-5, -2e-5).astype("f4"))
    halves = Halves()
    assert len(halves.pack(delta)) == halves.size(77) == 158
    for scale in (1e-12, 1.0, 1e12):
        back = halves.unpack(halves.pack(delta * scale), 77)
        largest = np.abs(delta * scale).max()
        assert np.abs(back - delta * scale).max() <= largest * 2**-12
    assert not halves.unpack(halves.pack(np.zeros(5, "f4")), 5).any()


def test_signs_are_kept_only_where_the_ball_is_a_clamped_box() -> None:
    assert packed_for(Ascent(1, 1e-3, 1e-5)) == Signs(1e-5)
    assert packed_for(Ascent(1, 1e-3, None)) == Halves()
    assert packed_for(Ascent(1, 1e-3, 1e-5, norm="l2")) == Halves()
    assert packed_for(Ascent(1, 1e-3, 1.0, projection="normalize")) == Halves()


def perturbations(monkeypatch: pytest.MonkeyPatch, made: Any) -> list[Tensor]:
    """Every value that passes take in place of the embeddings, from now on."""
    from fairseq_steady.criterions.passes import Passes

    seen: list[Tensor] = []
    forward = Passes.forward

    def watched(self: Any, value: Tensor) -> Tensor:
        seen.append(value.detach().clone())
        return forward(self, value)

    monkeypatch.setattr(Passes, "forward", watched)
    return seen


@pytest.mark.parametrize("method", CACHED)
def test_a_perturbation_is_found_once_and_used_as_often_as_asked(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    model, sample = tiny_one(models)
    made, seen = ready(method, model, cache=2), perturbations(monkeypatch, None)
    passes, last, losses = [], [], []
    for update in range(7):
        seen.clear()
        made.before_update(model, update)
        found = outcome(made, model, sample, seed=update)
        losses.append(float(found.loss - found.task_loss))
        made.after_update(model, update + 1)
        passes.append(len(seen))
        last.append(seen[-1])
        expected = 8 / 3 if update % 3 == 0 else 2
        assert found.logged["passes"] / 5 == pytest.approx(expected)
    assert passes == [
        2,
        1,
        1,
        2,
        1,
        1,
        2,
    ]  # an ascent's pass and the last, or that alone
    assert torch.equal(last[1], last[2])
    assert torch.equal(last[4], last[5])
    assert not torch.equal(last[1], last[4])
    assert min(losses) > 0  # it reaches the logits
    mask = sample["net_input"]["src_tokens"].ne(1)
    if method == "smart":
        words = model.encoder.sentence_encoder.embed_tokens
        moved = last[1] - words(sample["net_input"]["src_tokens"]).detach()
        torch.testing.assert_close(
            moved[mask].abs(), torch.full_like(moved[mask], 0.1), rtol=1e-5, atol=1e-6
        )
        exact = last[0] - words(sample["net_input"]["src_tokens"]).detach()
        assert torch.equal(exact[mask] >= 0, moved[mask] >= 0)
    else:
        torch.testing.assert_close(last[0], last[1], rtol=0, atol=0.3 * 2**-12)
    assert not torch.equal(last[0], last[1])


def test_a_batch_that_is_partly_known_seeks_the_rest_alone(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = build(models["roberta"]), make_dataset(models["roberta"])
    for mode in ("independent", "shared", "off"):
        made = ready("smart", model, cache=3, dropout=mode)
        alone = outcome(made, model, batch(data, 0, 2))
        assert alone.logged["passes"] >= 2 * 8 / 3
        made.after_update(model, 1)
        with monkeypatch.context() as patched:
            seen = perturbations(patched, made)
            mixed = outcome(made, model, batch(data))
        assert [len(value) for value in seen] == [3, 5]
        made.after_update(model, 2)
        whole = ready("smart", model, cache=3, dropout=mode)
        outcome(whole, model, batch(data))
        whole.after_update(model, 1)
        # Found together or apart, a sentence's perturbation is the same.
        assert made._caches[""].stored == whole._caches[""].stored
        assert made._caches[""].used == {0: 1, 1: 0, 2: 1, 3: 0, 4: 0}
        again = {"independent": 0, "shared": 3 / 3, "off": 5}[mode]
        cost = 5 + 5 + 3 * 2 / 3 + again
        assert mixed.logged["passes"] == pytest.approx(cost)


def test_an_old_one_is_sought_from_noise_or_from_where_it_was(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sample = tiny_one(models)
    words = model.encoder.sentence_encoder.embed_tokens(
        sample["net_input"]["src_tokens"]
    ).detach()
    for refresh in (False, True):
        made = ready("smart", model, cache=1, cache_refresh=refresh, init=1e-3)
        for update in range(2):
            outcome(made, model, sample, seed=update)
            made.after_update(model, update + 1)
        with monkeypatch.context() as patched:
            seen = perturbations(patched, made)
            outcome(made, model, sample, seed=2)
        begun = (seen[0] - words)[sample["net_input"]["src_tokens"].ne(1)]
        assert bool(begun.abs().min() > 0.09) == refresh


def test_what_is_found_counts_after_the_update_and_not_from_a_dummy(
    models: dict[str, Path],
) -> None:
    model, sample = tiny_one(models)
    made = ready("sift", model, cache=1)
    outcome(made, model, {**sample, "dummy": True})
    made.after_update(model, 1)
    assert not made._caches[""].stored
    outcome(made, model, sample)
    assert not made._caches[""].stored
    made.after_update(model, 2)
    assert made._caches[""].used == dict.fromkeys(range(5), 0)
    outcome(made, model, {**sample, "dummy": True})
    made.after_update(model, 3)
    assert made._caches[""].used == dict.fromkeys(range(5), 0)
    # An update that overflows is made again.
    for _ in range(2):
        made.before_update(model, 3)
        outcome(made, model, sample)
    made.after_update(model, 4)
    assert made._caches[""].used == dict.fromkeys(range(5), 1)
    made.before_update(model, 4)
    assert made._caches[""].used == dict.fromkeys(range(5), 1)


def test_a_cache_goes_into_the_checkpoint_and_comes_back_as_it_was(
    models: dict[str, Path],
) -> None:
    model, data = build(models["roberta"]), make_dataset(models["roberta"])
    made, again = (ready("smart", model, cache=4) for _ in range(2))
    for update, rows in enumerate(((3, 1), (0, 1), (4, 3))):
        outcome(made, model, batch(data, *rows))
        made.after_update(model, update + 1)
    kept = made.kept_state()
    assert kept["perturbations"][""]["ids"].tolist() == [0, 1, 3, 4]
    again.restore_kept(kept)
    for name in ("stored", "used"):
        mine = getattr(made._caches[""], name)
        assert mine == getattr(again._caches[""], name) != {}
    losses = [
        float(outcome(m, model, batch(data)).loss.detach()) for m in (made, again)
    ]
    assert losses[0] == losses[1]
    ready("smart", model).restore_kept(kept)  # without a cache it is left behind
    assert not ready("smart", model, cache=1)._caches[""].state_dict()["ids"].numel()


@pytest.mark.parametrize(
    "harm",
    [
        {"sizes": torch.tensor([10**6])},
        {"sizes": torch.tensor([-1])},
        {"used": torch.tensor([0, 1])},
    ],
)
def test_a_damaged_cache_is_refused(harm: dict[str, Tensor]) -> None:
    cache = PerturbationCache(1, Signs(1.0))
    cache.keep([5], torch.ones(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    cache.exchange()
    with pytest.raises(UserError, match="perturbations are damaged"):
        PerturbationCache(1, Signs(1.0)).load_state_dict(cache.state_dict() | harm)


class Sized:
    """A data set of nothing but lengths."""

    def __init__(self, sizes: Any) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)


def test_memory_is_said_at_the_start_and_bounded(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model, data = build(models["bart"]), make_dataset(models["bart"])
    caplog.set_level("INFO")
    for side, columns in (("encoder", [0]), ("decoder", [1]), ("both", [0, 1])):
        made = ready("smart", model, cache=8, side=side)
        sizes = np.stack([data.sizes, 2 * data.sizes], 1)
        long = Sized(sizes.repeat(40_000, 0))
        made.task.datasets = {"train": long}
        made.before_update(model, 0)
        bits = -(-sizes[:, columns].sum(1) * 16 // 8).sum() * 40_000
        size = (bits + 200_000 * 250) / 1e9
        said = f"smart keeps the perturbations of 200,000 sentences: {size:.3g} GB"
        assert said in caplog.text
    made = ready("sift", model, cache=8, cache_gb=0.01)
    made.task.datasets = {"train": long}
    with pytest.raises(UserError, match=r"GB .*--sift-cache-gb 0\.01: raise it to"):
        made.before_update(model, 0)


# --- cost -----------------------------------------------------------------------------

#: Flags, and what a batch costs in plain updates by the table of methods.
COSTS: list[tuple[str, dict[str, Any], float]] = [
    *(
        (name, {}, (f + 2 * b + s) / 3)
        for name, (f, b, s) in (
            (name, METHODS[name].passes) for name in (*PENALTIES, "r_drop")
        )
    ),
    ("r3f", {"stop_gradient": "perturbed"}, 4 / 3),
    ("r3f", {"stop_gradient": "clean"}, 2),
    ("smart", {"stop_gradient": "perturbed"}, 2),
    ("sift", {"dropout": "off"}, 11 / 3),
    ("sift", {"dropout": "off", "stop_gradient": "clean"}, 3),
    ("smart", {"fraction": 0.5}, 1 + 0.5 * 5 / 3),
    ("smart", {"fraction": 0.5, "dropout": "shared"}, 1 + 0.5 * 8 / 3),
    ("r3f", {"fraction": 0.5}, 1.5),
    ("r_drop", {"fraction": 0.5}, 1.5),
    ("smart", {"steps": 3}, 4),
]


@pytest.mark.parametrize(("method", "flags", "expected"), COSTS)
def test_operations_are_those_of_the_passes(
    models: dict[str, Path], method: str, flags: dict[str, Any], expected: float
) -> None:
    """Counted by torch; half of the sentences are half of the tokens here."""
    data = make_dataset(models["roberta"])
    rows = [{**data[1], "id": i, "target": i % tiny.CLASSES} for i in range(40)]
    sample = data.collater(rows)
    fraction = flags.get("fraction", 1)
    seeds = range(2000)
    seed = next(s for s in seeds if len(drawn(sample, fraction, s)) == 40 * fraction)

    def operations(name: str, **given: Any) -> tuple[int, float]:
        model = build(models["roberta"])
        made = ready(name, model, **given)
        made._updates = 1  # past the first measurement of dropout
        with FlopCounterMode(display=False) as counted:
            torch.manual_seed(seed)
            loss, _, log = made(model, sample)
            loss.backward()
        return counted.get_total_flops(), float(log.get(f"{name}_passes", 40)) / 40

    plain, _ = operations("plain")
    found, said = operations(method, **flags)
    assert said == pytest.approx(expected)
    assert found / plain == pytest.approx(expected, rel=0.03)
