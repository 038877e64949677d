"""SuperGLUE: multiple choice under every method, words in sentences, official files."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import Trainer, sentences
from fairseq_steady.data import Encoded, Ragged, SentenceDataset
from fairseq_steady.data.forms import ChoiceRows
from fairseq_steady.data.superglue import LAYOUTS
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.steady import HEAD
from fairseq_steady.regularizers import derived, draw, noise_keys
from helpers import checkpoint, logged
from method_table import METHODS, TRAINED
from tiny import FAMILIES, batch, build, make_criterion
from torch import Tensor

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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [m for m, row in METHODS.items() if row.live])
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
    models: dict[str, Path], method: str
) -> None:
    path = models["roberta"]
    model, data = build(path, outputs=1), choices_of(path)
    made = ready(method, model, cache=5)
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


def test_choices_of_one_example_get_noise_of_their_own(models: dict[str, Path]) -> None:
    """The same words in two choices are shifted apart, and pads not at all."""
    sample = batch(choices_of(models["roberta"]), 1)
    mask = sample["net_input"]["src_tokens"].ne(1)
    noise = draw("normal", noise_keys(sample["id"], 3), mask, 16, 1.0)
    parts = noise.view(CHOICES, -1, 16)
    assert not torch.allclose(parts[0], parts[1], atol=0.1)
    assert not noise[~mask].any()


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
            "label": LAYOUTS["cb"].labels[number % 3],
        },
        "rte": {
            "premise": first,
            "hypothesis": second,
            "label": LAYOUTS["rte"].labels[label],
        },
        "copa": {
            "premise": first,
            "choice1": "w0" if label == 0 else "w5 w6",
            "choice2": "w0" if label else "w5 w6 w9",
            "question": ("cause", "effect")[number % 2],
            "label": label,
        },
    }
    return rows[task] | {"idx": number}


def write_task(folder: Path, task: str, **counts: int) -> Path:
    """A task's folder with so many rows in each file."""
    place = folder / LAYOUTS[task].folder
    place.mkdir(parents=True)
    for name, count in counts.items():
        rows = [official(task, number) for number in range(count)]
        if name == "test":
            rows = [{k: v for k, v in row.items() if k != "label"} for row in rows]
        lines = [json.dumps(row) + "\n" for row in rows]
        (place / f"{name}.jsonl").write_text("".join(lines))
    return place


@pytest.mark.parametrize(("task", "method"), [("copa", "smart"), ("cb", "plain")])
def test_it_trains_and_reports_the_leaderboards_metric(
    models: dict[str, Path],
    tmp_path: Path,
    fairseq_train: Trainer,
    task: str,
    method: str,
) -> None:
    write_task(tmp_path, task, train=24, val=12, test=4)
    done = fairseq_train(
        *(tmp_path, "--task=superglue", f"--superglue-task={task}", *TRAINED[method]),
        *(f"--steady-model={models['roberta']}", "--max-epoch=2"),
        *(f"--steady-record={tmp_path / 'record'}", f"--save-dir={tmp_path / 'run'}"),
    )
    found = logged(done, "valid")[-1]
    if task == "cb":
        both = float(found["valid_f1"]), float(found["valid_accuracy"])
        assert float(found["valid_score"]) == pytest.approx(sum(both) / 2, abs=1e-4)
    record = json.loads((tmp_path / "record" / "valid-6.json").read_text())
    assert {len(row) for row in record["outputs"]} == {len(LAYOUTS[task].labels)}
    right = [
        max(range(len(o)), key=o.__getitem__) == g
        for o, g in zip(record["outputs"], record["gold"], strict=True)
    ]
    assert record["metrics"]["accuracy"] == pytest.approx(sum(right) / 12)
    saved = checkpoint(tmp_path / "run", "checkpoint_best.pt")
    assert saved["cfg"]["checkpoint"]["best_checkpoint_metric"] == LAYOUTS[task].metric
