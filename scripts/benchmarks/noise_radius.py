"""KL against the radius of R3F's noise: ours, fairseq's, and dropout's.

    python scripts/benchmarks/noise_radius.py MODEL TEXT OUT

MODEL is a model directory, TEXT a file with a sentence a line. Writes radius.csv and
radius.png into OUT. fairseq's line is its own RobertaModel, called as its criterion
does with noised token_embeddings, which it ignores. The head is fresh, from a seed.
"""

import argparse
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fairseq.data.data_utils import collate_tokens
from fairseq_steady.data import SentenceTokenizer
from fairseq_steady.data.readers import read_text
from fairseq_steady.errors import UserError
from fairseq_steady.files import whole_file, write_text
from fairseq_steady.model_dir import ModelDirectory
from fairseq_steady.models.building import build
from fairseq_steady.models.steady import HEAD, load_pretrained
from fairseq_steady.regularizers import (
    capture,
    draw,
    find_encoder,
    noise_keys,
    substitute,
    symmetric_kl,
)
from torch import Tensor

RADII = [10.0**exponent for exponent in range(-7, 2)]


def load(path: Path) -> tuple[Any, ModelDirectory]:
    """A model with a fresh head of two classes, and where it came from."""
    directory = ModelDirectory.open(path)
    model = build(directory.manifest, directory.dictionary())
    torch.manual_seed(0)
    model.register_classification_head(HEAD, num_classes=2)
    load_pretrained(model, directory)
    return model, directory


def inputs(directory: ModelDirectory, path: Path, count: int) -> dict[str, Tensor]:
    """The first sentences of a file, padded.

    Raises:
        UserError: the file cannot be read, or there are none.

    """
    lines = read_text(path).split("\n")[: max(0, count)]
    dictionary = directory.dictionary()
    tokenizer = SentenceTokenizer(directory, dictionary, 64)
    if not any(map(str.strip, lines)):
        raise UserError(f"there is nothing in the first {count} lines of {path}")
    rows, _ = tokenizer.encode([(line,) for line in lines if line.strip()])
    tokens = [torch.from_numpy(row).long() for row in rows]
    lengths = torch.tensor([len(row) for row in tokens])
    padded = collate_tokens(tokens, dictionary.pad())
    return {"src_tokens": padded, "src_lengths": lengths}


def logits(model: Any, batch: dict[str, Tensor], **extra: Tensor) -> Tensor:
    """One pass, shape (B, 2)."""
    output: Tensor = model(
        **batch, features_only=True, classification_head_name=HEAD, **extra
    )[0]
    return output


@torch.no_grad()
def measure(model: Any, batch: dict[str, Tensor]) -> Iterator[dict[str, float]]:
    """Mean symmetric KL per sentence at every radius."""
    encoder = find_encoder(model)
    mask = batch["src_tokens"] != encoder.padding_idx
    model.eval()
    with capture(encoder, "word") as seen:
        clean = logits(model, batch)
    words, keys = seen[0], noise_keys(range(len(mask)))

    def distance(again: Tensor) -> float:
        return float(symmetric_kl(again, clean).mean())

    def ours(noised: Tensor) -> Tensor:
        with substitute(encoder, "word", noised):
            return logits(model, batch)

    model.train()
    masks = float(symmetric_kl(logits(model, batch), logits(model, batch)).mean())
    model.eval()
    for radius in RADII:
        noised = words + draw("uniform", keys, mask, words.shape[-1], radius)
        yield {
            "radius": radius,
            "ours": distance(ours(noised)),
            "fairseq": distance(logits(model, batch, token_embeddings=noised)),
            "two dropout masks": masks,
        }


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Both lines on logarithmic axes; fairseq's 0 is drawn at the bottom."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.2, 3.6))
    radii = [row["radius"] for row in rows]
    floor = min((row["ours"] for row in rows if row["ours"] > 0), default=1.0) / 10
    axis.plot(radii, [row["ours"] for row in rows], "o-", label="r3f here, no dropout")
    flat = [max(row["fairseq"], floor) for row in rows]
    axis.plot(radii, flat, "s--", label="fairseq's r3f, no dropout (exactly 0)")
    masks = rows[0]["two dropout masks"]
    axis.axhline(masks, color="gray", ls=":", label="two dropout masks, no noise")
    axis.axvline(1e-5, color="gray", lw=0.6)
    axis.set(xscale="log", yscale="log", xlabel="noise radius (papers: 1e-5)")
    axis.set_ylabel("symmetric KL per sentence, nats")
    axis.legend(fontsize=8, loc=(0.38, 0.14))
    figure.tight_layout()
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=150)


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("text", type=Path, help="a sentence a line")
    parser.add_argument("out", type=Path, help="folder for the table and the picture")
    parser.add_argument("--sentences", type=int, default=64)
    args = parser.parse_args()
    model, directory = load(args.model)
    rows = list(measure(model, inputs(directory, args.text, args.sentences)))
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows({k: f"{v:.4g}" for k, v in row.items()} for row in rows)
    write_text(args.out / "radius.csv", text.getvalue())
    plot(rows, args.out / "radius.png")
    for row in rows:
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
