"""What dropout does in the extra passes of a regulariser."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from torch import nn

from ..flags import one_of

DropoutMode = Literal["independent", "shared", "off"]
MODES = one_of("independent", "shared", "off")
Pass = Callable[[], AbstractContextManager[None]]


@contextmanager
def _replay(cpu: torch.Tensor, cuda: list[torch.Tensor]) -> Iterator[None]:
    """Draw the same masks again, then go on from where the generators stood."""
    devices = range(len(cuda))
    with torch.random.fork_rng(devices=devices):
        torch.set_rng_state(cpu)
        for device in devices:
            torch.cuda.set_rng_state(cuda[device], device)
        yield


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


@contextmanager
def _independent() -> Iterator[None]:
    yield


def dropout_passes(model: nn.Module, mode: DropoutMode) -> Pass:
    """A context manager to open around each extra pass; call this before the clean one.

    Args:
        model: what the passes go through.
        mode: ``independent`` draws new masks for every pass, as public code of every
            method but FreeLB does; ``shared`` repeats the clean pass's masks, so that
            only the perturbation can move the logits; ``off`` runs the extra passes
            in evaluation mode, where the clean pass needs repeating too.

    Raises:
        UserError: the mode is another.

    """
    MODES.check("dropout_passes: mode =", mode)
    if mode == "shared":
        cpu = torch.get_rng_state()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return lambda: _replay(cpu, cuda)
    if mode == "off":
        return lambda: _evaluating(model)
    return _independent
