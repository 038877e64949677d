"""Summaries that are summaries: parts that learn, forms, scores, BART's own search."""

import filecmp
import hashlib
import json
import logging
import math
import random
import re
import threading
import tracemalloc
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from conftest import (
    WORDS,
    Trainer,
    make_model_directory,
    run_command,
    sentences,
)
from fairseq_steady.commands import get_data
from fairseq_steady.commands import summarize as command
from fairseq_steady.comparison import crossed
from fairseq_steady.comparison.results import Result, collect
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.data.batching import padded
from fairseq_steady.data.noticing import noticing
from fairseq_steady.data.pair_dataset import encode_pairs
from fairseq_steady.data.pairs import find_pairs, of_all_splits, read_pairs
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.bert2bert import bert2bert
from fairseq_steady.huggingface.exporting import (
    Original,
    config,
    export_hf,
    weights,
)
from fairseq_steady.huggingface.importing import import_hf
from fairseq_steady.huggingface.release import import_fairseq
from fairseq_steady.inference.embedding import BertScores, Embedder
from fairseq_steady.inference.searching import (
    DECODINGS,
    BeamSearch,
    Decoding,
    repeats,
)
from fairseq_steady.inference.summarising import Summarizer
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.building import load_encoder
from fairseq_steady.scores.bertscore import bert_score, inverse_frequencies
from fairseq_steady.scores.bertscore import weights as weights_of
from fairseq_steady.scores.rouge import as_lines, best_or_mean
from fairseq_steady.scores.summaries import (
    Sameness,
    by_summary,
    distinct,
    few_outputs,
    mean_score,
    measured,
    novel_ngrams,
    said,
    shares,
    words,
)
from fairseq_steady.tasks.summarization import COLUMNS
from helpers import checkpoint, logged
from rouge_score.rouge_scorer import RougeScorer
from sources import AWKWARD, make_release, make_source

pytestmark = pytest.mark.usefixtures("own_cache")

# --- BERT2BERT that can learn -----------------------------------------------------


@pytest.fixture(scope="session")
def doubled(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> ModelDirectory:
    """Two copies of the tiny encoder."""
    out = tmp_path_factory.mktemp("doubled") / "model"
    return bert2bert(ModelDirectory.open(models["roberta"]), out)


def test_attention_across_starts_from_the_same_layers_own(
    models: dict[str, Path], doubled: ModelDirectory, tmp_path: Path
) -> None:
    source = ModelDirectory.open(models["roberta"])
    made = bert2bert(source, tmp_path / "self", cross_attention="self")
    own, new = made.weights()[0], doubled.weights()[0]
    across = {name for name in own if ".encoder_attn" in name}
    assert len(across) == 2 * 10  # two layers; four products and a norm of each
    for name in across:
        assert torch.equal(own[name], own[name.replace("encoder_attn", "self_attn")])
    changed = {name for name in own if not torch.equal(own[name], new[name])}
    # The tiny encoder's own biases are 0, and its norms the identity.
    assert changed == {n for n in across if "_proj.weight" in n}


def test_the_decoder_may_have_a_table_of_its_own(
    models: dict[str, Path], tmp_path: Path, doubled: ModelDirectory
) -> None:
    out = tmp_path / "two"
    done = run_command(
        *("import", models["roberta"], out, "--bert2bert", "--separate-embeddings")
    )
    assert done.returncode == 0, done.stderr
    model = load_encoder(ModelDirectory.open(out))
    encoder, decoder = model.encoder.embed_tokens, model.decoder.embed_tokens
    assert torch.equal(encoder.weight, decoder.weight)
    assert encoder.weight.data_ptr() != decoder.weight.data_ptr()
    assert model.decoder.output_projection.weight is decoder.weight
    tied = load_encoder(doubled)
    assert tied.encoder.embed_tokens.weight is tied.decoder.embed_tokens.weight
    with pytest.raises(UserError, match="a word table of its own .* has no form in"):
        export_hf(out, tmp_path / "hf")
    done = run_command("import", models["roberta"], out, "--cross-attention=self")
    assert "error: --cross-attention is for --bert2bert; add that" in done.stderr


@pytest.fixture(scope="session")
def articles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs for tiny models of whole words."""
    folder = tmp_path_factory.mktemp("articles")
    for split, count in (("train", 16), ("valid", 12)):
        texts = [text for text, _ in sentences(count, 5)]
        (folder / f"{split}.source").write_text("\n".join(texts) + "\n")
        heads = [" ".join(text.split()[:3]) for text in texts]
        (folder / f"{split}.target").write_text("\n".join(heads) + "\n")
    return folder


RATE, SCALE = 1e-3, 8.0


@pytest.fixture(scope="session")
def trained(
    articles: Path,
    models: dict[str, Path],
    doubled: ModelDirectory,
    tmp_path_factory: pytest.TempPathFactory,
    fairseq_train: Trainer,
) -> tuple[Path, Any]:
    """One update of BERT2BERT, its cross-attention faster, and what was said."""
    out = tmp_path_factory.mktemp("trained")
    done = fairseq_train(
        *(articles, "--task=summarization", f"--steady-model={doubled.path}"),
        *(f"--steady-new-lr-scale={SCALE}", "--optimizer=bert_adam", f"--lr={RATE}"),
        *("--bert-adam-bias-correction", "--bert-adam-weight-decay=0"),
        *("--bert-adam-eps=1e-12", "--batch-size=16", "--max-update=1"),
        *("--summarization-max-length=6", "--summarization-beam=2"),
        f"--summarization-bertscore={models['roberta']}",
        *(f"--steady-record={out / 'record'}", f"--save-dir={out}"),
        *(f"--steady-cache-dir={out / 'cache'}", "--no-epoch-checkpoints"),
    )
    return out, done


def test_new_parts_learn_faster_and_no_others(
    trained: tuple[Path, Any], doubled: ModelDirectory
) -> None:
    state = checkpoint(trained[0])
    rates = {
        name: group["lr"] * group["lr_scale"]
        for group in state["last_optimizer_state"]["param_groups"]
        for name in group["names"]
    }
    faster = {name for name, rate in rates.items() if rate == RATE * SCALE}
    assert faster == {name for name in rates if ".encoder_attn" in name}
    assert len(faster) == 20
    assert {rate for name, rate in rates.items() if name not in faster} == {RATE}
    # Adam's first step is as large as the rate, wherever there is a gradient.
    before = doubled.weights()[0]
    for name, rate in rates.items():
        if "weight" in name and "k_proj" not in name and "q_proj" not in name:
            moved = float((state["model"][name] - before[name]).abs().max())
            assert moved == pytest.approx(rate, rel=0.02), name


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        ("two", ["--criterion=r_drop"], True),
        ("two", ["--criterion=r_drop", "--r-drop-warmup=0.5"], False),
        ("two", ["--criterion=r_drop", "--r-drop-lambda=0"], False),
        ("two", ["--criterion=plain"], False),
        ("bart", ["--criterion=r_drop"], False),
    ],
)
def test_a_divergence_on_a_decoder_that_has_learnt_nothing_is_said(
    articles: Path,
    models: dict[str, Path],
    doubled: ModelDirectory,
    fairseq_train: Trainer,
    model: str,
    flags: list[str],
    said: bool,
) -> None:
    path = {"two": doubled.path, "bart": models["bart"]}[model]
    done = fairseq_train(
        *(articles, "--task=summarization", f"--steady-model={path}", *flags),
        *("--max-update=1", "--disable-validation", "--no-save"),
    )
    assert ("decoder has yet to learn" in done.stderr) == said
    assert ("--r-drop-warmup 0.5 lets" in done.stderr) == said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--steady-model={bart}", "--optimizer=bert_adam"],
            "--steady-new-lr-scale 2 has no effect: every part of .*bart is pretrained",
        ),
        (
            ["--steady-model={two}", "--optimizer=adam"],
            "--steady-new-lr-scale 2.0 has no effect with --optimizer adam; use one of",
        ),
        (
            ["--steady-model={two}", "--optimizer=bert_adam", "--steady-from-scratch"],
            "has no effect with --steady-from-scratch, where every part is new",
        ),
    ],
)
def test_a_faster_rate_of_nothing_is_refused(
    articles: Path,
    models: dict[str, Path],
    doubled: ModelDirectory,
    fairseq_train: Trainer,
    flags: list[str],
    message: str,
) -> None:
    given = [flag.format(bart=models["bart"], two=doubled.path) for flag in flags]
    done = fairseq_train(
        *(articles, "--task=summarization", "--steady-new-lr-scale=2", *given),
        *("--max-update=1", "--no-save"),
        status=1,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(message, last)


def test_r_drop_learns_summaries_in_bf16(
    articles: Path, doubled: ModelDirectory, tmp_path: Path, fairseq_train: Trainer
) -> None:
    """r3f does in test_autocast.py."""
    common = [articles, "--task=summarization", f"--steady-model={doubled.path}"]
    common += ["--criterion=r_drop", "--label-smoothing=0.1", "--batch-size=16"]
    common += ["--max-update=1", "--lr=1e-3", "--disable-validation"]
    exact, rough = (
        logged(fairseq_train(*common, "--no-epoch-checkpoints", *flags), "train")[-1]
        for flags in (
            [f"--save-dir={tmp_path / 'fp32'}", "--no-save"],
            [f"--save-dir={tmp_path}", "--steady-autocast=bf16-forced"],
        )
    )
    for name in ("train_loss", "train_r_drop_divergence"):
        assert float(rough[name]) != float(exact[name])
        assert float(rough[name]) == pytest.approx(float(exact[name]), rel=0.1), name
    assert float(rough["train_r_drop_divergence"]) > 0
    weights = checkpoint(tmp_path)["model"].values()
    assert {t.dtype for t in weights} == {torch.float32}


# --- are they different? ----------------------------------------------------------


def test_the_share_of_different_summaries_is_logged_recorded_and_remarked(
    trained: tuple[Path, Any],
    articles: Path,
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, done = trained
    run = run_command(
        "summarize", out / "checkpoint_last.pt", articles / "valid.source", "--cpu"
    )
    assert run.returncode == 0, run.stderr
    texts = run.stdout.splitlines()
    assert len(texts) == 12
    different = len(set(texts))
    (valid,) = logged(done, "valid")
    assert float(valid["valid_unique"]) == pytest.approx(100 * different / 12, abs=0.01)
    (recorded,) = (out / "record").glob("valid-*.json")
    metrics = json.loads(recorded.read_text())["metrics"]
    assert metrics["unique"] == pytest.approx(100 * different / 12)
    assert f"{different} different summaries of 12 articles" in run.stderr
    assert ("the model hardly reads" in done.stderr) == (different < 6)
    # A table's articles are in the column that they were in for training.
    sources = (articles / "valid.source").read_text().splitlines()
    table = write(tmp_path, "a.jsonl", lines(*({"source": s} for s in sources)))
    command.main([str(out / "checkpoint_last.pt"), str(table), "--cpu"])
    assert capsys.readouterr().out == run.stdout
    with pytest.raises(UserError, match="^nosuch is not a model directory"):
        command.main([str(out / "checkpoint_last.pt"), str(table), "--model=nosuch"])
    # Each summary's own scores, of which a comparison makes its intervals.
    result = Result("", "plain", 1, ["fairseq-train"])
    collect(result, out / "record")
    scorer = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    references = (articles / "valid.target").read_text().splitlines()
    each = [
        scorer.score(as_lines(reference), as_lines(text))
        for reference, text in zip(references, texts, strict=True)
    ]
    kept = result.summaries["valid"]
    for name in ("rouge1", "rouge2", "rougeLsum"):
        expected = [100 * one[name].fmeasure for one in each]
        assert kept["scores"][name] == pytest.approx(expected, abs=1e-5)
        assert metrics[name] == pytest.approx(sum(expected) / 12)
        values = crossed.shares(kept, name, metrics[name])
        assert values.tolist() == kept["scores"][name]
    assert len(set(kept["gold"])) == len(set(references))
    # The same from the command that scores a file of summaries.
    (tmp_path / "out.txt").write_text(run.stdout)
    scored = run_command(
        *("rouge", tmp_path / "out.txt", articles / "valid.target"),
        *("--source", articles / "valid.source", "--bertscore", models["roberta"]),
        *("--against", articles / "valid.target"),
    )
    scores, _, gained = scored.stdout.partition("\nbetter than")
    found = dict(line.split()[:2] for line in scores.splitlines()[1:])
    gains = dict(line.split()[:2] for line in gained.splitlines()[1:])
    assert float(gains["bertscore"]) == pytest.approx(
        float(found["bertscore"]) - 100, abs=0.011
    )
    found["length_ratio"] = found.pop("length")
    for name in ("rouge1", "bertscore", "unique", "length_ratio", "novel1", "novel4"):
        assert float(found[name]) == pytest.approx(metrics[name], abs=0.006), name


def test_equal_summaries_are_counted_over_workers_and_few_are_remarked() -> None:
    texts, gold = ["a", "b", "a", "c"], [["x", "y"], ["z"], ["x"], ["x", "y"]]
    places = [0, 3, 1, 5]

    def at(*rows: int, total: int = 6) -> torch.Tensor:
        few, answers = [texts[row] for row in rows], [gold[row] for row in rows]
        scores = {"rouge1": [10.0 * n for n in rows], "rouge2": [1.0 * n for n in rows]}
        return said(few, answers, scores, [places[row] for row in rows], total)

    assert at().shape == (5, 6)  # a batch of which nothing is summarised
    assert not at().any()
    one = at(0, 1) + at(2, 3)
    again = one + at(1)  # fairseq repeats some to fill up workers
    assert distinct(one) == distinct(again) == (3, 4)
    assert mean_score(again, 0) == mean_score(one, 0) == 15.0
    assert mean_score(again, 1) == 1.5
    assert by_summary(again) == {}  # two places have no summary
    places[:] = 0, 3, 1, 2
    found = by_summary(at(0, 1, total=4) + at(2, 3, total=4) + at(1, total=4))
    assert found["scores"] == {"rouge1": [0, 20, 30, 10], "rouge2": [0, 2, 3, 1]}
    assert found["gold"][0] == found["gold"][2]
    assert len(set(found["gold"])) == 3
    assert few_outputs(5, 10) is None
    assert few_outputs(1, 9) is None
    warned = few_outputs(4, 10)
    assert warned is not None
    assert warned.startswith("4 different summaries of 10 articles (40 %): the model ")
    same = Sameness(most=20)
    assert list(same.watch(f"s{n % 3}" for n in range(50))) == [
        f"s{n % 3}" for n in range(50)
    ]
    assert same.count == 50
    assert next(same.report()).startswith("3 different summaries of 20 articles (15 %)")


# --- forms ------------------------------------------------------------------------


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def bbc(folder: Path, name: str, summary: str, body: str) -> None:
    parts = {"URL": "http://x", "TITLE": "T", "FIRST-SENTENCE": summary}
    text = "".join(
        f"[SN]{k}[SN]\n{v}\n\n" for k, v in {**parts, "RESTBODY": body}.items()
    )
    write(folder, f"bbc-summary-data/{name}.summary", text)


SPLITS = "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json"
TALK = "#Person1#: Hi.\n#Person2#: Ho."


def write_dialogsum(folder: Path) -> None:
    train = {"fname": "train_0", "dialogue": TALK, "summary": "A", "topic": "t"}
    test = {"fname": "test_0", "dialogue": TALK, "topic1": "t"}
    test |= {"summary1": "B", "summary2": "C", "summary3": "D"}
    write(folder, "dialogsum.train.jsonl", lines(train))
    write(folder, "dialogsum.test.jsonl", lines(test))


def write_scitldr(folder: Path) -> None:
    row = {"source": ["One.", "Two."], "source_labels": [0, 1], "paper_id": "p"}
    write(folder, "train.jsonl", lines({**row, "target": ["A"], "title": "t"}))
    write(folder, "test.jsonl", lines({**row, "target": ["B", "C", ""]}))


def write_tifu(folder: Path) -> None:
    base = {"id": "1", "selftext": "x", "trimmed_title": "short", "tldr": None}
    rows = [base | {"selftext_without_tldr": "One. Two."}]
    rows.append(rows[0] | {"tldr": "long"})
    write(folder, "tifu_all_tokenized_and_filtered.json", lines(*rows))


def write_xsum(folder: Path) -> None:
    write(folder, SPLITS, json.dumps({"train": ["1", "9", "8"], "test": ["2"]}))
    write(folder, "bbc-summary-data/8.summary", "")  # and 9 is not there
    bbc(folder, "1", "A", "Share this with\nOne.\n\nTwo.\n")
    bbc(folder, "2", "B", "Three.\n")


def write_tokenised_xsum(folder: Path) -> None:
    write(folder, SPLITS, json.dumps({"train": ["1", "8", "9"], "test": ["2"]}))
    rows = [("1", "A", "One.\nTwo.\n"), ("2", "B", "Three.\n"), ("8", "C", "")]
    for name, summary, body in (*rows, ("9", "\u00a0\n", "Four.")):
        write(folder, f"xsum-preprocessed/document/{name}.document", body)
        write(folder, f"xsum-preprocessed/summary/{name}.summary", summary)


def write_extracts(folder: Path) -> None:
    write(folder, SPLITS, json.dumps({"train": ["1", "8", "9"], "test": ["2"]}))
    for name in "89":
        write(folder, f"xsum-extracts-from-downloads/{name}.data", "\n" * (name > "8"))
    for name, summary, body in (("1", "A", "One.\nTwo."), ("2", "B", "Three.")):
        text = "[XSUM]URL[XSUM]\nhttp://x\n\n[XSUM]INTRODUCTION[XSUM]\n"
        text += f"{summary}\n\n[XSUM]RESTBODY[XSUM]\n{body}\n"
        write(folder, f"xsum-extracts-from-downloads/{name}.data", text)


def write_flat_xsum(folder: Path) -> None:
    for split, summary, body in (("train", "A", "One. Two."), ("test", "B", "Three.")):
        write(folder, f"{split}.document", f"{body}\n")
        write(folder, f"{split}.summary", f"{summary}\n")


XSUM = [("One. Two.", ("A",))], [("Three.", ("B",))]


@pytest.mark.parametrize(
    ("form", "make", "train", "test"),
    [
        ("dialogsum", write_dialogsum, [(TALK, ("A",))], [(TALK, ("B", "C", "D"))]),
        (
            *("scitldr", write_scitldr),
            *([("One. Two.", ("A",))], [("One. Two.", ("B", "C"))]),
        ),
        ("reddit_tifu_long", write_tifu, *[[("One. Two.", ("long",))]] * 2),
        ("reddit_tifu_short", write_tifu, *[[("One. Two.", ("short",))] * 2] * 2),
        ("xsum", write_xsum, *XSUM),
        ("xsum", write_tokenised_xsum, *XSUM),
        ("xsum", write_extracts, *XSUM),
        ("xsum", write_flat_xsum, *XSUM),
    ],
)
def test_each_data_sets_own_files_are_read(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    form: str,
    make: Callable[[Path], None],
    train: list[Any],
    test: list[Any],
) -> None:
    make(tmp_path)
    assert form in DECODINGS
    for split, expected in (("train", train), ("test", test)):
        files = find_pairs(tmp_path, split)
        found = list(read_pairs(files, COLUMNS[form], split))
        assert [(pair.source, pair.references) for pair in found] == expected
        assert of_all_splits(files, split) == (make is write_tifu)
    hard = write(tmp_path, "hard.jsonl", lines({"source": "a", "target": "b"}))
    assert find_pairs(tmp_path, "hard") == [hard]
    assert not of_all_splits([hard], "hard")
    if form == "xsum" and make is not write_flat_xsum:
        assert "2 of the 3 articles of train are not there or empty" in caplog.text


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"train": ["../1"]}, "'../1' is no article's name; mend the list"),
        ({"test": ["1"]}, "has no train split; get it from XSum's repository"),
        (["1"], "should be .*; get it from XSum's repository"),
    ],
)
def test_a_list_of_articles_that_is_none_is_refused(
    tmp_path: Path, listed: Any, message: str
) -> None:
    write(tmp_path, SPLITS, json.dumps(listed))
    with pytest.raises(UserError, match="has .* and none of bbc-summary-data"):
        find_pairs(tmp_path, "train")
    (tmp_path / "bbc-summary-data").mkdir()
    with pytest.raises(UserError, match=message):
        list(read_pairs(find_pairs(tmp_path, "train"), COLUMNS["xsum"]))


# --- scores -----------------------------------------------------------------------


def test_several_references_give_the_best_or_the_mean() -> None:
    references = ["the cat sat", "a dog ran far", "the cat ran"]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    each = [
        {n: s.fmeasure for n, s in scorer.score(r, "the cat ran away").items()}
        for r in references
    ]
    assert best_or_mean("the cat ran away", references) == each[2]
    mean = best_or_mean("the cat ran away", references, "mean")
    for name, value in mean.items():
        assert value == pytest.approx(np.mean([one[name] for one in each]))


def test_words_are_those_of_other_scripts_too() -> None:
    """Vowel signs belong to them; without blanks each character is one."""
    assert words("हिन्दी में, naïve_1 Café") == ["हिन्दी", "में", "naïve_1", "café"]
    assert words("模型v2很好。ที่") == ["模", "型", "v2", "很", "好", "ที่"]
    copied = novel_ngrams("模型很好", "机器学习模型很好")
    assert [copied[f"novel{n}"] for n in (1, 2, 3, 4)] == [0, 0, 0, 0]


def test_novel_ngrams_and_length_are_counted_in_words() -> None:
    article = "The cat sat on the mat. It rained."
    sums = measured("The cat, on the mat, slept, slept.", ["a b c d", "a b"], article)
    assert [sums[f"ngrams{n}"] for n in (1, 2, 3, 4)] == [7, 6, 5, 4]
    # slept, slept; cat on, mat slept, slept slept; all but on the mat; all
    assert [sums[f"novel{n}"] for n in (1, 2, 3, 4)] == [2, 3, 4, 4]
    assert shares(sums) == {
        "novel1": pytest.approx(200 / 7),
        "novel2": 50,
        "novel3": 80,
        "novel4": 100,
        "length_ratio": pytest.approx(7 / 3),
    }
    assert shares(measured("", ["a"], None)) == {"length_ratio": 0}


def greedy(a: np.ndarray, b: np.ndarray, wa: list[float], wb: list[float]) -> float:
    """Zhang et al.'s F1, one cosine at a time."""

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    p = sum(w * max(cosine(x, y) for y in b) for x, w in zip(a, wa, strict=True))
    r = sum(w * max(cosine(x, y) for x in a) for y, w in zip(b, wb, strict=True))
    p, r = p / sum(wa), r / sum(wb)
    return 2 * p * r / (p + r)


def make_lively(folder: Path) -> tuple[Path, Any]:
    """A tiny BERT whose states differ: with small norms all are alike."""
    source = make_source(folder, "bert-uncased")
    model = transformers.AutoModel.from_pretrained(source).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            parameter.data += 2
    model.save_pretrained(source)
    return source, model


@pytest.mark.parametrize("idf", [False, True])
def test_bertscore_is_greedy_matching_of_transformers_states(
    tmp_path: Path, idf: bool
) -> None:
    source, model = make_lively(tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    directory = import_hf(source, tmp_path / "model")

    def embedded(text: str) -> tuple[list[int], np.ndarray]:
        given = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = model(**given, output_hidden_states=True).hidden_states[2]
        return given["input_ids"][0, 1:-1].tolist(), states[0, 1:-1].numpy()

    texts = ["it's double 50 %", "upper lower trailing", "naive cafe flags"]
    references = [["it's can't 'quoted'", "double 50 %"], ["lower"], ["cafe cafe"]]
    flat = [embedded(r) for several in references for r in several]
    weight: dict[int, float] = {}
    for tokens, _ in flat:
        for token in tokens:
            count = sum(token in other for other, _ in flat)
            weight[token] = math.log((len(flat) + 1) / (count + 1)) if idf else 1.0
    unseen = math.log(len(flat) + 1) if idf else 1.0
    left, expected = iter(flat), []
    for text, several in zip(texts, references, strict=True):
        tokens, states = embedded(text)
        ours = [weight.get(token, unseen) for token in tokens]
        found = []
        for other, theirs in [next(left) for _ in several]:
            found.append(greedy(states, theirs, ours, [weight[t] for t in other]))
        expected.append(max(found))
    embed = Embedder(directory, layer=2, cpu=True)
    similar = BertScores(embed, references, idf)
    assert max(expected) < 0.99, expected
    assert similar(texts) == pytest.approx(expected, 1e-5)


def test_bertscore_embeds_references_once(tmp_path: Path) -> None:
    directory = import_hf(make_source(tmp_path / "hf", "bert-uncased"), tmp_path / "m")
    embed = Embedder(directory, cpu=True)
    similar = BertScores(embed, [["a"], ["x y"]])
    assert similar(["", "x y"]) == [0.0, pytest.approx(1.0)]
    assert embed.truncated == 0
    similar = BertScores(embed, [["lower " * 10_000]])
    assert similar(["lower"]) == similar(["lower"])
    assert embed.truncated == 1
    with pytest.raises(UserError, match="--layer 4 is not in 0 to 3, what it has"):
        Embedder(directory, layer=4)


def test_rare_words_count_more_in_bertscore() -> None:
    rare = inverse_frequencies([[1, 2, 1], [2, 3], [2]])
    assert rare == {1: math.log(2), 2: 0.0, 3: math.log(2)}
    counted = weights_of([1, 2, 9], rare, 3)  # 9 is in none of the three
    assert counted.tolist() == pytest.approx([math.log(2), 0, math.log(4)])
    assert weights_of([1, 9], None, 3).tolist() == [1, 1]
    states = torch.eye(2)
    precision = (3 * 1 + 1 * 0) / 4
    found = bert_score(states, 5 * states[:1], torch.tensor([3.0, 1]), torch.ones(1))
    assert found == pytest.approx(2 * precision / (precision + 1))


# --- bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <br/> b", "HTML, '<br/>', the first of 2; it is read as text: strip tags"),
        ("x &amp; y", "HTML, '&amp;', the first of 2; it is read as text: strip tags"),
        (
            "bell\x07",
            "a control character, '\\x07', the first of 2; it is read",
        ),
        (
            "half a line\x85the other",
            "a control character, '\\x85', the first of 2; it is read",
        ),
        (
            "#P1#: Hi.\n#P2#:  \n#P1#: Ho.",
            "a turn without words, '#P2#:  ', the first of 2; fill it, or remove the",
        ),
    ],
)
def test_doubtful_texts_are_remarked_once_with_their_place(
    caplog: pytest.LogCaptureFixture, text: str, message: str
) -> None:
    given = ["1 < 2 & 3 > 2, <3 me@x.org", "Note:\nTab\there. Methods: no.", text, text]
    items = list(enumerate(given, 1))
    found = list(noticing(items, lambda i: ("a.csv", i[0]), lambda i: (i[1],)))
    assert found == items
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"a.csv:3: {message}")


def test_articles_cut_before_what_their_summary_says_are_counted(
    models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = ModelDirectory.open(models["bart"])
    tokenizer = SentenceTokenizer(directory, directory.dictionary(), 6)
    names = [f"w{n}" for n in range(10, 20)]  # of three letters: not told from others
    long = [f"w{n}" * 2 for n in range(10, 20)]
    rows = [
        {"source": " ".join(["w1"] * 9 + long), "target": " ".join(long[:2])},
        {"source": " ".join(["w1"] * 9 + names), "target": " ".join(names[:2])},
        {"source": "w1 w2", "target": long[0]},
        # Words that its dictionary lacks, and that are kept.
        {"source": "Señor Müller" + 9 * " w1", "target": "Señor Müller"},
        {"source": " ".join(["w2"] * 9), "target": "elsewhere nowhere"},
    ]
    write(tmp_path, "train.jsonl", lines(*rows))
    files = find_pairs(tmp_path, "train")
    encode_pairs(files, lambda: read_pairs(files), "x", (tokenizer, tokenizer), None)
    assert "4 of 5 articles cut to 6 tokens" in caplog.text
    said = "of the first 4 articles that fill 6 tokens, 1 are cut before most of"
    assert said in caplog.text


def test_any_number_of_articles_is_read_as_it_is_used(tmp_path: Path) -> None:
    line = "One is here. Two is not." + 300 * "." + "\n"
    path = write(tmp_path, "a.txt", line * 40_000)
    assert command.count([path], "") == 40_000
    assert list(command.lead(["One. Two."], 1)) == ["One."]  # what it imports, too
    turns = "A: Hi.\n \n\nB: Ho. Yes.\nA: No."
    assert list(command.lead([turns], 2)) == ["A: Hi. B: Ho. Yes."]
    tracemalloc.start()
    texts = (found.text for found in command.read_articles(path, ""))
    assert (
        sum(summary == "One is here." for summary in command.lead(texts, 1)) == 40_000
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 3  # a file is looked through by the MiB
    write(tmp_path, "b.txt", "One.\n" * 9 + "\n")
    done = run_command("summarize", "--lead=1", path, tmp_path / "b.txt")
    assert done.returncode == 1
    assert done.stdout == ""  # nothing of the first file either
    assert (
        f"error: {tmp_path / 'b.txt'}:10: an empty line; each line has" in done.stderr
    )


def test_a_summary_at_random_is_one_of_the_files(tmp_path: Path) -> None:
    train = write(tmp_path, "t.jsonl", lines(*({"s": f"sum {n}"} for n in range(5))))
    path = write(tmp_path, "a.txt", "One.\n" * 30)
    flags = ["--random", train, "--summary-column=s", path]
    done = run_command("summarize", *flags)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {f"sum {n}" for n in range(5)}
    assert run_command("summarize", *flags).stdout == done.stdout
    assert run_command("summarize", *flags, "--seed=1").stdout != done.stdout
    twice = run_command("summarize", path, "--random", train, *flags[2:])
    assert len(twice.stdout.splitlines()) == 60  # files may follow flags
    write(tmp_path, "t.jsonl", lines(*({"s": text} for text in ("", " ", "one"))))
    drawn = command.drawn(["a"] * 20, train, "s", 0)
    assert set(drawn) == {"one"}
    write(tmp_path, "t.jsonl", lines({"s": " "}))
    for column, mend in (("s", "holds no summary that"), ("t", "--summary-column")):
        with pytest.raises(UserError, match=mend):
            list(command.drawn(["a"], train, column, 0))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lead=1", "--random=f"], "--lead and --random: give one of them"),
        (["--lead=1", "--beam=6"], "--beam is for a checkpoint, not for --lead"),
        (["--random=f", "--no-repeat=0"], "--no-repeat is for a checkpoint, not for"),
        (["--lead=1", "--max-tokens=9"], "--max-tokens is for a checkpoint"),
        (["--lead=1", "--model=m"], "--model is for a checkpoint"),
        (["--lead=1", "--cpu"], "--cpu is for a checkpoint"),
        (["--lead=1", "--seed=0"], "--seed is for --random FILE: leave it out"),
        (["c.pt", "--summary-column=s"], "--summary-column is for --random FILE"),
        (["--lead=1", "--column=c"], "--column is for tables, and these are texts: l"),
        (["--random=f", "--seed=-1"], "--seed -1 is not a number from 0"),
    ],
)
def test_flags_without_effect_are_refused(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        command.main([*flags, "a.txt"])
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"min_length": 40, "max_length": 50},
            "--min-length 40 is more than the 30 tokens that this model's 32 posi",
        ),
        ({"max_length": 31}, r"--max-length 31 is .*: give --max-length 30 or less$"),
        ({"length_penalty": math.nan}, "--length-penalty nan is out of range: finite"),
    ],
)
def test_a_search_has_the_models_positions(
    trained: tuple[Path, Any], changes: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        Summarizer(trained[0] / "checkpoint_last.pt", cpu=True, **changes)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("predict", "summaries", "is of task summarization, .* summarize summarises"),
        (
            "predict",
            "bart",
            "is a model directory without a head .* a checkpoint",
        ),
        (
            "summarize",
            "roberta",
            "is an encoder without a decoder; summarization needs BART",
        ),
        (
            "summarize",
            "twice",
            "is two copies of an encoder, .* a checkpoint that was trained from it",
        ),
    ],
)
def test_the_right_command_is_named(
    trained: tuple[Path, Any],
    models: dict[str, Path],
    tmp_path: Path,
    name: str,
    given: str,
    message: str,
) -> None:
    path = write(tmp_path, "a.txt", "w1 w2\n")
    known = {**models, "summaries": trained[0] / "checkpoint_last.pt"}
    if given == "twice":
        encoder = ModelDirectory.open(models["roberta"])
        known[given] = bert2bert(encoder, tmp_path / "twice").path
    done = run_command(name, known[given], path)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("changed", "search", "said"),
    [
        ({"num_beams": 2, "max_length": 62}, (2, 59), ""),
        ({"num_beams": 0}, None, "how it searches for summaries is not taken over"),
        ({"num_beams": 2, "architectures": ["BartModel"]}, None, ""),
    ],
)
def test_a_model_directory_says_how_it_searches(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changed: dict[str, Any],
    search: tuple[int, int] | None,
    said: str,
) -> None:
    """XSum's models force no first token; ours does, and it is no word."""
    source = make_source(tmp_path / "source", "bart")
    path = source / "config.json"
    config = json.loads(path.read_text()) | {"forced_bos_token_id": None}
    config |= {"architectures": ["BartForConditionalGeneration"], **changed}
    path.write_text(json.dumps(config))
    (source / "generation_config.json").unlink(missing_ok=True)
    directory = import_hf(source, tmp_path / "model")
    assert said in caplog.text
    found = directory.manifest.search
    assert (found and (found["beam"], found["max_length"])) == search
    assert ("search" in json.loads((directory.path / "manifest.json").read_text())) == (
        search is not None
    )
    caplog.clear()
    decoding = Summarizer(directory.path, cpu=True).task.decoding
    assert (decoding.beam, decoding.max_length) == (search or (4, 128))
    unsaid = "does not say how it searches for summaries: if nothing has trained it"
    assert (unsaid in caplog.text) == (search is None)


# --- data sets of single files --------------------------------------------------------


class Files(BaseHTTPRequestHandler):
    """Serves what is asked for by its name."""

    content: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        body = self.content[self.path.lstrip("/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_each_file_of_a_data_set_is_fetched_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = b"hello\n", b"two"
    Files.content = {"one.jsonl": one, "two.jsonl": two}
    server = HTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # What git hash-object and sha256sum say of them.
    digests = {
        "one.jsonl": "ce013625030ba8dba906f756967f9e9ca394464a",
        "two.jsonl": hashlib.sha256(two).hexdigest(),
    }
    address = f"http://127.0.0.1:{server.server_port}/{{}}"
    source = get_data.Source(address, digests, "none")
    monkeypatch.setitem(get_data.SOURCES, "dialogsum", source)
    out = tmp_path / "out"
    get_data.get("dialogsum", out, None)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == Files.content
    get_data.get("dialogsum", tmp_path / "again", out)
    Files.content = {"one.jsonl": b"hello", "two.jsonl": b"three"}
    get_data.get("dialogsum", out, None)  # both are there
    (out / "one.jsonl").unlink()
    with pytest.raises(UserError, match=r"the published one.jsonl: git's b6fc4c6.*"):
        get_data.get("dialogsum", out, None)
    (out / "one.jsonl").write_bytes(one)
    (out / "two.jsonl").write_bytes(b"three")
    with pytest.raises(UserError, match="not the published two.jsonl: sha256 .* inst"):
        get_data.get("dialogsum", tmp_path / "third", out)
    server.shutdown()


# --- BART's own form: the same summaries as transformers --------------------------


class Bart(NamedTuple):
    """A tiny random BART, in double: of so many choices some are within a rounding."""

    directory: ModelDirectory
    ours: Any
    theirs: Any
    tokenizer: SentenceTokenizer

    def articles(self, count: int = 50) -> dict[str, torch.Tensor]:
        """A padded batch of them, of different lengths."""
        rng = random.Random(0)
        texts = [
            (" ".join(rng.choices(WORDS, k=rng.randint(3, 28))),) for _ in range(50)
        ]
        rows = [torch.from_numpy(ids).long() for ids in self.tokenizer.encode(texts)[0]]
        return padded(rows[:count], 1, False)


@pytest.fixture(scope="session")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Bart:
    """The same weights here and in transformers, whose ids of these words are equal."""
    folder = tmp_path_factory.mktemp("bart") / "model"
    directory = make_model_directory(folder, "bart", layer_norm_eps=1e-5)
    original = Original.open(folder, None, False)
    ours = original.model.double()
    with torch.no_grad():
        ours.encoder.embed_tokens.weight[2] *= 2  # so that summaries end now and then
    theirs = transformers.BartForConditionalGeneration(
        transformers.BartConfig(**config(original))
    )
    theirs.load_state_dict(weights(original), strict=False)
    tokenizer = SentenceTokenizer(directory, directory.dictionary(), 32)
    assert original.rows.tolist() == list(range(len(original.rows)))
    return Bart(directory, ours, theirs.double().eval(), tokenizer)


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(1, 1.0, 0, 12, 0),
        Decoding(1, 1.0, 6, 14, 3),
        Decoding(4, 1.0, 0, 12, 0),
        Decoding(4, 2.0, 5, 14, 3),
        Decoding(3, 0.5, 0, 9, 2),
        Decoding(5, -1.0, 3, 20, 1),
    ],
    ids=str,
)
def test_tokens_are_transformers_own(bart: Bart, decoding: Decoding) -> None:
    batch = bart.articles()
    dictionary = bart.directory.dictionary()
    search = BeamSearch(bart.ours, dictionary, bart.tokenizer, decoding)
    found = search.tokens(batch)
    expected = bart.theirs.generate(
        input_ids=batch["src_tokens"],
        attention_mask=batch["src_tokens"].ne(1).long(),
        num_beams=decoding.beam,
        length_penalty=decoding.length_penalty,
        min_length=decoding.min_length + 2,
        max_length=decoding.max_length + 3,
        no_repeat_ngram_size=decoding.no_repeat,
        early_stopping=decoding.beam > 1,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        suppress_tokens=[1],  # fairseq never writes padding
        do_sample=False,
    )
    assert len(found) == 50
    for row, other in zip(found, expected.tolist(), strict=True):
        ours = [2, *row]
        assert ours == other[: len(ours)]
        assert set(other[len(ours) :]) <= {1}
        assert decoding.min_length + 2 <= len(row) <= decoding.max_length + 2
    if 0 < decoding.length_penalty <= 1:  # the others are all as long as they may be
        assert len({len(row) for row in found}) > 1
    assert len({tuple(row) for row in found}) > 20


def test_an_ngram_that_is_there_is_not_repeated() -> None:
    tokens = torch.tensor([[2, 0, 5, 6, 7, 5, 6], [2, 0, 5, 6, 7, 8, 9]])
    assert repeats(tokens, 3, 10).nonzero().tolist() == [[0, 7]]
    there = repeats(tokens, 1, 10)[1].nonzero().flatten().tolist()
    assert there == [0, 2, *range(5, 10)]
    assert not repeats(tokens, 8, 10).any()


def test_decoding_with_caches_is_decoding_without(bart: Bart) -> None:
    decoding = Decoding(beam=1, max_length=15, no_repeat=0)
    dictionary = bart.directory.dictionary()
    search = BeamSearch(bart.ours, dictionary, bart.tokenizer, decoding)
    batch = bart.articles(8)
    found = search.tokens(batch)
    with torch.no_grad():
        encoded = bart.ours.encoder(**batch)
        written = torch.tensor([[search.start, *search.prefix]] * 8)
        while written.size(1) < 1 + max(map(len, found)):
            logits = bart.ours.decoder(written, encoded)[0][:, -1]
            logits[:, dictionary.pad()] = -math.inf
            best = logits.argmax(-1, keepdim=True)
            if written.size(1) == 17:  # the start, <s> and 15 more: the end is forced
                best.fill_(dictionary.eos())
            written = torch.cat([written, best], 1)
    for row, full in zip(found, written[:, 1:].tolist(), strict=True):
        assert row == full[: full.index(dictionary.eos()) + 1]


def summaries(directory: ModelDirectory) -> list[list[int]]:
    """Of a few texts, as the tokeniser numbers tokens."""
    model, dictionary = load_encoder(directory), directory.dictionary()
    tokenizer = SentenceTokenizer(directory, dictionary, 32)
    search = BeamSearch(model, dictionary, tokenizer, Decoding(4, 2.0, 3, 10, 3))
    rows = tokenizer.encode([(text,) for text in AWKWARD])[0]
    batch = padded([torch.from_numpy(ids).long() for ids in rows], 1, False)
    back = {int(ours): number for number, ours in enumerate(tokenizer.ids)}
    return [[back.get(i, -1) for i in row] for row in search.tokens(batch)]


def test_fairseqs_release_and_hugging_faces_of_the_same_weights_summarise_the_same(
    tmp_path: Path,
) -> None:
    release = make_release(tmp_path / "bart.large")
    state = torch.load(release / "model.pt", weights_only=False)
    torch.manual_seed(3)
    for name, tensor in state["model"].items():
        if tensor.is_floating_point() and tensor.dim() > 1:
            tensor.normal_(std=0.3)
            if "embed_tokens" in name or "output_projection" in name:
                tensor.copy_(state["model"]["encoder.embed_tokens.weight"])
    torch.save(state, release / "model.pt")
    one = import_fairseq(release, release, tmp_path / "one")
    # BART's LayerNorm has one epsilon in transformers, which fairseq's has by default.
    export_hf(one.path, tmp_path / "hf")
    other = import_hf(tmp_path / "hf", tmp_path / "other")
    found = summaries(one)
    assert found == summaries(other)
    assert len({tuple(row) for row in found}) > 1


def test_an_exported_checkpoint_summarises_the_same(
    tmp_path: Path, fairseq_train: Trainer
) -> None:
    model = import_hf(make_source(tmp_path / "source", "bart"), tmp_path / "model")
    for split in ("train", "valid"):
        text = "\n".join(t for t in AWKWARD if "\n" not in t and len(t) < 90) + "\n"
        for side in ("source", "target"):
            write(tmp_path, f"{split}.{side}", text)
    fairseq_train(
        *(tmp_path, "--task=summarization", f"--steady-model={model.path}"),
        *("--max-update=1", "--lr=1e-3", f"--save-dir={tmp_path / 'run'}"),
        *("--no-epoch-checkpoints", "--disable-validation"),
        *("--summarization-max-length=14", "--summarization-length-penalty=2"),
        *("--summarization-min-length=4", "--summarization-beam=3"),
    )
    path = tmp_path / "run" / "checkpoint_last.pt"
    export_hf(path, tmp_path / "hf")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts = ["naïve café", "flags and more", "$3.14 50% double"]
    written = list(Summarizer(path, cpu=True)(texts))
    for text, ours in zip(texts, written, strict=True):
        given = tokenizer(text, return_tensors="pt")
        ids = theirs.generate(**given, suppress_tokens=[tokenizer.pad_token_id])[0]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == ours
    made = theirs.generation_config
    assert (made.min_length, made.max_length) == (6, 17)
    assert (made.num_beams, made.length_penalty) == (3, 2)
    assert made.forced_bos_token_id == 0
    # Come back, it summarises without a training, and goes out as it was.
    back = tmp_path / "back"
    assert run_command("import", tmp_path / "hf", back).stderr == ""
    assert list(Summarizer(back, cpu=True)(texts)) == written
    export_hf(back, tmp_path / "again")
    name = "generation_config.json"
    assert filecmp.cmp(tmp_path / "hf" / name, tmp_path / "again" / name, False)
