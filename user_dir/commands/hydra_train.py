"""Train from YAML: fairseq-hydra-train with this plugin.

    fairseq-steady hydra-train --config-dir examples/hydra --config-name cola \\
        method=smart task.data=data/cola task.steady_model=models/minilm

DIR/NAME.yaml sets the values of flags by section; SECTION.NAME=VALUE after it sets one
more, for example optimization.max_epoch=3. Installed with pip, the examples are in
--config-dir "$(python -m fairseq_steady)/examples/hydra".
"""

import os
import sys
from collections.abc import Sequence

from .page import Page, page

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


def main(argv: Sequence[str] | None = None) -> int:
    """Train from YAML; flags as in fairseq-hydra-train."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    if words[:1] in (["-h"], ["--help"]):
        parser().print_help()
        return 0
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
