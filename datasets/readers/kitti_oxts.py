"""Poses from KITTI's GPS/IMU packets (`oxts/data/*.txt`).

Formulas: KITTI raw-data development kit (`latlonToMercator`, `convertOxtsToPose`): a Mercator projection whose scale is that of
the first packet's latitude, and R = Rz(yaw) Ry(pitch) Rx(roll). The IMU looks along x, y to the left, z up; the world has x east,
y north, z up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from splatmend.datasets.errors import UserError
from splatmend.datasets.readers.text_files import read_lines

EARTH_RADIUS_M = 6378137.0


def mercator_m(latitude_deg: np.ndarray, longitude_deg: np.ndarray, scale: float) -> np.ndarray:
    """East and north `[..., 2]` in metres."""
    east = scale * EARTH_RADIUS_M * np.radians(longitude_deg)
    north = scale * EARTH_RADIUS_M * np.log(np.tan(np.pi / 4 + np.radians(latitude_deg) / 2))
    return np.stack([east, north], axis=-1)


def world_from_imu(packets: np.ndarray) -> np.ndarray:
    """Poses `[N, 4, 4]` of packets `[N, >=6]` (latitude and longitude in degrees, altitude in metres, roll, pitch, yaw in radians);
    the world's origin is where the first packet was."""
    latitude, longitude, altitude = packets[:, 0], packets[:, 1], packets[:, 2]
    poses = np.zeros((len(packets), 4, 4))
    poses[:, 3, 3] = 1.0
    poses[:, :3, :3] = Rotation.from_euler("ZYX", packets[:, [5, 4, 3]]).as_matrix()
    poses[:, :2, 3] = mercator_m(latitude, longitude, float(np.cos(np.radians(latitude[0]))))
    poses[:, 2, 3] = altitude
    poses[:, :3, 3] -= poses[0, :3, 3].copy()
    return poses


def read_packets(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers `[N]` and packets `[N, 6]` of a folder of packet files; `UserError` for one that is no row of finite numbers."""
    numbers, packets = [], []
    for path in sorted(folder.glob("*.txt")):
        if not path.stem.isdecimal():
            continue
        try:
            packet = np.array([float(word) for word in " ".join(read_lines(path)).split()])
        except ValueError as error:
            raise UserError(f"{path}: the packet is not a row of numbers; copy it again.") from error
        if packet.size < 6:
            raise UserError(f"{path}: the packet has {packet.size} numbers where the pose alone needs 6; copy it again.")
        if not np.isfinite(packet[:6]).all():
            raise UserError(f"{path}: the pose has a value that is not finite; remove the frame or correct the packet.")
        numbers.append(int(path.stem))
        packets.append(packet[:6])
    if not packets:
        raise UserError(f"{folder}: there are no packets (0000000000.txt ...); copy the folder again or give poses_velodyne.txt.")
    return np.array(numbers), np.stack(packets)
