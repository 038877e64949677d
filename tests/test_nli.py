"""SNLI, SciTail, ANLI and XNLI: official files in, a score of each part out."""

import hashlib
import io
import json
import logging
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Trainer, Zygote
from fairseq_steady.commands import get_data
from fairseq_steady.commands.predict import read_texts
from fairseq_steady.comparison.results import Result
from fairseq_steady.comparison.table import Scored, tables
from fairseq_steady.data.layouts import find_parts, find_split, read_split
from fairseq_steady.data.nli import LAYOUTS, mnli_train, of_file
from fairseq_steady.errors import UserError
from fairseq_steady.scores.groups import group_counts, group_scores
from fairseq_steady.tasks._heads import glue_head
from fairseq_steady.tasks.nli import NliConfig, NliTask
from helpers import logged, result, train_on_workers
from sklearn.metrics import accuracy_score

E, N, C = "entailment", "neutral", "contradiction"
#: A quote that never closes is text.
QUOTED = 'w1 "w2 w3'
SNLI_TXT = (
    "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2\tcaptionID\tpairID\tlabel1\tlabel2\tlabel3\t"
    "label4\tlabel5"
)
XNLI_TSV = (
    "language\tgold_label\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tpromptID\tpairID\tgenre\t"
    "label1\tlabel2\tlabel3\tlabel4\tlabel5\tsentence1_tokenized\tsentence2_tokenized\t"
    "match"
)
MNLI = "index\tsentence1\tsentence2\tlabel1\tgold_label"


def lines(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def cells(header: str, **given: str) -> str:
    """A row of a TSV; other columns are filled."""
    return "\t".join(given.get(name, "x") for name in header.split("\t"))


def xnli(*rows: tuple[str, str, str, str]) -> str:
    """Rows of XNLI's TSV: language, premise, hypothesis, label."""
    names = ("language", "sentence1", "sentence2", "gold_label")
    own = [cells(XNLI_TSV, **dict(zip(names, row, strict=True))) for row in rows]
    return "\n".join([XNLI_TSV, *own, ""])


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def snli(label: str) -> dict[str, Any]:
    return {"gold_label": label, "sentence1": QUOTED, "sentence2": "w4 w5"}


def plain(label: str) -> dict[str, Any]:
    return {"premise": QUOTED, "hypothesis": "w4 w5", "label": label}


def anli(label: str) -> dict[str, Any]:
    return {"uid": "0", "context": QUOTED, "hypothesis": "w4 w5", "label": label}


PAIR = {"sentence1": QUOTED, "sentence2": "w4 w5"}
#: Of each official form: task, file, text and the labels that come out.
OFFICIAL = {
    "snli jsonl": (
        *("snli", "snli_1.0/snli_1.0_dev.jsonl", lines(snli(E), snli(N), snli(C))),
        [E, N, C],
    ),
    "snli txt, one annotator and five": (
        "snli",
        "snli_1.0_dev.txt",
        "\n".join(
            [
                SNLI_TXT,
                cells(SNLI_TXT, gold_label=N, **PAIR).removesuffix("\tx" * 4),
                cells(SNLI_TXT, gold_label=C, **PAIR),
            ]
        ),
        [N, C],
    ),
    "snli as plain rows": ("snli", "dev.jsonl", lines(plain(C), plain(E)), [C, E]),
    "scitail": (
        "scitail",
        "SciTailV1.1/tsv_format/scitail_1.0_dev.tsv",
        f"{QUOTED}\tw4 w5\tentails\n{QUOTED}\tw4 w5\tneutral\n",
        ["entails", "neutral"],
    ),
    "anli": (
        *("anli", "anli_v1.0/R2/dev.jsonl", lines(anli("e"), anli("n"), anli("c"))),
        [E, N, C],
    ),
    "xnli tsv": (
        *("xnli", "XNLI-1.0/xnli.dev.tsv"),
        xnli(("en", QUOTED, "w4 w5", C), ("en", QUOTED, "w4 w5", N)),
        [C, N],
    ),
    "xnli jsonl": (
        *("xnli", "xnli.dev.jsonl"),
        lines({"language": "en"} | snli(C), {"language": "en"} | snli(E)),
        [C, E],
    ),
    "xnli as a folder a language": (
        *("xnli", "en/dev.jsonl", lines(plain(N))),
        [N],
    ),
}


@pytest.mark.parametrize("form", OFFICIAL)
def test_official_files_are_read(tmp_path: Path, own_cache: Path, form: str) -> None:
    task, file, text, labels = OFFICIAL[form]
    path, layout = write(tmp_path / file, text), LAYOUTS[task]
    if layout.parts:
        rounds = ["r2"] if task == "anli" else []
        (found,) = find_parts(tmp_path, layout, "valid", rounds, None, "").values()
    else:
        found = find_split(tmp_path, layout, "valid"), ""
    assert found[0] == path
    read = list(read_split(found[0], layout, found[1]))
    assert [(one.texts, one.label) for one in read] == [
        ((QUOTED, "w4 w5"), label) for label in labels
    ]


def test_rows_without_agreement_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unsaid = snli("-") | {"sentence2": ""}
    path = write(tmp_path / "dev.jsonl", lines(snli(E), unsaid, unsaid, snli(C)))
    with caplog.at_level(logging.WARNING):
        found = list(read_split(path, LAYOUTS["snli"]))
    assert [(one.label, one.line) for one in found] == [(E, 1), (C, 4)]
    assert caplog.messages == [
        f"{path}: 2 of 4 rows have the label '-', which stands for no label, and are "
        "left out"
    ]


LANGUAGES = xnli(
    ("ur", "w1", "w2", N), ("en", "w3", "w4", E), ("ur", "w5", "w6", C),
    ("ar", "w7", "w8", N),
)  # fmt: skip


def test_one_file_holds_every_language(tmp_path: Path, own_cache: Path) -> None:
    path, layout = write(tmp_path / "xnli.test.tsv", LANGUAGES), LAYOUTS["xnli"]
    every = find_parts(tmp_path, layout, "test", [], None, "")
    assert list(every.items()) == [(k, (path, k)) for k in ("ar", "en", "ur")]
    assert list(find_parts(tmp_path, layout, "test", ["ur", "ar"], None, "")) == [
        *("ur", "ar")
    ]
    found = {name: list(read_split(path, layout, name)) for name in every}
    assert [(one.texts, one.label, one.line) for one in found["ur"]] == [
        (("w1", "w2"), N, 2),
        (("w5", "w6"), C, 4),
    ]
    assert [len(rows) for rows in found.values()] == [1, 1, 2]
    assert len(list(read_split(path, layout))) == 4
    path = write(tmp_path / "a.tsv", re.sub("(w[78])", r'"\1 ""w9"""', LANGUAGES))
    (one,) = read_split(path, of_file(path, layout, quoted=True), "ar")
    assert one.texts == ('w7 "w9"', 'w8 "w9"')


def test_mnli_trains_in_every_form_and_language(tmp_path: Path) -> None:
    layout = LAYOUTS["xnli"]
    glue = write(
        tmp_path / "glue/MNLI/train.tsv",
        f"{MNLI}\n" + cells(MNLI, gold_label=C, **PAIR) + "\n",
    )
    translated = f"premise\thypo\tlabel\n{QUOTED}\tw4 w5\tcontradictory\n"
    urdu = write(tmp_path / "mt/XNLI-MT-1.0/multinli/multinli.train.ur.tsv", translated)
    own = write(
        tmp_path / "multinli_1.0/multinli_1.0_train.jsonl", lines(snli("-"), snli(C))
    )
    found = {
        mnli_train(tmp_path / "glue", "en"): glue,
        mnli_train(tmp_path / "glue/MNLI", "en"): glue,
        mnli_train(tmp_path / "mt", "ur"): urdu,
        mnli_train(urdu.parent, "ur"): urdu,
        mnli_train(tmp_path, "en"): own,
    }
    for path, wanted in found.items():
        assert path == wanted
        (row,) = read_split(path, of_file(path, layout))
        assert (row.texts, row.label) == ((QUOTED, "w4 w5"), C)


#: What is broken: task, file, text, and what is said of it; PART: of which part.
BROKEN = {
    "a label of another data set": (
        *("snli", "dev.jsonl", lines(snli(E), snli("hidden"))),
        "dev.jsonl:2: label 'hidden' is none of: contradiction, neutral, entailment "
        "(or c, n, e, contradictory); mend the row",
    ),
    "the numbers of classes": (
        *("snli", "dev.jsonl", lines(snli(E) | {"gold_label": 2})),
        "dev.jsonl:1: label '2' is none of: contradiction, neutral, entailment (or c, "
        "n, e, contradictory); mend the row",
    ),
    "no agreement at all": (
        *("snli", "dev.jsonl", lines(snli("-"), snli("-"))),
        "dev.jsonl: all 2 rows have the label '-', which stands for no label; get the "
        "file again",
    ),
    "a column missing in all": (
        *("snli", "dev.jsonl", lines({"sentence1": "w1", "gold_label": E})),
        "dev.jsonl:1: no column 'sentence2|hypothesis|hypo' among: sentence1, "
        "gold_label; is this the file of another task, or without its header?",
    ),
    "a column missing in one": (
        *("snli", "dev.jsonl", lines(snli(E), {"sentence1": "w1", "gold_label": E})),
        "dev.jsonl:2: no column 'sentence2' among: sentence1, gold_label; mend the "
        "row, or get the file again",
    ),
    "a line cut off": (
        *("snli", "dev.jsonl", lines(snli(E)) + '{"gold_label": "neut'),
        'dev.jsonl:2: \'{"gold_label": "neut\' is not a JSON object; mend the line; '
        "it should be one whole object",
    ),
    "no sentence": (
        *("anli", "dev.jsonl", lines(anli("e") | {"hypothesis": " "})),
        "dev.jsonl:1: an empty sentence; remove the row or fill it",
    ),
    "a row cut off": (
        "snli",
        "snli_1.0_dev.txt",
        f"{SNLI_TXT}\n" + cells(SNLI_TXT, gold_label=N).removesuffix("\tx" * 6),
        "snli_1.0_dev.txt:2: 8 columns where the header has 14; mend the row's "
        "separators",
    ),
    "no header": (
        *("snli", "dev.tsv", "neutral\tw1\tw2\nneutral\tw3\tw4\n"),
        "dev.tsv:1: no column 'sentence1|premise|context' among: neutral, w1, w2; is "
        "this the file of another task, or without its header?",
    ),
    "a header where there is none": (
        *("scitail", "scitail_1.0_dev.tsv", "premise\thypothesis\tlabel\n"),
        "scitail_1.0_dev.tsv:1: label 'label' is none of: neutral, entails (or "
        "entailment); mend the row, or remove it if it is a header: this file has none",
    ),
    "a tab too few": (
        *("scitail", "scitail_1.0_dev.tsv", "w1\tw2\tneutral\nw1 w2\tneutral\n"),
        "scitail_1.0_dev.tsv:2: 2 tab-separated columns in 'w1 w2\\tneutral'; there "
        "should be 3",
    ),
    "three classes for two": (
        *("scitail", "dev.jsonl", lines(snli(E), snli(C))),
        "dev.jsonl:2: label 'contradiction' is none of: neutral, entails (or "
        "entailment); mend the row",
    ),
    "a dash that is a label of nobody": (
        *("xnli", "train.tsv", "premise\thypo\tlabel\nw1\tw2\t—\n"),
        "train.tsv:2: label '—' is none of: contradiction, neutral, entailment (or c, "
        "n, e, contradictory); mend the row",
    ),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_bad_rows_are_one_line(tmp_path: Path, problem: str) -> None:
    task, file, text, message = BROKEN[problem]
    path = write(tmp_path / file, text)
    with pytest.raises(UserError) as caught:
        list(read_split(path, LAYOUTS[task]))
    assert str(caught.value) == f"{tmp_path}/{message}"


#: What is asked of parts that are not there: task, file, text, wanted, message.
PARTLESS = {
    "a language that is not in the file": (
        *("xnli", "xnli.test.tsv", LANGUAGES, ["en", "sw"]),
        "/xnli.test.tsv has no language 'sw'; choose from ur, en, ar",
    ),
    "two files, one after the other": (
        *("xnli", "xnli.test.tsv", LANGUAGES + xnli(("enn", "w1", "w2", N))),
        [],
        "/xnli.test.tsv:6: the header again; are these two files, one after the "
        "other? remove the line",
    ),
    "a language misspelt in a row": (
        *("xnli", "xnli.test.tsv", xnli(("en", "w", "w", N), ("enn", "w", "w", N))),
        [],
        "/xnli.test.tsv:3: language 'enn' is none of: ar, bg, de, el, en, es, fr, hi, "
        "ru, sw, th, tr, ur, vi, zh; mend the row",
    ),
    "a language left empty": (
        *("xnli", "xnli.test.jsonl", lines({"language": " "} | snli(E)), []),
        "/xnli.test.jsonl:1: language '' is none of: ar, bg, de, el, en, es, fr, hi, "
        "ru, sw, th, tr, ur, vi, zh; mend the row",
    ),
    "rows of no language": (
        *("xnli", "test.jsonl", lines(plain(E)), []),
        "/test.jsonl does not say which language its rows are of; name the folder "
        "that holds a folder for each, as ar",
    ),
    "a round's own folder": (
        *("anli", "test.jsonl", lines(anli("e")), []),
        "/test.jsonl does not say which round its rows are of; name the folder that "
        "holds a folder for each, as r1",
    ),
    "a folder without rounds": (
        *("anli", "README", "", []),
        " has no test.jsonl for the split 'test', nor has a folder of a round in it "
        "(r1, r2, r3); MEND",
    ),
    "a round that is not there": (
        *("anli", "R1/test.jsonl", lines(anli("e")), ["r2"]),
        ", split 'test', has no round 'r2'; choose from r1",
    ),
    "a round that nobody left out": (
        *("anli", "R1/test.jsonl", lines(anli("e")), []),
        ", split 'test', has no round 'r2'; get it, or with --nli-rounds choose from "
        "r1",
    ),
}


@pytest.mark.parametrize("problem", PARTLESS)
def test_parts_that_are_not_there_are_one_line(
    tmp_path: Path, own_cache: Path, problem: str
) -> None:
    task, file, text, wanted, message = PARTLESS[problem]
    write(tmp_path / file, text)
    with pytest.raises(UserError) as caught:
        find_parts(tmp_path, LAYOUTS[task], "test", wanted, None, "MEND")
    assert str(caught.value) == f"{tmp_path}{message}"


def test_a_copy_beside_the_parts_is_none_of_them(tmp_path: Path) -> None:
    for name in ("en", "backup", "my"):
        write(tmp_path / name / "dev.jsonl", lines(row(0)))

    def names(*wanted: str) -> list[str]:
        return [*find_parts(tmp_path, LAYOUTS["xnli"], "valid", wanted, None, "")]

    assert names() == ["en"]
    assert names("my", "en") == ["my", "en"]
    shutil.rmtree(tmp_path / "en")
    assert names() == ["backup", "my"]


# --- scores of parts ------------------------------------------------------------------


def test_scores_of_groups_are_scikit_learns() -> None:
    """Of any batches, added up; a group without a sentence spoils nothing."""
    rng = np.random.default_rng(0)
    given, gold = rng.integers(0, 3, (2, 200))
    group = rng.integers(0, 3, 200)
    group[group == 1] = 3
    sums = sum(
        group_counts(*map(torch.from_numpy, batch), 4, 3)["_groups"]
        for batch in zip(
            *(np.split(x, [50, 51]) for x in (given, gold, group)), strict=True
        )
    )
    assert tuple(sums.shape) == (4, 3, 3)
    found = group_scores(sums, ["a", "b", "c", "d"])
    wanted = [accuracy_score(gold[group == g], given[group == g]) for g in (0, 2, 3)]
    assert [found["a"], found["c"], found["d"]] == wanted
    assert np.isnan(found["b"])
    assert found["worst"] == min(wanted)
    assert found["mean"] == pytest.approx(np.mean(wanted), abs=1e-15)


def row(number: int, word: str = "w1") -> dict[str, Any]:
    label = (E, N, C)[number % 3]
    return {
        "premise": f"{word} w{number}",
        "hypothesis": f"w{number % 7} w9 " * 2,
        "label": label,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """XNLI as a folder a language, of different sizes, and a file to train on."""
    data = tmp_path_factory.mktemp("xnli")
    for language, count in (("en", 11), ("sw", 5), ("ur", 7)):
        rows = [row(n, f"w{count}") for n in range(count)]
        write(data / language / "dev.jsonl", lines(*rows))
    write(data / "more" / "mine.jsonl", lines(*(row(n) for n in range(24))))
    return data


def flags(models: dict[str, Path], data: Path, *more: object) -> list[object]:
    return [
        *(data, "--task=nli", f"--steady-model={models['roberta']}", "--max-update=4"),
        *more,
    ]


def test_every_language_is_scored_recorded_and_picks_checkpoints(
    models: dict[str, Path], folder: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    done = fairseq_train(
        *flags(models, folder, "--nli-task=xnli", "--nli-languages=ur,en"),
        *(f"--nli-train={folder}/more/mine.jsonl", "--max-epoch=2"),
        *("--valid-subset=valid,valid.sw", f"--steady-record={tmp_path}/record"),
        *("--best-checkpoint-metric=accuracy_ur", f"--save-dir={tmp_path}/out"),
    )
    kept = json.loads((tmp_path / "record/valid-3.json").read_text())
    assert kept["groups"] == ["ur", "en"]
    assert kept["group"] == [0] * 7 + [1] * 11
    given = np.argmax(kept["outputs"], axis=1)
    gold, group = np.array(kept["gold"]), np.array(kept["group"])
    assert gold.tolist() == [(2, 1, 0)[n % 3] for n in (*range(7), *range(11))]
    of = [accuracy_score(gold[group == g], given[group == g]) for g in (0, 1)]
    names = ("accuracy_ur", "accuracy_en", "accuracy_worst")
    found = [kept["metrics"][name] for name in names]
    assert found == [*of, min(of)]
    assert kept["metrics"]["accuracy_mean"] == pytest.approx(np.mean(of), abs=1e-15)
    said = logged(done, "valid")
    assert float(said[0]["valid_accuracy_worst"]) == pytest.approx(min(of), abs=1e-5)
    best = max(float(one["valid_accuracy_ur"]) for one in said)
    assert float(said[-1]["valid_best_accuracy_ur"]) == best
    swahili = logged(done, "valid.sw")[-1]
    assert "valid.sw_accuracy_worst" in swahili
    assert "valid.sw_accuracy_ur" not in swahili  # it picks by the first subset


@pytest.mark.parametrize(
    ("subset", "metric", "there"),
    [
        ("valid", "accuracy_sw", "_ur, accuracy_en, accuracy_mean, accuracy_worst"),
        ("mine", "accuracy_worst", ""),
    ],
)
def test_a_group_that_is_not_there_picks_no_checkpoints(
    models: dict[str, Path],
    folder: Path,
    fairseq_train: Trainer,
    subset: str,
    metric: str,
    there: str,
) -> None:
    done = fairseq_train(
        *flags(models, folder, "--nli-task=xnli", "--nli-languages=ur,en"),
        *(f"--nli-train={folder}/more/mine.jsonl", f"--valid-subset={subset}"),
        f"--steady-also=mine={folder}/more/mine.jsonl",
        f"--best-checkpoint-metric={metric}",
        status=1,
    )
    known = f"accuracy, accuracy{there}" if there else "accuracy"
    said = f"{metric} is nothing that evaluations of {subset} log; choose from {known}"
    assert done.stderr.splitlines()[-1].endswith(said)
    assert "train_inner" not in done.stderr


def test_uneven_workers_score_groups_as_one_process(
    models: dict[str, Path],
    folder: Path,
    tmp_path: Path,
    fairseq_train: Trainer,
    zygote: Zygote,
) -> None:
    """23 sentences in batches of 8 leave one worker a batch short."""
    common = [
        *flags(models, folder, "--nli-task=xnli", "--lr=1e-9", "--no-save"),
        f"--nli-train={folder}/more/mine.jsonl",
        *("--max-update=1", "--optimizer=sgd"),
    ]
    wanted = logged(fairseq_train(*common), "valid")[-1]
    first = train_on_workers(zygote, *common)[0]
    (found,) = logged(CompletedProcess([], 0, "", first), "valid")
    names = [n for n in wanted if n.startswith("valid_accuracy_")]
    assert len(names) == 5
    assert [found[name] for name in names] == [wanted[name] for name in names]
    assert len({wanted[name] for name in names}) > 1


def test_other_sets_are_subsets_and_what_is_seen_twice_is_remarked(
    models: dict[str, Path], folder: Path, tmp_path: Path, fairseq_train: Trainer
) -> None:
    """--steady-also takes every form of this task, languages and all."""
    path = folder / "en" / "dev.jsonl"
    same = folder / "ur" / ".." / "en" / "dev.jsonl"
    far = write(tmp_path / "far.jsonl", lines(*(anli(x) for x in "enc")))
    quoted = re.sub("w([78])", r'"w\1 ""w9"""', LANGUAGES)
    many = write(tmp_path / "many.tsv", quoted)
    done = fairseq_train(
        *flags(models, folder, "--nli-task=xnli", f"--nli-train={same}", "--no-save"),
        *(f"--steady-also=far={far},many={many}", "--steady-quoted-tsv"),
    )
    said = " is trained on and evaluated on, as valid: its scores say nothing"
    assert done.stderr.count(f"{path}{said}") + done.stderr.count(f"{same}{said}") == 1
    assert done.stderr.count("is trained on and") == 1
    one, other = (logged(done, name)[-1] for name in ("far", "many"))
    assert float(one["far_accuracy"]) * 3 == pytest.approx(1, abs=1e-4)
    assert "far_accuracy_mean" not in one
    assert {n for n in other if "accuracy_" in n} >= {
        *("many_accuracy_ar", "many_accuracy_en", "many_accuracy_ur")
    }


def task(models: dict[str, Path], data: Path, **given: Any) -> NliTask:
    cfg = NliConfig(data=str(data), steady_model=str(models["roberta"]), **given)
    return NliTask.setup_task(cfg)  # type: ignore[return-value]


def ids(made: NliTask, *texts: str) -> list[int]:
    (found,), _ = made.tokenizer.encode([texts])
    return found.tolist()  # type: ignore[no-any-return]


def test_halves_keep_translations_together(
    models: dict[str, Path], tmp_path: Path, own_cache: Path
) -> None:
    """And the groups of both: sentence n of a language is that of the others."""
    for language in ("en", "ur"):
        rows = [row(n, "w1 " * (n + 1)) for n in range(20)]
        write(tmp_path / "data" / language / "dev.jsonl", lines(*rows))
    made = task(models, tmp_path / "data", nli_task="xnli", steady_split_dev=True)
    halves = [made.read(split) for split in ("valid", "test")]
    assert halves[0].take(np.array([12, 3])).groups.tolist() == [1, 0]
    for half in halves:
        assert half.groups is not None
        of = [half.tokens.sizes[half.groups == g].tolist() for g in (0, 1)]
        assert of[0] == of[1]
        assert len(of[0]) == 10
    one = made.read("test.ur")
    assert (one.names, one.tokens.sizes.tolist()) == (("ur",), of[1])


def test_training_sets_are_put_together(
    models: dict[str, Path], tmp_path: Path, own_cache: Path
) -> None:
    """XNLI zero-shot from its own English and a file; rounds of ANLI and a file."""
    file = write(tmp_path / "mine.jsonl", lines(*(row(n) for n in range(4))))
    path = write(tmp_path / "x" / "xnli.dev.tsv", LANGUAGES)
    given = {"nli_task": "xnli", "nli_train": f"{path}, {file}"}
    made = task(models, path.parent, **given)
    assert made.read("train").targets.tolist() == [2, 2, 1, 0, 2]
    assert made.columns == ["sentence1", "sentence2"]
    given["nli_train_languages"] = "ur,ar"
    whole = task(models, path.parent, **given).read("train")
    assert whole.targets.tolist() == [1, 0, 1, 2, 1, 0, 2]
    assert whole.tokens[6].tolist() == ids(made, "w1 w3", "w3 w9 w3 w9")
    assert whole.take(np.array([6, 0])).tokens[1].tolist() == ids(made, "w1", "w2")
    for name, labels in (("R1", "ec"), ("R2", "n"), ("R3", "eee")):
        rows = [anli(label) for label in labels]
        write(tmp_path / "a" / name / "train.jsonl", lines(*rows))
    given = {"nli_task": "anli", "nli_train": f"own,{file}", "nli_rounds": "r2,r1"}
    made = task(models, tmp_path / "a", **given)
    assert made.columns == ["context", "hypothesis"]
    assert list(made.heads().values()) == [glue_head("mnli")]  # goes on from it
    whole = made.read("train")
    assert whole.targets.tolist() == [1, 2, 0, 2, 1, 0, 2]
    assert whole.tokens.sizes[:3].tolist() == [8, 8, 8]
    assert whole.groups is None
    for again in (
        f"{file},own,{file}",
        f"own,{tmp_path / 'a' / '..' / 'mine.jsonl'},{file}",
    ):
        with pytest.raises(UserError, match="mine.jsonl twice; name each once"):
            task(models, tmp_path / "a", nli_task="anli", nli_train=again).read("train")


def test_own_training_sets_are_read_in_the_languages_to_train_on(
    models: dict[str, Path], tmp_path: Path, own_cache: Path
) -> None:
    for place, language in enumerate(("en", "fr", "ur"), 1):
        rows = [row(n, f"w{place}") for n in range(3)]
        write(tmp_path / "x" / language / "train.jsonl", lines(*rows))
    given = {"nli_task": "xnli", "nli_train": "own", "nli_languages": "ur"}
    first = task(models, tmp_path / "x", **given).read("train")
    assert len(first) == 3
    made = task(models, tmp_path / "x", nli_train_languages="ur,en", **given)
    both = made.read("train")
    assert len(both) == 6
    assert both.tokens[3].tolist() == first.tokens[0].tolist()
    assert both.tokens[0].tolist() != first.tokens[0].tolist()


def test_what_is_cached_is_known_by_its_columns_and_quotes(
    models: dict[str, Path], tmp_path: Path, own_cache: Path
) -> None:
    rows = [
        {**plain(E), "premise": "w1", "context": "w2 w3"},
        plain(N) | {"context": "w2"},
    ]
    file = write(tmp_path / "both.jsonl", lines(*rows))
    found = [
        task(models, tmp_path, nli_task=name, steady_also=f"o={file}")._read_any("o")[0]
        for name in ("snli", "anli", "snli")
    ]
    assert [one.tokens.sizes[0] for one in found] == [6, 7, 6]
    write(tmp_path / "dev.tsv", f'premise\thypothesis\tlabel\n"w1 ""w2"""\tw3\t{E}\n')
    for quoted, words in (
        (False, '"w1 ""w2"""'),
        (True, 'w1 "w2"'),
        (False, '"w1 ""w2"""'),
    ):
        made = task(models, tmp_path, nli_task="snli", steady_quoted_tsv=quoted)
        assert made.read("valid").tokens[0].tolist() == ids(made, words, "w3")


def test_mnlis_own_file_is_not_quoted_where_further_files_are(
    models: dict[str, Path], tmp_path: Path, own_cache: Path
) -> None:
    row = {"sentence1": '"w1," w2', "sentence2": "w3", "gold_label": C}
    write(tmp_path / "MNLI/train.tsv", f"{MNLI}\n{cells(MNLI, **row)}\n")
    plain = f'premise\thypothesis\tlabel\n"w1 ""w2"""\tw3\t{E}\n'
    further = write(tmp_path / "further/test.tsv", plain)
    made = task(
        *(models, tmp_path),
        nli_task="snli",
        nli_train=str(tmp_path),
        steady_also=f"o={further}",
        steady_quoted_tsv=True,
    )
    assert made.read("train").tokens[0].tolist() == ids(made, '"w1," w2', "w3")
    found, _ = made._read_any("o")
    assert found.tokens[0].tolist() == ids(made, 'w1 "w2"', "w3")
    write(tmp_path / "xnli.dev.tsv", xnli(("en", '"w1," w2', "w3", N)))
    made = task(
        *(models, tmp_path),
        nli_task="xnli",
        nli_languages="en",
        steady_also=f"o={further}",
        steady_quoted_tsv=True,
    )
    assert made.read("valid").tokens[0].tolist() == ids(made, '"w1," w2', "w3")


def test_classes_of_further_files_may_have_other_names(
    models: dict[str, Path], tmp_path: Path, own_cache: Path
) -> None:
    """Each file still reads as its own data set does."""
    far = write(tmp_path / "far.jsonl", lines(*(anli(x) for x in "enc")))
    own = write(tmp_path / "own.jsonl", lines(snli("-"), snli("ENT"), snli(C)))
    science = write(
        tmp_path / "scitail_1.0_dev.tsv", "w1\tw2\tentails\nw1\tw2\tneutral\n"
    )
    made = task(
        *(models, tmp_path),
        nli_task="snli",
        steady_also=f"far={far},own={own},science={science}",
        steady_also_labels=f"entails={E},ENT={E}",
    )
    found = {name: made._read_any(name)[0].targets.tolist() for name in made.also}
    assert found == {"far": [2, 1, 0], "own": [2, 0], "science": [2, 1]}


def test_a_checkpoint_is_asked_about_any_of_these_files(
    models: dict[str, Path], tmp_path: Path
) -> None:
    made = task(models, tmp_path, nli_task="snli")
    for name, rows in (("a", [plain(E)]), ("b", [snli(E)]), ("c", [anli("e")])):
        path = write(tmp_path / f"{name}.jsonl", lines(*rows))
        found = list(read_texts(path, made.columns, aliases=made.aliases))
        assert found == [(QUOTED, "w4 w5")]
    path = write(tmp_path / "d.jsonl", lines({"text": "w1"}))
    with pytest.raises(UserError, match="no column 'sentence1' among: text"):
        list(read_texts(path, made.columns, aliases=made.aliases))


#: Flags that cannot be meant, and what is said.
MISTAKES = {
    "languages of what has none": (
        {"nli_task": "snli", "nli_train_languages": "fr"},
        "--nli-train-languages fr is for --nli-task xnli, or for sets that --nli-train "
        "names; leave it out",
    ),
    "no data set": ({}, "--nli-task is missing; choose from snli, scitail, anli, xnli"),
    "languages of rounds": (
        {"nli_task": "anli", "nli_languages": "en"},
        "--nli-languages en is for --nli-task xnli; leave it out",
    ),
    "a language twice": (
        {"nli_task": "xnli", "nli_languages": "en,en"},
        "--nli-languages en,en: name each once, with commas between",
    ),
    "no language": (
        {"nli_task": "xnli", "nli_train_languages": ""},
        "--nli-train-languages : name each once, with commas between",
    ),
    "an unknown split": (
        {"nli_task": "anli", "split": "dev"},
        "nli has no split 'dev' of anli; choose from train, valid, test, or one round "
        "as test.r2",
    ),
    "a part of what has none": (
        {"nli_task": "snli", "split": "valid.en"},
        "nli has no split 'valid.en' of snli; choose from train, valid, test",
    ),
    "no training set": (
        {"nli_task": "snli", "split": "train"},
        "DATA has no snli_1.0_train.jsonl or snli_1.0_train.txt or train.jsonl or "
        "train.tsv for the split 'train'; name the folder of snli_1.0, as get-data "
        "snli makes it, or train on other labelled files: --nli-train FILE",
    ),
    "no rounds to train on": (
        {"nli_task": "anli", "split": "train"},
        "DATA has no train.jsonl for the split 'train', nor has a folder of a round in "
        "it (r1, r2, r3); name the folder of anli_v1.0, as get-data anli makes it, or "
        "train on other labelled files: --nli-train FILE",
    ),
    "no MNLI": (
        {"nli_task": "xnli", "split": "train"},
        "DATA has no training set of MNLI in 'en' (multinli.train.en.tsv, train.tsv, "
        "multinli_1.0_train.jsonl, multinli_1.0_train.txt); name with --nli-train the "
        "folder of GLUE, MNLI or XNLI-MT, or other labelled files",
    ),
    "no translation": (
        {"nli_task": "xnli", "split": "train", "nli_train_languages": "ur"},
        "DATA has no training set of MNLI in 'ur' (multinli.train.ur.tsv); name with "
        "--nli-train the folder of GLUE, MNLI or XNLI-MT, or other labelled files",
    ),
    "no such file": (
        {"nli_task": "snli", "split": "train", "nli_train": "own.jsonl"},
        "--nli-train: there is no file or folder 'own.jsonl'; name one, or choose from "
        "own and mnli",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_flags_are_one_line(
    models: dict[str, Path], tmp_path: Path, mistake: str
) -> None:
    given, message = MISTAKES[mistake]
    split = given.get("split", "valid")
    flags: dict[str, Any] = {k: v for k, v in given.items() if k != "split"}
    with pytest.raises(UserError) as caught:
        task(models, tmp_path, **flags).read(split)
    assert str(caught.value) == message.replace("DATA", str(tmp_path))


def test_tables_of_a_comparison_show_every_group() -> None:
    def run(method: str, seed: int, ur: float) -> Result:
        scores = {"accuracy": 0.5, "accuracy_en": 0.75, "accuracy_ur": ur}
        one: Any = {"updates": 1, "valid": scores, "plain": {"accuracy": 0.5}}
        return result(method, seed, evaluations=[one], predictions={})

    runs = [run("plain", 1, 0.25), run("plain", 2, 0.5), run("r3f", 1, 0.125)]
    scored = Scored("accuracy", True, "valid")
    made = {str(title): rows for title, rows in tables(runs, scored).items()}
    assert list(made) == [
        *("accuracy on valid", "accuracy by group on valid", "accuracy on plain")
    ]
    assert made["accuracy by group on valid"] == [
        {"method": "plain", "en": "0.750 ± 0.000", "ur": "0.375 ± 0.177"},
        {"method": "r3f", "en": "0.750", "ur": "0.125"},
    ]
    # One that diverged spoils its means, as those of the whole; one that crashed not.
    runs += [
        result("r3f", 2, status="diverged: loss", evaluations=[]),
        result("plain", 3, status="crashed: rain", evaluations=[]),
    ]
    found = {str(title): rows for title, rows in tables(runs, scored).items()}
    plain, r3f = found["accuracy by group on valid"]
    assert plain == made["accuracy by group on valid"][0]
    assert r3f == {"method": "r3f", "en": "nan", "ur": "nan"}


# --- the archives ---------------------------------------------------------------------


PUBLISHED = dict(get_data.ARCHIVES)
MADE = {
    "__MACOSX/anli_v1.0/R1/._dev.jsonl": b"no",
    "anli_v1.0/README": b"no",
    "anli_v1.0/R2/dev.jsonl": b"two",
    "anli_v1.0/R1/dev.jsonl": b"one",
}


def zipped(files: Mapping[str, bytes] = MADE) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


class Server(BaseHTTPRequestHandler):
    """Breaks off its first answer, and goes on from there."""

    content = b""
    asked: list[str | None]

    def do_GET(self) -> None:
        start = self.headers.get("Range")
        self.asked.append(start)
        body = self.content[int(start[6:-1]) if start else 0 :]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if start else body[:99])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def anli_archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """What is served for ANLI, in this test."""
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    Server.content, Server.asked = zipped(), []
    source = get_data.Archive(
        f"http://127.0.0.1:{server.server_port}/anli_v1.0.zip",
        len(Server.content),
        hashlib.sha256(Server.content).hexdigest(),
        ("R1/dev.jsonl", "R2/dev.jsonl"),
        "none",
    )
    monkeypatch.setitem(get_data.ARCHIVES, "anli", source)
    yield Server.content
    server.shutdown()
    server.server_close()


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_an_archive_is_fetched_checked_and_unpacked(
    anli_archive: bytes, tmp_path: Path
) -> None:
    out, wanted = tmp_path / "out", {"R1/dev.jsonl": b"one", "R2/dev.jsonl": b"two"}
    with pytest.raises(UserError, match="broke off after 99 of"):
        get_data.main(["anli", str(out)])
    assert get_data.main(["anli", str(out)]) == 0
    assert files_of(out) == wanted
    assert get_data.main(["anli", str(out)]) == 0
    assert Server.asked == [None, "bytes=99-"]
    (tmp_path / "a.zip").write_bytes(anli_archive)
    get_data.main(["anli", str(tmp_path / "b"), f"--from={tmp_path}/a.zip"])
    assert files_of(tmp_path / "b") == wanted


SHORT = {name: data for name, data in MADE.items() if "R2" not in name}


@pytest.mark.parametrize(
    ("content", "change", "message"),
    [
        (zipped() + b"x", {}, "is not the published archive: {more} bytes instead of"),
        (zipped(MADE | {"x": b"1"}), {"size": 0}, "{digest} instead of "),
        (zipped(SHORT), {"digest": ""}, "R2/dev.jsonl is missing in "),
        (b"<html>", {}, "is no zip archive; name anli_v1.0.zip, or use the folder"),
    ],
    ids=["size", "digest", "member", "form"],  # bytes hold the time
)
def test_another_archive_is_one_line(
    anli_archive: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    change: dict[str, Any],
    message: str,
) -> None:
    if change:
        own = replace(get_data.ARCHIVES["anli"], **change | {"size": len(content)})
        monkeypatch.setitem(get_data.ARCHIVES, "anli", own)
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    said = message.format(more=len(content), digest=digest)
    with pytest.raises(UserError, match=re.escape(said)):
        get_data.main(["anli", str(tmp_path / "out"), f"--from={path}"])
    assert not (tmp_path / "out" / "R2").exists()


def test_a_digest_that_is_not_known_is_shown(
    anli_archive: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(anli_archive)
    get_data.check_archive(replace(get_data.ARCHIVES["anli"], digest=""), path)
    digest = hashlib.sha256(anli_archive).hexdigest()
    said = f"{path}: sha256 {digest}, not known and not checked\n"
    assert capsys.readouterr().err == said
    assert [name for name, one in PUBLISHED.items() if not one.digest] == ["scitail"]
