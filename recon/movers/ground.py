"""Height of the road below any place, from the lowest returns of all sweeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

CELL_M = 1.0
STEEPEST = 0.12
"""Greatest slope of a road; what rises faster stands on it."""
_NEIGHBOURS = 60


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Heights `z_m [C]` at the middles of cells that `tree` holds."""

    tree: cKDTree
    z_m: np.ndarray

    def height_m(self, xy_world_m: np.ndarray) -> np.ndarray:
        """Height `[N]` of the road at places `[N, 2]`: that of the nearest cell."""
        return self.z_m[self.tree.query(xy_world_m)[1]]


def fit_ground(xyz_world_m: np.ndarray) -> Ground:
    """The ground below returns `[N, 3]` of all sweeps.

    A cell's height is the 5 % quantile of its returns, or, where that is lower, what a neighbour's height allows at the steepest slope:
    below a vehicle or a bridge the road around it decides. Reflections that lie below their surroundings are left out.
    """
    cells, cell = np.unique(np.floor(xyz_world_m[:, :2] / CELL_M).astype(np.int64), axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    order = np.lexsort((xyz_world_m[:, 2], cell))
    counts = np.bincount(cell)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    low = xyz_world_m[order[starts + (0.05 * counts).astype(np.int64)], 2]
    kept = counts >= 3 if (counts >= 3).any() else counts >= 1
    middles, low = (cells[kept] + 0.5) * CELL_M, low[kept]
    around = cKDTree(middles).query(middles, k=min(25, len(middles)))[1].reshape(len(middles), -1)
    kept = low > np.median(low[around], axis=1) - 0.8
    middles, low = middles[kept], low[kept]
    tree = cKDTree(middles)
    distance, around = tree.query(middles, k=min(_NEIGHBOURS, len(middles)))
    shape = (len(middles), -1)
    return Ground(tree=tree, z_m=(low[around.reshape(shape)] + STEEPEST * distance.reshape(shape)).min(axis=1))
