"""Train from YAML: fairseq-hydra-train with this plugin.

    fairseq-steady hydra-train --config-dir examples/hydra --config-name cola \\
        method=smart task.data=data/cola task.steady_model=models/minilm

DIR/NAME.yaml sets the values of flags by section; SECTION.NAME=VALUE after it sets one
more, for example optimization.max_epoch=3. Installed with pip, the examples are in
--config-dir "$(python -m fairseq_steady)/examples/hydra".
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .page import Page, did_you_mean, page

USAGE = "--config-dir DIR --config-name NAME [SECTION.NAME=VALUE ...]"
OUT = """\
What each component takes: fairseq-steady list, with _ for - in YAML. Hydra's own
flags: fairseq-hydra-train --hydra-help.

what comes out:
  what fairseq-steady train leaves, and Hydra's record of the run in outputs/.
"""


def parser() -> Page:
    """The page of hydra-train."""
    return page("hydra-train", __doc__, USAGE, OUT)


def check_name(words: Sequence[str]) -> None:
    """Refuse a name without a file: fairseq would train with its own defaults.

    Raises:
        UserError: names the folder, and a file of like name.

    """
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("-cd", "--config-dir", type=Path)
    reader.add_argument("-cn", "--config-name", default="")
    given = reader.parse_known_args(words)[0]
    folder, name = given.config_dir, given.config_name.removesuffix(".yaml")
    if folder is None or (name and (folder / f"{name}.yaml").is_file()):
        return
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder} is not a folder")
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if not name:
        raise UserError(f"--config-name is missing; {folder} has: {', '.join(known)}")
    advice = did_you_mean(name, known, f"it has: {', '.join(known)}")
    raise UserError(f"--config-dir {folder} has no {name}.yaml; {advice}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train from YAML; flags as in fairseq-hydra-train."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    if words[:1] in (["-h"], ["--help"]):
        parser().print_help()
        return 0
    if not words:
        parser().error("--config-dir and --config-name are missing")
    check_name(words)
    sys.argv = ["fairseq-hydra-train", *words]  # Hydra reads it from there
    # Without it Hydra prints its own digest of an error and hides the message.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    from fairseq_cli.hydra_train import cli_main

    # fairseq composes its configuration before it imports a user dir, so a plugin's
    # names are unknown to it unless the plugin is there first.
    from .. import tasks as plugin  # noqa: F401  registers everything
    from ..patches import YAML, install

    install(YAML)
    cli_main()
    return 0
