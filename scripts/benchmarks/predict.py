"""Predicting beside a transformers pipeline: sentences a second, as ratios in one run.

    python scripts/benchmarks/predict.py CHECKPOINT TEXT [--rounds 3]

TEXT is a file with a sentence a line. The checkpoint is exported, so that both run the
same model on the same sentences; the pipeline gets several batch sizes.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from fairseq_steady.data.readers import read_lines
from fairseq_steady.huggingface.exporting import export_hf
from fairseq_steady.inference.predicting import Predictor

_SIZES = (1, 8, 32)


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Median over rounds, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    """Take both sides' times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    texts = [line for _, line in read_lines(args.text)]
    predictor = Predictor(args.checkpoint)
    mine = seconds(lambda: list(predictor(texts)), args.rounds)
    print(f"{torch.get_num_threads()} threads, {len(texts)} sentences")
    print(f"Predictor: {len(texts) / mine:.0f} a second")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "exported"
        export_hf(args.checkpoint, out, texts=texts[:8])
        device = 0 if torch.cuda.is_available() else -1
        pipe = transformers.pipeline("text-classification", str(out), device=device)
    for size in _SIZES:
        theirs = seconds(lambda n=size: pipe(texts, batch_size=n), args.rounds)  # type: ignore[misc]
        rate = len(texts) / theirs
        print(f"pipeline, batches of {size}: {rate:.0f}, {theirs / mine:.2f} x ours")


if __name__ == "__main__":
    main()
