"""Criterions of the form task loss + lambda * divergence of an extra pass."""

import dataclasses
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..regularizers import (
    DropoutMode,
    InjectionPoint,
    Penalty,
    Stopped,
    View,
    capture,
    dropout_passes,
    find_decoder,
    find_encoder,
    noise_keys,
    unwrap,
)
from ..regularizers.cached import PerturbationCache
from ..regularizers.divergence import Divergence
from .choosing import chosen
from .kinds import Classes
from .options import Side
from .passes import Passes
from .plain import Outcome, halved
from .warming import WeightedCriterion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """What the flags of every such criterion say.

    Args:
        strength: lambda.
        divergence: what compares the passes, or ``auto``.
        dropout: masks of the extra passes.
        probe_interval: regularised updates between measurements of dropout's share; 0
            for never.
        side: whose embeddings are perturbed.
        every: updates from one that is regularised to the next.
        fraction: share of the sentences that are regularised, in (0, 1].
        stop_gradient: side of the divergence that is held fixed in backward.

    """

    strength: float
    divergence: str
    dropout: DropoutMode
    probe_interval: int
    side: Side = "encoder"
    every: int = 1
    fraction: float = 1.0
    stop_gradient: Stopped = "none"

    @classmethod
    def of(cls, cfg: Any, method: str) -> "Terms":
        """Read from the flags that begin with a method's name."""
        names = [f.name for f in dataclasses.fields(cls) if f.name != "strength"]
        given = {n: getattr(cfg, f"{method}_{n}", None) for n in names}
        known = {name: value for name, value in given.items() if value is not None}
        return cls(getattr(cfg, f"{method}_lambda"), **known)

    @property
    def weight(self) -> float:
        """Makes up for sentences and updates that are left out."""
        return self.every / self.fraction


class Regularised(NamedTuple):
    """Sentences of a batch that are regularised: all of them, or some.

    Args:
        passes: of these sentences.
        logits: of the clean pass that is trained.
        view: what the regulariser sees.

    """

    passes: Passes
    logits: Tensor
    view: View


class Term(NamedTuple):
    """What is added to the loss of a batch, before :attr:`Terms.weight`."""

    loss: Tensor
    logged: dict[str, Any]
    cost: float


def _cut(logits: Tensor, rows: Tensor, spoken: Tensor) -> Tensor:
    """Logits of some sentences, and of the positions of a target that they need."""
    return logits[rows][:, spoken] if len(spoken) else logits[rows]


def _check_logged(regularizer: Any, penalty: Penalty) -> None:
    """Workers add up what they log, also one that has no sentence to regularise.

    Raises:
        UserError: the method logs what its ``logs`` does not name, or less.

    """
    named, found = set(getattr(regularizer, "logs", ())), set(penalty.logged)
    if named != found:
        raise UserError(
            f"{type(regularizer).__name__} logs {sorted(found)} and names "
            f"{sorted(named)} as its `logs`, which a worker without sentences goes by: "
            "name the same, as in regularizers/r3f.py"
        )


class PenaltyCriterion(WeightedCriterion):
    """The clean pass through the distributed wrapper, every other past it.

    A subclass names its injection point and builds its regulariser; its flags are
    those of :class:`Terms` and its own, each prefixed with the method.
    """

    point: ClassVar[InjectionPoint] = "word"

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        self.terms = Terms.of(self.cfg, self.method)
        self.check_divergence("divergence")
        self._check_stop_gradient()
        #: updates that were regularised, and whether none of this one's batches was yet
        self._updates, self._first = 0, True

    def _check_stop_gradient(self) -> None:
        name = self.method
        live = getattr(self.cfg, f"{name}_live_embeddings", False)
        if live and self.terms.stop_gradient == "perturbed":
            raise UserError(
                f"--{name}-live-embeddings trains the word embeddings through the "
                f"perturbed pass, and --{name}-stop-gradient perturbed stops its "
                "gradient; leave one of them out"
            )
        masks = self.terms.dropout
        if self.terms.stop_gradient == "perturbed" and masks != "independent":
            logger.warning(
                "--%s-stop-gradient perturbed leaves next to nothing of the gradient "
                "where --%s-dropout is %s: the perturbed side has it; use clean, or "
                "independent masks",
                *(name.replace("_", "-"), name.replace("_", "-"), masks),
            )

    def before_update(self, model: nn.Module, update: int) -> None:
        """An update begins."""
        super().before_update(model, update)
        self._first = True

    @property
    def at_work(self) -> bool:
        """Whether there is anything to add in this update."""
        return self.strength > 0

    def regularizer(self, model: nn.Module) -> Callable[[View], Penalty]:
        """The method as its flags say, at the precision of the model."""
        raise NotImplementedError

    def sums(self, model: nn.Module) -> tuple[str, ...]:
        """What is logged of the sentences that are regularised."""
        logs = getattr(self.regularizer(model), "logs", ())
        return ("divergence", *logs, *(("lost",) if halved(model) else ()))

    def sides(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        """Each module that embeds perturbed tokens, and their name in ``net_input``."""
        found = {
            "encoder": (find_encoder, "src_tokens"),
            "decoder": (find_decoder, "prev_output_tokens"),
        }
        side = self.terms.side
        names = list(found) if side == "both" else [side]
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
        return kind.divergence(self.terms.divergence, sample["target"], consume)

    def climbed(self, sample: dict[str, Any], kind: Classes) -> Divergence | None:
        """What an ascent maximises; None for the divergence itself."""
        return None

    def clean(
        self,
        model: nn.Module,
        sample: dict[str, Any],
        kind: Classes,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Regularised]:
        """The clean pass, and what the regulariser sees of it, or of some of it.

        Encoder and decoder stand side by side along the tokens where both count.
        """
        inner, sides = unwrap(model), self.sides(model)
        dropped = dropout_passes(inner, self.terms.dropout)
        with ExitStack() as stack:
            seen = [stack.enter_context(capture(m, self.point)) for m, _ in sides]
            logits = kind.logits(model, sample)
        if rows is not None:
            # Masks of the whole batch do not fit some of it.
            dropped = dropout_passes(inner, self.terms.dropout)
        passes = Passes(inner, kind, sample, sides, self.point, dropped)
        # The encoder has each choice of a sentence as a row of its own.
        shapes = [sample["net_input"][name].shape for _, name in sides]
        found = [x[0].view(*s, -1) for x, s in zip(seen, shapes, strict=True)]
        embedded = torch.cat(found, 1)
        if rows is None:
            some, live = passes, logits
        else:
            some, columns, spoken = passes.some(rows)
            embedded, live = embedded[rows][:, columns], _cut(logits, rows, spoken)
        again = self.terms.dropout == "off" or (
            self.terms.dropout == "shared" and rows is not None
        )
        clean = live
        if again and self.strength > 0:
            with torch.set_grad_enabled(self.terms.stop_gradient != "clean"):
                clean = some.clean()
        return logits, Regularised(some, live, self._view(some, embedded, live, clean))

    def _view(
        self, passes: Passes, embedded: Tensor, live: Tensor, clean: Tensor
    ) -> View:
        """What the regulariser sees of these passes."""
        sample, kind = passes.sample, passes.kind

        def some(rows: Tensor) -> tuple[View, Tensor]:
            """For an ascent, which needs no gradient of the clean pass."""
            part, columns, spoken = passes.some(rows)
            cut = here = _cut(clean.detach(), rows, spoken)
            if self.terms.dropout == "shared":
                with torch.no_grad():
                    cut = part.clean()
            fewer = embedded.detach()[rows][:, columns]
            return self._view(part, fewer, here, cut), columns

        repeated = 0.0 if clean is live else 1.0 if clean.requires_grad else 1 / 3
        return View(
            passes.forward,
            embedded,
            passes.mask(),
            clean,
            noise_keys(sample["id"]),
            self.compare(sample, kind, consume=True),
            self.climbed(sample, kind),
            self.terms.stop_gradient,
            repeated,
            sample["id"],
            self.cache_of(sample),
            some,
        )

    def cache_of(self, sample: dict[str, Any]) -> PerturbationCache | None:
        """Where perturbations of a batch are kept; None where each is sought anew."""
        return None

    def term(self, model: nn.Module, seen: Regularised) -> Term:
        """Lambda times the penalty, and what to log of it."""
        regularizer = self.regularizer(model)
        penalty = regularizer(seen.view)
        _check_logged(regularizer, penalty)
        divergence = penalty.value.sum()
        self.watch(divergence)
        unit = seen.passes.kind.unit * self.terms.fraction
        logged = {"divergence": divergence.detach() / unit, **penalty.logged}
        logged |= self.lost(penalty.lost, len(penalty.value))
        return Term(self.strength * divergence, logged, penalty.cost)

    def train_outcome(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """Task loss of the clean pass plus lambda times the penalty."""
        if not self.at_work:
            return self.left_out(model, sample, kind)
        ids, terms = sample["id"], self.terms
        rows, total = chosen(ids, self.update, terms.every, terms.fraction), len(ids)
        count = total if rows is None else len(rows)
        if not count:
            return self._none_chosen(model, sample, kind)
        logits, seen = self.clean(model, sample, kind, rows)
        term = self.term(model, seen)
        task_loss = kind.loss(logits, sample["target"])
        logged = {**term.logged, **self._probe(model, sample, kind, logits)}
        logged |= {"regularised": count, "passes": total + count * term.cost}
        logged |= self.rising(total)
        loss = task_loss + terms.weight * term.loss
        return Outcome(logits, loss, task_loss, logged)

    def _none_chosen(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes
    ) -> Outcome:
        """A batch without sentences of its update that are regularised."""
        outcome = self.left_out(model, sample, kind)
        logged = outcome.logged
        if self.update % self.terms.every == 0:
            # Workers add up what they log, and another may have chosen sentences.
            nothing = torch.zeros_like(outcome.loss.detach())
            logged |= dict.fromkeys(self.sums(model), nothing)
            logged |= self._probe(model, sample, kind, outcome.logits)
        return outcome._replace(logged=logged)

    @torch.no_grad()
    def _probe(
        self, model: nn.Module, sample: dict[str, Any], kind: Classes, logits: Tensor
    ) -> dict[str, Tensor]:
        """Divergence of a pass that differs by its dropout masks alone.

        In an update's first batch: workers add up what that one logs.
        """
        every, first = self.terms.probe_interval, self._first
        due = first and every > 0 and self._updates % every == 0
        due = due and self.strength > 0
        self._updates, self._first = self._updates + first, False
        if not due or self.terms.dropout != "independent":
            return {}
        with torch.random.fork_rng([logits.device] if logits.is_cuda else []):
            again = kind.logits(unwrap(model), sample)
        found = self.compare(sample, kind)(again, logits).sum() / kind.unit
        return {
            "dropout_divergence": found,
            "probed": torch.full_like(found, kind.size(sample)),
        }
