"""What went wrong with a row of a benchmark."""

from __future__ import annotations

import torch

_MARKS = ("out of memory", "ALLOC_FAILED", "can't allocate memory")


def is_out_of_memory(fault: BaseException) -> bool:
    """Whether a device, a library on it or the host had no memory left."""
    return isinstance(fault, torch.OutOfMemoryError) or (isinstance(fault, RuntimeError) and any(mark in str(fault) for mark in _MARKS))
