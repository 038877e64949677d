"""Train from YAML: fairseq-hydra-train with this plugin.

    fairseq-steady hydra-train --config-dir examples/hydra --config-name cola \
        task.data=cola_public task.steady_model=models/minilm

DIR/NAME.yaml sets the values of flags by section; SECTION.NAME=VALUE after it sets one
more, for example optimization.max_epoch=[1]. What each component takes:
fairseq-steady list. Hydra's own flags: fairseq-hydra-train --hydra-help.
"""

import os
import sys

from ..patches.later import sklearn_later


def main() -> None:
    """Train from YAML; flags as in fairseq-hydra-train."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(str(__doc__).strip())
        return
    # Without it Hydra prints its own digest of an error and hides the message.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with sklearn_later():
        from fairseq_cli.hydra_train import cli_main

    # fairseq composes its configuration before it imports a user dir, so a plugin's
    # names are unknown to it unless the plugin is there first.
    from .. import tasks as plugin  # noqa: F401  registers everything
    from ..patches import YAML, install

    install(YAML)
    cli_main()
