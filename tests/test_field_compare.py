"""Names and files that mean something to the next program, or are damaged."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import os
import shlex
import struct
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from fairseq_steady import escaping
from fairseq_steady.commands import get_data, submission
from fairseq_steady.comparison import (
    execution,
    figures,
    results,
    table,
    winner_card,
    worker,
)
from fairseq_steady.comparison.definitions import Definitions
from fairseq_steady.comparison.plan import Run
from fairseq_steady.comparison.results import Result
from fairseq_steady.comparison.significance import difference
from fairseq_steady.comparison.table import Scored
from fairseq_steady.errors import UserError
from fairseq_steady.files import own_file
from fairseq_steady.huggingface import model_card as exporting_card
from helpers import MCC, Instant, result, write_all
from markdown_it import MarkdownIt
from markdown_it.token import Token
from matplotlib import pyplot

EVIL = [
    "a|b", "<script>x</script>", "`code`", "[x](http://e.x)", "![i](http://e.x)",
    "*b*", "_b_", "a\nb", "&lt;", "\\", "https://e.x/y", "$a^b$", "x\n```\ny", "~~s~~",
    r"\input{x}", r"\write18{id}", "=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3",
    "\t=1", "[/]", "[bold]x", r"$\frac{$", ":smile:", "\x1b[31mred", "100 %", "{}#",
]  # fmt: skip


def stored(name: str) -> list[Result]:
    """Two methods, one of an evil name, on an evil machine."""
    made = [result("plain", s, v) for s, v in ((1, 0.25), (2, 0.5))]
    made += [result(name, s, v, machine=name) for s, v in ((1, 0.75), (2, 1.0))]
    return made


def tokens(markdown: str) -> Iterator[Token]:
    """What a reader of Markdown makes of a text."""

    def flat(found: list[Token]) -> Iterator[Token]:
        for token in found:
            yield token
            yield from flat(token.children or [])

    return flat(
        MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    )


# --- text that means something to the next program ----------------------------


@pytest.mark.parametrize("name", EVIL)
def test_a_name_is_text_in_markdown(name: str) -> None:
    text = table.markdown(table.tables(stored(name), MCC), table.definitions(MCC))
    found = list(tokens(text))
    kinds = {token.type for token in found}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "em_open"}
    assert not kinds & {"code_inline", "s_open", "fence"}
    first = [
        "".join(part.content for part in after.children or [])
        for before, after in itertools.pairwise(found)
        if before.type == "td_open"
    ]
    rows = [
        first[i : i + len(first) // 4] for i in range(0, len(first), len(first) // 4)
    ]
    assert [row[0] for row in rows] == ["plain", escaping.visible(name).strip()] * 2
    assert [row[1] for row in rows][:2] == ["0.375 ± 0.177", "0.875 ± 0.177"]


def test_plain_names_stay_as_they_are() -> None:
    for name in ("r_drop", "sift-far", "difference [95 %]", "p (Holm)", "é", "a, b"):
        assert escaping.markdown(name) == name
    assert escaping.markdown("<a|b>") == "&#60;a&#124;b&#62;"
    assert escaping.code("a`b``") == "``` a`b`` ```"


def test_a_name_is_text_in_latex() -> None:
    name = "\\input{x}$#^_~%&<"
    rows = [result(m, 1, 0.2, setting=name) for m in ("plain", name)]
    defined = Definitions(name, {name: name})
    text = table.latex(table.tables(rows, MCC), defined)
    safe = r"\textbackslash{}input\{x\}\$\#\^{}\_\textasciitilde{}\%\&\ensuremath{<}"
    assert text.count(safe) == 7  # two captions, a cell in each table, the end
    assert name not in text


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("--lr 1e-4", "'--lr 1e-4"),
        ("＝1", "'＝1"),
        ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"),
        ("-0.25", "-0.25"),
        ("+1e-05", "+1e-05"),
        ("-inf", "-inf"),
        ("-0.019 ± 0.016", "-0.019 ± 0.016"),
        ("+0.2 [-0.1, +0.4]", "+0.2 [-0.1, +0.4]"),
        ("a=1", "a=1"),
    ],
)
def test_no_cell_is_a_formula(tmp_path: Path, text: str, cell: str) -> None:
    table.write_csv(tmp_path / "x.csv", [{text: text}])
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [[cell], [cell]]


@pytest.mark.parametrize("name", ["[/]", "[bold]x", ":smile:", "\x1b[1m", "[red]"])
def test_the_console_shows_names_as_they_are(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = table.tables([result(name, 1, 0.5, setting=name)], MCC)
    table.show(made, Definitions(f"about {name}", {name: "a column"}))
    said = capsys.readouterr().out
    shown = escaping.visible(name)
    assert f"{shown}, mcc on valid" in said
    assert f"about {shown}\n{shown}: a column\n" in said
    assert f"\n│ {shown} " in said
    run = Run(name, name, 1, tmp_path, ("c",))
    execution.run_all([run], Instant(lambda _: 0.5))
    assert f"{shown} {shown} seed 1: ok" in capsys.readouterr().err


def test_a_crash_may_end_in_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with execution._progress() as progress:
        display = execution.Display(progress, 1, 0)
        run = Run("", "[/]", 1, Path("nowhere"), ("c",))
        display.update(run)
        display._show(display.lines[run.folder], "valid", {"valid_best_[/x]": 1})
        progress.refresh()
        display.finish(run, execution.crashed(run, "[/]\x1b[1m"))
    said = capsys.readouterr().err
    assert r"[/] seed 1: crashed: [/]\x1b[1m" in said


def test_pictures_take_no_text_for_tex(tmp_path: Path) -> None:
    names = (r"$\frac{$", "_hidden")
    made = [
        result(name, s, 0.1 * s, setting=r"$x^{$") for name in names for s in (1, 2)
    ]
    figures.draw(tmp_path / "x", made, MCC, figures.curves)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    figure, axis = pyplot.subplots()
    figures.curves(axis, made, MCC, "valid")
    labels = axis.get_legend_handles_labels()[1]
    pyplot.close(figure)
    assert [label.strip() for label in labels] == list(names)
    assert not pyplot.rcParams["text.usetex"]


@pytest.mark.parametrize("name", EVIL)
def test_a_card_holds_text_and_one_command(name: str) -> None:
    made = stored(name)
    made[-1].command = made[-2].command = ["fairseq-train", "--x", name, "b c"]
    made[-2].config = {
        **made[-2].config,
        "task": {"_name": name, "data": name, "steady_model": name},
    }
    text = winner_card.describe(made, MCC)
    assert "\x1b" not in text
    found = list(tokens(text))
    kinds = [token.type for token in found]
    assert not {"html_inline", "html_block", "link_open", "image"} & set(kinds)
    assert (kinds.count("fence"), kinds.count("heading_open")) == (1, 3)
    (block,) = [token.content for token in found if token.type == "fence"]
    if "\x1b" not in name:
        flags = made[-1].command[1:]
        assert shlex.split(block) == ["fairseq-steady", "train", *flags]
    shown = [token.content for token in found if token.type == "code_inline"]
    assert shown[:2] == [escaping.visible(name)] * 2


def test_a_command_for_bash_shows_what_a_terminal_would_obey() -> None:
    words = ["a\x1b[201~'\\", "é", "two words"]
    shown = escaping.command(words)
    assert shown == r"$'a\U0000001b[201~\'\\' 'é' 'two words'"
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {shown}"], capture_output=True, check=True
    )
    assert printed.stdout.decode().splitlines() == words


def test_an_exported_cards_header_is_the_manifests_words() -> None:
    licence = "mit\n---\n# Owned <b>\nmodel-index: [x]"
    manifest = SimpleNamespace(licence=licence, source={"name": "`<b>`"})
    directory = SimpleNamespace(manifest=manifest)
    original: Any = SimpleNamespace(
        directory=directory, task=None, checkpoint=None, purpose="Model", longest=9
    )
    card = exporting_card.model_card(original, False, "")
    start, header, body = card.split("---\n", 2)
    assert start == ""
    assert yaml.safe_load(header) == {
        "library_name": "transformers",
        "license": escaping.visible(licence),
    }
    said = "mit&#92;n---&#92;n# Owned &#60;b&#62;&#92;nmodel-index: [x]"
    lines = body.splitlines()
    assert lines[:3] == ["", f"Base model: `` `<b>` ``, licence: {said}.", ""]
    assert "Of a text 9 tokens are read; `truncation` cuts it there." in lines


def test_a_label_makes_no_column() -> None:
    found = SimpleNamespace(label="a\tb\n\\", score=None)
    assert submission.shown(found) == r"a\tb\n\\"  # type: ignore[arg-type]


# --- damaged results ----------------------------------------------------------


def changed(*path: str | int, to: Any) -> str:
    """A result.json with one field replaced."""
    content: Any = {**results.asdict(result("plain", 1, 0.1, 0.2))}
    content = json.loads(json.dumps(content))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return json.dumps(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[]", "the whole: input should be an object, not a list"),
        ("[" * 100_000, "is not JSON .*recursion limit"),
        (changed("seed", to="1"), "field 'seed': .* integer, not '1'"),
        (changed("status", to=3), "field 'status': .* string, not 3"),
        (changed("command", to="x"), "field 'command': .* array, not 'x'"),
        (changed("more", to=1), "there is no field 'more'"),
        (changed("seconds", to=math.nan), "field 'seconds': .* finite number, not nan"),
        (changed("peak_mb", to=-1), "field 'peak_mb': .*greater than or equal to 0"),
        (changed("versions", to=[1]), "field 'versions': .* object, not a list"),
        (changed("config", to={}), "field 'config.checkpoint' is missing"),
        (
            changed("config", "checkpoint", "best_checkpoint_metric", to=7),
            "field 'config.checkpoint.best_checkpoint_metric': .* string, not 7",
        ),
        (changed("config", "task", "data", to=None), "field 'config.task.data'"),
        (changed("evaluations", to=[]), "field 'evaluations': .* at least 1 item"),
        (changed("evaluations", 0, to=5), "field 'evaluations.0': .* not 5"),
        (changed("evaluations", 0, to={"updates": 1}), "evaluations.0': .* 2 items"),
        (changed("evaluations", 1, "updates", to="ten"), "evaluations.1.updates"),
        (
            changed("evaluations", 1, "valid", "mcc", to="high"),
            "field 'evaluations.1.valid.mcc': .* a valid number, not 'high'",
        ),
        (changed("evaluations", 0, "ood", "mcc", to=None), "ood.mcc.* not None"),
        (changed("predictions", "valid", "gold", to=["a"]), "predictions.valid.gold.0"),
        (changed("predictions", "valid", "gold", to=[]), "gold'.* at least 1 item"),
        (
            changed("predictions", "valid", "gold", to=[0, math.nan, 1]),
            "gold.1': input should be a finite number, not nan",
        ),
        (
            changed("predictions", "valid", "gold", to=[0, 1]),
            "field 'predictions.valid': 3 outputs of 2 gold answers",
        ),
        (
            changed("summaries", to={"v": {"scores": {"rouge1": [1]}, "gold": [1, 2]}}),
            "field 'summaries.v.scores.rouge1': 1 scores of 2 articles",
        ),
    ],
)
def test_a_damaged_result_names_file_and_field(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "result.json").write_text(content)
    run = Run("", "plain", 1, tmp_path, ("fairseq-train",))
    with pytest.raises(UserError, match=f"result.json.*{message}.*; remove it") as said:
        results.standing([run])
    assert "\n" not in str(said.value)


def test_a_result_under_another_name_is_of_another_plan(tmp_path: Path) -> None:
    results.write(tmp_path / "result.json", result("sift", 1, 0.5))
    with pytest.raises(UserError, match="is of another plan"):
        results.standing([Run("", "plain", 1, tmp_path, ("fairseq-train",))])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", "config.json: the whole: .* not a list"),
        ("config.json", '{"checkpoint": 3}', "config.json: field 'checkpoint'"),
        ("valid-1.json", "{}", "valid-1.json: field 'subset' is missing"),
        (
            "valid-1.json",
            '{"subset": "valid", "updates": 1, "metrics": {"mcc": "x"}}',
            "valid-1.json: field 'metrics.mcc': .* not 'x'",
        ),
    ],
)
def test_a_damaged_record_names_file_and_field(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        results.collect(Result("", "m", 1, ["fairseq-train"]), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "run.json: the whole: .* not a list"),
        ('{"setting": 1}', "run.json: field 'setting': .* not 1"),
        (
            '{"setting": "", "method": "m", "seed": 1, "command": ["sh", "-c", "id"],'
            ' "keep": false, "after": null}',
            "run.json: field 'command' starts with no program",
        ),
    ],
)
def test_a_damaged_task_names_file_and_field(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=message):
        worker.train(tmp_path)


def test_a_damaged_manifest_names_file_and_field(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"licence": ["x"], "architecture": {}}')
    with pytest.raises(
        UserError, match="manifest.json: field 'licence': .* not a list"
    ):
        winner_card._licence(str(tmp_path))


def test_other_lines_of_a_log_are_passed_over() -> None:
    def line(**values: object) -> str:
        return f"t | INFO | train_inner | {json.dumps(values)}"

    lines = [
        line(num_updates="x", ups=1, train_wall=1),
        line(ups=1),
        line(num_updates="5", ups="nan", train_wall="2"),
        line(num_updates=None, ups=[], train_wall={}),
        "t | INFO | train_inner | " + '{"a":' * 5000,
        line(num_updates="10", ups="4", train_wall="0"),
        line(num_updates="20", ups="4", train_wall="30"),
    ]
    assert results.seconds_per_update(lines) == 3.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, 'submitit refuses it .Could not detect "srun"'),
        ({"slurm_nothing": 1}, "submitit refuses it"),
    ],
)
def test_a_machine_without_slurm_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")  # which it sets for its jobs
    executor = execution.Slurm(1, settings)
    with pytest.raises(UserError, match=f"--slurm: {message}") as said:
        executor.start(Run("", "m", 1, tmp_path, ("c",)), 0)
    assert "\n" not in str(said.value)


def test_a_note_of_a_job_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("7; id")
    with pytest.raises(UserError, match="job names no SLURM job; remove it"):
        execution._job_id(tmp_path / "job")
    (tmp_path / "job").write_text("7_1\n")
    assert execution._job_id(tmp_path / "job") == "7_1"


# --- diverged runs ------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("larger", [True, False])
def test_what_is_no_number_is_never_best(
    tmp_path: Path, bad: float, larger: bool
) -> None:
    path = tmp_path / "result.json"
    results.write(path, result("plain", 1, bad, 0.25, 0.5, bad))
    kept = results.load(path)
    best = kept.best("valid", "mcc", larger)
    assert best["valid"]["mcc"] == (0.5 if larger else 0.25)
    lost = result("plain", 1, bad, bad).best("valid", "mcc", larger)
    assert lost["updates"] == 10


def test_a_diverged_run_counts_as_failed_and_spoils_the_mean() -> None:
    good = [result("plain", s, v) for s, v in ((1, 0.25), (2, 0.75), (3, 0.5))]
    lost = [result("lost", s, v) for s, v in ((1, 0.9), (2, math.nan), (3, 0.8))]
    plain, row = next(iter(table.tables([*good, *lost], MCC).values()))
    assert (plain["mean ± std"], plain["failed"]) == ("0.500 ± 0.250", "0")
    assert row["mean ± std"] == "nan"
    assert (row["median"], row["best"], row["n"]) == ("0.800", "0.900", "3 of 3")
    assert (row["failed"], row["difference [95 %]"], row["p (Holm)"]) == ("1", "", "")
    assert winner_card.winner([*good, *lost], MCC) == "plain"
    assert math.isnan(difference({1: 1.0, 2: math.nan}, {1: 0.0, 2: 0.0}).p)
    loss = Scored("mcc", False, "valid")
    _, row = next(iter(table.tables([*good, *lost], loss).values()))
    assert (row["median"], row["best"]) == ("0.900", "0.800")


# --- links in a folder of results ---------------------------------------------


@pytest.mark.parametrize("name", ["lock", "train.log"])
def test_no_link_is_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep")
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(UserError, match=f"{name} cannot be written"):
        own_file(tmp_path / name, "w")
    assert victim.read_text() == "keep"


def test_results_take_the_place_of_links(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep")
    out = tmp_path / "out"
    out.mkdir()
    names = ["runs.csv", "table.csv", "table.md", "table.tex", "x.png", "x.svg"]
    for name in [*names, "result.json"]:
        (out / name).symlink_to(victim)
    made = stored("b")
    write_all(out, made, MCC)
    figures.draw(out / "x", made, MCC, figures.boxes)
    results.write(out / "result.json", made[0])
    assert victim.read_text() == "keep"
    assert not any((out / name).is_symlink() for name in names)


# --- archives and downloads ---------------------------------------------------

FILES = {"one.txt": b"1" * 5000, "two.txt": b"2" * 300}


def zipped(form: str = "inner/{}", *more: tuple[str, bytes]) -> bytearray:
    """An archive of the files."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*more, *((form.format(n), d) for n, d in FILES.items())]:
            archive.writestr(name, data)
    return bytearray(made.getvalue())


def patched(local: int, central: int, value: int) -> bytes:
    """The archive with a field of its first member replaced."""
    raw = zipped()
    for mark, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        struct.pack_into("<H", raw, raw.index(mark) + offset, value)
    return bytes(raw)


def linked() -> bytes:
    """An archive whose members are links."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in FILES:
            member = zipfile.ZipInfo(name)
            member.external_attr = 0o120777 << 16
            archive.writestr(member, "/etc/passwd")
    return made.getvalue()


class Server(BaseHTTPRequestHandler):
    """Answers as ``answers`` says, one after the other, the last again and again."""

    answers: list[Callable[[Any], None]]

    def do_GET(self) -> None:
        answers = Server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_: Any) -> None:
        pass


def answer(body: bytes, status: int = 200, **headers: object) -> Callable[[Any], None]:
    def send(server: Any) -> None:
        server.send_response(status)
        given = {"Content_Length": len(body), **headers}
        for name, text in given.items():
            if text is not None:
                server.send_header(name.replace("_", "-"), str(text))
        server.end_headers()
        with contextlib.suppress(OSError):  # it has heard enough
            server.wfile.write(body)

    return send


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the files of ``cola`` are served, for this test."""
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    where = f"http://127.0.0.1:{server.server_port}/made.zip"
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    monkeypatch.setitem(
        get_data.SOURCES, "cola", get_data.Source(where, hashes, "none")
    )
    yield where
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (patched(14, 16, 7), "bad.zip, inner/one.txt is damaged .Bad CRC-32"),
        (patched(6, 8, 1), "inner/one.txt is encrypted; unpack it yourself"),
        (patched(8, 10, 99), "inner/one.txt is packed by method 99; unpack it"),
        (patched(8, 10, 14), "packed by method 14"),
        (bytes(zipped())[:100], "bad.zip is damaged .File is not a zip file"),
        (bytes(zipped()).replace(b"\x01", b"\x02"), "is damaged"),
        (linked(), "bad.zip, one.txt is a link"),
        (
            bytes(zipped("{}", ("a/one.txt", bytes(2**24 + 1)))),
            "a/one.txt is larger than 16 MiB",
        ),
        (bytes(zipped("inner/x{}")), "one.txt is missing in"),
        (b"", "one.txt is missing in"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # bytes hold the time
)
def test_a_damaged_archive_is_one_line(
    address: str, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(UserError, match=message) as said:
        get_data.get("cola", tmp_path / "out", tmp_path / "bad.zip")
    assert "\n" not in str(said.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["../../{}", "/{}", "a/../../{}", "{}"])
def test_an_archive_does_not_say_where_to(
    address: str, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [("../evil.txt", b"x"), ("big.bin", bytes(2**25))]  # not read at all
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(zipped(form, *more))
    monkeypatch.setattr(get_data, "_LARGEST", 2**16)
    get_data.get("cola", tmp_path / "in" / "out", tmp_path / "in" / "a.zip")
    assert {
        p.name: p.read_bytes() for p in (tmp_path / "in" / "out").iterdir()
    } == FILES
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert {p.name for p in (tmp_path / "in").iterdir()} == {"a.zip", "out"}


OTHER = bytes(zipped("x/{}")).replace(b"x/one.txt", b"x/two.txt")
BODY = bytes(zipped())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (answer(b"<html>no"), "that is no zip archive. What was downloaded is removed"),
        (answer(bytes(zipped("n{}"))), "one.txt is missing .* downloads it anew"),
        (answer(BODY[:-9]), "is damaged .* is removed, so the same command"),
        (answer(BODY[:99], Content_Length=len(BODY)), "broke off after 99 of .* again"),
        (answer(bytes(2**24 + 9)), "larger than 16 MiB"),
        (answer(b"", 302, Location="file:///etc/passwd"), "is not allowed"),
        (answer(b"", 302, Location="ftp://127.0.0.1:1/"), "unknown url type: ftp"),
        (answer(b"", 302, Location="/"), "answers 302"),
        (answer(b"", 404), "made.zip answers 404 Not Found"),
        (
            answer(b"zz\r\nno chunk", Transfer_Encoding="chunked", Content_Length=None),
            "cannot be reached, or broke off .IncompleteRead.* go on",
        ),
        (
            lambda server: server.wfile.write(b"\0garbage\r\n\r\n"),
            "broke off .*garbage",
        ),
    ],
)
def test_a_bad_answer_is_one_line_and_the_same_command_mends_it(
    address: str, tmp_path: Path, given: Callable[[Any], None], message: str
) -> None:
    Server.answers = [given]
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message) as said:
        get_data.get("cola", out, None)
    assert "\n" not in str(said.value)
    Server.answers = [answer(BODY)]  # as a server that ignores Range
    get_data.get("cola", out, None)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == FILES


@pytest.mark.parametrize(
    "given", [answer(BODY), answer(BODY, 206, Content_Range=f"bytes 0-{len(BODY)}/*")]
)
def test_a_server_that_does_not_go_on_is_read_from_its_start(
    address: str, tmp_path: Path, given: Callable[[Any], None]
) -> None:
    Server.answers = [given]
    (tmp_path / ".cola.part").write_bytes(b"a part of another file")
    get_data.get("cola", tmp_path, None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize("length", ["abc", "-5", None])
def test_a_length_that_is_none_does_not_matter(
    address: str, tmp_path: Path, length: str | None
) -> None:
    Server.answers = [answer(BODY, Content_Length=length)]
    get_data.get("cola", tmp_path, None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize("plant", ["link", "dangling", "hard link", "open"])
def test_a_part_that_is_not_ours_is_refused(
    address: str, tmp_path: Path, plant: str
) -> None:
    Server.answers = [answer(BODY)]
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("keep")
    part = out / ".cola.part"
    if plant == "open":
        part.touch()
        part.chmod(0o666)
    elif plant == "hard link":
        part.hardlink_to(victim)
    else:
        part.symlink_to(victim if plant == "link" else tmp_path / "new")
    with pytest.raises(UserError, match="cola.part is not a file of this program"):
        get_data.get("cola", out, None)
    assert victim.read_text() == "keep"
    assert sorted(os.listdir(out)) == [".cola.part"]
    assert not (tmp_path / "new").exists()


def test_files_take_the_place_of_links(address: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped())
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("keep")
    (out / "one.txt").symlink_to(victim)
    get_data.get("cola", out, tmp_path / "a.zip")
    assert victim.read_text() == "keep"
    assert (out / "one.txt").read_bytes() == FILES["one.txt"]


def test_an_out_that_is_a_file_is_one_line(address: str, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped())
    with pytest.raises(UserError, match="a.zip: File exists"):
        get_data.main(["cola", str(archive), "--from", str(archive)])
