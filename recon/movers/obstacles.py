"""What stands on the road: the returns of each sweep that neither the ground nor things overhead gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splatmend.datasets.log import LidarPoints, LidarSweep
from splatmend.recon.movers.ground import Ground, GroundReturns
from splatmend.recon.spool import Kept, Spool

LOWEST_M, HIGHEST_M = 0.3, 4.5
MOST_RETURNS = 40_000
"""Of a sweep; of more, every second, third, ... is taken."""
FARTHEST_M = 60.0
"""Beyond this a vehicle gives too few returns to be registered."""


@dataclass(frozen=True, kw_only=True)
class TurnReturns:
    """All returns of one sweep: `xyz_world_m [N, 3]`, `time_us [N]`, and `obstacle [N]` bool, which of them stand on the road."""

    xyz_world_m: np.ndarray
    time_us: np.ndarray
    obstacle: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One sweep as it is searched. `key` is its sensor and start in microseconds, `mean_us` the mean time of its returns, which lie in a
    file until they are read; `origin_world_m [3]` is the scanner's mean place."""

    key: tuple[str, int]
    mean_us: float
    origin_world_m: np.ndarray
    places: Kept
    obstacles: Kept

    def read(self) -> TurnReturns:
        xyz_world_m, time_us = self.places.load()
        (obstacle,) = self.obstacles.load()
        return TurnReturns(xyz_world_m=xyz_world_m, time_us=time_us, obstacle=obstacle)


def read_turns(sweeps: Sequence[LidarSweep], spool: Spool) -> tuple[list[Turn], Ground | None]:
    """Sweeps that have returns, in the order of their times, and the ground below them all (None without returns). They are those of the
    scanner with the most returns in its first sweep. Large sweeps are thinned."""
    first = {sweep.sensor: sweep for sweep in sorted(sweeps, key=lambda sweep: sweep.timestamp_us, reverse=True)}
    if not first:
        return [], None
    main = max(first.values(), key=lambda sweep: len(sweep.read_points().xyz_world_m)).sensor
    own = {sweep.timestamp_us: sweep for sweep in sweeps if sweep.sensor == main}
    returns = GroundReturns()
    read = []
    for start_us in sorted(own):
        points = _thinned(own[start_us].read_points())
        if len(points.xyz_world_m):
            returns.add(points.xyz_world_m)
            origin = points.origin_world_m.mean(axis=0)
            read.append(((main, start_us), origin, spool.keep(points.xyz_world_m, points.time_us)))
    ground = returns.ground()
    if ground is None:
        return [], None
    turns = []
    for key, origin, places in read:
        xyz, time_us = places.load()
        above = xyz[:, 2] - ground.height_m(xyz[:, :2])
        near = np.linalg.norm(xyz - origin, axis=1) < FARTHEST_M
        obstacle = near & (above > LOWEST_M) & (above < HIGHEST_M)
        turns.append(
            Turn(key=key, mean_us=float(time_us.mean()), origin_world_m=origin, places=places, obstacles=spool.keep(obstacle)),
        )
    return turns, ground


def _thinned(points: LidarPoints) -> LidarPoints:
    step = -(-len(points.xyz_world_m) // MOST_RETURNS) or 1
    return LidarPoints(
        xyz_world_m=points.xyz_world_m[::step].copy(),
        time_us=points.time_us[::step].copy(),
        intensity=points.intensity[::step].copy(),
        origin_world_m=points.origin_world_m[::step].copy(),
    )
