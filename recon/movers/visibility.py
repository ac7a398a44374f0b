"""Which returns lie where another sweep saw free space.

A scanner that sees something at 30 m has seen that the line to it is empty. A return at 20 m on that line, from another time, belongs to
something that came or went. Each sweep becomes a grid of ranges over azimuth and elevation; a place counts as free only where all
returns of the nine cells around it lie well behind, so that edges and leaves do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import minimum_filter, uniform_filter

from splatmend.recon.movers.obstacles import Turn
from splatmend.recon.spool import Kept, Recent, Spool

MOST_TURNS = 24
"""Sweeps that each sweep is held against, spread over the time around it."""
WINDOW_US = 8_000_000
_FEWEST_RETURNS = 4  # in the nine cells, for them to say anything


@dataclass(frozen=True, kw_only=True)
class RangeGrid:
    """`nearest_m [rows, columns]`: least range among the nine cells around each (inf without enough returns there)."""

    nearest_m: np.ndarray
    cell_rad: float
    lowest_rad: float
    origin_world_m: np.ndarray

    def is_behind(self, xyz_world_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For places `[N, 3]`: whether everything seen in their direction lies well behind them ("free"), and whether something was seen at
        about their range ("taken")."""
        row, column, range_m = self._cells(xyz_world_m)
        inside = (row >= 0) & (row < self.nearest_m.shape[0])
        nearest = np.full(len(xyz_world_m), np.inf)
        nearest[inside] = self.nearest_m[row[inside], column[inside]]
        margin = np.maximum(0.4, 0.02 * range_m)
        seen = np.isfinite(nearest)
        return seen & (nearest > range_m + margin), seen & (np.abs(nearest - range_m) <= margin)

    def _cells(self, xyz_world_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _cells(xyz_world_m - self.origin_world_m, self.cell_rad, self.lowest_rad, self.nearest_m.shape[1])


def range_grid(turn: Turn) -> RangeGrid:
    """The grid of one sweep; cells hold about two returns each where the scanner looked."""
    offset = turn.read().xyz_world_m - turn.origin_world_m
    elevation = np.arctan2(offset[:, 2], np.linalg.norm(offset[:, :2], axis=1))
    azimuth = np.arctan2(offset[:, 1], offset[:, 0])
    low, high = np.quantile(elevation, [0.01, 0.99])
    coarse = np.unique(np.floor(np.degrees(azimuth) / 5.0)).size * np.radians(5.0)
    cell = float(np.clip(np.sqrt(2.0 * coarse * max(high - low, 0.02) / len(offset)), np.radians(0.4), np.radians(2.0)))
    columns = round(2 * np.pi / cell)
    cell = 2 * np.pi / columns
    row, column, range_m = _cells(offset, cell, float(elevation.min()), columns)
    shape = (int(row.max()) + 1, columns)
    nearest, count = np.full(shape, np.inf), np.zeros(shape)
    np.minimum.at(nearest, (row, column), range_m)
    np.add.at(count, (row, column), 1)
    nearest = minimum_filter(nearest, size=3, mode=("nearest", "wrap"))
    known = uniform_filter(count, size=3, mode=("constant", "wrap")) * 9 > _FEWEST_RETURNS - 0.5
    return RangeGrid(
        nearest_m=np.where(known, nearest, np.inf),
        cell_rad=cell,
        lowest_rad=float(elevation.min()),
        origin_world_m=turn.origin_world_m,
    )


def emptied_returns(turns: Sequence[Turn], spool: Spool) -> Iterator[np.ndarray]:
    """For each sweep `[N]` bool: obstacles whose place at least two other sweeps saw free, and no fewer than a quarter of those that saw
    the place at all."""
    kept = [_kept_grid(range_grid(turn), spool) for turn in turns]
    grids = Recent(lambda number: kept[number].load(), MOST_TURNS)
    times_us = np.array([turn.mean_us for turn in turns])
    for number, turn in enumerate(turns):
        returns = turn.read()
        xyz = returns.xyz_world_m[returns.obstacle]
        free, taken = np.zeros(len(xyz), dtype=int), np.zeros(len(xyz), dtype=int)
        for other in held_against(times_us, number):
            is_free, is_taken = grids(other).is_behind(xyz)
            free += is_free
            taken += is_taken
        emptied = np.zeros(len(returns.xyz_world_m), dtype=bool)
        emptied[returns.obstacle] = (free >= 2) & (free >= 0.25 * (free + taken))
        yield emptied


def held_against(times_us: np.ndarray, number: int, apart_us: int = 0) -> list[int]:
    """Numbers of the sweeps that a sweep is held against: `MOST_TURNS` of those in the time around it, evenly spread, which are farther
    from it than `apart_us`."""
    away = np.abs(times_us - times_us[number])
    others = np.flatnonzero((away <= WINDOW_US) & (away >= apart_us) & (np.arange(len(times_us)) != number))
    chosen: list[int] = others[np.unique(np.linspace(0, len(others) - 1, min(len(others), MOST_TURNS)).astype(int))].tolist()
    return chosen


@dataclass(frozen=True, kw_only=True)
class _KeptGrid:
    nearest: Kept
    cell_rad: float
    lowest_rad: float
    origin_world_m: np.ndarray

    def load(self) -> RangeGrid:
        (nearest_m,) = self.nearest.load()
        return RangeGrid(nearest_m=nearest_m, cell_rad=self.cell_rad, lowest_rad=self.lowest_rad, origin_world_m=self.origin_world_m)


def _kept_grid(grid: RangeGrid, spool: Spool) -> _KeptGrid:
    return _KeptGrid(
        nearest=spool.keep(grid.nearest_m), cell_rad=grid.cell_rad, lowest_rad=grid.lowest_rad, origin_world_m=grid.origin_world_m
    )


def _cells(offset_m: np.ndarray, cell_rad: float, lowest_rad: float, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    flat = np.linalg.norm(offset_m[:, :2], axis=1)
    row = np.floor((np.arctan2(offset_m[:, 2], flat) - lowest_rad) / cell_rad).astype(np.int64)
    column = np.floor((np.arctan2(offset_m[:, 1], offset_m[:, 0]) + np.pi) / cell_rad).astype(np.int64) % columns
    return row, column, np.linalg.norm(offset_m, axis=1)
