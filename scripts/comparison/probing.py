"""Probes with the plugin that --user-dir names; run as a module."""

import argparse
import importlib
from pathlib import Path

from fairseq.utils import import_user_module


def main() -> None:
    """Import the plugin as fairseq-train does, and let it probe."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--user-dir", required=True)
    known, _ = parser.parse_known_args()
    import_user_module(known)
    name = Path(known.user_dir).resolve().name
    importlib.import_module(f"{name}.probing").main()


if __name__ == "__main__":
    main()
