"""Sensitivities of a pats_adamax or sage checkpoint as a figure, a line per layer.

    fairseq-steady sensitivity CHECKPOINT OUT.png

Shows how the averaged |theta * gradient| is distributed over the weights of each layer
(PATS, arXiv 2210.12403, figure 2).
"""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..patches.checkpoints import load_safely


def by_layer(checkpoint: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """Sensitivities of all matrices of each layer."""
    optimizer = checkpoint.get("last_optimizer_state") or {"param_groups": []}
    found: dict[str, list[torch.Tensor]] = {}
    for group in optimizer["param_groups"]:
        for name, place in zip(group.get("names", []), group["params"], strict=False):
            layer = re.search(r"(encoder|decoder)\.(?:[\w.]*\.)?layers\.\d+", name)
            state = optimizer["state"].get(place, {})
            if layer and "sensitivity" in state and state["sensitivity"].dim() > 1:
                key = layer[0].replace(".sentence_encoder", "").replace(".layers", "")
                found.setdefault(key, []).append(state["sensitivity"].flatten())
    if not found:
        raise UserError(
            f"{path} holds no sensitivities; train with --optimizer pats_adamax or "
            "sage, and without --no-save-optimizer-state"
        )
    return {layer: torch.cat(tensors) for layer, tensors in sorted(found.items())}


def draw(layers: dict[str, torch.Tensor], out: Path) -> None:
    """A histogram line per layer over log10 of the sensitivity."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.6, 3.6))
    colors = pyplot.cm.viridis(np.linspace(0, 0.95, len(layers)))
    for (layer, values), color in zip(layers.items(), colors, strict=True):
        logs = values[values > 0].log10().numpy()
        density, edges = np.histogram(logs, bins=100, density=True)
        axis.plot((edges[1:] + edges[:-1]) / 2, density, color=color, label=layer)
    axis.set(xlabel="log10 of averaged sensitivity", ylabel="density of weights")
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out, dpi=150)


def main() -> None:
    """Read, draw, and print the quartiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, help="picture to write")
    args = parser.parse_args()
    layers = by_layer(load_safely(args.checkpoint), args.checkpoint)
    draw(layers, args.out)
    for layer, values in layers.items():
        low, middle, high = np.quantile(values.numpy(), (0.25, 0.5, 0.75))
        print(f"{layer:12} quartiles {low:.2e} {middle:.2e} {high:.2e}")
