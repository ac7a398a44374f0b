"""Structural similarity as a loss. Shape letters: N pictures, C channels, H W pixels."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SSIM_SIDE_PX = 11
"""Shortest side that holds a window."""
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def structural_similarity(a: Float[Tensor, "N C H W"], b: Float[Tensor, "N C H W"]) -> Float[Tensor, "N"]:
    """SSIM of pictures in [0, 1], mean over the windows that lie inside (Wang et al. 2004; window 11, sigma 1.5).
    Differentiable once, with respect to one of the two; `ValueError` where both ask for a gradient, or a side is below 11.

    On CUDA four kernels of Triton do it, in float32: convolutions of a channel each, and the maps between them, take seven times as long.
    """
    if min(a.shape[-2:]) < SSIM_SIDE_PX:
        raise ValueError(f"pictures of {tuple(a.shape[-2:])} hold no window of structural_similarity")
    if b.requires_grad:
        if a.requires_grad:
            raise ValueError("structural_similarity gives a gradient for one of its pictures only")
        a, b = b, a  # it does not matter which is which
    with torch.autocast(a.device.type, enabled=False):
        if _HAS_TRITON and a.is_cuda and a.dtype == b.dtype == torch.float32:
            return _ByKernels.apply(a, b)
        return _ByConvolutions.apply(a, b)


class _ByKernels(torch.autograd.Function):
    """See `ssim_kernels`. Pictures whose channels lie together are taken as they are."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        from splatmend.datasets import ssim_kernels

        ctx.together = a.permute(0, 2, 3, 1).is_contiguous()
        ctx.shape = a.shape
        a, b = (_planes(x, together=ctx.together) for x in (a, b))
        ctx.step = ctx.shape[1] if ctx.together else 1
        means, slopes = ssim_kernels.forward(a, b, ctx.step, slopes=ctx.needs_input_grad[0])
        if slopes is not None:
            ctx.save_for_backward(a, b, slopes)
        return means

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        from splatmend.datasets import ssim_kernels

        count, channels, height, width = ctx.shape
        a, b, slopes = ctx.saved_tensors
        by_a = ssim_kernels.backward(a, b, ctx.step, slopes, grad)
        return (by_a.view(count, height, width, channels).permute(0, 3, 1, 2) if ctx.together else by_a), None


def _planes(x: Tensor, *, together: bool) -> Tensor:
    """A picture's channels as planes `[N, C, H, W]`, or `together` as one `[N, 1, H, W C]`, whole in memory."""
    return x.permute(0, 2, 3, 1).contiguous().flatten(2)[:, None] if together else x.contiguous()


class _ByConvolutions(torch.autograd.Function):
    """Keeps the slopes of the map with respect to the blurred a, a a and a b, in place of a graph over fifteen maps."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        channels = a.shape[1]
        mean_a, mean_b, mean_aa, mean_bb, mean_ab = _blurred(torch.cat([a, b, a * a, b * b, a * b], dim=1)).split(channels, dim=1)
        c1, c2 = 0.01**2, 0.03**2
        product, squares = mean_a * mean_b, mean_a.square() + mean_b.square()
        light, light_over = 2 * product + c1, squares + c1
        shape, shape_over = 2 * (mean_ab - product) + c2, mean_aa + mean_bb - squares + c2
        scale = 1 / (light_over * shape_over)
        similar = light * shape * scale
        if ctx.needs_input_grad[0]:
            by_ab = 2 * light * scale
            by_aa = -similar / shape_over
            # Through the blurred a alone: the products of means in the two fractions.
            by_a = 2 * mean_b * (shape - light) * scale + 2 * mean_a * (similar / shape_over - similar / light_over)
            ctx.save_for_backward(a, b, torch.cat([by_a, by_aa, by_ab], dim=1))
        return similar.mean(dim=(1, 2, 3))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        a, b, slopes = ctx.saved_tensors
        by_a, by_aa, by_ab = _spread(slopes).split(a.shape[1], dim=1)
        count = slopes.shape[1] // 3 * slopes.shape[2] * slopes.shape[3]
        return (by_a + 2 * a * by_aa + b * by_ab) * (grad / count)[:, None, None, None], None


def _window(like: Tensor) -> Tensor:
    x = torch.arange(-5, 6, dtype=like.dtype, device=like.device)
    weights = torch.exp(-(x**2) / (2 * 1.5**2))
    return (weights / weights.sum()).expand(like.shape[1], 1, 11)


def _blurred(maps: Tensor) -> Tensor:
    """Means over the windows that lie inside, `[N, C, H - 10, W - 10]`."""
    window = _window(maps)
    rows = torch.nn.functional.conv2d(maps, window[:, :, :, None], groups=maps.shape[1])
    return torch.nn.functional.conv2d(rows, window[:, :, None, :], groups=maps.shape[1])


def _spread(maps: Tensor) -> Tensor:
    """The transpose of `_blurred`: a window is its own mirror image, so it is a blur of the padded maps."""
    return _blurred(torch.nn.functional.pad(maps, (10, 10, 10, 10)))
