"""The kernels themselves; imported only where Triton is there.

A row is one pixel's channels, which lie together in memory. `*_clip` are strides from clip to clip of a batch, in elements.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def norm_forward(
    x,
    bias,
    gamma,
    out,
    rows,
    clip_rows,
    frame_rows,
    x_clip,
    out_clip,
    scale,
    channels,
    HAS_BIAS: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside_row = column < channels
    clip, inside = row // clip_rows, row % clip_rows
    there = (row < rows)[:, None] & inside_row[None, :]
    value = tl.load(x + clip[:, None] * x_clip + inside[:, None] * channels + column[None, :], mask=there, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + column, mask=inside_row, other=0.0).to(tl.float32)[None, :]
    length = tl.maximum(tl.sqrt(tl.sum(value * value, axis=1)), 1e-12)
    gain = tl.load(gamma + column, mask=inside_row, other=0.0).to(tl.float32) * scale
    normal = value / length[:, None] * gain[None, :]
    result = (normal * tl.sigmoid(normal)).to(out.dtype.element_ty)
    if SLOTS == 1:
        tl.store(out + clip[:, None] * out_clip + inside[:, None] * channels + column[None, :], result, mask=there)
    else:
        # A frame is the last of the frames that its own result is made from, and an earlier one for the results after it.
        for back in tl.static_range(SLOTS):
            target = inside + back * frame_rows
            offset = (target * SLOTS + (SLOTS - 1 - back))[:, None] * channels + column[None, :]
            tl.store(out + clip[:, None] * out_clip + offset, result, mask=there & (target < clip_rows)[:, None])


@triton.jit
def norm_backward(
    x,
    bias,
    gamma,
    grad,
    more,
    added,
    out,
    rows,
    clip_rows,
    x_clip,
    grad_clip,
    more_clip,
    added_clip,
    out_clip,
    scale,
    channels,
    HAS_BIAS: tl.constexpr,
    HAS_MORE: tl.constexpr,
    HAS_ADDED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside_row = column < channels
    clip, inside = row // clip_rows, row % clip_rows
    there = (row < rows)[:, None] & inside_row[None, :]
    offset = inside[:, None] * channels + column[None, :]
    value = tl.load(x + clip[:, None] * x_clip + offset, mask=there, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + column, mask=inside_row, other=0.0).to(tl.float32)[None, :]
    pull = tl.load(grad + clip[:, None] * grad_clip + offset, mask=there, other=0.0).to(tl.float32)
    if HAS_MORE:
        pull += tl.load(more + clip[:, None] * more_clip + offset, mask=there, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(value * value, axis=1)), 1e-12)
    gain = tl.load(gamma + column, mask=inside_row, other=0.0).to(tl.float32) * scale
    unit = value / length[:, None]
    normal = unit * gain[None, :]
    gate = tl.sigmoid(normal)
    to_unit = pull * gate * (1 + normal * (1 - gate)) * gain[None, :]
    along = tl.sum(to_unit * unit, axis=1)
    result = (to_unit - unit * along[:, None]) / length[:, None]
    if HAS_ADDED:
        result += tl.load(added + clip[:, None] * added_clip + offset, mask=there, other=0.0).to(tl.float32)
    tl.store(out + clip[:, None] * out_clip + offset, result.to(out.dtype.element_ty), mask=there)


@triton.jit
def stack_frames(
    x, out, rows, clip_rows, frame_rows, x_clip, first, channels, SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    # Slot s of a result's row comes from the frame s before: `first` is the frame that slot 0 of the first result takes.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    clip, inside = row // clip_rows, row % clip_rows
    there = (row < rows)[:, None] & (column < channels)[None, :]
    for slot in tl.static_range(SLOTS):
        source = inside + (first - slot) * frame_rows
        value = tl.load(x + clip[:, None] * x_clip + source[:, None] * channels + column[None, :], mask=there, other=0.0)
        tl.store(out + (row * SLOTS + slot)[:, None] * channels + column[None, :], value, mask=there)


@triton.jit
def add_bias(y, bias, other, rows, channels, HAS_OTHER: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside_row = column < channels
    there = (row < rows)[:, None] & inside_row[None, :]
    offset = row[:, None] * channels + column[None, :]
    value = tl.load(y + offset, mask=there, other=0.0).to(tl.float32)
    value += tl.load(bias + column, mask=inside_row, other=0.0).to(tl.float32)[None, :]
    if HAS_OTHER:
        value += tl.load(other + offset, mask=there, other=0.0).to(tl.float32)
    tl.store(y + offset, value.to(y.dtype.element_ty), mask=there)


@triton.jit
def enlarge(x, out, rows, width, channels, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    there = (row < rows)[:, None] & (column < channels)[None, :]
    value = tl.load(x + row[:, None] * channels + column[None, :], mask=there, other=0.0)
    line, across = row // width, row % width
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            target = (line * 2 + down) * (2 * width) + across * 2 + right
            tl.store(out + target[:, None] * channels + column[None, :], value, mask=there)


@triton.jit
def sum_of_four(x, out, rows, width, channels, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    there = (row < rows)[:, None] & (column < channels)[None, :]
    line, across = row // width, row % width
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            source = (line * 2 + down) * (2 * width) + across * 2 + right
            total += tl.load(x + source[:, None] * channels + column[None, :], mask=there, other=0.0).to(tl.float32)
    tl.store(out + row[:, None] * channels + column[None, :], total.to(out.dtype.element_ty), mask=there)
