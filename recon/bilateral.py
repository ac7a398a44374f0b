"""Colour maps that differ from place to place in a picture, and with brightness: a coarse grid of affine maps.

Wang et al., "Bilateral Guided Radiance Field Processing" (SIGGRAPH 2024, arXiv 2406.00448), section 4.1: what a camera does to a picture
on its own (vignetting, local tone mapping) is smooth over the picture and over brightness, so each picture has a small grid of affine
maps along these three axes, and a pixel takes the map between the eight vertices around it.

Shape letters: L levels of brightness, Y X vertices along the picture's height and width, H W pixels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in a pixel's brightness (ITU-R BT.601)."""


def slice_grid(grid: Float[Tensor, "L Y X 3 4"], rgb: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """Colours through the grid's maps.

    The outermost vertices lie on the picture's edges, at brightness 0 and 1; brightness beyond these takes the end's map. Only matrix
    products with weights that are zero for all but the vertices around: without scattered sums on the way back, so that every run gives
    the same bits.
    """
    levels, rows, columns = grid.shape[:3]
    height, width = rgb.shape[:2]
    # A picture's width comes last, so that kernels run along it.
    red, green, blue = rgb.permute(2, 0, 1).contiguous()
    by_row = _hats(_centres(height, grid), rows)
    by_column = _hats(_centres(width, grid), columns)
    lines = by_row.T @ grid.permute(1, 4, 3, 0, 2).reshape(rows, -1)
    brightness = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    by_level = _hats(brightness.clamp(0.0, 1.0), levels).transpose(0, 1)
    shares = (by_level[:, :, None] * by_column).flatten(1, 2)
    gain_r, gain_g, gain_b, offset = torch.bmm(lines.view(height, 12, -1), shares).view(height, 4, 3, width).unbind(1)
    seen = gain_r * red[:, None] + gain_g * green[:, None] + gain_b * blue[:, None] + offset
    return seen.transpose(1, 2)


def variation(grid: Float[Tensor, "L Y X 3 4"]) -> Tensor:
    """How much a grid's maps change from vertex to vertex: for each axis the mean square of the differences (squared total variation, as
    in the paper), summed."""
    steps = [grid.diff(dim=axis).square().mean() for axis in range(3) if grid.shape[axis] > 1]
    return torch.stack(steps).sum() if steps else torch.zeros((), device=grid.device)


def _centres(count: int, like: Tensor) -> Float[Tensor, "n"]:
    """Centres of pixels in a row of so many, as shares of it."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count


def _hats(shares: Float[Tensor, "*n"], vertices: int) -> Float[Tensor, "vertices *n"]:
    """Weights of linear interpolation between vertices that lie evenly from 0 to 1."""
    numbers = torch.arange(vertices, device=shares.device, dtype=shares.dtype)
    apart = shares * (vertices - 1) - numbers.view(-1, *[1] * shares.ndim)
    return (1.0 - apart.abs()).clamp_min(0.0)
