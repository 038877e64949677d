"""Matrix products in half precision by torch's autocast, all else in fp32."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from fairseq.modules import gelu
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import UserError

#: What ``--steady-autocast`` may be.
CHOICES = ("none", "bf16", "bf16-forced", "fp16")
#: Instructions that multiply bf16: without them it is slower than fp32.
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")
_CPUINFO = Path("/proc/cpuinfo")
#: fairseq's own ways to lower the precision, in ``common``.
_FAIRSEQS = ("bf16", "fp16", "amp", "memory_efficient_bf16", "memory_efficient_fp16")

T = TypeVar("T")


@dataclass(frozen=True)
class Autocast:
    """Where training and evaluation multiply in half precision.

    Weights are cast at their first use and kept until the call returns, so that every
    pass of a batch shares one cast. A backward pass comes after it.

    Args:
        device: type of device.
        dtype: of matrix products; None leaves everything as it is.

    """

    device: str = "cpu"
    dtype: torch.dtype | None = None

    def around(self, call: Callable[..., T]) -> Callable[..., T]:
        """The same under autocast, or just the same."""
        if self.dtype is None:
            return call

        def cast(*args: Any, **kwargs: Any) -> T:
            with torch.autocast(self.device, self.dtype):
                return call(*args, **kwargs)

        return cast


def autocast(chosen: str, device: str, common: Any) -> Autocast:
    """What ``--steady-autocast`` asks for.

    Args:
        chosen: one of :data:`CHOICES`.
        device: type of device that trains.
        common: fairseq's configuration of that name; with fp16 its ``amp`` is set,
            since gradients in fp16 need fairseq's loss scaling.

    Raises:
        UserError: the device is not made for it, or a flag of fairseq's is given too.

    """
    if chosen == "none":
        return Autocast()
    flag = f"--steady-autocast {chosen}"
    for name in _FAIRSEQS:
        implied = chosen == "fp16" and name == "amp"  # also on a second set-up
        if getattr(common, name) and not implied:
            other = "--" + name.replace("_", "-")
            raise UserError(f"{flag} and fairseq's {other}: give one of them")
    if chosen == "fp16":
        if device == "cpu":
            raise UserError(
                f"{flag} needs a GPU, and this run is on the CPU: use bf16, or leave "
                "it out"
            )
        common.amp = True
        return Autocast(device, torch.float16)
    if chosen == "bf16" and (reason := unsupported(device)):
        raise UserError(
            f"{flag}: {reason}, so that it would be slower than fp32; leave it out, or "
            "force it with bf16-forced"
        )
    return Autocast(device, torch.bfloat16)


def unsupported(device: str) -> str:
    """Why a type of device has no fast bf16; empty if it has."""
    if device == "cpu":
        if set(_CPU_FLAGS) & set(_cpu_flags()):
            return ""
        return f"this CPU has neither {' nor '.join(_CPU_FLAGS)}"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return ""
    return f"{torch.cuda.get_device_name()} has no bf16"


def _cpu_flags() -> list[str]:
    """Of the first core, as Linux tells them; none elsewhere."""
    try:
        told = _CPUINFO.read_text("utf-8", "replace")
    except OSError:
        return []
    found = re.search(r"^flags\s*:(.*)$", told, re.MULTILINE)
    return found[1].split() if found else []


class ExactLinear(nn.Linear):
    """A linear layer that multiplies in fp32, also under autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """As torch's, in fp32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def keep_exact(module: nn.Module) -> None:
    """Let the linear layers of a module multiply in fp32; weights and names stay.

    A classification head costs nothing, and a divergence of logits in bf16 is up to
    15 % off at the radii of SiFT and SMART; of logits in fp32, 3 %.
    """
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = ExactLinear


def prepare(model: nn.Module) -> None:
    """Make a model ready for autocast; in fp32 it is the same to the bit."""
    for head in getattr(model, "classification_heads", {}).values():
        keep_exact(head)
    part: Any
    for part in model.modules():
        # fairseq's casts to fp32 and back, and torch's computes in fp32 anyway.
        if getattr(part, "activation_fn", None) is gelu:
            part.activation_fn = F.gelu
