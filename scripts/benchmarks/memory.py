"""Peak memory of R3F's divergence at CNN/DM's size, ours against fairseq's.

    python scripts/benchmarks/memory.py [TOKENS] [TYPES] [--device cpu]

One update of a linear layer over TYPES words on TOKENS target tokens, each form in a
process of its own: cross-entropy alone, with fairseq's symmetric KL, with
ours in chunks. Shown are peaks above cross-entropy's, in fp32 tensors of tokens x
types; one of them is the noised pass's own logits.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable

import torch
from fairseq_steady.regularizers import DIVERGENCES, chunked
from torch import Tensor
from torch.nn import functional as F

_WIDTH, _SENTENCE = 64, 64


def fairseq(noised: Tensor, clean: Tensor, real: Tensor) -> Tensor:
    """The formula of fairseq's label_smoothed_cross_entropy_r3f."""
    one, other = (x.log_softmax(-1, dtype=torch.float32) for x in (noised, clean))
    p, q = (x.softmax(-1, dtype=torch.float32) for x in (noised, clean))
    return F.kl_div(one, q, reduction="sum") + F.kl_div(other, p, reduction="sum")


def ours(noised: Tensor, clean: Tensor, real: Tensor) -> Tensor:
    """Chunks of tokens, computed again in backward."""
    each: Tensor = chunked(DIVERGENCES["sym_kl"], noised, clean, real, consume=True)
    return each.sum()


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor] | None] = {
    "cross-entropy": None,
    "fairseq": fairseq,
    "ours": ours,
}


def held() -> float:
    """Bytes at most, until now: of the GPU's memory, or the process's resident."""
    if torch.get_default_device().type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak(form: str, tokens: int, types: int) -> float:
    """Bytes that one update adds, at most."""
    torch.manual_seed(0)
    before = held()
    weight = torch.randn(types, _WIDTH, requires_grad=True)
    hidden = torch.randn(tokens // _SENTENCE, _SENTENCE, _WIDTH)
    target = torch.randint(types, hidden.shape[:2])
    clean, divergence = F.linear(hidden, weight), FORMS[form]
    loss = torch.zeros(())
    if divergence is not None:
        noised = F.linear(hidden + 0.1 * torch.randn_like(hidden), weight)
        loss = divergence(noised, clean, torch.ones_like(target, dtype=torch.bool))
        del noised
    loss = loss + F.cross_entropy(
        clean.flatten(0, 1), target.flatten(), reduction="sum", label_smoothing=0.1
    )
    loss.backward()
    return held() - before


def main() -> None:
    """Measure each form in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", nargs="?", type=int, default=2048)
    parser.add_argument("types", nargs="?", type=int, default=50264)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--form", choices=list(FORMS), help="measure this one here")
    args = parser.parse_args()
    if args.form:
        torch.set_default_device(args.device)
        print(peak(args.form, args.tokens, args.types))
        return
    found = {}
    for form in FORMS:
        sizes = [str(args.tokens), str(args.types), "--device", args.device]
        command = [sys.executable, __file__, *sizes, "--form", form]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[form] = float(done.stdout.split()[-1])
    unit = 4.0 * args.tokens * args.types
    print(f"one tensor: {unit / 2**20:.0f} MB")
    for form, size in found.items():
        more = (size - found["cross-entropy"]) / unit
        print(f"{form:14} {size / 2**20:6.0f} MB, {more:+.2f} tensors")


if __name__ == "__main__":
    main()
