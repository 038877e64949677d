"""The mean of several checkpoints' weights, evaluated as fairseq-train evaluates.

    python -m fairseq_steady.inference.averaging CHECKPOINT CHECKPOINT ... -- \\
        DATA --task cola --steady-model DIR --steady-record OUT --save-dir OUT

What follows -- are the flags of fairseq-train that the checkpoints were trained with.
The mean is left as checkpoint_best.pt in --save-dir.

Source: uniform soup, Wortsman et al. (arXiv 2203.05482), algorithm of section 2.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from fairseq_cli.train import validate
from torch import Tensor

from .. import tasks as plugin  # noqa: F401  registers everything
from ..errors import UserError, install_excepthook
from ..files import whole_file
from ..patches.checkpoints import AVERAGED, KEPT_FILES, load_checked
from ..patches.durable import check_writable
from ..regularizers.spectral import EXTRA
from .loading import train_nothing

BEST = "checkpoint_best.pt"
_Weights = dict[str, Tensor]


def mean_weights(paths: Sequence[Path]) -> dict[str, Any]:
    """The first checkpoint with the mean of all weights, and no past of its own.

    Sums are in float64; what is no weight, as counts, is the first one's. Of a head
    that r4f bounds it is the mean of the bounded matrices; what resuming needs is left
    out.

    Raises:
        UserError: a checkpoint cannot be read, or is of another model or other classes.

    """
    state = load_checked(paths[0])
    first = _plain(state)
    floats = {name: w.double() for name, w in first.items() if w.is_floating_point()}
    for path in paths[1:]:
        other = load_checked(path)
        _check(first, _plain(other), paths[0], path)
        if _heads(other) != _heads(state):
            raise UserError(
                f"{path} has heads for {_heads(other)}, and {paths[0]} for "
                f"{_heads(state)}: they have no mean"
            )
        for name in floats:
            floats[name] += other["model"][name]
    mean = {name: (w / len(paths)).to(first[name].dtype) for name, w in floats.items()}
    kept = (state.get("extra_state") or {}).get(KEPT_FILES, {})
    return {
        **state,
        "model": first | mean,
        "extra_state": {KEPT_FILES: kept, AVERAGED: len(paths)},
        "last_optimizer_state": None,
    }


def _plain(state: dict[str, Any]) -> _Weights:
    return {k: w for k, w in state["model"].items() if not k.endswith(EXTRA)}


def _heads(state: dict[str, Any]) -> Any:
    """What a checkpoint keeps of them; older ones had the classes alone."""
    kept = state.get("task_state") or {}
    return kept.get("heads", kept.get("labels"))


def _check(first: _Weights, other: _Weights, path: Path, another: Path) -> None:
    """Refuse weights that do not lie over each other."""
    shapes, others = ({n: w.shape for n, w in ws.items()} for ws in (first, other))
    for name in sorted({*shapes, *others}):
        if shapes.get(name) != others.get(name):
            raise UserError(
                f"{another} is of another model than {path}: {name} is "
                f"{_said(others.get(name))}, not {_said(shapes.get(name))}"
            )


def _said(shape: torch.Size | None) -> str:
    return "not there" if shape is None else f"of shape {tuple(shape)}"


def evaluate(cfg: Any, weights: _Weights) -> None:
    """Evaluate weights on ``--valid-subset``; the task records it."""
    train_nothing(cfg)
    cfg.distributed_training.distributed_world_size = 1
    task: Any = tasks.setup_task(cfg.task)
    # As predict builds it: nothing pretrained, re-initialised or bounded.
    model = task.build_model(cfg.model, from_checkpoint=True)
    criterion = task.build_criterion(cfg.criterion)
    subsets = cfg.dataset.valid_subset.split(",")
    for subset in subsets:
        task.load_dataset(subset)
    trainer = Trainer(cfg, task, model, criterion)
    trainer.get_model().load_state_dict(weights, strict=True)
    validate(cfg, trainer, task, SimpleNamespace(epoch=1), subsets)


def main() -> None:
    """Average, write, evaluate."""
    install_excepthook()
    program, *words = sys.argv
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return
    place = words.index("--") if "--" in words else 0
    if not place:
        raise UserError(
            "name checkpoints, then -- and fairseq-train's flags: python -m "
            "fairseq_steady.inference.averaging CHECKPOINT CHECKPOINT ... -- DATA ..."
        )
    sys.argv = [program, *words[place + 1 :]]  # where fairseq looks for --user-dir
    args = options.parse_args_and_arch(options.get_training_parser())
    cfg = convert_namespace_to_omegaconf(args)
    paths = [Path(path) for path in words[:place]]
    path = Path(cfg.checkpoint.save_dir) / BEST
    if path.resolve() in (each.resolve() for each in paths):
        raise UserError(f"{path} is one of those to average; name another --save-dir")
    if path.exists() and AVERAGED not in (load_checked(path).get("extra_state") or {}):
        raise UserError(f"{path} is of a training; name another --save-dir")
    check_writable(cfg.checkpoint.save_dir)
    state = mean_weights(paths)
    with whole_file(path) as file:
        torch.save(state, file)
    evaluate(cfg, state["model"])


if __name__ == "__main__":
    main()
