"""What each method's own paper sets: the values of ``--steady-preset paper``.

They are for comparing with the paper. The defaults that train in few updates stand
with the flags.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

NAMES = ("steady", "paper")
#: Lengths of a perturbation, which have a unit in common.
_LENGTHS = ("_eps", "_init", "_step")


@dataclass(frozen=True)
class Paper:
    """The values of one criterion or optimizer.

    Args:
        source: where they are from, and what they are there where that differs.
        values: by flag, in Python's spelling.

    """

    source: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


PAPER = {
    "plain": Paper(),
    "sift": Paper(
        "the code of arXiv 2006.03654, whose section 5 has no numbers; its lambda of 5 "
        "goes with detached targets and is worth 2.5 here",
        {
            "sift_lambda": 2.5,
            "sift_warmup": 0.0,
            "sift_init": 1e-2,
            "sift_step": 1e-4,
            "sift_steps": 1,
        },
    ),
    "smart": Paper(
        "arXiv 1911.03437, implementation details; lambda is the least of its 1, 3, 5",
        {
            "smart_lambda": 1.0,
            "smart_warmup": 0.0,
            "smart_init": 1e-5,
            "smart_step": 1e-3,
            "smart_steps": 1,
            "smart_eps": 1e-5,
            "smart_bregman": "momentum",
            "smart_mu": 1.0,
            "smart_beta": 0.999,
            "smart_early_beta": 0.99,
            "smart_early": 0.1,
        },
    ),
    "r3f": Paper(
        "arXiv 2008.03156 and its criterion in fairseq; both kinds of noise are tried",
        {
            "r3f_lambda": 1.0,
            "r3f_warmup": 0.0,
            "r3f_eps": 1e-5,
            "r3f_noise": "uniform",
        },
    ),
    "r4f": Paper(
        "arXiv 2008.03156, which divides by the norm also where that is below 1",
        {
            "r4f_lambda": 1.0,
            "r4f_warmup": 0.0,
            "r4f_eps": 1e-5,
            "r4f_noise": "uniform",
            "r4f_norm": "exact",
        },
    ),
    "r_drop": Paper(
        "the code of arXiv 2106.14448 for CNN/DailyMail; its alpha of 0.7 is worth "
        "0.35 here",
        {"r_drop_lambda": 0.35, "r_drop_warmup": 0.0},
    ),
    "hype": Paper(
        "arXiv 2212.08853, the least of its radii from 1e-5 to 1e-2",
        {"hype_eps": 1e-5, "hype_noise": "normal", "hype_dropout": "off"},
    ),
    "freelb": Paper(
        "the script for CoLA of the authors of arXiv 1909.11764",
        {
            "freelb_steps": 3,
            "freelb_step": 2.5e-2,
            "freelb_init": 0.4,
            "freelb_eps": 0.3,
            "freelb_norm": "l2",
            "freelb_noise": "uniform",
            "freelb_dropout": "shared",
        },
    ),
    "bert_adam": Paper(
        "arXiv 1810.04805 and its code",
        {
            "bert_adam_beta1": 0.9,
            "bert_adam_beta2": 0.999,
            "bert_adam_eps": 1e-6,
            "bert_adam_weight_decay": 0.01,
            "bert_adam_bias_correction": False,
        },
    ),
    "pats_adamax": Paper(
        "arXiv 2210.12403, one of two readings of its constants",
        {"pats_preset": "paper-A"},
    ),
    "sage": Paper("the code of arXiv 2202.02664", {"sage_beta": 0.75}),
}


def of_paper(name: str | None, said: Collection[str]) -> dict[str, Any]:
    """The paper's values of what nobody says; none for a method that is not here.

    Args:
        name: of a criterion or an optimizer.
        said: flags that are given; a radius relative to the embeddings takes none of
            the paper's lengths, whose unit is another.

    """
    values = PAPER[name].values if name in PAPER else {}
    relative = f"{name}_eps_relative" in said
    return {
        flag: value
        for flag, value in values.items()
        if flag not in said and not (relative and flag.endswith(_LENGTHS))
    }
