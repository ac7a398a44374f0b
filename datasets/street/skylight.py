"""How much of the sky each place of the street sees: a coarse grid of directional visibility, cast once when the street is built.

A cell keeps the first two orders of spherical harmonics of the visible part of the upper hemisphere; the light that a surface with
a given normal gets from it follows by the clamped-cosine factors 1 and 2/3 (Ramamoorthi and Hanrahan, "An efficient representation for
irradiance environment maps", 2001).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from splatmend.datasets.street.casters import RayCaster
from splatmend.datasets.street.centreline import Centreline

_CELL_M = (2.0, 2.0, 2.5)
_DIRECTIONS = 32


class SkyVisibility:
    """Looks up `[N]` shares of the sky's light: 1 on an open plane facing up, 0.5 on an open wall."""

    def __init__(self, caster: RayCaster, line: Centreline, start_m: float, end_m: float, reach_m: float = 18.0) -> None:
        s = np.arange(start_m, end_m, 4.0)
        rim = np.concatenate([line.point(s, reach_m), line.point(s, -reach_m)])
        low, high = rim.min(0) + np.array([0, 0, 0.4]), rim.max(0) + np.array([0, 0, 13.0])
        cell = np.array(_CELL_M)
        shape = np.ceil((high - low) / cell).astype(int) + 1
        device = caster.device
        axes = [torch.arange(n, device=device, dtype=torch.float32) * float(c) + float(lo) for n, c, lo in zip(shape, cell, low)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        # Cells far from the road are never looked up: the grid is a box around a winding line.
        heading_points = torch.from_numpy(line.point(s)[:, :2]).float().to(device)
        near = torch.cdist(grid[:, :2], heading_points).amin(1) < reach_m + 4
        points = grid[near]
        index = torch.arange(_DIRECTIONS, device=device) + 0.5
        up, turn = index / _DIRECTIONS, index * (np.pi * (1 + 5**0.5))
        flat = torch.sqrt(1 - up * up)
        directions = torch.stack([flat * torch.cos(turn), flat * torch.sin(turn), up], 1).float()
        blocked = caster.occluded(
            points.repeat_interleave(_DIRECTIONS, 0).contiguous(), directions.repeat(len(points), 1).contiguous()
        ).view(-1, _DIRECTIONS)
        seen = (~blocked).float()
        # Means over the whole sphere: the lower half is never sky.
        order = torch.cat([0.5 * seen.mean(1, keepdim=True), 3 * 0.5 * (seen[:, :, None] * directions).mean(1)], 1)
        volume = torch.zeros((len(grid), 4), device=device)
        weight = torch.zeros((len(grid), 1), device=device)
        volume[near] = order
        weight[near] = (order[:, :1] > 0.02).float()
        self._volume = _filled(volume, weight, shape)
        self._low, self._span = torch.tensor(low, device=device).float(), torch.tensor(cell * (shape - 1), device=device).float()

    def at(self, position: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        """At points `[N, 3]` with unit normals `[N, 3]`; looked up a metre off the surface, so that walls do not darken themselves."""
        place = ((position + 1.1 * normal - self._low) / self._span * 2 - 1).flip(1)
        found = F.grid_sample(self._volume, place[None, None, None], mode="bilinear", padding_mode="border", align_corners=True)[
            0, :, 0, 0
        ].T
        return (found[:, 0] + (2 / 3) * torch.linalg.vecdot(found[:, 1:], normal)).clamp(0.03, 1.0)


def _filled(volume: torch.Tensor, weight: torch.Tensor, shape: np.ndarray) -> torch.Tensor:
    """The volume as `[1, 4, X, Y, Z]`; cells inside solids take the mean of their lit neighbours."""
    sized = volume.view(*shape, 4).permute(3, 0, 1, 2)[None]
    known = weight.view(*shape)[None, None]
    sized = sized * known
    for _ in range(3):
        total = F.avg_pool3d(sized, 3, 1, 1, count_include_pad=False)
        share = F.avg_pool3d(known, 3, 1, 1, count_include_pad=False)
        fill = (known == 0) & (share > 0)
        sized = torch.where(fill, total / share.clamp(min=1e-6), sized)
        known = torch.where(fill, torch.ones_like(known), known)
    return sized.contiguous()
