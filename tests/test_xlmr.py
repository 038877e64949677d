"""XLM-R and CamemBERT: Hugging Face's and fairseq's files in, out, and in again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers
from conftest import Trainer, run_command
from fairseq.data import Dictionary
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.checking import hidden_state_error
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.huggingface.release import import_fairseq
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.model_dir import ModelDirectory
from sentencepiece import sentencepiece_model_pb2
from sources import (
    PIECED,
    make_pieced,
    make_pieced_release,
    make_source,
    many_scripts,
)

TABLE = "encoder.sentence_encoder.embed_tokens.weight"
#: What to add to sentencepiece's number of a piece for the row of its embedding.
OFFSET = {"xlm-roberta": 1, "camembert": 4}
#: Rows of the special tokens <s> <pad> </s> <unk>.
SPECIAL = {"xlm-roberta": [0, 1, 2, 3], "camembert": [5, 1, 6, 3]}


@pytest.fixture(scope="module", params=PIECED)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pieced(tmp_path_factory.mktemp("hf") / kind, kind)


@pytest.fixture(scope="module")
def imported(source: Path) -> ModelDirectory:
    return import_hf(source, source.with_name("model"))


@pytest.fixture(scope="module")
def release(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pieced_release(tmp_path_factory.mktemp("fairseq") / kind, kind)


@pytest.fixture(scope="module")
def released(release: Path) -> ModelDirectory:
    return import_fairseq(release, None, release.with_name("model"))


def encoded(
    directory: ModelDirectory, texts: list[tuple[str, ...]], spelled: bool
) -> list[Any]:
    tokenizer = SentenceTokenizer(directory, directory.dictionary(), 200, spelled)
    return tokenizer.encode(texts)[0]


# --- Hugging Face's -------------------------------------------------------------------


def test_hidden_states_equal_transformers_at_every_layer(
    source: Path, imported: ModelDirectory, kind: str
) -> None:
    errors = hidden_state_error(source, imported)
    assert len(errors) == 4
    assert max(errors) <= 1e-5
    assert imported.manifest.source["model_type"] == kind


@pytest.mark.parametrize("has_json", [False, True])
def test_tokens_equal_transformers_in_many_scripts(
    source: Path, imported: ModelDirectory, tmp_path: Path, has_json: bool
) -> None:
    """Rows of embeddings are compared: ids differ where special tokens move."""
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    if has_json:
        shutil.copytree(source, tmp_path / "source")
        theirs.save_pretrained(tmp_path / "source")
        (tmp_path / "source/sentencepiece.bpe.model").unlink()
        imported = import_hf(tmp_path / "source", tmp_path / "model")
    table = imported.weights()[0][TABLE]
    rows = transformers.AutoModel.from_pretrained(source).get_input_embeddings()
    texts = many_scripts()
    pairs = list(zip(texts[:300:3], texts[1:300:3], strict=True))
    given = [*((text,) for text in texts), *pairs]
    assert len(texts) == 1000
    for text, ids in zip(given, encoded(imported, given, spelled=True), strict=True):
        expected = theirs(*text, truncation=True, max_length=200)["input_ids"]
        assert len(ids) == len(expected), text
        for mine, other in zip(ids, expected, strict=True):
            # The row of padding holds no numbers in either.
            assert mine == other == 1 or torch.equal(table[mine], rows.weight[other])


def test_special_tokens_have_fairseqs_ids(
    imported: ModelDirectory, released: ModelDirectory, kind: str
) -> None:
    for directory in (imported, released):
        dictionary = directory.dictionary()
        assert dictionary.symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
        assert dictionary.symbols[-1] == "<mask>"
        (pair,) = encoded(directory, [("cat", "cat")], spelled=False)
        word = dictionary.index("▁cat")
        assert pair.tolist() == [0, word, 2, 2, word, 2]
        (unknown,) = encoded(directory, [("\U0001f9ff",)], spelled=False)
        assert unknown[-2:].tolist() == [3, 2]
        unused = [s for s in dictionary.symbols if s.endswith(">NOTUSED")]
        assert len(unused) == (3 if kind == "camembert" else 0)


def test_a_bert_with_xlmrs_tokeniser_keeps_its_spelling(
    source: Path, tmp_path: Path
) -> None:
    """As multilingual-e5-small is published."""
    bert = tmp_path / "bert"
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=128,
        pad_token_id=1,
    )
    transformers.BertModel(config).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    made = import_hf(bert, tmp_path / "model")
    assert made.manifest.special_tokens["<s>"] == "<s>"
    assert max(hidden_state_error(bert, made)) <= 1e-5
    assert "token_types" not in made.manifest.architecture


# --- fairseq's ------------------------------------------------------------------------


def test_a_release_reads_text_as_fairseq_does(
    release: Path, released: ModelDirectory, kind: str
) -> None:
    """sentencepiece's pieces looked up in fairseq's dictionary, as its hub does."""
    model = str(release / "sentencepiece.bpe.model")
    pieces = sentencepiece.SentencePieceProcessor(model)
    theirs = Dictionary.load(str(release / "dict.txt"))
    table = released.weights()[0][TABLE]
    rows = torch.load(release / "model.pt", weights_only=False)["model"][TABLE]
    start, _, end, _ = SPECIAL[kind]
    texts = many_scripts()
    for text, ids in zip(
        texts, encoded(released, [(t,) for t in texts], spelled=False), strict=True
    ):
        found = [theirs.index(piece) for piece in pieces.encode(text, out_type=str)]
        assert torch.equal(table[ids], rows[[start, *found, end]]), text
    known = [p for p in pieces.encode("The cat 日本語") if p != pieces.unk_id()]
    named = [theirs.index(pieces.id_to_piece(p)) for p in known]
    assert named == [p + OFFSET[kind] for p in known]


def test_a_release_keeps_its_weights(
    release: Path, released: ModelDirectory, kind: str, tmp_path: Path
) -> None:
    kept = torch.load(release / "model.pt", weights_only=False)["model"]
    mine = released.weights()[0]
    assert mine.keys() == kept.keys()
    for name in kept.keys() - {TABLE}:
        assert torch.equal(mine[name], kept[name])
    assert torch.equal(mine[TABLE][:4], kept[TABLE][SPECIAL[kind]])
    assert torch.equal(mine[TABLE][7:], kept[TABLE][7:])
    assert released.manifest.source["model_type"] == kind
    done = run_command("import", release, tmp_path / "again")
    assert done.stdout.endswith("weights and tokeniser as fairseq released them\n")


@pytest.mark.parametrize("origin", ["imported", "released"])
def test_out_and_in_again_is_the_same(
    origin: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    directory = request.getfixturevalue(origin)
    assert export_hf(directory.path, tmp_path / "out") <= 1e-5
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["model_type"] == kind
    assert config["architectures"] == [f"{PIECED[kind]}Model"]
    again = import_hf(tmp_path / "out", tmp_path / "again")
    mine, wanted = again.weights()[0], directory.weights()[0]
    assert {n for n in wanted if not n.endswith("version")} == mine.keys()
    for name in mine:
        # The row of padding and the two before the first position mean nothing.
        first = 2 if name.endswith("embed_positions.weight") else 0
        assert torch.equal(mine[name][first:], wanted[name][first:]), name
    assert again.dictionary().symbols == directory.dictionary().symbols


def test_a_trained_one_predicts_as_its_export_does(
    imported: ModelDirectory, tmp_path: Path, cola_data: Path, fairseq_train: Trainer
) -> None:
    fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={imported.path}"),
        *("--criterion=r3f", "--r3f-eps=0.1", "--max-update=3", "--lr=1e-3"),
        *("--no-epoch-checkpoints", f"--save-dir={tmp_path / 'run'}"),
    )
    path = tmp_path / "run/checkpoint_best.pt"
    assert export_hf(path, tmp_path / "out") <= 1e-5
    classify = transformers.pipeline("text-classification", str(tmp_path / "out"))
    texts = ["日本語 cat", "ภาษาไทย Việt, can't", "x"]
    for found, theirs in zip(
        Predictor(path)(texts), classify(texts, top_k=None), strict=True
    ):
        expected = {score["label"]: score["score"] for score in theirs}
        assert found.probabilities == pytest.approx(expected, abs=1e-5)


# --- what cannot be read --------------------------------------------------------------


def rewrite(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Change a sentencepiece model."""

    def apply(folder: Path) -> None:
        path = folder / "sentencepiece.bpe.model"
        model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
        change(model)
        path.write_bytes(model.SerializeToString())

    return apply


def add_line(text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        with (folder / "dict.txt").open("a") as file:
            file.write(text)

    return apply


def drop_line(folder: Path) -> None:
    lines = (folder / "dict.txt").read_text().split("\n")
    lines.remove("▁cat 9")
    (folder / "dict.txt").write_text("\n".join(lines))


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no pieces": (
        lambda f: (f / "sentencepiece.bpe.model").unlink(),
        "has no sentencepiece.bpe.model, as XLM-R and CamemBERT have; for BART and "
        "RoBERTa name GPT-2's BPE files with --gpt2-bpe",
    ),
    "no dictionary": (
        lambda f: (f / "dict.txt").unlink(),
        "dict.txt does not exist; a release has model.pt and dict.txt",
    ),
    "no model": (
        lambda f: (f / "sentencepiece.bpe.model").write_bytes(b"\xff\x00 no"),
        "sentencepiece.bpe.model: this is not a sentencepiece model",
    ),
    "BPE": (
        rewrite(lambda m: setattr(m.trainer_spec, "model_type", 2)),
        "only Unigram models with a blank before the text",
    ),
    "bytes": (
        rewrite(lambda m: setattr(m.pieces[9], "type", 6)),
        "no pieces for bytes or symbols of the user's can be imported",
    ),
    "no blank": (
        rewrite(lambda m: setattr(m.normalizer_spec, "add_dummy_prefix", False)),
        "only Unigram models with a blank before the text",
    ),
    "another's": (
        rewrite(lambda m: setattr(m.pieces[9], "piece", "zzz")),
        "dict.txt and the sentencepiece model are not of one model: ",
    ),
    "one more": (add_line("zzz 9\n"), "not of one model: 'zzz' is in one only"),
    "one fewer": (drop_line, "not of one model: '▁cat' is in one only"),
    "twice": (add_line("▁cat 9\n"), "repeats the symbol of line "),
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "release"
    return make_pieced_release(folder, "xlm-roberta")


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_release_is_one_line(how: str, tmp_path: Path, unbroken: Path) -> None:
    change, said = BROKEN[how]
    copy = shutil.copytree(unbroken, tmp_path / "release")
    change(copy)
    with pytest.raises(UserError) as caught:
        import_fairseq(copy, None, tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [copy]


def test_a_release_of_fewer_rows_is_one_line(tmp_path: Path, unbroken: Path) -> None:
    release = shutil.copytree(unbroken, tmp_path / "release")
    state = torch.load(release / "model.pt", weights_only=False)
    state["model"][TABLE] = state["model"][TABLE][:-9]
    torch.save(state, release / "model.pt")
    done = run_command("import", release, tmp_path / "out")
    assert done.returncode == 1
    rows = len(state["model"][TABLE])
    assert done.stderr == (
        f"error: {release}: the tokeniser has {rows + 9} tokens and the embedding "
        f"table {rows} rows; they are not of one model\n"
    )


def test_a_directory_of_fewer_rows_is_one_line(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", "roberta")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(
        json.dumps({**config, "model_type": "xlm-roberta"})
    )
    (source / "tokenizer_config.json").write_text("{}")
    (source / "sentencepiece.bpe.model").write_bytes(b"no")
    for name in ("vocab.json", "merges.txt"):
        (source / name).unlink()
    with pytest.raises(UserError, match=r"the tokeniser cannot be read \("):
        import_hf(source, tmp_path / "out")
