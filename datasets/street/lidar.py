"""The spinning LiDAR on the vehicle's roof: one turn per frame, every column shot at its own time from its own pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from splatmend.datasets.geometry import PoseTrack, pose, transform
from splatmend.datasets.log import LidarPoints
from splatmend.datasets.street.bodies import Bodies, hit_points
from splatmend.datasets.street.config import StreetConfig
from splatmend.datasets.street.noise import Noise
from splatmend.datasets.street.rays import Rays
from splatmend.datasets.street.shading import surfaces
from splatmend.datasets.waymo_range_image import column_times_us, range_image_rays

NAME = "TOP"
MAX_RANGE_M = 75.0
MIN_RANGE_M = 1.0
VEHICLE_FROM_LIDAR = pose(np.eye(3), np.array([1.43, 0.0, 2.184]))
_INCLINATION_RAD = (np.radians(-17.6), np.radians(2.4))


@dataclass(frozen=True, kw_only=True)
class LidarTurn:
    """One turn as a range image with the layout of `splatmend.datasets.waymo_range_image`: row 0 is the highest beam, columns run clockwise
    from the rear.

    `range_m [H, W]` float32 (-1 without a return), `intensity [H, W]` float32, `column_time_us [W]` int64,
    `world_from_vehicle [W, 4, 4]` float64 at those times, `labels [H, W]` int32 (as in pictures; 0 without a return),
    `directions_vehicle [H, W, 3]` float64.
    """

    range_m: np.ndarray
    intensity: np.ndarray
    column_time_us: np.ndarray
    world_from_vehicle: np.ndarray
    labels: np.ndarray
    directions_vehicle: np.ndarray

    def points(self) -> LidarPoints:
        """The returns, row by row."""
        valid = self.range_m > 0
        row, column = np.nonzero(valid)
        xyz_vehicle = VEHICLE_FROM_LIDAR[:3, 3] + self.directions_vehicle[row, column] * self.range_m[row, column, None].astype(np.float64)
        poses = self.world_from_vehicle[column]
        return LidarPoints(
            xyz_world_m=transform(poses, xyz_vehicle),
            time_us=self.column_time_us[column],
            intensity=self.intensity[row, column],
            origin_world_m=transform(poses, np.broadcast_to(VEHICLE_FROM_LIDAR[:3, 3], xyz_vehicle.shape)),
        )


def beam_inclinations_rad(config: StreetConfig) -> np.ndarray:
    """Inclinations `[H]`, rising, denser near the horizon."""
    share = np.linspace(0, 1, config.lidar_beams)
    low, high = _INCLINATION_RAD
    return low + (high - low) * (1.45 * share - 0.45 * share**2)


def turn_times_us(config: StreetConfig, start_us: int) -> np.ndarray:
    """When each column `[W]` is shot."""
    return column_times_us(config.lidar_columns, start_us)


def cast_turn(config: StreetConfig, bodies: Bodies, ego: PoseTrack, start_us: int, noise: Noise) -> LidarTurn:
    """Cast one turn; `bodies` must be posed at `turn_times_us`."""
    times = turn_times_us(config, start_us)
    world_from_vehicle = ego.at(times)
    _, directions = range_image_rays(beam_inclinations_rad(config), VEHICLE_FROM_LIDAR, config.lidar_columns)
    height, width = directions.shape[:2]
    world = np.einsum("wij,hwj->hwi", world_from_vehicle[:, :3, :3], directions)
    origin = transform(world_from_vehicle, np.broadcast_to(VEHICLE_FROM_LIDAR[:3, 3], (width, 3)))
    device = bodies.device
    rays = Rays(
        origins=torch.from_numpy(np.broadcast_to(origin[None], world.shape).reshape(-1, 3).copy()).float().to(device),
        directions=torch.from_numpy(world.reshape(-1, 3)).float().to(device),
        moment=torch.arange(width, device=device).repeat(height),
        moments_us=times,
        spread_rad=0.003,
    )
    hits = bodies.trace(rays)
    points = hit_points(bodies, rays, hits)
    distance = hits.distance[points.ray]
    surface = surfaces(points, rays, distance, noise)
    facing = (points.flat_normal * rays.directions[points.ray]).sum(1).abs()
    # Near infrared: mean reflectance, less at grazing angles; mirrors send the beam away.
    returned = surface.albedo.mean(1) * (0.25 + 0.75 * facing) * (1 - 0.7 * surface.sharpness * (surface.mirror > 0.06))
    range_m, intensity = torch.full((height * width,), -1.0, device=device), torch.zeros(height * width, device=device)
    # Too far, too near, or too little light back.
    valid = (distance < MAX_RANGE_M) & (distance > MIN_RANGE_M) & (returned > 0.004 * (distance / 30) ** 2)
    range_m[points.ray[valid]], intensity[points.ray[valid]] = distance[valid], returned[valid]
    labels = torch.where(range_m > 0, bodies.labels(hits), 0)
    return LidarTurn(
        range_m=range_m.view(height, width).cpu().numpy(),
        intensity=intensity.view(height, width).cpu().numpy(),
        column_time_us=times,
        world_from_vehicle=world_from_vehicle,
        labels=labels.view(height, width).cpu().numpy().astype(np.int32),
        directions_vehicle=directions,
    )
