"""Criterions of the form task loss + lambda * divergence of an extra pass."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..regularizers import (
    DropoutMode,
    InjectionPoint,
    Penalty,
    View,
    capture,
    dropout_passes,
    find_decoder,
    find_encoder,
    noise_keys,
    substitute,
    unwrap,
)
from ..regularizers.divergence import Divergence
from .kinds import Classes
from .options import Side
from .plain import Outcome, PlainCriterion

logger = logging.getLogger(__name__)

#: Share of a perturbation lost to rounding that is worth a warning.
_LOST = 0.1


@dataclass(frozen=True)
class Terms:
    """What the flags of every such criterion say.

    Args:
        strength: lambda.
        divergence: what compares the passes, or ``auto``.
        dropout: masks of the extra passes.
        probe_interval: batches between measurements of dropout's share; 0 for never.
        side: whose embeddings are perturbed.

    """

    strength: float
    divergence: str
    dropout: DropoutMode
    probe_interval: int
    side: Side = "encoder"


class PenaltyCriterion(PlainCriterion):
    """The clean pass through the distributed wrapper, every other past it.

    A subclass names its injection point and builds its regulariser.
    """

    point: ClassVar[InjectionPoint] = "word"

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        self.terms = self.read_terms()
        # A divergence that does not fit the task is refused before any training.
        for kind in self.kinds.values():
            kind.divergence(self.terms.divergence, torch.zeros(1, 1), self.method)
        self._batches = 0
        self._warned = False

    @property
    def active(self) -> bool:
        """Whether lambda is above 0."""
        return self.terms.strength > 0

    def read_terms(self) -> Terms:
        """Flags that are not the regulariser's."""
        raise NotImplementedError

    def regularizer(self, model: nn.Module) -> Callable[[View], Penalty]:
        """The method as its flags say, at the precision of the model."""
        raise NotImplementedError

    def sides(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        """Each module that embeds perturbed tokens, and their name in ``net_input``."""
        found = {
            "encoder": (find_encoder, "src_tokens"),
            "decoder": (find_decoder, "prev_output_tokens"),
        }
        chosen = self.terms.side
        names = list(found) if chosen == "both" else [chosen]
        return [(found[name][0](model), found[name][1]) for name in names]

    def check_model(self, model: nn.Module) -> None:
        """The model needs the injection points."""
        for module, _ in self.sides(model):
            with capture(module, self.point):
                pass

    def compare(
        self, sample: dict[str, Any], kind: Classes, consume: bool = False
    ) -> Divergence:
        """The divergence for this batch, one value per sentence."""
        name, target = self.terms.divergence, sample["target"]
        return kind.divergence(name, target, self.method, consume)

    def climbed(self, sample: dict[str, Any], kind: Classes) -> Divergence | None:
        """What an ascent maximises; None for the divergence itself."""
        return None

    def view(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> tuple[Tensor, View]:
        """The clean pass, and what the regulariser sees of it.

        Encoder and decoder stand side by side along the tokens where both count.
        """
        inner, sides = unwrap(model), self.sides(model)
        extra_pass = dropout_passes(inner, self.terms.dropout)
        with ExitStack() as stack:
            seen = [stack.enter_context(capture(m, self.point)) for m, _ in sides]
            logits = kind.logits(model, sample)
        embedded = [values[0] for values in seen]
        lengths = [value.size(1) for value in embedded]

        def forward(value: Tensor) -> Tensor:
            with ExitStack() as stack:
                stack.enter_context(extra_pass())
                parts = torch.split(value, lengths, 1)
                for (module, _), part in zip(sides, parts, strict=True):
                    stack.enter_context(substitute(module, self.point, part))
                return kind.logits(inner, sample)

        clean = logits
        if self.terms.dropout == "off":
            with extra_pass():
                clean = kind.logits(inner, sample)
        tokens = [(sample["net_input"][name], module) for module, name in sides]
        masks = [token != module.padding_idx for token, module in tokens]
        keys = noise_keys(sample["id"])
        compare = self.compare(sample, kind, consume=True)
        both = torch.cat(embedded, 1), torch.cat(masks, 1)
        climbed = self.climbed(sample, kind)
        return logits, View(forward, *both, clean, keys, compare, climbed)

    def penalised(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> tuple[Tensor, Penalty]:
        """Logits of the clean pass, and the penalty."""
        logits, view = self.view(model, sample, kind)
        return logits, self.regularizer(model)(view)

    def train_outcome(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """Task loss of the clean pass plus lambda times the penalty."""
        logits, penalty = self.penalised(model, sample, kind)
        task_loss = kind.loss(logits, sample["target"])
        divergence = penalty.value.sum()
        self.watch(divergence)
        logged = {"divergence": divergence.detach() / kind.unit, **penalty.logged}
        if penalty.lost is not None:
            self._warn_lost(penalty.lost)
            logged["lost"] = penalty.lost * len(penalty.value)
        logged.update(self._probe(model, sample, kind, logits))
        loss = task_loss + self.terms.strength * divergence
        return Outcome(logits, loss, task_loss, logged)

    def _warn_lost(self, lost: Tensor) -> None:
        if not self._warned and float(lost) > _LOST:
            self._warned = True
            logger.warning(
                "%s: rounding removes %.0f %% of the perturbation's entries at this "
                "precision; use a larger radius or fp32",
                self.method,
                100 * float(lost),
            )

    @torch.no_grad()
    def _probe(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes, logits: Tensor
    ) -> dict[str, Tensor]:
        """Divergence of a pass that differs by its dropout masks alone."""
        every, self._batches = self.terms.probe_interval, self._batches + 1
        due = every > 0 and (self._batches - 1) % every == 0
        if not due or self.terms.dropout != "independent":
            return {}
        with torch.random.fork_rng([logits.device] if logits.is_cuda else []):
            again = kind.logits(unwrap(model), sample)
        found = self.compare(sample, kind)(again, logits).sum() / kind.unit
        return {
            "dropout_divergence": found,
            "probed": torch.full_like(found, kind.size(sample)),
        }
