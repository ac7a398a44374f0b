"""Triton kernels of `norm`: one program reads some pixels' channels once and writes them once."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_MAX_CHANNELS = 2048
_ELEMENTS_A_PROGRAM = 4096


def usable(x: torch.Tensor) -> bool:
    """Whether the kernels can run on `x`."""
    return _HAS_TRITON and (x.is_cuda or _INTERPRETED) and x.shape[1] <= _MAX_CHANNELS and x.dtype != torch.float64


def forward(x: torch.Tensor, gamma: torch.Tensor, scale: float, out: torch.Tensor) -> None:
    """See `norm.norm_silu_into`."""
    rows, channels, clip_rows = _rows(x)
    kernels, grid, sizes = _launch(rows, channels)
    kernels.forward[grid](x, gamma, out, rows, clip_rows, _clip_stride(x), _clip_stride(out), scale, channels, **sizes)


def backward(x: torch.Tensor, gamma: torch.Tensor, scale: float, grad: torch.Tensor) -> torch.Tensor:
    """See `norm.norm_silu_backward`."""
    rows, channels, clip_rows = _rows(x)
    grad = grad if _is_rows(grad) else grad.contiguous(memory_format=torch.channels_last_3d)
    out = torch.empty_like(x, memory_format=torch.channels_last_3d)
    kernels, grid, sizes = _launch(rows, channels)
    strides = (_clip_stride(x), _clip_stride(grad), _clip_stride(out))
    kernels.backward[grid](x, gamma, grad, out, rows, clip_rows, *strides, scale, channels, **sizes)
    return out


def _rows(x: torch.Tensor) -> tuple[int, int, int]:
    """Number of pixels, channels, and pixels a clip of the batch."""
    batch, channels, frames, height, width = x.shape
    if not _is_rows(x):
        raise ValueError("the kernels take channels-last tensors")
    return batch * frames * height * width, channels, frames * height * width


def _is_rows(x: torch.Tensor) -> bool:
    """Whether each clip of the batch is one piece of channels-last memory (frames may be a slice of a longer buffer)."""
    _, channels, _, height, width = x.shape
    wanted = (1, height * width * channels, width * channels, channels)
    return all(size == 1 or have == want for size, have, want in zip(x.shape[1:], x.stride()[1:], wanted, strict=True))


def _clip_stride(x: torch.Tensor) -> int:
    return x.stride(0)


def _launch(rows: int, channels: int) -> tuple[Any, tuple[int], dict[str, int]]:
    from splatmend.enhance.decoder.fast import triton_kernels

    width = 1 << max(4, (channels - 1).bit_length())
    height = max(1, _ELEMENTS_A_PROGRAM // width)
    return triton_kernels, ((rows + height - 1) // height,), {"ROWS": height, "WIDTH": width}
