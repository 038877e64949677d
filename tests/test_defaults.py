"""Lambda's rise, radii relative to the embeddings, presets, and defaults that train."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from conftest import ROOT, Trainer, Zygote, sentences
from fairseq import options
from fairseq.registry import REGISTRIES
from fairseq_steady.errors import UserError
from fairseq_steady.flags import check_flags
from fairseq_steady.models.steady import HEAD
from fairseq_steady.patches.yaml_values import fill_in
from fairseq_steady.presets import Paper, paper_of
from fairseq_steady.tasks._recipe import UNSAID, length_of
from helpers import assert_equal_weights, cola, logged, start_from_yaml
from method_table import METHODS
from omegaconf import OmegaConf
from tiny import batch, build, make_criterion, make_dataset
from torch import Tensor

WEIGHTED = [name for name, row in METHODS.items() if "lambda" in {**row.off, **row.bad}]
SEED = 11


def ready(method: str, model: Any, **flags: Any) -> Any:
    made = make_criterion(method, **METHODS[method].live | flags)
    made.check_model(model)
    made.prepare_model(model)
    return made


def outcome(made: Any, model: Any, sample: dict[str, Any]) -> Any:
    torch.manual_seed(SEED)
    return made.train_outcome(model, sample, made.kinds[None])


def gradients(loss: Tensor, model: Any) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, [*model.parameters()], allow_unused=True))


# --- lambda rises ---------------------------------------------------------------------


@pytest.mark.parametrize("method", WEIGHTED)
def test_lambda_rises_by_the_updates_number_and_is_whole_then(
    models: dict[str, Path], method: str
) -> None:
    """At 0 nothing extra is computed; beside every and fraction both factors count."""
    path = models["roberta"]
    model, sample = build(path, 0.1), batch(make_dataset(path))
    flags = {"lambda": 3.0, "every": 2, "fraction": 0.8}
    risen = ready(method, model, **flags, warmup=0.0)
    rises = ready(method, model, **flags, warmup=0.06)  # of 100 updates
    plain = make_criterion("plain")
    for update in range(9):
        for made in (risen, rises):
            made.before_update(model, update)
        found, full = (outcome(made, model, sample) for made in (rises, risen))
        lambdas = {"lambda": pytest.approx(5 * 3 * update / 6)} if update < 6 else {}
        assert {n: v for n, v in found.logged.items() if n == "lambda"} == lambdas
        if update == 0:
            torch.manual_seed(SEED)
            bare = plain.plain_outcome(model, sample, plain.kinds[None])
            assert found.logged == {"regularised": 0, "passes": 5, "lambda": 0}
            pairs = zip(gradients(found.loss, model), gradients(bare.loss, model))  # noqa: B905
            assert all(a is b is None or torch.equal(a, b) for a, b in pairs)
            continue
        added, known = (float(o.loss - o.task_loss) for o in (found, full))
        assert (known > 0) == (update % 2 == 0)
        assert added == pytest.approx(known * min(1, update / 6), rel=1e-5)
        if update >= 6:
            assert torch.equal(found.loss, full.loss)
            assert found.logged.keys() == full.logged.keys()


def test_a_teacher_counts_while_lambda_is_0(models: dict[str, Path]) -> None:
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    made = ready("smart", model, warmup=0.5, bregman="momentum", mu=2.0)
    made.before_update(model, 0)
    outcome(made, model, sample)
    with torch.no_grad():
        model.classification_heads[HEAD].out_proj.weight[0] += 0.3
    found = outcome(made, model, sample)
    assert {"lambda", "bregman"} < found.logged.keys()
    assert "divergence" not in found.logged
    unit = made.kinds[None].unit
    added = float(found.loss - found.task_loss)
    assert added == pytest.approx(2 * unit * float(found.logged["bregman"]), rel=1e-4)
    assert added > 1e-3


@pytest.mark.parametrize(
    ("said", "length"),
    [
        ({"max_update": 50}, 50),
        ({"max_epoch": 3}, 30),
        ({"max_update": 50, "max_epoch": 3}, 30),
        ({"max_update": 20, "max_epoch": 3, "total_num_update": 40}, 20),
        ({"total_num_update": 40}, 40),
        ({"total_num_update": UNSAID}, 0),
        ({}, 0),
    ],
)
def test_a_trainings_length_is_what_ends_it(said: dict[str, Any], length: int) -> None:
    root = OmegaConf.create(
        {
            "optimization": {"max_update": 0, "max_epoch": 0},
            "lr_scheduler": {"total_num_update": None},
        }
    )
    for section in root.values():
        section.update({name: said[name] for name in section if name in said})
    assert length_of(root, lambda epochs: round(10 * epochs)) == length


def test_a_rise_without_an_end_of_training_is_refused(models: dict[str, Path]) -> None:
    model = build(models["roberta"])
    made = ready("r_drop", model, warmup=0.1)
    made.cfg.max_update = 0
    with pytest.raises(UserError, match=r"^--r-drop-warmup 0\.1 .* no end: give --m"):
        made.before_update(model, 0)
    made = ready("r3f", model, warmup=0.1)
    made.task = SimpleNamespace(updates_in_all=lambda: 40)
    made.before_update(model, 1)
    assert made.strength == pytest.approx(1 / 4)


@pytest.mark.parametrize(("share", "reached"), [(0.5, 2 / 5), (0.4, 2 / 20)])
def test_a_rise_under_way_keeps_its_length_unless_its_share_is_changed(
    models: dict[str, Path], share: float, reached: float
) -> None:
    """As when a run goes on with a larger --max-update."""
    model = build(models["roberta"])
    first, second = (ready("r3f", model, warmup=s) for s in (0.5, share))
    first.cfg.max_update, second.cfg.max_update = 10, 50
    assert first.kept_state() == {}
    first.before_update(model, 0)
    second.restore_kept(first.kept_state())
    second.before_update(model, 2)
    assert second.strength == pytest.approx(reached)
    assert ready("r3f", model).kept_state() == {}


def test_a_run_that_is_killed_while_lambda_rises_ends_at_the_same_weights(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    common = [*cola(models, cola_data, "r3f"), "--disable-validation"]
    common += ["--r3f-warmup=0.8", "--r3f-lambda=2", "--save-interval-updates=4"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    done = fairseq_train(*common, "--max-update=10", f"--save-dir={whole}")
    lines = [line.get("r3f_lambda") for line in logged(done, "train_inner")]
    said = [None if one is None else float(one) for one in lines]
    assert said == [0.25 * update if update < 8 else None for update in range(10)]
    start = f"--restore-file={whole / 'checkpoint_1_4.pt'}"
    fairseq_train(*common, "--max-update=10", f"--save-dir={again}", start)
    assert_equal_weights(whole, again)


# --- radii beside the embeddings ------------------------------------------------------

RELATIVE = ["smart", "r3f", "r4f", "hype", "freelb"]


def relatively(method: str, model: Any, **flags: Any) -> Any:
    live = {n: v for n, v in METHODS[method].live.items() if n != "eps"}
    made = make_criterion(method, **live | {"eps_relative": 0.3} | flags)
    made.check_model(model)
    made.prepare_model(model)
    return made


@pytest.mark.parametrize("method", RELATIVE)
def test_a_relative_radius_is_the_sentences_own(
    models: dict[str, Path], method: str
) -> None:
    """Whatever else is in the batch, however it is padded and whatever pads it."""
    model, data = build(models["roberta"]), make_dataset(models["roberta"])
    with torch.no_grad():
        model.encoder.sentence_encoder.embed_tokens.weight[1] = 50.0
    made = relatively(method, model)
    whole, turned = (
        tiny.loss_of(made, model, batch(data, *rows)) for rows in ((), (3, 0, 4, 2, 1))
    )
    alone = [tiny.loss_of(made, model, batch(data, i)) for i in range(5)]
    for name in ("total", f"{method}_rms"):
        if name in whole:
            assert turned[name] == pytest.approx(whole[name], rel=2e-5)
            total = sum(one[name] for one in alone)
            assert total == pytest.approx(whole[name], rel=2e-5)


@pytest.mark.parametrize("method", ["smart", "r3f", "freelb"])
def test_larger_embeddings_have_larger_perturbations(
    models: dict[str, Path], method: str
) -> None:
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    made, found = relatively(method, model), []
    for _ in range(2):
        found.append(tiny.loss_of(made, model, sample)[f"{method}_rms"])
        with torch.no_grad():
            model.encoder.sentence_encoder.embed_tokens.weight *= 3
    near = 1e-5 if method == "r3f" else 0.2  # other gradients, other directions
    assert found[1] == pytest.approx(3 * found[0], rel=near)


def test_kept_perturbations_are_relative_too(models: dict[str, Path]) -> None:
    """One that is used again is as large beside embeddings that have grown."""
    model, sample = build(models["roberta"]), batch(make_dataset(models["roberta"]))
    made, found = relatively("smart", model, cache=3, init=0.3, step=5.0), []
    for update in range(2):
        made.before_update(model, update)
        found.append(tiny.loss_of(made, model, sample))
        made.after_update(model, update + 1)
        with torch.no_grad():
            model.encoder.sentence_encoder.embed_tokens.weight *= 3
    rms = [one["smart_rms"] for one in found]
    assert found[1]["smart_passes"] == pytest.approx(10)
    assert rms[1] > 2.9 * rms[0] > 0


def test_one_perturbation_has_one_size() -> None:
    said = r"^--r3f-eps 0\.2 and --r3f-eps-relative 0\.3 are two sizes of one pert"
    with pytest.raises(UserError, match=said):
        make_criterion("r3f", eps=0.2, eps_relative=0.3)
    with pytest.raises(UserError, match=r"--smart-eps-relative 0\.0 is out of range"):
        make_criterion("smart", eps_relative=0.0)
    for method in ("hype", "freelb"):
        assert not make_criterion(method, eps_relative=0.0).active
        assert make_criterion(method, eps_relative=0.1).active


# --- the papers' values ---------------------------------------------------------------


def configs() -> dict[str, Any]:
    kinds = ("criterion", "optimizer")
    found = [REGISTRIES[kind]["dataclass_registry"] for kind in kinds]
    ours = {name: config for known in found for name, config in known.items()}
    return {n: c for n, c in ours.items() if c.__module__.startswith("fairseq_steady.")}


def papers() -> dict[str, Paper]:
    """What each registered method itself says of its paper."""
    kinds = ("criterion", "optimizer")
    made = {n: c for kind in kinds for n, c in REGISTRIES[kind]["registry"].items()}
    return {name: vars(made[name])["paper"] for name in configs()}


def test_every_method_has_its_papers_values_and_the_readmes_say_them() -> None:
    text = "".join(
        (ROOT / "user_dir" / room / "README.md").read_text("utf-8")
        for room in ("regularizers", "optim")
    )
    for name, row in papers().items():
        config = configs()[name]
        defaults = {f.name for f in dataclasses.fields(config)}
        assert row.values.keys() <= defaults
        check_flags(config(**row.values), config)
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        said = re.search(
            r"^With `--steady-preset paper`: (.*)\. From (.*)\.$", section, re.M
        )
        if row.values:
            assert said
            shown = [
                f"`--{flag.replace('_', '-')}" + ("" if v is True else f" {v}") + "`"
                for flag, v in row.values.items()
                if v is not False
            ]
            assert said[1].split(", ") == shown
            assert said[2] == row.source


def test_a_method_made_of_another_has_no_paper_of_its_own() -> None:
    smart = REGISTRIES["criterion"]["registry"]["smart"]
    assert paper_of(smart) == papers()["smart"]
    assert paper_of(type("Mine", (smart,), {})) is None
    assert paper_of(type("Mine", (), {"paper": "of 2026"})) is None


def parsed(*words: str, task: str = "cola") -> Any:
    parser = options.get_training_parser()
    typed = ["d", f"--task={task}", "--steady-model=m", *words]
    return options.parse_args_and_arch(parser, typed)


def test_the_papers_values_fill_in_what_is_not_given() -> None:
    paper = ("--criterion=smart", "--steady-preset=paper")
    args = parsed(*paper)
    smart = papers()["smart"].values
    assert {n: getattr(args, n) for n in smart} == smart
    assert args.bert_adam_bias_correction  # no optimizer was named
    given = parsed(*paper, "--smart-lambda=5", "--smart-bregman", "none")
    assert (given.smart_lambda, given.smart_bregman, given.smart_eps) == (
        5,
        "none",
        1e-5,
    )
    relative = parsed(*paper, "--smart-eps-relative=0.4")
    assert relative.smart_eps_relative == 0.4
    lengths = ("smart_eps", "smart_init", "smart_step")
    plain = parsed("--criterion=smart")
    assert [getattr(relative, n) for n in lengths] == [
        getattr(plain, n) for n in lengths
    ]
    corrected = parsed("--optimizer=bert_adam", "--bert-adam-eps=1e-8", paper[1])
    assert not corrected.bert_adam_bias_correction
    assert corrected.bert_adam_eps == 1e-8
    with pytest.raises(UserError, match="paper knows no values for --criterion cross_"):
        parsed("--criterion=cross_entropy", "--steady-preset=paper")


def test_a_yaml_files_defaults_are_not_given_and_typed_ones_are() -> None:
    default = configs()["sift"]().sift_lambda
    file = {"_name": "sift", "sift_lambda": default, "sift_init": 0.5, "sift_step": 7}
    cfg = OmegaConf.create({"criterion": file, "optimizer": {"_name": "bert_adam"}})
    fill_in(cfg, ["criterion.sift_step=7"])
    assert cfg.criterion == papers()["sift"].values | {
        **{"_name": "sift", "sift_init": 0.5, "sift_step": 7}
    }
    assert cfg.optimizer == papers()["bert_adam"].values | {"_name": "bert_adam"}
    cfg = OmegaConf.create({"criterion": file})
    fill_in(cfg, [f"criterion.sift_lambda={default}"])
    assert cfg.criterion.sift_lambda == default


def test_a_run_from_yaml_records_the_papers_values(
    models: dict[str, Path], cola_data: Path, tmp_path: Path, zygote: Zygote
) -> None:
    record = f"+task.steady_record={tmp_path / 'record'}"
    start_from_yaml(
        *(zygote, "cola", "freelb", models["roberta"], cola_data, tmp_path),
        *("+task.steady_preset=paper", record, "criterion.freelb_steps=1"),
    )
    used = json.loads((tmp_path / "record/config.json").read_text())["criterion"]
    expected = papers()["freelb"].values | {"freelb_steps": 1}
    assert {name: used[name] for name in expected} == expected


# --- the first command, with no flags of the method -----------------------------------


@pytest.fixture(scope="module")
def words_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Does a sentence have w0? Half of them do: 400 to learn from, 64 to be tested."""
    folder = tmp_path_factory.mktemp("words")
    counts = {"in_domain_train": 400, "in_domain_dev": 64, "out_of_domain_dev": 2}
    for seed, (name, count) in enumerate(counts.items()):
        rows = [f"src\t{label}\t\t{text}" for text, label in sentences(count, seed)]
        (folder / f"{name}.tsv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_defaults_train(
    models: dict[str, Path],
    words_data: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    method: str,
) -> None:
    """Plain gets to 0.9 in these 60 updates, sift's former lambda of 5 to 0."""
    done = fairseq_train(
        *(words_data, "--task=cola", f"--steady-model={models['roberta']}"),
        *(f"--criterion={method}", "--no-save", f"--save-dir={tmp_path}"),
        *("--valid-subset=valid", "--validate-interval-updates=60", "--lr=2e-2"),
        *("--lr-scheduler=polynomial_decay", "--warmup-updates=6", "--max-update=60"),
        *("--batch-size=32", "--validate-interval=99"),
    )
    assert float(logged(done, "valid")[-1]["valid_mcc"]) > 0.4
