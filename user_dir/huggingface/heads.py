"""Classification heads of Hugging Face directories, with their classes' names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import UserError
from ..model_dir import Labels
from ..models.families.base import Kind, State
from .sources import Weights

logger = logging.getLogger(__name__)

_PURPOSE = "ForSequenceClassification"
#: Values of problem_type that heads of one output have, and those of more.
_SEVERAL = "multi_label_classification"
_ONE = (None, "regression")
_CLASSES = (None, "single_label_classification", _SEVERAL)
#: What a user can do about a head that cannot be read.
_MEND = "mend it, or import the rest alone with --without-head"


class ImportedHead(NamedTuple):
    """A head as fairseq's, and what it predicts."""

    labels: Labels
    state: State


def read_head(
    weights: Weights,
    config: dict[str, Any],
    kind: Kind,
    shapes: Mapping[str, tuple[int, ...]],
) -> ImportedHead | None:
    """The head of a directory that transformers loads as one for classification.

    Args:
        weights: the source's.
        config: its checked config.json.
        kind: its type.
        shapes: of the head's tensors; see :meth:`.Family.head_shapes`.

    Returns:
        None where it is for something else, or for several scores, which is said.

    Raises:
        UserError: tensors are missing or of another architecture, or the names of the
            classes are not one for each.

    """
    purpose = f"{kind.classes}{_PURPOSE}"
    if purpose not in (config.get("architectures") or ()):
        return None
    state = _tensors(weights, kind, shapes, purpose)
    outputs, problem = len(state["out_proj.weight"]), config.get("problem_type")
    if problem not in (_ONE if outputs == 1 else _CLASSES):
        logger.warning(
            "%s: its head is for problem_type %s with outputs: %d; it is not imported",
            *(weights.source, problem, outputs),
        )
        return None
    names = None if outputs == 1 else _names(config, outputs, weights.source)
    several: Labels = {"labels": names, "several": True}
    return ImportedHead(several if problem == _SEVERAL else {"labels": names}, state)


def _tensors(
    weights: Weights, kind: Kind, shapes: Mapping[str, tuple[int, ...]], purpose: str
) -> State:
    """By fairseq's names, in the shapes of its head."""
    theirs = {}
    for own in shapes:
        module, _, part = own.rpartition(".")
        theirs[own] = f"{kind.head[module].removeprefix(kind.prefix)}.{part}"
    if missing := [name for name in theirs.values() if name not in weights.tensors]:
        raise UserError(
            f"{weights.source}: config.json names {purpose}, whose head has "
            f"{missing[0]}, and the weights do not; {_MEND}"
        )
    last = "out_proj.weight"
    outputs = weights(theirs[last], *shapes[last]).size(0)
    return {
        own: _finite(
            weights(theirs[own], *(outputs if size == -1 else size for size in shape)),
            *(theirs[own], weights.source),
        )
        for own, shape in shapes.items()
    }


def _finite(tensor: Tensor, name: str, source: Path) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise UserError(f"{source}: {name} holds NaN or infinite numbers; {_MEND}")
    return tensor.clone()


def _names(config: dict[str, Any], outputs: int, source: Path) -> list[str]:
    """The classes in the order of the outputs.

    Raises:
        UserError: there are more or fewer names than outputs, or one is there twice.

    """
    # transformers leaves these two out.
    said = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    where = f"{source / 'config.json'}: id2label"
    if set(said) != {str(index) for index in range(outputs)}:
        raise UserError(
            f"{where} names {len(said)} classes ({', '.join(said)}), and the head has "
            f"{outputs} outputs, 0 to {outputs - 1}; {_MEND}"
        )
    names = [str(said[str(index)]).strip() for index in range(outputs)]
    for index, name in enumerate(names):
        first = names.index(name)
        if not name or first != index:
            problem = f"is that of {first} too" if name else "is empty"
            raise UserError(f"{where}: the name {name!r} of {index} {problem}; {_MEND}")
    return names
