"""SSIM and its slope by four Triton kernels; imported only where Triton is there.

Pictures are planes of rows that are whole in memory; in a row, pixels that follow each other are `step` numbers apart (the channels of one
pixel lie between them). Windows that lie inside leave ten rows and ten pixels fewer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

REACH = 5
"""Pixels from a window's middle to its edge."""
_SPAN = 2 * REACH
_BLOCK = 256
_BELL = [math.exp(-(offset**2) / (2 * 1.5**2)) for offset in range(-REACH, REACH + 1)]
WINDOW = tuple(weight / sum(_BELL) for weight in _BELL)


@triton.jit
def _blurred(source, stride, there, WINDOW: tl.constexpr):
    """Means over the windows that begin at the places of a map and go on by so many numbers."""
    mean = WINDOW[0] * tl.load(source, mask=there, other=0.0)
    for tap in tl.static_range(1, 11):
        mean += WINDOW[tap] * tl.load(source + tap * stride, mask=there, other=0.0)
    return mean


@triton.jit
def _spread(source, place, step, count, stride, there, WINDOW: tl.constexpr):
    """The transpose: what the windows at a place and at ten before it, of which there are `count`, each `step` from the next and their
    numbers `stride` apart, have there."""
    total = WINDOW[0] * tl.load(source, mask=there & (place < count), other=0.0)
    for tap in tl.static_range(1, 11):
        window = place - tap * step
        total += WINDOW[tap] * tl.load(source - tap * stride, mask=there & (window >= 0) & (window < count), other=0.0)
    return total


@triton.jit
def blur_rows(a, b, blurred, length, inside, step, map_size, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """Of each row: the means over windows of a, b, a a, b b and a b, a map each."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < inside
    mean_a = tl.zeros((BLOCK,), tl.float32)
    mean_b = tl.zeros((BLOCK,), tl.float32)
    mean_aa = tl.zeros((BLOCK,), tl.float32)
    mean_bb = tl.zeros((BLOCK,), tl.float32)
    mean_ab = tl.zeros((BLOCK,), tl.float32)
    for tap in tl.static_range(11):
        weight = WINDOW[tap]
        one = tl.load(a + row * length + at + tap * step, mask=there, other=0.0)
        other = tl.load(b + row * length + at + tap * step, mask=there, other=0.0)
        mean_a += weight * one
        mean_b += weight * other
        mean_aa += weight * one * one
        mean_bb += weight * other * other
        mean_ab += weight * one * other
    out = blurred + row * inside + at
    tl.store(out, mean_a, mask=there)
    out += map_size  # several times it may be more than an int32 holds
    tl.store(out, mean_b, mask=there)
    out += map_size
    tl.store(out, mean_aa, mask=there)
    out += map_size
    tl.store(out, mean_bb, mask=there)
    out += map_size
    tl.store(out, mean_ab, mask=there)


@triton.jit
def similarity(blurred, slopes, sums, rows, inside, map_size, slope_size, SLOPES: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """SSIM of the windows, summed by program, and its slopes with respect to the blurred a (through the means alone), a a and a b."""
    row = tl.program_id(0).to(tl.int64)
    plane = tl.program_id(2).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < inside
    first = blurred + (plane * rows + row) * inside + at
    mean_a = _blurred(first, inside, there, WINDOW)
    first += map_size
    mean_b = _blurred(first, inside, there, WINDOW)
    first += map_size
    mean_aa = _blurred(first, inside, there, WINDOW)
    first += map_size
    mean_bb = _blurred(first, inside, there, WINDOW)
    first += map_size
    mean_ab = _blurred(first, inside, there, WINDOW)
    c1 = 0.0001
    c2 = 0.0009
    product = mean_a * mean_b
    squares = mean_a * mean_a + mean_b * mean_b
    light = 2 * product + c1
    light_over = squares + c1
    shape = 2 * (mean_ab - product) + c2
    shape_over = mean_aa + mean_bb - squares + c2
    scale = 1 / (light_over * shape_over)
    similar = light * shape * scale
    total = tl.sum(tl.where(there, similar, 0.0), axis=0)
    tl.store(sums + (plane * (rows - 10) + row) * tl.num_programs(1) + tl.program_id(1), total)
    if SLOPES:
        out = slopes + (plane * (rows - 10) + row) * inside + at
        by_a = 2 * mean_b * (shape - light) * scale + 2 * mean_a * (similar / shape_over - similar / light_over)
        tl.store(out, by_a, mask=there)
        out += slope_size
        tl.store(out, -similar / shape_over, mask=there)
        out += slope_size
        tl.store(out, 2 * light * scale, mask=there)


@triton.jit
def spread_columns(slopes, spread, rows, inside, slope_size, map_size, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """The transpose of the blur along columns, of three maps."""
    row = tl.program_id(0).to(tl.int64)
    plane = tl.program_id(2).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < inside
    source = slopes + (plane * (rows - 10) + row) * inside + at
    by_a = _spread(source, row, 1, rows - 10, inside, there, WINDOW)
    source += slope_size
    by_aa = _spread(source, row, 1, rows - 10, inside, there, WINDOW)
    source += slope_size
    by_ab = _spread(source, row, 1, rows - 10, inside, there, WINDOW)
    out = spread + (plane * rows + row) * inside + at
    tl.store(out, by_a, mask=there)
    out += map_size
    tl.store(out, by_aa, mask=there)
    out += map_size
    tl.store(out, by_ab, mask=there)


@triton.jit
def spread_rows(a, b, spread, grad, out, rows_a_picture, length, inside, step, map_size, factor, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """The transpose of the blur along rows, and what the three maps come to with respect to a."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < length
    source = spread + row * inside + at
    by_a = _spread(source, at, step, inside, step, there, WINDOW)
    source += map_size
    by_aa = _spread(source, at, step, inside, step, there, WINDOW)
    source += map_size
    by_ab = _spread(source, at, step, inside, step, there, WINDOW)
    one = tl.load(a + row * length + at, mask=there, other=0.0)
    other = tl.load(b + row * length + at, mask=there, other=0.0)
    passed = tl.load(grad + row // rows_a_picture) * factor
    tl.store(out + row * length + at, passed * (by_a + 2 * one * by_aa + other * by_ab), mask=there)


def forward(a: torch.Tensor, b: torch.Tensor, step: int, *, slopes: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean SSIM `[N]` of pictures `[N, planes, rows, length]`, whole in memory, and with `slopes` what `backward` takes."""
    pictures, planes, rows, length = a.shape
    inside, count = length - _SPAN * step, pictures * planes
    blurred = a.new_empty(5, count, rows, inside)
    across = triton.cdiv(inside, _BLOCK)
    blur_rows[(count * rows, across)](a, b, blurred, length, inside, step, blurred[0].numel(), WINDOW=WINDOW, BLOCK=_BLOCK)
    sums = a.new_empty(pictures, planes * (rows - _SPAN) * across)
    kept = a.new_empty(3, count, rows - _SPAN, inside) if slopes else None
    sizes: dict[str, Any] = {"SLOPES": slopes, "WINDOW": WINDOW, "BLOCK": _BLOCK}
    held = blurred if kept is None else kept
    similarity[(rows - _SPAN, across, count)](blurred, held, sums, rows, inside, blurred[0].numel(), held[0].numel(), **sizes)
    return sums.sum(dim=1) / (planes * (rows - _SPAN) * inside), kept


def backward(a: torch.Tensor, b: torch.Tensor, step: int, slopes: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The gradient with respect to a of `forward`'s result times `grad` `[N]`."""
    pictures, planes, rows, length = a.shape
    inside, count = length - _SPAN * step, pictures * planes
    spread = a.new_empty(3, count, rows, inside)
    sizes = (slopes[0].numel(), spread[0].numel())
    spread_columns[(rows, triton.cdiv(inside, _BLOCK), count)](slopes, spread, rows, inside, *sizes, WINDOW=WINDOW, BLOCK=_BLOCK)
    out = torch.empty_like(a)
    factor = 1.0 / (planes * (rows - _SPAN) * inside)
    spread_rows[(count * rows, triton.cdiv(length, _BLOCK))](
        a, b, spread, grad.contiguous(), out, planes * rows, length, inside, step, spread[0].numel(), factor, WINDOW=WINDOW, BLOCK=_BLOCK
    )
    return out
