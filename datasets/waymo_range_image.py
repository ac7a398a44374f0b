"""Waymo range images to points and back to the rays that made them.

Row 0 is the highest beam, so row r has inclination `beam_inclinations_rad[H - 1 - r]` (stored inclinations rise). Column c has the azimuth
`(2 (W - c - 0.5) / W - 1) pi` less the sensor's own yaw: seen from the vehicle, columns run clockwise from the rear (+pi) over the left
side and the front to the rear again. Source: `utils/range_image_utils.py` and `v2/perception/utils/lidar_utils.py` of
`waymo_open_dataset` 1.6.7; H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import transform
from splatmend.datasets.log import LidarPoints

# The TOP LiDAR turns at 10 Hz. A frame's timestamp is that of its first scan; that columns follow it evenly is an assumption, borne out
# by the cameras: their pose times lag the timestamp by 22 ms (left) to 72 ms (right), 52 ms straight ahead, in the order of columns.
SWEEP_US = 100_000


def uniform_inclinations(minimum_rad: float, maximum_rad: float, height: int) -> np.ndarray:
    """Rising inclinations `[H]` at the centres of H equal steps between two limits (`compute_inclination`)."""
    return minimum_rad + (np.arange(height) + 0.5) / height * (maximum_rad - minimum_rad)


def inclination_limits(beam_inclinations_rad: np.ndarray) -> tuple[float, float]:
    """Limits half a beam below and above rising inclinations `[H]`; of equal steps they give the same beams back."""
    if beam_inclinations_rad.size < 2:
        return float(beam_inclinations_rad[0]), float(beam_inclinations_rad[0])
    low, high = np.diff(beam_inclinations_rad)[[0, -1]]
    return float(beam_inclinations_rad[0] - 0.5 * low), float(beam_inclinations_rad[-1] + 0.5 * high)


def range_image_rays(beam_inclinations_rad: np.ndarray, vehicle_from_lidar: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Azimuths `[W]` in the sensor's frame (radians) and unit directions `[H, W, 3]` in the vehicle's frame of every pixel's ray.

    Rays start at the sensor, `vehicle_from_lidar[:3, 3]`. `beam_inclinations_rad [H]` rise, as Waymo stores them; `ValueError` if not.
    """
    beams = np.asarray(beam_inclinations_rad, dtype=np.float64)
    if beams.ndim != 1 or beams.size == 0 or (np.diff(beams) <= 0).any():
        raise ValueError("beam inclinations must be a list that rises")
    yaw = np.arctan2(vehicle_from_lidar[1, 0], vehicle_from_lidar[0, 0])
    azimuth = (2.0 * (width - np.arange(width) - 0.5) / width - 1.0) * np.pi - yaw
    inclination = beams[::-1, None]
    in_lidar = np.stack(
        np.broadcast_arrays(np.cos(azimuth) * np.cos(inclination), np.sin(azimuth) * np.cos(inclination), np.sin(inclination)), axis=-1
    )
    return azimuth, in_lidar @ np.asarray(vehicle_from_lidar, dtype=np.float64)[:3, :3].T


def column_times_us(width: int, sweep_start_us: int, sweep_us: int = SWEEP_US) -> np.ndarray:
    """Time `[W]` int64 at which each column's middle is shot (see `SWEEP_US` for the assumption)."""
    return sweep_start_us + np.rint((np.arange(width) + 0.5) / width * sweep_us).astype(np.int64)


def poses_from_vectors(vectors: np.ndarray) -> np.ndarray:
    """Poses `[..., 4, 4]` of `[..., 6]` roll, pitch, yaw (radians, 3-2-1 Euler angles) and x, y, z (metres)."""
    vectors = np.asarray(vectors, dtype=np.float64)
    # Written out, Rz(yaw) Ry(pitch) Rx(roll): a sweep has 170,000 of them, and the general converter takes ten times as long.
    (sr, sp, sy), (cr, cp, cy) = (np.moveaxis(turn(vectors[..., :3]), -1, 0) for turn in (np.sin, np.cos))
    out = np.zeros((*vectors.shape[:-1], 4, 4))
    out[..., 0, 0], out[..., 0, 1], out[..., 0, 2] = cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr
    out[..., 1, 0], out[..., 1, 1], out[..., 1, 2] = sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr
    out[..., 2, 0], out[..., 2, 1], out[..., 2, 2] = -sp, cp * sr, cp * cr
    out[..., :3, 3] = vectors[..., 3:]
    out[..., 3, 3] = 1.0
    return out


def vectors_from_poses(world_from_vehicle: np.ndarray) -> np.ndarray:
    """`[..., 6]` float64 roll, pitch, yaw, x, y, z of poses `[..., 4, 4]`: what `lidar_pose` stores for every pixel."""
    flat = np.asarray(world_from_vehicle, dtype=np.float64).reshape(-1, 4, 4)
    yaw_pitch_roll = Rotation.from_matrix(flat[:, :3, :3]).as_euler("ZYX")
    return np.concatenate([yaw_pitch_roll[:, ::-1], flat[:, :3, 3]], axis=-1).reshape(*world_from_vehicle.shape[:-2], 6)


def points_from_range_image(
    range_image: np.ndarray,
    beam_inclinations_rad: np.ndarray,
    vehicle_from_lidar: np.ndarray,
    world_from_vehicle: np.ndarray,
    *,
    pixel_pose: np.ndarray | None = None,
    sweep_start_us: int = 0,
    sweep_us: int = SWEEP_US,
) -> LidarPoints:
    """Points of the pixels that hold a return (range > 0), in row-major order, in the world. Returns whose range or intensity is not finite
    are dropped and counted.

    `range_image [H, W, >=2]` holds range (m) and intensity; `pixel_pose [H, W, 6]` is the vehicle's pose at each pixel (`lidar_pose`,
    TOP only). Without it all points are in the vehicle's frame at `world_from_vehicle`: Waymo has transformed the returns of the
    other LiDARs into it ("virtual range image" in `dataset.proto`). `ValueError` if shapes do not fit or a pose is not finite.
    """
    if range_image.ndim != 3 or range_image.shape[2] < 2:
        raise ValueError(f"a range image of shape {range_image.shape}")
    height, width = range_image.shape[:2]
    if len(beam_inclinations_rad) != height or (pixel_pose is not None and pixel_pose.shape != (height, width, 6)):
        raise ValueError(f"a range image of {height}x{width} with {len(beam_inclinations_rad)} beams or poses of another size")
    finite = np.isfinite(range_image[..., :2]).all(axis=-1)
    returned = ~(range_image[..., 0] <= 0)  # so that a range that is no number counts as a return
    rows, columns = np.nonzero(finite & returned)
    directions = range_image_rays(beam_inclinations_rad, vehicle_from_lidar, width)[1][rows, columns]
    origin_vehicle_m = np.broadcast_to(np.asarray(vehicle_from_lidar, dtype=np.float64)[:3, 3], directions.shape)
    xyz_vehicle_m = origin_vehicle_m + directions * range_image[rows, columns, 0].astype(np.float64)[:, None]
    poses = np.asarray(world_from_vehicle) if pixel_pose is None else poses_from_vectors(pixel_pose[rows, columns])
    xyz_world_m = transform(poses, xyz_vehicle_m)
    if not np.isfinite(xyz_world_m).all():
        raise ValueError("a pose that is not finite")
    return LidarPoints(
        xyz_world_m=xyz_world_m,
        time_us=column_times_us(width, sweep_start_us, sweep_us)[columns],
        intensity=range_image[rows, columns, 1].astype(np.float32),
        origin_world_m=transform(poses, origin_vehicle_m),
        dropped=int((returned & ~finite).sum()),
    )


def joined_points(returns: Sequence[LidarPoints]) -> LidarPoints:
    """The points of several returns of one sweep, one after the other."""
    return LidarPoints(
        xyz_world_m=np.concatenate([np.zeros((0, 3)), *(part.xyz_world_m for part in returns)]),
        time_us=np.concatenate([np.zeros(0, dtype=np.int64), *(part.time_us for part in returns)]),
        intensity=np.concatenate([np.zeros(0, dtype=np.float32), *(part.intensity for part in returns)]),
        origin_world_m=np.concatenate([np.zeros((0, 3)), *(part.origin_world_m for part in returns)]),
        dropped=sum(part.dropped for part in returns),
    )
