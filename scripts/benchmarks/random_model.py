"""A model directory with random weights, for measuring where no model is within reach.

    python scripts/benchmarks/random_model.py OUT TEXT [--family roberta] \\
        [--layers 12] [--width 768] [--types 30522]

TEXT is a file whose words the tokeniser knows; further types are never met. The default
shape is BERT-base's; --family bart with --layers 6 and --types 50264 gives BART-base's.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq_steady.model_dir import Manifest, write_model_directory
from fairseq_steady.models.building import build
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def vocabulary(text: str, types: int) -> list[str]:
    """Special tokens, the text's words, and words that stand for the rest."""
    pieces = Whitespace().pre_tokenize_str(text)
    words = sorted({piece for piece, _ in pieces})
    rest = max(0, types - len(SPECIAL) - len(words))
    return [*SPECIAL, *words, *(f"unmet{n}" for n in range(rest))]


def tokenizer(symbols: list[str]) -> str:
    """One token a word, <s> and </s> around; as JSON."""
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    made = Tokenizer(WordLevel(ids, unk_token="<unk>"))  # noqa: S106
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return str(made.to_str())


def architecture(args: argparse.Namespace) -> dict[str, Any]:
    """Heads of 64 channels, and four times the width inside."""
    rates = dict.fromkeys(("dropout", "attention_dropout", "pooler_dropout"), 0.1)
    heads = max(1, args.width // 64)
    form = {
        "encoder_layers": args.layers,
        "encoder_embed_dim": args.width,
        "encoder_ffn_embed_dim": 4 * args.width,
        "encoder_attention_heads": heads,
        "max_positions": 1024 if args.family == "bart" else 512,
        "layer_norm_eps": 1e-5,
        **rates,
    }
    if args.family == "bart":
        form |= {"decoder_layers": args.layers, "decoder_attention_heads": heads}
        form |= {"max_source_positions": 1024, "max_target_positions": 1024}
    return form


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("text", type=Path, help="text whose words are known")
    parser.add_argument("--family", choices=["roberta", "bart"], default="roberta")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768, help="a multiple of 64")
    parser.add_argument("--types", type=int, default=30522)
    args = parser.parse_args()
    symbols = vocabulary(args.text.read_text("utf-8"), args.types)
    dictionary = Dictionary()
    for symbol in symbols[len(SPECIAL) - 1 :]:
        dictionary.add_symbol(symbol)
    special = {name: name for name in SPECIAL}
    manifest = Manifest(args.family, architecture(args), special)
    torch.manual_seed(0)
    state = build(manifest, dictionary).state_dict()
    write_model_directory(args.out, manifest, state, dictionary, tokenizer(symbols))


if __name__ == "__main__":
    main()
