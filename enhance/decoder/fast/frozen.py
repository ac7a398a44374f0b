"""Weights of frozen convolutions in the layouts the fast layers take.

Both directions are ordinary convolutions of pictures whose channels are the frames that a result needs, one behind the other: on
GPUs these run at two to three times the speed of three-dimensional convolutions and of their gradients.
"""

from __future__ import annotations

import weakref
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

TAPS = 3
"""Frames that a causal convolution sees."""
STACKED_OUTPUTS = 128
"""Up to so many output channels frames are stacked for the forward convolution; above, the three-dimensional one is as fast."""


class FrozenConvolution:
    """One convolution's weights, [O, C, T, H, W] or [O, C, H, W], as constants of one dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last_3d if weight.ndim == 5 else torch.channels_last)
        self.bias = bias

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros around each frame, down and across. None in time: the frames before are given."""
        height, width = self.weight.shape[-2:]
        return height // 2, width // 2

    @property
    def stacks(self) -> bool:
        """Whether frames are stacked in the forward direction too."""
        return self.weight.shape[0] <= STACKED_OUTPUTS

    @cached_property
    def stacked(self) -> torch.Tensor:
        """[O, 3C, H, W], the earliest of three frames first."""
        return self.weight.permute(0, 2, 1, 3, 4).flatten(1, 2).contiguous(memory_format=torch.channels_last)

    @cached_property
    def reversed(self) -> torch.Tensor:
        """The convolution that takes gradients back. [C, 3O, H, W], the latest of three results' gradients first; [C, O, H, W] of a
        picture's convolution."""
        turned = self.weight.flip(-2, -1).transpose(0, 1)
        taps_first = turned.transpose(1, 2).flatten(1, 2) if turned.ndim == 5 else turned
        return taps_first.contiguous(memory_format=torch.channels_last)


class FrozenWeights:
    """The frozen weights of modules, made when first asked for and again when they changed, kept while their modules live.

    A change is one that PyTorch counts (an operation on the parameter itself, also without gradients) or other memory (`p.data = x`, a
    move, a load). What writes into the same memory past the count (`p.data.mul_(2)`, NumPy, a graph's replay) cannot be seen without
    reading every weight at every call: call `forget` after it.
    """

    def __init__(self) -> None:
        self._held: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], FrozenConvolution]] = weakref.WeakKeyDictionary()

    def of(self, convolution: Any, dtype: torch.dtype) -> FrozenConvolution:
        """The weights of a convolution module in `dtype`."""
        weight, bias = convolution.weight, convolution.bias
        key = (dtype, *_state(weight), *(() if bias is None else _state(bias)))
        held = self._held.get(convolution)
        if held is None or held[0] != key:
            # Ordinary tensors, whatever mode the first caller is in: they are used in graphs later.
            with torch.inference_mode(False), torch.no_grad():
                held = key, FrozenConvolution(weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype))
            self._held[convolution] = held
        return held[1]

    def forget(self) -> None:
        """Make all weights again when they are next asked for."""
        self._held.clear()


def _state(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal while a tensor is the same memory with nothing written to it that PyTorch counts.

    The reference keeps the storage's name, not its memory, from being given to another one: addresses alone come again.
    """
    return StorageWeakRef(tensor.untyped_storage()), tensor.data_ptr(), tensor._version, tensor.device
