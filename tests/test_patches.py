"""The table of what is changed: it is the whole truth, and making it twice is once."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, environment
from fairseq import utils
from fairseq_steady.patches import TRAINING, table
from fairseq_steady.patches.change import Change, Row, Setting, put

#: Prints what of each module of fairseq's, Hydra's, torch's and Python's own is
#: another thing after the changes, and whether making them again changes anything.
COMPARE = """
import atexit, json, logging, signal, sys, types, warnings
import fairseq.trainer, fairseq_cli.train, fairseq_cli.hydra_train, torch
from fairseq import utils
import fairseq_steady.models.architectures
from fairseq_steady.patches import YAML, install, literals
for name in literals.EVALUATING:
    __import__(name)
HOMES = ("fairseq", "fairseq_cli", "hydra", "omegaconf", "torch", "argparse", "signal",
         "logging", "warnings", "pickle", "os", "sys", "json", "builtins")

#: By what is in them, below.
JUDGED = ("warnings:filters", "torch._weights_only_unpickler:_marked_safe_globals_set")

def snapshot():
    found = {}
    for name, module in list(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or name.split(".")[0] not in HOMES:
            continue
        for key, value in list(vars(module).items()):
            name = module.__name__  # fairseq has two names for some
            found[f"{name}:{key}"] = value
            if isinstance(value, type) and value.__module__ == name:
                for inner, attribute in list(vars(value).items()):
                    found[f"{name}:{key}.{inner}"] = attribute
    return found

at_exit = []
atexit.register = at_exit.append
atexit.unregister = lambda one: at_exit.remove(one) if one in at_exit else None

def state():
    return {
        "torch.serialization:add_safe_globals":
            len(torch.serialization.get_safe_globals()),
        "atexit:register": [one.__name__ for one in at_exit],
        "warnings:filters": [str(f) for f in warnings.filters],
        "fairseq.utils:import_user_module":
            len(getattr(utils.import_user_module, "memo", ())),
        "logging:root": (logging.root.level, logging.root.handlers[:]),
        "logging:fairseq_cli.train":
            logging.getLogger("fairseq_cli.train").filters[:],
        "signal:SIGTERM": signal.getsignal(signal.SIGTERM),
        "torch.backends.cuda:enable_cudnn_sdp": torch.backends.cuda.cudnn_sdp_enabled(),
    }

def differing(before, after):
    return sorted(k for k in {**before, **after}
                  if before.get(k) is not after.get(k) and k not in JUDGED)

import fairseq_steady.patches.table
modules, states = snapshot(), state()
install(), install(YAML)
once, then = snapshot(), state()
install(), install(YAML)
answer = [differing(modules, once), [k for k in then if then[k] != states[k]],
          differing(once, snapshot()), [k for k in then if then[k] != state()[k]]]
print(json.dumps(answer))
"""


def python(code: str) -> Any:
    """Run code in a fresh process; what its last line says in JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def real(where: str) -> str:
    """``module:attribute`` as the attribute's own module has it."""
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    home = module if isinstance(owner, ModuleType) else owner.__module__
    return f"{home}:{'.'.join([*classes, name])}"


def test_everything_that_is_replaced_is_in_the_table_and_twice_is_once() -> None:
    replaced, settings, again, settings_again = python(COMPARE)
    changes = [row for row in table.TABLE if isinstance(row, Change)]
    on_import = {real(row.where) for row in changes if row.when != TRAINING}
    assert {*replaced} == on_import | {"sys:excepthook"}
    known = {row.where for row in table.TABLE if isinstance(row, Setting)}
    assert {*settings} == known - {"sys:excepthook", "signal:SIGTERM, SIGUSR1"}
    assert again == settings_again == []


def test_a_link_to_the_checkout_and_the_checkout_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported through a link, --user-dir with the folder itself imports no second."""
    link, memo = tmp_path / "fairseq_steady", {"another"}
    link.symlink_to(ROOT / "user_dir")
    monkeypatch.setattr(utils.import_user_module, "memo", memo, raising=False)
    monkeypatch.setattr(table, "__file__", str(link / "patches" / "table.py"))
    table.claim()
    expected = {"another", str(link), str(ROOT / "user_dir")}
    assert utils.import_user_module.memo == expected


def test_every_row_says_why_and_every_replaced_source_is_known() -> None:
    for row in table.TABLE:
        assert re.fullmatch(r"[A-Zfgt].{10,}\.", row.why), row.where
        module = row.where.partition(":")[0]
        is_source = module.startswith(("fairseq", "hydra")) and not row.where.endswith(
            (":eval", ":DistributedDataParallel")
        )
        assert bool(re.fullmatch(r"[0-9a-f]{12}", row.digest)) == is_source, row.where
    assert not [row.where for row in table.TABLE if row.differs()]


def test_another_source_is_said_in_one_line_and_training_goes_on() -> None:
    """A state_dict that is written otherwise, and a class that is gone."""
    code = """
import json, linecache, logging
import fairseq.trainer, fairseq.data.iterators, fairseq_steady.patches.table
from fairseq_steady.patches import install
said = []
logging.getLogger().addHandler(type("H", (logging.Handler,), {
    "emit": lambda self, record: said.append(record.getMessage())})())
path = fairseq.trainer.__file__
lines = [line.replace("# legacy", "# as ever") for line in
         linecache.getlines(path)]
linecache.cache[path] = (1, None, lines, path)
linecache.checkcache = lambda *_: None
del fairseq.data.iterators.BackgroundConsumer
install(), install()
ours = hasattr(fairseq.trainer.Trainer.state_dict, "_fairseq_steady")
print(json.dumps([ours, [one for one in said if "plugin" in one]]))
"""
    ours, said = python(code)
    assert ours
    assert said[:1] == [
        "not as this plugin knows it: fairseq.trainer:Trainer.state_dict, "
        "fairseq.data.iterators:BackgroundConsumer.__init__; it was written for "
        "fairseq-fixed 0.12.3.1, and goes on"
    ]


def test_a_private_name_that_is_gone_differs() -> None:
    assert not Row("torch.distributed.distributed_c10d:_world", "").differs()
    assert Row("torch.distributed.distributed_c10d:_gone", "").differs()
    assert Row("fairseq.trainer:Trainer._gone", "", digest="0" * 12).differs()
    # What is not imported yet is judged where it is needed.
    assert not Row("fairseq_cli.nothing:x", "", when="later").differs()


def test_what_runs_as_the_program_is_judged_and_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As under ``python -m fairseq_cli.train``."""
    program = SimpleNamespace(
        __spec__=SimpleNamespace(name="fairseq_cli.train"), validate_and_save=len
    )
    monkeypatch.setitem(sys.modules, "__main__", program)
    name = "fairseq_cli.train:validate_and_save"
    (loop,) = [row for row in table.TABLE if row.where == name]
    assert loop.differs()  # len is not what fairseq has there


def test_a_replacement_is_put_once_and_stays_static() -> None:
    class Owner:
        @staticmethod
        def method(number: int) -> int:
            return number

    def twice(original: Any) -> Any:
        return lambda number: 2 * original(number)

    for _ in range(2):
        put(Owner, "method", twice)
    assert Owner.method(3) == Owner().method(3) == 6


def test_the_readme_holds_the_table() -> None:
    readme = (ROOT / "user_dir" / "patches" / "README.md").read_text()
    assert table.markdown() in readme
