"""Criterion ``r3f``: noise on the embeddings that arrives."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Optional

from fairseq.criterions import register_criterion
from torch import nn

from ..errors import UserError
from ..flags import one_of, option
from ..presets import Paper
from ..regularizers import DropoutMode, Stopped
from ..regularizers.divergence import Divergence
from ..regularizers.r3f import R3F
from .kinds import Classes, Tokens
from .options import (
    NOISE,
    Noise,
    Side,
    divergence,
    dropout,
    every,
    fraction,
    noise,
    probing,
    radius,
    relative,
    side,
    stop_gradient,
    strength,
    warmup,
)
from .penalty import PenaltyCriterion
from .plain import PlainConfig
from .radii import radius_of


@dataclass
class R3FConfig(PlainConfig):
    """Flags of r3f; sizes are multiples of the embeddings', unless eps is given."""

    r3f_lambda: float = strength(1.0)
    r3f_warmup: float = warmup()
    r3f_eps: Optional[float] = radius(NOISE)
    r3f_eps_relative: float = relative(0.5)
    r3f_noise: Noise = noise("uniform")
    r3f_divergence: str = divergence()
    r3f_reduction: Literal["token", "fairseq"] = option(
        "token",
        "sequence to sequence: token sums over real target tokens; fairseq is its own "
        "criterion's, lambda times the padded target length",
        one_of("token", "fairseq"),
    )
    r3f_live_embeddings: bool = option(
        False, "let the noised pass train the word embeddings too"
    )
    r3f_side: Side = side()
    r3f_dropout: DropoutMode = dropout()
    r3f_probe_interval: int = probing()
    r3f_every: int = every()
    r3f_fraction: float = fraction()
    r3f_stop_gradient: Stopped = stop_gradient()


@register_criterion("r3f", dataclass=R3FConfig)
class R3FCriterion(PenaltyCriterion):
    """Answer as before when words are shifted at random, by noise z.

    Task loss + lambda * sum over items of KL_S(f(e + z), f(e)), e being the word
    embeddings and f the model from them to logits.

    Costs 2 forwards and 2 backwards. See :class:`..regularizers.R3F` for the method
    and its source.
    """

    method = "r3f"
    paper: ClassVar = Paper(
        "arXiv 2008.03156 and its criterion in fairseq; both kinds of noise are tried",
        {
            "r3f_lambda": 1.0,
            "r3f_warmup": 0.0,
            "r3f_eps": 1e-5,
            "r3f_noise": "uniform",
        },
    )
    cfg: R3FConfig

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        cfg = self.cfg
        if cfg.r3f_reduction == "fairseq" and cfg.r3f_fraction < 1:
            raise UserError(
                "--r3f-reduction fairseq counts the padding of whole batches, so it "
                "does not go with --r3f-fraction; leave one of them out"
            )
        tokens = all(isinstance(kind, Tokens) for kind in self.kinds.values())
        if cfg.r3f_reduction == "fairseq" and not tokens:
            raise UserError(
                "--r3f-reduction fairseq is about target tokens; this task has none"
            )
        size, relative = radius_of(cfg, self.method)
        live = cfg.r3f_live_embeddings
        self._r3f = R3F(cfg.r3f_noise, size, live, relative)

    def regularizer(self, model: nn.Module) -> R3F:
        """R3F as its flags say."""
        return self._r3f

    def compare(
        self, sample: dict[str, Any], kind: Classes, consume: bool = False
    ) -> Divergence:
        """Per sentence; by fairseq's reduction if asked for."""
        if self.cfg.r3f_reduction == "token" or not isinstance(kind, Tokens):
            return super().compare(sample, kind, consume)
        return kind.padded_divergence(self.terms.divergence, sample)
