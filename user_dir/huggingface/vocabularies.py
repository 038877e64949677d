"""A source's tokeniser and, in its order, fairseq's dictionary."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.processors import RobertaProcessing

from ..data.tokenizing import symbol_of
from ..errors import UserError
from ..files import read_json
from ..models.families.base import ANGLES, BRACKETS, Kind
from .sources import (
    DAMAGED,
    Added,
    AddedTokens,
    TokenizerOptions,
    filler,
    inside,
    naming,
    needed,
    read_merges,
    read_numbers,
    read_vocabulary,
)

#: Whose text is split as a vocab.txt alone says.
_PLAIN = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")


def build_tokenizer(source: Path, kind: Kind) -> Tokenizer:
    """The source's tokenizer.json, or the same built from its vocabulary files.

    Raises:
        UserError: there is no tokeniser, or it is not readable.

    """
    if path := inside(source, "tokenizer.json"):
        with naming(source, "the tokeniser cannot be read"):
            tokenizer = Tokenizer.from_file(str(path))
    else:
        tokenizer = _MAKERS[kind.vocabulary](source, kind.special)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def special_tokens(tokenizer: Tokenizer, kind: Kind, source: Path) -> Mapping[str, str]:
    """The tokeniser's token for each of fairseq's.

    A spelling whose ends the tokeniser puts around a text, the type's own first: a BERT
    with XLM-R's vocabulary, as multilingual-e5-small is, spells them as XLM-R, KLUE's
    RoBERTa as BERT. Else what the source's files name, as mmBERT's do Gemma's.
    """
    around = tokenizer.encode("").tokens
    spellings = [kind.special, ANGLES, BRACKETS]
    known = [spelling for spelling in spellings if _has(tokenizer, spelling)]
    for spelling in known:
        if around[:1] + around[-1:] == [spelling["<s>"], spelling["</s>"]]:
            return spelling
    named = _named_ends(source)
    # Of mBART's texts neither end is <s>.
    return named if _has(tokenizer, named) else [*known, kind.special][0]


def _has(tokenizer: Tokenizer, spelling: Mapping[str, str]) -> bool:
    tokens = [spelling.get(name, "") for name in ("<s>", "<pad>", "</s>", "<unk>")]
    return all(tokenizer.token_to_id(token) is not None for token in tokens)


def _named_ends(source: Path) -> dict[str, str]:
    """Special tokens as a source's files name them; some may be missing."""
    options: TokenizerOptions = {
        **_said(source, "special_tokens_map.json", TokenizerOptions),
        **_tokenizer_options(source),
    }
    found = {
        "<s>": options.get("cls_token") or options.get("bos_token"),
        "<pad>": options.get("pad_token"),
        "</s>": options.get("sep_token") or options.get("eos_token"),
        "<unk>": options.get("unk_token"),
        "<mask>": options.get("mask_token"),
    }
    return {name: _special(said).content for name, said in found.items() if said}


def tokens_read(source: Path, positions: int) -> int | None:
    """Tokens that a source cuts texts to; None where it has no fewer than positions."""
    said = _tokenizer_options(source).get("model_max_length")
    return int(said) if said is not None and 3 <= said < positions else None


def without_lost_mask(tokenizer: Tokenizer, mask: str, rows: int) -> Tokenizer:
    """The tokeniser without a mask, its last token, that the table has no row for.

    bart-large-cnn and bart-large-xsum are such: nothing is masked in summarising.
    """
    if tokenizer.token_to_id(mask) != rows:
        return tokenizer
    said = json.loads(tokenizer.to_str())
    said["added_tokens"] = [t for t in said["added_tokens"] if t["content"] != mask]
    if isinstance(said["model"]["vocab"], dict):
        said["model"]["vocab"].pop(mask, None)
    return Tokenizer.from_str(json.dumps(said))


def check_end(tokenizer: Tokenizer, end: str, source: Path) -> None:
    """Refuse a decoder's tokeniser that ends no text: that is where summaries stop.

    Raises:
        UserError: says what it lacks.

    """
    if end not in tokenizer.encode("").tokens:
        raise UserError(
            f"{source}: its tokeniser puts no {end} after a text, where a summary "
            "would end; give its tokenizer.json a post_processor that does (a "
            f"TemplateProcessing such as '<s> $A {end}')"
        )


def _said(source: Path, name: str, schema: type[Any]) -> Any:
    """What a file says, or nothing where there is none."""
    path = inside(source, name)
    return read_json(path, schema, DAMAGED) if path else {}


def _tokenizer_options(source: Path) -> TokenizerOptions:
    options: TokenizerOptions
    options = _said(source, "tokenizer_config.json", TokenizerOptions)
    return options


def _vocabulary(source: Path, name: str) -> Path:
    return needed(source, name, f"{source} has neither tokenizer.json nor {name}")


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _added(source: Path) -> list[tuple[int | None, AddedToken]]:
    """Tokens beside a vocabulary's, with the number that a file gives them."""
    config: AddedTokens = _said(source, "tokenizer_config.json", AddedTokens)
    named, found = _named(config), {}
    if "added_tokens_decoder" in config:
        tokens = config["added_tokens_decoder"].items()
        found = {int(number): AddedToken(**token) for number, token in tokens}
    else:
        named |= _named(_said(source, "special_tokens_map.json", AddedTokens))
        path = inside(source, "added_tokens.json")
        for token, number in (read_numbers(path) if path else {}).items():
            special = token in named
            found[number] = AddedToken(token, normalized=not special, special=special)
    known = {token.content for token in found.values()}
    rest = [(None, token) for name, token in named.items() if name not in known]
    return [*sorted(found.items(), key=lambda item: item[0]), *rest]


def _named(said: AddedTokens) -> dict[str, AddedToken]:
    """Special tokens that are named beside those of every model."""
    lists = [said.get("additional_special_tokens"), said.get("extra_special_tokens")]
    tokens: list[str | Added] = []
    for some in lists:
        tokens += some.values() if isinstance(some, dict) else some or []
    return {token.content: token for token in map(_special, tokens)}


def _special(said: str | Added) -> AddedToken:
    plain = {"content": said, "normalized": False}
    options: dict[str, Any] = plain if isinstance(said, str) else {**said}
    return AddedToken(**{**options, "special": True})


def _add(built: Any, source: Path) -> None:
    """Add what a directory has beside its vocabulary.

    Raises:
        UserError: a token would have another number than it says.

    """
    for number, token in _added(source):
        add = built.add_special_tokens if token.special else built.add_tokens
        add([token])
        place = built.token_to_id(token.content)
        if number not in (None, place):
            raise UserError(
                f"{source}: the added token {token.content!r} has the number {number}, "
                f"and after the vocabulary comes {place}; {DAMAGED}"
            )


def _check_plain(source: Path, options: TokenizerOptions) -> None:
    """Refuse a tokeniser that does something else before it looks into vocab.txt."""
    config = _said(source, "config.json", TokenizerOptions)
    name = options.get("tokenizer_class") or config.get("tokenizer_class")
    if name and name.removesuffix("Fast") not in _PLAIN:
        raise UserError(
            f"{source}: vocab.txt alone is not all of a {name}, only of "
            f"{', '.join(_PLAIN)}; it needs a tokenizer.json"
        )


def _wordpiece(source: Path, _: Mapping[str, str]) -> Tokenizer:
    vocabulary = read_vocabulary(_vocabulary(source, "vocab.txt"))
    options = _tokenizer_options(source)
    _check_plain(source, options)
    with naming(source, "the tokeniser cannot be read"):
        built = BertWordPieceTokenizer(
            vocabulary,
            lowercase=_or(options.get("do_lower_case"), True),
            strip_accents=options.get("strip_accents"),
            handle_chinese_chars=_or(options.get("tokenize_chinese_chars"), True),
        )
    _add(built, source)
    return Tokenizer.from_str(built.to_str())


def _byte_level_bpe(source: Path, special: Mapping[str, str]) -> Tokenizer:
    vocabulary = read_numbers(_vocabulary(source, "vocab.json"))
    merges = read_merges(_vocabulary(source, "merges.txt"))
    space = _or(_tokenizer_options(source).get("add_prefix_space"), False)
    with naming(source, "the tokeniser cannot be read"):
        built = ByteLevelBPETokenizer(vocabulary, merges, add_prefix_space=space)
    _add(built, source)
    built.add_special_tokens(list(special.values()))
    ends = [special[name] for name in ("</s>", "<s>")]
    last, first = ((token, built.token_to_id(token)) for token in ends)
    built._tokenizer.post_processor = RobertaProcessing(
        last, first, trim_offsets=True, add_prefix_space=space
    )
    return Tokenizer.from_str(built.to_str())


def _converted(source: Path, _: Mapping[str, str]) -> Tokenizer:
    """Vocabulary files that are no tokenizer.json, converted by transformers.

    Raises:
        UserError: transformers is not installed or cannot read them.

    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UserError(
            f"{source} has no tokenizer.json; making one of its vocabulary needs "
            "transformers: pip install transformers"
        ) from None
    with naming(source, "the tokeniser cannot be read"):
        loaded = AutoTokenizer.from_pretrained(
            source, use_fast=True, local_files_only=True, trust_remote_code=False
        )
        return Tokenizer.from_str(loaded.backend_tokenizer.to_str())


_MAKERS: dict[str, Callable[[Path, Mapping[str, str]], Tokenizer]] = {
    "wordpiece": _wordpiece,
    "byte-level": _byte_level_bpe,
    "transformers": _converted,
}


def gives_two_types(source: Path, tokenizer: Tokenizer, separator: str) -> bool:
    """Whether pairs have token type 1 after the first separator, as BERT's have.

    Raises:
        UserError: they have types in another order.

    """
    named = _tokenizer_options(source).get("model_input_names")
    encoding = tokenizer.encode("a", "b")
    if not any(encoding.type_ids) or (named and "token_type_ids" not in named):
        return False
    end = encoding.tokens.index(separator) if separator in encoding.tokens else -1
    if encoding.type_ids != [int(i > end) for i in range(len(encoding.ids))]:
        raise UserError(
            f"{source}: its tokeniser gives a pair token types {encoding.type_ids}; "
            f"only 1 after the first {separator} can be imported"
        )
    return True


def build_dictionary(
    tokenizer: Tokenizer, special: Mapping[str, str], rows: int, source: Path
) -> tuple[Dictionary, np.ndarray]:
    """A fairseq dictionary in the tokeniser's order, special tokens first.

    Args:
        tokenizer: the source's.
        special: its token for each of fairseq's.
        rows: rows of the embedding table; more than the vocabulary are kept as
            filler, fewer are an error.
        source: named in errors.

    Returns:
        The dictionary, and the embedding row of each of its symbols.

    Raises:
        UserError: a special token is missing, or the table is too small.

    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    _check_vocabulary(vocabulary, special, rows, source)
    by_id = {index: token for token, index in vocabulary.items()}
    first = [special[name] for name in ("<s>", "<pad>", "</s>", "<unk>")]
    dictionary, order = Dictionary(), [vocabulary[token] for token in first]
    for index in range(rows):
        token = by_id.get(index)
        if token not in first:
            name = filler(index, vocabulary) if token is None else token
            dictionary.add_symbol(symbol_of(name, special))
            order.append(index)
    return dictionary, np.array(order)


def _check_vocabulary(
    vocabulary: dict[str, int], special: Mapping[str, str], rows: int, source: Path
) -> None:
    """Refuse tokens that a fairseq dictionary, a token a line, cannot hold."""
    for name, token in special.items():
        if token not in vocabulary and name != "<mask>":
            raise UserError(f"{source}: the tokeniser has no {token}")
    if max(vocabulary.values()) >= rows:
        raise UserError(
            f"{source}: the tokeniser has {max(vocabulary.values()) + 1} tokens and "
            f"the embedding table {rows} rows; they are not of one model"
        )
    seen: dict[int, str] = {}
    for token, index in vocabulary.items():
        if seen.setdefault(index, token) != token:
            raise UserError(
                f"{source}: the tokeniser has {seen[index]!r} and {token!r} for the "
                f"one number {index}; {DAMAGED}"
            )
        _check_token(token, index, source)
        symbol = symbol_of(token, special)
        if token in special and symbol != token and symbol in vocabulary:
            raise UserError(
                f"{source}: the tokeniser has the tokens {token!r} and {symbol!r}, "
                "which would be one in fairseq's dictionary; rename or remove one"
            )


def _check_token(token: str, index: int, source: Path) -> None:
    """Refuse what would be no line of its own."""
    if not token or "\n" in token or "\r" in token:
        raise UserError(
            f"{source}: the tokeniser's token {token!r} (number {index}) is empty "
            "or has a line break, and fairseq's dictionary is a token a line; "
            "rename or remove it"
        )
