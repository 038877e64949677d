"""Options: a range stands beside its option, in its help, and is checked."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, Optional

import fairseq_steady.tasks  # noqa: F401  registers everything
import pytest
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass import FairseqDataclass
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from fairseq_steady.errors import UserError
from fairseq_steady.flags import (
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    SHARE,
    Flags,
    at_least,
    check_flags,
    one_of,
    option,
    read_flags,
)
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent


@dataclasses.dataclass
class Own(Flags, FairseqDataclass):
    """Flags of nothing."""

    own_size: float = option(0.5, "how large; default: a half", POSITIVE)
    own_count: Optional[int] = option(None, "how many", at_least(2))
    own_form: Literal["a", "b", "c"] = option("b", "its form", one_of("a", "b", "c"))
    own_other: str | None = option(None, "d or e", one_of("d", "e"))
    own_free: str = option("", "anything")


def test_help_says_the_range_before_what_follows_a_semicolon() -> None:
    said = {f.name: f.metadata.get("help") for f in dataclasses.fields(Own)}
    assert said == {
        "_name": None,
        "own_size": "how large, > 0; default: a half",
        "own_count": "how many, >= 2",
        "own_form": "its form: a, b or c",
        "own_other": "d or e",
        "own_free": "anything",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"own_size": 0.0}, "--own-size 0.0 is out of range: how large, > 0; default"),
        ({"own_size": float("nan")}, "--own-size nan is out of range"),
        ({"own_count": 1}, "--own-count 1 is out of range: how many, >= 2"),
        ({"own_form": "d"}, "--own-form d is out of range: its form: a, b or c"),
    ],
)
def test_a_value_out_of_range_is_named_with_flag_and_range(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        read_flags(Own(**given), Own)


def test_none_is_a_default_and_good() -> None:
    check_flags(Own(own_count=None), Own)
    with pytest.raises(UserError, match="^the own-count 0 is out of range"):
        check_flags(Own(own_count=0), Own, "the ")


@pytest.mark.parametrize(
    ("values", "good", "bad"),
    [
        (POSITIVE, (1e-9, 1), (0, -1)),
        (NOT_NEGATIVE, (0, 1), (-1e-9,)),
        (SHARE, (0, 0.99), (1, -0.1)),
        (PROBABILITY, (0, 1), (1.01, -0.1)),
        (at_least(3), (3, 4), (2,)),
    ],
)
def test_ranges_hold_at_their_ends(
    values: Any, good: tuple[float, ...], bad: tuple[float, ...]
) -> None:
    assert [values.holds(v) for v in good] == [True] * len(good)
    assert [values.holds(v) for v in bad] == [False] * len(bad)


def test_fairseq_sees_choices_and_a_reader_plain_words() -> None:
    """As fairseq builds a configuration: structured, with words converted."""
    merged = OmegaConf.merge(Own(), {"own_form": "c", "own_other": "d"})
    assert [str(v) for v in type(merged.own_form)] == ["a", "b", "c"]
    read = read_flags(merged, Own)
    assert type(read.own_form) is type(read.own_other) is str
    assert (read.own_form, read.own_other, read.own_count) == ("c", "d", None)
    with pytest.raises(ValueError, match="own_form"):
        OmegaConf.merge(Own(), {"own_form": "d"})


def ours() -> list[type]:
    registries: list[dict[str, type]] = [
        *(CRITERION_DATACLASS_REGISTRY, OPTIMIZER_DATACLASS_REGISTRY),
        *(TASK_DATACLASS_REGISTRY, MODEL_DATACLASS_REGISTRY),
    ]
    found = [config for known in registries for config in known.values()]
    return [c for c in found if c.__module__.startswith("fairseq_steady.")]


@pytest.mark.parametrize("config", ours(), ids=lambda config: config.__name__)
def test_every_number_of_every_component_has_a_range_that_its_default_is_in(
    config: Any,
) -> None:
    free = {"summarization_length_penalty", "steady_subset_seed"}
    free |= {"steady_max_length", "summarization_source_length"}  # by the model
    free |= {"summarization_target_length"}
    free |= {f"summarization_{n}" for n in ("beam", "min_length", "max_length")}
    free |= {"summarization_no_repeat"}  # by inference.summarising.Decoding
    check_flags(config(), config)
    numbers = {float, int, Optional[float], Optional[int]}
    for item in dataclasses.fields(config):
        linked = str(item.default).startswith("${")
        if item.type in numbers and not linked and item.name not in free:
            assert item.metadata["range"].text, item.name


def test_options_and_optimizers_stand_alone_without_fairseq() -> None:
    code = (
        "import sys; sys.modules['fairseq'] = None; sys.modules['omegaconf'] = None\n"
        "from fairseq_steady.flags import option\n"
        "from fairseq_steady.optim import Sage\n"
        "import torch\n"
        "Sage([torch.ones(1)], beta=1.0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    said = done.stderr.splitlines()[-1]
    assert said.endswith("UserError: optimizer: beta = 1.0 is out of range: in [0, 1)")
