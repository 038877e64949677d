"""Import a Hugging Face BERT or RoBERTa directory as a model directory.

    python scripts/import_hf.py SRC OUT

Where transformers is installed, hidden states are compared at every layer and the
import is refused when they differ by more than 1e-4.
"""

import argparse
import importlib.util
import shutil
from pathlib import Path

from fairseq_steady.checking import assert_equal
from fairseq_steady.errors import UserError
from fairseq_steady.importing import import_hf


def main() -> None:
    """Read the command line and import."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="Hugging Face directory")
    parser.add_argument("out", type=Path, help="model directory to create")
    parser.add_argument("--licence", help="of the weights, if the source is silent")
    args = parser.parse_args()
    directory = import_hf(args.source, args.out, args.licence)
    checked = "transformers is not installed, so it was not compared"
    if importlib.util.find_spec("transformers"):
        try:
            worst = assert_equal(args.source, directory)
        except UserError:
            shutil.rmtree(args.out)
            raise
        checked = f"equal to transformers within {worst:.1e} at every layer"
    print(f"{args.out}: {checked}")


if __name__ == "__main__":
    main()
