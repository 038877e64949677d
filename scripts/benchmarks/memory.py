"""Memory and time of R3F's divergence at CNN/DM's size, ours against fairseq's.

    python scripts/benchmarks/memory.py [TOKENS] [TYPES] [--device cuda]

One update of a linear layer over TYPES words on TOKENS target tokens, each form in a
process of its own: cross-entropy alone, with fairseq's symmetric KL, with ours
(chunks on the CPU, the Triton kernel on CUDA), and with ours differentiated chunk by
chunk, as without a closed form. Shown are peaks above cross-entropy's, in fp32 tensors
of tokens x types, one of them being the noised pass's own logits; and seconds of the
divergence's forward and of all of backward, medians of three updates.
"""

import argparse
import functools
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from fairseq_steady.regularizers import DIVERGENCES, chunked, kernels
from torch import Tensor
from torch.nn import functional as F

_WIDTH, _SENTENCE, _UPDATES = 64, 64, 3


def fairseq(noised: Tensor, clean: Tensor, real: Tensor) -> Tensor:
    """The formula of fairseq's label_smoothed_cross_entropy_r3f."""
    one, other = (x.log_softmax(-1, dtype=torch.float32) for x in (noised, clean))
    p, q = (x.softmax(-1, dtype=torch.float32) for x in (noised, clean))
    return F.kl_div(one, q, reduction="sum") + F.kl_div(other, p, reduction="sum")


def ours(noised: Tensor, clean: Tensor, real: Tensor) -> Tensor:
    """The closed form."""
    each: Tensor = chunked(DIVERGENCES["sym_kl"], noised, clean, real, consume=True)
    return each.sum()


def differentiated(noised: Tensor, clean: Tensor, real: Tensor) -> Tensor:
    """Chunks of tokens, computed again and differentiated in backward."""

    measure = functools.partial(DIVERGENCES["sym_kl"])  # not known by its name
    each: Tensor = chunked(measure, noised, clean, real, consume=True)
    return each.sum()


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor] | None] = {
    "cross-entropy": None,
    "fairseq": fairseq,
    "differentiated": differentiated,
    "ours": ours,
}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def update(form: str, weight: Tensor, hidden: Tensor, target: Tensor) -> list[float]:
    """Seconds of the divergence, and of backward."""
    clean, divergence = F.linear(hidden, weight), FORMS[form]
    loss, began = torch.zeros((), device=hidden.device), _now(hidden.device)
    if divergence is not None:
        noised = F.linear(hidden + 0.1 * torch.randn_like(hidden), weight)
        began = _now(hidden.device)
        loss = divergence(noised, clean, torch.ones_like(target, dtype=torch.bool))
        del noised
    forward = _now(hidden.device) - began
    loss = loss + F.cross_entropy(
        clean.flatten(0, 1), target.flatten(), reduction="sum", label_smoothing=0.1
    )
    began = _now(hidden.device)
    loss.backward()
    return [forward, _now(hidden.device) - began]


def measured(form: str, tokens: int, types: int, device: torch.device) -> list[float]:
    """Bytes that an update adds at most, and its seconds, forward and backward."""
    torch.manual_seed(0)
    kernels.unavailable(device)  # compiles it
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = _peak(device)
    weight = torch.randn(types, _WIDTH, device=device, requires_grad=True)
    hidden = torch.randn(tokens // _SENTENCE, _SENTENCE, _WIDTH, device=device)
    target = torch.randint(types, hidden.shape[:2], device=device)
    seconds, peak = [], 0.0
    for _ in range(_UPDATES):
        seconds.append(update(form, weight, hidden, target))
        peak = peak or _peak(device) - before  # later ones may find memory in pieces
    return [peak, *map(statistics.median, zip(*seconds, strict=True))]


def main() -> None:
    """Measure each form in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", nargs="?", type=int, default=2048)
    parser.add_argument("types", nargs="?", type=int, default=50264)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--form", choices=list(FORMS), help="measure this one here")
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.form:
        print(*measured(args.form, args.tokens, args.types, device))
        return
    found = {}
    for form in FORMS:
        given = [str(args.tokens), str(args.types), "--device", args.device]
        command = [sys.executable, __file__, *given, "--form", form]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[form] = [float(word) for word in done.stdout.splitlines()[-1].split()]
    unit = 4.0 * args.tokens * args.types
    print(f"kernel: {kernels.unavailable(device) or 'in use'}")
    print(f"one tensor: {unit / 2**20:.0f} MB")
    for form, (size, forward, backward) in found.items():
        more = (size - found["cross-entropy"][0]) / unit
        print(
            f"{form:14} {size / 2**20:6.0f} MB, {more:+.2f} tensors,"
            f" {forward:.2f} s + {backward:.2f} s"
        )


if __name__ == "__main__":
    main()
