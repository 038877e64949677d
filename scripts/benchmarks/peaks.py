"""The most memory that this process has held, from where one begins to look."""

import ctypes
import gc
from pathlib import Path

import torch

_CUDA = torch.cuda.is_available()


def begin() -> float:
    """Bytes held now; the peak, so far that of building a model, begins here."""
    gc.collect()
    if _CUDA:
        torch.cuda.reset_peak_memory_stats()
    else:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """Bytes held at most since :func:`begin`: of the GPU, where there is one."""
    if _CUDA:
        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.partition("VmHWM:")[2].split()[0])
