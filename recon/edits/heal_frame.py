"""Places along an actor's way: a level frame, distances along and beside the way, and grids of these.

Level coordinates are metres, the third one along the scene's up. Shape letters: N points, P vertices of a way, S and D rows along and
across it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from splatmend.recon.transfer import upload

_STEP_M = 4.0
"""Vertices of a way are this far apart: tracks of found movers shake by decimetres."""
_AT_ONCE = 1 << 22


def level_axes(up_world: tuple[float, float, float]) -> np.ndarray:
    """`level_from_scene [3, 3]`: a rotation whose last row is up."""
    up = np.asarray(up_world, dtype=np.float64) / np.linalg.norm(up_world)
    across = np.eye(3)[np.argmin(np.abs(up))]
    left = np.cross(up, across)
    left /= np.linalg.norm(left)
    return np.stack([np.cross(left, up), left, up])


@dataclass(frozen=True, kw_only=True)
class Way:
    """A polyline `points [P, 2]` in the level plane with unit vectors to its left at the vertices and distances `along_m [P]`; it goes on
    straight beyond both ends."""

    points: Float[Tensor, "P 2"]
    left: Float[Tensor, "P 2"]
    along_m: Float[Tensor, "P"]

    @staticmethod
    def through(points: Float[np.ndarray, "T 2"], heading: Float[np.ndarray, "2"], device: torch.device) -> Way:
        """Along places in the order of time; along `heading` at the first one where they do not get anywhere."""
        kept = [points[0]]
        for point in points[1:]:
            if np.linalg.norm(point - kept[-1]) >= _STEP_M:
                kept.append(point)
        if len(kept) == 1:
            kept.append(kept[0] + heading / np.linalg.norm(heading))
        line = np.stack(kept)
        steps = np.diff(line, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        turned = np.stack([-steps[:, 1], steps[:, 0]], axis=1) / lengths[:, None]
        left = np.concatenate([turned[:1], (turned[1:] + turned[:-1]) / 2, turned[-1:]])
        left /= np.linalg.norm(left, axis=1, keepdims=True)
        along = np.concatenate([[0.0], np.cumsum(lengths)])
        return Way(points=upload(line, device), left=upload(left, device), along_m=upload(along, device))

    def place(self, along_m: Float[Tensor, "N"], left_m: Float[Tensor, "N"]) -> Float[Tensor, "N 2"]:
        """Level places of distances along and to the left."""
        at, share = self._segment(along_m)
        middle = self.points[at] + share[:, None] * (self.points[at + 1] - self.points[at])
        return middle + left_m[:, None] * self.left_at(along_m)

    def left_at(self, along_m: Float[Tensor, "N"]) -> Float[Tensor, "N 2"]:
        """Unit vectors to the left."""
        at, share = self._segment(along_m)
        return functional.normalize(torch.lerp(self.left[at], self.left[at + 1], share.clamp(0, 1)[:, None]), dim=1)

    def locate(self, xy: Float[Tensor, "N 2"]) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
        """Distances along and to the left of level places, by the nearest segment."""
        parts = [self._located(part) for part in xy.split(max(_AT_ONCE // len(self.points), 1))]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _located(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        steps = self.points[1:] - self.points[:-1]
        lengths = steps.norm(dim=1)
        unit = steps / lengths[:, None]
        apart = xy[:, None] - self.points[None, :-1]
        along = (apart * unit).sum(dim=2)
        low, high = torch.zeros_like(lengths), lengths.clone()
        low[0], high[-1] = -torch.inf, torch.inf
        held = torch.minimum(torch.maximum(along, low), high)
        at = (apart - held[..., None] * unit).norm(dim=2).argmin(dim=1)
        row = torch.arange(len(xy), device=xy.device)
        beside = apart[row, at, 1] * unit[at, 0] - apart[row, at, 0] * unit[at, 1]
        return self.along_m[at] + held[row, at], beside

    def _segment(self, along_m: Tensor) -> tuple[Tensor, Tensor]:
        at = (torch.searchsorted(self.along_m, along_m, right=True) - 1).clamp(0, len(self.points) - 2)
        return at, (along_m - self.along_m[at]) / (self.along_m[at + 1] - self.along_m[at])


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Square cells along a way: `rows` (S) along it from `along_m`, `columns` (D) to the left from `left_m`."""

    way: Way
    along_m: float
    left_m: float
    cell_m: float
    rows: int
    columns: int

    @staticmethod
    def over(way: Way, before_m: float, after_m: float, beside_m: float, cell_m: float) -> Grid:
        """From before the way's first vertex to after its last one, to both sides."""
        rows = int(np.ceil((float(way.along_m[-1]) + before_m + after_m) / cell_m))
        return Grid(way=way, along_m=-before_m, left_m=-beside_m, cell_m=cell_m, rows=rows, columns=int(np.ceil(2 * beside_m / cell_m)))

    def middles(self) -> tuple[Float[Tensor, "SD"], Float[Tensor, "SD"]]:
        """Distances along and to the left of all cells, row by row."""
        device = self.way.points.device
        along = self.along_m + (torch.arange(self.rows, device=device) + 0.5) * self.cell_m
        left = self.left_m + (torch.arange(self.columns, device=device) + 0.5) * self.cell_m
        return along.repeat_interleave(self.columns), left.repeat(self.rows)

    def cell_of(self, along_m: Float[Tensor, "N"], left_m: Float[Tensor, "N"]) -> Int[Tensor, "N"]:
        """Numbers of the cells that hold places; -1 outside."""
        row = ((along_m - self.along_m) / self.cell_m).floor().long()
        column = ((left_m - self.left_m) / self.cell_m).floor().long()
        inside = (row >= 0) & (row < self.rows) & (column >= 0) & (column < self.columns)
        return torch.where(inside, row * self.columns + column, -1)

    def sampled(self, field: Float[Tensor, "S D"], along_m: Float[Tensor, "N"], left_m: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """A field of the cells' middles between them, bilinear; at the border's value outside."""
        x = (left_m - self.left_m) / self.cell_m * (2 / self.columns) - 1
        y = (along_m - self.along_m) / self.cell_m * (2 / self.rows) - 1
        at = torch.stack([x, y], dim=1)[None, None]
        return functional.grid_sample(field[None, None], at, padding_mode="border", align_corners=False)[0, 0, 0]


def filled(values: Float[Tensor, "C S D"], weights: Float[Tensor, "S D"]) -> Float[Tensor, "C S D"]:
    """Values where weights (in [0, 1]) are 1, a smooth way between these elsewhere; by a pyramid of weighted means (Gortler et al. 1996,
    push-pull). 0 where nothing is known at all."""
    rows, columns = weights.shape
    if min(rows, columns) <= 1:
        total = weights.sum()
        mean = (values * weights).sum(dim=(1, 2), keepdim=True) / total.clamp_min(1e-6)
        return values * weights + (1 - weights) * mean
    pooled = functional.avg_pool2d(weights[None, None], 2, ceil_mode=True)[0, 0]
    sums = functional.avg_pool2d((values * weights)[None], 2, ceil_mode=True)[0]
    coarse = filled(sums / pooled.clamp_min(1e-9), (4 * pooled).clamp_max(1.0))
    around = functional.interpolate(coarse[None], size=(rows, columns), mode="bilinear", align_corners=False)[0]
    return values * weights + (1 - weights) * around


def spread(mask: Tensor, cells: int) -> Tensor:
    """A mask `[S, D]` grown by a number of cells to all sides."""
    if cells < 1:
        return mask
    return functional.max_pool2d(mask[None, None].float(), 2 * cells + 1, stride=1, padding=cells)[0, 0] > 0.5
