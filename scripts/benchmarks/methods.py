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
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fairseq_steady.tasks  # noqa: F401  registers the criterions
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from noise_radius import inputs, load

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


def seconds(criterion: Any, model: Any, sample: dict[str, Any]) -> float:
    """One forward and backward, gradients dropped."""
    started = time.perf_counter()
    loss, _, _ = criterion(model, sample)
    loss.backward()
    if sample["id"].is_cuda:
        torch.cuda.synchronize()
    taken = time.perf_counter() - started
    model.zero_grad(set_to_none=True)
    return taken


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
    batch = inputs(directory, args.text, args.sentences)
    batch = {name: tensor.to(args.device) for name, tensor in batch.items()}
    count = len(batch["src_tokens"])
    sample = {
        "id": torch.arange(count, device=args.device),
        "net_input": batch,
        "target": torch.arange(count, device=args.device) % 2,
        "ntokens": int(batch["src_lengths"].sum()),
    }
    taken: dict[str, list[float]] = {label: [] for label in cases}
    for turn in range(args.rounds + 1):
        for label, (criterion, model) in cases.items():
            spent = seconds(criterion, model, sample)
            if turn > 0:
                taken[label].append(spent)
    plain = statistics.median(taken["plain"])
    for label, (_, _, (forwards, backwards, short)) in CASES.items():
        own = statistics.median(taken[label])
        floor = (forwards + 2 * backwards + short) / 3
        print(
            f"{label:15} {1e3 * own:7.0f} ms  {own / plain:.2f} x plain"
            f"  (passes alone: {floor:.2f})"
        )


if __name__ == "__main__":
    main()
