"""People's own files: text stays text, and what a file cannot mean is one line."""

import gzip
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import (
    FAIRSEQ_STEADY,
    SCORE_FLAGS,
    SPECIAL,
    Trainer,
    environment,
    sentences,
    word_tokenizer,
)
from fairseq_steady.data import SentenceTokenizer, encode_cached, read_table
from fairseq_steady.data.cache import score_targets
from fairseq_steady.data.glue import LAYOUTS
from fairseq_steady.data.labels import refuse_look_alikes
from fairseq_steady.data.layouts import find_split, read_split
from fairseq_steady.data.pairs import find_pairs, read_pairs
from fairseq_steady.data.readers import (
    Example,
    read_sentence_tab_label,
    stream_inputs,
)
from fairseq_steady.data.sampling import parse_size, stratified_subset
from fairseq_steady.data.tables import columns_of
from fairseq_steady.errors import UserError
from fairseq_steady.files import sha256
from fairseq_steady.huggingface.importing import build_dictionary
from fairseq_steady.inference import loading
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.inference.searching import Decoding
from fairseq_steady.inference.summarising import Summarizer
from fairseq_steady.model_dir import Manifest, ModelDirectory, write_model_directory
from fairseq_steady.tasks._sentence import named_like
from fairseq_steady.tasks.text import TextClassificationConfig, TextClassificationTask
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

pytestmark = pytest.mark.usefixtures("own_cache")

# --- text is text ---------------------------------------------------------------------

BERT = dict(zip(SPECIAL, ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), strict=True))


def around(tokenizer: Tokenizer, first: str, last: str) -> Tokenizer:
    """The template of every tokeniser here."""
    ids = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B {last}",
        special_tokens=ids,
    )
    return tokenizer


def wordpiece(splitter: Any) -> Tokenizer:
    pieces = [*BERT.values(), "a", "b", "sep", "[", "]", "##sep", "##]", "##a"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens([*BERT.values(), "[E1]"])
    return around(tokenizer, "[CLS]", "[SEP]")


def bert() -> Tokenizer:
    tokenizer = wordpiece(pre_tokenizers.BertPreTokenizer())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    return tokenizer


def byte_level() -> Tokenizer:
    """BPE whose merges make </s>, as those learnt from web pages do."""
    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "</", "</s"]
    merges = [("<", "/"), ("</", "s"), ("</s", ">")]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken("<br>", normalized=False)])
    return around(tokenizer, "<s>", "</s>")


def unigram() -> Tokenizer:
    """Special tokens are pieces without cost, as in XLM-R, mBART and DeBERTa."""
    free = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(piece, -3.0) for piece in ("▁", "a", "▁a", "b", "▁b", "<", "▁<", "/")]
    more = [(piece, -4.0) for piece in ("s", ">", "m", "k")]
    tokenizer = Tokenizer(models.Unigram([*free, *pieces, *more], 3, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(list(SPECIAL))
    return around(tokenizer, "<s>", "</s>")


Made = tuple[ModelDirectory, Any]


def directory_of(tokenizer: Tokenizer, out: Path) -> Made:
    """A model directory without weights, and its dictionary."""
    special = BERT if tokenizer.token_to_id("[CLS]") is not None else SPECIAL
    rows = tokenizer.get_vocab_size() + 1
    dictionary, _ = build_dictionary(tokenizer, special, rows, out)
    manifest = Manifest("roberta", {}, special)
    made = write_model_directory(out, manifest, {}, dictionary, tokenizer.to_str())
    return made, dictionary


def pieces_of(made: Made, *texts: str, spelled: bool = False) -> list[str]:
    """fairseq's names of the tokens of a text or a pair."""
    directory, dictionary = made
    (ids,), _ = SentenceTokenizer(directory, dictionary, 64, spelled).encode([texts])
    return [dictionary.symbols[i] for i in ids]


#: Tokeniser, text, and its tokens between <s> and </s>.
TEXT = [
    (bert, "a [SEP] b", ["a", "[", "sep", "]", "b"]),
    (bert, "[E1]a", ["[", "<unk>", "]", "a"]),
    (lambda: wordpiece(pre_tokenizers.WhitespaceSplit()), "a [SEP]", ["a", "<unk>"]),
    (byte_level, "b</s>", ["b", "</s", ">"]),
    (byte_level, "<s><br>", ["<", "s", ">", "<br>"]),
    (unigram, "a </s>b", ["▁a", "▁<", "/", "s", ">", "b"]),
    (unigram, "<s>", ["▁<", "s", ">"]),
    (unigram, "<mask>", ["▁<", "m", "a", "s", "k", ">"]),
    (word_tokenizer, "w1 </s> w2 <pad>", ["w1", "<unk>", "w2", "<unk>"]),
    (word_tokenizer, "<s> <mask> <unk>", ["<unk>", "<unk>", "<unk>"]),
]


@pytest.mark.parametrize(("make", "text", "expected"), TEXT)
def test_a_special_tokens_spelling_is_read_as_text(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], Tokenizer],
    text: str,
    expected: list[str],
) -> None:
    made = directory_of(make(), tmp_path / "m")
    assert pieces_of(made, text) == ["<s>", *expected, "</s>"]
    assert "--steady-special-tokens makes such spellings" in caplog.text
    pair = ["<s>", *expected, "</s>", *expected, "</s>"]
    assert pieces_of(made, text, text) == pair
    # Asked for, they are what they name.
    asked = pieces_of(made, text, spelled=True)
    assert asked != ["<s>", *expected, "</s>"]
    assert (asked[0], asked[-1]) == ("<s>", "</s>")


def test_other_text_has_the_tokens_it_has_with_special_tokens_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for make in (bert, byte_level, unigram, word_tokenizer):
        made = directory_of(make(), tmp_path / make.__name__)
        for text in ("a b a", "w1 w2", "ab <", "¿?", "<br> a", ""):
            assert pieces_of(made, text) == pieces_of(made, text, spelled=True)
    assert not caplog.records


def test_what_is_generated_shows_no_special_tokens(tmp_path: Path) -> None:
    directory, dictionary = directory_of(byte_level(), tmp_path / "m")
    tokenizer = SentenceTokenizer(directory, dictionary, 64)
    (ids,), _ = tokenizer.encode([("a</s>b <br>",)])
    assert tokenizer.decode(ids.tolist()) == "a</s>b <br>"
    mask = dictionary.index("<mask>")
    assert tokenizer.decode([0, mask, *ids[1:2], dictionary.unk(), 2]) == "a"
    # Also where they are entries of the vocabulary like any other.
    directory, dictionary = directory_of(word_tokenizer(), tmp_path / "w")
    tokenizer = SentenceTokenizer(directory, dictionary, 64)
    names = ("<s>", "<mask>", "w1", "<unk>", "<pad>", "w2", "</s>")
    assert tokenizer.decode([dictionary.index(name) for name in names]) == "w1 w2"


@pytest.mark.parametrize("cleanup", [True, False])
def test_apostrophes_are_joined_as_transformers_does(
    cleanup: bool, tmp_path: Path
) -> None:
    made = bert()
    made.add_tokens(["it", "'", "s", "."])
    made.decoder = decoders.WordPiece(cleanup=cleanup)
    directory, dictionary = directory_of(made, tmp_path / "m")
    tokenizer = SentenceTokenizer(directory, dictionary, 64)
    (ids,), _ = tokenizer.encode([("it's a.",)])
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=made, clean_up_tokenization_spaces=cleanup
    )
    known = made.encode("it's a.", add_special_tokens=False).ids
    wanted = "it's a." if cleanup else "it ' s a ."
    assert tokenizer.decode(ids.tolist()) == wanted == theirs.decode(known)


def test_a_spelling_is_remarked_once_and_half_a_character_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory, dictionary = directory_of(word_tokenizer(), tmp_path / "m")
    tokenizer = SentenceTokenizer(directory, dictionary, 64)
    for _ in range(2):
        tokenizer.encode([("w1 </s>",), ("w2 </s>",)])
    assert len(caplog.records) == 1
    with pytest.raises(UserError, match=r"half a character, '\\ud83d'; remove it"):
        tokenizer.encode([("w1 \ud83d",)])


def test_a_cache_is_of_one_reading_and_of_none_before_there_were_two(
    tmp_path: Path,
) -> None:
    directory, dictionary = directory_of(word_tokenizer(), tmp_path / "m")
    path = tmp_path / "u.txt"
    path.write_text("w1 </s>\t1\n")
    for _ in range(2):
        for spelled, token in ((False, 3), (True, 2)):
            tokenizer = SentenceTokenizer(directory, dictionary, 8, spelled)
            assert tokenizer.digest != sha256(directory.tokenizer_path)
            found = encode_cached(
                path, read_sentence_tab_label, "", ("0", "1"), tokenizer, None
            )
            assert found.tokens[0].tolist() == [0, 6, token, 2]
    assert len(list((tmp_path / "fairseq-steady").iterdir())) == 2


def spelled_data(folder: Path) -> Path:
    """Sentences with spellings of special tokens anywhere, another number in each."""
    marks = ["", "</s>", "<s> </s>", "<pad> </s> </s>"]
    rows = [
        f"{marks[i % 4]} {text} {marks[i % 3]}\t{label}"
        for i, (text, label) in enumerate(sentences(24))
    ]
    for name in ("train", "valid"):
        (folder / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows]))
    return folder


def test_barts_head_trains_on_text_that_spells_its_end(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    common = [spelled_data(tmp_path), "--task=text_classification", "--max-update=2"]
    common += [f"--steady-model={models['bart']}", "--no-save"]
    done = fairseq_train(*common)
    said = f"train: {tmp_path / 'train.tsv'}: 24 sentences (0: 12, 1: 12)"
    assert said in done.stderr
    done = fairseq_train(*common, "--steady-special-tokens", status=1)
    assert done.stderr.splitlines()[-1] == (
        "error: --steady-special-tokens does not go with BART's head, which reads the "
        "one place where a sentence ends; leave the flag out"
    )


def test_predictions_read_special_tokens_as_the_checkpoint_did(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    data = spelled_data(tmp_path)
    for flags, tokens in (([], [0, 6, 3, 2]), (["--steady-special-tokens"], None)):
        out = tmp_path / f"out{len(flags)}"
        fairseq_train(
            *(data, "--task=text_classification", "--max-update=1", *flags),
            *(f"--steady-model={models['roberta']}", f"--save-dir={out}"),
            "--no-epoch-checkpoints",
        )
        predict = Predictor(out / "checkpoint_last.pt", cpu=True)
        (ids,), _ = predict.tokenizer.encode([("w1 </s>",)])
        assert ids.tolist() == (tokens or [0, 6, 2, 2])


# --- columns and cells ----------------------------------------------------------------


def file(path: Path, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    return path


#: Name, content, and all of the message behind the path.
CELLS = {
    "doubled": (
        "t.csv",
        "text,label,text\na,1,b\n",
        ":1: the header has column 'text' 2 times; rename or remove all but one",
    ),
    "doubled key": (
        "t.jsonl",
        '{"text": "a", "text": "b", "label": 1}',
        ":1: column 'text' is there twice; remove one",
    ),
    "number as text": (
        "t.jsonl",
        '{"text": 17, "label": 1}',
        ":1: column 'text' holds 17, not text; write a string, as in \"17\"",
    ),
    "list": (
        "t.jsonl",
        '{"text": ["a", "b"], "label": 1}',
        ':1: column \'text\' holds ["a", "b"], not text; write a string',
    ),
    "null": (
        "t.jsonl",
        '{"text": "a", "label": null}',
        ":1: column 'label' is null; fill it or remove the row",
    ),
    "true": (
        "t.jsonl",
        '{"text": "a", "label": 1}\n{"text": "a", "label": true}',
        ":2: column 'label' holds true; write a string or an integer",
    ),
    "1.0": (
        "t.jsonl",
        '{"text": "a", "label": 1.0}',
        ":1: column 'label' holds 1.0; write the class as 1 or \"1\"",
    ),
    "NaN": (
        "t.jsonl",
        '{"text": "a", "label": NaN}',
        ":1: column 'label' holds NaN; write a string or an integer",
    ),
    "surrogate": (
        "t.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b \\ud83d", "label": 1}',
        ":2: column 'text' holds half a character, '\\ud83d'; remove it or write the "
        "whole character",
    ),
    "array": (
        "t.json",
        '[\n{"text": "a", "label": 1}\n]',
        ":1: '[' is not a JSON object; write one object a line, as with: jq -c '.[]'",
    ),
    "deep": ("t.jsonl", "[" * 100_000, None),
    "second header": (
        "t.csv",
        "\ufefftext,label\na,1\n\ufefftext,label\nb,1\n",
        ":3: the header again; are these two files, one after the other? remove the "
        "line",
    ),
    "open quote": (
        "t.csv",
        'text,label\na,1\n"b,1\nc,1\nd,1\n',
        ":3: not CSV (unexpected end of data); mend the quotes",
    ),
    "blank row": (
        "t.csv",
        "text,label\na,1\n\nb,1\n",
        ":3: an empty line; remove it",
    ),
    "utf-16": (
        "t.csv",
        "text,label\né,1\n".encode("utf-16"),
        " is UTF-16 text; make it text: iconv -f UTF-16 -t UTF-8 {path} > NEW",
    ),
    "utf-16 bare": (
        "t.csv",
        "text,label\né,1\n".encode("utf-16-be"),
        " looks like UTF-16 text; make it UTF-8: iconv -f UTF-16BE -t UTF-8 {path} "
        "> NEW",
    ),
    "gzip": (
        "t.csv",
        gzip.compress(b"text,label\na,1\n"),
        " is compressed by gzip; make it text: gzip -dc {path} > NEW",
    ),
    "lfs": (
        "t.csv",
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2\n",
        " is a Git LFS pointer, not the data; make it text: git lfs pull",
    ),
    "cp1252": (
        "t.csv",
        b"text,label\nit\x92s,1\n",
        ":2: byte 0x92 is not UTF-8; convert the file, if Western, with: iconv -f "
        "cp1252 -t UTF-8 {path}",
    ),
    "unknown": (
        "t.csv",
        b"text,label\n\x81\x40,1\n",
        ":2: byte 0x81 is not UTF-8; find the file's encoding, as with: file "
        "--mime-encoding {path}",
    ),
    "mixed": (
        "t.csv",
        b"text,label\n\xc3\xa9,1\n\xe9,1\n",
        ":3: byte 0xe9 is not UTF-8, the text before is; mend the line",
    ),
    "cut": (
        "t.csv",
        b"text,label\na,1\n\xc3",
        ":3: the file ends within a character; get it again",
    ),
}


@pytest.mark.parametrize("case", CELLS)
def test_what_a_table_cannot_mean_is_one_line(tmp_path: Path, case: str) -> None:
    name, content, message = CELLS[case]
    path = file(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        list(read_table(path, ["text"], "label"))
    if message:
        assert str(caught.value) == f"{path}{message.format(path=path)}"
    assert "\n" not in str(caught.value)


def test_integers_and_strings_are_one_class_and_scores_are_numbers(
    tmp_path: Path,
) -> None:
    lines = [json.dumps({"text": "a", "label": label}) for label in (1, "1", 0)]
    # Files put one after the other have marks within.
    path = file(tmp_path / "a.jsonl", "\n\ufeff".join(lines))
    assert [e.label for e in read_table(path, ["text"], "label")] == ["1", "1", "0"]
    lines = [json.dumps({"text": "a", "label": label}) for label in (1, 1.5, "2e0")]
    examples = list(
        read_table(file(path, "\n".join(lines)), ["text"], "label", scores=True)
    )
    assert score_targets(path, examples).tolist() == [1, 1.5, 2]
    file(path, '{"text": "a", "label": true}')
    with pytest.raises(UserError, match="holds true; write a number"):
        list(read_table(path, ["text"], "label", scores=True))


@pytest.mark.parametrize("text", ["3_5", "0x1f", "inf", "nan", "１２", "1,5", ""])
def test_only_plain_numbers_are_numbers(text: str) -> None:
    with pytest.raises(UserError, match="f:7: score .* is not a finite number"):
        score_targets(Path("f"), [Example(("a",), text, 7)])
    with pytest.raises(UserError, match="--f .* is neither a count from 1 to 100"):
        parse_size(text, 100, "--f")
    plain = [Example(("a",), text, 1) for text in ("-3.5", "+.5", "5.", "1E-2")]
    assert score_targets(Path("f"), plain).tolist() == [-3.5, 0.5, 5, 0.01]


#: What is read with a warning: the warning, and the rows.
DOUBTFUL = {
    "pandas": (
        "t.tsv",
        'text\tlabel\n"so" he ""said\t0\n"He said ""hi"" x"\t1\n',
        ":3: a cell in doubled quotes",
        2,
    ),
    "stray quote": (
        "t.csv",
        'text,label\na,1\n"he said,0\nb,1\nc,0\nd",1\ne,0\n',
        ":3: a quoted cell spans 4 lines, to line 6, and has rows within it, as 'b,1'",
        3,
    ),
    "mark inside": (
        "t.csv",
        "text,label\na,1\n\ufeffb,1\n",
        ":3: a byte order mark, which is left out",
        2,
    ),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_what_a_table_can_hardly_mean_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    name, content, said, count = DOUBTFUL[case]
    path = file(tmp_path / name, content)
    rows = list(read_table(path, ["text"], "label"))
    assert len(rows) == count
    assert f"{path}{said}" in caplog.text
    assert len(caplog.records) == 1
    assert not any("\ufeff" in row.texts[0] for row in rows)


def test_paragraphs_in_cells_are_no_stray_quotes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = '"One, two.\nThree, four.\n\nFive, six."'
    path = file(tmp_path / "t.csv", f"text,label\n{long},1\nb,0\n{long},0\n")
    assert len(list(read_table(path, ["text"], "label"))) == 3
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "content", "separator"),
    [
        ("t.csv", "text;label\na;1\n", ";"),
        ("t.csv", "text\tlabel\na\t1\n", "\t"),
        ("t.tsv", "text,label\na,1\n", ","),
        ("t.tsv", "text|label\na|1\n", "|"),
        # Rows that do not fit, names of one's own.
        ("t.csv", 'text;label\n"Hello, world";pos\n', ";"),
        ("t.csv", "Satz;Klasse\na, b;pos\n", ";"),
        ("t.csv", "Satz;Klasse\na b;pos\n", ";"),
        ("t.csv", "text\tlabel\na, b\tpos\n", "\t"),
        ("t.tsv", "text,label\na\tb,pos\n", ","),
    ],
)
def test_a_table_parted_otherwise_is_told_from_other_columns(
    tmp_path: Path, name: str, content: str, separator: str
) -> None:
    mends = {",": "rename the file to .csv", "\t": "rename the file to .tsv"}
    path, header = file(tmp_path / name, content), content.partition("\n")[0]
    with pytest.raises(UserError) as caught:
        _ = columns_of(path) and list(read_table(path, ["text"], "label"))
    assert str(caught.value) == (
        f"{path}:1: {header!r} is one column; is it parted by {separator!r}?; "
        + mends.get(separator, "write it as CSV, with commas")
    )


def test_a_tsv_with_every_name_in_quotes_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path / "t.tsv", '"text"\t"label"\n"Good film"\t"pos"\n')
    with pytest.raises(UserError, match=r"t\.tsv:1: .*stand in quotes; a \.tsv has no"):
        columns_of(path)
    assert columns_of(path, quoted=True) == ["text", "label"]
    path = file(tmp_path / "u.tsv", 'text\tlabel\n"a\nb"\t1\n')
    with pytest.raises(UserError, match=r"u\.tsv:2: 1 columns .*; if a cell in quotes"):
        list(read_table(path, ["text"], "label"))


def test_lines_that_end_in_carriage_returns_are_no_header(tmp_path: Path) -> None:
    path = file(tmp_path / "t.tsv", b"text\tlabel\ra\t1\rb\t0\r")
    with pytest.raises(UserError) as caught:
        list(read_table(path, ["text"], "label"))
    assert str(caught.value) == (
        f"{path}: its lines end in carriage returns alone; make them line feeds: "
        f"tr '\\r' '\\n' < {path} > NEW"
    )


def test_so_they_are_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for content, count in ((b"a\rb\nc\rd", 2), (b"a\r\n", 1), (b"a\rb\r", 0)):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        if count:
            assert len(list(stream_inputs(None))) == count
            continue
        with pytest.raises(UserError, match="standard input: its lines end in carr"):
            list(stream_inputs(None))


# --- which file -----------------------------------------------------------------------


def test_two_files_that_differ_are_refused_and_named(tmp_path: Path) -> None:
    first = file(tmp_path / "train.tsv", "text\tlabel\na\t1\n")
    second = file(tmp_path / "train.csv", "text,label\na,1\n")
    with pytest.raises(UserError) as caught:
        named_like(str(tmp_path), "train")
    assert str(caught.value) == (
        f"several different files could be the train set: {first}, {second}; keep one"
    )
    second.write_bytes(first.read_bytes())
    assert named_like(str(tmp_path), "train") == first
    upper = file(tmp_path / "DEV.CSV", "text,label\na,1\n")
    assert named_like(str(tmp_path), "valid") == upper
    assert [e.label for e in read_table(upper, ["text"], "label")] == ["1"]
    (tmp_path / "test.tsv").mkdir()
    with pytest.raises(UserError, match=r"test\.tsv is a folder, not a file; rename"):
        named_like(str(tmp_path), "test")
    file(tmp_path / "ood.xlsx", "x")
    with pytest.raises(UserError, match="no ood file but ood.xlsx; put ood.csv, .tsv"):
        named_like(str(tmp_path), "ood")
    with pytest.raises(UserError, match=r"train\.tsv is a file; name the folder that"):
        named_like(str(first), "train")
    with pytest.raises(UserError, match="mispelt.csv does not exist; name the folder"):
        named_like(str(tmp_path / "mispelt.csv"), "train")
    for name in ("validation.json", "val.csv"):
        (tmp_path / "other").mkdir(exist_ok=True)
        other = file(tmp_path / "other" / name, "x")
        assert named_like(str(tmp_path / "other"), "valid") == other
        other.unlink()


def test_pairs_of_two_forms_are_refused_and_upper_case_is_read(tmp_path: Path) -> None:
    table = file(tmp_path / "TRAIN.CSV", "source,target\na,b\n")
    assert find_pairs(tmp_path, "train") == [table]
    (pair,) = read_pairs([table])
    assert (pair.source, pair.target) == ("a", "b")
    for side in ("source", "target"):
        file(tmp_path / f"train.{side}", "a\n")
    with pytest.raises(UserError, match="could be the train set: .*TRAIN.CSV, .* with"):
        find_pairs(tmp_path, "train")
    file(table, '{"source": ["a"], "target": "b"}')
    table = table.rename(tmp_path / "train.jsonl")
    with pytest.raises(UserError, match=r"train\.jsonl:1: column 'source' holds \[\"a"):
        list(read_pairs([table]))


def test_mrpc_without_a_dev_file_names_the_other_split(tmp_path: Path) -> None:
    file(tmp_path / "msr_paraphrase_test.txt", "x")
    with pytest.raises(UserError, match="'valid'; .* --valid-subset test$"):
        find_split(tmp_path, LAYOUTS["mrpc"], "valid")
    with pytest.raises(UserError, match="MRPC's$"):
        find_split(tmp_path, LAYOUTS["mrpc"], "train")


def test_a_file_without_rows_is_called_empty(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    path = file(tmp_path / "dev.tsv", "index\tsentence1\tsentence2\tlabel\n")
    with pytest.raises(UserError, match=r"dev\.tsv has a header and no rows"):
        list(read_split(path, LAYOUTS["rte"]))
    rows = [f"w{i} w1,w{i}" for i in range(5)]
    table = file(tmp_path / "all.csv", "\n".join(["source,target", *rows]) + "\n")
    path.unlink()
    done = fairseq_train(
        *(tmp_path, "--task=summarization", f"--steady-model={models['bart']}"),
        *("--max-update=1", "--no-save"),
        status=1,
    )
    said = f"error: the valid set is empty: {table} has nothing for it"
    assert done.stderr.splitlines()[-1] == said


# --- labels ---------------------------------------------------------------------------


def labels_of(folder: Path, rows: list[str], named: str | None = None) -> list[str]:
    """What a task finds: names given, or those of the training file."""
    file(folder / "train.csv", "\n".join(["text,label", *(f"a,{r}" for r in rows)]))
    task = object.__new__(TextClassificationTask)
    task.cfg = TextClassificationConfig(data=str(folder), steady_labels=named)
    return task._find_labels()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["pos", "pos\u200b", "neg"], r"3: label 'pos\u200b' differs only invisibly"),
        (["caf\u00e9", "cafe\u0301"], r"3: label 'cafe\u0301' differs only invisibly"),
        (["so so", "so\u00a0so"], r"3: label 'so\xa0so' differs only invisibly"),
        (["0", "1", "1.0"], r"4: label '1.0' differs only by its spelling from '1' "),
        (["7", "2", "007"], r"4: label '007' differs only by its spelling from '7' "),
    ],
)
def test_labels_that_only_look_alike_are_refused(
    tmp_path: Path, rows: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        labels_of(tmp_path, rows)
    path = tmp_path / "train.csv"
    assert str(caught.value).startswith(f"{path}:{message}")
    assert str(caught.value).endswith(f"({path}:2); write one of them everywhere") or (
        f"({path}:3)" in str(caught.value)
    )


def test_labels_that_differ_by_case_are_classes_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert labels_of(tmp_path, ["Pos", "neg", "pos"]) == ["Pos", "neg", "pos"]
    assert "label 'pos' differs only by case from 'Pos'" in caplog.text
    caplog.clear()
    assert labels_of(tmp_path, ["1.1", "1.10", "-1"]) == ["-1", "1.1", "1.10"]
    refuse_look_alikes({"1": "a", "-1": "b", "ab": "c"})
    assert not caplog.records


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("a,b,a", "--steady-labels a,b,a: label 'a' is there twice; name each class"),
        ("a,,b", "--steady-labels a,,b: label '' is empty; name each class once"),
        ("a,b,", "--steady-labels a,b,: label '' is empty"),
        ("a,a\u200b", r"--steady-labels: label 'a\u200b' differs only invisibly"),
    ],
)
def test_named_labels_are_each_named_once(
    tmp_path: Path, named: str, message: str
) -> None:
    assert labels_of(tmp_path, ["a"], "b, a") == ["b", "a"]
    with pytest.raises(UserError) as caught:
        labels_of(tmp_path, ["a"], named)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("targets", "size", "message"),
    [
        ([0, 0, 0, 1, 1, 2], 4, "there is only one of class 'odd'; add some of it"),
        (
            [0, 0, 1, 1, 2, 2],
            2,
            "there are 3 classes, so choose from 3 to 3, or use all",
        ),
        ([0, 0, 1, 1, 2, 2, 2], 5, "so choose from 3 to 4, or use all"),
    ],
)
def test_a_sample_that_cannot_be_in_proportion_names_the_class(
    targets: list[int], size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        stratified_subset(np.array(targets), size, 0, ["no", "yes", "odd"])
    said = f"cannot take {size} of {len(targets)} sentences in proportion: "
    assert str(caught.value).startswith(said)


# --- predict and summarize ------------------------------------------------------------


Script = Callable[..., str]


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Script:
    """Run one of the scripts here, with some standard input; what it prints."""

    def run(name: str, *args: object, given: bytes = b"") -> str:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        capfdbinary.readouterr()
        importlib.import_module(f"fairseq_steady.commands.{name}").main(
            [*map(str, args)]
        )
        return capfdbinary.readouterr().out.decode()

    return run


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"a\n\nb\n", ":2: an empty line; each line has an answer: remove it or fill "),
        (b"a\nb\n\n", ":3: an empty line"),
        (b"a\ncaf\xe9\n", ":2: byte 0xe9 is not UTF-8; convert the file, if Western"),
        (b"\xff\xfea\0\n\0", " is UTF-16 text; make it text: iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_each_line_has_an_answer_or_the_one_that_cannot_is_named(
    tmp_path: Path, given: bytes, message: str
) -> None:
    path = file(tmp_path / "a.txt", given)
    with pytest.raises(UserError) as caught:
        list(stream_inputs(path))
    assert str(caught.value).startswith(f"{path}{message}")
    good = file(path, "a\r\n b\u2028c\nd")
    assert [line for _, _, line in stream_inputs(good)] == ["a", " b\u2028c", "d"]


def test_summaries_of_standard_input_name_the_line_too(
    tmp_path: Path, script: Script
) -> None:
    said = "^standard input:2: an empty line; each line has an answer"
    with pytest.raises(UserError, match=said):
        script("summarize", "--lead", "1", given=b"One. Two.\n\nThree.\n")
    path = file(tmp_path / "A.CSV", "article\nOne. Two.\n\u00c9t\u00e9. Three.\n")
    assert script("summarize", "--lead", "1", path) == "One.\n\u00c9t\u00e9.\n"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beam": 0}, "--beam 0 is out of range: hypotheses kept, >= 1"),
        (
            {"min_length": 9, "max_length": 3},
            "--min-length 9 is out of range: more than --max-length 3",
        ),
        (
            {"no_repeat": -1},
            "--no-repeat -1 is out of range: length of n-grams that may not occur "
            "twice, >= 0; 0: none",
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], said: str
) -> None:
    task = SimpleNamespace(decoding=Decoding(), summarizer=None)
    monkeypatch.setattr(loading, "load_trained", lambda *_: (None, task))
    with pytest.raises(UserError, match=f"^{said}$"):
        Summarizer("c.pt", cpu=True, **changes)


def test_nobody_reading_on_is_no_error(tmp_path: Path) -> None:
    path = file(tmp_path / "a.txt", "One. Two.\n" * 30_000)
    with subprocess.Popen(
        [FAIRSEQ_STEADY, "summarize", "--lead=1", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"One.\n"
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait() == 141
    assert "Error" not in said
    assert "Traceback" not in said


@pytest.fixture(scope="session")
def formed(
    models: dict[str, Path],
    score_data: Path,
    cola_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    fairseq_train: Trainer,
) -> dict[str, Path]:
    """A checkpoint of pairs and one of sentences."""
    made = {}
    tasks = {"pairs": [score_data, *SCORE_FLAGS], "single": [cola_data, "--task=cola"]}
    for name, task in tasks.items():
        out = tmp_path_factory.mktemp("formed")
        fairseq_train(
            *(*task, f"--steady-model={models['roberta']}", "--max-update=1"),
            *(f"--save-dir={out}", "--no-epoch-checkpoints", "--disable-validation"),
        )
        made[name] = out / "checkpoint_last.pt"
    return made


def test_a_checkpoint_reads_only_the_form_it_was_trained_on(
    formed: dict[str, Path],
) -> None:
    pairs = Predictor(formed["pairs"], cpu=True)
    single = Predictor(formed["single"], cpu=True)
    assert pairs.columns == ["a", "b"]
    with pytest.raises(UserError, match=r"^'w1': .* trained on pairs: give \(first"):
        list(pairs(["w1"]))
    with pytest.raises(UserError, match=r"^\('w1', 'w2'\): .* on single sentences"):
        list(single([("w1", "w2")]))
    wrong: Any = [None]
    with pytest.raises(UserError, match="^None: the checkpoint was"):
        list(single(wrong))
    with pytest.raises(UserError, match=r"^text '\\ud83d' holds half a character"):
        list(single(["\ud83d"]))
    # Blanks around a text are no part of it, as in training.
    assert list(single(["w1 "])) == list(single(["w1"]))


def test_the_script_takes_the_columns_from_the_checkpoint(
    formed: dict[str, Path], score_data: Path, tmp_path: Path, script: Script
) -> None:
    lines = (score_data / "valid.tsv").read_text().splitlines()
    table = file(tmp_path / "DEV.TSV", "\n".join(lines[:4]))
    renamed = file(tmp_path / "b.tsv", "\n".join(["x\ty\tscore", *lines[1:4]]))
    text = ["\t".join(line.split("\t")[:2]) for line in lines[1:4]]
    plain = file(tmp_path / "c.txt", "\n".join(text))
    run = partial(script, "predict", "--cpu", formed["pairs"])
    found = run(table)
    assert len(found.splitlines()) == 3
    assert run(renamed, "--text-column=x", "--pair-column=y") == found
    assert run(plain) == found


@pytest.mark.parametrize(
    ("kind", "given", "flags", "message"),
    [
        ("pairs", b"w1 w2\n", [], "standard input:1: 0 tabs in 'w1 w2'; the checkpoint "
         "reads pairs, a tab between the two; a table is named .tsv and has a header"),
        ("single", b"w1\n17\tw2\n", [], r"standard input:2: 1 tabs in '17\tw2'; the "
         "checkpoint reads sentences without tabs; a table is named .tsv and has a "
         "header"),
        ("single", b"w1\n\nw2\n", [], "standard input:2: an empty line; each line has "
         "an answer: remove it or fill it"),
        ("single", b"w1\n", ["--pair-column=b"], "{checkpoint} was trained on single "
         "sentences; leave --pair-column b out"),
    ],
)  # fmt: skip
def test_the_script_refuses_another_form(
    formed: dict[str, Path],
    script: Script,
    kind: str,
    given: bytes,
    flags: list[str],
    message: str,
) -> None:
    with pytest.raises(UserError) as caught:
        script("predict", formed[kind], "--cpu", *flags, given=given)
    assert str(caught.value) == message.format(checkpoint=formed[kind])
