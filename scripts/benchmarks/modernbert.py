"""ModernBERT's time and memory beside those of transformers, as ratios in one run.

    python scripts/benchmarks/modernbert.py DATA [--layers 6] [--width 768] [--rounds 5]

DATA is a folder with cola, glue/RTE and cnndm, whose texts give the lengths: a batch is
padded to its longest. Random weights of the base model's form, forward and backward of
what a head reads, one CPU thread (or the GPU). For time the two take turns in one
process; memory is the most that two updates add to a process of each one's own.
"""

import argparse
import csv
import json
import random
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from deberta import as_ours, row, run, update
from fairseq.data import data_utils
from fairseq_steady.models.families.modernbert import FAMILY
from peaks import begin, peak
from torch import Tensor

_WORDS = 2000
_CUDA = torch.cuda.is_available()
#: Longest text, texts in a batch, file, and columns of a text.
_TEXTS: dict[int, tuple[int, str, tuple[int, ...]]] = {
    32: (32, "cola/in_domain_train.tsv", (3,)),
    128: (16, "glue/RTE/train.tsv", (1, 2)),
    512: (8, "cnndm/train_first100.csv", (2,)),
    2048: (4, "cnndm/train_first100.csv", (2,)),
}
_PAD = 1


def lengths(data: Path, longest: int) -> list[int]:
    """Words and marks of each text, with the tokens around them."""
    csv.field_size_limit(10**9)
    _, name, columns = _TEXTS[longest]
    tabs = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if name[-3:] == "tsv" else {}
    with (data / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, **tabs))[1:]  # type: ignore[arg-type]
    texts = [" ".join(row[column] for column in columns) for row in rows]
    return [min(longest, 2 + len(re.findall(r"\w+|\S", text))) for text in texts]


def batches(args: argparse.Namespace, count: int) -> list[Tensor]:
    """Random tokens of texts' lengths, shape (B, T) each."""
    rng, found = random.Random(0), lengths(args.data, args.length)
    size = _TEXTS[args.length][0]
    made = []
    for _ in range(count):
        chosen = [torch.randint(10, _WORDS, (n,)) for n in rng.sample(found, size)]
        made.append(data_utils.collate_tokens(chosen, _PAD))
    return made


def config_of(layers: int, width: int) -> Any:
    """transformers' configuration, of the base model's proportions."""
    ids = {
        f"{n}_token_id": i for i, n in enumerate(("cls", "pad", "sep", "bos", "eos"))
    }
    return transformers.ModernBertConfig(
        vocab_size=_WORDS,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=width * 3 // 2,
        **ids,
    )


def theirs(config: Any) -> Any:
    """transformers' model with random weights."""
    torch.manual_seed(0)
    return transformers.ModernBertModel(config).train()


def ours(config: Any) -> Any:
    """Ours, with the same weights."""
    return as_ours(FAMILY, theirs(config))


def of_tokens(which: str, tokens: Tensor) -> Callable[[Any], Tensor]:
    """How either model is called, for the real tokens' hidden states."""
    real = tokens.ne(_PAD)
    if which == "theirs":
        return lambda model: model(tokens, real.long()).last_hidden_state[real]
    return lambda model: model(tokens, features_only=True)[0][real]


def measure(
    args: argparse.Namespace, config: Any, makers: Mapping[str, Callable[[Any], Any]]
) -> dict[str, float]:
    """Added memory of one model; median seconds of both, taking turns."""
    torch.set_num_threads(1)
    names = ["ours", "theirs"] if args.which == "both" else [args.which]
    models = {name: makers[name](config) for name in names}
    given = batches(args, args.rounds + 1 if args.which == "both" else 2)
    if _CUDA:
        given = [tokens.cuda() for tokens in given]
        models = {name: model.cuda() for name, model in models.items()}
    before = begin()
    times = [
        {name: update(model, of_tokens(name, tokens)) for name, model in models.items()}
        for tokens in given
    ]
    if args.which == "both":
        return {n: statistics.median(one[n] for one in times[1:]) for n in names}
    return {"bytes": peak() - before}


def main(
    form: Callable[[int, int], Any],
    makers: Mapping[str, Callable[[Any], Any]],
    longest: Sequence[int],
) -> None:
    """Measure each model in a process of its own."""
    parser = argparse.ArgumentParser(description="seconds and memory as ratios")
    parser.add_argument("data", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=768, help="a multiple of 64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--which", choices=["ours", "theirs", "both"], help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.which:
        config = form(args.layers, args.width)
        print(json.dumps(measure(args, config, makers)))
        return
    for length in [args.length] if args.length else longest:
        chosen = ["--length", str(length)]
        parts = ("both", *makers)
        found = {which: run([*chosen, "--which", which]) for which in parts}
        seconds = {n: found["both"][n] for n in makers}
        held = {n: found[n]["bytes"] for n in makers}
        print(f"length {length}: {row(seconds, held)}", flush=True)


if __name__ == "__main__":
    main(config_of, {"ours": ours, "theirs": theirs}, list(_TEXTS))
