"""Fine-tuned classifiers of Hugging Face come in with their heads and classes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import Trainer, run_command
from fairseq_steady.commands import import_hf as command
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.checking import assert_equal
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.inference.summarising import Summarizer
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.building import load_encoder
from fairseq_steady.models.steady import take_head
from fairseq_steady.models.words import WordsHead
from helpers import checkpoint
from safetensors.torch import load_file, save_file
from sources import PIECED, make_pieced, make_source

KINDS = [
    "bert-cased",
    "roberta",
    *PIECED,
    "deberta",
    "deberta-v3",
    "modernbert",
    "bart",
]
NAMES = ["Neutral", "Entailment", "Contra diction"]
TEXTS = ["it's mixed lower", "UPPER 日本語 spaces next combining it's x", "x"]
PAIRS = [("it's mixed", "UPPER spaces next"), ("x y z", "naïve café déjà-vu")]
HEAD = "classification_heads.sentence_classification_head."


def make_classifier(folder: Path, kind: str, labels: list[str], **changed: Any) -> Path:
    """A tiny random classifier whose logits are far from flat."""
    (make_pieced if kind in PIECED else make_source)(folder, kind)
    config = transformers.AutoConfig.from_pretrained(
        folder, id2label=dict(enumerate(labels)), **changed
    )
    torch.manual_seed(3)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def theirs(folder: Path, texts: list[Any]) -> torch.Tensor:
    """transformers' logits of a padded batch."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    columns = zip(*texts, strict=True) if isinstance(texts[0], tuple) else [texts]
    batch = tokenizer(*map(list, columns), padding=True, return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**batch).logits
    return found


@pytest.fixture(scope="module", params=KINDS)
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("classifier") / "source"
    return make_classifier(folder, request.param, NAMES)


@pytest.fixture(scope="module")
def imported(source: Path) -> ModelDirectory:
    return import_hf(source, source.with_name("model"))


def test_it_predicts_at_once_as_transformers_does(
    source: Path, imported: ModelDirectory
) -> None:
    assert imported.manifest.head == {"labels": NAMES}
    predict = Predictor(imported.path)
    for texts in (TEXTS, PAIRS):
        found = list(predict(texts))
        expected = theirs(source, texts)
        assert float((expected[0] - expected[1]).abs().max()) > 2e-4
        for one, logits in zip(found, expected, strict=True):
            assert list(one.probabilities) == NAMES
            assert one.label == NAMES[int(logits.argmax())]
            mine = torch.tensor(list(one.probabilities.values())).log()
            relative = logits.log_softmax(-1)
            torch.testing.assert_close(mine, relative, rtol=0, atol=1e-5)
    assert assert_equal(source, imported) <= 1e-5


def test_out_and_in_again_its_head_is_the_same(
    source: Path, imported: ModelDirectory, tmp_path: Path
) -> None:
    assert export_hf(imported.path, tmp_path / "out") <= 1e-5
    config = json.loads((tmp_path / "out/config.json").read_text())
    original = json.loads((source / "config.json").read_text())
    assert config["architectures"] == original["architectures"]
    assert config["id2label"] == original["id2label"]
    again = import_hf(tmp_path / "out", tmp_path / "again")
    assert again.manifest.head == imported.manifest.head
    mine, wanted = again.head(), imported.head()
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[name], wanted[name]) for name in mine)


def test_it_reads_as_many_tokens_as_its_source(tmp_path: Path) -> None:
    """A model that was trained on the first 7 tokens answers by these."""
    source = make_classifier(tmp_path / "source", "roberta", NAMES)
    said = source / "tokenizer_config.json"
    options = json.loads(said.read_text()) if said.is_file() else {}
    for length, kept in ((10**30, None), (7, 7)):
        said.write_text(json.dumps(options | {"model_max_length": length}))
        made = import_hf(source, tmp_path / f"model{length}")
        assert made.manifest.head is not None
        assert made.manifest.head.get("longest") == kept
    predict, long = Predictor(made.path, cpu=True), " ".join(TEXTS)
    ids = transformers.AutoTokenizer.from_pretrained(source)(long, truncation=True)
    assert len(ids["input_ids"]) == 7
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    with torch.no_grad():
        logits = model.eval()(**{n: torch.tensor([v]) for n, v in ids.items()}).logits
    (found,) = predict([long])
    wanted = logits.softmax(-1)[0].tolist()
    assert list(found.probabilities.values()) == pytest.approx(wanted, abs=1e-5)
    export_hf(made.path, tmp_path / "out")
    again = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert again["model_max_length"] == 7


def test_the_logits_are_compared_too(tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", "roberta", NAMES)
    directory = import_hf(source, tmp_path / "model")
    state = torch.load(directory.path / "model.pt", weights_only=True)
    state["head"]["out_proj.bias"][1] += 0.01
    torch.save(state, directory.path / "model.pt")
    directory.manifest.files.clear()
    said = r"logits of .* differ from transformers' by 0\.01; .* --without-head"
    with pytest.raises(UserError, match=said):
        assert_equal(source, directory)


@pytest.mark.parametrize("problem", [None, "regression"])
def test_one_output_is_a_score(tmp_path: Path, problem: str | None) -> None:
    source = make_classifier(
        tmp_path / "source", "bert-cased", ["LABEL_0"], problem_type=problem
    )
    directory = import_hf(source, tmp_path / "model")
    assert directory.manifest.head == {"labels": None}
    found = [one.score for one in Predictor(directory.path)(TEXTS)]
    assert found == pytest.approx(theirs(source, TEXTS)[:, 0].tolist(), abs=1e-5)
    assert export_hf(directory.path, tmp_path / "out") <= 1e-5
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["problem_type"] == "regression"


def test_any_number_of_labels_may_hold(tmp_path: Path) -> None:
    several = "multi_label_classification"
    folder = tmp_path / "source"
    source = make_classifier(folder, "roberta", NAMES, problem_type=several)
    directory = import_hf(source, tmp_path / "model")
    assert directory.manifest.head == {"labels": NAMES, "several": True}
    expected = theirs(source, TEXTS).sigmoid()
    for one, row in zip(Predictor(directory.path)(TEXTS), expected, strict=True):
        assert [*one.probabilities.values()] == pytest.approx(row.tolist(), abs=1e-5)
    assert export_hf(directory.path, tmp_path / "out") <= 1e-5
    again = import_hf(tmp_path / "out", tmp_path / "again")
    assert again.manifest.head == directory.manifest.head


# --- going on from it -----------------------------------------------------------------


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    folder = tmp_path_factory.mktemp("headed")
    source = make_classifier(folder / "source", "roberta", ["c", "A", "b"])
    return import_hf(source, folder / "model")


def write_data(folder: Path, labels: list[str]) -> Path:
    folder.mkdir()
    lines = [f"it's {name} {i}\t{name}" for i in range(6) for name in labels]
    for split in ("train", "valid"):
        text = "\n".join(["text\tlabel", *lines]) + "\n"
        (folder / f"{split}.tsv").write_text(text)
    return folder


def head_after(
    train: Trainer, directory: ModelDirectory, data: Path, out: Path, *flags: str
) -> tuple[torch.Tensor, list[str]]:
    """The output layer after updates that change nothing, and its classes."""
    train(
        *(data, "--task=text_classification", f"--steady-model={directory.path}"),
        *("--lr=1e-30", "--max-update=1", f"--save-dir={out}", *flags),
    )
    state = checkpoint(out)
    rows = state["model"][f"{HEAD}out_proj.weight"]
    return rows, state["task_state"]["heads"][HEAD.split(".")[1]]["labels"]


def test_training_starts_from_the_head_by_its_classes_names(
    headed: ModelDirectory, tmp_path: Path, fairseq_train: Trainer
) -> None:
    own = headed.head()["out_proj.weight"]
    data = write_data(tmp_path / "data", ["A", "b", "c"])
    rows, labels = head_after(fairseq_train, headed, data, tmp_path / "as_is")
    assert labels == ["c", "A", "b"]  # as a checkpoint's: where nobody says others
    assert torch.equal(rows, own)
    asked = "--steady-labels=A,b,c"
    rows, labels = head_after(fairseq_train, headed, data, tmp_path / "asked", asked)
    assert labels == ["A", "b", "c"]
    assert torch.equal(rows, own[[1, 2, 0]])
    # A checkpoint of that run has the last word, whatever the model has.
    again = f"--finetune-from-model={tmp_path / 'asked/checkpoint_last.pt'}"
    rows, labels = head_after(fairseq_train, headed, data, tmp_path / "again", again)
    assert labels == ["A", "b", "c"]
    assert torch.equal(rows, own[[1, 2, 0]])
    plain = Predictor(headed.path), Predictor(tmp_path / "asked/checkpoint_last.pt")
    before, after = (next(iter(p(["it's b"]))).probabilities for p in plain)
    assert before == pytest.approx(after)


def test_other_classes_are_refused_mapped_or_begun_anew(
    headed: ModelDirectory, tmp_path: Path, fairseq_train: Trainer
) -> None:
    own = headed.head()["out_proj.weight"]
    data = write_data(tmp_path / "data", ["a", "B", "C"])
    flags = (data, "--task=text_classification", f"--steady-model={headed.path}")
    done = fairseq_train(*flags, f"--save-dir={tmp_path / 'no'}", status=1)
    assert done.stderr.splitlines()[-1] == (
        f"error: {headed.path} has a head for classes c, A, b, and this run is for "
        "classes B, C, a: --steady-new-head leaves it behind, --steady-label-map says "
        "which is which, as in c=C,A=a,b=B"
    )
    told = "--steady-label-map=c=C,A=a,b=B"
    rows, labels = head_after(fairseq_train, headed, data, tmp_path / "told", told)
    assert labels == ["C", "a", "B"]
    assert torch.equal(rows, own)
    new = "--steady-new-head"
    rows, labels = head_after(fairseq_train, headed, data, tmp_path / "new", new)
    assert labels == ["B", "C", "a"]
    assert float((rows - own).abs().max()) > 0.1


def test_a_head_that_reads_words_does_not_start_from_it(
    headed: ModelDirectory,
) -> None:
    model = load_encoder(headed)
    model.classification_heads[HEAD.split(".")[1]] = WordsHead(model.args, 3)
    with pytest.raises(UserError, match="is of another form: --steady-new-head leaves"):
        take_head(model, headed, [0, 1, 2])


# --- at the command line --------------------------------------------------------------


def test_predict_takes_sentences_or_pairs_of_a_model(
    headed: ModelDirectory, tmp_path: Path
) -> None:
    done = run_command("predict", headed.path, "--text", "it's b", "--with-text")
    assert json.loads(done.stdout.splitlines()[-1])["text"] == "it's b"
    (tmp_path / "pairs.txt").write_text("it's b\tx y\nx\ty\n")
    done = run_command("predict", headed.path, tmp_path / "pairs.txt", "--tsv")
    lines = [line.split("\t") for line in done.stdout.splitlines()][-3:]
    assert lines[0] == ["label", "c", "A", "b"]
    expected = next(iter(Predictor(headed.path)([("it's b", "x y")])))
    assert lines[1][0] == expected.label
    assert list(map(float, lines[1][1:])) == pytest.approx(
        list(expected.probabilities.values()), abs=1e-6
    )


def test_what_a_model_is_not_for_is_one_line(headed: ModelDirectory) -> None:
    with pytest.raises(UserError, match="is itself a model directory; omit --model"):
        Predictor(headed.path, model="x")
    with pytest.raises(UserError, match="has a head .* predict predicts with it"):
        Summarizer(headed.path)
    with pytest.raises(UserError, match="has no head cola: leave --head out"):
        Predictor(headed.path, head="cola")
    with pytest.raises(UserError, match=r"\('a', 'b', 'c'\): the checkpoint was tr"):
        list(Predictor(headed.path)([("a", "b", "c")]))  # type: ignore[list-item]


def test_import_says_what_the_head_is_for(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = str(make_classifier(tmp_path / "source", "bert-cased", NAMES))
    command.main([source, str(tmp_path / "model")])
    assert capsys.readouterr().out.endswith(
        "at every layer; with its head for 'Neutral', 'Entailment', 'Contra diction'\n"
    )
    command.main([source, str(tmp_path / "bare"), "--without-head"])
    assert capsys.readouterr().out.endswith("at every layer\n")
    assert "the classification head with labels 'Neutral'" in caplog.text
    done = run_command("predict", tmp_path / "bare", "--text", "x")
    assert done.stderr == (
        f"error: {tmp_path / 'bare'} is a model directory without a head for labels or "
        "scores: name a checkpoint that was trained from it\n"
    )


# --- what is not taken ----------------------------------------------------------------


def edit(**changed: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text()) | changed
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return apply


def tensors(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", {"format": "pt"})

    return apply


WIDTH = 24
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a name twice": (
        edit(id2label={"0": "a", "1": "b", "2": " a"}),
        "config.json: id2label: the name 'a' of 2 is that of 0 too; mend it, or import "
        "the rest alone with --without-head",
    ),
    "no name": (
        edit(id2label={"0": "a", "1": "", "2": "c"}),
        "id2label: the name '' of 1 is empty; mend it",
    ),
    "too few": (
        edit(id2label={"0": "a", "1": "b"}),
        "id2label names 2 classes (0, 1), and the head has 3 outputs, 0 to 2; mend it",
    ),
    "other numbers": (
        edit(id2label={"1": "a", "2": "b", "3": "c"}),
        "id2label names 3 classes (1, 2, 3), and the head has 3 outputs, 0 to 2",
    ),
    "no names": (
        edit(id2label=None),
        "id2label names 2 classes (0, 1), and the head has 3 outputs, 0 to 2",
    ),
    "another's head": (
        tensors(
            lambda s: s.update({"classifier.weight": s.pop("classifier.dense.weight")})
        ),
        "config.json names RobertaForSequenceClassification, whose head has "
        "classifier.dense.weight, and the weights do not; mend it",
    ),
    "another shape": (
        tensors(lambda s: s.update({"classifier.dense.weight": torch.ones(9, WIDTH)})),
        "classifier.dense.weight has shape (9, 24), where its configuration and the "
        "other weights say (24, 24)",
    ),
    "fewer biases": (
        tensors(lambda s: s.update({"classifier.out_proj.bias": torch.ones(2)})),
        "classifier.out_proj.bias has shape (2,), where its configuration and the "
        "other weights say (3,)",
    ),
    "no numbers": (
        tensors(lambda s: s["classifier.out_proj.bias"].fill_(float("nan"))),
        "classifier.out_proj.bias holds NaN or infinite numbers",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_head_is_one_line(
    how: str, headed: ModelDirectory, tmp_path: Path
) -> None:
    change, said = BROKEN[how]
    copy = shutil.copytree(headed.path.with_name("source"), tmp_path / "source")
    change(copy)
    with pytest.raises(UserError) as caught:
        import_hf(copy, tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"problem_type": "regression"}, "is for problem_type regression with outputs"),
        ({"architectures": ["RobertaForTokenClassification"]}, "is not imported (cl"),
    ],
)
def test_heads_for_something_else_stay_behind(
    headed: ModelDirectory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changed: dict[str, Any],
    said: str,
) -> None:
    copy = shutil.copytree(headed.path.with_name("source"), tmp_path / "source")
    edit(**changed)(copy)
    directory = import_hf(copy, tmp_path / "out")
    assert directory.manifest.head is None
    assert said in caplog.text


def test_two_classes_without_names_have_transformers_own(tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", "roberta", ["LABEL_0", "LABEL_1"])
    assert "id2label" not in json.loads((source / "config.json").read_text())
    directory = import_hf(source, tmp_path / "model")
    assert directory.manifest.head == {"labels": ["LABEL_0", "LABEL_1"]}
    edit(id2label={"1": "first", "0": "last"})(source)
    directory = import_hf(source, tmp_path / "named")
    assert directory.manifest.head == {"labels": ["last", "first"]}


def test_a_head_that_its_manifest_does_not_describe_is_one_line(
    headed: ModelDirectory, tmp_path: Path
) -> None:
    copy = shutil.copytree(headed.path, tmp_path / "model")
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "head": {"labels": ["a", "b"]}}))
    done = run_command("predict", copy, "--text", "x")
    assert done.stderr == (
        f"error: {copy / 'model.pt'}: its head is not the one of 2 outputs that "
        "manifest.json describes; import the model again\n"
    )
    path.write_text(json.dumps({**manifest, "head": {"labels": "ab"}}))
    done = run_command("predict", copy, "--text", "x")
    assert "manifest.json: field 'head.labels': " in done.stderr
    assert len(done.stderr.splitlines()) == 1
