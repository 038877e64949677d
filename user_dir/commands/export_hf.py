"""Export a fine-tuned checkpoint, or a model directory, to Hugging Face's form.

    fairseq-steady export runs/cola/checkpoint_best.pt exported/cola
    fairseq-steady export CHECKPOINT OUT --teacher
    fairseq-steady export CHECKPOINT OUT --text data/some.txt --table table.md

It is compared with the original in transformers, on real text, and refused when
logits differ by more than 1e-4. Needs pip install 'fairseq-steady[export]'.
"""

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .extras import require
from .page import Page, page

USAGE = "SOURCE OUT [options]"
OUT = """\
what comes out:
  OUT, with weights as safetensors, configuration with label names, tokeniser and a
  model card; on standard output how well the two agree.
"""


def parser() -> Page:
    """The page of export."""
    found = page("export", __doc__, USAGE, OUT)
    add = found.add_argument_group("what to export").add_argument
    add("source", type=Path, metavar="SOURCE", help="checkpoint or model directory")
    add(
        "--model", metavar="DIR",
        help="the checkpoint's model directory; default: where it was in training",
    )  # fmt: skip
    add("--teacher", action="store_true", help="smart's teacher instead")
    add("--head", metavar="TASK", help="which one, for checkpoints of glue_multitask")
    add = found.add_argument_group("what to write and how to check it").add_argument
    add("out", type=Path, metavar="OUT", help="folder to create")
    add(
        "--text", type=Path, metavar="FILE",
        help="compare on this file, a sentence a line; default: sentences of our own",
    )  # fmt: skip
    add(
        "--table", type=Path, metavar="FILE",
        help="scores for the card: table.md of fairseq-steady compare",
    )  # fmt: skip
    return found


def check_source(source: Path) -> None:
    """Refuse a folder of checkpoints.

    Raises:
        UserError: names the one that may be meant.

    """
    if not source.is_dir() or (source / "manifest.json").exists():
        return
    held = sorted(source.glob("checkpoint*.pt"))
    if held:
        best = source / "checkpoint_best.pt"
        one = best if best in held else held[-1]
        raise UserError(f"{source} is a folder of checkpoints; name one, such as {one}")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and export."""
    args = parser().parse_args(argv)
    check_source(args.source)
    require("export", "transformers")
    from .. import tasks as plugin  # noqa: F401  registers everything
    from ..data.readers import read_lines, read_text
    from ..huggingface.checking import SENTENCES
    from ..huggingface.exporting import export_hf

    texts = [line for _, line in read_lines(args.text)] if args.text else SENTENCES
    table = read_text(args.table, blank=True) if args.table else ""
    chosen = (args.model, args.teacher, args.head)
    worst = export_hf(args.source, args.out, *chosen, texts, table)
    print(f"{args.out}: logits equal transformers' within {worst:.1e}")
    return 0
