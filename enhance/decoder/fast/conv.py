"""Frozen causal convolutions that keep only what the gradient of their input needs.

PyTorch keeps the input of every convolution for the gradient of its weight. Here weights are constants, so a convolution keeps
nothing of its own, and one behind a normalisation keeps that normalisation's input. The frames of the cache and the new ones are
written into one buffer once; spatial padding is the convolution's own; a bias is added where the result is read or written anyway.

All tensors [B, C, T, H, W] are channels-last in memory. `cache` [B, C, 1 or 2, H, W] holds the frames before the new ones, of the
convolution's own input; missing frames are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from splatmend.enhance.decoder.fast import launch
from splatmend.enhance.decoder.fast.bands import Band, clips, input_bands, pictures
from splatmend.enhance.decoder.fast.frozen import TAPS, FrozenConvolution
from splatmend.enhance.decoder.fast.norm import norm_silu_backward, norm_silu_into
from splatmend.enhance.decoder.wan_blocks import CACHED_FRAMES

LAST = torch.channels_last_3d


@dataclass(frozen=True)
class FrozenNorm:
    """A normalisation and SiLU before a convolution, and the bias of the convolution before that."""

    gamma: torch.Tensor
    scale: float
    bias: torch.Tensor | None = None


def causal_conv(
    x: torch.Tensor, cache: torch.Tensor | None, convolution: FrozenConvolution, norm: FrozenNorm | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolve `x` with a kernel of three frames, after `norm` where given.

    Returns the result [B, C', T, H, W] and the last two frames of the convolution's input, the cache of the next group.
    """
    y, tail = _CausalConv.apply(x.contiguous(memory_format=LAST), _link(cache), convolution, norm)
    return y, tail


def residual_block(
    x: torch.Tensor,
    caches: tuple[torch.Tensor | None, torch.Tensor | None],
    convolutions: tuple[FrozenConvolution, FrozenConvolution],
    norms: tuple[FrozenNorm, FrozenNorm],
    shortcut: FrozenConvolution | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Twice norm, SiLU and convolution, and `x` (through the 1x1x1 convolution `shortcut`) added; with both caches of the next group."""
    y, first, second = _Residual.apply(x.contiguous(memory_format=LAST), *map(_link, caches), convolutions, norms, shortcut)
    return y, first, second


def upsampling_conv(x: torch.Tensor, convolution: FrozenConvolution) -> torch.Tensor:
    """Every frame of `x` [B, C, T, H, W] at twice its size (nearest pixel), then convolved [B, C', T, 2H, 2W]."""
    return _UpsamplingConv.apply(x.contiguous(memory_format=LAST), convolution)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cache: torch.Tensor | None, convolution: FrozenConvolution, norm: FrozenNorm | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, tail = _forward(x, cache, convolution, norm)
        ctx.save_for_backward(*(() if norm is None else (x,)))
        ctx.layer, ctx.frames, ctx.known = (convolution, norm), x.shape[2], _frames(cache)
        ctx.set_materialize_grads(False)
        return add_bias(y, convolution.bias), tail

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor | None, grad_tail: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        saved = ctx.saved_tensors
        x = saved[0] if saved else None
        known = ctx.known if _asked(ctx, 1) else 0
        return *_backward(x, grad, grad_tail, *ctx.layer, frames=ctx.frames, known=known), None, None


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        first: torch.Tensor | None,
        second: torch.Tensor | None,
        convolutions: tuple[FrozenConvolution, FrozenConvolution],
        norms: tuple[FrozenNorm, FrozenNorm],
        shortcut: FrozenConvolution | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        middle, tail_one = _forward(x, first, convolutions[0], norms[0])
        y, tail_two = _forward(middle, second, convolutions[1], norms[1])
        ctx.save_for_backward(x, middle)
        ctx.layers, ctx.shortcut, ctx.known = tuple(zip(convolutions, norms, strict=True)), shortcut, (_frames(first), _frames(second))
        ctx.set_materialize_grads(False)
        return add_bias(y, convolutions[1].bias, x if shortcut is None else _pointwise(x, shortcut)), tail_one, tail_two

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: torch.Tensor | None, grad_one: torch.Tensor | None, grad_two: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        x, middle = ctx.saved_tensors
        frames = x.shape[2]
        one, two = (known if _asked(ctx, place) else 0 for place, known in enumerate(ctx.known, start=1))
        grad = None if grad is None else _last(grad)
        to_middle, to_second = _backward(middle, grad, grad_two, *ctx.layers[1], frames=frames, known=two)
        around = grad
        if grad is not None and ctx.shortcut is not None:
            around = _pointwise_backward(grad, ctx.shortcut)
        to_x, to_first = _backward(x, to_middle, grad_one, *ctx.layers[0], frames=frames, known=one, added=around)
        return to_x, to_first, to_second, None, None, None


class _UpsamplingConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, convolution: FrozenConvolution) -> torch.Tensor:
        ctx.convolution = convolution
        y = F.conv2d(_enlarged(pictures(x)), convolution.weight, padding=convolution.padding)
        return add_bias(clips(y, x.shape[0]), convolution.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        convolution = ctx.convolution
        large = F.conv2d(pictures(grad.contiguous(memory_format=LAST)), convolution.reversed, padding=convolution.padding)
        return clips(_sum_of_four(large), grad.shape[0]), None


def add_bias(y: torch.Tensor, bias: torch.Tensor | None, other: torch.Tensor | None = None) -> torch.Tensor:
    """`y + bias + other`, in the memory of `y` [B, C, ...] (channels-last)."""
    given = [t for t in (y, other) if t is not None]
    if bias is not None and launch.usable(*given) and (other is None or other.stride() == y.stride()):
        launch.add_bias(y, bias, other)
        return y
    if bias is not None:
        y += bias.view(1, -1, *[1] * (y.ndim - 2))
    if other is not None:
        y += other
    return y


def _forward(
    x: torch.Tensor, cache: torch.Tensor | None, convolution: FrozenConvolution, norm: FrozenNorm | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The result without its bias, a fresh tensor, and the cache of the next group."""
    batch, channels, frames, height, width = x.shape
    if convolution.stacks:
        stacked = torch.empty((batch, frames, height, width, TAPS, channels), dtype=x.dtype, device=x.device)
        _fill_stacked(stacked, x, cache, norm)
        # Slot s of result t is frame t + s of the buffer.
        tail = [stacked[:, -1, :, :, TAPS - CACHED_FRAMES + i] for i in range(CACHED_FRAMES)]
        y = F.conv2d(stacked.flatten(4).flatten(0, 1).permute(0, 3, 1, 2), convolution.stacked, padding=convolution.padding)
        return clips(y, batch), torch.stack(tail, dim=1).permute(0, 4, 1, 2, 3)
    buffer = torch.empty((batch, channels, CACHED_FRAMES + frames, height, width), dtype=x.dtype, device=x.device, memory_format=LAST)
    known = _frames(cache)
    buffer[:, :, : CACHED_FRAMES - known] = 0
    if cache is not None:
        buffer[:, :, CACHED_FRAMES - known : CACHED_FRAMES] = cache
    _normalised_into(x, norm, buffer[:, :, CACHED_FRAMES:])
    y = F.conv3d(buffer, convolution.weight, padding=(0, *convolution.padding))
    # A copy: a view would keep the whole buffer.
    return y.contiguous(memory_format=LAST), buffer[:, :, -CACHED_FRAMES:].clone(memory_format=LAST)


def _fill_stacked(stacked: torch.Tensor, x: torch.Tensor, cache: torch.Tensor | None, norm: FrozenNorm | None) -> None:
    """Write every result's three frames [B, T, H, W, 3, C]: those of the cache, and the new ones, normalised."""
    known, frames = _frames(cache), x.shape[2]
    for before in range(CACHED_FRAMES):
        place = before - (CACHED_FRAMES - known)
        past = 0 if cache is None or place < 0 else cache[:, :, place].permute(0, 2, 3, 1)
        for result in range(min(before + 1, frames)):
            stacked[:, result, :, :, before - result] = past
    if norm is not None and launch.usable(x):
        launch.norm_forward(x, norm.bias, norm.gamma, norm.scale, stacked)
        return
    if norm is not None:
        fresh = torch.empty_like(x, memory_format=LAST)
        _normalised_into(x, norm, fresh)
        x = fresh
    rows = x.permute(0, 2, 3, 4, 1)
    for back in range(min(TAPS, frames)):
        stacked[:, back:, :, :, TAPS - 1 - back] = rows[:, : frames - back]


def _normalised_into(x: torch.Tensor, norm: FrozenNorm | None, out: torch.Tensor) -> None:
    if norm is None:
        out.copy_(x)
    else:
        norm_silu_into(x, norm.gamma, norm.scale, out, norm.bias)


def _backward(
    x: torch.Tensor | None,
    grad: torch.Tensor | None,
    grad_tail: torch.Tensor | None,
    convolution: FrozenConvolution,
    norm: FrozenNorm | None,
    *,
    frames: int,
    known: int,
    added: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of the `frames` new frames (plus `added`) and of the last `known` cached ones. `x` is needed where there is a norm."""
    if grad is None and grad_tail is None:
        return added, None
    first = CACHED_FRAMES - known
    like = grad if grad is not None else grad_tail
    assert like is not None
    # Without a gradient of the result only the last frames get one.
    make = torch.empty if grad is not None else torch.zeros
    batch, _, _, height, width = like.shape
    # Apart, since the cache's gradient is kept for the walk through the group before.
    to_x, to_cache = (
        make((batch, count, height, width, convolution.weight.shape[1]), dtype=like.dtype, device=like.device).permute(0, 4, 1, 2, 3)
        for count in (frames, known)
    )
    if grad is None and added is not None:
        to_x.copy_(added)
    for band in _tail_bands(grad_tail, frames, first) if grad is None else input_bands(_last(grad), convolution, first):
        more = None if grad is None or grad_tail is None else _within(grad_tail, band, frames)
        if band.start < CACHED_FRAMES:
            _sum_into(to_cache[:, :, band.start - first : band.stop - first], band.gradient, more)
            continue
        place = slice(band.start - CACHED_FRAMES, band.stop - CACHED_FRAMES)
        out, around = to_x[:, :, place], None if added is None else added[:, :, place]
        if norm is None:
            _sum_into(out, band.gradient, more, around)
        else:
            assert x is not None
            norm_silu_backward(x[:, :, place], norm.gamma, norm.scale, band.gradient, out=out, bias=norm.bias, more=more, added=around)
    return to_x, to_cache if known else None


def _tail_bands(grad_tail: torch.Tensor | None, frames: int, first: int) -> Iterator[Band]:
    """The last two frames of the input one by one, as far as they are asked for."""
    assert grad_tail is not None
    for place in range(CACHED_FRAMES):
        if frames + place >= first:
            yield Band(frames + place, frames + place + 1, _last(grad_tail[:, :, place : place + 1]))


def _within(grad_tail: torch.Tensor, band: Band, frames: int) -> torch.Tensor | None:
    """What of the tail's gradient reaches a band: the tail is the input's last two frames."""
    return _last(grad_tail)[:, :, band.start - frames : band.stop - frames] if band.start >= frames else None


def _sum_into(out: torch.Tensor, *terms: torch.Tensor | None) -> None:
    first, *others = [term for term in terms if term is not None]
    out.copy_(first)
    for term in others:
        out += term


def _pointwise(x: torch.Tensor, convolution: FrozenConvolution) -> torch.Tensor:
    """A 1x1x1 convolution as a product of matrices."""
    return F.linear(x.permute(0, 2, 3, 4, 1), convolution.weight.flatten(1), convolution.bias).permute(0, 4, 1, 2, 3)


def _pointwise_backward(grad: torch.Tensor, convolution: FrozenConvolution) -> torch.Tensor:
    return (grad.permute(0, 2, 3, 4, 1) @ convolution.weight.flatten(1)).permute(0, 4, 1, 2, 3)


def _enlarged(x: torch.Tensor) -> torch.Tensor:
    """Pictures [N, C, H, W] at twice their size, every pixel four times."""
    if not launch.usable(x):
        return F.interpolate(x, scale_factor=2.0, mode="nearest-exact")
    count, channels, height, width = x.shape
    out = torch.empty((count, channels, 2 * height, 2 * width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    launch.enlarge(x, out)
    return out


def _sum_of_four(x: torch.Tensor) -> torch.Tensor:
    """The gradient of `_enlarged`."""
    x = x.contiguous(memory_format=torch.channels_last)
    if not launch.usable(x):
        return F.avg_pool2d(x, 2, divisor_override=1)
    count, channels, height, width = x.shape
    out = torch.empty((count, channels, height // 2, width // 2), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    launch.sum_of_four(x, out)
    return out


def _frames(cache: torch.Tensor | None) -> int:
    return 0 if cache is None else cache.shape[2]


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=LAST)


def _link(cache: torch.Tensor | None) -> torch.Tensor | None:
    """The cache behind a graph node of its own: of a leaf, autograd does not tell whether its gradient is asked for."""
    return None if cache is None else cache.view_as(cache)


def _asked(ctx: Any, place: int) -> bool:
    """Whether this backward pass wants the gradient of an input: a walk that ends here does not want that of the cache."""
    if not ctx.needs_input_grad[place]:
        return False
    node = ctx.next_functions[place][0]
    return node is not None and torch._C._will_engine_execute_node(node)
