"""Time of a training batch under each criterion, as ratios measured in one run.

    python scripts/benchmarks/methods.py MODEL TEXT [--rounds 8] [--device cpu]

MODEL is a model directory, TEXT a file with a sentence a line. The floor counts a
forward as 1, a backward as 2, a backward to the embeddings alone as 1, over plain's 3.
Each round runs every criterion once, in turn, so that a busy machine slows all of them.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fairseq_steady.tasks  # noqa: F401  registers the criterions
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from noise_radius import inputs, load
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from method_table import METHODS

#: What is timed: a criterion, its flags, and its passes; see the table.
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    name: (name, {f"{name}_probe_interval": 0} if row.divergence else {}, row.passes)
    for name, row in METHODS.items()
}
CASES["smart, teacher"] = (
    "smart",
    {"smart_probe_interval": 0, "smart_bregman": "momentum"},
    (4, 2, 1),
)


def make(name: str, flags: dict[str, Any]) -> Any:
    """A criterion in training mode."""
    cfg = CRITERION_DATACLASS_REGISTRY[name](**flags)
    cfg.sentence_avg, cfg.max_update = False, 100
    task = SimpleNamespace(regression=False, num_classes=2, target_dictionary=None)
    return CRITERION_REGISTRY[name](cfg, task).train()


def batch(tensors: dict[str, Tensor], device: str) -> dict[str, Any]:
    """What a criterion is given, with labels 0 and 1 in turn."""
    count = len(tensors["src_tokens"])
    return {
        "id": torch.arange(count, device=device),
        "net_input": {name: tensor.to(device) for name, tensor in tensors.items()},
        "target": torch.arange(count, device=device) % 2,
        "ntokens": int(tensors["src_lengths"].sum()),
    }


def seconds(loss: Callable[[], Tensor], model: nn.Module) -> float:
    """One forward and backward, gradients dropped; of one CPU thread processor time."""
    gpu = next(model.parameters()).is_cuda
    alone = not gpu and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    started = clock()
    loss().backward()
    if gpu:
        torch.cuda.synchronize()
    taken = clock() - started
    model.zero_grad(set_to_none=True)
    return taken


def loss_of(criterion: Any, model: Any, sample: dict[str, Any]) -> Tensor:
    """What a criterion makes of a batch."""
    loss: Tensor = criterion(model, sample)[0]
    return loss


def floor(passes: tuple[int, int, int]) -> float:
    """Passes of a batch over plain's."""
    forwards, backwards, short = passes
    return (forwards + 2 * backwards + short) / 3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("text", type=Path, help="a sentence a line")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--sentences", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    cases = {}
    for label, (name, flags, _) in CASES.items():
        model, directory = load(args.model)  # r4f changes its model
        criterion = make(name, flags)
        criterion.check_model(model)
        criterion.prepare_model(model)
        cases[label] = (criterion, model.to(args.device).train())
    sample = batch(inputs(directory, args.text, args.sentences), args.device)
    taken: dict[str, list[float]] = {label: [] for label in cases}
    for turn in range(args.rounds + 1):
        for label, (criterion, model) in cases.items():
            spent = seconds(partial(loss_of, criterion, model, sample), model)
            if turn > 0:
                taken[label].append(spent)
    plain = statistics.median(taken["plain"])
    for label, (_, _, passes) in CASES.items():
        own = statistics.median(taken[label])
        print(
            f"{label:15} {1e3 * own:7.0f} ms  {own / plain:.2f} x plain"
            f"  (passes alone: {floor(passes):.2f})"
        )


if __name__ == "__main__":
    main()
