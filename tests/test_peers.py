"""The benchmark beside other libraries, on a tiny model."""

import argparse
import csv
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, make_model_directory, sentences
from fairseq_steady.comparison.reading import refusal
from method_table import METHODS

sys.path.append(str(ROOT / "scripts" / "benchmarks"))
import peers


@pytest.fixture(autouse=True)
def has_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that is made for it."""
    monkeypatch.setattr(peers, "unsupported", lambda _: "")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model with a layer of three, and a text."""
    base = tmp_path_factory.mktemp("peers")
    model = make_model_directory(base / "model", encoder_layers=3).path
    (base / "text").write_text("".join(f"{line}\n" for line, _ in sentences(40)))
    return [str(model), str(base / "text")]


@pytest.fixture
def run(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def started(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["peers.py", *paths, *flags])
        monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
        peers.main()

    return started


def bench_of(paths: list[str], folder: Path, **given: Any) -> Any:
    """What the parts measure with."""
    peers.export_hf(paths[0], folder / "export")
    model, text = map(Path, paths)
    models = peers.Models.load(model, folder / "export", "cpu")
    tensors = peers.inputs(peers.ModelDirectory.open(model), text, 40)
    args = argparse.Namespace(model=model, text=text, device="cpu", **given)
    return peers.Bench(args, models, tensors, folder / "export", folder, [0])


@pytest.fixture
def counted(paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sentences that each update of a criterion's first turn passes, and their mean."""
    bench = bench_of(paths, tmp_path)
    models = bench.models
    found: list[int] = []
    models.ours.register_forward_pre_hook(
        lambda _, args, kwargs: found.__setitem__(-1, found[-1] + size(args, kwargs)),
        with_kwargs=True,
    )

    def size(args: Any, kwargs: Any) -> int:
        return len(args[0] if args else kwargs["src_tokens"])

    def seconds(loss: Any, model: Any) -> float:
        found.append(0)
        loss().backward()
        return float(found[-1])

    def turn(name: str, number: int) -> tuple[list[int], float]:
        found.clear()
        monkeypatch.setattr(peers, "seconds", seconds)
        contender = peers.contenders(models, [name])[name]
        mean = contender.seconds(bench.batch(40), number)
        return [*found], mean

    return turn


def test_a_turn_has_a_cycle_of_updates(counted: Any) -> None:
    assert counted("plain", 0) == ([40], 40)
    assert counted("smart", 0) == ([120], 120)
    assert counted("smart, every 4", 3) == ([120, 40, 40, 40], 60)
    assert counted("smart, cache 8", 3) == ([120, 80], (120 + 8 * 80) / 9)
    # Again: nothing is left of the turn before.
    assert counted("smart, cache 8", 3)[0] == [120, 80]
    some, mean = counted("smart, fraction 1/4", 0)
    extra = [passed - 40 for passed in some]
    assert len({*extra}) > 1
    assert all(0 < two < 40 and two % 2 == 0 for two in extra)
    assert mean == 40 + sum(extra) / 4
    both, mean = counted("smart, cache 8, fraction 1/4", 0)
    one, again, other, anew = (passed - 40 for passed in both)
    assert (one, other) == (2 * again, 2 * anew)
    assert one != other
    assert mean == pytest.approx(40 + (one + other + 8 * (again + anew)) / 18)


def test_every_criterion_stands_beside_its_peers(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "Before\n<!-- batch -->\n<!-- end -->\nbetween\n"
        "<!-- growth -->\nold\n<!-- end -->\nafter\n"
    )
    flags = ["--part", "batch", "growth", "--rounds=1", "--sentences=8"]
    run(*flags, "--out", str(tmp_path))
    printed, text = capsys.readouterr().out, readme.read_text()
    with (tmp_path / "batch.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row[""] for row in rows]
    wanted = {
        *METHODS,
        "transformers",
        "transformers, bf16",
        "fairseq",
        "fairseq's r3f",
    }
    assert wanted <= {*names}
    assert {"r3f, stop-gradient perturbed", "sift, cache 8", "smart, bf16"} <= {*names}
    found = {row[""]: row for row in rows}
    assert (
        found["plain"]["x plain"] == found["transformers"]["x transformers"] == "1.00"
    )
    assert found["smart, cache 8, fraction 1/4"]["passes alone"] == "1.27"
    assert found["r3f, every 4"]["passes alone"] == "1.25"
    # Both tables, where they belong, and what stands around them.
    before, table, between, growth, after = _parts(text)
    assert (before, between, after) == ("Before\n", "\nbetween\n", "\nafter\n")
    assert peers.table(rows) in table
    assert table.strip() in printed
    assert "old" not in growth
    assert "](growth.png)" in growth
    assert "| layers | 3 |" in growth
    assert "| tokens | 64 |" not in growth  # the model has 32 positions
    assert str(tmp_path) not in text
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    run("--part", "batch", "--only", "hype", "--rounds=1", "--out", str(tmp_path))
    again = _parts(readme.read_text())
    shown = [line.split(" | ")[0] for line in again[1].splitlines() if "|" in line]
    assert shown == ["| ", "| ---", "| plain", "| hype", "| transformers"]
    assert again[::2] == (before, between, after)


def _parts(text: str) -> tuple[str, str, str, str, str]:
    """What stands before, in, between and after the two blocks."""
    before, rest = text.split("<!-- batch -->")
    table, rest = rest.split("<!-- end -->", 1)
    between, rest = rest.split("<!-- growth -->")
    growth, after = rest.split("<!-- end -->")
    return before, table, between, growth, after


def test_other_logits_are_no_peers(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: Any) -> Any:
        copied = peers.copy.deepcopy(model)
        copied.classification_heads[peers.HEAD].out_proj.bias.data += 1
        return copied

    monkeypatch.setattr(peers, "_fairseqs", other)
    with pytest.raises(peers.UserError, match="differ by 1: nothing to time"):
        run("--part", "batch")


def test_fairseqs_own_has_no_layer_of_ours(paths: list[str]) -> None:
    model, _ = peers.load(Path(paths[0]))
    kinds = {type(part).__module__ for part in peers._fairseqs(model).modules()}
    assert not [kind for kind in kinds if kind.startswith("fairseq_steady")]
    assert [p for p in model.modules() if "fairseq_steady" in type(p).__module__]


def test_both_trainings_have_the_same_settings(
    paths: list[str], tmp_path: Path
) -> None:
    sizes = {"epochs": 2, "epoch_sentences": 20, "sentences": 4}
    bench = bench_of(paths, tmp_path, **sizes)
    peers.write_data(bench, tmp_path)
    train, valid = (
        (tmp_path / f"{name}.tsv").read_text().splitlines()
        for name in ("train", "valid")
    )
    first, last = (sentences(40)[i][0] for i in (0, -1))
    assert (len(train), len(valid)) == (21, 11)
    assert (train[:2], valid[-1]) == (["text\tlabel", f"{first}\t0"], f"{last}\t1")
    theirs, *ours = peers.runs(bench, tmp_path).values()
    for command in ours:
        assert refusal(command[1:]) is None
        assert {"--max-epoch=2", "--warmup-updates=1", "--clip-norm=1"} <= {*command}
        assert {"--batch-size=4", "--lr=5e-05"} <= {*command} & {*theirs}
    assert {"--epochs=2", "--warmup=1"} <= {*theirs}


def test_where_bf16_is_slow_it_is_left_out(
    paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(paths, tmp_path, epochs=1, epoch_sentences=8, sentences=4)

    def halved() -> list[str]:
        names = [*peers.contenders(bench.models, ["*"]), *peers.runs(bench, tmp_path)]
        return [name for name in names if "bf16" in name]

    both = ["plain, bf16", "sift, bf16", "smart, bf16", "transformers, bf16"]
    assert halved() == [*both, "fairseq-train, plain, bf16"]
    monkeypatch.setattr(peers, "unsupported", lambda _: "this CPU has neither")
    assert halved() == []


def test_the_readme_shows_the_tables() -> None:
    folder = ROOT / "examples" / "benchmark"
    text, found = (folder / "README.md").read_text(), [*folder.glob("*.csv")]
    assert folder / "batch.csv" in found
    for path in found:
        assert path.stem in peers.PARTS
        with path.open(newline="") as file:
            assert peers.table(list(csv.DictReader(file))) in text
