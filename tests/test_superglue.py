"""SuperGLUE: multiple choice under every method, words in sentences, official files."""

import itertools
import json
import re
import unicodedata
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from conftest import ENCODER, Trainer, Zygote, run_command, sentences
from fairseq.data import Dictionary
from fairseq_steady.criterions.kinds import Classes
from fairseq_steady.criterions.passes import Passes
from fairseq_steady.data import Encoded, Ragged, SentenceDataset, SentenceTokenizer
from fairseq_steady.data.forms import ChoiceRows, WordRows
from fairseq_steady.data.readers import Example
from fairseq_steady.data.superglue import (
    TASKS,
    find,
    read_split,
    read_test,
)
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.inference import probing
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.model_dir import Manifest, ModelDirectory, write_model_directory
from fairseq_steady.models.families.roberta import FAMILY
from fairseq_steady.models.steady import HEAD
from fairseq_steady.models.words import WordsHead
from fairseq_steady.regularizers import derived, draw, find_encoder, noise_keys
from fairseq_steady.tasks._heads import Head, Start, moves
from fairseq_steady.tasks._steady import SteadyTask
from fairseq_steady.tasks.superglue import SuperGlueConfig, SuperGlueTask
from helpers import (
    NO_DROPOUT,
    assert_equal_weights,
    checkpoint,
    logged,
    train_on_workers,
)
from method_table import METHODS, TRAINED
from tiny import batch, build, in_turn, make_criterion
from tokenizers import (
    ByteLevelBPETokenizer,
    SentencePieceBPETokenizer,
    Tokenizer,
)
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

CHOICES = 3
PENALTIES = [name for name, row in METHODS.items() if row.divergence]


# --- multiple choice ------------------------------------------------------------------


def choices_of(path: Path, family: str = "roberta") -> SentenceDataset:
    """Five examples of three choices, all of lengths of their own."""
    rng = torch.Generator().manual_seed(6)
    sides = []
    for choice in range(CHOICES):
        lengths = [n + (choice * 5 + n) % 4 for n in tiny.LENGTHS]
        words = [torch.randint(5, 60, (n - 2,), generator=rng) for n in lengths]
        ends = torch.tensor([0]), torch.tensor([2])
        sides.append(Ragged.of([torch.cat([ends[0], w, ends[1]]) for w in words]))
    targets = (torch.arange(len(tiny.LENGTHS)) % CHOICES).numpy()
    encoded = Encoded(tuple(sides), targets, (0,) * CHOICES)
    dictionary = ModelDirectory.open(path).dictionary()
    decodes, form = family == "bart", ChoiceRows(CHOICES)
    return SentenceDataset(encoded, dictionary, decoder_input=decodes, form=form)


def ready(method: str, model: Any, **flags: Any) -> Any:
    made = make_criterion(method, choices=CHOICES, **METHODS[method].live | flags)
    made.check_model(model)
    made.prepare_model(model)
    return made


class Choosing(tiny.Reference):
    """The reference on the rows of a batch, its logits by example."""

    def __init__(self, model: Any, sample: dict[str, Any]) -> None:
        rows = sample["net_input"]["src_tokens"].view(len(sample["id"]) * CHOICES, -1)
        super().__init__(model, {"net_input": {"src_tokens": rows}})

    def logits(self, norm: Tensor, layers: list[Tensor] | None = None) -> Tensor:
        layers = layers and [noise.view(norm.shape) for noise in layers]
        return super().logits(norm, layers).view(-1, CHOICES)

    def from_words(self, delta: Tensor, detach: bool = True) -> Tensor:
        return super().from_words(delta.view(self.word.shape), detach)


def task_loss(logits: Tensor, sample: dict[str, Any]) -> Tensor:
    return -logits.log_softmax(-1).gather(1, sample["target"].view(-1, 1)).sum()


def in_double(method: str, model: Any, sample: dict[str, Any]) -> Tensor:
    """Loss of a batch whose perturbation is of each example's tokens, side by side."""
    ref = Choosing(model.double(), sample)
    torch.manual_seed(11)
    mask, keys = sample["net_input"]["src_tokens"].ne(1), noise_keys(sample["id"])

    def drawn(noise: str, size: float, of: Tensor = keys) -> Tensor:
        return draw(noise, of, mask, 16, size).double()

    clean = ref.logits(ref.norm)
    plain = task_loss(clean, sample)
    if method == "r3f":
        return plain + tiny.sym(ref.from_words(drawn("uniform", 0.1)), clean).sum()
    if method == "hype":
        noise = [drawn("normal", 0.1, derived(keys, layer)) for layer in range(2)]
        return task_loss(ref.logits(ref.norm, noise), sample)
    if method == "freelb":
        far = drawn("uniform", 1.0) / (16 * mask.sum(1)).sqrt()[:, None, None]
        return task_loss(ref.from_words(far, detach=False), sample)
    delta = drawn("normal", 0.1).clamp(-0.1, 0.1).requires_grad_()
    climbed = tiny.sym(ref.from_words(delta), clean.detach()).sum()
    (g,) = torch.autograd.grad(climbed, delta)
    unit = g / g.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    delta = (delta.detach() + 0.1 * unit).clamp(-0.1, 0.1)
    return plain + tiny.sym(ref.from_words(delta), clean).sum()


@pytest.mark.parametrize("method", ["smart", "r3f", "hype", "freelb"])
def test_multiple_choice_equals_a_float64_reference(
    models: dict[str, Path], method: str
) -> None:
    model = build(models["roberta"], outputs=1)
    sample = batch(choices_of(models["roberta"]))
    steps = {"freelb": {"steps": 0}}.get(method, {})
    made, table = ready(method, model, **steps), model.encoder.sentence_encoder
    torch.manual_seed(11)
    loss, count, _ = made(model, sample)
    assert count == len(tiny.LENGTHS)
    loss.backward()
    got = table.embed_tokens.weight.grad.clone()
    model.zero_grad()
    wanted = in_double(method, model, sample)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-4, atol=1e-6)
    wanted.backward()
    grad = table.embed_tokens.weight.grad
    torch.testing.assert_close(got.double(), grad, rtol=5e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("method", "family"), in_turn(m for m, row in METHODS.items() if row.live)
)
def test_padding_order_and_accumulation_change_no_choice(
    models: dict[str, Path], method: str, family: str
) -> None:
    """And the perturbation is felt."""
    model, data = build(models[family], outputs=1), choices_of(models[family], family)
    made = ready(method, model)
    whole = tiny.loss_of(made, model, batch(data))
    turned = tiny.loss_of(made, model, batch(data, 3, 0, 4, 2, 1))
    alone = [tiny.loss_of(made, model, batch(data, i)) for i in range(5)]
    for name in ("total", f"{method}_rms"):
        assert turned[name] == pytest.approx(whole[name], rel=2e-5)
        assert sum(one[name] for one in alone) == pytest.approx(whole[name], rel=2e-5)
    plain = tiny.loss_of(ready("plain", model), model, batch(data))
    assert abs(whole["total"] - plain["total"]) > 1e-3


@pytest.mark.parametrize("dropout", ["independent", "shared", "off"])
@pytest.mark.parametrize("method", PENALTIES)
def test_a_part_of_the_examples_keeps_every_choice_of_each(
    models: dict[str, Path], method: str, dropout: str
) -> None:
    """Cut to the longest choice among them, they have the terms that they had."""
    path = models["roberta"]
    model, sample = build(path, outputs=1), batch(choices_of(path))
    rows, terms = torch.tensor([3, 0]), []
    for chosen in (None, rows):
        made = ready(method, model, dropout=dropout)
        torch.manual_seed(11)
        _, seen = made.clean(model, sample, made.kinds[None], chosen)
        terms.append(made.regularizer(model)(seen.view).value)
    torch.testing.assert_close(terms[1], terms[0][rows], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["sift", "smart"])
def test_a_kept_perturbation_is_of_all_choices(
    models: dict[str, Path], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = models["roberta"]
    model, data = build(path, outputs=1), choices_of(path)
    made = ready(method, model, cache=5)
    caplog.set_level("INFO")
    made.task.datasets = {"train": data}
    made.before_update(model, 0)
    longest = np.max([side.sizes for side in data.encoded.sides], 0)
    most = made._caches[""].memory(torch.from_numpy(longest * CHOICES * 16)) / 1e9
    assert f"the perturbations of 5 sentences: {most:.3g} GB" in caplog.text
    tiny.loss_of(made, model, batch(data, 0, 1, 2))
    made.after_update(model, 1)
    known = made._caches[""]
    tokens = [sum(int(side.sizes[i]) for side in data.encoded.sides) for i in range(5)]
    sizes = {i: known.form.size(16 * tokens[i]) for i in range(3)}
    assert {i: len(kept) for i, kept in known.stored.items()} == sizes
    anew = tiny.loss_of(ready(method, model), model, batch(data, 4, 1, 3))
    partly = tiny.loss_of(made, model, batch(data, 4, 1, 3))
    assert partly["total"] == pytest.approx(anew["total"], rel=2e-2)
    assert partly[f"{method}_passes"] < anew[f"{method}_passes"]


def test_r_drop_compares_distributions_over_choices(models: dict[str, Path]) -> None:
    path = models["roberta"]
    model, sample = build(path, 0.3, outputs=1), batch(choices_of(path))
    made = make_criterion("r_drop", choices=CHOICES, **{"lambda": 2.0})
    torch.manual_seed(11)
    rows = {
        name: value.view(len(value) * CHOICES, -1).repeat(2, 1)
        for name, value in sample["net_input"].items()
    }
    options = {"features_only": True, "classification_head_name": HEAD}
    one, other = model(**rows, **options)[0].view(2, -1, CHOICES)
    loss = sum(task_loss(x, sample) for x in (one, other)) / 2
    wanted = loss + 2 * tiny.sym(other, one).sum()
    found = tiny.loss_of(made, model, sample)
    assert found["total"] == pytest.approx(float(wanted), rel=1e-4)


def test_a_batch_holds_each_choice_and_counts_all_rows(
    models: dict[str, Path],
) -> None:
    directory = ModelDirectory.open(models["roberta"])
    tokenizer = SentenceTokenizer(directory, directory.dictionary(), 32)
    examples = [
        Example(("w1 w2", "w3", "w4 w5"), "0", 1),
        Example(("w6", "w7", "w8"), "1", 2),
    ]
    ids, cut = ChoiceRows(2).encode("f", examples, tokenizer)
    words = [[tokenizer.decode(row.tolist()) for row in side] for side in ids]
    assert words == [["w1 w2 w3", "w6 w7"], ["w1 w2 w4 w5", "w6 w8"]]
    assert list(cut) == [0, 0]
    sides = tuple(map(Ragged.of, ids))
    encoded = Encoded(sides, np.array([0, 1]), (0, 0))
    data = SentenceDataset(encoded, directory.dictionary(), form=ChoiceRows(2))
    sample = batch(data)
    assert sample["net_input"]["src_tokens"].shape == (2, 2 * 7)
    assert sample["net_input"]["src_lengths"].tolist() == [[6, 7], [5, 5]]
    assert data.num_tokens_vec(np.array([1, 0])).tolist() == [2 * 5, 2 * 7]
    found: Any = SimpleNamespace(cfg=None, cuts="--steady-max-length")
    found.cfg = SimpleNamespace(data="d")
    SteadyTask._check_fits(found, data, 14, "valid")
    with pytest.raises(UserError, match="has 14 tokens, more than --max-tokens 13"):
        SteadyTask._check_fits(found, data, 13, "valid")


def test_choices_of_one_example_get_noise_of_their_own(models: dict[str, Path]) -> None:
    """The same words in two choices are shifted apart, and pads not at all."""
    sample = batch(choices_of(models["roberta"]), 1)
    mask = sample["net_input"]["src_tokens"].ne(1)
    noise = draw("normal", noise_keys(sample["id"], 3), mask, 16, 1.0)
    parts = noise.view(CHOICES, -1, 16)
    assert not torch.allclose(parts[0], parts[1], atol=0.1)
    assert not noise[~mask].any()


# --- words ----------------------------------------------------------------------------


TEXTS = [
    "Do you want to come over to my place later?",
    "A political system with no place, for the less prominent: place!",
    "naïve café place Ångström 🙂👍🏽 placement",
    "  日本語 placé (place) it's place's",
]


def tokenizers() -> dict[str, Any]:
    """Of each kind, taught a few pieces of words."""
    wordpiece = BertWordPieceTokenizer()
    wordpiece.train_from_iterator(TEXTS, 160, 1, show_progress=False)
    bytes_ = ByteLevelBPETokenizer()
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    bytes_.train_from_iterator(TEXTS, 300, 2, special_tokens=names)
    pieces = SentencePieceBPETokenizer()
    pieces.train_from_iterator(TEXTS, 90, 1, special_tokens=names, show_progress=False)
    made = {"wordpiece": wordpiece, "bytes": bytes_, "sentencepiece": pieces}
    return {name: Tokenizer.from_str(one.to_str()) for name, one in made.items()}


def directory_of(folder: Path, tokenizer: Tokenizer) -> ModelDirectory:
    """Nothing but a tokeniser."""
    vocabulary, special = tokenizer.get_vocab(), FAMILY.kinds["bert"]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    dictionary = Dictionary()
    for token in vocabulary:
        if token not in special.special.values():
            dictionary.add_symbol(token)
    dictionary.add_symbol("<mask>")
    manifest = Manifest("roberta", ENCODER, dict(special.special))
    return write_model_directory(folder, manifest, {}, dictionary, tokenizer.to_str())


def bare(text: str) -> str:
    """Lower case without accents, as BERT has it."""
    apart = unicodedata.normalize("NFD", text.lower())
    return "".join(c for c in apart if not unicodedata.combining(c))


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "sentencepiece"])
def test_tokens_of_a_word_are_those_that_spell_it(tmp_path: Path, kind: str) -> None:
    directory = directory_of(tmp_path / kind, tokenizers()[kind])
    tokenizer = SentenceTokenizer(directory, directory.dictionary(), 200)
    texts = [text.strip() for text in TEXTS]
    alone = r"(?<!\S)\w+(?!\S)"
    found = [(text, m.span()) for text in texts for m in re.finditer(alone, text)]
    assert len(found) > 18
    for one, other in itertools.pairwise(found):
        pair, spans = zip(one, other, strict=True)
        (ids,), (words,), _ = tokenizer.encode_words([pair], [spans])
        assert len(ids) == len(words)
        assert ids.tolist() == tokenizer.encode([pair])[0][0].tolist()
        for number in (1, 2):
            inside = np.flatnonzero(words == number)
            assert np.diff(inside).tolist() == [1] * (len(inside) - 1)
            spelled = tokenizer.decode(ids[inside].tolist()).replace(" ", "")
            word = pair[number - 1][slice(*spans[number - 1])]
            assert bare(spelled) == bare(word)


BENDS: dict[str, Any] = {
    **dict.fromkeys(("roberta", "mpnet", "albert"), torch.tanh),
    **dict.fromkeys(("deberta", "modernbert", "electra"), nn.functional.gelu),
    "distilbert": torch.relu,
}


@pytest.mark.parametrize("family", list(BENDS))
def test_the_head_reads_both_words_wherever_they_stand(
    models: dict[str, Path], family: str
) -> None:
    """In float64, from hidden states of every position; and padding changes nothing."""
    model = build(models[family]).double()
    torch.manual_seed(5)
    model.classification_heads["words"] = WordsHead(model.args, 2).double()
    rows = [
        ([0, 7, 8, 9, 2, 10, 11, 2], [0, 1, 1, 0, 0, 0, 2, 0]),
        ([0, 12, 2, 13, 14, 15, 16, 17, 18, 2], [0, 1, 0, 0, 2, 2, 2, 0, 0, 0]),
    ]
    sides = [Ragged.of([np.array(row[side]) for row in rows]) for side in (0, 1)]
    form, found = WordRows(), []
    for chosen in ([0, 1], [0], [1]):
        items = [form.item(sides, row) for row in chosen]
        sample = {"net_input": form.padded(items, 1, False)}
        found.append(Classes("words", 2).logits(model, sample))
    torch.testing.assert_close(found[0], torch.cat(found[1:]), rtol=1e-5, atol=1e-6)
    head, bend = model.classification_heads["words"], BENDS[family]
    for logits, (ids, words) in zip(found[0], rows, strict=True):
        states = model(torch.tensor([ids]), features_only=True)[0][0]
        parts = [states[0]]
        for number in (1, 2):
            inside = [s for s, w in zip(states, words, strict=True) if w == number]
            parts.append(torch.stack(inside).mean(0))
        hidden = bend(head.dense.weight @ torch.cat(parts) + head.dense.bias)
        wanted = head.out_proj.weight @ hidden + head.out_proj.bias
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-6)


def test_a_part_of_the_sentences_keeps_its_words(models: dict[str, Path]) -> None:
    """Their columns are cut as those of the tokens are."""
    model = build(models["roberta"])
    torch.manual_seed(5)
    model.classification_heads["words"] = WordsHead(model.args, 2)
    ids = [[0, 7, 8, 2], [0, 9, 9, 9, 9, 10, 2], [0, 11, 12, 13, 2]]
    words = [[0, 1, 2, 0], [0, 1, 0, 0, 0, 2, 0], [0, 0, 1, 2, 0]]
    form, sides = WordRows(), [Ragged.of(list(map(np.array, x))) for x in (ids, words)]
    net_input = form.padded([form.item(sides, row) for row in range(3)], 1, False)
    sample = {"net_input": net_input, "id": torch.arange(3), "target": torch.zeros(3)}
    encoder = find_encoder(model)
    of = [(encoder, "src_tokens")]
    passes = Passes(model, Classes("words", 2), sample, of, "word", nullcontext)
    part, _, _ = passes.some(torch.tensor([2, 0]))
    assert part.sample["net_input"]["words"].shape == (2, 5)
    torch.testing.assert_close(part.clean(), passes.clean()[[2, 0]])


# --- official files -------------------------------------------------------------------


def official(task: str, number: int) -> dict[str, Any]:
    """A row as SuperGLUE publishes it."""
    text, label = sentences(number + 1, seed=number)[number]
    first, second = text, f"w{number % 50 + 1} w7"
    rows: dict[str, dict[str, Any]] = {
        "boolq": {"question": second, "passage": first, "label": bool(label)},
        "cb": {
            "premise": first,
            "hypothesis": second,
            "label": TASKS["cb"].labels[number % 3],
        },
        "rte": {
            "premise": first,
            "hypothesis": second,
            "label": TASKS["rte"].labels[label],
        },
        "copa": {
            "premise": first,
            "choice1": "w0" if label == 0 else "w5 w6",
            "choice2": "w0" if label else "w5 w6 w9",
            "question": ("cause", "effect")[number % 2],
            "label": label,
        },
    }
    if task == "wic":
        return wic(number) | {"idx": number}
    return rows[task] | {"idx": number}


def wic(number: int) -> dict[str, Any]:
    """A row whose words decide: they are followed alike, and stand where they may."""
    label, word = bool(number % 2), f"w{40 + number % 9}"
    cells: dict[str, Any] = {"word": word, "label": label, "version": 1.1}
    for side in (1, 2):
        filling = sentences(3, seed=number + side)[2 * side - 2][0].split()[:4]
        place = (number + side) % 4
        chosen = "w1" if label or side == 1 else "w2"
        text = " ".join([*filling[:place], chosen, *filling[place:]])
        start = len(" ".join(filling[:place])) + (place > 0)
        cells |= {f"sentence{side}": text, f"start{side}": start}
        cells[f"end{side}"] = start + 2
    return cells


def write_task(folder: Path, task: str, **counts: int) -> Path:
    """A task's folder with so many rows in each file."""
    place = folder / TASKS[task].folder
    place.mkdir(parents=True)
    for name, count in counts.items():
        rows = [official(task, number) for number in range(count)]
        if name == "test":
            rows = [{k: v for k, v in row.items() if k != "label"} for row in rows]
        lines = [json.dumps(row) + "\n" for row in rows]
        (place / f"{name}.jsonl").write_text("".join(lines))
    return place


def flags(models: dict[str, Path], data: Path, task: str, *method: str) -> list[Any]:
    common = ["--task=superglue", f"--superglue-task={task}", *method]
    return [data, *common, f"--steady-model={models['roberta']}", "--max-epoch=2"]


def answers(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_copa_on_two_workers_is_copa_on_one_and_is_submitted(
    models: dict[str, Path],
    tmp_path: Path,
    fairseq_train: Trainer,
    zygote: Zygote,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With kept perturbations of a part of the examples."""
    write_task(tmp_path, "copa", train=32, val=10, test=5)
    one, two = tmp_path / "one", tmp_path / "two"
    method = [*TRAINED["sift-cached"], *NO_DROPOUT, "--adam-eps=1e-3"]
    again = f"--steady-also=again={tmp_path / 'COPA' / 'val.jsonl'}"
    common = [*flags(models, tmp_path, "copa", *method), again]
    places = [[f"--save-dir={run}", f"--steady-record={run}"] for run in (one, two)]
    done = fairseq_train(*common, *places[0], "--update-freq=2")
    train_on_workers(zygote, *common, *places[1])
    assert_equal_weights(one, two, tolerance=2e-6)
    assert float(logged(done, "train")[-1]["train_sift_passes"]) > 1
    record, other = (
        json.loads((one / f"{name}-4.json").read_text()) for name in ("valid", "again")
    )
    assert other["outputs"] == record["outputs"]
    assert {len(row) for row in record["outputs"]} == {2}
    guessed = [max((0, 1), key=row.__getitem__) for row in record["outputs"]]
    right = [g == w for g, w in zip(guessed, record["gold"], strict=True)]
    assert record["metrics"]["accuracy"] == pytest.approx(sum(right) / 10)
    best = one / "checkpoint_best.pt"
    assert run_command("predict", best, tmp_path / "COPA" / "val.jsonl").returncode == 0
    predictor = Predictor(one / "checkpoint_last.pt")
    found = list(predictor(predictor.examples(tmp_path / "COPA" / "val.jsonl")))
    assert [int(one.label or -1) for one in found] == guessed
    assert run_command("submission", best, tmp_path, tmp_path / "sent").returncode == 0
    sent = answers(tmp_path / "sent" / "COPA.jsonl")
    assert [row["idx"] for row in sent] == list(range(5))
    assert {type(row["label"]) for row in sent} == {int}
    assert export_hf(one / "checkpoint_last.pt", tmp_path / "out") < 1e-4
    monkeypatch.chdir(tmp_path / "out")
    _, snippet, _ = re.split("```(?:python)?\n", Path("README.md").read_text("utf-8"))
    printed: list[Tensor] = []
    exec(snippet, {"print": printed.append})  # noqa: S102  our own text
    texts = ("Some text.", "One choice.", "Another.")
    (answer,) = predictor([Example(texts, "", 1)])
    wanted = list(answer.probabilities.values())
    assert printed[0].softmax(-1)[0].tolist() == pytest.approx(wanted, abs=1e-5)


def test_cbs_score_is_the_mean_of_two(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    write_task(tmp_path, "cb", train=24, val=13)
    done = fairseq_train(
        *(*flags(models, tmp_path, "cb"), f"--save-dir={tmp_path}"),
        *("--steady-split-dev", f"--steady-record={tmp_path}"),
    )
    found = {k: float(v) for k, v in logged(done, "valid")[-1].items()}
    both = found["valid_macro_f1"] + found["valid_accuracy"]
    assert found["valid_score"] == pytest.approx(both / 2, abs=1e-3)
    saved = checkpoint(tmp_path, "checkpoint_best.pt")["cfg"]["checkpoint"]
    assert saved["best_checkpoint_metric"] == "score"
    record = json.loads(next(tmp_path.glob("valid-*.json")).read_text())
    assert record["score_of"] == ["macro_f1", "accuracy"]


def test_wic_learns_from_its_words_and_answers(
    models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    """With a bounded head, and of a part of the sentences."""
    write_task(tmp_path, "wic", train=24, val=12, test=5)
    method = ["--criterion=r4f", "--r4f-eps=0.1", "--r4f-fraction=0.5"]
    done = fairseq_train(
        *(*flags(models, tmp_path, "wic", *method), "--steady-reinit-head"),
        *("--lr=1e-2", "--max-epoch=6", f"--save-dir={tmp_path}", *NO_DROPOUT),
    )
    assert float(logged(done, "valid")[-1]["valid_accuracy"]) == 1
    assert "words_classification_head.dense.weight" in done.stderr
    best, sent = tmp_path / "checkpoint_best.pt", tmp_path / "sent"
    state = checkpoint(tmp_path, "checkpoint_best.pt")["model"]
    bounded = {key.rpartition(".")[0] for key in state if key.endswith("spectral_v")}
    head = "classification_heads.words_classification_head"
    assert bounded == {f"{head}.dense", f"{head}.out_proj"}
    assert run_command("submission", best, tmp_path, sent).returncode == 0
    wanted = ["false", "true", "false", "true", "false"]
    assert [row["label"] for row in answers(sent / "WiC.jsonl")] == wanted
    refused = run_command("export", best, tmp_path / "out")
    assert refused.returncode == 1
    assert "error: transformers has no form for a head that reads words" in (
        refused.stderr
    )


WIC = "write two whole numbers"
COUNT = "count characters from 0; the end is after the last"
BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("wic", {"start1": "x"}, f'start1 "x", end1 [0-9]+; {WIC}'),
    ("wic", {"end2": True}, f"start2 [0-9]+, end2 true; {WIC}"),
    ("wic", {"end1": 99}, "start1 .*, end1 99 is outside a sentence of [0-9]+ char"),
    ("wic", {"start2": -1}, f"start2 -1, .* is outside a sentence of .*; {COUNT}"),
    ("wic", {"sentence1": "a w1 b", "start1": 1, "end1": 3}, f"is ' w', .*; {COUNT}"),
    ("wic", {"sentence1": "a w1 b", "start1": 3, "end1": 4}, "is '1', not the word 'w"),
    ("wic", {"start1": None}, "column 'start1' is null; fill it or remove the row"),
    ("copa", {"question": "why"}, "question 'why'; write cause or effect"),
    (
        "copa",
        {"choice3": "w1"},
        "a column 'choice3'; COPA has choice1 and choice2; ",
    ),
    ("copa", {"choice2": " "}, "an empty sentence; remove the row or fill it"),
    ("copa", {"label": 2}, "label '2' is none of: 0, 1; mend the row"),
    ("boolq", {"label": "yes"}, "label 'yes' is none of: false, true; mend the row"),
    ("cb", {"premise": 3}, "column 'premise' holds 3, not text; write a string"),
    ("rte", {"label": None}, "column 'label' is null"),
]


@pytest.mark.parametrize(("task", "changed", "message"), BROKEN)
def test_a_broken_row_is_one_line(
    tmp_path: Path, task: str, changed: dict[str, Any], message: str
) -> None:
    path = tmp_path / "train.jsonl"
    rows = [official(task, 0), official(task, 1) | changed]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"train.jsonl:2: .*{message}"):
        list(read_split(path, TASKS[task]))


def test_blanks_before_a_sentence_move_its_word(tmp_path: Path) -> None:
    row = official("wic", 0) | {"sentence1": " \t a w1 b ", "start1": 5, "end1": 7}
    row |= {"sentence2": "w1 c", "start2": 0, "end2": 2}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    (found,) = read_split(tmp_path / "train.jsonl", TASKS["wic"])
    assert found.texts == ("a w1 b", "w1 c")
    assert found.spans == ((2, 4), (0, 2))


@pytest.mark.parametrize("task", list(TASKS))
def test_the_leaderboards_file_has_no_labels(tmp_path: Path, task: str) -> None:
    place = write_task(tmp_path, task, test=2, val=3)
    for data in (tmp_path, place):
        assert find(data, TASKS[task], "valid") == place / "val.jsonl"
    assert len(list(read_split(place / "val.jsonl", TASKS[task]))) == 3
    path = find(tmp_path, TASKS[task], "test")
    rows = f"{TASKS[task].folder}'s rows have .*label, the leaderboard's no label"
    said = f"test.jsonl:1: no column 'label' among: .*; {rows}"
    with pytest.raises(UserError, match=said):
        list(read_split(path, TASKS[task]))
    assert [idx for idx, _ in read_test(path, TASKS[task])] == [0, 1]
    path.write_text(path.read_text().replace('"idx": 1', '"idx": 0'))
    with pytest.raises(UserError, match="jsonl:2: idx 0 is that of line 1, too; get"):
        list(read_test(path, TASKS[task]))


def test_a_word_that_is_cut_away_is_an_error_at_its_line(tmp_path: Path) -> None:
    directory = directory_of(tmp_path / "model", tokenizers()["bytes"])
    tokenizer = SentenceTokenizer(directory, directory.dictionary(), 12)
    example = Example((TEXTS[0], TEXTS[1]), "", 7, spans=((31, 36), (27, 32)))
    said = "f:7: the word 'place' of text 1 is not among the 12 tokens that are kept"
    with pytest.raises(UserError, match=said):
        WordRows().encode("f", [example], tokenizer)


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        ("bart", {}, "bart is an encoder-decoder; name an encoder"),
        (
            "roberta",
            {"steady_pooler": True},
            "--steady-pooler does not fit the head",
        ),
        ("roberta", {"superglue_task": None}, "is missing; choose from boolq, cb, rte"),
    ],
)
def test_flags_that_do_not_go_with_the_task_are_refused(
    models: dict[str, Path], family: str, changed: dict[str, Any], message: str
) -> None:
    cfg: Any = SuperGlueConfig(**{"superglue_task": "wic", **changed})
    with pytest.raises(UserError, match=message):
        SuperGlueTask.check(cfg, ModelDirectory.open(models[family]))


def test_scores_of_choices_are_not_those_of_another_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    copa = {"h": Head(None, "copa")}
    for of, goes_on in (("copa", True), ("", True), ("stsb", False)):
        start = Start(tmp_path, {"h": Head(None, of)}, resumes=False)
        if goes_on:
            assert moves(start, copa) == {"h": [0]}
            task = f" of {of}" if of else ""
            assert caplog.messages[-1].endswith(f" goes on: scores{task}")
            continue
        with pytest.raises(UserError, match="scores of stsb, and this run is for scor"):
            moves(start, copa)


def test_more_than_a_text_or_pair_is_not_probed() -> None:
    with pytest.raises(UserError, match="these rows hold more: choices, or words of"):
        probing._check(SimpleNamespace(num_classes=2, form=ChoiceRows(2)))


def test_a_text_alone_is_no_row() -> None:
    made: Any = Predictor.__new__(Predictor)
    made.form, made.task = ChoiceRows(2), SimpleNamespace(layout=TASKS["copa"])
    with pytest.raises(UserError, match="premise, choice1, choice2, question.; name a"):
        made._encode(["w1"])
