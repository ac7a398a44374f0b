"""Small tensors between host and device, without anybody waiting for the device's other work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def upload(array: np.ndarray, device: str | torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A copy of an array on a device, to a GPU through pinned memory."""
    held = torch.tensor(np.asarray(array), dtype=dtype)
    if torch.device(device).type == "cpu":
        return held
    return held.pin_memory().to(device, non_blocking=True)


def upload_together(arrays: Sequence[np.ndarray], device: str | torch.device) -> list[Tensor]:
    """Float32 copies of several arrays on a device, by one copy."""
    arrays = [np.asarray(array) for array in arrays]
    sizes = [array.size for array in arrays]
    to_gpu = torch.device(device).type != "cpu"
    held = torch.empty(sum(sizes), dtype=torch.float32, pin_memory=to_gpu)
    np.concatenate([array.reshape(-1) for array in arrays], out=held.numpy(), casting="unsafe")
    flat = held.to(device, non_blocking=True) if to_gpu else held
    return [part if array.ndim == 1 else part.view(array.shape) for part, array in zip(flat.split_with_sizes(sizes), arrays)]


class HostCopy:
    """A copy of a tensor that is on its way to the host; `value` waits for it, not for what the device was given to do since."""

    def __init__(self, tensor: Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self._held = tensor.clone()
            return
        self._held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        self._ready = torch.cuda.Event()
        self._ready.record()

    def value(self) -> Tensor:
        """The copy."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._held
