"""Frozen causal convolutions that keep only what the gradient of their input needs.

PyTorch keeps the input of every convolution for the gradient of its weight. Here weights are constants, so a convolution keeps
nothing of its own, and one behind a normalisation keeps that normalisation's input. The frames of the cache and the new ones are
written into one buffer once; spatial padding is the convolution's own.

All tensors [B, C, T, H, W] are channels-last in memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from splatmend.enhance.decoder.fast.norm import norm_silu_backward, norm_silu_into

CACHED_FRAMES = 2
LAST = torch.channels_last_3d


def causal_conv(
    x: torch.Tensor,
    cache: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gamma: torch.Tensor | None = None,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolve `x` with a kernel of three frames after (with `gamma`) normalisation and SiLU; `cache` holds the frames before it.

    `cache` [B, C, 1 or 2, H, W] is of the convolution's own input, missing frames are zero. Returns the result [B, C', T, H, W] and the
    last two frames of the convolution's input, the cache of the next group.
    """
    y, tail = _CausalConv.apply(x.contiguous(memory_format=LAST), cache, weight, bias, gamma, scale)
    return y, tail


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        cache: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        gamma: torch.Tensor | None,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch, channels, frames, height, width = x.shape
        buffer = torch.empty((batch, channels, CACHED_FRAMES + frames, height, width), dtype=x.dtype, device=x.device, memory_format=LAST)
        known = 0 if cache is None else cache.shape[2]
        buffer[:, :, : CACHED_FRAMES - known] = 0
        if cache is not None:
            buffer[:, :, CACHED_FRAMES - known : CACHED_FRAMES] = cache
        fresh = buffer[:, :, CACHED_FRAMES:]
        if gamma is None:
            fresh.copy_(x)
        else:
            norm_silu_into(x, gamma, scale, fresh)
        y = F.conv3d(buffer, weight, bias, padding=_padding(weight))
        # A copy: a view would keep the whole buffer.
        tail = buffer[:, :, -CACHED_FRAMES:].clone(memory_format=LAST)
        ctx.save_for_backward(weight, *(() if gamma is None else (x, gamma)))
        ctx.scale, ctx.shape, ctx.known = scale, buffer.shape, known
        ctx.set_materialize_grads(False)
        return y.contiguous(memory_format=LAST), tail

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor | None, grad_tail: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        weight, *normalised = ctx.saved_tensors
        if grad is None and grad_tail is None:
            return (None,) * 6
        if grad is None:
            assert grad_tail is not None
            buffer = torch.zeros(ctx.shape, dtype=grad_tail.dtype, device=grad_tail.device).contiguous(memory_format=LAST)
        else:
            buffer = input_gradient(grad, weight, ctx.shape, _padding(weight))
        if grad_tail is not None:
            buffer[:, :, -CACHED_FRAMES:] += grad_tail
        to_x, to_cache = None, None
        if ctx.needs_input_grad[1] and ctx.known:
            to_cache = buffer[:, :, CACHED_FRAMES - ctx.known : CACHED_FRAMES].clone(memory_format=LAST)
        if ctx.needs_input_grad[0]:
            fresh = buffer[:, :, CACHED_FRAMES:]
            if normalised:
                x, gamma = normalised
                to_x = norm_silu_backward(x, gamma, ctx.scale, fresh)
            else:
                to_x = fresh.clone(memory_format=LAST)
        return to_x, to_cache, None, None, None, None


def upsampling_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Every frame of `x` [B, C, T, H, W] at twice its size (nearest pixel), then convolved [B, C', T, 2H, 2W]."""
    return _UpsamplingConv.apply(x.contiguous(memory_format=LAST), weight, bias)


class _UpsamplingConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        large = F.interpolate(_pictures(x), scale_factor=2.0, mode="nearest-exact")
        ctx.save_for_backward(weight)
        ctx.batch, ctx.shape = x.shape[0], large.shape
        return _clips(F.conv2d(large, weight, bias, padding=_padding(weight)), x.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        large = input_gradient(_pictures(grad.contiguous(memory_format=LAST)), weight, ctx.shape, _padding(weight))
        return _clips(F.avg_pool2d(large, 2, divisor_override=1), ctx.batch), None, None


def pointwise_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A 1x1x1 convolution as a product of matrices; nothing is kept while the weight is frozen."""
    y = F.linear(x.permute(0, 2, 3, 4, 1), weight.flatten(1), bias)
    return y.permute(0, 4, 1, 2, 3)


def input_gradient(grad: torch.Tensor, weight: torch.Tensor, shape: torch.Size, padding: tuple[int, ...]) -> torch.Tensor:
    """Gradient of a convolution's input of `shape`, a fresh tensor in channels-last memory."""
    layout = LAST if grad.ndim == 5 else torch.channels_last
    ones = [1] * (grad.ndim - 2)
    # Only the shape and layout of the input count for this gradient, not its values.
    unread = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)
    result = torch.ops.aten.convolution_backward(
        grad.contiguous(memory_format=layout), unread, weight, None, ones, padding, ones, False, [0] * len(ones), 1, [True, False, False]
    )[0]
    return result.contiguous(memory_format=layout)


def _padding(weight: torch.Tensor) -> tuple[int, ...]:
    """Zeros around each frame; none in time, where the buffer has the frames before."""
    spatial = tuple(size // 2 for size in weight.shape[-2:])
    return (0, *spatial) if weight.ndim == 5 else spatial


def _pictures(x: torch.Tensor) -> torch.Tensor:
    """[B, C, T, H, W] -> [B * T, C, H, W]: a view of channels-last memory."""
    return x.permute(0, 2, 1, 3, 4).flatten(0, 1)


def _clips(pictures: torch.Tensor, batch: int) -> torch.Tensor:
    """The inverse of `_pictures`."""
    return pictures.unflatten(0, (batch, -1)).permute(0, 2, 1, 3, 4).contiguous(memory_format=LAST)
