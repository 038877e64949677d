"""What tests and benchmarks know of each method: a new one is a row here.

tests/test_methods.py compares the table with what the plugin registers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Flags without their method's prefix, in Python's spelling.
Flags = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """One criterion.

    Args:
        live: flags with which the tests' tiny models feel it.
        off: flags that leave plain fine-tuning.
        radius: flags that all grow with the perturbation.
        bad: values that are refused.
        trained: flags of short runs of fairseq-train.
        variants: further such runs, by name.
        half: flags whose divergence bf16 still sees; default: ``trained``.
        stock: flags with fairseq's own tasks; None where those cannot have it.
        divergence: whether it compares a noised pass with the clean one.
        passes: forwards, backwards, and backwards to the embeddings alone of a batch.

    """

    live: Flags = field(default_factory=dict)
    off: Flags = field(default_factory=dict)
    radius: tuple[str, ...] = ()
    bad: Flags = field(default_factory=dict)
    trained: Flags = field(default_factory=dict)
    variants: Mapping[str, Flags] = field(default_factory=dict)
    half: Flags | None = None
    stock: Flags | None = field(default_factory=dict)
    divergence: bool = False
    passes: tuple[int, int, int] = (1, 1, 0)


METHODS = {
    "plain": Method(),
    "sift": Method(
        live={"init": 0.1, "step": 0.1, "warmup": 0.0},
        off={"lambda": 0.0},
        radius=("init", "step"),
        bad={"lambda": -1.0, "eps": 0.0},
        trained={"init": 0.05, "step": 0.05},
        variants={
            "sift-cached": {
                **{"init": 0.05, "step": 0.05, "cache": 2, "fraction": 0.6},
                "warmup": 0.0,  # whose length is not the same where a run is broken off
            }
        },
        stock={"init": 0.05, "step": 0.05},
        divergence=True,
        passes=(3, 2, 1),
    ),
    "smart": Method(
        live={"init": 0.1, "step": 0.1, "eps": 0.1},
        off={"lambda": 0.0},
        radius=("init", "step", "eps"),
        bad={"beta": 1.0, "refresh": 0, "step": 0.0, "eps": -1.0, "mu": -0.5},
        trained={"eps": 0.05, "bregman": "momentum", "steps": 2},
        variants={
            "smart-vanilla": {"bregman": "vanilla", "refresh": 2, "mu": 5},
            "smart-cached": {
                **{"eps": 0.05, "cache": 1, "cache_refresh": True},
                **{"every": 2, "bregman": "momentum"},
            },
        },
        half={"eps": 0.05, "step": 0.05, "init": 0.05},
        stock={"eps": 0.05, "bregman": "momentum"},
        divergence=True,
        passes=(3, 2, 1),
    ),
    "r3f": Method(
        live={"eps": 0.1},
        off={"lambda": 0.0},
        radius=("eps",),
        bad={"eps": -0.1, "lambda": -1.0},
        trained={"eps": 0.1, "noise": "normal"},
        variants={
            "r3f-some": {"eps": 0.1, "fraction": 0.3, "stop_gradient": "perturbed"}
        },
        half={"eps": 0.5},
        stock={"eps": 0.1, "reduction": "fairseq", "lambda": 0.01},
        divergence=True,
        passes=(2, 2, 0),
    ),
    "r4f": Method(
        live={"eps": 0.1},
        off={"lambda": 0.0},
        radius=("eps",),
        bad={"eps": -0.1, "lambda": -1.0},
        trained={"eps": 0.1},
        stock=None,
        divergence=True,
        passes=(2, 2, 0),
    ),
    "r_drop": Method(
        off={"lambda": 0.0},
        bad={"lambda": -1.0, "dropout": "off"},
        trained={"lambda": 2},
        variants={"r_drop-some": {"lambda": 2, "fraction": 0.4, "every": 2}},
        passes=(2, 2, 0),
    ),
    "hype": Method(
        live={"eps": 0.1},
        off={"eps": 0.0},
        radius=("eps",),
        bad={"eps": -0.1, "dropout": "shared"},
        trained={"eps": 0.1},
        stock={"eps": 0.1},
    ),
    "freelb": Method(
        live={"eps": 1.0, "step": 1.0, "init": 1.0},
        off={"eps": 0.0},
        radius=("eps", "step", "init"),
        bad={"steps": -1, "step": 0.0},
        trained={"step": 0.5, "eps": 2},
        stock={"steps": 2},
        passes=(4, 4, 0),
    ),
}

#: A run of each optimizer, and of a variant.
OPTIMIZERS = {
    "bert_adam": ["--optimizer=bert_adam", "--bert-adam-tensor-clip=1"],
    "pats_adamax": ["--optimizer=pats_adamax", "--pats-lambda=1e-3"],
    "pats-B": [
        *("--optimizer=pats_adamax", "--pats-preset=paper-B"),
        *("--pats-gamma=1e-2", "--pats-lambda=0.1"),
    ],
    "sage": ["--optimizer=sage", "--sage-bias-correction"],
}


def arguments(method: str, flags: Flags) -> list[str]:
    """A criterion and its flags, as fairseq-train takes them."""
    typed = [_typed(f"{method}_{name}", value) for name, value in flags.items()]
    return [f"--criterion={method}", *typed]


def _typed(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    return flag if value is True else f"{flag}={value}"


#: Arguments of fairseq-train by method or variant.
TRAINED = {
    name: arguments(method, flags)
    for method, row in METHODS.items()
    for name, flags in {method: row.trained, **row.variants}.items()
}
