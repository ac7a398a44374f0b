"""The gradient of a causal convolution's input, as forward convolutions.

Frame s of the input (the two cached frames first) takes part in the results s, s-1 and s-2, as far as these exist. Frames with the same
results form a band, whose gradient is one convolution of those results' gradients stacked as channels. A band at either end has fewer
channels, so nothing is multiplied by zero, and bands nobody asks for (the cached frames') are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F

from splatmend.enhance.decoder.fast import launch
from splatmend.enhance.decoder.fast.frozen import TAPS, FrozenConvolution


class Band(NamedTuple):
    """Frames [start, stop) of the input, and the gradient that reaches them [B, C, stop - start, H, W]."""

    start: int
    stop: int
    gradient: torch.Tensor


def input_bands(grad: torch.Tensor, convolution: FrozenConvolution, first: int) -> Iterator[Band]:
    """Bands of the input's gradient from frame `first` on, for the gradient [B, O, T, H, W] of the result."""
    batch, _, results = grad.shape[:3]
    outputs = convolution.weight.shape[0]
    for start, stop in _ranges(results, first):
        low, high = max(0, start - results + 1), min(TAPS - 1, start)
        stacked = stack_frames(grad, start - low, stop - start, high - low + 1)
        weight = convolution.reversed[:, low * outputs : (high + 1) * outputs]
        yield Band(start, stop, clips(F.conv2d(stacked, weight, padding=convolution.padding), batch))


def stack_frames(x: torch.Tensor, first: int, frames: int, slots: int) -> torch.Tensor:
    """Pictures [B * frames, slots * C, H, W] whose slot s in frame t is frame `first + t - s` of `x` [B, C, T, H, W]."""
    batch, channels, _, height, width = x.shape
    if slots == 1:
        return pictures(x[:, :, first : first + frames])
    out = torch.empty((batch, frames, height, width, slots, channels), dtype=x.dtype, device=x.device)
    if launch.usable(x):
        launch.stack_frames(x, first, out)
    else:
        for slot in range(slots):
            out[..., slot, :] = x[:, :, first - slot : first - slot + frames].permute(0, 2, 3, 4, 1)
    return out.flatten(4).flatten(0, 1).permute(0, 3, 1, 2)


def pictures(x: torch.Tensor) -> torch.Tensor:
    """[B, C, T, H, W] -> [B * T, C, H, W]: a view of channels-last memory where it is whole."""
    return x.permute(0, 2, 1, 3, 4).flatten(0, 1)


def clips(x: torch.Tensor, batch: int) -> torch.Tensor:
    """The inverse of `pictures`, channels-last."""
    return x.unflatten(0, (batch, -1)).permute(0, 2, 1, 3, 4).contiguous(memory_format=torch.channels_last_3d)


def _ranges(results: int, first: int) -> Iterator[tuple[int, int]]:
    """Runs of frames with the same results, from `first` to the last frame."""
    borders = sorted({0, 1, 2, results, results + 1, results + 2, first})
    for start, stop in pairwise(borders):
        if start >= first:
            yield start, stop
