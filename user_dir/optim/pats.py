"""PATS: noise for the parameters that matter least, on Adamax."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..flags import NOT_NEGATIVE, POSITIVE, PROBABILITY, SHARE, one_of
from ..seeds import seed_of
from .adamax import adamax_, rates
from .base import RANGES, Grouped
from .blocks import Piece, Run, blocks, runs
from .lists import Lists

Array = np.ndarray[Any, Any]
DType = np.dtype[Any]
Scale = Literal["absolute", "lr"]
Gate = Literal["ratio", "sensitivity", "none"]
SCALES = one_of("absolute", "lr")
GATES = one_of("ratio", "sensitivity", "none")

#: Bernoulli draws have this resolution.
_BITS = 2**31
#: Elements that torch sums in one thread, however many it has.
_STRETCH = 2**14
#: Elements that are drawn at once on a GPU.
_PART = 2**24


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
    Groups with ``in_scope`` false get Adamax alone; other keys are as in
    :class:`BertAdam`. Noise is drawn from generators
    seeded by (seed, update, parameter, piece), on a GPU of the first parameter of a
    group, so that workers never drift apart and resuming is exact.

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
        seed: of the noise, >= 0.

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
        "seed": NOT_NEGATIVE,
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
        """Averages at 0.

        Raises:
            UserError: the parameter is in half precision.

        """
        if parameter.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"PatsAdamax takes fp32 or fp64, not {parameter.dtype}, in which its "
                "noise has no digits: keep fp32 weights, and compute under autocast"
            )
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
        lists = Lists.of_states(params, states, "exp_inf", group)
        every = rates(states, group)
        draw = self._drawer(params, group)
        workers = torch.get_num_threads() if params[0].is_cpu else 1
        with ThreadPoolExecutor(workers) as pool:
            # Threads that draw between operations keep waking torch's: draw all first.
            for run in runs(params) if workers == 1 else [list(blocks(params))]:
                sums = _adamax(lists, run, every, group)
                if group["in_scope"] and group["noise"] > 0:
                    pieces = [piece for block in run for piece in block]
                    sizes = [piece.size for piece in pieces]
                    draws: Iterable[Tensor] = map(draw, pieces, sizes)
                    if workers > 1:
                        draws = list(pool.map(draw, pieces, sizes))
                    elif _on_one_gpu(params):  # a few launches in place of hundreds
                        draws = draw(pieces[0], sum(sizes)).split(sizes)
                    _add_noise(lists, run, _means(params, sums), iter(draws), group)

    def _drawer(
        self, params: list[Tensor], group: dict[str, Any]
    ) -> Callable[[Piece, int], Tensor]:
        """What draws noise of unit size from a piece of these parameters on."""
        everyone = (p for g in self.param_groups for p in g["params"])
        places = {p: i for i, p in enumerate(everyone)}

        def draw(piece: Piece, size: int) -> Tensor:
            parameter = params[piece.index]
            step = self.state[parameter]["step"]
            words = (group["seed"], step, places[parameter], piece.start)
            return _draw(parameter, size, words, group["p"])

        return draw


def _on_one_gpu(params: list[Tensor]) -> bool:
    return not params[0].is_cpu and len({(p.device, p.dtype) for p in params}) == 1


def _adamax(
    lists: Lists, run: Run, every: Sequence[float], group: Mapping[str, Any]
) -> dict[int, list[Tensor]]:
    """Adamax on a run; returns the partial sums of each matrix's sensitivities."""
    sums: dict[int, list[Tensor]] = {}
    for block in run:
        if group["in_scope"]:
            _, averages = lists.follow(block, group["beta"])
            for piece, some in zip(block, _sums(averages), strict=True):
                sums.setdefault(piece.index, []).append(some)
        lists.pull(block, group)
        own = [every[piece.index] for piece in block]
        adamax_(*lists.main(block), own, group)
    return sums


def _sums(averages: list[Tensor]) -> list[Tensor]:
    """Partial sums of each, which has no negative element."""
    if averages[0].is_cpu:
        return [_partial_sums(values) for values in averages]
    return [norm.view(1) for norm in torch._foreach_norm(averages, 1)]


def _partial_sums(values: Tensor) -> Tensor:
    """Of stretches that torch never cuts up among threads."""
    if values.numel() <= _STRETCH:
        return values.sum().view(1)
    flat = values.reshape(-1)
    whole = flat.numel() // _STRETCH * _STRETCH
    sums = flat[:whole].view(-1, _STRETCH).sum(1)
    if whole == flat.numel():
        return sums
    return torch.cat([sums, flat[whole:].sum().view(1)])


def _means(params: list[Tensor], sums: dict[int, list[Tensor]]) -> dict[int, Tensor]:
    """Mean of each matrix from its partial sums."""
    return {i: torch.cat(some).sum() / params[i].numel() for i, some in sums.items()}


def _draw(like: Tensor, size: int, words: Sequence[int], p: float) -> Tensor:
    """z * n with z ~ Bernoulli(p), n ~ N(0, 1), from a generator of the piece's own."""
    if like.is_cpu:
        kind = np.dtype(str(like.dtype).removeprefix("torch."))
        return torch.from_numpy(_draw_here(size, words, p, kind))
    return _draw_there(like, size, words, p)


def _draw_there(like: Tensor, size: int, words: Sequence[int], p: float) -> Tensor:
    """The same by torch, where ``like`` is, in parts that take little memory."""
    generator = torch.Generator(like.device).manual_seed(seed_of(*words))
    drawn = torch.empty(size, dtype=like.dtype, device=like.device)
    for part in drawn.split(_PART):
        part.normal_(generator=generator)
        if p < 1:
            bits = torch.empty(len(part), dtype=torch.int32, device=like.device)
            bits.random_(0, _BITS, generator=generator)
            part.mul_(bits < min(round(p * _BITS), _BITS - 1))
    return drawn


def _draw_here(size: int, words: Sequence[int], p: float, kind: DType) -> Array:
    """The same on a CPU, in whole arrays, which torch's generator does not draw."""
    stream = np.random.SFC64(np.random.SeedSequence(words))
    drawn = _normal(stream, size, kind)
    if p == 1:
        return drawn
    chosen = _bernoulli(stream, size, p)
    if kind != np.float32:
        return np.asarray(drawn * chosen)
    # A mask of all ones or zeros takes no conversion to float.
    masked = drawn.view(np.int32)
    masked &= -chosen.astype(np.int32)
    return drawn


def _bernoulli(stream: np.random.SFC64, size: int, p: float) -> Array:
    """1 with probability p, else 0, from a byte each: most are decided by 8 bits."""
    limit = round(p * _BITS)
    drawn = stream.random_raw((size + 7) // 8).view(np.uint8)[:size]
    chosen = (drawn < limit >> 23).view(np.int8)
    if limit % 2**23:
        ties = np.flatnonzero(drawn == limit >> 23)
        rest = stream.random_raw(len(ties)) % 2**23
        chosen[ties] = rest < limit % 2**23
    return chosen


def _normal(stream: np.random.SFC64, size: int, kind: DType) -> Array:
    """N(0, 1), two from each 64 bits of a stream.

    Source: Box and Muller (1958), A note on the generation of random normal deviates.
    """
    half = (size + 1) // 2
    bits = stream.random_raw(half).view(np.int32)
    radius, angle = bits[:half].astype(kind), bits[half:].astype(kind)
    # In (0, 1] once scaled, and finest near 0, where the tails are.
    np.abs(radius, out=radius)
    radius += 0.25
    radius /= 2.0**31 + 0.25
    np.log(radius, out=radius)
    radius *= -2
    np.sqrt(radius, out=radius)
    angle *= math.pi * 2.0**-31
    drawn = np.empty((2, half), kind)
    np.cos(angle, out=drawn[0])
    np.sin(angle, out=drawn[1])
    drawn *= radius
    return drawn.reshape(-1)[:size]


def _add_noise(
    lists: Lists,
    run: Run,
    means: Mapping[int, Tensor],
    draws: Iterator[Tensor],
    group: Mapping[str, Any],
) -> None:
    scale = group["noise"]
    if group["noise_scale"] == "lr":
        scale *= float(group["lr"]) * group["lr_scale"]
    for block in run:
        params, sensitivities = lists.of(block, "params", "sensitivities")
        ratios = _ratios(sensitivities, [means[piece.index] for piece in block], group)
        noise = [next(draws).view_as(p) for p in params]
        torch._foreach_addcmul_(params, ratios, noise, scale)


def _ratios(
    sensitivities: list[Tensor], means: list[Tensor], group: Mapping[str, Any]
) -> list[Tensor]:
    """mean / (s + guard), 0 where the gate is closed."""
    ratios = list(torch._foreach_add(sensitivities, group["guard"]))
    torch._foreach_reciprocal_(ratios)
    if group["gate"] == "sensitivity":
        for inverse in ratios:  # s < gamma, in terms of 1 / (s + guard)
            torch.threshold_(inverse, 1 / (group["gamma"] + group["guard"]), 0)
    torch._foreach_mul_(ratios, means)
    if group["gate"] == "ratio":
        for ratio in ratios:
            torch.threshold_(ratio, group["gamma"], 0)
    return ratios
