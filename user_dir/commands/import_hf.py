"""Import a Hugging Face BERT, RoBERTa, DeBERTa, BART or mBART as a model directory.

    fairseq-steady import SRC OUT
    fairseq-steady import bart.large OUT --gpt2-bpe DIR  # fairseq's own release
    fairseq-steady import MODEL OUT --bert2bert          # encoder and decoder

Where transformers is installed, hidden states are compared at every layer and the
import is refused when they differ by more than 1e-4.
"""

import argparse
import importlib.util
import shutil
from pathlib import Path

from ..errors import UserError
from ..huggingface.bert2bert import bert2bert
from ..huggingface.checking import assert_equal
from ..huggingface.importing import import_hf
from ..huggingface.release import import_fairseq
from ..model_dir import ModelDirectory


def main() -> None:
    """Read the command line and import."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="Hugging Face directory")
    parser.add_argument("out", type=Path, help="model directory to create")
    parser.add_argument("--licence", help="of the weights, if the source is silent")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--gpt2-bpe",
        type=Path,
        metavar="DIR",
        help="source is fairseq's own; DIR has GPT-2's encoder.json and vocab.bpe",
    )
    other.add_argument(
        "--bert2bert",
        action="store_true",
        help="source is a model directory; encoder and decoder both start from it",
    )
    args = parser.parse_args()
    try:
        run(args)
    except OSError as error:
        raise UserError(
            f"{error.filename}: {error.strerror}; nothing was written"
        ) from None


def run(args: argparse.Namespace) -> None:
    """Import from whichever form the flags name."""
    if args.gpt2_bpe:
        import_fairseq(args.source, args.gpt2_bpe, args.out)
    elif args.bert2bert:
        bert2bert(ModelDirectory.open(args.source), args.out)
    else:
        print(f"{args.out}: {import_checked(args)}")


def import_checked(args: argparse.Namespace) -> str:
    """Import and compare; how it went."""
    directory = import_hf(args.source, args.out, args.licence)
    checked = "transformers is not installed, so it was not compared"
    if importlib.util.find_spec("transformers"):
        try:
            worst = assert_equal(args.source, directory)
        except BaseException:
            shutil.rmtree(args.out)
            raise
        checked = f"equal to transformers within {worst:.1e} at every layer"
    return checked
