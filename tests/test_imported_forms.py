"""Hugging Face directories as people have them: other spellings, sides, headers."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.checking import TOLERANCE, assert_equal
from fairseq_steady.huggingface.config import read_config
from fairseq_steady.huggingface.exporting import _tokenizer_config, export_hf
from fairseq_steady.huggingface.importing import (
    _licence,
    _origin,
    _stated_licence,
    import_hf,
)
from fairseq_steady.huggingface.model_card import _fields
from fairseq_steady.huggingface.vocabularies import special_tokens
from fairseq_steady.model_dir import Manifest
from fairseq_steady.models.families import of_model_type
from fairseq_steady.models.families.modernbert import _arguments
from sources import SEQ2SEQ_SIZE, make_source, train_bpe
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing


def word_level(ends: tuple[str, str] | None, *tokens: str) -> Tokenizer:
    """A tokeniser of these tokens that puts the ends around a text."""
    numbers = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(WordLevel(numbers, unk_token=tokens[0]))
    made.pre_tokenizer = Whitespace()
    if ends:
        first, last = ends
        made.post_processor = TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B {last}",
            special_tokens=[(end, made.token_to_id(end)) for end in ends],
        )
    return made


# --- spellings ------------------------------------------------------------------------

HTML = ("<s>", "</s>")
GEMMA = ("<bos>", "<pad>", "<eos>", "<unk>", "<mask>")
ANGLES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BRACKETS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
NAMES = {
    "bos_token": "<bos>",
    "eos_token": {"content": "<eos>", "__type": "AddedToken"},
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
MAP = {name: token for name, token in NAMES.items() if name != "mask_token"}


@pytest.mark.parametrize(
    ("model_type", "ends", "tokens", "named", "expected"),
    [
        ("bert", ("[CLS]", "[SEP]"), BRACKETS, {}, BRACKETS),
        ("bert", ("[CLS]", "[SEP]"), (*ANGLES, *BRACKETS), {}, BRACKETS),
        # multilingual-e5-small
        ("bert", ("<s>", "</s>"), ANGLES, {}, ANGLES),
        # KLUE's RoBERTa, ALBERT with BERT's vocabulary
        ("roberta", ("[CLS]", "[SEP]"), BRACKETS, {}, BRACKETS),
        ("albert", ("[CLS]", "[SEP]"), BRACKETS, {}, BRACKETS),
        # mmBERT: <s> and </s> are HTML
        ("modernbert", ("<bos>", "<eos>"), (*GEMMA, *HTML), NAMES, GEMMA),
        # only special_tokens_map.json says so, and there is no mask
        ("modernbert", ("<bos>", "<eos>"), (*GEMMA[:4], *BRACKETS), MAP, GEMMA),
        # without a template
        ("bert", None, BRACKETS, {}, BRACKETS),
        ("bert", None, ANGLES, {}, ANGLES),
        # mBART
        ("mbart", ("</s>", "en_XX"), (*ANGLES, "en_XX"), {}, ANGLES),
        # nothing fits
        ("roberta", ("a", "b"), ("a", "b"), {}, ANGLES),
    ],
)
def test_special_tokens_are_those_that_the_tokeniser_uses(
    tmp_path: Path,
    model_type: str,
    ends: tuple[str, str] | None,
    tokens: tuple[str, ...],
    named: dict[str, Any],
    expected: tuple[str, ...],
) -> None:
    family = of_model_type(model_type)
    assert family is not None
    where = "special_tokens_map.json" if named is MAP else "tokenizer_config.json"
    (tmp_path / where).write_text(json.dumps(named))
    tokenizer = word_level(ends, *tokens)
    found = special_tokens(tokenizer, family.kinds[model_type], tmp_path)
    wanted = dict(zip(ANGLES, expected, strict=True))
    if named is MAP:
        del wanted["<mask>"]
    assert dict(found) == wanted
    directory = SimpleNamespace(manifest=Manifest("roberta", {}, dict(found)))
    made: Any = SimpleNamespace(
        directory=directory, own_tokenizer=tokenizer, form={}, longest=9
    )
    there = found.get("<mask>") in tokens
    assert _tokenizer_config(made).get("mask_token") == (
        (there and found["<mask>"]) or None
    )


# --- a table that ends before the mask ------------------------------------------------


@pytest.mark.parametrize("with_json", [True, False])
def test_a_mask_without_a_row_is_left_out(tmp_path: Path, with_json: bool) -> None:
    """bart-large-cnn has 50,264 rows for 50,265 tokens, the last of them <mask>."""
    source = tmp_path / "source"
    source.mkdir()
    train_bpe(source, "Roberta")
    vocabulary = json.loads((source / "vocab.json").read_text())
    mask = vocabulary.pop("<mask>")
    vocabulary = {t: i - (i > mask) for t, i in vocabulary.items()}
    rows = len(vocabulary)
    (source / "vocab.json").write_text(json.dumps(vocabulary | {"<mask>": rows}))
    config = transformers.BartConfig(vocab_size=rows, **SEQ2SEQ_SIZE)
    transformers.BartForConditionalGeneration(config).save_pretrained(source)
    if with_json:
        transformers.BartTokenizerFast.from_pretrained(source).save_pretrained(source)
        assert (source / "tokenizer.json").is_file()
    made = import_hf(source, tmp_path / "m")
    assert assert_equal(source, made) <= TOLERANCE
    dictionary = made.dictionary()
    assert len(dictionary) == rows
    assert "<mask>" not in dictionary.indices
    tokenizer = SentenceTokenizer(made, dictionary, 99, spelled=True)
    (ids,), _ = tokenizer.encode([("<mask>",)])
    assert len(ids) > 3  # text as any other
    export_hf(made.path, tmp_path / "hf")
    out = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert len(out) == rows
    assert out.mask_token is None


def test_other_tokens_without_a_row_are_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", "bart")
    rows = len(json.loads((source / "vocab.json").read_text()))
    (source / "added_tokens.json").write_text(json.dumps({"<new>": rows}))
    with pytest.raises(UserError, match=f"has {rows + 1} tokens and .* table {rows} r"):
        import_hf(source, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_decoder_whose_texts_do_not_end_is_refused(tmp_path: Path) -> None:
    """As KoBART's tokenizer.json, whose users add <s> and </s> by hand."""
    source = make_source(tmp_path / "source", "bart")
    tokenizer = word_level(None, *ANGLES, "a")
    tokenizer.save(str(source / "tokenizer.json"))
    with pytest.raises(UserError, match="puts no </s> after a text, where a summary"):
        import_hf(source, tmp_path / "m")


def test_a_tokeniser_may_pad_on_the_left(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", "bert-uncased")
    path = source / "tokenizer_config.json"
    said = json.loads(path.read_text()) | {"padding_side": "left"}
    path.write_text(json.dumps(said))
    assert assert_equal(source, import_hf(source, tmp_path / "m")) <= TOLERANCE


# --- config.json ----------------------------------------------------------------------


def test_a_configuration_without_a_model_type_says_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(UserError, match='names no model_type, .* "model_type": "bert"'):
        read_config(tmp_path)


def test_modernberts_kin_say_things_that_nothing_reads(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", "modernbert")
    path = source / "config.json"
    said = json.loads(path.read_text())
    ropes = said.pop("rope_parameters")
    assert ropes["full_attention"]["rope_theta"] != 9000.0
    said |= {"position_embedding_type": "sans_pos", "global_rope_theta": 9000.0}
    path.write_text(json.dumps(said | {"local_rope_theta": None}))
    form = _arguments(read_config(source)[1])
    assert form["modernbert_global_theta"] == form["modernbert_local_theta"] == 9000.0
    other = make_source(tmp_path / "other", "bert-uncased")
    path = other / "config.json"
    said = json.loads(path.read_text()) | {"position_embedding_type": "sans_pos"}
    path.write_text(json.dumps(said))
    with pytest.raises(UserError, match="no sans_pos positions"):
        read_config(other)


# --- where it is from -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ('---\r\nlicense: "apache-2.0"\r\n---\r\n', "apache-2.0"),
        ("---\nlanguage:\n" + "- xx\n" * 100 + "license: mit\ntags: x\n---\n", "mit"),
        ("---\nlicense:\n- mit\n- apache-2.0\ntags: x\n---\n", "mit, apache-2.0"),
        ("---\ntags: x\n---\nlicense: none of it\n", "cc0"),
        ("# A title\nlicense: none of it\n", "cc0"),
        ("---\nlicense:\ntags:\n- x\n---\n", "cc0"),
    ],
)
def test_a_licence_stands_in_the_header(
    tmp_path: Path, card: str, expected: str
) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert _stated_licence(tmp_path, {"license": "cc0"}) == expected
    assert _licence(expected.upper(), tmp_path, {"license": "cc0"}) == expected
    said = f"--licence gpl: {tmp_path} has the licence {expected}, and the flag is"
    with pytest.raises(UserError, match=re.escape(said)):
        _licence("gpl", tmp_path, {"license": "cc0"})
    (tmp_path / "README.md").unlink()
    assert _stated_licence(tmp_path, {}) is None
    assert _licence("gpl", tmp_path, {}) == "gpl"


BERT = {"model_type": "bert"}


def base_model(source: dict[str, Any]) -> object:
    manifest = Manifest("bert", {}, {}, source)
    made: Any = SimpleNamespace(directory=SimpleNamespace(manifest=manifest), task=None)
    return _fields(made).get("base_model")


@pytest.mark.parametrize(
    ("named", "base"),
    [
        (None, None),  # the folder's name is no model's
        ("org/model-1", "org/model-1"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("out/checkpoint-500", None),
        ("/somewhere/model", None),
    ],
)
def test_a_base_model_is_one_of_the_hub(
    tmp_path: Path, named: str | None, base: str | None
) -> None:
    source = _origin(tmp_path / "source", {**BERT, "_name_or_path": named}, [])
    assert source["name"] == (named or "source")
    assert base_model(source) == base
    # As earlier versions kept it.
    del source["model_type"]
    source.pop("hub", None)
    assert base_model(source) == (base if base and "/" in base else None)


def test_a_snapshot_is_of_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--name" / "snapshots" / "0123"
    assert _origin(folder, BERT, [])["hub"] == "org/name"
