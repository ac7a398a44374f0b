"""Counting the bytes that autograd keeps for the backward pass: the measure of memory where no allocator tells."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch


class KeptBytes:
    """A context in which `live` and `peak` follow the bytes that graphs made inside it keep, until the graphs let go of them.

    A storage counts once and whole, however many nodes keep it or views of it; those of `exclude` (a model's parameters) do not
    count. What a checkpoint recomputes inside the backward pass is not seen. Not for timing: counting takes time.
    """

    def __init__(self, exclude: Iterable[torch.Tensor] = ()) -> None:
        self.live = 0
        self.peak = 0
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in exclude}
        self._holders: dict[int, int] = {}

    def __enter__(self) -> KeptBytes:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda box: box.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)

    def _pack(self, tensor: torch.Tensor) -> _Box:
        box = _Box(tensor)
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._excluded:
            self._holders[address] = self._holders.get(address, 0) + 1
            if self._holders[address] == 1:
                self.live += size
                self.peak = max(self.peak, self.live)
            weakref.finalize(box, self._release, address, size)
        return box

    def _release(self, address: int, size: int) -> None:
        self._holders[address] -= 1
        if self._holders[address] == 0:
            del self._holders[address]
            self.live -= size


class _Box:
    def __init__(self, tensor: torch.Tensor) -> None:
        # Detached: a node that saves its own result would otherwise keep itself alive through this box.
        self.tensor = tensor.detach()
