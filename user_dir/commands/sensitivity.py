"""Sensitivities of a pats_adamax or sage checkpoint as a figure, a line per layer.

    fairseq-steady sensitivity runs/pats/checkpoint_last.pt sensitivity.png

Shows how the averaged |theta * gradient| is distributed over the weights of each layer
(PATS, arXiv 2210.12403, figure 2).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import whole_file
from .extras import require
from .output import write_lines
from .page import Page, page

if TYPE_CHECKING:
    from torch import Tensor

USAGE = "CHECKPOINT OUT"
OUT = """\
what comes out:
  the picture, in the format that its name ends with; on standard output the
  quartiles of each layer.
"""


def parser() -> Page:
    """The page of sensitivity."""
    found = page("sensitivity", __doc__, USAGE, OUT)
    add = found.add_argument_group("arguments").add_argument
    add(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="with its optimizer's state"
    )
    add("out", type=Path, metavar="OUT", help="picture to write, as OUT.png or OUT.svg")
    return found


def by_layer(checkpoint: dict[str, Any], path: Path) -> dict[str, "Tensor"]:
    """Sensitivities of all matrices of each layer."""
    import torch

    optimizer = checkpoint.get("last_optimizer_state") or {"param_groups": []}
    found: dict[str, list[Tensor]] = {}
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
    return {layer: torch.cat(found[layer]) for layer in sorted(found, key=_depth)}


def _depth(layer: str) -> tuple[bool, int]:
    """The encoder before the decoder, layer 2 before layer 10."""
    return layer.startswith("decoder"), int(layer.rpartition(".")[2])


def draw(layers: dict[str, "Tensor"], out: Path) -> None:
    """A histogram line per layer over log10 of the sensitivity.

    Raises:
        UserError: the picture's format is not known, or it cannot be written.

    """
    import matplotlib as mpl
    import numpy as np

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
    form, known = out.suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if form not in known:
        raise UserError(f"{out}: its name ends with none of .{', .'.join(known)}")
    try:
        with whole_file(out) as file:
            figure.savefig(file, format=form, dpi=150)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, and print the quartiles."""
    args = parser().parse_args(argv)
    require("compare", "matplotlib")
    import numpy as np

    from ..patches.checkpoints import load_checked

    layers = by_layer(load_checked(args.checkpoint), args.checkpoint)
    draw(layers, args.out)
    quartiles = {
        layer: np.quantile(values.numpy(), (0.25, 0.5, 0.75))
        for layer, values in layers.items()
    }
    write_lines(
        f"{layer:12} quartiles {low:.2e} {middle:.2e} {high:.2e}"
        for layer, (low, middle, high) in quartiles.items()
    )
    return 0
