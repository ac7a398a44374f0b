"""What decides a street: one seed and a few numbers. Equal configurations give equal streets, bit for bit on one machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from splatmend.datasets.errors import UserError

CameraName = Literal["FRONT", "FRONT_LEFT", "FRONT_RIGHT", "SIDE_LEFT", "SIDE_RIGHT"]
Weather = Literal["clear", "fair", "hazy", "overcast", "golden"]


@dataclass(frozen=True, kw_only=True)
class StreetConfig:
    """A procedural street, the drive through it and the sensors of the vehicle. What is None is drawn from the seed."""

    seed: int = 0
    """Decides everything that is not given: layout, buildings, cars, weather, colours."""
    duration_s: float = 4.0
    """Length of the drive in seconds."""
    rate_hz: float = 10.0
    """Camera frames, LiDAR turns and labels a second."""
    width: int = 384
    """Picture width in pixels."""
    height: int = 224
    """Picture height in pixels."""
    cameras: tuple[CameraName, ...] = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT")
    """Cameras of the vehicle."""
    field_of_view_deg: float = 56.0
    """Horizontal field of view of every camera."""
    readout_us: int = 0
    """Time from a picture's first row to its last in microseconds; 0 is a global shutter."""
    speed_m_s: float = 7.0
    """Mean speed of the vehicle."""
    moving_cars: int = 4
    """Cars that drive along or against the vehicle."""
    parked_cars: int = 7
    """Cars that stand at the kerb."""
    pedestrians: int = 0
    """People who walk along the road or across it."""
    lidar_beams: int = 64
    """Beams of the LiDAR."""
    lidar_columns: int = 1024
    """Shots of each beam in a turn."""
    weather: Weather | None = None
    """Sky and light."""
    sun_azimuth_deg: float | None = None
    """Direction of the sun from the world's x axis (the street's first direction), counter-clockwise."""
    sun_elevation_deg: float | None = None
    """Height of the sun above the horizon."""
    exposure_drift: float = 0.0
    """Largest change of exposure during the drive, in stops; each camera drifts in its own phase."""
    supersample: int = 2
    """Rays a pixel along each axis in recorded pictures."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"street: the seed {self.seed} is negative; give 0 or more.")
        if not (0 < self.rate_hz <= 50 and self.duration_s <= 120 and self.duration_s * self.rate_hz >= 2):
            raise UserError(
                f"street: {self.duration_s} s at {self.rate_hz} Hz is not between 2 frames and 120 s, at most 50 Hz; change duration or "
                "rate."
            )
        if self.width < 16 or self.height < 16:
            raise UserError(f"street: pictures of {self.width}x{self.height} are too small; give at least 16x16.")
        unknown = [name for name in self.cameras if name not in get_args(CameraName)]
        if unknown or not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise UserError(f"street: cameras {self.cameras} are not distinct names among {get_args(CameraName)}; correct them.")
        if not 20 <= self.field_of_view_deg <= 120:
            raise UserError(f"street: a field of view of {self.field_of_view_deg} degrees is not in 20 to 120; change it.")
        # Cameras start up to 20 ms after a frame begins, and a picture must end before the next.
        if not 0 <= self.readout_us <= 1e6 / self.rate_hz - 20_000:
            raise UserError(f"street: a readout of {self.readout_us} us does not fit a frame at {self.rate_hz} Hz; shorten it.")
        if not 0 <= self.speed_m_s <= 25:
            raise UserError(f"street: a speed of {self.speed_m_s} m/s is not in 0 to 25; change it.")
        if not (0 <= self.moving_cars <= 40 and 0 <= self.parked_cars <= 60):
            raise UserError("street: at most 40 moving and 60 parked cars fit; give fewer.")
        if not 0 <= self.pedestrians <= 40:
            raise UserError(f"street: {self.pedestrians} pedestrians are not in 0 to 40; change their number.")
        if not (2 <= self.lidar_beams <= 128 and 16 <= self.lidar_columns <= 4096):
            raise UserError("street: the LiDAR takes 2 to 128 beams and 16 to 4096 columns; change them.")
        if self.weather is not None and self.weather not in get_args(Weather):
            raise UserError(f"street: weather {self.weather!r} is not one of {get_args(Weather)}; change it.")
        if self.sun_elevation_deg is not None and not 3 <= self.sun_elevation_deg <= 88:
            raise UserError(f"street: a sun {self.sun_elevation_deg} degrees high is not in 3 to 88; change it.")
        if self.sun_azimuth_deg is not None and not math.isfinite(self.sun_azimuth_deg):
            raise UserError(f"street: a sun at {self.sun_azimuth_deg} degrees is nowhere; give a number of degrees.")
        if not 0 <= self.exposure_drift <= 4:
            raise UserError(f"street: an exposure drift of {self.exposure_drift} stops is not in 0 to 4; change it.")
        if not 1 <= self.supersample <= 4:
            raise UserError(f"street: supersample {self.supersample} is not in 1 to 4; change it.")

    @property
    def frame_count(self) -> int:
        return round(self.duration_s * self.rate_hz)

    @property
    def period_us(self) -> int:
        return round(1e6 / self.rate_hz)
