"""Criterions where a rare case met a common one: what was wrong once."""

from pathlib import Path
from typing import Any

import pytest
from tiny import batch, build, make_criterion, make_dataset

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
