"""Launches the Triton kernels: each reads every pixel's channels once and writes them once.

All tensors are [B, C, T, H, W] (or [N, C, H, W]) in channels-last memory; frames may be a slice of a longer clip.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_MAX_CHANNELS = 2048
_ELEMENTS_A_PROGRAM = 4096


def usable(*tensors: torch.Tensor) -> bool:
    """Whether the kernels can run on all of these."""
    return _HAS_TRITON and all(
        (x.is_cuda or _INTERPRETED) and x.shape[1] <= _MAX_CHANNELS and x.dtype != torch.float64 and is_rows(x) for x in tensors
    )


def is_rows(x: torch.Tensor) -> bool:
    """Whether each clip of the batch is one piece of channels-last memory."""
    _, channels, *_, height, width = x.shape
    wanted = (1, height * width * channels, width * channels, channels) if x.ndim == 5 else (1, width * channels, channels)
    return all(size == 1 or have == want for size, have, want in zip(x.shape[1:], x.stride()[1:], wanted, strict=True))


def norm_forward(x: torch.Tensor, bias: torch.Tensor | None, gamma: torch.Tensor, scale: float, out: torch.Tensor) -> None:
    """`norm.norm_silu_into`; `out` [B, T, H, W, 3, C] gets each frame in the slots of the three results that need it."""
    batch, channels, frames, height, width = x.shape
    slots = out.shape[4] if out.ndim == 6 else 1
    kernels, grid, sizes = _launch(batch * frames * height * width, channels)
    kernels.norm_forward[grid](
        x,
        x if bias is None else bias,
        gamma,
        out,
        batch * frames * height * width,
        frames * height * width,
        height * width,
        x.stride(0),
        out.stride(0),
        scale,
        channels,
        HAS_BIAS=bias is not None,
        SLOTS=slots,
        **sizes,
    )


def norm_backward(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    gamma: torch.Tensor,
    scale: float,
    grad: torch.Tensor,
    more: torch.Tensor | None,
    added: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """`norm.norm_silu_backward`."""
    batch, channels, frames, height, width = x.shape
    kernels, grid, sizes = _launch(batch * frames * height * width, channels)
    kernels.norm_backward[grid](
        x,
        x if bias is None else bias,
        gamma,
        grad,
        x if more is None else more,
        x if added is None else added,
        out,
        batch * frames * height * width,
        frames * height * width,
        x.stride(0),
        grad.stride(0),
        0 if more is None else more.stride(0),
        0 if added is None else added.stride(0),
        out.stride(0),
        scale,
        channels,
        HAS_BIAS=bias is not None,
        HAS_MORE=more is not None,
        HAS_ADDED=added is not None,
        **sizes,
    )


def stack_frames(x: torch.Tensor, first: int, out: torch.Tensor) -> None:
    """`out` [B, T', H, W, S, C]: slot s of frame t is frame `first + t - s` of `x`."""
    batch, frames, height, width, slots, channels = out.shape
    kernels, grid, sizes = _launch(batch * frames * height * width, channels)
    kernels.stack_frames[grid](
        x,
        out,
        batch * frames * height * width,
        frames * height * width,
        height * width,
        x.stride(0),
        first,
        channels,
        SLOTS=slots,
        **sizes,
    )


def add_bias(y: torch.Tensor, bias: torch.Tensor, other: torch.Tensor | None) -> None:
    """`y += bias + other` in place; all whole, not slices."""
    rows, channels = y.numel() // y.shape[1], y.shape[1]
    kernels, grid, sizes = _launch(rows, channels)
    kernels.add_bias[grid](y, bias, y if other is None else other, rows, channels, HAS_OTHER=other is not None, **sizes)


def enlarge(x: torch.Tensor, out: torch.Tensor) -> None:
    """`out` [N, C, 2H, 2W]: every pixel of `x` [N, C, H, W] four times."""
    kernels, grid, sizes = _launch(x.numel() // x.shape[1], x.shape[1])
    kernels.enlarge[grid](x, out, x.numel() // x.shape[1], x.shape[3], x.shape[1], **sizes)


def sum_of_four(x: torch.Tensor, out: torch.Tensor) -> None:
    """`out` [N, C, H, W]: the sum of each 2x2 pixels of `x` [N, C, 2H, 2W]."""
    kernels, grid, sizes = _launch(out.numel() // out.shape[1], out.shape[1])
    kernels.sum_of_four[grid](x, out, out.numel() // out.shape[1], out.shape[3], out.shape[1], **sizes)


def _launch(rows: int, channels: int) -> tuple[Any, tuple[int], dict[str, int]]:
    from splatmend.enhance.decoder.fast import triton_kernels

    width = 1 << max(4, (channels - 1).bit_length())
    height = max(1, _ELEMENTS_A_PROGRAM // width)
    return triton_kernels, ((rows + height - 1) // height,), {"ROWS": height, "WIDTH": width}
