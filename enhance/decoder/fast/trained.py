"""Causal convolutions whose weights are trained, as convolutions of pictures with three frames stacked as channels.

Forward and backward are the kinds of kernels that frozen layers use (see `frozen`, `bands`); the gradient of the weight is that of a
picture's convolution.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from splatmend.enhance.decoder.fast.bands import clips, input_bands, pictures, stack_frames
from splatmend.enhance.decoder.fast.frozen import TAPS, FrozenConvolution
from splatmend.enhance.decoder.wan_blocks import CACHED_FRAMES

LAST = torch.channels_last_3d


def trained_causal_conv(
    x: torch.Tensor, cache: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolve `x` [B, C, T, H, W] with `weight` [O, C, 3, h, w] in `dtype`; `cache` [B, C, 1 or 2, H, W] holds the frames before it.

    Returns the result [B, O, T, H, W] and the last two frames of the input, the cache of the next group.
    """
    x = x.to(dtype)
    missing = CACHED_FRAMES - (0 if cache is None else cache.shape[2])
    before = x.new_zeros(x.shape[0], x.shape[1], missing, *x.shape[3:])
    buffer = torch.cat([before, *([] if cache is None else [cache.to(dtype)]), x], dim=2).contiguous(memory_format=LAST)
    first = missing if cache is not None and cache.requires_grad else CACHED_FRAMES
    y: torch.Tensor = _TrainedConv.apply(buffer, weight, dtype, first)
    if bias is not None:
        y = y + bias.to(dtype).view(1, -1, 1, 1, 1)
    return y, buffer[:, :, -CACHED_FRAMES:].clone(memory_format=LAST)


class _TrainedConv(torch.autograd.Function):
    """`first`: the frame of the buffer from which on a gradient is wanted."""

    @staticmethod
    def forward(ctx: Any, buffer: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype, first: int) -> torch.Tensor:
        ctx.save_for_backward(buffer, weight)
        ctx.dtype, ctx.first = dtype, first
        y = F.conv2d(_stacked(buffer), _slots(weight.to(dtype)), padding=_padding(weight))
        return clips(y, buffer.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        buffer, weight = ctx.saved_tensors
        constant = weight.detach().to(ctx.dtype)
        grad = grad.contiguous(memory_format=LAST)
        to_buffer, to_weight = None, None
        if ctx.needs_input_grad[1]:
            ones = [1, 1]
            slots = torch.ops.aten.convolution_backward(
                pictures(grad),
                _stacked(buffer),
                _slots(constant),
                None,
                ones,
                _padding(weight),
                ones,
                False,
                [0, 0],
                1,
                [False, True, False],
            )[1]
            to_weight = slots.unflatten(1, (TAPS, -1)).flip(1).transpose(1, 2).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            bands = [band.gradient for band in input_bands(grad, FrozenConvolution(constant, None), ctx.first)]
            to_buffer = torch.cat([buffer.new_zeros(*buffer.shape[:2], ctx.first, *buffer.shape[3:]), *bands], dim=2)
        return to_buffer, to_weight, None, None


def _stacked(buffer: torch.Tensor) -> torch.Tensor:
    """Pictures [B * T, 3C, H, W] of each result's three frames, the latest first."""
    return stack_frames(buffer, CACHED_FRAMES, buffer.shape[2] - CACHED_FRAMES, TAPS)


def _slots(weight: torch.Tensor) -> torch.Tensor:
    """[O, C, 3, h, w] as a picture's convolution [O, 3C, h, w], the latest frame's part first."""
    return weight.transpose(1, 2).flip(1).flatten(1, 2).contiguous(memory_format=torch.channels_last)


def _padding(weight: torch.Tensor) -> list[int]:
    return [size // 2 for size in weight.shape[-2:]]
