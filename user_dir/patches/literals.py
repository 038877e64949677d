"""Strings that fairseq evaluates: as literals, never as code.

fairseq calls ``eval`` on settings, and settings come from files: a checkpoint, a model
directory, a release. Put in ``eval``'s place, :func:`literal` reads what those settings
are meant to be and refuses everything else.
"""

import ast
import operator
from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..files import short

#: Modules of fairseq that call ``eval``; a test reads fairseq's source for more.
EVALUATING = (
    "fairseq.criterions.ctc",
    "fairseq.data.audio.raw_audio_dataset",
    "fairseq.data.codedataset",
    "fairseq.models.fconv",
    "fairseq.models.fconv_lm",
    "fairseq.models.fconv_self_att",
    "fairseq.models.hubert.hubert",
    "fairseq.models.lightconv_lm",
    "fairseq.models.speech_to_text.s2t_wav_transformer",
    "fairseq.models.transformer_lm",
    "fairseq.models.wav2vec.wav2vec",
    "fairseq.models.wav2vec.wav2vec2",
    "fairseq.optim.adafactor",
    "fairseq.optim.adam",
    "fairseq.optim.adamax",
    "fairseq.optim.cpu_adam",
    "fairseq.optim.fused_lamb",
    "fairseq.utils",
)
#: Characters and list entries: more than any setting has, too few to fill the memory.
_LONGEST, _MOST = 10_000, 10_000

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_REPEATED = (list, tuple, str, bytes)


def literal(text: str | bytes) -> Any:
    """The value of a Python literal, and of sums and repetitions of literals.

    fairseq's own defaults need the latter: ``[(512, 3)] * 20 + [(512, 1)]``.

    Args:
        text: as ``eval`` takes it.

    Raises:
        TypeError: ``text`` is no string, as ``eval`` says too.
        UserError: it is anything but literals, ``+``, ``-`` and ``*``.

    """
    if not isinstance(text, str | bytes):
        raise TypeError(f"literal() takes a string, not {type(text).__name__}")
    try:
        if len(text) > _LONGEST:
            raise ValueError("it is too long")
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UserError(
            f"{short(text)} is no literal: write numbers, strings, lists or tuples of "
            "them, joined by + or repeated by *; nothing else is evaluated"
        ) from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Mult):
            _check_size(left, right)
        return _BINARY[type(node.op)](left, right)
    if isinstance(node, ast.List):
        return [_value(entry) for entry in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(entry) for entry in node.elts)
    return ast.literal_eval(node)


def _check_size(left: Any, right: Any) -> None:
    """Refuse a repetition, or a number, that would fill the memory."""
    for side, times in ((left, right), (right, left)):
        if isinstance(side, _REPEATED) and len(side) * times > _MOST:
            raise ValueError("it is too long")
    numbers = [side for side in (left, right) if isinstance(side, int)]
    if len(numbers) == 2 and max(map(abs, numbers)) > 2**63:
        raise ValueError("it is too large")
