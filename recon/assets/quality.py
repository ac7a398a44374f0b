"""How much of a body was seen and how finely, in one number.

The quality is the cube root of coverage x fineness x solidity, each in [0, 1]:

* coverage: share of the area of the box (its left, right, front, rear and top, on a grid) that views saw well; where only the mirror
  image of a place was seen, it counts 0.6 for vehicles.
* fineness: p / (p + 40) of the median over Gaussians of the most pixels per metre with which a view saw it.
* solidity: mean opacity of pictures from twelve sides around, over the pixels that it covers by more than a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.recon.assets.sightings import WELL_SEEN, View, seen_from
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.light.occlusion import cast
from splatmend.recon.raster.api import Backend

_GRID = 8
_MIRRORED_COUNTS = 0.6
_HALF_FINE = 40.0
_SIDES, _ROWS, _COVERED = 12, 64, 0.1


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The three parts, and their geometric mean `score`."""

    coverage: float
    fineness: float
    solidity: float
    px_per_m: float

    @property
    def score(self) -> float:
        return float(np.cbrt(self.coverage * self.fineness * self.solidity))


def quality_of(
    gaussians: Gaussians,
    size_m: tuple[float, float, float],
    views: tuple[View, ...],
    weights: Float[Tensor, "V N"],
    *,
    px_per_m: Float[Tensor, "N"],
    symmetric: bool,
    backend: Backend | None = None,
) -> Quality:
    """Quality of a body from the views of it. `gaussians` are the finished ones; `weights` (as `seen_from` gives them) and the most
    pixels per metre belong to the recorded ones; `symmetric` bodies take the one side for the other."""
    seen = weights.sum(dim=0) >= WELL_SEEN
    fine = float(px_per_m[seen].median()) if bool(seen.any()) else 0.0
    return Quality(
        coverage=_coverage(size_m, views, symmetric, gaussians.device),
        fineness=fine / (fine + _HALF_FINE),
        solidity=_solidity(gaussians, size_m, backend),
        px_per_m=fine,
    )


def _coverage(size_m: tuple[float, float, float], views: tuple[View, ...], symmetric: bool, device: torch.device) -> float:
    points, normals, areas = _box_grid(size_m, device)
    flip = points.new_tensor([1.0, -1.0, 1.0])
    here = seen_from(views, points, normals).sum(dim=0) >= WELL_SEEN
    there = seen_from(views, points * flip, normals * flip).sum(dim=0) >= WELL_SEEN
    counts = torch.where(here, 1.0, torch.where(there & symmetric, _MIRRORED_COUNTS, 0.0))
    return float((counts * areas).sum() / areas.sum())


def _box_grid(size_m: tuple[float, float, float], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Places on all faces of a box but the lowest, their normals, and the area of each."""
    steps = (torch.arange(_GRID, device=device) + 0.5) / _GRID - 0.5
    half, size = torch.tensor(size_m, device=device) / 2, torch.tensor(size_m, device=device)
    points, normals, areas = [], [], []
    for axis, side in ((0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0), (2, 1.0)):
        others = [i for i in range(3) if i != axis]
        place = torch.zeros(_GRID * _GRID, 3, device=device)
        place[:, others] = torch.cartesian_prod(steps, steps) * size[others]
        place[:, axis] = side * half[axis]
        normal = torch.zeros_like(place)
        normal[:, axis] = side
        points.append(place)
        normals.append(normal)
        areas.append(torch.full((len(place),), float(size[others].prod()) / len(place), device=device))
    return torch.cat(points), torch.cat(normals), torch.cat(areas)


def _solidity(gaussians: Gaussians, size_m: tuple[float, float, float], backend: Backend | None) -> float:
    turn = torch.arange(_SIDES, device=gaussians.device) * (2 * np.pi / _SIDES)
    sides = torch.stack([turn.cos(), turn.sin(), torch.full_like(turn, 0.3)], dim=1)
    reach_m = 0.55 * float(np.linalg.norm(size_m))
    opacity = cast(gaussians, sides, torch.zeros(3, device=gaussians.device), reach_m, _ROWS, backend=backend).opacity
    covered = opacity > _COVERED
    return float(opacity[covered].mean()) if bool(covered.any()) else 0.0
