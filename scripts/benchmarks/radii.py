"""How far the perturbation of a relative radius moves the answer, without dropout.

    python scripts/benchmarks/radii.py MODEL TEXT

MODEL is a model directory with word embeddings, TEXT a file with a sentence a line.
Prints, as CSV, the symmetric KL per sentence that `r3f` and `smart` make at radii of so
many root mean squares of a sentence's word embeddings, what two dropout masks make, and
that root mean square. The head is fresh, from a seed.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fairseq_steady.regularizers import (
    capture,
    embeddings_rms,
    find_encoder,
    symmetric_kl,
)
from methods import batch, make
from noise_radius import inputs, load, logits
from torch import Tensor

MULTIPLES = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)


def divergence(model: Any, sample: dict[str, Any], method: str, radius: float) -> float:
    """Per sentence, with the method's other defaults."""
    flags = {f"{method}_eps_relative": radius, f"{method}_probe_interval": 0}
    criterion = make(method, flags)
    *_, logged = criterion(model, sample)
    return float(logged[f"{method}_divergence"]) / len(sample["id"])


@torch.no_grad()
def beside(model: Any, net_input: dict[str, Tensor]) -> tuple[float, float]:
    """What two dropout masks make, and the embeddings' root mean square."""
    encoder = find_encoder(model)
    mask = net_input["src_tokens"] != encoder.padding_idx
    with capture(encoder, "word") as seen:
        one = logits(model.train(), net_input)
    rms = float(embeddings_rms(seen[0], mask).mean())
    masks = float(symmetric_kl(logits(model, net_input), one).mean())
    model.eval()
    return masks, rms


def rows(model: Any, sample: dict[str, Any]) -> Iterator[dict[str, float]]:
    """One for each radius."""
    masks, rms = beside(model, sample["net_input"])
    for radius in MULTIPLES:
        found = {m: divergence(model, sample, m, radius) for m in ("r3f", "smart")}
        yield {"radius": radius, **found, "two dropout masks": masks, "rms": rms}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("text", type=Path, help="a sentence a line")
    parser.add_argument("--sentences", type=int, default=32)
    args = parser.parse_args()
    model, directory = load(args.model)
    sample = batch(inputs(directory, args.text, args.sentences), "cpu")
    found = list(rows(model, sample))
    writer = csv.DictWriter(sys.stdout, found[0])
    writer.writeheader()
    writer.writerows({k: f"{v:.2g}" for k, v in row.items()} for row in found)


if __name__ == "__main__":
    main()
