"""PATS: noise for the parameters that matter least, on Adamax."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..flags import NOT_NEGATIVE, POSITIVE, PROBABILITY, SHARE, one_of
from ..seeds import seed_of
from .adamax import adamax_, rates
from .base import RANGES, Grouped, pull_share
from .blocks import Piece, blocks
from .sensitivity import follow_

Scale = Literal["absolute", "lr"]
Gate = Literal["ratio", "sensitivity", "none"]
SCALES = one_of("absolute", "lr")
GATES = one_of("ratio", "sensitivity", "none")

#: Bernoulli draws have this resolution.
_BITS = 2**31


@dataclass(frozen=True)
class Preset:
    """One reading of the paper's table of constants, which print without names."""

    noise: float
    gamma: float
    noise_scale: Scale
    gate: Gate
    beta: float = 0.75
    p: float = 0.5


PRESETS = {
    "paper-A": Preset(1e-6, 5e-3, "absolute", "ratio"),
    "paper-B": Preset(5e-3, 1e-6, "lr", "sensitivity"),
}


class PatsAdamax(Grouped):
    """Adamax, then theta += z * n with n ~ N(0, sigma^2) and z ~ Bernoulli(p).

    sigma = noise * mean / (s + guard), with s the averaged sensitivity of an element
    and mean its mean over the same matrix; 0 for the elements that the gate closes.
    Groups with ``in_scope`` false get Adamax alone. Noise is drawn from generators
    seeded by (seed, update, parameter, piece), so that workers never drift apart and
    resuming is exact.

    Source: PATS (arXiv 2210.12403) algorithm 1, eq. 4 and 5, appendix A.2.
    Deviations: the published constants could not be recovered; see :data:`PRESETS`.

    Args:
        params: parameters or groups, one tensor per matrix, fp32 or fp64.
        lr: learning rate, >= 0.
        betas: of Adamax, in [0, 1).
        eps: of Adamax, > 0.
        weight_decay: decoupled, >= 0.
        bias_correction: of Adamax.
        anchor: decoupled pull towards each parameter's value at its first step, >= 0.
        noise: basic noise lambda, >= 0: a standard deviation, or one per unit of
            learning rate.
        gamma: the gate's margin, >= 0.
        beta: decay of the average sensitivity, in [0, 1).
        p: probability of noise, in [0, 1], to 2^-31.
        guard: added to the sensitivity in the ratio, > 0.
        noise_scale: ``absolute``, or ``lr`` to multiply by the learning rate.
        gate: ``ratio`` opens above mean / (s + guard) = gamma, ``sensitivity`` below
            s = gamma, ``none`` always.
        seed: of the noise.

    Raises:
        UserError: a value is out of range.

    """

    ranges: ClassVar = {
        **RANGES,
        "noise": NOT_NEGATIVE,
        "gamma": NOT_NEGATIVE,
        "beta": SHARE,
        "p": PROBABILITY,
        "guard": POSITIVE,
        "noise_scale": SCALES,
        "gate": GATES,
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        anchor: float = 0.0,
        noise: float = 1e-6,
        gamma: float = 5e-3,
        beta: float = 0.75,
        p: float = 0.5,
        guard: float = 1e-8,
        noise_scale: Scale = "absolute",
        gate: Gate = "ratio",
        seed: int = 0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=tuple(betas),
            eps=eps,
            weight_decay=weight_decay,
            bias_correction=bias_correction,
            anchor=anchor,
            noise=noise,
            gamma=gamma,
            beta=beta,
            p=p,
            guard=guard,
            noise_scale=noise_scale,
            gate=gate,
            seed=seed,
            in_scope=True,
        )

    def start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Averages at 0."""
        state: dict[str, Any] = {
            "step": 0,
            "exp_avg": torch.zeros_like(parameter),
            "exp_inf": torch.zeros_like(parameter),
        }
        if group["in_scope"]:
            state["sensitivity"] = torch.zeros_like(parameter)
        return state

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step of the parameters of one group that have gradients."""
        states = [self.state[p] for p in params]
        for state in states:
            state["step"] += 1
        lists = _Lists(
            params,
            [p.grad for p in params],  # type: ignore[misc]
            [s["exp_avg"] for s in states],
            [s["exp_inf"] for s in states],
            [s["sensitivity"] for s in states] if group["in_scope"] else [],
            [s["anchor"] for s in states] if pull_share(group) > 0 else [],
            rates(states, group),
        )
        cut = list(blocks(params))
        sums: list[Tensor] = []
        for block in cut:
            if group["in_scope"]:
                sums += lists.follow(block, group["beta"])
            lists.pull(block, group)
            lists.adamax(block, group)
        if group["in_scope"] and group["noise"] > 0:
            means = _means(params, cut, sums)
            draws = self._draws(params, cut, group)
            for block in cut:
                _add_noise(lists, block, means, draws, group)

    def _draws(
        self, params: list[Tensor], cut: list[list[Piece]], group: dict[str, Any]
    ) -> Iterator[Tensor]:
        """Noise of unit size for every piece, in order, drawn on all cores."""
        everyone = (p for g in self.param_groups for p in g["params"])
        places = {p: i for i, p in enumerate(everyone)}

        def one(piece: Piece) -> Tensor:
            parameter = params[piece.index]
            step = self.state[parameter]["step"]
            words = (group["seed"], step, places[parameter], piece.start)
            return _draw(parameter, piece.end - piece.start, words, group["p"])

        pieces = [piece for block in cut for piece in block]
        workers = torch.get_num_threads()
        if workers == 1 or not params[0].is_cpu:
            return map(one, pieces)
        with ThreadPoolExecutor(workers) as pool:
            return iter(list(pool.map(one, pieces)))


@dataclass(frozen=True)
class _Lists:
    """Tensors of the parameters of one group, in the same order."""

    params: list[Tensor]
    gradients: list[Tensor]
    averages: list[Tensor]
    largest: list[Tensor]
    sensitivities: list[Tensor]
    anchors: list[Tensor]
    rates: list[float]

    def of(self, block: list[Piece], *names: str) -> list[list[Tensor]]:
        """Views of a block's pieces, a list for each name."""
        return [[piece.of(getattr(self, name)) for piece in block] for name in names]

    def follow(self, block: list[Piece], beta: float) -> list[Tensor]:
        """Sensitivities of a block; returns the sum of each piece."""
        s, theta, g = self.of(block, "sensitivities", "params", "gradients")
        follow_(s, theta, g, beta)
        return [piece.sum() for piece in s]

    def pull(self, block: list[Piece], group: dict[str, Any]) -> None:
        """Decay of a block towards its start."""
        if self.anchors:
            theta, anchors = self.of(block, "params", "anchors")
            torch._foreach_lerp_(theta, anchors, pull_share(group))

    def adamax(self, block: list[Piece], group: dict[str, Any]) -> None:
        """Adamax on a block."""
        theta, g, m, u = self.of(block, "params", "gradients", "averages", "largest")
        adamax_(theta, g, m, u, [self.rates[piece.index] for piece in block], group)


def _means(
    params: list[Tensor], cut: list[list[Piece]], sums: list[Tensor]
) -> list[Tensor]:
    """Mean of each matrix from the sums of its pieces."""
    totals = [torch.zeros_like(sums[0]) for _ in params]
    for piece, part in zip((p for block in cut for p in block), sums, strict=True):
        totals[piece.index] = totals[piece.index] + part
    return [total / p.numel() for total, p in zip(totals, params, strict=True)]


def _draw(like: Tensor, size: int, words: Sequence[int], p: float) -> Tensor:
    """z * n with z ~ Bernoulli(p), n ~ N(0, 1), from generators of the piece's own."""
    generator = torch.Generator(like.device).manual_seed(seed_of(*words))
    normal = torch.empty(size, dtype=like.dtype, device=like.device)
    normal.normal_(generator=generator)
    if p == 1:
        return normal
    if like.is_cpu:  # raw words are several times faster than torch's integers
        stream = np.random.SFC64(np.random.SeedSequence(words))
        words64 = stream.random_raw((size + 1) // 2)
        bits = torch.from_numpy(words64.view(np.int32)[:size])
        bits &= _BITS - 1
    else:
        bits = torch.empty(size, dtype=torch.int32, device=like.device)
        bits.random_(0, _BITS, generator=generator)
    # All ones where bits < p * 2^31, else 0: a mask without branches or conversions.
    chosen = bits.sub_(min(round(p * _BITS), _BITS - 1)).bitwise_right_shift_(31)
    if like.dtype == torch.float32:
        normal.view(torch.int32).bitwise_and_(chosen)
        return normal
    return normal * -chosen


def _add_noise(
    lists: _Lists,
    block: list[Piece],
    means: list[Tensor],
    draws: Iterator[Tensor],
    group: dict[str, Any],
) -> None:
    params, sensitivities = lists.of(block, "params", "sensitivities")
    ratios = list(torch._foreach_add(sensitivities, group["guard"]))
    torch._foreach_reciprocal_(ratios)
    if group["gate"] == "sensitivity":
        for inverse in ratios:  # s < gamma, in terms of 1 / (s + guard)
            torch.threshold_(inverse, 1 / (group["gamma"] + group["guard"]), 0)
    torch._foreach_mul_(ratios, [means[piece.index] for piece in block])
    if group["gate"] == "ratio":
        for ratio in ratios:
            torch.threshold_(ratio, group["gamma"], 0)
    scale = group["noise"]
    if group["noise_scale"] == "lr":
        scale *= group["lr"] * group["lr_scale"]
    noise = [next(draws) for _ in block]
    torch._foreach_addcmul_(params, ratios, noise, scale)
