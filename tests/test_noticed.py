"""What once could be broken without a test to notice; see tests/mutants.py.

Each test holds one line's value, in memory, against arithmetic of its own.
"""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.data import LanguagePairDataset
from fairseq.data.data_utils import numpy_seed
from fairseq.logging import metrics
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, OPTIMIZER_REGISTRY
from fairseq.tasks import FairseqTask
from fairseq_steady import files
from fairseq_steady.criterions.kinds import Classes, Scores, kind_of
from fairseq_steady.criterions.plain import gradient_scale
from fairseq_steady.data import Encoded, Ragged
from fairseq_steady.data.batching import in_batches, padded
from fairseq_steady.data.forms import ONE_ROW
from fairseq_steady.data.glue import LAYOUTS, SUBMISSIONS
from fairseq_steady.data.pair_dataset import PairDataset
from fairseq_steady.errors import UserError
from fairseq_steady.files import write_json
from fairseq_steady.huggingface.generation import (
    generation_config,
    read_search,
    search_of,
)
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.inference.searching import BeamSearch, Decoding, select
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.starting import noisy_tune, reinitialise
from fairseq_steady.models.steady import HEAD
from fairseq_steady.optim import PatsAdamax, Sage, Tag, blocks, tag_parameters
from fairseq_steady.optimizers.groups import parameter_groups
from fairseq_steady.patches import durable
from fairseq_steady.regularizers import (
    R3F,
    SMART,
    Ascent,
    FreeLB,
    Schedule,
    SiFT,
    Teacher,
    View,
    ascend,
    bound_linear,
    capture,
    chunked,
    dropout_passes,
    find_encoder,
    masked_rms,
    noise_keys,
    rounded_away,
    sentence_start,
    spectral_bound,
    squared_difference,
    symmetric_kl,
    unwrap,
)
from fairseq_steady.regularizers.ascent import length
from fairseq_steady.scores.rouge import NAMES
from fairseq_steady.scores.summaries import SAID, measured_sums, said
from fairseq_steady.tasks._recipe import Recipe
from fairseq_steady.tasks._record import Recorder, predictions
from fairseq_steady.tasks._sentence import SentenceTaskConfig
from fairseq_steady.tasks._steady import SteadyTask
from fairseq_steady.tasks.cola import ColaTask
from fairseq_steady.tasks.summarization import SummarizationTask
from omegaconf import OmegaConf
from tiny import CLASSES, FAMILIES, Reference, batch, build, make_criterion, sym
from torch import Tensor, nn
from torch.nn import functional as F

# --- noise ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sift", "smart", "r3f", "hype", "freelb"])
def test_each_update_has_noise_of_its_own(models: dict[str, Path], method: str) -> None:
    """fairseq's trainer sets torch's seed to --seed + update."""
    model = build(models["roberta"])
    sample = batch(tiny.make_dataset(models["roberta"]))
    flags = {"sift": {"init": 0.1}, "smart": {"eps": 0.1, "init": 0.1}}
    made = make_criterion(method, **flags.get(method, {"eps": 0.1}))
    found = []
    for update in (1, 2, 1):
        torch.manual_seed(update)
        found.append(float(made(model, sample)[0].detach()))
    assert found[0] == found[2] != found[1]


def test_freelbs_start_has_a_size_free_of_length_and_channels() -> None:
    mask = torch.zeros(3, 400, dtype=torch.bool)
    for row, tokens in enumerate((400, 100, 25)):
        mask[row, :tokens] = True
    deviations = {"normal": 1, "uniform": 1 / math.sqrt(3), "clipped_normal": 0.9594}
    for noise, deviation in deviations.items():
        start = sentence_start(noise, 0.4, noise_keys([1, 2, 3]), mask, 32)
        sizes = start.flatten(1).norm(dim=1)
        torch.testing.assert_close(
            sizes, torch.full((3,), 0.4 * deviation), rtol=0.03, atol=0
        )
        assert start[~mask].abs().max() == 0
        rms = masked_rms(start, mask)
        expected = 0.4 * deviation / (mask.sum(1) * 32).sqrt()
        torch.testing.assert_close(rms, expected, rtol=0.03, atol=0)


def test_freelb_leaves_padding_alone(models: dict[str, Path]) -> None:
    model = build(models["roberta"])
    sample = batch(tiny.make_dataset(models["roberta"]))
    mask = sample["net_input"]["src_tokens"].ne(1)
    made = make_criterion("freelb")
    unit = mask.unsqueeze(-1).float()
    losses = made._losses(model, sample, made.kinds[None], unit, [])
    seen = []
    for delta in (torch.zeros(*mask.shape, 16), torch.ones(*mask.shape, 16)):
        with capture(find_encoder(model), "norm") as values:
            losses(delta, 0)
        seen.append(values[0].detach())
    moved = seen[1] - seen[0]
    torch.testing.assert_close(moved[mask], torch.ones_like(moved[mask]))
    assert moved[~mask].abs().max() == 0


def test_sizes_of_a_perturbation_by_hand() -> None:
    mask = torch.tensor([[True, True, False]])
    delta = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
    assert float(masked_rms(delta, mask)) == pytest.approx(math.sqrt(25 / 4))
    # Of six entries four are real; one of these moves at this precision.
    embedded = torch.ones(1, 3, 2, dtype=torch.bfloat16)
    small = torch.tensor([[[0.5, 1e-4], [1e-4, 1e-4], [0.0, 0.0]]])
    lost = rounded_away(embedded, small, mask)
    assert float(lost) == pytest.approx(3 / 4)
    assert rounded_away(embedded.float(), small, mask) is None


# --- the ascent -----------------------------------------------------------------------


def test_a_length_is_of_a_token_or_a_sentence() -> None:
    x = torch.tensor([[[3.0, -4.0], [0.0, 12.0]]])

    def size(**how: Any) -> list[float]:
        return length(x, Ascent(1, 1.0, **how)).flatten().tolist()

    assert size(norm="l2") == [5, 12]
    assert size(norm="l2", level="sentence") == [13]
    assert size(norm="linf") == [4, 12]
    assert size(norm="linf", level="sentence") == [12]


def test_a_gradient_that_fp16_cannot_hold_is_scaled_and_scaled_back() -> None:
    def objective(d: Tensor) -> Tensor:
        return ((d.half() * 1e-4) * 1e-4).sum().float()

    start = torch.ones(1, 2, 2)
    still, _ = ascend(objective, start, Ascent(1, 0.5))
    assert torch.equal(still, start)
    moved, refused = ascend(objective, start, Ascent(1, 0.5, gradient_scale=2.0**12))
    torch.testing.assert_close(moved, start + 0.5)
    assert refused == 0


def test_the_scale_of_the_inner_gradient_follows_the_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    linear = nn.Linear(2, 2)
    assert gradient_scale(linear) == 1
    assert gradient_scale(nn.Linear(2, 2).bfloat16()) == 1
    assert gradient_scale(nn.Linear(2, 2).half()) == 4096
    # Under --amp the weights stay fp32; that takes a GPU.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: True)
    for dtype, expected in ((torch.bfloat16, 1), (torch.float16, 4096)):
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda _, d=dtype: d)
        assert gradient_scale(linear) == expected


def test_only_real_tokens_are_perturbed_and_each_sentence_climbs() -> None:
    """A scorer that reads padding: eps^2 * ||w||_1^2 * n^2 for n real tokens."""
    w, eps = torch.tensor([0.5, -2.0, 1.0]), 1e-2
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])

    def forward(x: Tensor) -> Tensor:
        return (x * w).sum((1, 2)).unsqueeze(-1)

    x = torch.randn(2, 4, 3)
    keys = noise_keys([1, 2])
    view = View(forward, x, mask, forward(x), keys, squared_difference)
    penalty = SMART(1e-3, Ascent(2, 1.0, eps))(view)
    expected = (torch.tensor([4.0, 2.0]) * eps * w.abs().sum()) ** 2
    torch.testing.assert_close(penalty.value, expected, rtol=1e-3, atol=0)
    assert float(penalty.logged["rms"]) == pytest.approx(2 * eps)
    # What is refused is a share of the steps.
    broken = replace(view, climbed=lambda a, b: (a - b).sum(1).abs().sqrt() * math.inf)
    assert float(SMART(0.0, Ascent(2, 1.0, eps))(broken).logged["refused"]) == 2


def test_freelbs_mean_loss_and_gradient_by_hand() -> None:
    """L(d) = a (1 + sum d) on a radius never reached: each step adds its length."""
    a = nn.Parameter(torch.tensor(2.0, dtype=torch.double))
    start = torch.full((1, 1, 1), 0.5, dtype=torch.double)
    frozen = nn.Parameter(torch.tensor(1.0))
    for scale in (1.0, 64.0):
        how = Ascent(2, 0.25, 10.0, scale, "l2", "sentence")
        mean, last, _ = FreeLB(how)(lambda d, k: a * (1 + d.sum()), start, [a, frozen])
        # Deltas 0.5, 0.75, 1.0: the mean of 1 + delta is 1.75.
        assert float(mean) == pytest.approx(2 * 1.75)
        assert float(last) == 1.0
        (3 * mean).backward()
        assert float(a.grad) == pytest.approx(3 * 1.75)
        a.grad = None
    # The start is in the ball too.
    small = Ascent(0, 0.25, 0.125, 1.0, "l2", "sentence")
    mean, _, _ = FreeLB(small)(lambda d, k: a * (1 + d.sum()), start, [a])
    assert float(mean) == pytest.approx(2 * 1.125)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_freelb_adds_up_gradients_that_parameters_share(steps: int) -> None:
    """As of a sum of parameters, or of 0 times one; and parameters may come once."""
    a, b, unused = (nn.Parameter(torch.tensor([x, 1.0])) for x in (2.0, 3.0, 4.0))
    start = torch.full((1, 2, 1), 0.5)
    how = Ascent(steps, 0.25, 10.0, norm="l2", level="sentence")

    def losses(delta: Any, _: int) -> Any:
        return ((a + b) * delta.view(2)).sum() + 0.0 * unused.sum()

    walked: list[Any] = []

    def watched(delta: Any, k: int) -> Any:
        walked.append(delta.detach().view(2).clone())
        return losses(delta, k)

    mean, _, _ = FreeLB(how)(watched, start, (p for p in (a, b, unused)))
    (0.25 * mean).backward()
    expected = 0.25 * torch.stack(walked).mean(0)
    assert len(walked) == steps + 1
    torch.testing.assert_close(a.grad, expected)
    torch.testing.assert_close(b.grad, expected)
    assert not unused.grad.any()


def test_freelb_adds_up_sparse_gradients() -> None:
    words = nn.Embedding(3, 2, sparse=True)
    start = torch.full((1, 1, 2), 0.5)
    how = Ascent(1, 0.25, 10.0, norm="l2", level="sentence")

    def losses(delta: Any, _: int) -> Any:
        return ((words(torch.tensor([[1]])) + delta) ** 2).sum()

    mean, last, _ = FreeLB(how)(losses, start, words.parameters())
    mean.backward()
    found = words.weight.grad.to_dense()[1]  # type: ignore[union-attr]
    expected = 2 * words.weight[1] + (start + last).view(2)
    torch.testing.assert_close(found, expected.detach())


def test_words_and_numbers_that_choose_nothing_are_refused() -> None:
    """In one's own loop, where no command line has checked them."""
    wrong: list[tuple[str, Any]] = [
        ("norm = Linf", lambda: Ascent(1, 0.1, norm="Linf")),  # type: ignore[arg-type]
        ("level = words", lambda: Ascent(1, 0.1, level="words")),  # type: ignore[arg-type]
        ("projection = no", lambda: Ascent(1, 0.1, projection="no")),  # type: ignore[arg-type]
        ("radius = -1", lambda: Ascent(1, 0.1, -1)),
        ("step_size = -1", lambda: Ascent(1, -1)),
        ("steps = -1", lambda: Ascent(-1, 0.1)),
        ("mode = none", lambda: dropout_passes(nn.Identity(), "none")),  # type: ignore[arg-type]
        ("mode = ema", lambda: Schedule("ema")),  # type: ignore[arg-type]
        ("bound = Exact", lambda: bound_linear(nn.Linear(2, 2), "Exact")),  # type: ignore[arg-type]
    ]
    for value, make in wrong:
        with pytest.raises(UserError, match=f"{value} is out of range"):
            make()


def test_a_mask_of_numbers_is_refused() -> None:
    ones = torch.ones(1, 2)
    with pytest.raises(UserError, match=r"mask of torch.float32: .*\.bool\(\)"):
        View(lambda v: v, ones[..., None], ones, ones, ones[:, 0], symmetric_kl)
    with pytest.raises(UserError, match=r"mask of torch.int64"):
        sentence_start("uniform", 1.0, torch.tensor([3]), ones.long(), 2)


def test_a_chunked_divergence_has_no_second_derivative() -> None:
    """It would be 0 without a word."""
    a = torch.tensor([[[0.3, -0.2]]], requires_grad=True)
    real = torch.ones(1, 1, dtype=torch.bool)
    value = chunked(symmetric_kl, a, a.detach() + 0.1 * a.detach(), real).sum()
    with pytest.raises(UserError, match="no second derivative"):
        torch.autograd.grad(value, a, create_graph=True)


def test_what_a_method_logs_is_named(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may have no sentence to log of."""
    monkeypatch.setattr(R3F, "logs", ())
    model = build(models["roberta"])
    sample = batch(tiny.make_dataset(models["roberta"]))
    said = r"R3F logs \['rms'\] and names \[\] as its `logs`"
    with pytest.raises(UserError, match=said):
        make_criterion("r3f")(model, sample)


def test_freelb_trains_with_frozen_embeddings(models: dict[str, Path]) -> None:
    model = build(models["roberta"])
    find_encoder(model).embed_tokens.weight.requires_grad_(False)
    sample = batch(tiny.make_dataset(models["roberta"]))
    make_criterion("freelb")(model, sample)[0].backward()
    assert model.classification_heads[HEAD].dense.weight.grad.abs().max() > 0


def test_hype_takes_its_hooks_and_its_quiet_back(models: dict[str, Path]) -> None:
    """Without noise to speak of, dropout off: the loss of evaluation."""
    model = build(models["roberta"], dropout=0.4)
    sample = batch(tiny.make_dataset(models["roberta"]))
    plain = tiny.loss_of(make_criterion("plain"), model.eval(), sample)["total"]
    model.train()
    made = make_criterion("hype", eps=1e-12)
    assert tiny.loss_of(made, model, sample)["total"] == pytest.approx(plain, rel=1e-5)
    noisy = make_criterion("hype", eps=1e-12, dropout="independent")
    found = tiny.loss_of(noisy, model, sample)["total"]
    assert found != pytest.approx(plain, rel=1e-3)
    assert all(module.training for module in model.modules())
    layers = find_encoder(model).layers
    assert not any(layer._forward_pre_hooks for layer in layers)


# --- flags arrive ---------------------------------------------------------------------


def test_flags_reach_the_regulariser() -> None:
    model = nn.Linear(2, 2).half()
    flags = {"init": 0.1, "step": 0.2, "steps": 3, "eps": 0.4}
    sift = make_criterion("sift", **flags).regularizer(model)
    assert sift == SiFT(0.1, Ascent(3, 0.2, 0.4, 4096.0))
    smart = make_criterion("smart", **flags, norm="l2", live_embeddings=True)
    ascent = Ascent(3, 0.2, 0.4, 4096.0, "l2")
    assert smart.regularizer(model) == SMART(0.1, ascent, True)
    defaults = {"clamp": (0.1, 0.2, 0.2, True), "normalize": (1e-5, 1e-3, 1.0, False)}
    for projection, (init, step, radius, relative) in defaults.items():
        made = make_criterion("smart", projection=projection).regularizer(model)
        ascent = Ascent(1, step, radius, 4096.0, projection=projection)  # type: ignore[arg-type]
        assert made == SMART(init, ascent, False, relative)
    made = make_criterion("smart", eps=0.3).regularizer(model)
    assert made == SMART(0.15, Ascent(1, 0.3, 0.3, 4096.0), False, False)
    r3f = make_criterion("r3f", noise="normal", eps=0.3, live_embeddings=True)
    assert r3f.regularizer(model) == R3F("normal", 0.3, True)
    freelb = make_criterion("freelb", step=0.2, steps=5, eps=0.4, norm="linf")
    ascent = Ascent(5, 0.2, 0.4, 512.0, "linf", "sentence")
    assert freelb._scaled(model, 0) == FreeLB(ascent)
    freelb = make_criterion("freelb", eps_relative=0.75)
    ascent = Ascent(3, 0.25, 0.75, 512.0, "l2", "sentence")
    assert (freelb._scaled(model, 1), freelb._init) == (FreeLB(ascent), 0.75)
    # Weights get sums over a batch, so of 32 sentences a 32nd is left.
    scales = [freelb._scaled(model, n).ascent.gradient_scale for n in (32, 33, 10**6)]
    assert scales == [16, 8, 1]


def test_a_gpus_peak_is_that_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of the evaluation: fairseq counts anew after each update."""
    peaks = iter([3.0, 8.0, 2.0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(peaks) * 2**20)
    root = OmegaConf.create({"distributed_training": {"distributed_rank": 0}})
    task = SteadyTask.__new__(SteadyTask)
    task.recorder = Recorder(str(tmp_path), root, {}, {})
    for update in (1, 2):
        task.optimizer_step(SimpleNamespace(step=lambda: None), None, update)
    task.recorder.evaluation("valid", {"num_updates": 2}, {})
    record = json.loads((tmp_path / "valid-2.json").read_text())
    assert record["peak_gpu_mb"] == 8


def test_flags_reach_the_teacher() -> None:
    flags = {"beta": 0.9, "early_beta": 0.5, "early": 0.3}
    made = [
        make_criterion("smart", bregman="momentum", start_update=4, **flags),
        make_criterion("smart", bregman="vanilla", refresh=7),
    ]
    assert [one._follow_from(nn.Linear(2, 2)).schedule for one in made] == [
        Schedule("momentum", 0.9, 0.5, 30, 10, 4),
        Schedule("vanilla", 0.999, 0.99, 10, 7, 0),
    ]
    for bregman, flag, value in (
        ("none", "mu", 5.0),
        ("none", "beta", 0.9),
        ("vanilla", "early", 0.3),
        ("momentum", "refresh", 7),
    ):
        with pytest.raises(UserError, match=f"--smart-{flag} {value} is for --smart-b"):
            make_criterion("smart", bregman=bregman, **{flag: value})
    with pytest.raises(UserError, match="--smart-cache-refresh is for kept pert"):
        make_criterion("smart", cache_refresh=True)
    with pytest.raises(UserError, match="--smart-eps-relative 0.3 does not go with"):
        make_criterion("smart", projection="normalize", eps_relative=0.3)
    for bregman, strengths, expected in (
        ("none", (0, 1), False),
        ("vanilla", (0, 1), True),
        ("vanilla", (0, 0), False),
        ("none", (1, 0), True),
    ):
        factors = dict(zip(("lambda", "mu"), strengths, strict=True))
        assert make_criterion("smart", bregman=bregman, **factors).active == expected


@pytest.mark.parametrize("name", ["r3f", "r4f"])
def test_r4f_bounds_every_layer_as_its_flag_says(
    models: dict[str, Path], name: str
) -> None:
    model = build(models["roberta"])
    head = model.classification_heads[HEAD]
    made = make_criterion(name, **({"norm": "exact"} if name == "r4f" else {}))
    made.prepare_model(model)
    bounds = [spectral_bound(linear) for linear in (head.dense, head.out_proj)]
    expected = "exact" if name == "r4f" else None
    assert [bound and bound.bound for bound in bounds] == [expected, expected]


# --- the teacher ----------------------------------------------------------------------


def test_the_early_rate_ends_with_its_last_update() -> None:
    schedule = Schedule("momentum", 0.9, 0.5, early=20, start=4)
    assert [schedule.decay(t) for t in (20, 21)] == [0.5, 18 / 27]
    assert schedule.decay(4) == 0


def test_a_teacher_counts_from_its_start_and_takes_buffers() -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    teacher = Teacher(student, Schedule("momentum", start=3))
    active = [teacher.active]
    for update in range(1, 5):
        student(torch.randn(5, 2) + 3)
        teacher.follow(student, update)
        active.append(teacher.active)
    assert active == [False, False, False, True, True]
    mine, theirs = teacher.model[1], student[1]
    assert int(mine.num_batches_tracked) == 4
    kept = teacher.schedule.decay(4)
    assert 0 < kept < 1
    # At update 3 it was the student: one step of the average lies between.
    before = (theirs.running_mean - mine.running_mean) / kept
    assert float(before.abs().max()) > 1e-3
    again = Teacher(student, teacher.schedule)
    again.load_state_dict(teacher.state_dict())
    assert again.updates == 4
    assert torch.equal(again.model[1].running_mean, mine.running_mean)


def test_before_its_start_update_the_teacher_says_nothing(
    models: dict[str, Path],
) -> None:
    model = build(models["roberta"])
    sample = batch(tiny.make_dataset(models["roberta"]))
    flags = {"lambda": 0.0, "bregman": "momentum", "start_update": 5}
    made = make_criterion("smart", **flags)
    found = tiny.loss_of(made, model, sample)
    terms = {name for name in found if name.startswith("smart_")}
    assert terms == {"smart_regularised", "smart_passes"}
    assert found["smart_passes"] == found["nsentences"]
    made.after_update(model, 4)
    assert "smart_bregman" not in tiny.loss_of(made, model, sample)
    made.after_update(model, 5)
    assert made.kept_state()["teacher"]["updates"] == 5
    assert "smart_bregman" in tiny.loss_of(made, model, sample)


def test_the_bregman_terms_gradient_reaches_the_student(
    models: dict[str, Path],
) -> None:
    model = build(models["roberta"])
    sample = batch(tiny.make_dataset(models["roberta"]))
    made = make_criterion("smart", **{"lambda": 0.0, "bregman": "momentum", "mu": 3.0})
    made(model, sample)
    with torch.no_grad():
        model.classification_heads[HEAD].out_proj.weight[0] += 0.3
    loss = made(model, sample)[0]
    watched = [model.encoder.sentence_encoder.layers[0].fc1.weight]
    watched.append(model.classification_heads[HEAD].out_proj.weight)
    got = [g.double() for g in torch.autograd.grad(loss, watched)]
    target = sample["target"].view(-1)
    teacher = Reference(build(models["roberta"]).double(), sample)
    theirs = teacher.logits(teacher.norm).detach()
    student = Reference(model.double(), sample)
    mine = student.logits(student.norm)
    expected = F.nll_loss(mine.log_softmax(-1), target, reduction="sum")
    expected = expected + 3 * sym(mine, theirs).sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    watched = [model.encoder.sentence_encoder.layers[0].fc1.weight]
    watched.append(model.classification_heads[HEAD].out_proj.weight)
    for one, other in zip(got, torch.autograd.grad(expected, watched), strict=True):
        torch.testing.assert_close(one, other, rtol=5e-3, atol=2e-4)


def test_a_restored_teacher_is_kept_until_a_batch_needs_it(
    models: dict[str, Path],
) -> None:
    model = build(models["roberta"])
    first = make_criterion("smart", bregman="momentum")
    first._follow_from(model)
    with torch.no_grad():
        model.classification_heads[HEAD].dense.weight += 1
    first.after_update(model, 9)
    state = first.kept_state()
    second = make_criterion("smart", bregman="momentum")
    second.restore_kept(state)
    assert second.kept_state() == state
    teacher = second._follow_from(model)
    assert teacher.updates == 9
    wanted = state["teacher"]["model"]
    for name, tensor in teacher.model.state_dict().items():
        assert torch.equal(tensor, wanted[name])


# --- losses ---------------------------------------------------------------------------


def test_r_drop_is_the_mean_loss_of_two_masks_and_their_divergence(
    models: dict[str, Path],
) -> None:
    """The same masks, drawn again from the same seed, on the batch twice."""
    model = build(models["roberta"], dropout=0.3)
    sample = batch(tiny.make_dataset(models["roberta"]))
    made = make_criterion("r_drop", **{"lambda": 2.5})
    weight = model.encoder.sentence_encoder.layers[0].fc1.weight
    found = []
    torch.manual_seed(11)
    loss = made(model, sample)[0]
    found.append((loss, *torch.autograd.grad(loss, [weight])))
    torch.manual_seed(11)
    twice = {k: torch.cat([v, v]) for k, v in sample["net_input"].items()}
    logits = Classes(HEAD, CLASSES).logits(model, {"net_input": twice})
    one, other = logits[:5], logits[5:]
    target = sample["target"]
    loss = sum(F.cross_entropy(x, target, reduction="sum") / 2 for x in (one, other))
    loss = loss + 2.5 * sym(one, other).sum()
    found.append((loss, *torch.autograd.grad(loss, [weight])))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_scores_are_compared_one_to_one(shape: tuple[int, ...]) -> None:
    scores, target = torch.randn(5, 1), torch.randn(shape)
    expected = sum((float(a) - float(b)) ** 2 for a, b in zip(scores, target.flatten()))  # noqa: B905
    assert float(Scores(HEAD, 1).loss(scores, target)) == pytest.approx(expected)
    assert Scores(HEAD, 1).size({"target": target, "ntokens": 99}) == 5


def test_label_smoothing_and_sentence_avg_reach_the_loss() -> None:
    """fairseq's: 1 - e on the right word, e / (V - 1) on each wrong one."""
    task = SimpleNamespace(target_dictionary=SimpleNamespace(pad=lambda: 1))
    cfg = SimpleNamespace(label_smoothing=0.2, sentence_avg=True)
    kind = kind_of(task, cfg)
    logits = torch.randn(2, 3, 7, dtype=torch.double)
    target = torch.tensor([[4, 2, 1], [6, 1, 1]])
    expected, plain = 0.0, 0.0
    for row, column in ((0, 0), (0, 1), (1, 0)):
        logs = logits[row, column].log_softmax(-1)
        right = int(target[row, column])
        for word, value in enumerate(logs.tolist()):
            expected -= (0.8 if word == right else 0.2 / 6) * value
        plain -= float(logs[right])
    assert float(kind.loss(logits, target)) == pytest.approx(expected)
    sample = {"target": target, "ntokens": 3}
    bits = kind.scores(logits, sample, False)["nll_loss"]
    assert float(bits) == pytest.approx(plain / math.log(2))
    assert kind.size(sample) == 2
    cfg.sentence_avg = False
    assert kind_of(task, cfg).size(sample) == 3


def test_what_is_logged_is_what_it_says(models: dict[str, Path]) -> None:
    model = build(models["roberta"])
    sample = batch(tiny.make_dataset(models["roberta"]))
    flags = {"lambda": 3.0, "eps": 0.3, "probe_interval": 3}
    made = make_criterion("r3f", **flags)
    found = tiny.loss_of(made, model, sample)
    plain = tiny.loss_of(make_criterion("plain"), model, sample)
    bit = math.log(2)
    assert found["loss"] == pytest.approx(found["total"] / bit)
    assert found["task_loss"] == pytest.approx(plain["total"] / bit)
    divergence = (found["total"] - plain["total"]) / 3
    assert found["r3f_divergence"] == pytest.approx(divergence / bit, rel=1e-4)
    # Dropout's own share is measured at every third update, in its first batch, whose
    # names are those that workers add up.
    logs = [found, tiny.loss_of(made, model, sample)]
    for update in range(1, 7):
        made.before_update(model, update)
        logs += [tiny.loss_of(made, model, sample) for _ in range(2)]
    probed = ["r3f_dropout_divergence" in log for log in logs]
    assert probed == [n in (0, 6, 12) for n in range(14)]
    # Training reports how often it was right.
    log = make_criterion("plain")(model, sample)[2]
    right = Classes(HEAD, CLASSES).logits(model, sample).argmax(1).eq(sample["target"])
    with metrics.aggregate() as reported:
        CRITERION_REGISTRY["plain"].reduce_metrics([log])
    accuracy = reported.get_smoothed_values()["accuracy"]
    assert accuracy == pytest.approx(float(right.float().mean()))


def test_workers_and_batches_are_added_up() -> None:
    common = {"nsentences": 2, "ntokens": 30, "_scores": 0.0}
    logs = [
        {"loss": 6.0, "r3f_rms": 1.0, "nll_loss": 8.0, "sample_size": 4, **common},
        {"loss": 2.0, "r3f_rms": 3.0, "nll_loss": 0.0, "sample_size": 4, **common},
    ]
    logs[0] |= {"r3f_dropout_divergence": 6.0, "r3f_probed": 4}
    for log in logs:
        del log["_scores"]
    with metrics.aggregate() as found:
        CRITERION_REGISTRY["plain"].reduce_metrics(logs)
    values = found.get_smoothed_values()
    assert values["loss"] == 1.0
    assert values["r3f_rms"] == 1.0
    assert values["r3f_dropout_divergence"] == 1.5
    assert values["nll_loss"] == 1.0
    assert float(values["ppl"]) == 2.0


def several(models: dict[str, Path]) -> tuple[Any, Any, dict[str, Any]]:
    """A criterion of two tasks, their model, a batch of the second."""
    one = SimpleNamespace(regression=False, num_classes=CLASSES, target_dictionary=None)
    two = SimpleNamespace(regression=True, num_classes=1, target_dictionary=None)
    task = SimpleNamespace(parts={"one": one, "two": two}, target_dictionary=None)
    cfg = CRITERION_DATACLASS_REGISTRY["plain"](sentence_avg=False)
    model = build(models["roberta"])
    for name, outputs in (("one", CLASSES), ("two", 1)):
        model.register_classification_head(name, num_classes=outputs)
    sample = batch(tiny.make_dataset(models["roberta"], regression=True))
    made = CRITERION_REGISTRY["plain"](cfg, task).train()
    return made, model, {**sample, "head": "two"}


def test_a_batch_goes_through_its_own_head_and_no_head_is_without_gradient(
    models: dict[str, Path],
) -> None:
    made, model, sample = several(models)
    loss, _, log = made(model, sample)
    options = {"features_only": True, "classification_head_name": "two"}
    scores = model(**sample["net_input"], **options)[0]
    expected = (scores.flatten() - sample["target"].float()).square().sum()
    torch.testing.assert_close(loss, expected)
    assert not any(name.startswith("_") for name in log)
    loss.backward()
    for name, p in model.classification_heads.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.abs().max() > 0) == name.startswith("two."), name
    # Confusions of several tasks would add up to nothing.
    classed = {**sample, "head": "one", "target": sample["target"].long()}
    assert not any(name.startswith("_") for name in made(model, classed)[2])


def test_shared_chunks_never_hold_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules[chunked.__module__], "_ENTRIES", 8)
    rows: list[int] = []

    def measure(a: Tensor, b: Tensor) -> Tensor:
        rows.append(len(a))
        return symmetric_kl(a, b)

    a, b = torch.randn(2, 2, 5, 4, requires_grad=True)
    chunked(measure, a, b, torch.ones(2, 5, dtype=torch.bool)).sum().backward()
    assert max(rows) == 2
    assert sum(rows) == 20


# --- the bounded head -----------------------------------------------------------------


def test_the_gradient_goes_through_the_spectral_norm() -> None:
    """d(W / sigma) = dW / sigma - W <u v^T, dW> / sigma^2, by autograd of an SVD."""
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    with torch.no_grad():
        linear.weight.mul_(9)
    free = linear.weight.detach().double().requires_grad_()
    bound_linear(linear)
    original = linear.parametrizations.weight.original
    spectral_bound(linear).advance(original, 500)
    direction = torch.randn(4, 6)
    (got,) = torch.autograd.grad((linear.weight * direction).sum(), original)
    bounded = free / torch.linalg.svdvals(free)[0]
    (wanted,) = torch.autograd.grad((bounded * direction).sum(), free)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-5)


def test_a_plain_checkpoint_is_bounded_at_once() -> None:
    plain, linear = nn.Linear(8, 5), nn.Linear(8, 5)
    with torch.no_grad():
        plain.weight.mul_(30)
    bound_linear(linear)
    linear.load_state_dict(plain.state_dict())
    assert float(torch.linalg.svdvals(linear.weight.detach())[0]) < 1.05


def test_r4fs_vectors_follow_every_update(models: dict[str, Path]) -> None:
    model = build(models["roberta"])
    made = make_criterion("r4f")
    made.prepare_model(model)
    dense = model.classification_heads[HEAD].dense
    with torch.no_grad():
        dense.parametrizations.weight.original.copy_(torch.randn(16, 16) * 9)
    for update in range(200):
        made.after_update(model, update)
    assert float(torch.linalg.svdvals(dense.weight.detach())[0]) < 1.01


# --- optimizers -----------------------------------------------------------------------


@pytest.mark.parametrize("scoped", [False, True])
def test_groups_are_by_rate_decay_origin_and_place(
    models: dict[str, Path], scoped: bool
) -> None:
    model = build(models["bart"])
    tag_parameters(model, layer_decay=0.5)
    named = dict(model.named_parameters())
    found = {}
    for group in parameter_groups(named.values(), scoped):
        for name, p in zip(group["names"], group["params"], strict=True):
            assert named[name] is p
            found[name] = {k: group.get(k) for k in group if k.endswith("_scale")}
            found[name]["in_scope"] = group.get("in_scope")
    assert found.keys() == named.keys()
    expected = {
        "encoder.embed_tokens.weight": (0.0625, 1, 1, False),
        "encoder.layers.0.fc1.weight": (0.125, 1, 1, True),
        "encoder.layers.0.fc1.bias": (0.125, 0, 1, True),
        "decoder.layers.1.fc2.weight": (1, 1, 1, True),
        "decoder.layers.0.final_layer_norm.weight": (0.5, 0, 1, False),
        f"classification_heads.{HEAD}.dense.weight": (1, 1, 0, False),
        f"classification_heads.{HEAD}.dense.bias": (1, 0, 0, False),
    }
    for name, (rate, decay, anchor, inside) in expected.items():
        scales = {"lr_scale": rate, "decay_scale": decay, "anchor_scale": anchor}
        assert found[name] == scales | {"in_scope": inside if scoped else None}, name


OWN: dict[str, dict[str, Any]] = {
    "bert_adam": {
        "eps": 1e-3,
        "weight_decay": 0.02,
        "bias_correction": True,
        "tensor_clip": 0.5,
        "anchor": 0.3,
    },
    "pats_adamax": {
        "gamma": 0.11,
        "beta": 0.22,
        "p": 0.33,
        "noise_scale": "lr",
        "gate": "none",
        "weight_decay": 0.02,
        "anchor": 0.3,
    },
    "sage": {
        "base": "adamax",
        "beta": 0.22,
        "guard": 1e-3,
        "eps": 1e-4,
        "weight_decay": 0.02,
        "bias_correction": True,
        "anchor": 0.3,
    },
}


def adapter(name: str, **flags: Any) -> dict[str, Any]:
    """The first group of a fairseq optimizer made with some flags."""
    prefix = "pats" if name == "pats_adamax" else name
    given = {f"{prefix}_{key}": value for key, value in flags.items()}
    cfg = OPTIMIZER_DATACLASS_REGISTRY[name](**given)
    quiet = ("fp16", "fp16_no_flatten_grads")
    quiet += ("memory_efficient_fp16", "memory_efficient_bf16")
    for key, value in (*((q, False) for q in quiet), ("ddp_backend", "c10d")):
        setattr(cfg, key, value)
    cfg.lr, cfg.seed = [3e-3], 17
    p = nn.Parameter(torch.ones(2, 2))
    p.param_group = Tag("w", 1, False, False)  # type: ignore[attr-defined]
    made = OPTIMIZER_REGISTRY[name](cfg, [p])
    group: dict[str, Any] = made.optimizer.param_groups[0]
    return group


@pytest.mark.parametrize("name", OWN)
def test_every_flag_reaches_the_optimizer(name: str) -> None:
    expected = {"lr": 3e-3, "betas": (0.8, 0.7), **OWN[name]}
    flags = {"beta1": 0.8, "beta2": 0.7, **OWN[name]}
    if name == "pats_adamax":
        flags |= {"lambda": 0.44, "eps": 1e-2, "adamax_eps": 1e-4}
        expected |= {"noise": 0.44, "guard": 1e-2, "eps": 1e-4, "seed": 17}
    # Either way, as the optimizers' own defaults are not the flags'.
    for turn in (lambda value: value, lambda value: value is False):
        for key, value in OWN[name].items():
            if isinstance(value, bool):
                flags[key] = expected[key] = turn(value)
        group = adapter(name, **flags)
        assert {key: group[key] for key in expected} == expected


@pytest.mark.parametrize("made", [PatsAdamax, Sage])
def test_a_state_of_version_01_goes_on_with_its_scope(made: Any) -> None:
    """Its groups call ``in_scope`` ``noisy``."""
    p = nn.Parameter(torch.ones(2, 2))
    one = made([{"params": [p], "in_scope": False}])
    old = one.state_dict()
    (group,) = old["param_groups"]
    group["noisy"] = group.pop("in_scope")
    again = made([{"params": [p]}])
    again.load_state_dict(old)
    assert again.param_groups[0]["in_scope"] is False
    assert "noisy" not in again.param_groups[0]
    p.grad = torch.ones(2, 2)
    again.step()


def test_a_preset_fills_in_what_is_not_said() -> None:
    group = adapter("pats_adamax", preset="paper-B", **{"lambda": 0.0, "p": 0.9})
    names = ("noise", "gamma", "noise_scale", "gate", "beta", "p")
    expected = (0.0, 1e-6, "lr", "sensitivity", 0.75, 0.9)
    assert tuple(group[name] for name in names) == expected


def moves(monkeypatch: pytest.MonkeyPatch, seed: int = 0, **more: Any) -> list[Tensor]:
    """PATS's noise alone on two equal matrices, at two updates, in pieces of 8."""
    monkeypatch.setattr(blocks, "SIZE", 8)
    params = [nn.Parameter(torch.ones(4, 4, dtype=torch.double)) for _ in range(2)]
    group = {"params": params, **more}
    flags: Any = {"noise": 1e-3, "p": 1.0, "gate": "none", "seed": seed, "beta": 0.0}
    made = PatsAdamax([group], lr=0.0, **flags)
    found = []
    for _ in range(2):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.ones_like(p) / p.detach()  # a sensitivity of 1
        made.step()
        found += [(p - b).detach() for p, b in zip(params, before, strict=True)]
    return found


def test_each_update_matrix_piece_and_seed_has_noise_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = moves(monkeypatch) + moves(monkeypatch, seed=1)
    pieces = [half for one in found for half in one.flatten().split(8)]
    assert len({tuple(piece.tolist()) for piece in pieces}) == 16
    again = moves(monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=False))


def test_noise_per_rate_follows_the_layers_rate() -> None:
    sizes = []
    for scale in (1.0, 0.25):
        p = nn.Parameter(torch.ones(4, 4, dtype=torch.double))
        p.grad = torch.full((4, 4), 1e-9, dtype=torch.double)
        moved = []
        for noise in (0.0, 1.0):
            q = nn.Parameter(p.detach().clone())
            q.grad = p.grad.clone()
            group = {"params": [q], "lr_scale": scale}
            flags: Any = {"noise_scale": "lr", "gate": "none", "p": 1.0, "noise": noise}
            PatsAdamax([group], lr=1e-2, **flags).step()
            moved.append(q.detach())
        sizes.append(float((moved[1] - moved[0]).norm()))
    assert sizes[1] == pytest.approx(sizes[0] / 4, rel=1e-3)


# --- models ---------------------------------------------------------------------------


def test_a_packed_pre_norm_encoder_is_fairseqs(tmp_path: Path) -> None:
    from conftest import make_model_directory
    from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
    from fairseq_steady.models.packed import PackedEncoderLayer

    path = make_model_directory(tmp_path / "m", encoder_normalize_before=True).path
    model = build(path).eval()
    inputs = batch(tiny.make_dataset(path))["net_input"]
    found = []
    for cls in (PackedEncoderLayer, TransformerEncoderLayerBase):
        for layer in find_encoder(model).layers:
            layer.__class__ = cls
        options = {"features_only": True, "classification_head_name": HEAD}
        found.append(model(**inputs, **options)[0].detach())
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_a_start_follows_its_seed(models: dict[str, Path]) -> None:
    name = "encoder.sentence_encoder.layers.1.fc1.weight"
    found = []
    for seed in (1, 2, 1):
        model = build(models["roberta"])
        tag_parameters(model)
        reinitialise(model, 1, head=False, seed=seed)
        drawn = dict(model.named_parameters())[name].detach().clone()
        noisy_tune(model, 0.5, seed)
        found.append((drawn, dict(model.named_parameters())[name].detach() - drawn))
    for one, other, again in zip(*found, strict=True):
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
    attention = find_encoder(model).layers[1].self_attn
    assert not torch.equal(attention.q_proj.weight, attention.k_proj.weight)


@pytest.mark.parametrize(
    ("family", "eps"),
    [(f, {"deberta": 1e-7, "modernbert": 1e-5}.get(f, 1e-12)) for f in FAMILIES],
)
def test_every_layer_norm_has_the_pretrained_models_epsilon(
    models: dict[str, Path], family: str, eps: float
) -> None:
    norms = [m for m in build(models[family]).modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) >= 5
    assert {norm.eps for norm in norms} == {eps}


def test_any_number_of_wrappers_is_taken_off() -> None:
    inner = nn.Linear(2, 2)
    wrapped = nn.Module()
    wrapped.module = nn.Module()
    wrapped.module.module = inner
    assert unwrap(wrapped) is inner


# --- data -----------------------------------------------------------------------------


def test_padding_is_on_the_right_and_the_decoder_reads_one_later() -> None:
    tokens = [torch.tensor([0, 7, 8, 2]), torch.tensor([0, 9, 2])]
    found = {k: v.tolist() for k, v in padded(tokens, 1, True).items()}
    assert found == {
        "src_tokens": [[0, 7, 8, 2], [0, 9, 2, 1]],
        "src_lengths": [4, 3],
        "prev_output_tokens": [[2, 0, 7, 8], [2, 0, 9, 1]],
    }


def test_batches_fit_and_results_are_in_order() -> None:
    texts = ["aaaa", "a", "aaaaaaaa", "aa", "aaa", "aaaaa"]
    sizes = []

    def run(inputs: dict[str, Tensor]) -> list[int]:
        sizes.append(inputs["src_tokens"].shape)
        return inputs["src_lengths"].tolist()

    encode: Any = lambda some: [[np.zeros(len(text), np.int32) for text in some]]  # noqa: E731
    found = list(in_batches(texts, encode, run, 1, 6, ONE_ROW))
    assert found == [len(text) for text in texts]
    assert all(rows == 1 or rows * width <= 6 for rows, width in sizes)
    assert [tuple(size) for size in sizes[:2]] == [(2, 2), (1, 3)]


def test_epochs_are_shuffled_by_seed_and_number(models: dict[str, Path]) -> None:
    found = []
    data = tiny.make_dataset(models["roberta"])
    assert data.ordered_indices().tolist() == [0, 4, 2, 1, 3]  # by length
    assert data.can_reuse_epoch_itr_across_epochs
    encoded = data.encoded.take(np.arange(5).repeat(20))
    for seed, epoch in ((1, 1), (1, 2), (2, 1), (1, 1)):
        made = type(data)(encoded, data_dictionary(models), shuffle_seed=seed)
        assert not made.can_reuse_epoch_itr_across_epochs
        made.set_epoch(epoch)
        found.append(tuple(made.ordered_indices().tolist()))
    assert found[0] == found[3]
    assert len(set(found)) == 3
    assert sorted(found[0]) == list(range(100))
    assert batch(data)["ntokens"] == sum(tiny.LENGTHS)


def data_dictionary(models: dict[str, Path]) -> Any:
    return ModelDirectory.open(models["roberta"]).dictionary()


def test_another_reading_or_tokeniser_misses_the_cache(
    models: dict[str, Path], tmp_path: Path
) -> None:
    from fairseq_steady.data import SentenceTokenizer
    from fairseq_steady.data.pair_dataset import encode_pairs
    from fairseq_steady.data.pairs import Pair
    from fairseq_steady.data.readers import read_sentence_tab_label
    from helpers import encode

    directory = ModelDirectory.open(models["bart"])
    made = [SentenceTokenizer(directory, directory.dictionary(), 8) for _ in range(2)]
    path = tmp_path / "u.txt"
    path.write_text("w0\t1\nw1 w2\t0\n")
    calls = []

    def reader(given: Path) -> Any:
        calls.append(given)
        return read_sentence_tab_label(given)

    def read() -> Any:
        calls.append(path)
        return [Pair("w1 w2", "w1", 1, path)]

    def all_ways(description: str) -> int:
        before = len(calls)
        encode(path, made[0], reader=reader, description=description)
        encode_pairs([path], read, description, (made[0], made[1]), None)
        return len(calls) - before

    assert [all_ways(d) for d in ("a", "b", "a", "b")] == [2, 2, 0, 0]
    made[0].digest = "of another model"
    assert [all_ways("a"), all_ways("a")] == [2, 0]
    made[1].max_length = 5
    assert [all_ways("a"), all_ways("a")] == [1, 0]


def test_articles_are_padded_on_the_right(models: dict[str, Path]) -> None:
    ids = np.array([0, 7, 8, 2, 0, 9, 2], np.int32)
    sides = Ragged(ids, np.array([4, 7]))
    pairs = Encoded((sides, sides), np.empty((2, 0)), (0, 0))
    data = PairDataset(pairs, data_dictionary(models), 2)
    sample = data.collater([data[1], data[0]])
    assert sample["net_input"]["src_tokens"].tolist() == [[0, 7, 8, 2], [0, 9, 2, 1]]
    assert sample["net_input"]["prev_output_tokens"][0].tolist() == [2, 0, 7, 8]
    assert sample["target"].tolist() == [[0, 7, 8, 2], [0, 9, 2, 1]]


def test_a_run_that_goes_on_has_the_batches_it_began_with(
    models: dict[str, Path],
) -> None:
    sides = Ragged(np.full(16, 7, np.int32), np.arange(1, 17))
    pairs = Encoded((sides, sides), np.empty((16, 0)), (0, 0))
    data = PairDataset(pairs, data_dictionary(models), 2, shuffle_seed=3)
    with numpy_seed(3 + 1):
        wanted = LanguagePairDataset.ordered_indices(data).tolist()
    assert wanted != sorted(wanted)
    for begun in (1, 3):  # as fairseq seeds a run that begins with this epoch
        with numpy_seed(3 + begun):
            assert data.ordered_indices().tolist() == wanted


def cola(models: dict[str, Path], data: Path, **flags: Any) -> Any:
    cfg = SentenceTaskConfig(
        data=str(data), steady_model=str(models["roberta"]), seed=7, **flags
    )
    task = ColaTask.setup_task(cfg)
    for split in ("train", "valid", *(["test"] if cfg.steady_split_dev else [])):
        task.load_dataset(split)
    return task


def test_halves_and_samples_follow_their_own_seed(
    models: dict[str, Path], cola_data: Path
) -> None:
    flags: Any = {"steady_split_dev": True, "steady_train_size": "0.5"}
    found = []
    for seed in (0, 1):
        task = cola(models, cola_data, steady_subset_seed=seed, **flags)
        parts = {
            split: tuple(tuple(tokens.tolist()) for tokens in data.encoded.tokens)
            for split, data in task.datasets.items()
        }
        assert {split: len(part) for split, part in parts.items()} == {
            "train": 32,
            "valid": 12,
            "test": 12,
        }
        assert not set(parts["valid"]) & set(parts["test"])
        found.append(parts)
    for split in ("train", "valid", "test"):
        assert found[0][split] != found[1][split]
    seeds = {split: data.shuffle_seed for split, data in task.datasets.items()}
    assert seeds == {"train": 7, "valid": None, "test": None}


# --- tasks ----------------------------------------------------------------------------

#: As GLUE's leaderboard has them: classes, the metric here, name in a submission.
GLUE = {
    "cola": (("0", "1"), "mcc", ["CoLA"]),
    "sst2": (("0", "1"), "accuracy", ["SST-2"]),
    "mrpc": (("0", "1"), "f1", ["MRPC"]),
    "stsb": (None, "pearson", ["STS-B"]),
    "qqp": (("0", "1"), "f1", ["QQP"]),
    "mnli": (
        ("contradiction", "neutral", "entailment"),
        "accuracy",
        ["MNLI-m", "MNLI-mm"],
    ),
    "qnli": (("entailment", "not_entailment"), "accuracy", ["QNLI"]),
    "rte": (("entailment", "not_entailment"), "accuracy", ["RTE"]),
}


def test_glues_classes_metrics_and_submissions() -> None:
    """Checkpoints hold numbers: another order of classes would turn their answers."""
    found = {
        name: (
            layout.labels and tuple(layout.labels),
            layout.metric,
            [
                SUBMISSIONS[name][split]
                for split in ("test", "test_mismatched")
                if split in SUBMISSIONS[name]
            ],
        )
        for name, layout in LAYOUTS.items()
    }
    assert found == GLUE


def test_a_recipe_is_of_ten_updates_or_more(
    models: dict[str, Path], cola_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Recipe.of_epochs(10).updates == 10
    assert not caplog.text
    assert Recipe.of_epochs(3).updates == 10
    assert "--steady-epochs is 3 updates here; training 10" in caplog.text
    settings = Recipe(57).settings()
    assert settings["lr_scheduler.warmup_updates"] == 6
    assert settings["lr_scheduler.total_num_update"] == 57
    assert settings["dataset.validate_interval_updates"] == 5
    assert settings["checkpoint.save_interval_updates"] == 5
    task = cola(models, cola_data, steady_epochs=20)
    root = SimpleNamespace(
        dataset=SimpleNamespace(batch_size=4, max_tokens=None),
        distributed_training=SimpleNamespace(distributed_world_size=2),
        optimization=SimpleNamespace(update_freq=[4], skip_remainder_batch=False),
    )
    assert task._updates_of(root)(20) == 20 * 64 // 32
    root.dataset.max_tokens = 3
    with pytest.raises(UserError, match=r"of train \(.* more than --max-tokens 3: "):
        task._updates_of(root)(20)


def test_a_sentence_that_came_twice_is_recorded_once() -> None:
    scattered = torch.tensor([[0.5, 3.0], [1.5, 5.0], [1.0, 4.0], [1.0, 2.0]])
    found = predictions(scattered)
    assert found == {"outputs": [[0.5, 1.5], [1.5, 2.5]], "gold": [1.0, 2.0]}


def test_texts_that_were_cut_are_counted(models: dict[str, Path]) -> None:
    from fairseq_steady.data import SentenceTokenizer

    directory = ModelDirectory.open(models["roberta"])
    made: Any = Predictor.__new__(Predictor)
    made.tokenizer = SentenceTokenizer(directory, directory.dictionary(), 5)
    made.truncated = 0
    made.columns = ["a"]
    for _ in range(2):
        made._encode(["w1 w2 w3 w4 w5", "w1", "w1 w2 w3 w4"])
    assert made.truncated == 4


def test_as_many_summaries_are_decoded_as_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By their place in the data, whatever batches they come in."""
    scored: list[int] = []
    made: Any = SummarizationTask.__new__(SummarizationTask)
    made._evaluated = range(10)
    made.summarizer = lambda _: lambda inputs: ["x"] * len(inputs["src_lengths"])

    def score(texts: list[str], ids: list[int], most: int) -> dict[str, float]:
        scored.extend(ids)
        return {"decoded": len(texts), "of": most}

    made._measured = score
    nothing: Any = lambda *_: (0, 1, {})  # noqa: E731
    monkeypatch.setattr(FairseqTask, "valid_step", nothing)
    for most, expected in ((3, [1, 2]), (0, [5, 1, 2, 7])):
        made.cfg = SimpleNamespace(summarization_decode=most)
        inputs = padded([torch.arange(4) for _ in range(4)], 1, False)
        sample = {"id": torch.tensor([5, 1, 2, 7]), "net_input": inputs}
        scored.clear()
        logged = made.valid_step(sample, None, None)[2]
        assert scored == expected
        assert logged == {"decoded": len(expected), "of": most or 10}


def test_shares_of_no_ngrams_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be NaN, which only Python reads in JSON."""
    made = object.__new__(SummarizationTask)
    made.cfg = SimpleNamespace(summarization_bertscore=None)
    monkeypatch.setattr(SteadyTask, "reduce_metrics", lambda *_: None)
    texts, references = ["w1 w3", "w1"], [["w1 w2"]] * 2
    scores = {name: [0.0, 0.0] for name in NAMES}
    sums = measured_sums(texts, references, ["w1"] * 2)
    log = {f"_rouge_of_{name}": count for name, count in sums.items()}
    log[SAID] = said(texts, references, scores, [0, 1], 2)
    with metrics.aggregate(new_root=True) as found:
        made.reduce_metrics([log], None)
    values = found.get_smoothed_values()
    assert (values["novel1"], values["novel2"]) == (pytest.approx(100 / 3), 100)
    assert "novel3" not in values
    assert values["length_ratio"] == 0.75
    numbers = [value for value in values.values() if isinstance(value, float)]
    assert not any(map(math.isnan, numbers))


@pytest.fixture
def summarizer(models: dict[str, Path]) -> BeamSearch:
    from fairseq_steady.data import SentenceTokenizer

    directory = ModelDirectory.open(models["bart"])
    tokenizer = SentenceTokenizer(directory, directory.dictionary(), 32)
    decoding = Decoding(3, 2.0, 5, 9, 2)
    model = build(models["bart"]).eval()
    return BeamSearch(model, directory.dictionary(), tokenizer, decoding)


def test_summaries_are_searched_for_as_asked(summarizer: BeamSearch) -> None:
    made = summarizer.generator
    assert (made.beam_size, made.len_penalty) == (3, 2.0)
    # Its counts include <s>, which a summary starts with.
    assert summarizer.prefix == [0]
    assert (made.min_len, made.max_len_b) == (6, 10)
    assert (made.search.no_repeat, made.search.forced, made.search.last) == (2, 1, 10)


def test_transformers_counts_the_first_token_and_the_last(tmp_path: Path) -> None:
    search = search_of(Decoding(3, 2.0, 5, 9, 2))
    theirs = {
        "num_beams": 3,
        "length_penalty": 2.0,
        "min_length": 6,
        "max_length": 11,
        "no_repeat_ngram_size": 2,
        "early_stopping": True,
    }
    bos = {"forced_bos_token_id": 0}
    forced = theirs | bos | {"min_length": 7, "max_length": 12}
    for ids, expected in (({}, theirs), (bos, forced)):
        assert generation_config(search, ids) == expected
        write_json(tmp_path / "config.json", expected)
        assert read_search(tmp_path, len(ids)) == search
    # Another file comes first, and need not say everything, or anything.
    path = tmp_path / "generation_config.json"
    write_json(path, {})
    assert read_search(tmp_path, 1) is None


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [
        # CNN/DM's and XSum's; the latter's source forces no first token, ours does.
        ({"max_length": 142, "min_length": 56, "forced_bos_token_id": 0}, 54, 139),
        ({"max_length": 62, "min_length": 11}, 9, 59),
        # New tokens come after the one of the start, and go before lengths.
        ({"max_new_tokens": 61, "min_new_tokens": 10, "max_length": 20}, 9, 59),
        ({"max_length": 30, "min_length": 0, "num_beams": None}, 0, 27),
        ({"min_length": 150}, 148, 148),
        ({"max_length": 50, "min_length": 50}, 47, 47),
        ({"num_beams": 4}, 0, 128),
    ],
)
def test_lengths_are_of_words(
    tmp_path: Path, given: dict[str, Any], least: int, most: int
) -> None:
    write_json(tmp_path / "generation_config.json", given)
    expected = search_of(Decoding(min_length=least, max_length=most))
    assert read_search(tmp_path, 1) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_length": 3}, "its maximum leaves no token of a summary"),
        ({"num_beams": 0}, "field 'num_beams'"),
        ({"length_penalty": math.inf}, "field 'length_penalty'"),
        ({"max_length": "9"}, "field 'max_length'"),
    ],
)
def test_a_search_that_leaves_no_summary_is_not_imported(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    path = tmp_path / "generation_config.json"
    write_json(path, given)
    said = f"^{path}.*{message}.*; how it searches for summaries is not taken over$"
    with pytest.raises(UserError, match=said):
        read_search(tmp_path, 1)


def test_articles_are_selected_by_their_rows() -> None:
    inputs = padded([torch.arange(5), torch.arange(9), torch.arange(7)], 1, False)
    found = select(inputs, [2, 0])
    assert found["src_lengths"].tolist() == [7, 5]
    assert found["src_tokens"].tolist() == [list(range(7)), [0, 1, 2, 3, 4, 1, 1]]


# --- signals and files ----------------------------------------------------------------


def test_a_later_signal_ends_the_run_at_once(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes with the first is the same, passed on by a launcher."""
    now, raised = iter([10.0, 11.9, 12.1]), []
    monkeypatch.setattr(durable.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(durable.signal, "raise_signal", raised.append)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    stop = durable.Stop()
    try:
        stop.listen()
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.asked
        assert "SIGUSR1: saving after this update" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGTERM)
        assert (raised, capfd.readouterr().err) == ([], "")
        os.kill(os.getpid(), signal.SIGTERM)
        assert raised == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_that_no_loop_looks_for_keeps_its_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    for name in ("fairseq_cli.train", "__main__"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    assert not durable.watch_loop()
    loop = SimpleNamespace(validate_and_save=lambda: 0)
    monkeypatch.setitem(sys.modules, "__main__", loop)
    assert durable.watch_loop()
    changed = loop.validate_and_save
    assert durable.watch_loop()
    assert loop.validate_and_save is changed
    assert changed.__wrapped__() == 0


def test_files_are_replaced_whole_with_the_umasks_permissions(tmp_path: Path) -> None:
    path, other = tmp_path / "a.json", tmp_path / "other"
    other.write_text("precious")
    path.symlink_to(other)
    before = os.umask(0o027)
    try:
        files.write_json(path, {"a": 1})
    finally:
        os.umask(before)
    assert other.read_text() == "precious"
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    folder = tmp_path / "link"
    folder.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="link exists"), files.whole_folder(folder):
        pass
    assert files.read_json(path, dict[str, int], "mend") == {"a": 1}
    files.write_json(path, {"a": "1"})
    with pytest.raises(UserError, match="field 'a'.*not '1'; mend"):
        files.read_json(path, dict[str, int], "mend")
    with pytest.raises(UserError, match="field 'a'.*not '1'; mend"):
        files.conform(dict[str, int], {"a": "1"}, "here", "mend")


def test_roots_files_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("")
    found = path.lstat()

    def owned(user: int) -> Any:
        return lambda _: SimpleNamespace(st_uid=user, st_mode=found.st_mode)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for user, expected in ((0, None), (1000, None), (1001, "user 1001")):
        monkeypatch.setattr(Path, "lstat", owned(user))
        assert files.foreign(path) == expected


# --- comparison -----------------------------------------------------------------------


def test_where_less_is_better_the_least_is_best() -> None:
    from fairseq_steady.comparison.table import Scored, _described
    from fairseq_steady.comparison.winner_card import winner
    from helpers import result

    one, other = result("a", 1, 0.3, 0.1, 0.2), result("b", 1, 0.5, 0.4)
    scored = Scored("mcc", False, "valid")
    assert scored.best(one)["updates"] == 20
    assert winner([one, other], scored) == "a"
    assert winner([one, other], Scored("mcc", True, "valid")) == "b"
    assert _described([0.1, 0.3], scored)["best"] == "0.100"
    assert _described([0.1, 0.3], replace(scored, larger=True))["best"] == "0.300"


def test_results_of_another_plan_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    from fairseq_steady.comparison.plan import Run
    from fairseq_steady.comparison.results import standing, write
    from helpers import result

    made = result("a", 1, 0.5, command=["fairseq-train", "--lr", "1"])
    write(tmp_path / "result.json", made)
    run = Run("", "a", 1, tmp_path, ("fairseq-train", "--lr", "1"))
    assert standing([run]) == {tmp_path: made}
    other = replace(run, command=("fairseq-train", "--lr", "2"))
    with pytest.raises(UserError, match=r"another plan.*fairseq-steady train --lr 1"):
        standing([other])


def test_predictions_are_those_of_the_best_evaluation(tmp_path: Path) -> None:
    from fairseq_steady.comparison.results import collect
    from helpers import CONFIG, result

    made = result("a", 1, config={}, evaluations=[], predictions={})
    config = {**CONFIG, "dataset": {"valid_subset": "valid,ood"}}
    files.write_json(tmp_path / "config.json", config)
    for updates, mcc in ((10, 0.2), (20, 0.7), (30, 0.4)):
        for subset in ("ood", "valid"):
            files.write_json(
                tmp_path / f"{subset}-{updates}.json",
                {
                    "subset": subset,
                    "updates": updates,
                    "metrics": {"mcc": mcc if subset == "valid" else 1 - mcc},
                    "outputs": [[updates]],
                    "gold": [updates],
                },
            )
    collect(made, tmp_path)
    assert [list(one) for one in made.evaluations] == [["updates", "valid", "ood"]] * 3
    assert made.predictions["ood"] == {"outputs": [[20]], "gold": [20]}
    assert made.predictions["valid"] == {"outputs": [[20]], "gold": [20]}


def test_a_teacher_of_another_model_is_refused_in_one_line() -> None:
    student = nn.Linear(2, 2)
    teacher = Teacher(student, Schedule())
    state = {"updates": 3, "model": nn.Linear(2, 3).state_dict()}
    with pytest.raises(UserError, match=r"teacher is of another model.*size mismatch"):
        teacher.load_state_dict(state)
