"""Optimizer ``pats_adamax``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Optional

import torch
from fairseq.optim import register_optimizer

from ..errors import UserError
from ..flags import (
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    SHARE,
    Range,
    one_of,
    option,
)
from ..optim import PRESETS, PatsAdamax
from ..optim.pats import GATES, SCALES, Gate, Preset, Scale
from ..presets import Paper
from .groups import SteadyOptimizer, SteadyOptimizerConfig, anchor, decay


def knob(text: str, values: Range) -> Any:
    """An option that overrides the preset."""
    return option(None, f"{text}; default: the preset's", values)


@dataclass
class PatsAdamaxConfig(SteadyOptimizerConfig):
    """Flags of pats_adamax; the learning rate is --lr."""

    pats_preset: str = option(
        "paper-A",
        "reading of the paper's constants: paper-A (noise of absolute size, closed for "
        "the most sensitive) or paper-B (noise times the learning rate, closed from a "
        "sensitivity on)",
        one_of(*PRESETS),
    )
    pats_lambda: Optional[float] = knob("basic noise; 0 is Adamax", NOT_NEGATIVE)
    pats_gamma: Optional[float] = knob("margin of the gate", NOT_NEGATIVE)
    pats_beta: Optional[float] = knob("decay of the average sensitivity", SHARE)
    pats_p: Optional[float] = knob("probability of noise", PROBABILITY)
    pats_noise_scale: Optional[Scale] = knob("unit of the noise", SCALES)
    pats_gate: Optional[Gate] = knob("what opens the gate", GATES)
    pats_eps: float = option(1e-8, "added to the sensitivity in the ratio", POSITIVE)
    pats_beta1: float = option(0.9, "Adamax: decay of the average gradient", SHARE)
    pats_beta2: float = option(0.999, "Adamax: decay of the norm", SHARE)
    pats_adamax_eps: float = option(
        1e-8, "Adamax: added to the infinity norm", POSITIVE
    )
    pats_weight_decay: float = decay(0.0)
    pats_anchor: float = anchor()
    pats_histogram_interval: int = option(
        0,
        "updates between sensitivity histograms in --tensorboard-logdir; 0: none",
        NOT_NEGATIVE,
    )


def preset_of(cfg: PatsAdamaxConfig) -> Preset:
    """The preset, with what the flags say instead."""
    said = {
        "noise": cfg.pats_lambda,
        "gamma": cfg.pats_gamma,
        "noise_scale": cfg.pats_noise_scale,
        "gate": cfg.pats_gate,
        "beta": cfg.pats_beta,
        "p": cfg.pats_p,
    }
    chosen: dict[str, Any] = {n: v for n, v in said.items() if v is not None}
    return replace(PRESETS[cfg.pats_preset], **chosen)


@register_optimizer("pats_adamax", dataclass=PatsAdamaxConfig)
class FairseqPatsAdamax(SteadyOptimizer):
    """Adamax, then noise on the weights and biases of layers that the loss feels least.

    :class:`..optim.PatsAdamax` in fairseq.
    """

    name = "pats_adamax"
    scoped = True
    paper: ClassVar = Paper(
        "arXiv 2210.12403, one of two readings of its constants",
        {"pats_preset": "paper-A"},
    )
    cfg: PatsAdamaxConfig

    def build(self, groups: Sequence[dict[str, Any]], **settings: Any) -> PatsAdamax:
        """The pure optimizer."""
        return PatsAdamax(groups, **settings)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Constructor arguments from the flags.

        Raises:
            UserError: histograms have nowhere to go.

        """
        cfg = self.cfg
        if cfg.pats_histogram_interval and not cfg.tensorboard_logdir:
            raise UserError(
                f"--pats-histogram-interval {cfg.pats_histogram_interval} writes to "
                "TensorBoard: add --tensorboard-logdir DIR, or leave it out"
            )
        return {
            "lr": cfg.lr[0],
            "betas": (cfg.pats_beta1, cfg.pats_beta2),
            "eps": cfg.pats_adamax_eps,
            "weight_decay": cfg.pats_weight_decay,
            "anchor": cfg.pats_anchor,
            "guard": cfg.pats_eps,
            "seed": cfg.seed,
            **asdict(preset_of(cfg)),
        }

    def step(self, closure: Any = None, scale: float = 1.0, groups: Any = None) -> None:
        """Step, and now and then a histogram."""
        super().step(closure, scale, groups)
        every, folder = self.cfg.pats_histogram_interval, self.cfg.tensorboard_logdir
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
