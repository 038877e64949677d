"""``python -m fairseq_steady.hydra_train``: fairseq-hydra-train that knows the plugin.

fairseq composes its configuration before it imports a user dir, so a plugin's names are
unknown to it; here the plugin is imported first.
"""

import os

from fairseq_cli.hydra_train import cli_main

from . import plugin  # noqa: F401
from .errors import install_excepthook


def main() -> None:
    """Train from YAML; flags as in fairseq-hydra-train."""
    # Without it Hydra prints its own digest of an error and hides the message.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    install_excepthook()
    cli_main()


if __name__ == "__main__":
    main()
