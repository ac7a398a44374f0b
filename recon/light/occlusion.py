"""What Gaussians keep off of the light of far sources: pictures of them as each source sees them, looked up by points.

Shape letters: N Gaussians, K sources, P points, R rows and columns of a picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from splatmend.datasets.geometry import box_corners, transform
from splatmend.recon.gaussians import joined
from splatmend.recon.raster import rasterize
from splatmend.recon.raster.api import Backend
from splatmend.recon.transfer import upload

_DISTANCE = 400.0
"""The eye stands this many reaches away, so that its rays are parallel to a four-hundredth."""
_MANY = 50_000
"""Of fewer Gaussians it costs more to find those in the square than to draw all."""
_DRAWN = 0.02
"""Below this opacity a pixel shows nothing that has a depth."""
_PADDING = 2
"""Pixels around a picture that keep nothing off: where a point outside it is looked up."""
_AT_ONCE = 1 << 21
"""Points times sources that are looked up at once."""


@dataclass(frozen=True, kw_only=True)
class OcclusionMaps:
    """Gaussians as K far sources see them. `sources [K, 3]` are unit directions towards these, `axes [K, 3, 3]` has the rows right, down,
    away from the source; a picture reaches `reach_m` from the `centre` to each side. `opacity` and `depth_m` (along the ray, from the
    plane through the centre; mean of what is drawn) are `[K, R, R]`."""

    sources: Float[Tensor, "K 3"]
    axes: Float[Tensor, "K 3 3"]
    centre: Float[Tensor, "3"]
    reach_m: float
    opacity: Float[Tensor, "K R R"]
    depth_m: Float[Tensor, "K R R"]

    def open_to(self, points: Float[Tensor, "P 3"], bias_m: float) -> Float[Tensor, "P K"]:
        """Share of each source's light that reaches points: less the opacity of what is drawn nearer to it by `bias_m` (none of it) to
        twice that (all of it) and more. Of four pixels around, mixed after the comparison (Reeves et al. 1987). 1 outside the pictures."""
        count = len(self.sources)
        out = [self._open(part, bias_m) for part in points.split(max(_AT_ONCE // max(count, 1), 1))]
        return joined(out) if out else points.new_zeros(0, count)

    @cached_property
    def _pixels(self) -> Float[Tensor, "K*S*S 2"]:
        """Opacity and depth of all pictures, one after the other, with pixels around each (S rows) that show nothing."""
        both = torch.stack([self.opacity, self.depth_m])
        return torch.nn.functional.pad(both, (_PADDING,) * 4).flatten(1).T.contiguous()

    @cached_property
    def _projection(self) -> tuple[Float[Tensor, "3*K 3"], Float[Tensor, "3*K 1"]]:
        """What makes columns, rows (in pixels, counted from the centre of the first) and depths of points: a matrix, and what is added."""
        rows = self.opacity.shape[1]
        axes = self.axes.transpose(0, 1)
        matrix = torch.cat([axes[:2] * (rows / (2 * self.reach_m)), axes[2:]]).flatten(0, 1)
        middle = torch.nn.functional.pad(axes.new_full((2 * len(self.axes),), (rows - 1) / 2), (0, len(self.axes)))
        return matrix, (middle - matrix @ self.centre)[:, None]

    def _open(self, points: Float[Tensor, "P 3"], bias_m: float) -> Float[Tensor, "P K"]:
        rows = self.opacity.shape[1]
        matrix, added = self._projection
        seen = torch.addmm(added, matrix, points.T).view(3, len(self.sources), len(points))
        at = seen[:2].clamp(-_PADDING, rows)
        corner = at.floor()
        share, (column, row) = at - corner, corner.int()
        around = _four_pixels(len(self.sources), rows, points.device) + torch.add(column, row, alpha=rows + 2 * _PADDING)
        opacity, depth_m = self._pixels.index_select(0, around.flatten()).view(2, 2, *column.shape, 2).unbind(-1)
        blocked = opacity * torch.sub(seen[2] / bias_m - 1, depth_m, alpha=1 / bias_m).clamp(0, 1)
        blocked = torch.lerp(blocked[:, 0], blocked[:, 1], share[0])
        return (1 - torch.lerp(blocked[0], blocked[1], share[1])).clamp(0, 1).T


@lru_cache(maxsize=64)
def _four_pixels(count: int, rows: int, device: torch.device) -> Int[Tensor, "4 K 1"]:
    """Where each picture's first pixel is among those of all with what is around them, and its neighbours right, below and both."""
    side = rows + 2 * _PADDING
    begins = (np.arange(count) * side + _PADDING) * side + _PADDING
    around = np.array([0, 1, side, side + 1])[:, None] + begins
    return torch.from_numpy(around.astype(np.int32))[..., None].to(device)


class Solid(Protocol):
    """Gaussians as they are drawn: activated, without colours."""

    @property
    def means(self) -> Float[Tensor, "N 3"]: ...
    @property
    def quats_wxyz(self) -> Float[Tensor, "N 4"]: ...
    @property
    def scales(self) -> Float[Tensor, "N 3"]: ...
    @property
    def opacities(self) -> Float[Tensor, "N"]: ...


@torch.no_grad()
def cast(
    gaussians: Solid,
    sources: Float[Tensor, "K 3"],
    centre: Float[Tensor, "3"],
    reach_m: float,
    rows: int,
    *,
    backend: Backend | None = None,
) -> OcclusionMaps:
    """Draw Gaussians as each source sees them (with the `ewa` model: a far source has no lens)."""
    sources = torch.nn.functional.normalize(sources, dim=1)
    axes = far_axes(sources)
    opacities, depths = [], []
    for axis in axes:
        along = (gaussians.means - centre) @ axis[2]
        blended, opacity = far_picture(gaussians, axis, centre, reach_m, rows, along[:, None], backend=backend)
        opacities.append(opacity)
        depths.append(torch.where(opacity > _DRAWN, blended[..., 0] / opacity.clamp_min(_DRAWN), 1e6))
    return OcclusionMaps(
        sources=sources, axes=axes, centre=centre, reach_m=reach_m, opacity=torch.stack(opacities), depth_m=torch.stack(depths)
    )


def far_picture(
    gaussians: Solid,
    axes: Float[Tensor, "3 3"],
    centre: Float[Tensor, "3"],
    reach_m: float,
    rows: int,
    channels: Float[Tensor, "N C"],
    *,
    backend: Backend | None = None,
) -> tuple[Float[Tensor, "R R C"], Float[Tensor, "R R"]]:
    """Channels blended, and opacity, of Gaussians as an eye far away sees them, which looks along the last of the `axes` (rows right,
    down, away) at a square that reaches so far from the `centre`."""
    moved, quats, scales, opacities = gaussians.means - centre, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities
    if len(moved) > _MANY:
        inside = (moved @ axes[:2].T).abs().amax(dim=1) < reach_m + 4 * scales.amax(dim=1)
        # Indices, since each look-up by a mask would wait for the device.
        which = inside.nonzero().squeeze(1)
        moved, quats, scales, opacities, channels = (part.index_select(0, which) for part in (moved, quats, scales, opacities, channels))
    camera_from_centre = torch.nn.functional.pad(axes, (0, 1, 0, 1)) + _far_away(reach_m, axes.device)
    drawn = rasterize(
        moved,
        quats,
        scales,
        opacities,
        channels.contiguous(),
        camera_from_centre,
        _far_intrinsics(rows, axes.device),
        rows,
        rows,
        model="ewa",
        backend=backend,
    )
    return drawn.channels, drawn.opacity


@lru_cache(maxsize=64)
def _far_away(reach_m: float, device: torch.device) -> Float[Tensor, "4 4"]:
    """The last column of such an eye's pose."""
    return upload(np.outer(np.eye(4)[2], np.eye(4)[3]) * _DISTANCE * reach_m + np.diag([0.0, 0, 0, 1]), device)


@lru_cache(maxsize=64)
def _far_intrinsics(rows: int, device: torch.device) -> Float[Tensor, "3 3"]:
    focal_px = rows / 2 * _DISTANCE
    return upload(np.array([[focal_px, 0, rows / 2], [0, focal_px, rows / 2], [0, 0, 1.0]]), device)


def may_shade(
    sizes_m: Float[np.ndarray, "M 3"],
    scene_from_boxes: Float[np.ndarray, "M 4 4"],
    to_sun: Float[np.ndarray, "3"],
    centre_m: Float[np.ndarray, "3"],
    reach_m: float,
    far_m: float,
) -> Bool[np.ndarray, "M"]:
    """Which boxes may take sunlight from points within `far_m` of a centre that lie in the sun's picture of `reach_m` around it: not those
    beyond one of its sides or behind all points. Half as much again around each box, since Gaussians reach beyond it."""
    axes = far_axes(torch.from_numpy(to_sun)[None])[0].numpy()
    corners = transform(scene_from_boxes[:, None], box_corners((1.5, 1.5, 1.5)) * sizes_m[:, None]) - centre_m
    right, down, away = np.moveaxis(corners @ axes.T, -1, 0)
    beside = [(side.min(axis=1) > reach_m) | (side.max(axis=1) < -reach_m) for side in (right, down)]
    return ~(beside[0] | beside[1] | (away.min(axis=1) > far_m))


def dome(count: int, device: str | torch.device = "cpu") -> Float[Tensor, "K 3"]:
    """Unit directions that cover the upper half evenly, each for the same solid angle (a Fibonacci spiral)."""
    index = torch.arange(count, device=device) + 0.5
    up, turn = index / count, index * (math.pi * (1 + 5**0.5))
    flat = (1 - up * up).sqrt()
    return torch.stack([flat * turn.cos(), flat * turn.sin(), up], dim=1)


def far_axes(sources: Float[Tensor, "K 3"]) -> Float[Tensor, "K 3 3"]:
    """Per source the axes of its picture in rows: right, down, away from the source."""
    away = -sources
    unit = torch.eye(3, dtype=away.dtype, device=away.device)
    helper = torch.where(away[:, 2:].abs() > 0.99, unit[:1], unit[2:])
    right = torch.nn.functional.normalize(torch.linalg.cross(away, helper.expand_as(away)), dim=1)
    return torch.stack([right, torch.linalg.cross(away, right), away], dim=1)
