"""What Gaussians keep off of the light of far sources: pictures of them as each source sees them, looked up by points.

Shape letters: N Gaussians, K sources, P points, R rows and columns of a picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.recon.gaussians import Gaussians
from splatmend.recon.raster import rasterize
from splatmend.recon.raster.api import Backend
from splatmend.recon.transfer import upload

_DISTANCE = 400.0
"""The eye stands this many reaches away, so that its rays are parallel to a four-hundredth."""
_DRAWN = 0.02
"""Below this opacity a pixel shows nothing that has a depth."""
_AT_ONCE = 1 << 22
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
        count, rows = len(self.sources), self.opacity.shape[1]
        out = [self._open(part, bias_m, rows) for part in points.split(max(_AT_ONCE // max(count, 1), 1))]
        return torch.cat(out) if out else points.new_zeros(0, count)

    def _open(self, points: Float[Tensor, "P 3"], bias_m: float, rows: int) -> Float[Tensor, "P K"]:
        seen = torch.einsum("kij,pj->kpi", self.axes, points - self.centre)
        at = (seen[..., :2] / self.reach_m + 1) * (rows / 2) - 0.5
        corner = at.floor()
        share = at - corner
        corner = corner.long()
        which = torch.arange(len(self.axes), device=points.device)[:, None]
        blocked = torch.zeros_like(seen[..., 0])
        for down in (0, 1):
            for right in (0, 1):
                column, row = corner[..., 0] + right, corner[..., 1] + down
                inside = (column >= 0) & (column < rows) & (row >= 0) & (row < rows)
                column, row = column.clamp(0, rows - 1), row.clamp(0, rows - 1)
                behind = ((seen[..., 2] - self.depth_m[which, row, column]) / bias_m - 1).clamp(0, 1)
                weight = (share[..., 0] if right else 1 - share[..., 0]) * (share[..., 1] if down else 1 - share[..., 1])
                blocked = blocked + weight * self.opacity[which, row, column] * inside * behind
        return (1 - blocked).clamp(0, 1).T


@torch.no_grad()
def cast(
    gaussians: Gaussians,
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
    gaussians: Gaussians,
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
    moved = gaussians.means - centre
    inside = (moved @ axes[:2].T).abs().amax(dim=1) < reach_m + 4 * gaussians.scales.amax(dim=1)
    if not bool(inside.all()):
        # Of a whole scene little lies in the square.
        gaussians, moved, channels = gaussians.select(inside), moved[inside], channels[inside]
    camera_from_centre = torch.eye(4, device=gaussians.device)
    camera_from_centre[:3, :3] = axes
    camera_from_centre[2, 3] = _DISTANCE * reach_m
    focal_px = rows / 2 * _DISTANCE
    drawn = rasterize(
        moved,
        gaussians.quats_wxyz,
        gaussians.scales,
        gaussians.opacities,
        channels.contiguous(),
        camera_from_centre,
        upload(np.array([[focal_px, 0, rows / 2], [0, focal_px, rows / 2], [0, 0, 1.0]]), gaussians.device),
        rows,
        rows,
        model="ewa",
        backend=backend,
    )
    return drawn.channels, drawn.opacity


def dome(count: int, device: str | torch.device = "cpu") -> Float[Tensor, "K 3"]:
    """Unit directions that cover the upper half evenly, each for the same solid angle (a Fibonacci spiral)."""
    index = torch.arange(count, device=device) + 0.5
    up, turn = index / count, index * (math.pi * (1 + 5**0.5))
    flat = (1 - up * up).sqrt()
    return torch.stack([flat * turn.cos(), flat * turn.sin(), up], dim=1)


def far_axes(sources: Float[Tensor, "K 3"]) -> Float[Tensor, "K 3 3"]:
    """Per source the axes of its picture in rows: right, down, away from the source."""
    away = -sources
    helper = torch.where(away[:, 2:].abs() > 0.99, away.new_tensor([[1.0, 0, 0]]), away.new_tensor([[0, 0, 1.0]]))
    right = torch.nn.functional.normalize(torch.linalg.cross(away, helper.expand_as(away)), dim=1)
    return torch.stack([right, torch.linalg.cross(away, right), away], dim=1)
