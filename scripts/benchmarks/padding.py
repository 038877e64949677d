"""What skipping padding saves: an encoder's time per batch, as a ratio in one run.

    python scripts/benchmarks/padding.py MODEL TEXT [--rounds 10] [--device cpu]

MODEL is an encoder's model directory, TEXT a file with a sentence a line. Each round
runs a batch of 32 forward and backward through our layers and through fairseq's own, on
one CPU thread or a GPU.
"""

import argparse
import copy
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from fairseq.data import data_utils
from fairseq.models.transformer import TransformerEncoder
from fairseq.modules import FairseqDropout
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.huggingface.checking import load_encoder
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.steady import HEAD
from fairseq_steady.regularizers import find_encoder
from torch import Tensor


def seconds(model: Any, tokens: Tensor) -> float:
    """Forward and backward of what a head reads, in processor time or the GPU's."""
    model.zero_grad()
    clock = time.perf_counter if tokens.is_cuda else time.process_time
    started = clock()
    model(tokens, classification_head_name=HEAD)[0].square().sum().backward()
    if tokens.is_cuda:
        torch.cuda.synchronize()
    return clock() - started


def as_fairseqs(model: Any) -> None:
    """Give a model fairseq's own encoder, layers and dropout again."""
    encoder = find_encoder(model)
    encoder.__class__ = TransformerEncoder
    for layer in encoder.layers:
        layer.__class__ = TransformerEncoderLayerBase
    for module in encoder.modules():
        if isinstance(module, FairseqDropout):
            module.__class__ = FairseqDropout


def main() -> None:
    """Take turns, print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    directory = ModelDirectory.open(args.model)
    dictionary = directory.dictionary()
    tokenizer = SentenceTokenizer(directory, dictionary, 128)
    lines = args.text.read_text("utf-8").split("\n")
    ids, _ = tokenizer.encode([(line,) for line in lines if line.strip()])
    ours = load_encoder(directory).train()
    ours.register_classification_head(HEAD, num_classes=2)
    ours = ours.to(args.device)
    theirs = copy.deepcopy(ours)
    as_fairseqs(theirs)
    rng, times = random.Random(0), []
    for _ in range(args.rounds + 1):
        chosen = [torch.from_numpy(one).long() for one in rng.sample(ids, 32)]
        tokens = data_utils.collate_tokens(chosen, dictionary.pad()).to(args.device)
        times.append((seconds(ours, tokens), seconds(theirs, tokens)))
    mine, fairseqs = map(statistics.median, zip(*times[1:], strict=True))
    print(f"ours {1000 * mine:.0f} ms, fairseq's {1000 * fairseqs:.0f} ms: ", end="")
    print(f"{mine / fairseqs:.2f} x")


if __name__ == "__main__":
    main()
