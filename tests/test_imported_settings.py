"""What a Hugging Face directory says beside its tensors comes in, or is refused."""

import argparse
import builtins
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fairseq.data import Dictionary
from fairseq_steady.commands import check
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.bert2bert import bert2bert
from fairseq_steady.huggingface.checking import assert_equal, largest
from fairseq_steady.huggingface.config import read_config
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.huggingface.release import import_fairseq
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.building import load_encoder
from fairseq_steady.models.families import bart
from helpers import full_disk
from safetensors.torch import load_file, save_file
from sources import make_release, make_source

Copy = Callable[[str], Path]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    base = tmp_path_factory.mktemp("originals")

    def give(kind: str) -> Path:
        return base / kind if (base / kind).exists() else make_source(base / kind, kind)

    return give


@pytest.fixture
def copy(originals: Copy, tmp_path: Path) -> Copy:
    return lambda kind: shutil.copytree(originals(kind), tmp_path / "source")


def change(path: Path, **settings: Any) -> None:
    """Change a JSON file; ... removes."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content |= settings
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


# --- settings that change training alone ----------------------------------------------

#: What config.json says, and what the model is built with.
RATES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "BERT's head": ("bert-cased", {"classifier_dropout": 0.3}, {"pooler_dropout": 0.3}),
    "as the rest": (
        "bert-cased",
        {"classifier_dropout": None, "hidden_dropout_prob": 0.2},
        {"pooler_dropout": 0.2},
    ),
    "DeBERTa's head": ("deberta-v3", {"cls_dropout": 0.3}, {"pooler_dropout": 0.3}),
    "DeBERTa's norm": ("deberta-v3", {"layer_norm_eps": ...}, {"layer_norm_eps": 1e-7}),
    "BART's head": ("bart", {"classifier_dropout": 0.0}, {"pooler_dropout": 0.0}),
    "BART unsaid": ("bart", {"classifier_dropout": ...}, {"pooler_dropout": 0.0}),
    "BART's layers": (
        "bart",
        {"encoder_layerdrop": 0.2, "decoder_layerdrop": 0.3},
        {"encoder_layerdrop": 0.2, "decoder_layerdrop": 0.3},
    ),
}


@pytest.mark.parametrize("what", RATES)
def test_settings_that_act_in_training_come_in_and_go_out(
    what: str, copy: Copy, tmp_path: Path
) -> None:
    """The comparison of hidden states does not see them."""
    kind, said, wanted = RATES[what]
    source = copy(kind)
    change(source / "config.json", **said)
    directory = import_hf(source, tmp_path / "model")
    form = directory.manifest.architecture
    assert {name: form[name] for name in wanted} == wanted
    if what not in ("BERT's head", "DeBERTa's head", "BART's layers"):
        return
    export_hf(directory.path, tmp_path / "out")
    _, config = read_config(tmp_path / "out")
    again = import_hf(tmp_path / "out", tmp_path / "again").manifest.architecture
    assert {name: again[name] for name in wanted} == wanted
    if what == "BART's layers":
        found = load_encoder(directory)
        assert (found.encoder.layers.p, found.decoder.layers.p) == (0.2, 0.3)
        assert (config["encoder_layerdrop"], config["decoder_layerdrop"]) == (0.2, 0.3)


#: Of each kind, the name of the activation that transformers looks at, and another's.
NAMES = {
    "bert-cased": ("hidden_act", "activation"),
    "bart": ("activation_function", "hidden_act"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_another_familys_name_of_the_activation_is_not_looked_at(
    kind: str, copy: Copy, tmp_path: Path
) -> None:
    source, (own, other) = copy(kind), NAMES[kind]
    change(source / "config.json", **{own: ..., other: "relu"})
    directory = import_hf(source, tmp_path / "model")
    assert directory.manifest.architecture["activation_fn"] == "gelu"
    change(source / "config.json", **{own: "silu"})
    with pytest.raises(UserError, match=f"config.json: {own} 'silu' is none of gelu,"):
        import_hf(source, tmp_path / "again")


# --- padding that says where positions start ------------------------------------------


def test_positions_that_start_elsewhere_are_refused(copy: Copy, tmp_path: Path) -> None:
    """transformers' RoBERTa counts them from the number of its padding on."""
    source = copy("roberta")
    change(source / "config.json", pad_token_id=0)
    with pytest.raises(UserError) as caught:
        import_hf(source, tmp_path / "model")
    assert str(caught.value) == (
        f"{source}/config.json: pad_token_id 0 cannot be imported: positions are "
        "counted from it on, and fairseq's from 1"
    )
    change(source / "config.json", pad_token_id=...)
    import_hf(source, tmp_path / "model")


def test_a_tokenisers_padding_is_looked_at_too(copy: Copy, tmp_path: Path) -> None:
    source = copy("roberta")
    numbers = json.loads((source / "vocab.json").read_text())
    numbers |= {"<s>": numbers["<pad>"], "<pad>": numbers["<s>"]}
    (source / "vocab.json").write_text(json.dumps(numbers))
    with pytest.raises(UserError, match="the tokeniser's <pad>, 0 cannot be imported"):
        import_hf(source, tmp_path / "model")


def test_berts_padding_may_have_any_number(copy: Copy, tmp_path: Path) -> None:
    source = copy("bert-cased")
    change(source / "config.json", pad_token_id=3)
    assert assert_equal(source, import_hf(source, tmp_path / "model")) <= 1e-4


# --- tokens beside a vocabulary -------------------------------------------------------

TEXTS = ["a <e1> b", "a<e1>b <e1>", "<E1> cat", "x <e2> y", "[e3]b"]


def size_of(source: Path) -> int:
    if (source / "vocab.txt").exists():
        return len((source / "vocab.txt").read_text("utf-8").split("\n")) - 1
    return len(json.loads((source / "vocab.json").read_text()))


def in_its_own_file(source: Path) -> None:
    size = size_of(source)
    change(source / "added_tokens.json", **{"<e1>": size, "<e2>": size + 1})
    change(source / "special_tokens_map.json", additional_special_tokens=["<e2>"])


def in_the_configuration(source: Path) -> None:
    size = size_of(source)
    tokens = {
        str(size + 1): {"content": "<e2>", "special": True, "normalized": False},
        str(size): {"content": "<e1>", "lstrip": True, "rstrip": True},
    }
    change(source / "tokenizer_config.json", added_tokens_decoder=tokens)


def by_name_alone(source: Path) -> None:
    content = {"content": "<e1>", "lstrip": True, "normalized": False}
    content["__type"] = "AddedToken"
    special = {"additional_special_tokens": [content, "[e3]"]}
    change(source / "special_tokens_map.json", **special)


@pytest.mark.parametrize("kind", ["bert-cased", "roberta"])
@pytest.mark.parametrize("add", [in_its_own_file, in_the_configuration, by_name_alone])
def test_added_tokens_are_those_of_transformers(
    kind: str, add: Callable[[Path], None], copy: Copy, tmp_path: Path
) -> None:
    source = copy(kind)
    add(source)
    if kind == "roberta":  # BERT's table has rows for them
        state = load_file(source / "model.safetensors")
        for name in [n for n in state if "word_emb" in n or n == "lm_head.bias"]:
            state[name] = torch.cat([state[name], state[name][:2]])
        save_file(state, source / "model.safetensors", {"format": "pt"})
        change(source / "config.json", vocab_size=size_of(source) + 2)
    directory = import_hf(source, tmp_path / "model")
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    dictionary = directory.dictionary()
    tokenizer = SentenceTokenizer(directory, dictionary, 64, spelled=True)
    found, _ = tokenizer.encode([(text,) for text in TEXTS])
    for text, ids in zip(TEXTS, found, strict=True):
        ours = [tokenizer.ids.tolist().index(i) for i in ids]
        assert ours == theirs(text)["input_ids"], text
    assert theirs.convert_tokens_to_ids("<e1>") >= size_of(source)
    marked = json.loads((directory.path / "tokenizer.json").read_text())["added_tokens"]
    special = {one["content"]: one["special"] for one in marked}
    assert special["<e1>"] == (add is by_name_alone)
    assert special.get("<e2>", True)


def test_an_added_token_has_the_number_that_it_says(copy: Copy, tmp_path: Path) -> None:
    source = copy("bert-cased")
    size = size_of(source)
    change(source / "added_tokens.json", **{"<e1>": size + 1})
    with pytest.raises(UserError) as caught:
        import_hf(source, tmp_path / "model")
    assert f"'<e1>' has the number {size + 1}, and after the vocabulary comes " in str(
        caught.value
    )


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_vocabulary_of_words_cut_otherwise_is_refused(
    file: str, copy: Copy, tmp_path: Path
) -> None:
    """Japanese text is cut into words by another program before vocab.txt is used."""
    source = copy("bert-cased")
    change(source / "tokenizer_config.json", tokenizer_class=...)
    change(source / file, tokenizer_class="BertJapaneseTokenizer")
    with pytest.raises(UserError, match="is not all of a BertJapaneseTokenizer, only "):
        import_hf(source, tmp_path / "model")
    change(source / file, tokenizer_class="DistilBertTokenizerFast")
    import_hf(source, tmp_path / "model")


# --- what the comparison sees ---------------------------------------------------------


def test_a_difference_that_is_no_number_is_one(copy: Copy, tmp_path: Path) -> None:
    """Finite weights whose products are not: NaN is larger than nothing in Python."""
    assert math.isnan(largest([0.0, math.nan, 1.0]))
    assert largest([0.5, 0.25]) == 0.5
    source = copy("bert-cased")
    state = load_file(source / "model.safetensors")
    name = next(n for n in state if n.endswith("layer.1.output.dense.weight"))
    state[name].fill_(3e38)
    save_file(state, source / "model.safetensors", {"format": "pt"})
    directory = import_hf(source, tmp_path / "model")
    with pytest.raises(UserError, match="transformers' by nan at layer 2; the import"):
        assert_equal(source, directory)
    with pytest.raises(UserError, match="and of its export differ by nan; nothing"):
        export_hf(directory.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokeniser_that_names_no_padding_is_compared(
    copy: Copy, tmp_path: Path
) -> None:
    source = copy("modernbert")
    (source / "tokenizer_config.json").unlink()
    assert assert_equal(source, import_hf(source, tmp_path / "model")) <= 1e-4


# --- what a model directory says and how it is written --------------------------------


def test_a_snapshot_of_the_hubs_cache_has_the_hubs_name(
    copy: Copy, tmp_path: Path
) -> None:
    """Not its revision, which is the folder's; nor that of what it was made from."""
    snapshot = tmp_path / "models--some-org--my-bert" / "snapshots" / "86b5e093"
    shutil.copytree(copy("bert-cased"), snapshot)
    change(snapshot / "config.json", _name_or_path="bert-base-cased")
    directory = import_hf(snapshot, tmp_path / "model")
    assert directory.manifest.source["name"] == "some-org/my-bert"


def test_a_folder_has_its_own_name(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy("bert-cased"))
    assert import_hf(".", tmp_path / "m").manifest.source["name"] == "source"


def test_a_full_disk_is_one_line_and_leaves_nothing(copy: Copy, tmp_path: Path) -> None:
    source = copy("bert-cased")
    with full_disk(), pytest.raises(UserError) as caught:
        import_hf(source, tmp_path / "out" / "model")
    assert str(caught.value).startswith(f"{tmp_path}/out/model cannot be written (")
    assert "; free some space, or choose another folder" in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_torch_that_lacks_a_library_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def lacking(name: str, *args: Any) -> Any:
        if name == "torch":
            raise OSError("libcudart.so.12: cannot open shared object file")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(check.ProblemError, match=r"torch does not import \(libcudart"):
        check.torch()


def test_a_torchaudio_of_another_cuda_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says so itself as it is imported, by a RuntimeError."""
    error: Exception = RuntimeError("compiled with different CUDA versions")

    def lacking(name: str) -> Any:
        raise error

    monkeypatch.setattr(check.importlib, "import_module", lacking)
    with pytest.raises(check.ProblemError, match="torchaudio does not fit this torch"):
        check.torchaudio()
    error = ImportError("no module")
    assert check.torchaudio() == "not installed, not needed"


# --- releases of other times ----------------------------------------------------------


def test_a_release_of_2019_is_doubled_as_one_of_today(tmp_path: Path) -> None:
    """Its encoder is called a decoder, and its LayerNorm of embeddings otherwise."""
    release = make_release(tmp_path / "release", "roberta")
    today = import_fairseq(release, release, tmp_path / "today")
    kept = torch.load(release / "model.pt", weights_only=False)
    for new, old in {
        "encoder.sentence_encoder.": "decoder.sentence_encoder.",
        ".layernorm_embedding.": ".emb_layer_norm.",
    }.items():
        kept["model"] = {n.replace(new, old): t for n, t in kept["model"].items()}
    torch.save(kept, release / "model.pt")
    past = import_fairseq(release, release, tmp_path / "past")
    made = [
        bert2bert(directory, tmp_path / f"doubled-{i}").weights()[0]
        for i, directory in enumerate((today, past))
    ]
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    load_encoder(ModelDirectory.open(tmp_path / "doubled-1"))  # strictly


@pytest.mark.parametrize("share", ["all", "decoder"])
def test_a_release_with_two_tables_of_words_keeps_both(
    share: str, tmp_path: Path
) -> None:
    """They have the names and shapes of one, of which the last would be taken."""
    release = make_release(tmp_path / "release", "bart")
    args = torch.load(release / "model.pt", weights_only=False)["args"]
    args.share_all_embeddings = False
    args.share_decoder_input_output_embed = share == "all"
    dictionary = Dictionary.load(str(release / "dict.txt"))
    dictionary.add_symbol("<mask>")
    task = argparse.Namespace(source_dictionary=dictionary)
    task.target_dictionary = dictionary
    theirs = bart.FAMILY.model.build_model(args, task).eval()
    torch.save({"args": args, "model": theirs.state_dict()}, release / "model.pt")
    directory = import_fairseq(release, release, tmp_path / "model")
    tokens, lengths = torch.randint(4, 60, (2, 9)), torch.tensor([9, 9])
    with torch.no_grad():
        wanted, _ = theirs(tokens, lengths, tokens)
        found, _ = load_encoder(directory)(tokens, lengths, tokens)
    torch.testing.assert_close(found, wanted)
    with pytest.raises(UserError, match="has no form in transformers' BART, which has"):
        export_hf(directory.path, tmp_path / "out")
