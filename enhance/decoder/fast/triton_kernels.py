"""The kernels themselves; imported only where Triton is there."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward(x, gamma, out, rows, clip_rows, x_clip, out_clip, scale, channels, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    clip, inside = row // clip_rows, row % clip_rows
    there = (row < rows)[:, None] & (column < channels)[None, :]
    offset = inside[:, None] * channels + column[None, :]
    value = tl.load(x + clip[:, None] * x_clip + offset, mask=there, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(value * value, axis=1)), 1e-12)
    gain = tl.load(gamma + column, mask=column < channels, other=0.0).to(tl.float32) * scale
    normal = value / length[:, None] * gain[None, :]
    result = normal * tl.sigmoid(normal)
    tl.store(out + clip[:, None] * out_clip + offset, result.to(out.dtype.element_ty), mask=there)


@triton.jit
def backward(x, gamma, grad, out, rows, clip_rows, x_clip, grad_clip, out_clip, scale, channels, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    clip, inside = row // clip_rows, row % clip_rows
    there = (row < rows)[:, None] & (column < channels)[None, :]
    offset = inside[:, None] * channels + column[None, :]
    value = tl.load(x + clip[:, None] * x_clip + offset, mask=there, other=0.0).to(tl.float32)
    pull = tl.load(grad + clip[:, None] * grad_clip + offset, mask=there, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(value * value, axis=1)), 1e-12)
    gain = tl.load(gamma + column, mask=column < channels, other=0.0).to(tl.float32) * scale
    unit = value / length[:, None]
    normal = unit * gain[None, :]
    gate = tl.sigmoid(normal)
    to_unit = pull * gate * (1 + normal * (1 - gate)) * gain[None, :]
    along = tl.sum(to_unit * unit, axis=1)
    result = (to_unit - unit * along[:, None]) / length[:, None]
    tl.store(out + clip[:, None] * out_clip + offset, result.to(out.dtype.element_ty), mask=there)
