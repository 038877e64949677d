"""Time of a training batch in bf16 (--steady-autocast) over the same in fp32.

    python scripts/benchmarks/autocast.py MODEL TEXT [--methods plain sift] [--peer HF]

MODEL is a model directory, TEXT a file with a sentence a line, HF the folder of the
same weights for transformers, whose own plain batch in fp32 is timed beside ours. Each
round runs everything once, in turn; what counts is the CPU's time, so that other
programs disturb less. One thread by default. The weights' cast to bf16 is part of it,
the optimizer's step is not.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairseq_steady.precision import Autocast, prepare, unsupported
from methods import CASES, make
from noise_radius import inputs, load
from torch import Tensor, nn

PRECISIONS = {"fp32": Autocast(), "bf16": Autocast("cpu", torch.bfloat16)}


def ours(path: Path, name: str, under: Autocast) -> tuple[nn.Module, Any]:
    """A model in training mode, and what gives the loss of a sample."""
    method, flags, _ = CASES[name]
    model, _ = load(path)
    if under.dtype:
        prepare(model)
    criterion = make(method, flags)
    criterion.prepare_model(model)
    around = under.around(criterion)
    return model.train(), lambda sample: around(model, sample)[0]


def transformers(path: Path, sample: dict[str, Any]) -> tuple[nn.Module, Any]:
    """The same of transformers, whose batch is given a mask."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=2, dtype=torch.float32
    )
    tokens = sample["net_input"]["src_tokens"]
    real = tokens.ne(1)
    # Our dictionary numbers the same words otherwise; time does not depend on them.
    given = {"input_ids": tokens * real, "attention_mask": real.long()}
    return model.train(), lambda sample: model(**given, labels=sample["target"]).loss


def seconds(model: nn.Module, loss: Callable[[Any], Tensor], sample: Any) -> float:
    """One forward and backward, gradients dropped."""
    started = time.process_time()
    loss(sample).backward()
    taken = time.process_time() - started
    model.zero_grad(set_to_none=True)
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("text", type=Path, help="a sentence a line")
    parser.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--peer", type=Path, help="the same for transformers")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--sentences", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if reason := unsupported("cpu"):
        print(f"{reason}: expect bf16 to be slower")
    batch = inputs(load(args.model)[1], args.text, args.sentences)
    count = len(batch["src_tokens"])
    sample = {
        "id": torch.arange(count),
        "net_input": batch,
        "target": torch.arange(count) % 2,
        "ntokens": int(batch["src_lengths"].sum()),
    }
    cases = {
        (name, precision): partial(seconds, *ours(args.model, name, under))
        for name in args.methods
        for precision, under in PRECISIONS.items()
    }
    if args.peer:
        cases["transformers", "fp32"] = partial(
            seconds, *transformers(args.peer, sample)
        )
    taken: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for turn in range(args.rounds + 1):
        for case, measure in cases.items():
            spent = measure(sample)
            if turn > 0:
                taken[case].append(spent)
    medians = {case: statistics.median(spent) for case, spent in taken.items()}
    peer = medians.get(("transformers", "fp32"))
    for name in args.methods.split(","):
        exact, half = medians[name, "fp32"], medians[name, "bf16"]
        beside = f"  {half / peer:.2f} x transformers" if peer else ""
        print(
            f"{name:15} {1e3 * exact:6.0f} -> {1e3 * half:5.0f} ms  "
            f"{half / exact:.2f} x fp32{beside}"
        )


if __name__ == "__main__":
    main()
