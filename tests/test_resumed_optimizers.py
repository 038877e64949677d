"""Optimizers that go on from a checkpoint."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fairseq_steady.errors import UserError
from fairseq_steady.optim import BertAdam, Tag
from fairseq_steady.optimizers.bert_adam import BertAdamConfig, FairseqBertAdam
from fairseq_steady.optimizers.pats_adamax import FairseqPatsAdamax, PatsAdamaxConfig
from fairseq_steady.optimizers.sage import FairseqSage, SageConfig
from torch import nn


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (5,), (3, 4, 2), (90, 70)]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def run(optimizer: Any, params: list[Any], steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(1000 + step)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def assert_bitwise(some: list[Any], others: list[Any]) -> None:
    assert all(torch.equal(p, q) for p, q in zip(some, others, strict=True))


@pytest.mark.parametrize("corrected", [False, True])
def test_bert_adam_goes_on_from_steps_that_were_tensors(corrected: bool) -> None:
    whole, broken = parameters(), parameters()
    run(BertAdam(whole, bias_correction=corrected), whole, 7)
    first = BertAdam(broken, bias_correction=corrected)
    run(first, broken, 3)
    assert [state["step"] for state in first.state.values()] == [3] * len(broken)
    old: Any = first.state_dict()
    for state in old["state"].values():
        state["step"] = torch.tensor(float(state["step"]))
    second = BertAdam(broken, bias_correction=corrected)
    second.load_state_dict(old)
    # Numbers, wherever the parameters are.
    assert [type(state["step"]) for state in second.state.values()] == [int] * len(
        broken
    )
    run(second, broken, 4, first=3)
    assert_bitwise(whole, broken)


@pytest.mark.parametrize("corrected", [False, True])
def test_bert_adam_goes_on_where_its_parameters_are(
    corrected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints load on the CPU; the kernel wants all of its tensors in one place."""
    there = parameters()
    before = BertAdam(there, bias_correction=corrected)
    run(before, there, 1)
    here = [nn.Parameter(p.to("meta")) for p in there]
    after = BertAdam(here, bias_correction=corrected)
    after.load_state_dict(before.state_dict())
    given: list[Any] = []
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *lists, **_: given.extend(lists))
    for p in here:
        p.grad = torch.zeros_like(p)
    after.step()
    assert [len(tensors) for tensors in given] == [4, 4, 4, 4, 0, 4]
    assert {str(tensor.device) for tensors in given for tensor in tensors} == {"meta"}


# --- flags that changed ---------------------------------------------------------------

MADE: dict[str, tuple[Any, Any]] = {
    "bert_adam": (BertAdamConfig, FairseqBertAdam),
    "pats_adamax": (PatsAdamaxConfig, FairseqPatsAdamax),
    "sage": (SageConfig, FairseqSage),
}


def made(kind: str, scale: float = 1.0, **flags: Any) -> Any:
    """An optimizer as fairseq makes it; ``scale`` is of the first parameter's rate."""
    config, optimizer = MADE[kind]
    ours = {"lr": [0.01], "seed": 1, "fp16": False, "ddp_backend": "c10d"}
    ours |= {"memory_efficient_fp16": False, "memory_efficient_bf16": False}
    params = parameters()
    for i, p in enumerate(params):
        tag: Any = Tag(f"p{i}", 1, False, False, scale if i == 0 else 1.0)
        p.param_group = tag  # type: ignore[attr-defined]
    return optimizer(config(**ours, **flags), params)


def saved(optimizer: Any, lr: float = 0.01) -> Any:
    params = list(optimizer.params)
    optimizer.set_lr(lr)
    run(optimizer.optimizer, params, 2)
    return copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize(
    ("kind", "changed", "settings"),
    [
        ("bert_adam", {"bert_adam_weight_decay": 0.5}, {"weight_decay": 0.5}),
        ("bert_adam", {"bert_adam_bias_correction": True}, {"bias_correction": True}),
        ("pats_adamax", {"pats_lambda": 0.5, "pats_p": 0.1}, {"noise": 0.5, "p": 0.1}),
        ("sage", {"sage_beta": 0.25}, {"beta": 0.25}),
    ],
)
def test_a_run_goes_on_with_the_flags_that_it_is_given(
    kind: str, changed: dict[str, Any], settings: dict[str, Any]
) -> None:
    """And with the learning rate that it had."""
    state = saved(made(kind, scale=0.95), lr=0.003)
    after = made(kind, scale=0.9, **changed)
    after.load_state_dict(state)
    for group in after.param_groups:
        assert group["lr"] == 0.003
        assert {name: group[name] for name in settings} == settings
    assert {group["lr_scale"] for group in after.param_groups} == {0.9, 1.0}
    after.load_state_dict(state, {"eps": 0.125})  # --optimizer-overrides
    assert {group["eps"] for group in after.param_groups} == {0.125}


REFUSED: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "groups": (
        lambda: made("bert_adam"),
        lambda: made("bert_adam", scale=0.95),
        r"in 2 groups .* makes 3: give --steady-layer-decay",
    ),
    "order": (
        lambda: made("bert_adam", scale=0.95),
        lambda: made("bert_adam", bert_adam_anchor=0.1),
        r"in 3 groups .* makes 2: ",
    ),
    "anchor": (
        lambda: made("sage"),
        lambda: made("sage", sage_anchor=0.1),
        r"^--sage-anchor 0\.1 needs .* did not keep \(an optimizer state with 'anchor'",
    ),
    "base": (
        lambda: made("sage"),
        lambda: made("sage", sage_base="adamax"),
        "^--sage-base adamax needs .* 'exp_inf'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_cannot_go_on_without_what_its_flags_need(case: str) -> None:
    before, after, said = REFUSED[case]
    with pytest.raises(UserError, match=said):
        after().load_state_dict(saved(before()))


def test_a_pull_that_was_left_out_can_come_back() -> None:
    before = made("bert_adam", bert_adam_anchor=0.1)
    without = made("bert_adam")
    without.load_state_dict(saved(before))
    again = made("bert_adam", bert_adam_anchor=0.2)
    again.load_state_dict(saved(without))
    starts = [state["anchor"] for state in again.optimizer.state.values()]
    assert_bitwise(
        sorted(starts, key=torch.numel), sorted(parameters(), key=torch.numel)
    )
