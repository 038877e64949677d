"""Optimizers against slow twins, and what they do to a model's layers."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.optim.adamax import Adamax as FairseqAdamax
from fairseq_steady.errors import UserError
from fairseq_steady.models.starting import Mixout, mix_out, noisy_tune, reinitialise
from fairseq_steady.optim import (
    PRESETS,
    BertAdam,
    PatsAdamax,
    Sage,
    tag_of,
    tag_parameters,
)
from fairseq_steady.optim import blocks as blocks_module
from fairseq_steady.optim import pats as pats_module
from fairseq_steady.optimizers.groups import parameter_groups
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, build
from torch import Tensor, nn

SHAPES = [(7, 5), (5,), (3, 4, 2), (90, 70)]


def parameters(seed: int = 0, dtype: Any = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        nn.Parameter(torch.randn(s, generator=generator, dtype=torch.double).to(dtype))
        for s in SHAPES
    ]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        size = 10.0 ** float(torch.randn((), generator=generator))
        drawn = torch.randn(p.shape, generator=generator, dtype=torch.double)
        p.grad = (drawn * size).to(p.dtype)


def run(optimizer: Any, params: list[nn.Parameter], steps: int, first: int = 0) -> None:
    for t in range(first, first + steps):
        set_gradients(params, t)
        optimizer.step()


def worst(a: list[nn.Parameter], b: list[nn.Parameter]) -> float:
    return max(float((p - q).abs().max()) for p, q in zip(a, b, strict=True))


def assert_bitwise(a: list[Any], b: list[Any]) -> None:
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


# --- bert_adam ------------------------------------------------------------------


class SlowBertAdam:
    """Devlin's update, element by element as printed."""

    def __init__(
        self,
        params: list[nn.Parameter],
        lr: float,
        decay: float,
        corrected: bool,
        clip: float,
        anchor: float,
    ) -> None:
        self.params, self.lr, self.decay = params, lr, decay
        self.corrected, self.clip, self.anchor = corrected, clip, anchor
        self.m = [torch.zeros_like(p) for p in params]
        self.v = [torch.zeros_like(p) for p in params]
        self.start = [p.detach().clone() for p in params]
        self.t = 0

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        for p, m, v, p0 in zip(self.params, self.m, self.v, self.start, strict=True):
            g = p.grad
            if self.clip:
                g = g * min(1.0, self.clip / float(g.norm() + 1e-6))
            m.copy_(0.9 * m + 0.1 * g)
            v.copy_(0.999 * v + 0.001 * g * g)
            top, bottom = m, v
            if self.corrected:
                top, bottom = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
            p.copy_(p + self.lr * self.anchor * (p0 - p))
            update = top / (bottom.sqrt() + 1e-6) + self.decay * p
            p.copy_(p - self.lr * update)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(("clip", "anchor"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5)])
def test_bert_adam_equals_its_slow_twin(
    corrected: bool, clip: float, anchor: float
) -> None:
    a, b = parameters(dtype=torch.double), parameters(dtype=torch.double)
    fast = BertAdam(
        a,
        lr=1e-2,
        weight_decay=0.01,
        bias_correction=corrected,
        tensor_clip=clip,
        anchor=anchor,
    )
    run(fast, a, 100)
    run(SlowBertAdam(b, 1e-2, 0.01, corrected, clip, anchor), b, 100)
    assert worst(a, b) < 1e-9


def test_bert_adam_with_correction_is_adamw() -> None:
    a, b = parameters(), parameters()
    run(BertAdam(a, lr=1e-2, bias_correction=True, eps=1e-8), a, 100)
    run(torch.optim.AdamW(b, lr=1e-2, weight_decay=0.01, eps=1e-8), b, 100)
    assert worst(a, b) < 1e-6


def test_the_first_step_is_3_times_too_long_without_correction() -> None:
    lengths = []
    for corrected in (False, True):
        p = nn.Parameter(torch.zeros(4))
        p.grad = torch.full((4,), 2.0)
        BertAdam([p], lr=1.0, weight_decay=0, bias_correction=corrected).step()
        lengths.append(float(-p[0]))
    assert lengths[0] == pytest.approx(0.1 / math.sqrt(0.001), rel=1e-4)
    assert lengths[1] == pytest.approx(1.0, rel=1e-4)


# --- pats -----------------------------------------------------------------------


def test_lambda_0_is_bitwise_fairseqs_adamax() -> None:
    for decay in (0.0, 0.1):
        a, b = parameters(), parameters()
        run(PatsAdamax(a, lr=1e-2, noise=0.0, weight_decay=decay), a, 20)
        run(FairseqAdamax(b, lr=1e-2, weight_decay=decay, betas=(0.9, 0.999)), b, 20)
        assert_bitwise(a, b)


def test_noise_of_a_2_by_2_matrix_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws replaced by 1: theta moves by Adamax plus lambda * mean / (s + guard)."""
    from fairseq_steady.optim import pats

    ones = torch.ones(4, dtype=torch.double)
    monkeypatch.setattr(pats, "_draw", lambda *_: ones)
    theta = torch.tensor([[1.0, -2.0], [0.5, 4.0]], dtype=torch.double)
    gradient = torch.tensor([[0.1, 0.2], [-0.4, 0.05]], dtype=torch.double)
    moved = {}
    for noise in (0.0, 1e-2):
        p = nn.Parameter(theta.clone())
        p.grad = gradient.clone()
        flags: Any = {"gamma": 0.9, "beta": 0.75, "guard": 1e-3}
        PatsAdamax([p], lr=0.1, noise=noise, **flags).step()
        moved[noise] = p.detach()
    s = 0.25 * torch.tensor([[0.1, 0.4], [0.2, 0.2]], dtype=torch.double)
    ratio = 0.05625 / (s + 1e-3)
    expected = torch.where(ratio >= 0.9, 1e-2 * ratio, 0.0)
    assert int((expected == 0).sum()) == 1
    torch.testing.assert_close(moved[1e-2] - moved[0.0], expected)


@pytest.mark.parametrize("gate", ["ratio", "sensitivity", "none"])
@pytest.mark.parametrize("scale", ["absolute", "lr"])
def test_noise_has_the_variance_it_should(gate: Any, scale: Any) -> None:
    """Over many draws: p * sigma^2, and 0 where the gate is closed."""
    p = nn.Parameter(torch.rand(200, 100) + 0.5)
    start = p.detach().clone()
    gradient = torch.randn(200, 100, generator=torch.Generator().manual_seed(3))
    flags: Any = {"gate": gate, "noise_scale": scale, "p": 0.6, "beta": 0.0}
    gamma = {"ratio": 1.0, "sensitivity": 0.5, "none": 9.0}[gate]
    total, square, draws = torch.zeros_like(p), torch.zeros_like(p), 60
    for seed in range(draws):
        with torch.no_grad():
            p.copy_(start)
        p.grad = gradient.clone()
        made = PatsAdamax([p], lr=1e-2, noise=1e-3, gamma=gamma, seed=seed, **flags)
        made.step()
        q = nn.Parameter(start.clone())
        q.grad = gradient.clone()
        PatsAdamax([q], lr=1e-2, noise=0.0).step()
        total += (p - q).detach()
        square += (p - q).detach().square()
    s = (start * gradient).abs()
    ratio = s.mean() / (s + 1e-8)
    sigma = 1e-3 * ratio * (1e-2 if scale == "lr" else 1.0)
    open_ = {"ratio": ratio >= 1, "sensitivity": s < 0.5, "none": s >= 0}[gate]
    assert total[~open_].abs().sum() == 0
    assert 0 < open_.float().mean() <= 1
    # What fp32 cannot resolve beside theta is left out.
    clear = open_ & (sigma > 1e-5)
    relative = square[clear] / draws / (0.6 * sigma[clear] ** 2)
    assert float(relative.mean()) == pytest.approx(1, rel=0.03)
    means = total[clear] / draws / sigma[clear]
    assert float(means.mean()) == pytest.approx(0, abs=0.01)


def test_the_mean_is_of_one_matrix_not_of_all() -> None:
    """Scaling one matrix's gradients leaves the other's noise as it was."""
    found = []
    for factor in (1.0, 100.0):
        a, b = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
        generator = torch.Generator().manual_seed(0)
        a.grad = torch.randn(4, 4, generator=generator)
        b.grad = torch.randn(4, 4, generator=generator) * factor
        PatsAdamax([a, b], lr=0.0, noise=1e-2).step()
        found.append(a.detach().clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], torch.ones(4, 4))


def test_sensitivity_uses_theta_before_the_update_and_before_decay() -> None:
    p = nn.Parameter(torch.tensor([[2.0, -3.0]]))
    p.grad = torch.tensor([[0.5, 0.5]])
    made = PatsAdamax([p], lr=1.0, weight_decay=0.5, noise=0.0, beta=0.75)
    made.step()
    expected = 0.25 * torch.tensor([[1.0, 1.5]])
    assert torch.equal(made.state[p]["sensitivity"], expected)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 2**31))
def test_workers_with_other_random_histories_stay_equal(one: int, other: int) -> None:
    states = []
    for history in (one, other):
        params = parameters()
        made = PatsAdamax(params, noise=1e-2, seed=5)
        torch.manual_seed(history)
        torch.rand(history % 97)
        run(made, params, 2)
        states.append(params)
    assert_bitwise(*states)


def draws(size: int, p: float, like: Any = torch.float32, how: str = "_draw") -> Tensor:
    draw = getattr(pats_module, how)
    drawn: Tensor = draw(torch.empty(0, dtype=like), size, (3, 1, 4, 1), p)
    return drawn


@pytest.mark.parametrize(
    ("p", "like", "how"),
    [
        *((p, torch.float32, "_draw") for p in (1.0, 0.5, 0.3, 0.001)),
        *((p, torch.double, "_draw") for p in (1.0, 0.3)),
        *((p, torch.float32, "_draw_there") for p in (1.0, 0.3)),  # as on a GPU
    ],
)
def test_noise_is_normal_where_a_coin_of_p_says_so(
    p: float, like: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Share of p, moments, Kolmogorov's distance, and no tie between neighbours."""
    monkeypatch.setattr(pats_module, "_PART", 2**17)
    size = 2**20 + 3
    drawn = draws(size, p, like, how).double()
    assert drawn.shape == (size,)
    some = drawn[drawn != 0]
    spread = math.sqrt(p * (1 - p) * size)
    assert abs(len(some) - p * size) <= 4 * spread
    root = math.sqrt(len(some))
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        off = float((some**power).mean()) - expected
        assert abs(off) < 4 * math.sqrt(variance) / root, power
    even = (torch.arange(len(some)) + 0.5) / len(some)
    distance = (torch.special.ndtr(some.sort().values) - even).abs().max()
    assert float(distance) * root < 1.95
    half = (size + 1) // 2  # cosine and sine of one angle lie this far apart
    for lag in (1, 2, 2**17, half):
        for function in (lambda x: x, torch.square, lambda x: (x != 0).double()):
            a, b = function(drawn[:-lag]), function(drawn[lag:])
            if float(a.std()) > 0:
                tie = float(torch.corrcoef(torch.stack([a, b]))[0, 1])
                assert abs(tie) < 4 / math.sqrt(size - lag), lag


def test_noise_of_every_word_is_finite() -> None:
    """The least of 32-bit numbers has no positive of its own size."""

    class Words:
        def random_raw(self, many: int) -> np.ndarray:
            words = np.array([-(2**31), 0, 2**31 - 1, -1] * many, np.int32)
            return words[: 2 * many].view(np.uint64)

    for kind in (np.float32, np.float64):
        drawn = pats_module._normal(Words(), 8, np.dtype(kind))  # type: ignore[arg-type]
        assert np.isfinite(drawn).all()
        assert abs(drawn).max() < 7


def test_a_coin_is_decided_beyond_its_first_byte() -> None:
    """p = 1/512 + 1/1024 lies within the lowest of 256 parts."""
    p = 1 / 512 + 1 / 1024
    share = float((draws(2**22, p) != 0).double().mean())
    assert share == pytest.approx(p, abs=4 * math.sqrt(p / 2**22))


LARGE = [(700, 803), (90, 70), (5,), (803, 701), (300, 300)]


def large(name: str, **more: Any) -> list[nn.Parameter]:
    """Weights of more than one block after three steps, from equal starts."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(s, generator=generator)) for s in LARGE]
    made = MAKERS[name](params, weight_decay=0.1, anchor=0.1, **more)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        made.step()
    return params


@pytest.mark.parametrize("name", ["bert_adam", "pats_adamax", "sage", "sage_adamax"])
def test_nothing_depends_on_the_number_of_threads(name: str) -> None:
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(large(name))
    finally:
        torch.set_num_threads(before)
    assert_bitwise(found[0], found[1])
    assert_bitwise(found[0], found[2])


@pytest.mark.parametrize("name", ["pats_adamax", "sage", "sage_adamax"])
def test_blocks_change_nothing_but_the_pieces_of_noise(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With draws of 1 PATS ends at the same bits too: its means are of matrices."""
    monkeypatch.setattr(pats_module, "_draw", lambda _, size, *__: torch.ones(size))
    found = []
    for size in (2**14, 2**18, 2**24):
        monkeypatch.setattr(blocks_module, "SIZE", size)
        found.append(large(name))
    assert_bitwise(found[0], found[1])
    assert_bitwise(found[0], found[2])


def test_blocks_cover_every_element_once() -> None:
    tensors = [torch.zeros(n) for n in (3, blocks_module.SIZE * 2 + 5, 7, 1)]
    for block in blocks_module.blocks(tensors):
        for piece in block:
            piece.of(tensors).add_(1)
    assert all(bool((t == 1).all()) for t in tensors)


def test_runs_are_the_blocks_up_to_the_end_of_a_tensor() -> None:
    size = blocks_module.SIZE
    tensors = [torch.zeros(n) for n in (3, size * 2, size + 1, 7)]
    found = list(blocks_module.runs(tensors))
    assert [block for run in found for block in run] == list(
        blocks_module.blocks(tensors)
    )
    ends = [run[-1][-1] for run in found]
    assert all(piece.end == tensors[piece.index].numel() for piece in ends)
    assert [len(run) for run in found] == [2, 2]


# --- sage -----------------------------------------------------------------------


@pytest.mark.parametrize("base", ["adam", "adamax"])
@pytest.mark.parametrize("corrected", [False, True])
def test_sage_equals_its_slow_twin(base: Any, corrected: bool) -> None:
    a, b = parameters(dtype=torch.double), parameters(dtype=torch.double)
    flags: Any = {"weight_decay": 0.01, "bias_correction": corrected, "guard": 1e-3}
    run(Sage(a, lr=1e-3, base=base, beta=0.6, **flags), a, 30)
    m = [torch.zeros_like(p) for p in b]
    v = [torch.zeros_like(p) for p in b]
    s = [torch.zeros_like(p) for p in b]
    for t in range(30):
        set_gradients(b, t)
        for i, p in enumerate(b):
            with torch.no_grad():
                g = p.grad
                now = (p * g).abs()
                s[i] = 0.6 * s[i] + 0.4 * now
                known = s[i]
                if corrected and base == "adam":  # as its authors' code does
                    known = s[i] / (1 - 0.6 ** (t + 1))
                surprise = (now - known).abs() / (known + 1e-3)
                m[i] = 0.9 * m[i] + 0.1 * g
                first = m[i] / (1 - 0.9 ** (t + 1)) if corrected else m[i]
                if base == "adamax":
                    v[i] = torch.maximum(0.999 * v[i], g.abs())
                    root = v[i] + 1e-8
                else:
                    v[i] = 0.999 * v[i] + 0.001 * g * g
                    whole = v[i] / (1 - 0.999 ** (t + 1)) if corrected else v[i]
                    root = whole.sqrt() + 1e-8
                p.mul_(1 - 1e-3 * 0.01)
                p.sub_(1e-3 * surprise * first / root)
    assert worst(a, b) < 1e-10


def test_a_first_gradient_surprises_nobody() -> None:
    """Corrected, an average of one sensitivity is that one."""
    (p,) = [nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.double))]
    p.grad = torch.tensor([0.5, 4.0], dtype=torch.double)
    start = p.detach().clone()
    Sage([p], lr=1e-2).step()
    assert torch.equal(p, start)
    Sage([p], lr=1e-2, bias_correction=False).step()
    moved = (start - p.detach()).abs() / 1e-2
    assert moved == pytest.approx(3 * 0.1 / 0.001**0.5, rel=1e-4)


# --- all of them ----------------------------------------------------------------

MAKERS = {
    "bert_adam": lambda q, **f: BertAdam(q, lr=1e-2, **f),
    "pats_adamax": lambda q, **f: PatsAdamax(q, lr=1e-2, noise=1e-3, **f),
    "sage": lambda q, **f: Sage(q, lr=1e-2, **f),
    "sage_adamax": lambda q, **f: Sage(q, lr=1e-2, base="adamax", **f),
}


@pytest.mark.parametrize("name", MAKERS)
def test_state_saved_and_restored_goes_on_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    whole, broken = parameters(), parameters()
    run(MAKERS[name](whole, anchor=0.1), whole, 7)
    first = MAKERS[name](broken, anchor=0.1)
    run(first, broken, 3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = MAKERS[name](broken, anchor=0.1)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(second, broken, 4, first=3)
    assert_bitwise(whole, broken)


STATES = {
    "bert_adam": {"step", "exp_avg", "exp_avg_sq"},
    "pats_adamax": {"step", "exp_avg", "exp_inf", "sensitivity"},
    "sage": {"step", "exp_avg", "exp_avg_sq", "sensitivity"},
    "sage_adamax": {"step", "exp_avg", "exp_inf", "sensitivity"},
}


@pytest.mark.parametrize("name", MAKERS)
def test_states_are_called_as_checkpoints_call_them(name: str) -> None:
    params = parameters()
    made = MAKERS[name](params)
    run(made, params, 1)
    assert {frozenset(state) for state in made.state.values()} == {
        frozenset(STATES[name])
    }


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("turned", ["weights", "gradients"])
def test_transposed_tensors_step_as_others_do(name: str, turned: str) -> None:
    """Those of a layout of their own have no flat view."""
    found = []
    for turn in (False, True):
        generator = torch.Generator().manual_seed(0)
        start, g = (torch.randn(40, 30, generator=generator) for _ in range(2))
        laid = {"weights": start.clone(), "gradients": g}
        if turn:
            laid[turned] = laid[turned].t().contiguous().t()
        p = nn.Parameter(laid["weights"])
        p.grad = laid["gradients"]
        made = MAKERS[name]([{"params": [p], "noise": 0.0}])
        made.step()
        p.grad.mul_(2)  # the first surprises nobody
        made.step()
        found.append(p.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)
    assert not torch.equal(found[0], start)


@pytest.mark.parametrize("name", MAKERS)
def test_a_parameter_without_gradient_is_left_alone(name: str) -> None:
    params = parameters()
    before = params[1].detach().clone()
    made = MAKERS[name](params)
    set_gradients(params, 0)
    params[1].grad = None
    made.step()
    assert torch.equal(params[1], before)


def group_of(p: nn.Parameter, **scales: float) -> dict[str, Any]:
    return {"params": [p], "in_scope": False, **scales}


@pytest.mark.parametrize("name", MAKERS)
def test_groups_scale_rate_decay_and_anchor(name: str) -> None:
    """Without a gradient: theta (1 - lr wd), and the way to the start; else a step."""
    for rate, decay in ((1.0, 0.0), (1.0, 1.0), (0.5, 0.25)):
        p = nn.Parameter(torch.full((3, 3), 2.0, dtype=torch.double))
        p.grad = torch.zeros_like(p)
        group = group_of(p, lr_scale=rate, decay_scale=decay)
        MAKERS[name]([group], weight_decay=10.0).step()
        expected = 2 * (1 - 1e-2 * rate * 10 * decay)
        torch.testing.assert_close(p.detach(), torch.full_like(p, expected))
    for rate, anchor in ((1.0, 0.0), (1.0, 1.0), (0.5, 0.25)):
        p = nn.Parameter(torch.ones(3, 3, dtype=torch.double))
        p.grad = torch.zeros_like(p)
        group = group_of(p, lr_scale=rate, anchor_scale=anchor)
        made = MAKERS[name]([group], weight_decay=0.0, anchor=20.0)
        made.step()
        with torch.no_grad():
            p += 1
        made.step()
        expected = 2 - 1e-2 * rate * 20 * anchor
        torch.testing.assert_close(p.detach(), torch.full_like(p, expected))
    moved = []
    for rate in (1.0, 0.5):
        p = nn.Parameter(torch.ones(30, 30))
        p.grad = torch.full((30, 30), 0.1)
        MAKERS[name]([group_of(p, lr_scale=rate)], weight_decay=0.0).step()
        moved.append(float((1 - p).mean()))
    assert moved[1] == pytest.approx(moved[0] / 2, rel=1e-3)
    assert moved[0] > 1e-3


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("bert_adam", {"eps": 0.0}),
        ("bert_adam", {"betas": (0.9, 1.0)}),
        ("bert_adam", {"tensor_clip": -1.0}),
        ("pats_adamax", {"p": 1.5}),
        ("pats_adamax", {"guard": 0.0}),
        ("sage", {"beta": 1.0}),
        ("pats_adamax", {"gate": "Ratio"}),
        ("pats_adamax", {"noise_scale": "rate"}),
        ("pats_adamax", {"seed": -1}),
    ],
)
def test_values_out_of_range_are_refused(name: str, flags: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"optimizer: {next(iter(flags))} = "):
        MAKERS[name](parameters(), **flags)
    with pytest.raises(UserError, match=f"optimizer: {next(iter(flags))} = "):
        MAKERS[name]([{"params": parameters(), **flags}])


def test_pats_takes_no_half_precision() -> None:
    p = [nn.Parameter(torch.ones(2, 2, dtype=torch.float16))]
    p[0].grad = torch.ones_like(p[0])
    with pytest.raises(UserError, match=r"takes fp32 or fp64, not torch.float16"):
        PatsAdamax(p).step()


def test_a_state_of_torchs_adamw_goes_on() -> None:
    """With this one's settings where it has none of them."""
    steps = {}
    for name in ("theirs", "ours"):
        p = parameters()
        made: Any = torch.optim.AdamW(p, lr=1e-2, eps=1e-6, weight_decay=0.01)
        run(made, p, 2)
        if name == "ours":
            state = made.state_dict()
            made = BertAdam(p, lr=1e-2, bias_correction=True)
            made.load_state_dict(state)
        run(made, p, 2)
        steps[name] = [each.detach() for each in p]
    for mine, theirs in zip(steps["ours"], steps["theirs"], strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("other", ["AdamW", "Adamax", "SGD"])
def test_a_state_of_another_optimizer_is_refused(other: str) -> None:
    p = parameters()
    flags = {"momentum": 0.9} if other == "SGD" else {}
    made: Any = getattr(torch.optim, other)(p, lr=1e-2, **flags)
    run(made, p, 1)
    with pytest.raises(UserError, match=r"no PatsAdamax's: it lacks .*sensitivity"):
        PatsAdamax(parameters()).load_state_dict(made.state_dict())


def test_a_pull_to_where_nobody_knows_is_refused() -> None:
    p = parameters()
    made = BertAdam(p)
    run(made, p, 1)
    made.param_groups[0]["anchor"] = 0.1
    with pytest.raises(UserError, match="anchor was not set at the first step"):
        run(made, p, 1)


@pytest.mark.parametrize("name", MAKERS)
def test_a_rate_may_be_a_tensor(name: str) -> None:
    found = []
    for rate in (1e-2, torch.tensor(1e-2, dtype=torch.double)):
        p = parameters()
        made = MAKERS[name](p, weight_decay=0.1)
        made.param_groups[0]["lr"] = rate
        run(made, p, 2)
        found.append(torch.cat([each.detach().flatten() for each in p]))
    torch.testing.assert_close(*found)


def test_both_presets_are_whole() -> None:
    assert set(PRESETS) == {"paper-A", "paper-B"}
    for preset in PRESETS.values():
        p = parameters()
        made = PatsAdamax(p, noise=preset.noise, gamma=preset.gamma, gate=preset.gate)
        run(made, p, 1)


# --- tags and the start ---------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_tags_know_layer_norm_head_and_scope(
    models: dict[str, Path], family: str
) -> None:
    model = build(models[family])
    tag_parameters(model, layer_decay=0.5)
    tags = {name: tag_of(p) for name, p in model.named_parameters()}
    assert all(tag is not None for tag in tags.values())
    rates = {
        name: group["lr_scale"]
        for group in parameter_groups(model.parameters())
        for name in group["names"]
    }
    assert rates == {name: tag.lr_scale for name, tag in tags.items()}
    top = 4 if family == "bart" else 2
    for name, tag in tags.items():
        assert tag is not None
        if "embed" in name or ".projection." in name:
            assert tag.depth == 0
            assert tag.lr_scale == 0.5**top
            assert not tag.in_layer
        elif layer := re.fullmatch(r"encoder\.(?:s\w+\.)?layers\.(\d)\..*", name):
            assert rates[name] == 0.5 ** (top - 1 - int(layer[1]))
        if "classification_heads" in name:
            assert tag.head
            assert tag.lr_scale == 1.0
        if "layer_norm" in name:
            assert tag.norm
            assert not tag.in_layer
        if ".layers.1.fc1" in name and "encoder" in name:
            assert tag.depth == 2
            assert tag.in_layer


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_reinitialising_draws_the_top_anew_and_nothing_else(
    models: dict[str, Path], family: str
) -> None:
    model = build(models[family])
    tag_parameters(model)
    before = snapshot(model)
    changed = reinitialise(model, 1, head=True, seed=3)
    side = "decoder" if family == "bart" else "encoder.sentence_encoder"
    top = (f"{side}.layers.1.", f"{side}.layer_norm.", "classification_heads.")
    assert set(changed) == {name for name in before if name.startswith(top)}
    assert f"{side}.layers.1.fc1.weight" in changed
    for name, p in model.named_parameters():
        if name not in changed:
            assert torch.equal(p, before[name])
        elif p.dim() > 1:
            assert float(p.std()) == pytest.approx(0.02, rel=0.35)
            assert abs(float(p.mean())) < 0.01
        else:
            norm = tag_of(p).norm and name.endswith("weight")
            assert bool((p == float(norm)).all())
    with pytest.raises(UserError, match="--steady-reinit-layers 3 is not in 0 to 2"):
        reinitialise(model, 3, head=False, seed=3)


def test_one_layer_and_two_agree_on_what_they_share(models: dict[str, Path]) -> None:
    found = []
    for layers in (1, 2):
        model = build(models["roberta"])
        tag_parameters(model)
        reinitialise(model, layers, head=True, seed=3)
        found.append(snapshot(model))
    shared = [n for n in found[0] if ".layers.1." in n or "classification" in n]
    assert all(torch.equal(found[0][n], found[1][n]) for n in shared)
    lower = "encoder.sentence_encoder.layers.0.fc1.weight"
    assert not torch.equal(found[0][lower], found[1][lower])


def test_noisy_tune_moves_each_matrix_by_a_share_of_its_spread(
    models: dict[str, Path],
) -> None:
    model = build(models["roberta"])
    tag_parameters(model)
    before = snapshot(model)
    noisy_tune(model, 0.2, seed=1)
    for name, p in model.named_parameters():
        moved = (p - before[name]).abs().max()
        limit = 0.1 * before[name].std()
        assert float(moved) <= float(limit) * 1.001
        if "classification_heads" in name:
            assert moved == 0
        elif p.numel() > 200:
            assert float(moved) > 0.9 * float(limit)


def test_mixout_keeps_the_mean_and_the_checkpoint(models: dict[str, Path]) -> None:
    weight, start = torch.full((300, 300), 3.0), torch.ones(300, 300)
    mixing = Mixout(start, 0.25).train()
    mixed = mixing(weight)
    assert float(mixed.mean()) == pytest.approx(3.0, rel=0.02)
    values = torch.unique(mixed)
    expected = torch.tensor([1.0, (3 - 0.25) / 0.75])
    torch.testing.assert_close(values, expected)
    assert torch.equal(mixing.eval()(weight), weight)
    model = build(models["roberta"])
    tag_parameters(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    mix_out(model, 0.3)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    model.load_state_dict(before)
    assert all(tag_of(p) is not None for p in model.parameters())
