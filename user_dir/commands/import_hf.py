"""Import a Hugging Face BERT, RoBERTa, XLM-R, DeBERTa, BART ... as a model directory.

    fairseq-steady import path/to/bert-base-cased models/bert
    fairseq-steady import bart.large models/bart --gpt2-bpe DIR  # fairseq's own release
    fairseq-steady import xlmr.base models/xlmr         # one that has sentencepiece
    fairseq-steady import models/bert models/bert2 --bert2bert   # encoder and decoder

A model directory holds architecture, dictionary, tokeniser and weights: what
--steady-model takes. Where transformers is installed (pip install
'fairseq-steady[export]'), hidden states are compared at every layer and the import is
refused when they differ by more than 1e-4.
"""

import argparse
import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import short
from .page import Page, page

if TYPE_CHECKING:
    from ..model_dir import Labels

USAGE = "SOURCE OUT [options]"
OUT = """\
what comes out:
  OUT, the model directory; on standard output where its weights are from, or how
  well the two agree.
"""


def parser() -> Page:
    """The page of import."""
    found = page("import", __doc__, USAGE, OUT)
    add = found.add_argument_group("arguments").add_argument
    add(
        "source", type=Path, metavar="SOURCE",
        help="folder with config.json, weights and tokeniser, as downloaded",
    )  # fmt: skip
    add("out", type=Path, metavar="OUT", help="model directory to create")
    add("--licence", metavar="TEXT", help="of the weights, where the source names none")
    add(
        "--without-head", action="store_true",
        help="leave the head of a model for classification behind",
    )  # fmt: skip
    group = found.add_argument_group("another source")
    add = group.add_mutually_exclusive_group().add_argument
    add(
        "--gpt2-bpe", type=Path, metavar="DIR",
        help="source is fairseq's own; DIR has GPT-2's encoder.json and vocab.bpe",
    )  # fmt: skip
    add(
        "--bert2bert", action="store_true",
        help="source is a model directory; encoder and decoder both start from it",
    )  # fmt: skip
    add = found.add_argument_group("with --bert2bert").add_argument
    add(
        "--cross-attention", choices=("new", "self"), metavar="START",
        help="the decoder's attention to the article starts new, or from the same "
        "layer's self-attention; default new",
    )  # fmt: skip
    add(
        "--separate-embeddings", action="store_true",
        help="the decoder has a word table of its own",
    )  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and import."""
    args = parser().parse_args(argv)
    try:
        run(args)
    except OSError as error:
        raise UserError(
            f"{error.filename or args.out}: {error.strerror}; nothing was written"
        ) from None
    return 0


def run(args: argparse.Namespace) -> None:
    """Import from whichever form the flags name."""
    from .. import tasks as plugin  # noqa: F401  registers everything
    from ..huggingface.release import import_fairseq, is_release

    released = args.gpt2_bpe or (is_release(args.source) and not args.bert2bert)
    for flag in ("without_head", "licence"):
        if (released or args.bert2bert) and getattr(args, flag):
            name = flag.replace("_", "-")
            raise UserError(
                f"--{name} is for Hugging Face's directories, and {args.source} is "
                "none; leave it out"
            )
    for flag in ("cross_attention", "separate_embeddings"):
        if getattr(args, flag) and not args.bert2bert:
            name = flag.replace("_", "-")
            raise UserError(f"--{name} is for --bert2bert; add that, or leave it out")
    if released:
        import_fairseq(args.source, args.gpt2_bpe, args.out)
        print(f"{args.out}: weights and tokeniser as fairseq released them")
    elif args.bert2bert:
        from ..huggingface.bert2bert import bert2bert
        from ..model_dir import ModelDirectory

        bert2bert(
            *(ModelDirectory.open(args.source), args.out),
            cross_attention=args.cross_attention or "new",
            separate=args.separate_embeddings,
        )
        print(f"{args.out}: encoder and decoder start from {args.source}")
    else:
        print(f"{args.out}: {import_checked(args)}")


def import_checked(args: argparse.Namespace) -> str:
    """Import and compare; how it went."""
    from ..huggingface.importing import import_hf

    with_head = not args.without_head
    directory = import_hf(args.source, args.out, args.licence, with_head)
    head = described(directory.manifest.head)
    if not importlib.util.find_spec("transformers"):
        return f"transformers is not installed, so it was not compared{head}"
    from ..huggingface.checking import assert_equal

    try:
        worst = assert_equal(args.source, directory)
    except BaseException:
        shutil.rmtree(args.out)
        raise
    return f"equal to transformers within {worst:.1e} at every layer{head}"


def described(head: "Labels | None") -> str:
    """What a head predicts, if there is one."""
    if head is None:
        return ""
    names = ", ".join(map(short, head["labels"] or ()))
    return f"; with its head for {names or 'a score'}"
