"""Height of the road below any place, from the lowest returns of all sweeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

CELL_M = 1.0
STEEPEST = 0.12
"""Greatest slope of a road; what rises faster stands on it."""
_NEIGHBOURS = 60
_LOW_SHARE, _KEPT_SHARE = 0.05, 0.25
_LAYER_M = 0.01
_MOST_WAITING = 400_000
_BITS = 21


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Heights `z_m [C]` at the middles of cells that `tree` holds."""

    tree: cKDTree
    z_m: np.ndarray

    def height_m(self, xy_world_m: np.ndarray) -> np.ndarray:
        """Height `[N]` of the road at places `[N, 2]`: that of the nearest cell."""
        return self.z_m[self.tree.query(xy_world_m)[1]]


class GroundReturns:
    """Returns of any number of sweeps as counts in layers of a centimetre of each cell, of which only the low ones are kept: memory grows
    with the area, not with the sweeps."""

    def __init__(self) -> None:
        self._base_m: np.ndarray | None = None
        self._layers = _Sums(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        self._cells = _Sums(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        self._waiting: list[np.ndarray] = []

    def add(self, xyz_world_m: np.ndarray) -> None:
        """Returns `[N, 3]` of a sweep."""
        if not len(xyz_world_m):
            return
        if self._base_m is None:
            self._base_m = np.floor(xyz_world_m[0])
        self._waiting.append(xyz_world_m - self._base_m)
        if sum(map(len, self._waiting)) > _MOST_WAITING:
            self._settle()

    def ground(self) -> Ground | None:
        """The ground below all returns; None without any.

        A cell's height is the 5 % quantile of its returns, or, where that is lower, what a neighbour's height allows at the steepest slope:
        below a vehicle or a bridge the road around it decides. Reflections that lie below their surroundings are left out.
        """
        self._settle()
        if self._base_m is None:
            return None
        counts = self._cells.counts
        before, of_cell = self._counts_below()
        within = before + self._layers.counts > (_LOW_SHARE * counts).astype(np.int64)[of_cell]
        first = np.flatnonzero(within)[np.unique(of_cell[within], return_index=True)[1]]
        low = self._layers.sums[first] / self._layers.counts[first] + self._base_m[2]
        half, mask = 1 << (_BITS - 1), (1 << _BITS) - 1
        places = np.stack([(self._cells.keys >> _BITS) - half, (self._cells.keys & mask) - half], axis=1)
        kept = counts >= 3 if (counts >= 3).any() else counts >= 1
        middles, low = (places[kept] + 0.5) * CELL_M + self._base_m[:2], low[kept]
        around = cKDTree(middles).query(middles, k=min(25, len(middles)))[1].reshape(len(middles), -1)
        kept = low > np.median(low[around], axis=1) - 0.8
        middles, low = middles[kept], low[kept]
        tree = cKDTree(middles)
        z_m = np.empty(len(middles))
        for start in range(0, len(middles), 10_000):
            some = slice(start, start + 10_000)
            distance, around = tree.query(middles[some], k=min(_NEIGHBOURS, len(middles)))
            shape = (len(middles[some]), -1)
            z_m[some] = (low[around.reshape(shape)] + STEEPEST * distance.reshape(shape)).min(axis=1)
        return Ground(tree=tree, z_m=z_m)

    def _counts_below(self) -> tuple[np.ndarray, np.ndarray]:
        """For each layer how many returns its cell has below it, and the number of its cell."""
        of_cell = np.searchsorted(self._cells.keys, self._layers.keys >> _BITS)
        before = np.cumsum(self._layers.counts) - self._layers.counts
        starts = np.searchsorted(of_cell, np.arange(len(self._cells.keys)))
        return before - before[starts][of_cell], of_cell

    def _settle(self) -> None:
        if not self._waiting:
            return
        xyz, self._waiting = np.concatenate(self._waiting), []
        half = 1 << (_BITS - 1)
        x, y = (np.floor(xyz[:, axis] / CELL_M).astype(np.int64) + half for axis in (0, 1))
        layer = np.floor(xyz[:, 2] / _LAYER_M).astype(np.int64) + half
        keys = (x << 2 * _BITS) | (y << _BITS) | np.clip(layer, 0, 2 * half - 1)
        ones = np.ones(len(keys), np.int64)
        self._layers = self._layers.with_more(keys, ones, xyz[:, 2])
        self._cells = self._cells.with_more(keys >> _BITS, ones, xyz[:, 2])
        before, of_cell = self._counts_below()
        # What lies above the lowest quarter is above the lowest twentieth until a cell has five times its returns, and then by little.
        self._layers = self._layers.where(before <= _KEPT_SHARE * self._cells.counts[of_cell])


@dataclass(frozen=True)
class _Sums:
    """Counts and sums by key, keys rising."""

    keys: np.ndarray
    counts: np.ndarray
    sums: np.ndarray

    def with_more(self, keys: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> _Sums:
        all_keys = np.concatenate([self.keys, keys])
        found, place = np.unique(all_keys, return_inverse=True)
        count = np.bincount(place, weights=np.concatenate([self.counts, counts])).astype(np.int64)
        return _Sums(found, count, np.bincount(place, weights=np.concatenate([self.sums, sums])))

    def where(self, kept: np.ndarray) -> _Sums:
        return _Sums(self.keys[kept], self.counts[kept], self.sums[kept])


def fit_ground(xyz_world_m: np.ndarray) -> Ground | None:
    """The ground below returns `[N, 3]` (see `GroundReturns`)."""
    returns = GroundReturns()
    returns.add(xyz_world_m)
    return returns.ground()
