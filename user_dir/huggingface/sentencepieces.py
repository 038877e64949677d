"""A sentencepiece model and fairseq's dict.txt as one tokeniser: fairseq's XLM-R."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers import pre_tokenizers as splits
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing

from ..errors import UserError
from .sources import naming

#: fairseq's first rows, which no dict.txt has.
_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
#: The rows that its encoder finds by their spelling, so that a later one is used.
_SPELLED = ("<s>", "</s>")
#: sentencepiece's types of pieces.
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_UNIGRAM = 1
#: NFKC would change this one, and the order of vowels and points in these scripts;
#: sentencepiece does not. What no text holds stands in, or between, meanwhile.
_TILDE, _HELD, _BETWEEN = "\uff5e", "\ufffe", "\uffff"
_POINTS = r"[\u0591-\u05C7\u0610-\u061A\u064B-\u065F\u0670\u06D6-\u06ED]"


class Pieces(NamedTuple):
    """A sentencepiece model: scores of its pieces, and how it rewrites text.

    Args:
        scores: of each piece that text can have.
        charsmap: the rewriting, compiled; may be empty.
        nfkc: whether that is NFKC with exceptions for blanks.

    """

    scores: dict[str, float]
    charsmap: bytes
    nfkc: bool


def read_pieces(path: Path) -> Pieces:
    """A sentencepiece model of the Unigram kind.

    Raises:
        UserError: it is none, or has what the tokenizers library does not do alike.

    """
    from sentencepiece import sentencepiece_model_pb2

    with naming(path, "this is not a sentencepiece model"):
        model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    form = model.normalizer_spec
    odd = {piece.type for piece in model.pieces} - {_NORMAL, _UNKNOWN, _CONTROL}
    plain = form.add_dummy_prefix and form.remove_extra_whitespaces
    if model.trainer_spec.model_type != _UNIGRAM or odd or not plain:
        raise UserError(
            f"{path}: only Unigram models with a blank before the text and no pieces "
            "for bytes or symbols of the user's can be imported, as XLM-R's and "
            "CamemBERT's are"
        )
    return Pieces(
        {piece.piece: piece.score for piece in model.pieces if piece.type == _NORMAL},
        form.precompiled_charsmap,
        "nfkc" in form.name,
    )


def piece_tokenizer(pieces: Pieces, symbols: Sequence[str], release: Path) -> Tokenizer:
    """The tokeniser whose numbers are the rows of fairseq's table of words.

    It reads text as sentencepiece itself does.

    Args:
        pieces: the sentencepiece model.
        symbols: dict.txt's, in order. A special token among them, as CamemBERT has,
            takes the place of fairseq's own.
        release: named in errors.

    Raises:
        UserError: the two are not of one model.

    """
    rows = _rows(symbols)
    known = [row for row in symbols if row not in _FIRST and row != "<mask>"]
    if different := sorted(set(known) ^ set(pieces.scores)):
        raise UserError(
            f"{release}: dict.txt and the sentencepiece model are not of one model: "
            f"{different[0]!r} is in one only"
        )
    scored = [(row, pieces.scores.get(row, 0.0)) for row in rows]
    tokenizer = Tokenizer(Unigram(scored, unk_id=_FIRST.index("<unk>")))
    tokenizer.normalizer = _normalizer(pieces)
    tokenizer.pre_tokenizer = splits.Sequence(
        [splits.Split(" ", "removed"), splits.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    special = [row for row in rows if row not in pieces.scores]
    tokenizer.add_special_tokens([AddedToken(s, normalized=False) for s in special])
    start, end = ((token, rows.index(token)) for token in _SPELLED)
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[start, end],
    )
    return tokenizer


def _rows(symbols: Sequence[str]) -> list[str]:
    """A name for each row; the one of two rows that is not used says so."""
    rows = [*_FIRST, *symbols, *(["<mask>"] if "<mask>" not in symbols else [])]
    again = {token for token in _FIRST if token in symbols}
    unused = {_FIRST.index(token) for token in again if token in _SPELLED}
    unused |= {4 + symbols.index(token) for token in again if token not in _SPELLED}
    return [row + "NOTUSED" * (i in unused) for i, row in enumerate(rows)]


def _normalizer(pieces: Pieces) -> normalizers.Normalizer:
    """Text rewritten as sentencepiece rewrites it.

    The library's own form of the compiled rewriting takes what is one character to a
    reader for one, and drops an accent that follows: ``Precompiled`` alone turns a
    decomposed word of Vietnamese or Korean into another. Composed before, there is
    nothing left to drop.
    """
    steps: list[normalizers.Normalizer] = []
    if pieces.nfkc:
        points = Regex(f"(?<={_POINTS})(?={_POINTS})")
        steps = [
            normalizers.Replace(_TILDE, _HELD),
            normalizers.Replace(points, _BETWEEN),
            normalizers.NFKC(),
            normalizers.Replace(_BETWEEN, ""),
            normalizers.Replace(_HELD, _TILDE),
        ]
    if pieces.charsmap:
        steps.append(normalizers.Precompiled(pieces.charsmap))
    return normalizers.Sequence(steps)
