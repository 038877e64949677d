"""Optimizers that go on from a checkpoint."""

from typing import Any

import pytest
import torch
from fairseq_steady.optim import BertAdam
from test_optim import assert_bitwise, parameters, run
from torch import nn


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
