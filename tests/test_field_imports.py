"""What people bring to an import or an export: one line, or the right thing."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.bert2bert import bert2bert
from fairseq_steady.huggingface.checking import (
    PAIRS,
    TOLERANCE,
    hidden_state_error,
    load_encoder,
)
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.huggingface.release import import_fairseq
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.patches.checkpoints import load_safely
from fairseq_steady.regularizers.injection import capture, find_encoder, substitute
from safetensors.torch import load_file, save_file
from sources import make_release, make_source
from torch import Tensor

Spoil = Callable[[Path], Any]
WORDS = "embeddings.word_embeddings.weight"
DENSE = "encoder.layer.1.output.dense.weight"
BIAS = "encoder.layer.1.output.dense.bias"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny Hugging Face directories and releases, made once where asked for."""
    base = tmp_path_factory.mktemp("originals")

    def give(kind: str) -> Path:
        path, (what, _, family) = base / kind, kind.partition(":")
        if not path.exists():
            make_release(path, family) if what == "release" else make_source(path, kind)
        return path

    return give


Copy = Callable[[str], Path]


@pytest.fixture
def copy(originals: Callable[[str], Path], tmp_path: Path) -> Copy:
    """A copy of one of them, to be spoilt."""

    def make(kind: str = "bert-cased") -> Path:
        path = tmp_path / "given" / kind / "source"
        shutil.copytree(originals(kind), path)
        return path

    return make


# --- ways to spoil a source -----------------------------------------------------------


def settings(**changes: Any) -> Spoil:
    """Change config.json; ... removes."""

    def apply(source: Path) -> None:
        path = source / "config.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))

    return apply


def content(name: str, data: str | bytes) -> Spoil:
    """Replace a file."""
    return lambda source: (source / name).write_bytes(
        data if isinstance(data, bytes) else data.encode()
    )


def tail(name: str, data: bytes) -> Spoil:
    """Append to a file."""
    return lambda s: (s / name).write_bytes((s / name).read_bytes() + data)


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Spoil:
    """Change the tensors."""

    def apply(source: Path) -> None:
        state = load_file(source / "model.safetensors")
        state = change(state) or state
        whole = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(whole, source / "model.safetensors")

    return apply


def tensor(name: str, change: Callable[[Tensor], Tensor]) -> Spoil:
    """Change one tensor."""
    return tensors(lambda state: {**state, name: change(state[name])})


def pickled(change: Callable[[dict[str, Tensor]], Any]) -> Spoil:
    """A pytorch_model.bin in place of safetensors."""

    def apply(source: Path) -> None:
        state = load_file(source / "model.safetensors")
        (source / "model.safetensors").unlink()
        torch.save(change(state), source / "pytorch_model.bin")

    return apply


def shards(*names: str, change: Any = dict, twice: bool = False) -> Spoil:
    """Two safetensors files of these names and an index."""

    def apply(source: Path) -> None:
        state = load_file(source / "model.safetensors")
        (source / "model.safetensors").unlink()
        keys, places = sorted(state), {}
        for name, part in zip(names, (keys[::2], keys[1::2]), strict=True):
            held = [*part, keys[0]] if twice else part
            path = source / name
            path.parent.mkdir(exist_ok=True)
            save_file({key: state[key] for key in held}, path)
            places |= dict.fromkeys(part, name)
        index = change({"weight_map": places})
        (source / "model.safetensors.index.json").write_text(json.dumps(index))

    return apply


def elsewhere(name: str) -> Spoil:
    """A link in place of a file, which moves out of the folder."""

    def apply(source: Path) -> None:
        (source / name).rename(source.parent / name)
        (source / name).symlink_to(source.parent / name)

    return apply


def both(*spoils: Spoil) -> Spoil:
    """One after the other."""
    return lambda source: [spoil(source) for spoil in spoils]


def tokenizer_json(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """A tokenizer.json as transformers writes it, changed."""

    def apply(source: Path) -> None:
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(source)
        path = source / "tokenizer.json"
        made = json.loads(path.read_text("utf-8"))
        change(made)
        path.write_text(json.dumps(made), "utf-8")

    return apply


def added(*tokens: str) -> Spoil:
    """A tokenizer.json with tokens more, in the table's spare rows."""

    def change(made: dict[str, Any]) -> None:
        free = max(made["model"]["vocab"].values()) + 1
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, token in enumerate(tokens, free):
            entry = {"id": number, "content": token, "special": True, **flags}
            made["added_tokens"].append(entry)

    return tokenizer_json(change)


def first_type_is_1(made: dict[str, Any]) -> None:
    made["post_processor"]["pair"][0]["SpecialToken"]["type_id"] = 1


DEEP = "[" * 100_000
BAD: dict[str, tuple[Spoil, str]] = {
    # --- the configuration
    "no config": (lambda s: (s / "config.json").unlink(), "no config.json"),
    "list": (content("config.json", "[1]"), r"config\.json: the whole: .*not a list"),
    "deep": (content("config.json", DEEP), r"config\.json is not JSON .*recursion"),
    "latin1": (content("config.json", b'{"a": "\xe9"}'), "is not JSON .*unicode"),
    "no kind": (settings(model_type=...), "names no model_type, as models of b"),
    "kind": (
        settings(model_type="t5"),
        r"model_type 't5' cannot be imported; known: bert, .*, modernbert, bart, .*, "
        r"albert.* \(an encoder-decoder of another form than BART's\)$",
    ),
    "kind list": (settings(model_type=["bert"]), "'model_type': .*string, not a list"),
    "activation": (settings(hidden_act="mish"), "hidden_act 'mish'"),
    "activation dict": (settings(hidden_act={}), "'hidden_act': .*string, not a dict"),
    "positions": (
        settings(position_embedding_type="relative_key"),
        "relative_key positions",
    ),
    "decoder": (settings(is_decoder=True), "no absolute positions or decoder in this"),
    "no width": (settings(hidden_size=...), "'hidden_size' is missing"),
    "width text": (settings(hidden_size="24"), "'hidden_size': .*integer, not '24'"),
    "width": (settings(hidden_size=-24), "'hidden_size': .*equal to 1, not -24"),
    "heads": (
        settings(num_attention_heads=5),
        "hidden_size 24 is not a multiple of num_attention_heads 5",
    ),
    "layers": (
        settings(num_hidden_layers=10**9),
        "'num_hidden_layers': .*equal to 1000, not 1000000000",
    ),
    "epsilon": (settings(layer_norm_eps=float("nan")), "'layer_norm_eps': .*not nan"),
    "dropout": (settings(hidden_dropout_prob=2), "'hidden_dropout_prob': .*not 2"),
    # --- tensors
    "no weights": (lambda s: (s / "model.safetensors").unlink(), "has neither"),
    "damaged": (content("model.safetensors", "x"), "is not a safetensors file"),
    "pointer": (
        content("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS pointer, not the file itself; fetch it with: git lfs pull",
    ),
    "tensor": (
        tensors(lambda s: {n: t for n, t in s.items() if n != BIAS}),
        r"lack encoder\.layer\.1\.output\.dense\.bias",
    ),
    "turned": (
        tensor(DENSE, lambda t: t.t()),
        r"layer\.1\.output\.dense\.weight has shape \(40, 24\), .* say \(24, 40\)",
    ),
    "width of all": (
        settings(hidden_size=48),
        r"position_embeddings\.weight has shape \(256, 24\), .* say \(256, 48\)",
    ),
    "rows": (
        tensor(POSITIONS, lambda t: t[:99]),
        r"position_embeddings\.weight has shape \(99, 24\), .* say \(256, 24\)",
    ),
    "flat": (
        tensor(WORDS, lambda t: t[:, 0]),
        r"word_embeddings\.weight has shape \(\d+,\), .* say \(any, any\)",
    ),
    "whole numbers": (tensor(DENSE, Tensor.long), "is of int64, no floating-point"),
    "NaN": (tensor(DENSE, lambda t: t / 0 * 0), "dense.weight holds NaN or infinite"),
    "bin list": (pickled(lambda _: [1]), "bin holds a list, no state dict"),
    "bin number": (pickled(lambda s: {**s, "step": 3}), "holds 'step', a int"),
    "bin two": (
        pickled(lambda s: {"model": s, "state_dict": s}),
        "holds 'model', a dict; 'state_dict', a dict: no state dict",
    ),
    "bin prefix": (
        pickled(lambda s: {**s, f"bert.{BIAS}": s[BIAS]}),
        "holds bert.encoder.* and the weights already have a encoder",
    ),
    # --- shards
    "outside": (shards("a.safetensors", "../b.safetensors"), "leads out of"),
    "link": (
        both(shards("a.safetensors", "b.safetensors"), elsewhere("b.safetensors")),
        r"b\.safetensors leads out of",
    ),
    "config link": (elsewhere("config.json"), r"config\.json leads out of"),
    "no shard": (
        both(
            shards("a.safetensors", "b.safetensors"),
            lambda s: (s / "b.safetensors").unlink(),
        ),
        r"lacks b\.safetensors, which model\.safetensors\.index\.json names",
    ),
    "no map": (
        shards("a", "b", change=lambda _: {"metadata": {}}),
        r"index\.json: field 'weight_map' is missing",
    ),
    "map list": (
        shards("a", "b", change=lambda i: {"weight_map": list(i["weight_map"])}),
        "field 'weight_map': .*not a list",
    ),
    "twice": (
        shards("a.safetensors", "b.safetensors", twice=True),
        r"b\.safetensors holds (\S+), and the weights already have a \1",
    ),
    # --- the tokeniser
    "no vocabulary": (lambda s: (s / "vocab.txt").unlink(), r"nor vocab\.txt"),
    "another vocabulary": (
        tail("vocab.txt", b"".join(b"more%d\n" % i for i in range(9))),
        "not of one model",
    ),
    "vocabulary latin1": (
        both(content("vocab.txt", "[PAD]\nb\n"), tail("vocab.txt", b"\xe9t\xe9\n")),
        r"vocab\.txt: line 3 is not UTF-8",
    ),
    "doubled": (
        content("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n"),
        r"vocab\.txt: line 8 repeats 'a' of line 6",
    ),
    "options": (
        content("tokenizer_config.json", '{"do_lower_case": "no"}'),
        "'do_lower_case': .*boolean, not 'no'",
    ),
    "options list": (content("tokenizer_config.json", "[]"), "the whole: .*not a list"),
    "tokenizer.json": (
        content("tokenizer.json", "[]"),
        "the tokeniser cannot be read .*struct Tokenizer",
    ),
    "types": (
        tokenizer_json(first_type_is_1),
        r"a pair token types \[1, 0, 0, 1, 1\]; only 1 after the first \[SEP\]",
    ),
    "newline": (added("a\nb"), r"token 'a\\nb' \(number \d+\) is empty or has a line"),
    "carriage return": (added("a\rb"), r"token 'a\\rb' .*has a line break"),
    "a name of fairseq's": (added("<s>", "other:<s>"), "which would be one in fai"),
}
BAD_OTHERS: dict[str, tuple[str, Spoil, str]] = {
    "bart missing": ("bart", settings(d_model=...), "'d_model' is missing"),
    "bart layers": (
        "bart",
        settings(decoder_layers=4),
        r"lack decoder\.layers\.3\.self_attn\.k_proj\.weight",
    ),
    "bart shape": (
        "bart",
        settings(max_position_embeddings=300),
        r"encoder\.embed_positions\.weight has shape \(258, 24\), .* say \(302, 24\)",
    ),
    "bart tables": (
        "bart",
        tensors(lambda s: {**s, "lm_head.weight": s["model.shared.weight"] + 1}),
        r"lm_head\.weight is not shared\.weight, and fairseq's BART has one table",
    ),
    "numbers": (
        "roberta",
        content("vocab.json", '{"<s>": 0, "a": 1, "b": 1}'),
        r"vocab\.json: 'a' and 'b' have the one number 1",
    ),
    "number text": (
        "roberta",
        content("vocab.json", '{"<s>": "0"}'),
        r"field '<s>': .*integer, not '0'",
    ),
    "merges": ("roberta", tail("merges.txt", b"abc\n"), r"line \d+ is not two parts"),
    "merges of three": (
        "roberta",
        content("merges.txt", "#version: 0.2\na b c\n"),
        r"merges\.txt: line 2 is not two parts",
    ),
    "merges twice": (
        "roberta",
        content("merges.txt", "#version: 0.2\na b\nc d\na b\n"),
        r"merges\.txt: line 4 repeats line 2",
    ),
    "buckets": (
        "deberta-v3",
        settings(position_buckets=10**9),
        "'position_buckets': .*1000000, not 1000000000",
    ),
    "terms": ("deberta-v3", settings(pos_att_type=3), "pos_att_type.*: .*not 3"),
    "distances": (
        "deberta-v3",
        tensor("encoder.rel_embeddings.weight", lambda t: t[:4]),
        r"rel_embeddings\.weight has shape \(4, 24\), .* say \(16, 24\)",
    ),
}
EVERY = {
    **{name: ("bert-cased", *case) for name, case in BAD.items()},
    **BAD_OTHERS,
}


@pytest.mark.parametrize("case", EVERY)
def test_bad_sources_are_one_line_and_leave_nothing(
    copy: Copy, tmp_path: Path, case: str
) -> None:
    kind, spoil, message = EVERY[case]
    source = copy(kind)
    spoil(source)
    with pytest.raises(UserError, match=message) as caught:
        import_hf(source, tmp_path / "out" / "m")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("**/*"))


def test_a_shard_outside_is_never_opened(copy: Copy, tmp_path: Path) -> None:
    """Nor would its content be shown: a named pipe there would wait for ever."""
    source = copy()
    shards("a.safetensors", "../b.safetensors")(source)
    (source.parent / "b.safetensors").unlink()
    os.mkfifo(source.parent / "b.safetensors")
    with pytest.raises(UserError, match="leads out of"):
        import_hf(source, tmp_path / "m")


# --- other forms of the same weights --------------------------------------------------


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


SAME: dict[str, tuple[str, Spoil]] = {
    "state_dict": ("bert-cased", pickled(lambda s: {"state_dict": s, "epoch": 3})),
    "model": ("bert-cased", pickled(lambda s: {"model": s, "optimizer": {}})),
    "DataParallel": ("bert-cased", pickled(prefixed("module."))),
    "both": ("bert-cased", pickled(prefixed("module.bert."))),
    "shards": ("bert-cased", shards("a.safetensors", "parts/b.safetensors")),
    "bare BartModel": (
        "bart",
        tensors(lambda s: {n.removeprefix("model."): t for n, t in s.items()}),
    ),
    "fillers' names": ("bert-cased", lambda _: None),
}


@pytest.mark.parametrize("case", SAME)
def test_other_forms_of_the_same_weights_are_the_same(
    originals: Callable[[str], Path], copy: Copy, tmp_path: Path, case: str
) -> None:
    kind, change = SAME[case]
    source = copy(kind)
    change(source)
    # Strings are paths too.
    found, _ = import_hf(str(source), str(tmp_path / "found")).weights()
    wanted, _ = import_hf(originals(kind), tmp_path / "wanted").weights()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_links_of_the_hubs_own_cache_are_followed(copy: Copy, tmp_path: Path) -> None:
    """Its snapshots hold links to the blobs beside them, and nothing else."""
    source = copy()
    snapshot, blobs = (
        tmp_path / "models--x" / "snapshots" / "1f",
        tmp_path / "models--x",
    )
    snapshot.mkdir(parents=True)
    (blobs / "blobs").mkdir()
    for number, path in enumerate(source.iterdir()):
        path.rename(blobs / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert import_hf(snapshot, tmp_path / "m").weights()[0]
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "m" / "manifest.json")
    with pytest.raises(UserError, match=r"config\.json leads out of"):
        import_hf(snapshot, tmp_path / "n")


def test_a_token_called_like_a_filler_keeps_its_row(copy: Copy, tmp_path: Path) -> None:
    source = copy()
    rows = len((source / "vocab.txt").read_text("utf-8").splitlines())
    added(f"madeupword{rows + 1:04d}")(source)
    directory = import_hf(source, tmp_path / "m")
    symbols = directory.dictionary().symbols
    assert symbols[-3:] == [
        f"madeupword{rows + 1:04d}",
        f"madeupword{rows + 1:04d}_",
        f"madeupword{rows + 2:04d}",
    ]
    ids = SentenceTokenizer(directory, directory.dictionary(), 9).ids
    assert ids[rows] == len(symbols) - 3


def test_a_classifiers_head_is_not_dropped_without_a_word(
    copy: Copy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = copy()
    labels = {"id2label": {0: "no", 1: "may\nbe"}, "label2id": {"no": 0, "may\nbe": 1}}
    for name, form, options in (
        ("masked", transformers.BertForMaskedLM, {}),
        ("classes", transformers.BertForSequenceClassification, labels),
        ("spans", transformers.BertForQuestionAnswering, {}),
    ):
        caplog.clear()
        form.from_pretrained(source, **options).save_pretrained(source)
        import_hf(source, tmp_path / name, with_head=False)
        said = [r.getMessage() for r in caplog.records if "steady" in r.name]
        if name == "masked":
            assert said == []
        elif name == "classes":
            (line,) = said
            assert "the classification head with labels 'no', 'may\\nbe' is not" in line
            assert "(classifier.bias, classifier.weight)" in line
        else:
            (line,) = said
            assert "2 tensors are not imported (qa_outputs.bias, qa_outputs" in line


# --- pairs ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def paired(
    originals: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ModelDirectory]:
    """Imports of models that were taught two token types."""
    base = tmp_path_factory.mktemp("paired")
    return {
        k: import_hf(originals(k), base / k) for k in ("bert-cased", "bert-uncased")
    }


def encoded(directory: ModelDirectory, *texts: tuple[str, ...]) -> Tensor:
    dictionary = directory.dictionary()
    ids, _ = SentenceTokenizer(directory, dictionary, 256).encode(texts)
    padded = [torch.from_numpy(i).long() for i in ids]
    return torch.nn.utils.rnn.pad_sequence(padded, True, dictionary.pad())


def without_types(directory: ModelDirectory, out: Path) -> ModelDirectory:
    """As importers before this one wrote it."""
    shutil.copytree(directory.path, out)
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["architecture"]["token_types"]
    manifest["files"] = {}
    (out / "manifest.json").write_text(json.dumps(manifest))
    state = torch.load(out / "model.pt", weights_only=True)
    del state["model"]["encoder.sentence_encoder.embed_positions.second"]
    torch.save(state, out / "model.pt")
    return ModelDirectory.open(out)


@pytest.mark.parametrize("kind", ["bert-cased", "bert-uncased"])
def test_pairs_have_two_token_types_as_in_transformers(
    originals: Callable[[str], Path],
    paired: dict[str, ModelDirectory],
    tmp_path: Path,
    kind: str,
) -> None:
    source, directory = originals(kind), paired[kind]
    errors = hidden_state_error(source, directory, [PAIRS])
    assert len(errors) == 4
    assert max(errors) <= TOLERANCE
    # Not by chance: without them the states of pairs are others from the start on.
    old = without_types(directory, tmp_path / "old")
    assert min(hidden_state_error(source, old, [PAIRS])) > 1e-3  # ten times the bound
    theirs = load_file(source / "model.safetensors")
    (types,) = (t for n, t in theirs.items() if n.endswith(TYPES))
    second = load_encoder(directory).encoder.sentence_encoder.embed_positions.second
    assert torch.equal(second, types[1] - types[0])


def test_the_comparison_with_transformers_has_pairs(
    originals: Callable[[str], Path], paired: dict[str, ModelDirectory], tmp_path: Path
) -> None:
    old = without_types(paired["bert-cased"], tmp_path / "old")
    assert min(hidden_state_error(originals("bert-cased"), old)) > 1e-3


def test_single_sentences_are_bitwise_what_they_were(
    paired: dict[str, ModelDirectory], tmp_path: Path
) -> None:
    """In evaluation, and in training: losses, and gradients of all that was there."""
    directory = paired["bert-cased"]
    old = without_types(directory, tmp_path / "old")
    tokens = encoded(directory, ("x",), ("The cat sat on the mat.",), ("it's can't",))
    found = {}
    for name, given in (("new", directory), ("old", old)):
        model = load_encoder(given)
        states = [model(tokens, features_only=True)[0]]
        torch.manual_seed(3)
        states.append(model.train()(tokens, features_only=True)[0])
        states[1].pow(3).sum().backward()
        found[name] = states, {n: p.grad for n, p in model.named_parameters()}
    (mine, gradients), (theirs, wanted) = found["new"], found["old"]
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    # Every worker has a gradient for it, of which nothing comes.
    second = gradients.pop("encoder.sentence_encoder.embed_positions.second")
    assert second is not None
    assert not second.any()
    assert gradients.keys() == wanted.keys()
    assert all(torch.equal(gradients[n], wanted[n]) for n in wanted)


def test_points_of_injection_see_the_types(paired: dict[str, ModelDirectory]) -> None:
    """Added with the positions: before the norm, not to the words."""
    directory = paired["bert-cased"]
    model = load_encoder(directory)
    encoder = find_encoder(model)
    tokens = encoded(directory, *PAIRS)
    positions: Any = encoder.embed_positions
    with capture(encoder, "word") as words, capture(encoder, "norm") as norms:
        wanted, _ = model(tokens, features_only=True)
    order = torch.where(tokens.eq(1), 1, tokens.ne(1).cumsum(1) + 1)
    added = norms[0] - words[0] - positions.weight[order]
    for row, ids in zip(added, tokens.tolist(), strict=True):
        first = ids.index(2) + 1
        end = ids.index(1) if 1 in ids else len(ids)
        torch.testing.assert_close(row[:first], torch.zeros_like(row[:first]))
        torch.testing.assert_close(
            row[first:end], positions.second.expand(end - first, -1)
        )
        torch.testing.assert_close(row[end:], torch.zeros_like(row[end:]))
    with substitute(encoder, "word", words[0]):
        assert torch.equal(model(tokens, features_only=True)[0], wanted)
    with substitute(encoder, "norm", norms[0]):
        assert torch.equal(model(tokens, features_only=True)[0], wanted)


def test_pairs_learn_and_their_padding_says_nothing(
    paired: dict[str, ModelDirectory],
) -> None:
    directory = paired["bert-cased"]
    model = load_encoder(directory).train()
    for module in model.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    together, _ = model(encoded(directory, *PAIRS), features_only=True)
    for row, pair in zip(together, PAIRS, strict=True):
        alone, _ = model(encoded(directory, pair), features_only=True)
        torch.testing.assert_close(row[: alone.size(1)], alone[0], rtol=0, atol=1e-5)
    together.pow(3).mean().backward()
    assert model.encoder.sentence_encoder.embed_positions.second.grad.abs().min() > 0


@pytest.mark.parametrize("old", [False, True])
def test_types_go_out_and_come_back(
    paired: dict[str, ModelDirectory], tmp_path: Path, old: bool
) -> None:
    directory = paired["bert-cased"]
    if old:
        directory = without_types(directory, tmp_path / "old")
    assert export_hf(str(directory.path), str(tmp_path / "out")) < TOLERANCE
    again = import_hf(tmp_path / "out", tmp_path / "again")
    mine, wanted = again.weights()[0], directory.weights()[0]
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[name], wanted[name]) for name in mine)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ("token_type_ids" in tokenizer("a", "b")) == (not old)
    assert max(hidden_state_error(tmp_path / "out", again)) <= TOLERANCE


#: The last has two rows of types, and a tokeniser that gives every token the first.
NO_TYPES = ("roberta", "deberta-v3", "deberta-c2p")


def test_models_without_types_or_with_equal_ones_have_none(
    originals: Callable[[str], Path], copy: Copy, tmp_path: Path
) -> None:
    equal = copy()
    tensor(TYPES, lambda t: t[:1].expand(2, -1))(equal)
    unused = copy("bert-uncased")
    names = '{"model_input_names": ["input_ids", "attention_mask"]}'
    content("tokenizer_config.json", names)(unused)
    for source in (equal, unused, *map(originals, NO_TYPES)):
        made = import_hf(source, tmp_path / source.parent.name / source.name)
        assert "token_types" not in made.manifest.architecture
        assert max(hidden_state_error(source, made)) <= TOLERANCE


def test_two_copies_of_bert_leave_the_types_out(
    paired: dict[str, ModelDirectory], tmp_path: Path
) -> None:
    made = bert2bert(paired["bert-cased"], str(tmp_path / "double"))
    assert "token_types" not in made.manifest.architecture
    load_encoder(made)  # strictly


# --- fairseq's own releases -----------------------------------------------------------


def checkpoint(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Change model.pt."""

    def apply(source: Path) -> None:
        state = load_safely(source / "model.pt")
        torch.save(change(state), source / "model.pt")

    return apply


def argument(**changes: Any) -> Spoil:
    """Change a release's arguments."""

    def change(state: dict[str, Any]) -> dict[str, Any]:
        vars(state["args"]).update(changes)
        return state

    return checkpoint(change)


def smaller(state: dict[str, Any]) -> dict[str, Any]:
    model = {n: t[:50] if "embed_tokens" in n else t for n, t in state["model"].items()}
    return {**state, "model": model}


RELEASES: dict[str, tuple[Spoil, str]] = {
    "list": (checkpoint(lambda _: [1]), r"model\.pt: field 'model' is missing"),
    "no model": (checkpoint(lambda s: {"args": s["args"]}), "'model' is missing"),
    "model list": (checkpoint(lambda s: {**s, "model": [1]}), "holds a list, no state"),
    "text": (
        checkpoint(lambda s: {**s, "model": {**s["model"], "x": "y"}}),
        "holds 'x', a str: no state dict",
    ),
    "no args": (checkpoint(lambda s: {**s, "args": None}), "the whole: .*not None"),
    "args text": (checkpoint(lambda s: {**s, "args": "x"}), "the whole: .*not 'x'"),
    "arch": (argument(arch=["bart"]), "field 'arch': .*string, not a list"),
    "another": (argument(arch="transformer"), "'transformer' is neither BART's nor"),
    "layers text": (argument(encoder_layers="2"), "'encoder_layers': .*not '2'"),
    "layers": (argument(encoder_layers=10**9), "'encoder_layers': .*not 1000000000"),
    "more layers": (
        argument(encoder_layers=3),
        r"lack encoder\.(sentence_encoder\.)?layers\.2\.",
    ),
    "fewer layers": (
        argument(encoder_layers=1),
        r"encoder\.(sentence_encoder\.)?layers\.1\.\S+ has no place in the model",
    ),
    "heads": (argument(encoder_attention_heads=3), "16 is not a multiple of .* 3"),
    "activation": (argument(activation_fn="__import__('os')"), "'activation_fn': "),
    "rate": (argument(dropout=float("nan")), "'dropout': .*finite number, not nan"),
    "no length": (
        argument(max_positions=None, max_source_positions=None),
        "says neither max_positions nor max_source_positions",
    ),
    "small table": (checkpoint(smaller), "405 symbols and the embedding table 50 rows"),
    "numbers": (content("encoder.json", "[]"), r"encoder\.json: the whole: .*list"),
    "number": (content("encoder.json", '{"a": "b"}'), "field 'a': .*not 'b'"),
    "other numbers": (
        content("encoder.json", '{"~~": 70000, "q": 70001}'),
        r"are not of one model: '\d+' is in one only",
    ),
    "special": (tail("dict.txt", b"<s> 1\n"), "not of one model: a token is there"),
    "merges": (
        content("vocab.bpe", "#version: 0.2\na b c\n"),
        "line 2 is not two parts",
    ),
    "merges latin1": (
        content("vocab.bpe", b"#version: 0.2\n\xff b\n"),
        "line 2 is not UTF-8",
    ),
    "dictionary": (
        content("dict.txt", "a 1\nb\n"),
        r"dict\.txt: line 2 is not a symbol",
    ),
    "dictionary twice": (
        content("dict.txt", "a 1\nb 1\na 1\n"),
        r"dict\.txt: line 3 repeats the symbol of line 1",
    ),
    "dictionary latin1": (content("dict.txt", b"a 1\n\xff 1\n"), "line 2 is not UTF-8"),
}


@pytest.mark.parametrize("family", ["bart", "roberta"])
@pytest.mark.parametrize("case", RELEASES)
def test_bad_releases_are_one_line_and_leave_nothing(
    copy: Copy, tmp_path: Path, case: str, family: str
) -> None:
    spoil, message = RELEASES[case]
    release = copy(f"release:{family}")
    spoil(release)
    with pytest.raises(UserError, match=message) as caught:
        import_fairseq(release, release, tmp_path / "out" / "m")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("**/*"))


@pytest.mark.parametrize("family", ["bart", "roberta"])
def test_no_text_of_a_release_is_run_or_kept(
    copy: Copy, tmp_path: Path, family: str
) -> None:
    release, mark = copy(f"release:{family}"), tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    names = ("encoder_xformers_att_config", "decoder_xformers_att_config")
    evil = dict.fromkeys((*names, "adaptive_softmax_cutoff", "no_such"), code)
    argument(**evil, encoder_layers_to_keep=code)(release)
    made = import_fairseq(str(release), str(release), str(tmp_path / "m"))
    load_encoder(made)
    assert not mark.exists()
    assert code not in json.dumps(made.manifest.architecture)
    assert evil.keys().isdisjoint(made.manifest.architecture)
