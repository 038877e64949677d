"""Tasks registered with fairseq: raw files in, no BPE or binarising steps.

fairseq imports this folder of a ``--user-dir`` by itself, so the whole plugin is
registered here: criterions, models and optimizers, the changes of :mod:`..patches`,
and the :mod:`..plugins` that are installed.
"""

from .. import criterions, optimizers
from ..models import families, steady
from ..patches import install
from ..plugins import load_plugins
from . import (
    cola,
    glue,
    glue_multitask,
    nli,
    summarization,
    superglue,
    text,
    uci_sentiment,
)

__all__ = [
    "cola",
    "criterions",
    "families",
    "glue",
    "glue_multitask",
    "nli",
    "optimizers",
    "steady",
    "summarization",
    "superglue",
    "text",
    "uci_sentiment",
]

install()
load_plugins()
