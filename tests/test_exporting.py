"""Exports predict the same in transformers; imported again, they are the same."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
import yaml
from conftest import SCORE_FLAGS, Trainer, run_command, sentences
from fairseq_steady import __version__
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.checking import SENTENCES
from fairseq_steady.huggingface.exporting import Original, export_hf
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.huggingface.model_card import _averaged, _score, _settings
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.patches.checkpoints import AVERAGED
from helpers import checkpoint
from safetensors.torch import load_file, save_file
from sources import make_source

#: Kind of model and criterion; with r4f the head's bound is folded in.
TRAINED = {
    "bert-cased": ["--criterion=smart", "--smart-bregman=momentum", "--smart-mu=5"],
    "roberta": ["--criterion=r4f", "--r4f-eps=0.1"],
    "deberta": ["--criterion=plain"],
    "deberta-c2p": ["--criterion=plain"],
    "deberta-v2": ["--criterion=sift"],
    "deberta-v3": ["--criterion=r3f", "--r3f-eps=0.1"],
    "modernbert": ["--criterion=sift"],
    "bart": ["--criterion=plain"],
    "mbart": ["--criterion=plain"],
}
OUT = "sentence_classification_head.out_proj.weight"
PAIRS = [("it's mixed lower", "UPPER spaces next"), ("x y", "naïve café")]


@pytest.fixture(scope="module", params=TRAINED)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    cola_data: Path,
    fairseq_train: Trainer,
) -> tuple[Path, Path]:
    """A fine-tuned checkpoint of an imported model, and its export."""
    base = tmp_path_factory.mktemp(kind)
    source = make_source(base / "source", kind)
    import_hf(source, base / "model", "mit", with_head=False)
    fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={base / 'model'}", *TRAINED[kind]),
        *("--max-update=5", "--lr=1e-3", "--no-epoch-checkpoints"),
        f"--save-dir={base / 'run'}",
    )
    path = base / "run" / "checkpoint_best.pt"
    sharpen(path)
    assert export_hf(path, base / "out") < 1e-4
    return path, base / "out"


def sharpen(path: Path) -> None:
    """Logits of a new head are nearly the same for any text."""
    state = checkpoint(path.parent, path.name)
    state["model"]["classification_heads." + OUT] *= 30
    torch.save(state, path)


def probabilities(folder: Path, texts: list[Any]) -> torch.Tensor:
    """As transformers computes them from a padded batch."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if isinstance(texts[0], tuple):
        batch = tokenizer(
            [a for a, _ in texts],
            [b for _, b in texts],
            padding=True,
            return_tensors="pt",
        )
    else:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**batch).logits
    assert list(model.config.id2label.values()) == ["0", "1"]
    return found.softmax(-1)


def test_transformers_makes_the_same_text_of_ids(made: tuple[Path, Path]) -> None:
    path, out = made
    ours = Predictor(path).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    text = "it's mixed, ends in lower. can't"
    (ids,), _ = ours.encode([(text,)])
    said = theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)
    assert ours.decode(ids.tolist()) == said.strip()
    assert "it's" in said


@pytest.mark.parametrize("texts", [list(SENTENCES), PAIRS])
def test_transformers_predicts_the_same(
    made: tuple[Path, Path], kind: str, texts: list[Any]
) -> None:
    path, out = made
    # Padding at different lengths, in either library's own way.
    predict = Predictor(path)
    predict.columns = ["a", "b"] if isinstance(texts[0], tuple) else ["a"]
    expected = [list(found.probabilities.values()) for found in predict(texts)]
    first = [row[0] for row in expected]
    assert max(first) - min(first) > 2e-5
    torch.testing.assert_close(
        probabilities(out, texts), torch.tensor(expected), rtol=0, atol=1e-5
    )


def test_the_export_imported_again_has_the_same_weights(
    made: tuple[Path, Path], kind: str, tmp_path: Path
) -> None:
    path, out = made
    again = import_hf(out, tmp_path / "again")
    mine, _ = again.weights()
    wanted = checkpoint(path.parent, path.name)["model"]
    body = {n for n in wanted if not n.startswith("classification_heads")}
    assert mine.keys() | {n for n in body if n.endswith(".version")} == body
    for name, tensor in mine.items():
        # The row of padding and the two before the first position mean nothing.
        first = 2 if name.endswith("embed_positions.weight") else 0
        assert torch.equal(tensor[first:], wanted[name][first:]), name
    model = path.parent.parent / "model"
    dictionary = ModelDirectory.open(model).dictionary()
    assert again.dictionary().symbols == dictionary.symbols


def test_pairs_go_out_with_their_token_types(
    made: tuple[Path, Path], kind: str
) -> None:
    """BERT alone was taught a type for the second sentence."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(made[1])
    state = load_file(made[1] / "model.safetensors")
    types = [t for n, t in state.items() if "token_type_embeddings" in n]
    if kind == "bert-cased":
        assert tokenizer("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]
        assert types[0].shape == (2, 24)
        assert not types[0][0].any()
        assert types[0][1].all()
    else:
        assert "token_type_ids" not in tokenizer("a", "b")
        assert not any(t.any() for t in types)


def run_snippet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the Python of a folder's card prints, run there as the card says."""
    printed: list[Any] = []
    monkeypatch.chdir(folder)
    card = (folder / "README.md").read_text("utf-8")
    _, snippet, _ = re.split("```(?:python)?\n", card)
    exec(snippet, {"print": printed.append})  # noqa: S102  our own text
    return printed


def test_the_card_says_what_it_is(
    made: tuple[Path, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (made[1] / "README.md").read_text("utf-8")
    method = TRAINED[kind][0].removeprefix("--criterion=")
    assert f"# cola, fine-tuned with {method}" in card
    for line in (
        "- Task: cola, on `cola0` (rows: 64 of train, 24 of valid, 20 of ood)",
        "- Labels: 0, 1",
        "- Base model: `source`, licence: mit",
        "- Optimizer: `adam` `--adam-betas [0.9, 0.999]` `--adam-eps 1e-08`, "
        "learning rate 0.001, batch size 8, 5 updates",
        f"- Exported: {date.today()}, with fairseq-steady {__version__}",
    ):
        assert line in card.splitlines()
    assert re.search(r"^mcc on the development set.*: -?\d\.\d{4}\.$", card, re.M)
    assert "One run with one seed unless a table above says otherwise" in card
    assert f"Method: `{method}`" in card
    if kind == "roberta":
        assert "`--r4f-eps 0.1`" in card
    assert str(made[0].parent) not in card
    _, header, _ = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-classification",
        "tags": ["fairseq-steady", "cola", method],
        "metrics": ["matthews_correlation"],
    }
    ((found,),) = run_snippet(made[1], monkeypatch)
    assert found["label"] in "01"
    assert 0.5 <= found["score"] <= 1


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            {"val_loss": 0.5, "best": 0.5},
            "mcc on the development set, which chose these",
        ),
        ({"val_loss": 0.5, "best": math.nextafter(0.5, 1)}, "set, which chose these"),
        ({"val_loss": 0.5, "best": 0.75}, "mcc on the development set: 0.5000."),
        ({"val_loss": 0.5}, "mcc on the development set: 0.5000."),
        ({"val_loss": None, "best": 0.75}, "None were recorded of these weights."),
        ({AVERAGED: 3}, "None were recorded of these weights."),
    ],
)
def test_the_score_of_a_card_is_of_its_weights(
    extra: dict[str, float], said: str
) -> None:
    """And not the best of the run, which others may have had."""
    cfg = {"checkpoint": {"best_checkpoint_metric": "mcc"}}
    state = {"cfg": cfg, "extra_state": extra}
    original: Any = SimpleNamespace(checkpoint=state)
    assert said in _score(original)
    assert _averaged(state) == extra.get(AVERAGED, 0)


def test_a_card_shows_switches_without_a_value() -> None:
    given = {"_name": "bert_adam", "bert_adam_bias_correction": True, "lr": [1e-4]}
    given |= {"bert_adam_eps": 1e-6, "bert_adam_other": False, "bert_adam_more": None}
    assert _settings(given) == (
        "`bert_adam` `--bert-adam-bias-correction` `--bert-adam-eps 1e-06`"
    )


def test_the_teacher_is_a_choice(
    tmp_path: Path, cola_data: Path, fairseq_train: Trainer, models: dict[str, Path]
) -> None:
    fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models['roberta']}"),
        *("--criterion=smart", "--smart-bregman=momentum", "--max-update=6"),
        *("--lr=3e-2", f"--save-dir={tmp_path}", "--no-epoch-checkpoints"),
    )
    path = tmp_path / "checkpoint_last.pt"
    words = "roberta.embeddings.word_embeddings.weight"
    found = {}
    for teacher in (False, True):
        out = tmp_path / str(teacher)
        if teacher:
            (tmp_path / "text").write_text("w1 w2\n")
            flags = ["--teacher", "--text", tmp_path / "text"]
            done = run_command("export", path, out, *flags)
            assert done.returncode == 0, done.stderr
            assert "logits equal transformers' within" in done.stdout
            assert done.stderr == ""
            back = run_command("import", out, tmp_path / "back")
            assert "equal to transformers within" in back.stdout
            assert "REPORT" not in back.stderr
        else:
            export_hf(path, out, texts=["w1 w2"])
        found[teacher] = load_file(tmp_path / str(teacher) / "model.safetensors")[words]
    state = checkpoint(tmp_path)
    kept = state["extra_state"]["fairseq_steady"]["teacher"]["model"]
    ours = "encoder.sentence_encoder.embed_tokens.weight"
    # The word-level vocabulary lacks nothing but its order.
    for teacher, weights in ((False, state["model"]), (True, kept)):
        assert torch.equal(found[teacher].sort(0)[0], weights[ours].sort(0)[0])
    assert not torch.equal(found[False], found[True])
    cards = [
        (tmp_path / str(t) / "README.md").read_text("utf-8") for t in (False, True)
    ]
    assert ["smart's teacher" in card for card in cards] == [False, True]
    # The evaluations were of the student.
    assert ["None were recorded of these" in card for card in cards] == [False, True]


def test_scores_are_exported_as_a_regression(
    tmp_path: Path,
    score_data: Path,
    fairseq_train: Trainer,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fairseq_train(
        *(score_data, *SCORE_FLAGS, f"--steady-model={models['deberta']}"),
        "--steady-max-length=6",
        *("--max-update=3", f"--save-dir={tmp_path}", "--no-epoch-checkpoints"),
    )
    path, out = tmp_path / "checkpoint_last.pt", tmp_path / "out"
    export_hf(path, out, texts=["w1 w2", "w3"])
    config = json.loads((out / "config.json").read_text())
    assert config["problem_type"] == "regression"
    pipe = transformers.pipeline("text-classification", str(out))
    predict = Predictor(path)
    predict.columns = ["a"]  # the pipeline takes one text
    (mine,) = predict(["w1 w2 w3"])
    assert pipe("w1 w2 w3", function_to_apply="none")[0]["score"] == pytest.approx(
        mine.score, abs=1e-4
    )
    # A text is cut where it was in training, and not at the end of the positions.
    long = "w1 w2 w3 w4 w5 w6 w7 w8"
    (mine,) = predict([long])
    cut = pipe(long, function_to_apply="none", truncation=True)[0]["score"]
    assert cut == pytest.approx(mine.score, abs=1e-6)
    # As its data had pairs, so has the snippet; a score is no probability.
    both = {"text": "One text.", "text_pair": "Another."}
    wanted = pipe(both, function_to_apply="none")
    assert run_snippet(out, monkeypatch) == [wanted]


def test_labels_go_out_as_they_are_and_a_moved_model_is_named(
    tmp_path: Path, fairseq_train: Trainer, models: dict[str, Path]
) -> None:
    """And every file may be read by whom the umask lets."""
    labels = ['say "no"', "a\\b | <i>", "naïve ✓"]
    data, model = tmp_path / "data", tmp_path / "model"
    data.mkdir()
    for split, count in (("train", 12), ("valid", 6)):
        rows = [
            {"text": t, "label": labels[i % 3]}
            for i, (t, _) in enumerate(sentences(count))
        ]
        (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    shutil.copytree(models["roberta"], model)
    fairseq_train(
        *(data, "--task=text_classification", f"--steady-model={model}"),
        *("--max-update=1", f"--save-dir={tmp_path / 'run'}", "--no-epoch-checkpoints"),
    )
    path, out = tmp_path / "run" / "checkpoint_last.pt", tmp_path / "out"
    before = os.umask(0o027)
    try:
        export_hf(str(path), str(out), texts=["w1 w2"])
    finally:
        os.umask(before)
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["id2label"] == {
        str(i): label for i, label in enumerate(sorted(labels))
    }
    loaded = transformers.AutoConfig.from_pretrained(out)
    assert loaded.label2id == {label: i for i, label in enumerate(sorted(labels))}
    modes = {p.name: p.stat().st_mode & 0o777 for p in (out, *out.iterdir())}
    assert modes.pop("out") == 0o750
    assert set(modes.values()) == {0o640}
    model.rename(tmp_path / "moved")
    with pytest.raises(
        UserError, match="was trained from .*model, which is not there; "
    ):
        export_hf(path, tmp_path / "again")
    moved = str(tmp_path / "moved")
    assert export_hf(path, tmp_path / "again", moved, texts=["w1 w2"]) < 1e-4


@pytest.mark.parametrize("kind_", ["bert-uncased", "deberta-v2-own", "bart"])
def test_model_directories_come_back_as_they_came(
    kind_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = import_hf(make_source(tmp_path / "source", kind_), tmp_path / "model")
    export_hf(directory.path, tmp_path / "out")
    again = import_hf(tmp_path / "out", tmp_path / "again")
    for part in (0, 1):
        mine, wanted = again.weights()[part], directory.weights()[part]
        assert mine.keys() == wanted.keys()
        assert all(torch.equal(mine[name], wanted[name]) for name in mine)
    (said,) = run_snippet(tmp_path / "out", monkeypatch)
    assert isinstance(said, str) or said.shape[-1] == 24


def wrong_head(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["classifier.out_proj.bias"] += 1e-3
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def lost_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["roberta.encoder.layer.1.output.dense.bias"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_head, "differ by 0.001; nothing was written"),
        (lost_tensor, r"disagree about roberta\.encoder\.layer\.1\.output\.dense"),
    ],
)
def test_an_export_that_differs_is_not_written(
    tmp_path: Path,
    cola_data: Path,
    fairseq_train: Trainer,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    from fairseq_steady.huggingface import exporting

    fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models['roberta']}"),
        *("--max-update=1", f"--save-dir={tmp_path / 'run'}", "--no-epoch-checkpoints"),
    )
    write = exporting._write

    def spoiled(original: Original, folder: Path) -> None:
        write(original, folder)
        spoil(folder)

    monkeypatch.setattr(exporting, "_write", spoiled)
    path = tmp_path / "run" / "checkpoint_last.pt"
    with pytest.raises(UserError, match=message):
        export_hf(path, tmp_path / "out" / "m", texts=["w1 w2"])
    assert not list((tmp_path / "out").glob("*"))


def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    there, out = tmp_path / "there", tmp_path / "out"
    for source, target, teacher, message in (
        (tmp_path / "no.pt", out, False, "no.pt does not exist"),
        (there, out, False, "is not a model directory"),
        (models["roberta"], out, True, "which has no teacher"),
        (models["bart"], out, False, "no form in transformers"),
        (models["roberta"], there, False, "there exists; remove it"),
        (
            models["roberta"],
            tmp_path / "file" / "m",
            False,
            "m cannot be written .*File exists",
        ),
    ):
        with pytest.raises(UserError, match=message) as caught:
            export_hf(source, target, teacher=teacher, texts=["w1"])
        assert "\n" not in str(caught.value)
    for chosen in ({"model": "x"}, {"head": "x"}):
        said = f"is itself a model directory; omit --{next(iter(chosen))}"
        given = {"model": None, "head": None, **chosen}
        with pytest.raises(UserError, match=said):
            Original.open(models["roberta"], given["model"], False, given["head"])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", there]
    done = run_command("export", models["roberta"], out, "--table", there)
    said = f"error: {there} cannot be read (Is a directory)"
    assert (done.returncode, done.stderr.strip()) == (1, said)
    done = run_command("export", models["roberta"], tmp_path / "there")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "exists; remove it" in done.stderr


def test_summaries_go_out_with_their_decoding(
    tmp_path: Path, fairseq_train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = import_hf(make_source(tmp_path / "source", "bart"), tmp_path / "model").path
    data = tmp_path / "data"
    data.mkdir()
    for split, count in (("train", 8), ("valid", 4)):
        lines = [text for text, _ in sentences(count)]
        for side in ("source", "target"):
            (data / f"{split}.{side}").write_text("\n".join(lines) + "\n")
    fairseq_train(
        *(data, "--task=summarization", f"--steady-model={model}"),
        *("--summarization-form=custom", "--summarization-decode=2"),
        *("--summarization-source-length=7", "--max-update=1"),
        *(f"--save-dir={tmp_path / 'run'}", "--no-epoch-checkpoints"),
    )
    out = tmp_path / "out"
    export_hf(tmp_path / "run" / "checkpoint_last.pt", out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert len(tokenizer("one two " * 9, truncation=True)["input_ids"]) == 7
    loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(out)
    assert loaded.generation_config.num_beams == 4
    card = (out / "README.md").read_text("utf-8")
    assert "pipeline_tag: summarization" in card
    assert "metrics:\n- rouge\n" in card
    (said,) = run_snippet(out, monkeypatch)
    assert isinstance(said, str)
