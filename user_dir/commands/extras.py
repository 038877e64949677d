"""What only some commands need, and a plain install leaves out."""

import importlib.util

from ..errors import UserError


def require(extra: str, *modules: str) -> None:
    """Refuse to begin without what an extra installs.

    Raises:
        UserError: says what to install.

    """
    for module in modules:
        if not importlib.util.find_spec(module):
            raise UserError(
                f"this needs {module}, which is not installed: pip install "
                f"'fairseq-steady[{extra}]'"
            )
