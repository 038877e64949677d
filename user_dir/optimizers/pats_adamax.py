"""Optimizer ``pats_adamax``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.optim import register_optimizer

from ..optim import PRESETS, PatsAdamax
from ._groups import SteadyOptimizer, SteadyOptimizerConfig, option

PRESET = ChoiceEnum(list(PRESETS))


def knob(text: str) -> Any:
    """A flag that overrides the preset."""
    return option(None, f"{text}; default: the preset's")


@dataclass
class PatsAdamaxConfig(SteadyOptimizerConfig):
    """Flags of pats_adamax; the learning rate is --lr."""

    pats_preset: PRESET = option(  # type: ignore[valid-type]
        "paper-A",
        "reading of the paper's constants: paper-A (noise of absolute size, closed for "
        "the most sensitive) or paper-B (noise times the learning rate, closed from a "
        "sensitivity on)",
    )
    pats_lambda: Optional[float] = knob("basic noise, >= 0; 0 is Adamax")
    pats_gamma: Optional[float] = knob("margin of the gate, >= 0")
    pats_beta: Optional[float] = knob("decay of the average sensitivity, in [0, 1)")
    pats_p: Optional[float] = knob("probability of noise, in [0, 1]")
    pats_noise_scale: Optional[str] = knob("absolute or lr")
    pats_gate: Optional[str] = knob("ratio, sensitivity or none")
    pats_eps: float = option(1e-8, "added to the sensitivity in the ratio, > 0")
    pats_beta1: float = option(0.9, "Adamax: decay of the average gradient, in [0, 1)")
    pats_beta2: float = option(0.999, "Adamax: decay of the norm, in [0, 1)")
    pats_adamax_eps: float = option(1e-8, "Adamax: added to the infinity norm, > 0")
    pats_weight_decay: float = option(
        0.0, "decoupled weight decay, >= 0; never of biases and LayerNorms"
    )
    pats_anchor: float = option(
        0.0, "decay towards the pretrained weights instead of 0, >= 0; not of the head"
    )
    pats_histogram_interval: int = option(
        0, "updates between sensitivity histograms in --tensorboard-logdir; 0: none"
    )


@register_optimizer("pats_adamax", dataclass=PatsAdamaxConfig)
class FairseqPatsAdamax(SteadyOptimizer):
    """:class:`..optim.PatsAdamax` in fairseq, on the weights and biases of layers."""

    name = "pats_adamax"
    scoped = True

    def flag(self, name: str) -> Any:
        """Value of ``--pats-<name>``, or the preset's."""
        value = getattr(self.cfg, f"pats_{name}")
        preset = asdict(PRESETS[str(self.cfg.pats_preset)])
        return preset["noise" if name == "lambda" else name] if value is None else value

    def build(self, groups: Sequence[dict[str, Any]], **settings: Any) -> PatsAdamax:
        """The pure optimizer."""
        return PatsAdamax(groups, **settings)

    def settings(self) -> dict[str, Any]:
        """Constructor arguments from the flags."""
        same = ("gamma", "beta", "p", "noise_scale", "gate", "weight_decay", "anchor")
        return {
            "lr": self.cfg.lr[0],
            "betas": (self.flag("beta1"), self.flag("beta2")),
            "eps": self.flag("adamax_eps"),
            "noise": self.flag("lambda"),
            "guard": self.flag("eps"),
            "seed": self.cfg.seed,
            **self.flags(*same),
        }

    def step(self, closure: Any = None, scale: float = 1.0, groups: Any = None) -> None:
        """Step, and now and then a histogram."""
        super().step(closure, scale, groups)
        every, folder = self.flag("histogram_interval"), self.cfg.tensorboard_logdir
        steps = [state["step"] for state in self._optimizer.state.values()]
        ranked = torch.distributed.is_available() and torch.distributed.is_initialized()
        first = not ranked or torch.distributed.get_rank() == 0
        if every > 0 and folder and steps and steps[0] % every == 0 and first:
            self._histogram(Path(folder) / "sensitivity", steps[0])

    def _histogram(self, folder: Path, update: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder)) as writer:
            for group in self._optimizer.param_groups:
                for name, p in zip(group["names"], group["params"], strict=True):
                    found = self._optimizer.state[p].get("sensitivity")
                    if found is not None and p.dim() > 1:
                        logs = found.clamp(min=1e-20).log10()
                        writer.add_histogram(f"log10_sensitivity/{name}", logs, update)
