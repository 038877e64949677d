"""Time of an optimizer step against torch's own, as ratios measured in one run.

    python scripts/benchmarks/optimizers.py [--rounds 15] [--device cpu]

The parameters are those of MiniLM (22.7 M, half of them word embeddings). Each round
steps every optimizer once, in turn, so that a busy machine slows all of them; the
ratios are of medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from fairseq.optim.adam import Adam as FairseqAdam
from fairseq_steady.optim import PRESETS, BertAdam, PatsAdamax, Sage
from torch import nn

WIDTH, LAYERS, WORDS = 384, 6, 30524


def parameters(device: str) -> list[nn.Parameter]:
    """Weights and gradients of MiniLM's shapes."""
    layer = [(WIDTH, WIDTH)] * 4 + [(4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
    biases = [(WIDTH,)] * 9 + [(4 * WIDTH,)]
    shapes: list[tuple[int, ...]] = [(WORDS, WIDTH), (514, WIDTH)]
    shapes += (layer + biases) * LAYERS
    made = [nn.Parameter(torch.randn(s, device=device) * 0.04) for s in shapes]
    for p in made:
        p.grad = torch.randn_like(p) * 1e-3
    return made


def pats(params: list[nn.Parameter], preset: str) -> PatsAdamax:
    """Noise on the layers, none on the embeddings, as in training."""
    chosen = PRESETS[preset]
    groups = [
        {"params": params[:2], "in_scope": False},
        {"params": params[2:], "in_scope": True},
    ]
    return PatsAdamax(
        groups,
        noise=chosen.noise,
        gamma=chosen.gamma,
        noise_scale=chosen.noise_scale,
        gate=chosen.gate,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    makers: dict[str, tuple[Callable[[list[nn.Parameter]], torch.optim.Optimizer], str]]
    makers = {
        "AdamW(foreach=True)": (
            lambda p: torch.optim.AdamW(p, foreach=True),
            "AdamW(foreach=True)",
        ),
        "bert_adam": (BertAdam, "AdamW(foreach=True)"),
        "fairseq's adam": (FairseqAdam, "AdamW(foreach=True)"),
        "sage": (Sage, "AdamW(foreach=True)"),
        "Adamax(foreach=True)": (
            lambda p: torch.optim.Adamax(p, foreach=True),
            "Adamax(foreach=True)",
        ),
        "pats_adamax paper-A": (lambda p: pats(p, "paper-A"), "Adamax(foreach=True)"),
        "pats_adamax paper-B": (lambda p: pats(p, "paper-B"), "Adamax(foreach=True)"),
    }
    params = parameters(args.device)
    made = {name: maker(params) for name, (maker, _) in makers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(args.rounds + 2):
        for name, optimizer in made.items():
            started = time.perf_counter()
            optimizer.step()
            if args.device != "cpu":
                torch.cuda.synchronize()
            if turn > 1:
                seconds[name].append(time.perf_counter() - started)
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {args.device}"
    )
    for name, (_, base) in makers.items():
        own, theirs = (statistics.median(seconds[n]) for n in (name, base))
        print(f"{name:22} {1e3 * own:7.1f} ms  {own / theirs:.2f} x {base}")


if __name__ == "__main__":
    main()
