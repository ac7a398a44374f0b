"""What stands on the road: the returns of each sweep that neither the ground nor things overhead gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splatmend.datasets.log import LidarPoints, LidarSweep
from splatmend.recon.movers.ground import Ground, fit_ground

LOWEST_M, HIGHEST_M = 0.3, 4.5
MOST_RETURNS = 40_000
"""Of a sweep; of more, every second, third, ... is taken."""
FARTHEST_M = 60.0
"""Beyond this a vehicle gives too few returns to be registered."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One sweep as it is searched. `key` is its sensor and start in microseconds; `xyz_world_m [N, 3]` and `time_us [N]` are all its
    returns, `obstacle [N]` bool says which of them stand on the road; `origin_world_m [3]` is the scanner's mean place."""

    key: tuple[str, int]
    time_us: np.ndarray
    xyz_world_m: np.ndarray
    obstacle: np.ndarray
    origin_world_m: np.ndarray


def read_turns(sweeps: Sequence[LidarSweep]) -> tuple[list[Turn], Ground | None]:
    """Sweeps that have returns, in the order of their times, and the ground below them all (None without returns). They are those of the
    scanner with the most returns in its first sweep. Large sweeps are thinned, so that long logs fit into memory."""
    first = {sweep.sensor: sweep for sweep in sorted(sweeps, key=lambda sweep: sweep.timestamp_us, reverse=True)}
    if not first:
        return [], None
    main = max(first.values(), key=lambda sweep: len(sweep.read_points().xyz_world_m)).sensor
    own = {sweep.timestamp_us: sweep for sweep in sweeps if sweep.sensor == main}
    read = [(own[start_us], points) for start_us in sorted(own) if len((points := _thinned(own[start_us].read_points())).xyz_world_m)]
    if not read:
        return [], None
    ground = fit_ground(np.concatenate([points.xyz_world_m for _, points in read]))
    turns = []
    for sweep, points in read:
        origin = points.origin_world_m.mean(axis=0)
        above = points.xyz_world_m[:, 2] - ground.height_m(points.xyz_world_m[:, :2])
        near = np.linalg.norm(points.xyz_world_m - origin, axis=1) < FARTHEST_M
        turns.append(
            Turn(
                key=(sweep.sensor, sweep.timestamp_us),
                time_us=points.time_us,
                xyz_world_m=points.xyz_world_m,
                obstacle=near & (above > LOWEST_M) & (above < HIGHEST_M),
                origin_world_m=origin,
            )
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
