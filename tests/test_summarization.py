"""Summarization: files in, a model that copies leads, ROUGE out."""

import csv
import hashlib
import json
import os
import random
import re
import struct
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    WORDS,
    Trainer,
    Zygote,
    environment,
    make_model_directory,
    run_command,
)
from fairseq_steady.commands.rouge import main as rouge_command
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.data.pair_dataset import encode_pairs
from fairseq_steady.data.pairs import (
    CUSTOM,
    _example_class,
    find_pairs,
    read_pairs,
)
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.bert2bert import bert2bert
from fairseq_steady.inference.summarising import Summarizer
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.scores import rouge as module
from fairseq_steady.scores.rouge import as_lines, rouge
from fairseq_steady.tasks.summarization import SummarizationTask
from helpers import assert_equal_weights, checkpoint, logged, train_on_workers
from rouge_score.rouge_scorer import RougeScorer

pytestmark = pytest.mark.usefixtures("own_cache")

# --- files ------------------------------------------------------------------------

PAIRS = [("first article , one .", "a summary"), ("second\u2028article", "b\nc")]
#: As CNN/DM has 114 of them.
WITH_EMPTY = [PAIRS[0], ("", "of no article"), PAIRS[1]]
FLAT = [(article, summary.replace("\n", " ")) for article, summary in PAIRS]


def write_csv(folder: Path) -> None:
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("id", "source", "target"), *((1, *p) for p in PAIRS)]
        )


def write_jsonl(folder: Path) -> None:
    lines = [json.dumps({"source": a, "target": b}) for a, b in PAIRS]
    (folder / "train.jsonl").write_text("\n".join(lines), "utf-8")


def write_aligned(folder: Path) -> None:
    for side, name in enumerate(("train.article.txt", "train.title.txt")):
        text = "\n".join(pair[side] for pair in FLAT) + "\n"
        (folder / name).write_text(text, "utf-8")


def story(article: str, summary: str) -> str:
    highlights = "".join(f"\n\n@highlight\n\n{line}" for line in summary.split("\n"))
    return f"{article}{highlights}\n"


def write_stories(folder: Path) -> None:
    (folder / "train").mkdir()
    for number, pair in enumerate(WITH_EMPTY):
        (folder / "train" / f"{number}.story").write_text(story(*pair), "utf-8")


def sha1(number: str) -> str:
    return hashlib.sha1(f"http://example.org/{number}".encode()).hexdigest()  # noqa: S324


def write_listed(folder: Path) -> None:
    """The url lists that came with CNN/DM, and stories by their hashes."""
    urls = [f"http://example.org/{number}" for number in range(len(WITH_EMPTY))]
    (folder / "all_train.txt").write_text("\n".join(urls) + "\n")
    (folder / "cnn" / "stories").mkdir(parents=True)
    for url, pair in zip(urls, WITH_EMPTY, strict=True):
        name = f"{sha1(url[-1])}.story"
        (folder / "cnn" / "stories" / name).write_text(story(*pair), "utf-8")


def record(article: str, summary: str) -> bytes:
    """One length-prefixed tf.train.Example, as in finished_files."""
    abstract = " ".join(f"<s> {line} </s>" for line in summary.split("\n"))
    entries = []
    for key, text in (("article", article), ("abstract", abstract)):
        value = {"bytes_list": {"value": [text.encode()]}}
        entries.append({"key": key, "value": value})
    made = _example_class()(features={"feature": entries}).SerializeToString()
    return struct.pack("<q", len(made)) + made


def write_binary(folder: Path) -> None:
    chunks = folder / "finished_files" / "chunked"
    chunks.mkdir(parents=True)
    (chunks / "train_000.bin").write_bytes(record(*WITH_EMPTY[0]))
    others = [record(*pair) for pair in WITH_EMPTY[1:]]
    (chunks / "train_001.bin").write_bytes(b"".join(others))


def write_json_stories(folder: Path) -> None:
    (folder / "finished_files" / "train").mkdir(parents=True)
    for number, (article, summary) in enumerate(WITH_EMPTY):
        content = {"article": [article], "abstract": summary.split("\n")}
        path = folder / "finished_files" / "train" / f"{number}.json"
        path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize(
    ("write", "expected", "left_out", "last"),
    [
        (write_csv, PAIRS, None, "train.csv:4"),
        (write_jsonl, PAIRS, None, "train.jsonl:2"),
        (write_aligned, FLAT, None, "train.article.txt:2"),
        (write_stories, PAIRS, "train", "2.story:1"),
        (write_listed, PAIRS, "all_train.txt", f"{sha1('2')}.story:1"),
        (write_binary, PAIRS, "finished_files/chunked", "train_001.bin:2"),
        (write_json_stories, PAIRS, "finished_files/train", "2.json:1"),
    ],
)
def test_every_published_form_is_read(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    write: Callable[[Path], None],
    expected: list[tuple[str, str]],
    left_out: str | None,
    last: str,
) -> None:
    write(tmp_path)
    found = list(read_pairs(find_pairs(tmp_path, "train")))
    assert [(pair.source, pair.target) for pair in found] == expected
    assert f"{found[-1].path.name}:{found[-1].line}" == last
    said = f"{tmp_path}/{left_out}: 1 of the 3 articles of train are not there or empty"
    assert [f"{said}, and are left out"] * bool(left_out) == caplog.messages


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train.source": b"a\nb\n", "train.target": b"a\n"},
            "has 2 lines and .*train.target has 1; line n of one",
        ),
        (
            {"train.source": b"a\n\n", "train.target": b"a\nb\n"},
            "train.source:2: an empty article",
        ),
        ({"train.csv": b"source,target\na,\n"}, r"train.csv:2: an empty summary"),
        (
            {"train.csv": b"article,target\na,b\n"},
            "train.csv:1: no column 'source' among: article, target; name yours with "
            "--summarization-source-column",
        ),
        ({"train.csv": b"source,target\n"}, "has a header and no rows"),
        (
            {"train.csv": b"source,target\ncaf\xe9,b\n"},
            "train.csv:2: .*convert the file",
        ),
        ({"train.bin": record("a", "b")[:-3]}, "train.bin:1: not an article .*cut off"),
        ({"train.bin": b"\1"}, "train.bin:1: not an article"),
        ({"all_train.txt": b"http://x\n"}, "all_train.txt:1: no story of http://x"),
        ({"valid.csv": b"x"}, "has no train set"),
    ],
)
def test_bad_files_are_one_clear_error(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_pairs(find_pairs(tmp_path, "train")))


def test_tokens_are_cached_and_read_from_disk(
    models: dict[str, Path], tmp_path: Path
) -> None:
    directory = ModelDirectory.open(models["bart"])
    dictionary = directory.dictionary()
    tokenizers = tuple(
        SentenceTokenizer(directory, dictionary, length) for length in (32, 4)
    )
    (tmp_path / "train.source").write_text("w1 w2\nw3 w4 w5\n")
    (tmp_path / "train.target").write_text("w1\nw3 w4 w5\n")
    files, reads = find_pairs(tmp_path, "train"), []

    def read() -> Any:
        reads.append(1)
        return read_pairs(files)

    def encode() -> Any:
        return encode_pairs(files, read, "x", tokenizers, None)  # type: ignore[arg-type]

    first, again = encode(), encode()
    assert len(reads) == 1
    assert isinstance(first.tokens.ids, np.memmap)
    assert [t.tolist() for t in again.tokens] == [[0, 6, 7, 2], [0, 8, 9, 10, 2]]
    assert again.sides[1].sizes.tolist() == [3, 4]
    assert again.truncated == (0, 1)
    taken = again.take(np.array([1]))
    assert taken.tokens[0].tolist() == [0, 8, 9, 10, 2]
    # A damaged entry is made anew; another content has another entry.
    (stored,) = (tmp_path / "fairseq-steady").iterdir()
    (stored / "ids-0.bin").write_bytes(b"\0" * 4)
    assert encode().tokens.sizes.tolist() == [4, 5]
    assert len(reads) == 2


@pytest.mark.parametrize("form", ["listed stories", "folders of an archive"])
def test_articles_below_a_folder_are_cached_by_what_they_hold(
    models: dict[str, Path], tmp_path: Path, form: str
) -> None:
    directory = ModelDirectory.open(models["bart"])
    tokenizer = SentenceTokenizer(directory, directory.dictionary(), 32)
    data, reads = tmp_path / "data", []
    below = data / "cnn" / "stories"
    if form == "listed stories":
        below.mkdir(parents=True)
        (data / "all_train.txt").write_text("http://example.org/0\n")
        (below / f"{sha1('0')}.story").write_text(story("w1 w2", "w1"))
        change = partial((below / f"{sha1('0')}.story").write_text, story("w3", "w1"))
    else:
        base, below = data / "xsum-preprocessed", tmp_path / "document"
        (base / "summary").mkdir(parents=True)
        (base / "summary" / "0.summary").write_text("w1")
        below.mkdir()
        (base / "document").symlink_to(below)
        (below / "0.document").write_text("w1 w2")
        listed = data / "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json"
        listed.write_text(json.dumps({"train": ["0"]}))
        change = partial((below / "0.document").write_text, "w3")

    def tokens() -> list[list[int]]:
        files = find_pairs(data, "train")

        def read() -> Any:
            reads.append(1)
            return read_pairs(files)

        made = encode_pairs(files, read, "x", (tokenizer, tokenizer), None)
        return [one.tolist() for one in made.tokens]

    assert tokens() == [[0, 6, 7, 2]]
    (below / "train.log").write_text("a run's log is no article")
    assert tokens() == [[0, 6, 7, 2]]
    assert len(reads) == 1
    change()
    assert tokens() == [[0, 8, 2]]


def test_what_is_doubtful_is_said_of_its_own_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chunks = tmp_path / "chunked"
    chunks.mkdir()
    for number, article in enumerate(("first", "a <br/> b")):
        (chunks / f"train_{number:03}.bin").write_bytes(record(article, "s"))
    task: Any = SimpleNamespace(tables=CUSTOM)
    files = find_pairs(tmp_path, "train")
    assert len([*SummarizationTask._noticed(task, files, "train")]) == 2
    assert f"{chunks / 'train_001.bin'}:1: HTML, '<br/>'" in caplog.text


# --- ROUGE -----------------------------------------------------------------------


def test_rouge_is_rouge_scores() -> None:
    reference, summary = "The cats sat.\nIt rained.", "A cat sat. It was raining."
    scorer = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    expected = scorer.score(reference, "A cat sat.\nIt was raining.")
    found = rouge(summary, reference)
    assert found == {name: score.fmeasure for name, score in expected.items()}
    assert rouge(summary, reference, stem=False)["rouge1"] < found["rouge1"]
    assert as_lines("a. b") == "a.\nb"
    assert as_lines("a. b\nc") == "a. b\nc"
    assert as_lines("机器学习。模型很好！ 对。") == "机器学习。\n模型很好！\n对。"
    assert as_lines("यह है। वह था।") == "यह है।\nवह था।"


def test_files_are_scored_with_intervals(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("a b c\n\nd e\nf\ng\n")
    (tmp_path / "theirs.csv").write_text('highlights\na b d\nx\n"d e"\nf\ng\n')
    done = run_command("rouge", tmp_path / "ours", tmp_path / "theirs.csv")
    assert done.returncode == 0, done.stderr
    mean = 100 * (2 / 3 + 0 + 3) / 5
    assert f"rouge1      {mean:.2f}  [" in done.stdout
    (tmp_path / "others").write_text("a b c\nx\nd e\nf\nz\n")
    files = (tmp_path / "ours", tmp_path / "theirs.csv")
    done = run_command("rouge", *files, "--against", tmp_path / "others")
    assert f"better than {tmp_path / 'others'} by\nrouge1       0.00  [" in done.stdout
    (tmp_path / "ours").write_text("a\n")
    done = run_command("rouge", tmp_path / "ours", tmp_path / "theirs.csv")
    assert done.returncode == 1
    assert "has 1 summaries and" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_blank_references_do_not_count_and_articles_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs.jsonl"
    ours.write_text("A good summary.\nA bad one.\n")
    rows = [{"t": ["A good summary.", ""], "u": " "}, {"t": [""], "u": ""}]
    theirs.write_text("\n".join(map(json.dumps, rows)))
    files = [str(ours), str(theirs)]
    rouge_command([*files, "--column=t,u", "--references=mean"])
    out, err = capsys.readouterr()
    said = out.splitlines()
    assert err == "1 of 2 articles have no reference, and score 0\n"
    assert said[:2] == ["2 summaries, with stemming", "rouge1      50.00"]
    assert said[4] == "unique     100.00"
    assert said[5] == f"length     {6 / 3:6.2f}"
    for more, mend in (([], "name the articles with --source"),
                       (["--source", str(ours)], "leave it out")):  # fmt: skip
        with pytest.raises(UserError, match=f"^--source-column a is of .*; {mend}$"):
            rouge_command([str(ours), str(ours), "--source-column=a", *more])


def test_rouge_says_what_makes_scores_mean_little(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    module._say_what_is_read.cache_clear()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text("Привет мир.\n" * 12)
    theirs.write_text("café 日本\n" * 12)
    rouge_command([str(ours), str(theirs)])
    assert "in another script" not in caplog.text  # part of it is read
    assert capsys.readouterr().err.startswith("1 different summaries of 12 articles (8")
    for _ in range(2):
        rouge_command([str(ours), str(ours)])
    assert "rouge1       0.00" in capsys.readouterr().out
    assert caplog.text.count("a reference in another script scores 0") == 1
    with pytest.raises(UserError, match="--layer and --cpu are for --bertscore DIR"):
        rouge_command([str(ours), str(theirs), "--cpu"])
    with pytest.raises(UserError, match="nosuch is not a model directory"):
        rouge_command([str(ours), str(theirs), "--bertscore=nosuch"])
    assert capsys.readouterr().out == ""


def test_a_model_that_writes_nothing_scores_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    theirs.write_text("a b\nc d\n")
    ours.write_text("\n\n")
    rouge_command([str(ours), str(theirs)])
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["2 summaries, with stemming", "rouge1       0.00"]
    ours.write_text("")
    with pytest.raises(UserError, match="ours is empty; it should have a line for ea"):
        rouge_command([str(ours), str(theirs)])


def test_bertscore_of_a_decoder_is_refused_before_training(
    models: dict[str, Path],
) -> None:
    task: Any = SimpleNamespace()
    task.cfg = SimpleNamespace(summarization_bertscore=str(models["bart"]))
    with pytest.raises(UserError, match="bart is an encoder-decoder; BERTScore needs"):
        SummarizationTask.settle_data(task)


# --- training --------------------------------------------------------------------


@pytest.fixture(scope="session")
def leads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Articles whose summary is their first sentence."""
    folder, rng = tmp_path_factory.mktemp("leads"), random.Random(0)
    for split, count in (("train", 1200), ("valid", 25), ("test", 10)):
        articles = [rng.choices(WORDS[2:], k=rng.randint(6, 9)) for _ in range(count)]
        text = {
            "source": [" ".join([*words[:3], "w0", *words[3:]]) for words in articles],
            "target": [" ".join(words[:3]) for words in articles],
        }
        for side, lines in text.items():
            (folder / f"{split}.{side}").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BART large enough to learn to copy."""
    sides = {"layers": 2, "embed_dim": 64, "ffn_embed_dim": 128, "attention_heads": 4}
    changed = {f"{s}_{n}": v for s in ("encoder", "decoder") for n, v in sides.items()}
    folder = tmp_path_factory.mktemp("wide") / "bart"
    return make_model_directory(folder, "bart", **changed, dropout=0.0).path


def flags(leads: Path, model: Path, *more: str) -> list[str]:
    return [
        *(str(leads), "--task=summarization", f"--steady-model={model}"),
        *("--summarization-max-length=6", "--no-epoch-checkpoints", *more),
    ]


@pytest.mark.parametrize("criterion", ["plain", "r3f"])
def test_a_tiny_bart_learns_to_copy_the_lead(
    leads: Path, wide: Path, tmp_path: Path, fairseq_train: Trainer, criterion: str
) -> None:
    noise = ["--r3f-eps=0.1", "--r3f-lambda=0.1", "--r3f-side=both"]
    done = fairseq_train(
        *flags(leads, wide, "--steady-from-scratch", f"--save-dir={tmp_path}"),
        *(f"--criterion={criterion}", "--label-smoothing=0.1", "--clip-norm=1"),
        *(noise if criterion == "r3f" else []),
        *("--optimizer=bert_adam", "--bert-adam-bias-correction", "--lr=3e-3"),
        *("--batch-size=32", "--steady-updates=200", "--log-interval=50"),
    )
    valid = logged(done, "valid")
    assert len(valid) == 10
    best = max(float(v["valid_rouge1"]) for v in valid)
    assert best > 90
    assert checkpoint(tmp_path, "checkpoint_best.pt")["extra_state"]["best"] == best
    if criterion == "r3f":
        assert float(logged(done, "train")[-1]["train_r3f_divergence"]) > 0
        return
    # The script's file has the very ROUGE that training reported.
    out = run_command(
        "summarize", tmp_path / "checkpoint_best.pt", leads / "valid.source", "--cpu"
    )
    assert out.returncode == 0, out.stderr[-2000:]
    (tmp_path / "out.txt").write_text(out.stdout)
    scored = run_command("rouge", tmp_path / "out.txt", leads / "valid.target").stdout
    assert f"rouge1     {best:6.2f}" in scored


def test_decoding_leaves_training_alone(
    leads: Path, models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    """fairseq's beam search would change how cross-attention reads a batch."""
    common = flags(leads, models["bart"], "--batch-size=8", "--max-update=6")
    common += ["--steady-train-size=100"]
    fairseq_train(*common, f"--save-dir={tmp_path / 'a'}", "--disable-validation")
    fairseq_train(
        *(*common, f"--save-dir={tmp_path / 'b'}", "--validate-interval-updates=2"),
        "--summarization-decode=3",
    )
    assert_equal_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("workers", "backend"),
    [(2, "legacy_ddp"), pytest.param(4, "c10d", marks=pytest.mark.slow)],
)
def test_workers_equal_one(
    leads: Path,
    models: dict[str, Path],
    tmp_path: Path,
    fairseq_train: Trainer,
    zygote: Zygote,
    workers: int,
    backend: str,
) -> None:
    common = flags(leads, models["bart"], "--max-update=4", "--steady-train-size=64")
    common += ["--criterion=r3f", "--r3f-eps=0.1", "--dropout=0", "--adam-eps=1e-3"]
    common += ["--attention-dropout=0", "--summarization-decode=20"]
    one, two = (
        [f"--save-dir={tmp_path / name}", f"--steady-record={tmp_path / name}"]
        for name in ("one", "two")
    )
    # One article a batch: of some that the workers have at a time none is decoded.
    common += ["--batch-size=8", "--batch-size-valid=1"]
    done = fairseq_train(*common, *one, f"--update-freq={workers}")
    logs = train_on_workers(zygote, *common, *two, count=workers, backend=backend)
    assert_equal_weights(tmp_path / "one", tmp_path / "two", tolerance=1e-6)
    alone = logged(done, "valid")[-1]
    together = logged(type(done)([], 0, logs[0], ""), "valid")[-1]
    for name in ("rouge1", "rouge2", "rougeLsum"):
        assert float(together[f"valid_{name}"]) == pytest.approx(
            float(alone[f"valid_{name}"]), abs=1e-4
        )
    assert float(together["valid_loss"]) == pytest.approx(
        float(alone["valid_loss"]), rel=1e-5
    )
    kept, other = (
        json.loads((tmp_path / name / "valid-4.json").read_text())
        for name in ("one", "two")
    )
    assert len(kept["gold"]) == 20
    assert (kept["scores"], kept["gold"]) == (other["scores"], other["gold"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--summarization-beam=0"], "--summarization-beam 0 is out of range"),
        (["--summarization-min-length=9"], "--summarization-min-length 9 is out of"),
        (
            ["--summarization-source-length=99"],
            "--summarization-source-length 99 is not in 3 to 32",
        ),
        (["--valid-subset=valid,train"], "--valid-subset train: summar.* valid,seen$"),
        (["--steady-model={roberta}"], "is an encoder without a decoder.*--bert2bert"),
    ],
)
def test_mistakes_end_in_one_line(
    leads: Path,
    models: dict[str, Path],
    fairseq_train: Trainer,
    more: list[str],
    message: str,
) -> None:
    changed = [flag.format(roberta=models["roberta"]) for flag in more]
    done = fairseq_train(
        *flags(leads, models["bart"], "--max-update=1", "--batch-size=8"),
        *changed,
        status=1,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(message, last)


# --- BERT2BERT, and a checkpoint in Python ----------------------------------------


def test_bert2bert_starts_both_halves_from_one_encoder(
    models: dict[str, Path], tmp_path: Path
) -> None:
    source = ModelDirectory.open(models["roberta"])
    made = bert2bert(source, tmp_path / "two")
    weights, both = source.weights()[0], made.weights()[0]
    prefix = "encoder.sentence_encoder."
    for name, tensor in weights.items():
        for side in ("encoder.", "decoder."):
            assert torch.equal(both[side + name.removeprefix(prefix)], tensor)
    assert torch.equal(
        both["decoder.output_projection.weight"], both["encoder.embed_tokens.weight"]
    )
    new = both["decoder.layers.0.encoder_attn.k_proj.weight"]
    assert float(new.std()) == pytest.approx(0.02, rel=0.2)
    assert not bool(both["decoder.layers.0.encoder_attn.k_proj.bias"].any())
    assert made.manifest.family == "bart"
    with pytest.raises(UserError, match="is no encoder"):
        bert2bert(made, tmp_path / "four")


def test_summaries_come_in_order_whatever_the_batches(
    leads: Path, models: dict[str, Path], tmp_path: Path, fairseq_train: Trainer
) -> None:
    fairseq_train(
        *flags(leads, models["bart"], "--batch-size=8", "--max-update=1"),
        *(f"--save-dir={tmp_path}", "--disable-validation", "--steady-train-size=64"),
    )
    trained = Summarizer(tmp_path / "checkpoint_last.pt", cpu=True, max_length=5)
    texts = (leads / "test.source").read_text().splitlines()
    texts.insert(3, " ".join(["w1"] * 99))
    alone = [next(iter(trained([text]))) for text in texts]
    assert list(trained(texts, max_tokens=40)) == alone
    assert trained.truncated == 2
    with pytest.raises(UserError, match="does not exist"):
        Summarizer(tmp_path / "nothing.pt")


# --- the examples ----------------------------------------------------------------

EXAMPLES = Path(__file__).parent.parent / "examples" / "summarization"


#: In place of fairseq-steady: makes models and checkpoints, writes one line of summary.
STAND_IN = """#!/usr/bin/env bash
echo "$*" >>"$LOG"
case $1 in
import) mkdir -p "$3" && touch "$3/manifest.json" ;;
compare) for m in plain plain3x r3f r3f-far r_drop; do
    mkdir -p "$3/$m/seed1" && [ -f "$3/$m/seed1/checkpoint_best.pt" ] ||
      touch -d "1 hour ago" "$3/$m/seed1/checkpoint_best.pt"
  done ;;
summarize) echo summary ;;
esac
"""


@pytest.mark.parametrize("script", ["dialogsum.sh", "run.sh"])
def test_a_script_run_again_keeps_what_is_of_the_same_model_and_checkpoint(
    tmp_path: Path, script: str
) -> None:
    (tmp_path / "fairseq-steady").write_text(STAND_IN)
    (tmp_path / "fairseq-steady").chmod(0o755)
    out, log = tmp_path / "out", tmp_path / "log"

    def run(**variables: str) -> tuple[int, str, list[str]]:
        log.write_text("")
        known = {"PYTHON": str(tmp_path / "python"), "LOG": str(log), "SEEDS": "1"}
        done = subprocess.run(
            ["bash", EXAMPLES / script, tmp_path / "data", "models/e", out, "9"],
            capture_output=True,
            text=True,
            check=False,
            env=environment(**known, **variables),
        )
        calls = [line.split() for line in log.read_text().splitlines()]
        made = [
            Path(c[3]).parts[-3] for c in calls if c[:2] == ["summarize", "--model"]
        ]
        # Some write at the same time, and log in any order.
        return done.returncode, done.stderr, sorted(made)

    names = ["plain", "plain3x", "r3f", "r3f-far", "r_drop"]
    if script == "run.sh":
        names = ["plain", "r3f"]
    assert run() == (0, "", names)
    assert run() == (0, "", [])
    assert (out / "plain-1.txt" if len(names) > 2 else out / "plain.txt").read_text()
    later = time.time() + 5
    os.utime(out / "r3f" / "seed1" / "checkpoint_best.pt", (later, later))
    assert run() == (0, "", ["r3f"])
    if script == "dialogsum.sh":
        status, said, made = run(START="new")
        assert (status, made) == (1, [])
        wanted = "'ENCODER models/e, START new, TABLES '"
        assert said == (
            f"error: {out}/model.txt does not say {wanted} of {out}/model: name "
            "another OUT\n"
        )


@pytest.mark.parametrize("name", ["cnn_dm", "gigaword", "reddit_tifu"])
def test_every_yaml_starts(
    models: dict[str, Path], tmp_path: Path, zygote: Zygote, name: str
) -> None:
    articles = [(f"w{i} w{i + 1} w{i + 2}", f"w{i}") for i in range(30)]
    data = tmp_path / "data"
    data.mkdir()
    if name == "reddit_tifu":
        rows = [{"selftext_without_tldr": a, "tldr": b} for a, b in articles]
        rows.append({"selftext_without_tldr": "w1", "tldr": None, "trimmed_title": "w"})
        lines = [json.dumps(row) for row in rows]
        (data / "tifu.json").write_text("\n".join(lines))
    for split in ("train", "valid") if name != "reddit_tifu" else ():
        if name == "cnn_dm":
            (data / split).mkdir()
            for number, pair in enumerate(articles):
                (data / split / f"{number}.story").write_text(story(*pair))
        for side, kind in enumerate(("article", "title") if name == "gigaword" else ()):
            text = "\n".join(pair[side] for pair in articles)
            (data / f"{split}.{kind}.txt").write_text(text)
    (done,) = zygote.run(
        [
            *("hydra", f"--config-dir={EXAMPLES}", f"--config-name={name}"),
            *(f"task.data={data}", f"task.steady_model={models['bart']}"),
            *("task.summarization_source_length=32", "task.summarization_decode=2"),
            *("task.summarization_target_length=16", "common.cpu=true"),
            *("task.summarization_min_length=0", "task.summarization_max_length=5"),
            *("optimization.max_update=1", "lr_scheduler.warmup_updates=0"),
            "common.log_format=json",
            *(f"checkpoint.save_dir={tmp_path}", f"hydra.run.dir={tmp_path}"),
        ]
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "num_updates: 1 >= max_update: 1" in done.stderr
    assert "rouge1" in done.stderr
    if name == "reddit_tifu":
        assert f"valid: {data / 'tifu.json'}: 3 articles" in done.stderr
        assert f"train: {data / 'tifu.json'}: 24 articles" in done.stderr
