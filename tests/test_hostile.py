"""Files made to run code: through every loader, none does, and each is refused by name.

The guard makes ``eval``, ``exec``, ``compile``, ``os.system`` and a new process fail at
the mark that every hostile string carries; the proof is a file that must not appear.
"""

import ast
import json
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TRAIN, Trainer, Zygote, make_model_directory
from fairseq_steady.errors import UserError
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.huggingface.release import import_fairseq
from fairseq_steady.inference.predicting import Predictor
from fairseq_steady.inference.probing import take_encoder
from fairseq_steady.inference.summarising import Summarizer
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.architectures import check_architecture
from fairseq_steady.patches.checkpoints import blaming, load_checkpoint
from fairseq_steady.patches.literals import EVALUATING, literal
from omegaconf import OmegaConf
from sources import make_release
from zygote import MARK, guard

State = dict[str, Any]


@pytest.fixture(autouse=True)
def guarded() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        guard(patch.setattr)
        yield


def payload(folder: Path) -> str:
    """An expression that proves it was evaluated."""
    return f"__import__('os').system('touch {folder / 'proof'}')  # {MARK}"


def proven(folder: Path) -> bool:
    return (folder / "proof").exists()


def test_the_guard_guards(tmp_path: Path) -> None:
    code = payload(tmp_path)
    with pytest.raises(AssertionError, match=MARK):
        eval(code)  # noqa: S307
    with pytest.raises(AssertionError, match=MARK):
        exec(code)  # noqa: S102
    with pytest.raises(AssertionError, match=MARK):
        compile(code, "x", "eval")
    with pytest.raises(AssertionError, match=MARK):
        subprocess.run(["true", code], check=True)
    assert not proven(tmp_path)


# --- literals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(0.9, 0.999)", (0.9, 0.999)),
        (" [1e-3, -2]", [1e-3, -2]),
        ("{'a': [1, None]}", {"a": [1, None]}),
        ("[(512, 3)] * 2 + [(8, 1)]", [(512, 3), (512, 3), (8, 1)]),
        ("2 * [True]", [True, True]),
        ("3 - 1", 2),
        (b"'a'", "a"),
    ],
)
def test_what_settings_are_is_read(text: str, value: Any) -> None:
    assert literal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("__import__('os')", "(lambda: 1)()", "[x for x in 'ab']", "f'{1}'", "a", ""),
        *("1; 2", "x := 1", "().__class__", "[].append", "print", "2 ** 99", "1 if 1"),
        *("[0] * 10 ** 9", "[0] * 99999", "'a' * 99999", "99999 * [0]", "(" * 5000),
        *("[0] * 9999 * 9999", "9" * 20 + " * 9", "1" * 20000, "1 @ 2", "'a' % 1"),
        "'" + "a" * 10_000 + "'",
    ],
)
def test_nothing_else_is_evaluated(text: str) -> None:
    with pytest.raises(UserError, match=r"is no literal: write numbers"):
        literal(text)


def test_what_eval_refuses_is_refused_alike() -> None:
    with pytest.raises(TypeError):  # fairseq's eval_bool relies on it
        literal(True)  # type: ignore[arg-type]


def test_every_module_of_fairseq_that_evaluates_has_it() -> None:
    import fairseq

    root, found = Path(fairseq.__file__).parent, set()
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] == "examples":  # programs of their own
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if is_evaluation(n)]
        if calls:
            found.add(".".join(("fairseq", *parts)).removesuffix(".__init__"))
    assert found == set(EVALUATING)
    import sys

    assert all(sys.modules[name].eval is literal for name in EVALUATING)  # type: ignore[attr-defined]


def is_evaluation(node: ast.AST) -> bool:
    names = ("eval", "exec", "compile", "__import__")
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Name) and called.id in names


# --- checkpoints ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(
    models: dict[str, Path],
    cola_data: Path,
    fairseq_train: Trainer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An honest checkpoint."""
    out = tmp_path_factory.mktemp("trained")
    flags = [cola_data, "--task=cola", f"--steady-model={models['roberta']}"]
    fairseq_train(*flags, "--max-update=1", f"--save-dir={out}")
    assert next(iter(Predictor(out / "checkpoint_last.pt")(["w0 w1"]))).label in "01"
    return out / "checkpoint_last.pt"


def set_model(**changes: Any) -> Callable[[State, str], None]:
    def change(state: State, code: str) -> None:
        made = {k: code if v is MARK else v for k, v in changes.items()}
        state["cfg"]["model"] = made

    return change


def set_described(state: State, code: str) -> None:
    model = state["cfg"]["model"]
    form = json.loads(model["architecture"])
    form["architecture"]["encoder_xformers_att_config"] = code
    model["architecture"] = json.dumps(form)


def set_value(state: State, code: str) -> None:
    model = state["cfg"]["model"]
    form = json.loads(model["architecture"])
    form["architecture"]["activation_fn"] = code
    model["architecture"] = json.dumps(form)


def set_args(**changes: Any) -> Callable[[State, str], None]:
    def change(state: State, code: str) -> None:
        made = {k: code if v is MARK else v for k, v in changes.items()}
        task = {**state["cfg"]["task"], "task": state["cfg"]["task"]["_name"]}
        state |= {"cfg": None, "args": Namespace(**{**task, **made})}

    return change


def set_meter(state: State, code: str) -> None:
    metrics = state["extra_state"]["metrics"]
    metrics["train"] = [(0, code, "exec", {}), *metrics.get("train", [])]


#: What is done to a checkpoint, and what is said of it where it is built from.
NO_FIELD = "there is no field 'encoder_xformers_att_config'"
WAYS: dict[str, tuple[Callable[[State, str], None], str]] = {
    "steady's architecture": (set_described, NO_FIELD),
    "steady's values": (set_value, "field 'activation_fn'"),
    "roberta": (
        set_model(_name="roberta_base", encoder_xformers_att_config=MARK),
        "is no literal",
    ),
    "bart's cutoff": (
        set_model(_name="bart_base", adaptive_softmax_cutoff=MARK),
        "is no literal|is of",
    ),
    "fconv": (
        set_model(_name="fconv", encoder_layers=MARK),
        "is of model 'fconv', which this plugin does not load",
    ),
    "no name": (set_model(_name=["steady"]), "names no model"),
    "old arguments": (
        set_args(arch="roberta_base", encoder_xformers_att_config=MARK),
        "is no literal",
    ),
    "old arguments of fconv": (
        set_args(arch="fconv", encoder_layers=MARK, decoder_layers=MARK),
        "is of model 'fconv'",
    ),
    "environment": (
        lambda state, _: state["cfg"]["task"].update(data="${oc.env:HOME}"),
        r"a setting is '\$\{oc.env:HOME\}', no value",
    ),
    "task": (
        lambda state, code: state["cfg"].update(
            task={"_name": "multilingual_translation", "left_pad_source": code}
        ),
        "is of task 'multilingual_translation'",
    ),
    "meter": (set_meter, "no kind of meter is 'exec'"),
}


def hostile(trained: Path, folder: Path, way: str) -> Path:
    state: State = torch.load(trained, weights_only=True)
    WAYS[way][0](state, payload(folder))
    path = folder / "checkpoint_last.pt"
    torch.save(state, path)
    return path


BUILDERS: dict[str, Callable[[Path, Path], Any]] = {
    "predict": lambda path, _: Predictor(path),
    "summarize": lambda path, _: Summarizer(path),
    "export": lambda path, folder: export_hf(path, folder / "out"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_hostile_checkpoint_is_refused_by_whatever_builds_it(
    trained: Path, tmp_path: Path, way: str
) -> None:
    path = hostile(trained, tmp_path, way)
    for name, build in BUILDERS.items():
        with pytest.raises(UserError, match=WAYS[way][1]):
            build(path, tmp_path)
        assert not proven(tmp_path), name
    assert not (tmp_path / "out").exists()


FLAGS = ("--restore-file", "--finetune-from-model", "--save-dir")


def train_from(
    trained: Path, folder: Path, way: str, flag: str, known: list[object]
) -> list[str]:
    """A command that goes on from, or starts at, a hostile checkpoint."""
    folder.mkdir()
    path = hostile(trained, folder, way)
    given = folder if flag == "--save-dir" else path
    words = ["guarded", "fairseq-train", *TRAIN, *known, "--max-update=1"]
    return [*map(str, words), f"--save-dir={folder / 'out'}", f"{flag}={given}"]


@pytest.mark.parametrize(
    "cases",
    [
        [(way, FLAGS[number % 3]) for number, way in enumerate(WAYS)],
        pytest.param(
            [(way, flag) for way in WAYS for flag in FLAGS], marks=pytest.mark.slow
        ),
    ],
    ids=["each way", "each way through each flag"],
)
def test_training_from_one_runs_no_code(
    trained: Path,
    models: dict[str, Path],
    cola_data: Path,
    tmp_path: Path,
    zygote: Zygote,
    cases: list[tuple[str, str]],
) -> None:
    """It builds nothing from a checkpoint but takes weights and state."""
    known = [cola_data, "--task=cola", f"--steady-model={models['roberta']}"]
    folders = [tmp_path / str(number) for number in range(len(cases))]
    commands = [
        train_from(trained, folder, *case, known)
        for folder, case in zip(folders, cases, strict=True)
    ]
    for start in range(0, len(commands), 4):
        for done in zygote.run(*commands[start : start + 4]):
            last = done.stderr.strip().splitlines()[-1]
            assert "Traceback" not in done.stderr, done.stderr[-2000:]
            assert done.returncode == 0 or last.startswith("error: "), last
    assert not any(map(proven, folders))


def test_a_checkpoint_of_another_tool_names_the_task_and_the_tool(
    trained: Path,
) -> None:
    said = (
        "is of task cola, not of summarization; fairseq-steady predict predicts with it"
    )
    with pytest.raises(UserError, match=said):
        Summarizer(trained)


def test_what_the_command_line_is_to_blame_for_is_not_the_checkpoints_fault() -> None:
    known = "Optimizer does not match; please reset the optimizer"
    with pytest.raises(AssertionError, match=known), blaming("a.pt"):
        raise AssertionError(known)
    with pytest.raises(UserError, match=r"a\.pt .*KeyError: 'x'"), blaming("a.pt"):
        raise KeyError("x")


def test_a_user_dir_that_a_checkpoint_names_is_not_imported(
    trained: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "evil"
    plugin.mkdir()
    code = f"open({str(tmp_path / 'proof')!r}, 'w')"
    (plugin / "__init__.py").write_text(code)
    state: State = torch.load(trained, weights_only=True)
    state["cfg"]["common"]["user_dir"] = str(plugin)
    torch.save(state, tmp_path / "a.pt")
    Predictor(tmp_path / "a.pt")
    assert not proven(tmp_path)


def test_a_probe_takes_weights_and_nothing_else(trained: Path, tmp_path: Path) -> None:
    path = hostile(trained, tmp_path, "meter")
    with pytest.raises(UserError, match="is in one of them only"):
        take_encoder(torch.nn.Linear(1, 1), str(path))
    assert not proven(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: [s], "the whole: input should be a valid dictionary, not a list"),
        (lambda s: {"a": 1}, "field 'model' is missing"),
        (lambda s: s | {"model": [1]}, "field 'model': .*not a list"),
        (lambda s: s | {"model": {"a": 1}}, "field 'model.a': .*Tensor, not 1"),
        (lambda s: s | {"model": {1: torch.ones(1)}}, "field 'model.1"),
        (lambda s: s | {"cfg": "x"}, "field 'cfg': .*not 'x'"),
        (lambda s: s | {"args": {"a": 1}}, "field 'args': .*Namespace"),
        (lambda s: s | {"optimizer_history": []}, "field 'optimizer_history'"),
        (lambda s: s | {"optimizer_history": [1]}, "field 'optimizer_history.0'"),
        (lambda s: s | {"optimizer_history": [{"num_updates": -1}]}, "num_updates"),
        (lambda s: s | {"extra_state": 3}, "field 'extra_state'"),
        (lambda s: s | {"extra_state": {"train_iterator": 3}}, "train_iterator"),
        (lambda s: s | {"extra_state": {"fairseq_steady": {"teacher": 1}}}, "teacher"),
        (lambda s: {"model": s["model"], "cfg": s["cfg"]}, "KeyError: 'best_loss'"),
        (lambda s: s | {"cfg": s["cfg"] | {"model": torch.ones(2)}}, "RuntimeError"),
        (lambda s: s | {"cfg": s["cfg"] | {"x": ["${oc.env:HOME}"]}}, "a setting is"),
        (lambda s: s | {"cfg": s["cfg"] | {"model": {"_name": "steady",
          "architecture": "{"}}}, "field 'cfg.model.architecture'"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_structure_names_the_field(
    trained: Path, tmp_path: Path, change: Callable[[State], Any], said: str
) -> None:
    path = tmp_path / "a.pt"
    torch.save(change(torch.load(trained, weights_only=True)), path)
    with pytest.raises(UserError, match=rf"a\.pt.*{said}.*write or download it again"):
        load_checkpoint(str(path))


def test_a_run_does_not_go_on_from_a_checkpoint_without_its_place(
    trained: Path, models: dict[str, Path], cola_data: Path, tmp_path: Path,
    fairseq_train: Trainer,
) -> None:  # fmt: skip
    state: State = torch.load(trained, weights_only=True)
    state["extra_state"]["train_iterator"] = None
    torch.save(state, tmp_path / "a.pt")
    done = fairseq_train(
        *(cola_data, "--task=cola", f"--steady-model={models['roberta']}", "--no-save"),
        f"--restore-file={tmp_path / 'a.pt'}",
        status=1,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert f"{tmp_path / 'a.pt'} cannot be made use of (TypeError: " in last


def test_a_model_directory_whose_name_no_file_can_have_is_not_there(
    trained: Path, tmp_path: Path
) -> None:
    state: State = torch.load(trained, weights_only=True)
    state["cfg"]["task"]["steady_model"] = "a" * 5000
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(
        UserError, match=r"aaa, which is not there; name it: --model DIR"
    ):
        Predictor(tmp_path / "a.pt")


@pytest.mark.parametrize("family", ["t5", None, ["roberta"]])
def test_a_family_that_is_none_is_refused(family: Any) -> None:
    with pytest.raises(UserError, match=r"model family .* is not one of: roberta, "):
        check_architecture(family, {}, "x")


# --- model directories and releases ---------------------------------------------------


def test_a_manifest_names_no_token_that_fairseq_has_not(tmp_path: Path) -> None:
    path = make_model_directory(tmp_path / "m").path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["special_tokens"]["<zzz>"] = "<s>"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"field 'special_tokens\.<zzz>.*, not '<zzz>'"):
        ModelDirectory.open(path.parent)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder_xformers_att_config": MARK}, NO_FIELD),
        ({"adaptive_softmax_cutoff": MARK}, "no field 'adaptive_softmax_cutoff'"),
        ({"encoder_layers": MARK}, "field 'encoder_layers': .*valid integer"),
        ({"activation_fn": MARK}, "field 'activation_fn'"),
        ({"encoder_layers_to_keep": MARK}, "field 'encoder_layers_to_keep'"),
        ({"encoder_layers": 10**9}, "field 'encoder_layers'"),
        ({"encoder_embed_dim": 10**5, "encoder_ffn_embed_dim": 10**5}, "larger than"),
        ({"encoder_attention_heads": 3}, "16 is not a multiple of .*heads 3"),
        ({"dropout": float("nan")}, "field 'dropout'"),
    ],
)
def test_a_hostile_manifest_is_refused_at_every_door(
    tmp_path: Path,
    cola_data: Path,
    zygote: Zygote,
    change: dict[str, Any],
    said: str,
) -> None:
    made = make_model_directory(tmp_path / "m").path
    manifest = json.loads((made / "manifest.json").read_text())
    code = payload(tmp_path)
    changed = {k: code if v is MARK else v for k, v in change.items()}
    manifest["architecture"] |= changed
    (made / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=said):
        export_hf(made, tmp_path / "out")
    words = ["guarded", "fairseq-train", *TRAIN, cola_data, "--task=cola"]
    (done,) = zygote.run([*map(str, words), f"--steady-model={made}"])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "manifest.json" in done.stderr.splitlines()[-1]
    assert not proven(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("secret 1\nsecret\n", ":2: not 'symbol count'"),
        ("secret x\n", ":1: not 'symbol count'"),
        ("secret\n", ":1: not 'symbol count'"),
        (" 1\n", ":1: not 'symbol count'"),
        ("a 1\n\nb 1\n", ":2: not 'symbol count'"),
        ("secret 1\nsecret 2\n", ":2: a symbol twice"),
        ("a 1 #fairseq:overwrite\n", ":1: not 'symbol count'"),
        ("secret \xb2\n", ":1: not 'symbol count'"),  # a digit that is no number
        (b"a 1\nsecret\xff 1\n", " is not UTF-8"),
    ],
)
def test_a_malformed_dictionary_names_the_line_and_shows_nothing(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    """It may be a link to a file that the user did not mean to show."""
    made = make_model_directory(tmp_path / "m")
    path, other = made.path / "dict.txt", tmp_path / "other"
    other.write_bytes(content.encode() if isinstance(content, str) else content)
    path.unlink()
    path.symlink_to(other)
    with pytest.raises(UserError) as caught:
        ModelDirectory.open(made.path).dictionary()
    assert str(caught.value) == f"{path}{said}; import the model again"


def test_weights_that_are_none_name_the_field(tmp_path: Path) -> None:
    made = make_model_directory(tmp_path / "m")
    made.manifest.files.clear()
    torch.save({"model": {"a": 1}}, made.path / "model.pt")
    with pytest.raises(
        UserError, match=r"model\.pt: field 'model\.a': .*not 1; import"
    ):
        made.weights()


def test_a_hostile_release_is_imported_without_it(tmp_path: Path) -> None:
    source = make_release(tmp_path / "large")
    state = torch.load(source / "model.pt", weights_only=True)
    vars(state["args"]).update(
        encoder_xformers_att_config=payload(tmp_path),
        adaptive_softmax_cutoff=payload(tmp_path),
    )
    torch.save(state, source / "model.pt")
    made = import_fairseq(source, source, tmp_path / "out")
    assert MARK not in (made.path / "manifest.json").read_text()
    assert not proven(tmp_path)


# --- YAML -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"hydra": {"callbacks": {"x": {"_target_": "subprocess.Popen"}}}}, "_target_"),
        ({"hydra": {"sweeper": {"_target_": "os.system"}}}, "sweeper._target_"),
        ({"hydra": {"job_logging": {"handlers": {"file": {"class": "os.system"}}}}},
         "handlers.file.class"),
        ({"hydra": {"job_logging": {"formatters": {"simple": {"()": "os.system"}}}}},
         "formatters.simple"),
        ({"hydra": {"job_logging": {"handlers": {"console": {"stream": "ext://a.b"}}}}},
         "console.stream"),
        ({"hydra": {"job": {"env_set": {"PYTHONPATH": "/x"}}}}, "env_set.PYTHONPATH"),
        ({"common": {"user_dir": "/x"}}, "common.user_dir: /x is code that a file"),
        ({"task": {"post_save_script": "x"}}, "task.post_save_script: x is code"),
    ],
)  # fmt: skip
def test_a_yaml_file_cannot_name_code(
    tmp_path: Path, zygote: Zygote, section: dict[str, Any], said: str
) -> None:
    example = OmegaConf.load(ROOT / "examples" / "hydra" / "cola.yaml")
    OmegaConf.save(OmegaConf.merge(example, section), tmp_path / "evil.yaml")
    method = tmp_path / "method"
    method.symlink_to(ROOT / "examples" / "hydra" / "method")
    words = ["hydra", f"--config-dir={tmp_path}", "--config-name=evil"]
    words += ["task.data=x", "task.steady_model=y", f"hydra.run.dir={tmp_path}"]
    (done,) = zygote.run(words)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
