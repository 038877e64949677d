"""Criterions where a rare case met a common one: what was wrong once."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from fairseq.modules import LayerDropModuleList
from fairseq_steady.precision import Autocast
from fairseq_steady.regularizers import find_encoder
from fairseq_steady.regularizers.ascent import Ascent
from fairseq_steady.regularizers.freelb import FreeLB
from tiny import batch, build, make_criterion, make_dataset

BF16 = Autocast("cpu", torch.bfloat16)
#: What a batch of an evaluation says of itself.
EVALUATED = {"total": 20, "recorded": True, "pairs": True, "groups": 2}


@pytest.mark.parametrize("outputs", [3, 1])
def test_a_batch_of_an_evaluation_logs_in_training_as_any_other(
    models: dict[str, Path], outputs: int
) -> None:
    """A worker without a batch repeats one, and workers add up by position."""
    model = build(models["roberta"], outputs=outputs)
    sample = batch(make_dataset(models["roberta"], regression=outputs == 1))
    other: dict[str, Any] = {**sample, **EVALUATED, "group": sample["target"].long()}
    made = make_criterion("plain", outputs=outputs)
    assert [*made(model, other)[2]] == [*made(model, sample)[2]]


@pytest.mark.parametrize(("drop", "halved"), [(0.5, False), (1.0, False), (1.0, True)])
def test_layerdrop_leaves_hypes_layers_alone(
    models: dict[str, Path], drop: float, halved: bool
) -> None:
    """A list with layerdrop is another at each look; without a layer there is none."""
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    encoder: Any = find_encoder(model)
    encoder.layers = LayerDropModuleList(drop, [*encoder.layers])
    if halved:
        model.bfloat16()
    used: list[int] = []
    for layer in encoder.layers.children():
        layer.register_forward_hook(lambda *_: used.append(seed))
    made = make_criterion("hype", eps=0.1, dropout="independent")
    for seed in range(12):
        torch.manual_seed(seed)
        log = made(model, sample)[2]
        rms = 0.1 * len(tiny.LENGTHS) if seed in used else 0
        assert float(log["hype_rms"]) == pytest.approx(rms, rel=0.2)
        # Workers add up tensors and numbers apart.
        assert isinstance(log.get("hype_lost"), torch.Tensor) == halved
    assert len({*used}) == (0 if drop == 1 else 9)


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("method", ["hype", "freelb"])
def test_what_half_precision_rounds_away_is_said(
    models: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
    method: str,
    autocast: bool,
) -> None:
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))

    def lost(eps: float) -> float:
        made = make_criterion(method, eps=eps)
        if autocast:
            made = BF16.around(made)
        logs = [made(model, sample)[2] for _ in range(2)]
        return float(logs[0][f"{method}_lost"]) / len(tiny.LENGTHS)

    assert f"{method}_lost" not in make_criterion(method)(model, sample)[2]
    if not autocast:
        model.bfloat16()
    assert lost(1e-5) > 0.9
    assert caplog.text.count(f"{method}: rounding removes") == 1
    caplog.clear()
    assert lost(1.0 if method == "hype" else 50.0) < 0.1
    assert "rounding" not in caplog.text


@pytest.mark.parametrize(("length", "early"), [(0, 0), (40, 4)])
def test_the_teachers_early_part_is_a_share_of_whatever_ends_the_training(
    models: dict[str, Path], length: int, early: int
) -> None:
    """Here epochs do: --max-update is 0."""
    made = make_criterion("smart", bregman="momentum")
    made.cfg.max_update = 0
    made.task.updates_in_all = lambda: length
    made(build(models["roberta"]), batch(make_dataset(models["roberta"])))
    assert made._teacher.schedule.early == early


@pytest.mark.parametrize("outputs", [3, 1])
def test_freelb_in_half_precision_survives_large_sums(
    models: dict[str, Path], outputs: int
) -> None:
    """Scores far off: the weights' gradients are scaled sums over the batch."""
    model = build(models["roberta"], outputs=outputs).half()
    sample = batch(make_dataset(models["roberta"], regression=outputs == 1))
    if outputs == 1:
        sample["target"] = sample["target"] * 0 + 16
    made = make_criterion("freelb", outputs=outputs, eps=0.1)
    loss, _, log = made(model, sample)
    loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in found)
    assert sum(float(grad.float().square().sum()) for grad in found) > 0
    assert float(log["freelb_refused"]) == 0


def test_freelb_adds_the_gradients_of_passes_that_need_other_weights() -> None:
    """As with layerdrop, where each pass leaves out layers of its own."""
    weights = [torch.tensor(float(n), requires_grad=True) for n in (2, 3, 5)]
    one, two, never = weights
    used = [(one,), (two,), (one, two), (two,)]

    def losses(delta: torch.Tensor, k: int) -> torch.Tensor:
        return sum(weight.square() for weight in used[k]) + 0 * delta.sum()

    method = FreeLB(Ascent(3, 0.1, 1.0, norm="l2", level="sentence"))
    loss, *_ = method(losses, torch.ones(1, 2, 3), weights)
    loss.backward()
    expected = [2 * 2 * 2 / 4, 2 * 3 * 3 / 4]
    assert [one.grad, two.grad] == [pytest.approx(e) for e in expected]
    assert never.grad is None
    assert float(loss) == pytest.approx((2 * 4 + 3 * 9) / 4)
