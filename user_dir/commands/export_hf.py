"""Export a model directory or a fine-tuned checkpoint to Hugging Face's form.

    fairseq-steady export runs/cola/checkpoint_best.pt exported/cola
    fairseq-steady export CHECKPOINT OUT --teacher
    fairseq-steady export CHECKPOINT OUT --text data/some.txt --table table.md

OUT gets weights as safetensors, configuration with label names, tokeniser and a model
card. It is compared with the original in transformers, on real text, and refused when
logits differ by more than 1e-4.
"""

import argparse
import importlib.util
from pathlib import Path

from ..data.readers import read_lines
from ..errors import UserError
from ..huggingface.checking import SENTENCES
from ..huggingface.exporting import export_hf


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="checkpoint or model directory")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--model", help="its model directory, where that has moved")
    parser.add_argument(
        "--teacher", action="store_true", help="export smart's teacher instead"
    )
    parser.add_argument("--head", help="which task, for glue_multitask's checkpoints")
    parser.add_argument(
        "--text", type=Path, help="compare on this file, a sentence a line"
    )
    parser.add_argument(
        "--table",
        type=Path,
        help="scores for the card: table.md of fairseq-steady compare",
    )
    args = parser.parse_args()
    if not importlib.util.find_spec("transformers"):
        raise UserError(
            "an export is compared with transformers, which is not installed: pip "
            "install transformers"
        )
    texts = [line for _, line in read_lines(args.text)] if args.text else SENTENCES
    table = args.table.read_text("utf-8") if args.table else ""
    chosen = (args.model, args.teacher, args.head)
    worst = export_hf(args.source, args.out, *chosen, texts, table)
    print(f"{args.out}: logits equal transformers' within {worst:.1e}")
