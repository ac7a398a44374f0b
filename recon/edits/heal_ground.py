"""Height of a scene's ground around an actor's way, from its Gaussians. Shape letters: N points, S and D rows and columns of a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.recon.edits.heal_frame import Grid, Way, filled
from splatmend.recon.gaussians import Gaussians

_RINGS_M = (8.0, 16.0, 32.0, 64.0)
_BAND_M = 0.4
_CELL_BAND_M = 0.25
_BEFORE_M, _AFTER_M, _BESIDE_M = 40.0, 120.0, 45.0


@dataclass(frozen=True, kw_only=True)
class GroundField:
    """Level height `height_m [S, D]` of the ground at the middles of a grid's cells."""

    grid: Grid
    height_m: Float[Tensor, "S D"]

    def at(self, along_m: Float[Tensor, "N"], left_m: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        return self.grid.sampled(self.height_m, along_m, left_m)


def ground_field(gaussians: Gaussians, level: Float[Tensor, "N 3"], way: Way, feet_m: Float[Tensor, "T 3"]) -> GroundField:
    """The ground along a way, on which an actor stood with its feet.

    A plane through what lies near the actor's feet grows outwards by rings, each time fitted again to the Gaussians that lie near it
    (weighted by the area that they cover); what remains in cells of a metre is added, smoothly across holes.
    """
    grid = Grid.over(way, _BEFORE_M, _AFTER_M, _BESIDE_M, 1.0)
    along, left = way.locate(level[:, :2])
    cell = grid.cell_of(along, left)
    feet_at, _ = way.locate(feet_m[:, :2])
    # Distance to the stretch that the actor drove, not to the way's straight ends.
    apart = torch.hypot(left, (feet_at.min() - along).clamp_min(0) + (along - feet_at.max()).clamp_min(0))
    usable = (cell >= 0) & (gaussians.opacities > 0.3) & (level[:, 2] < feet_m[:, 2].max() + 12) & (level[:, 2] > feet_m[:, 2].min() - 12)
    along, left, apart, height = along[usable], left[usable], apart[usable], level[usable, 2]
    largest = gaussians.scales[usable].topk(2, dim=1).values.clamp_max(1.0)
    area = (largest[:, 0] * largest[:, 1]).clamp_min(1e-4)
    terms = torch.stack([torch.ones_like(along), along / 10, left / 10], dim=1)
    start = torch.stack([torch.ones_like(feet_at), feet_at / 10], dim=1)
    # Feet say how the road rises only where they went far.
    ridge = torch.diag(start.new_tensor([1e-3, 5.0]))
    fitted = torch.linalg.solve(start.T @ start + ridge, start.T @ feet_m[:, 2])
    plane = torch.stack([fitted[0], fitted[1], torch.zeros_like(fitted[0])])
    for ring in _RINGS_M:
        for _ in range(3):
            rest = height - terms @ plane
            weight = area * (apart < ring) * (rest.abs() < _BAND_M)
            if int((weight > 0).sum()) < 12:
                continue
            left_side = (terms * weight[:, None]).T @ terms + 1e-4 * area.mean() * torch.eye(3, device=terms.device)
            plane = plane + torch.linalg.solve(left_side, (terms * weight[:, None]).T @ rest)
    rest = height - terms @ plane
    close = rest.abs() < _CELL_BAND_M
    numbers, weight = cell[usable][close], area[close]
    sums = torch.zeros(2, grid.rows * grid.columns, device=level.device)
    sums[0].index_add_(0, numbers, weight * rest[close])
    sums[1].index_add_(0, numbers, weight)
    known = (sums[1] > 0).float().view(grid.rows, grid.columns)
    mean = (sums[0] / sums[1].clamp_min(1e-9)).view(1, grid.rows, grid.columns)
    smooth = torch.nn.functional.avg_pool2d(torch.cat([mean * known, known[None]])[None], 3, 1, 1)[0]
    residual = filled(smooth[:1] / smooth[1:].clamp_min(1e-6), (smooth[1] > 0).float())[0]
    all_along, all_left = grid.middles()
    base = torch.stack([torch.ones_like(all_along), all_along / 10, all_left / 10], dim=1) @ plane
    return GroundField(grid=grid, height_m=base.view(grid.rows, grid.columns) + residual)
