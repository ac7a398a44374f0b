"""Sweeps of KITTI's spinning LiDAR: float32 files, a time for every point, motion compensation.

KITTI's raw-data development kit (readme of the velodyne points): the scanner turns counter-clockwise (seen from above) at about
10 Hz, a sweep starts and ends behind the car, the cameras are triggered when it looks forward; raw sweeps are *not* compensated for
the car's motion. The odometry benchmark's readme: its sweeps *are* compensated, to the moment when the scanner looks forward.
Sensor axes: x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, transform
from splatmend.datasets.log import TURN_US, LidarPoints, LidarSweep

_POINT_BYTES = 16  # x y z intensity, float32


def azimuth_times_us(xyz_sensor_m: np.ndarray, forward_us: int, turn_us: int = TURN_US) -> np.ndarray:
    """When each of `[N, 3]` points was shot, `[N]` int64: half a turn before `forward_us` for those behind on the right, half a turn
    after it for those behind on the left."""
    azimuth_rad = np.arctan2(xyz_sensor_m[:, 1], xyz_sensor_m[:, 0])
    return forward_us + np.round(azimuth_rad / (2 * np.pi) * turn_us).astype(np.int64)


def compensated_points(
    xyzi: np.ndarray, world_from_sensor: PoseTrack, forward_us: int, *, turn_us: int = TURN_US, is_compensated: bool = False
) -> LidarPoints:
    """Points `[N, 4]` (x y z intensity, sensor frame) in the world, each placed with the sensor's pose at its own time.

    `is_compensated`: the points are already given as if all had been shot at `forward_us`; their times and origins are still those
    of the turning scanner.
    """
    xyz = xyzi[:, :3].astype(np.float64)
    times_us = azimuth_times_us(xyz, forward_us, turn_us)
    world_from_sensor_then = world_from_sensor.at(times_us)
    placed_by = world_from_sensor.at(forward_us) if is_compensated else world_from_sensor_then
    return LidarPoints(
        xyz_world_m=transform(placed_by, xyz),
        time_us=times_us,
        intensity=xyzi[:, 3].astype(np.float32),
        origin_world_m=world_from_sensor_then[:, :3, 3].copy(),
    )


def numbered_sweeps(folder: Path) -> tuple[dict[int, Path], int]:
    """Sweep files of a folder by number, and how many empty ones were left out. A file that is cut short is a `UserError`."""
    found, empty = {}, 0
    for path in sorted(folder.glob("*.bin")):
        if not path.stem.isdecimal():
            continue
        size = path.stat().st_size
        if size % _POINT_BYTES:
            raise UserError(f"{path}: {size} bytes are no whole number of 16-byte points, so the sweep is cut short; copy it again.")
        if size == 0:
            empty += 1
        else:
            found[int(path.stem)] = path
    return found, empty


def sweep_from_file(
    path: Path, world_from_sensor: PoseTrack, forward_us: int, *, turn_us: int = TURN_US, is_compensated: bool = False
) -> LidarSweep:
    """A sweep whose file is read when its points are asked for. Points that are not finite are dropped and counted."""

    def read() -> LidarPoints:
        try:
            values = np.fromfile(path, dtype="<f4")
        except OSError as error:
            raise UserError(f"{path}: cannot read the sweep ({error.strerror}); check that the file is there.") from error
        if values.size % 4:
            raise UserError(f"{path}: the sweep is cut short; copy it again.")
        xyzi = values.reshape(-1, 4)
        finite = np.isfinite(xyzi).all(axis=1)
        # The first and last half turns lie outside the recorded poses. A longer track that every sweep kept would be the whole path each.
        track = world_from_sensor.extended(turn_us)
        points = compensated_points(xyzi[finite], track, forward_us, turn_us=turn_us, is_compensated=is_compensated)
        return replace(points, dropped=int((~finite).sum()))

    return LidarSweep(
        sensor="velodyne",
        timestamp_us=forward_us - turn_us // 2,
        read_points=read,
        file=path,
        turn_us=turn_us,
        follows_path=not is_compensated,
    )
