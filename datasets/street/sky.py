"""The sky of a street: sun, gradient, clouds, distant hills and haze. Radiance is linear, a white surface in full sun has about 1."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from splatmend.datasets.street.config import StreetConfig
from splatmend.datasets.street.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Sun:
    """Where the sun stands: azimuth counter-clockwise from the world's x axis, and height above the horizon."""

    azimuth_rad: float
    elevation_rad: float

    @property
    def direction_world(self) -> tuple[float, float, float]:
        """Unit vector towards the sun."""
        flat = np.cos(self.elevation_rad)
        return (float(flat * np.cos(self.azimuth_rad)), float(flat * np.sin(self.azimuth_rad)), float(np.sin(self.elevation_rad)))


@dataclass(frozen=True, kw_only=True)
class Air:
    """Weather and the colour grading that goes with it."""

    sun_strength: float
    sky_strength: float
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    cloud_cover: float
    cloud_scale: float
    visibility_m: float
    saturation: float
    warmth: float
    exposure: float


_WEATHER = {
    # sun, sky, zenith, horizon, cloud cover, visibility
    "clear": (1.0, 1.0, (0.16, 0.32, 0.72), (0.55, 0.70, 0.92), (0.0, 0.25), (900, 2500)),
    "fair": (0.95, 1.1, (0.18, 0.34, 0.68), (0.60, 0.70, 0.85), (0.35, 0.6), (700, 1800)),
    "hazy": (0.7, 1.15, (0.38, 0.48, 0.64), (0.78, 0.80, 0.80), (0.1, 0.5), (180, 420)),
    "overcast": (0.10, 1.5, (0.52, 0.56, 0.62), (0.74, 0.76, 0.78), (0.95, 1.0), (250, 800)),
    "golden": (0.9, 0.7, (0.20, 0.30, 0.56), (0.86, 0.62, 0.42), (0.2, 0.6), (400, 1200)),
}


def draw_air(config: StreetConfig) -> tuple[Sun, Air]:
    """Sun and weather of a street: what the configuration leaves open is drawn from its seed."""
    generator = np.random.default_rng([config.seed, 2])
    weather = str(generator.choice(list(_WEATHER), p=[0.28, 0.26, 0.14, 0.17, 0.15]))
    weather = config.weather or weather
    azimuth = generator.uniform(0, 360)
    elevation = generator.uniform(7, 16) if weather == "golden" else generator.uniform(22, 62)
    azimuth = azimuth if config.sun_azimuth_deg is None else config.sun_azimuth_deg
    elevation = elevation if config.sun_elevation_deg is None else config.sun_elevation_deg
    sun, sky, zenith, horizon, cover, visibility = _WEATHER[weather]
    tint = 1 + generator.uniform(-0.07, 0.07, 3)
    air = Air(
        sun_strength=sun * generator.uniform(0.85, 1.1),
        sky_strength=sky * generator.uniform(0.85, 1.2),
        zenith=tuple((np.array(zenith) * tint).tolist()),
        horizon=tuple((np.array(horizon) * (1 + generator.uniform(-0.05, 0.05, 3))).tolist()),
        cloud_cover=float(generator.uniform(*cover)),
        cloud_scale=float(generator.uniform(0.6, 1.8)),
        visibility_m=float(generator.uniform(*visibility)),
        saturation=float(generator.uniform(0.78, 1.05)),
        warmth=float(generator.uniform(-0.04, 0.05)),
        exposure=float(2 ** generator.uniform(-0.25, 0.35)),
    )
    return Sun(azimuth_rad=float(np.radians(azimuth)), elevation_rad=float(np.radians(elevation))), air


def draw_other_air(config: StreetConfig, seed: int) -> tuple[Sun, Air]:
    """Another sun and weather for a street, drawn from a seed of their own; what the configuration says of its own ones does not count."""
    return draw_air(replace(config, seed=seed, weather=None, sun_azimuth_deg=None, sun_elevation_deg=None))


class Sky:
    """Evaluates a sky on a device. All colours are float32 tensors `[3]`."""

    def __init__(self, sun: Sun, air: Air, noise: Noise, device: torch.device) -> None:
        self.sun, self.air, self._noise = sun, air, noise
        self.to_sun = torch.tensor(sun.direction_world, device=device, dtype=torch.float32)
        height = max(np.sin(sun.elevation_rad), 0.02)
        # Longer ways through the air take the blue away (optical depths of a clear atmosphere, Kasten's mass simplified).
        passed = np.exp(-np.array([0.06, 0.13, 0.28]) / (height + 0.06))
        passed /= np.exp(-np.array([0.06, 0.13, 0.28]) / 1.06)
        dusk = float(np.clip(height / 0.35, 0.25, 1.0))
        low = float(np.clip(1 - height / 0.35, 0, 1))
        self.sun_light = torch.tensor(2.6 * air.sun_strength * passed, device=device, dtype=torch.float32)
        self.zenith = torch.tensor(np.array(air.zenith) * air.sky_strength * (0.45 + 0.55 * dusk), device=device, dtype=torch.float32)
        warm = 1 + low * np.array([0.18, -0.05, -0.28]) * min(air.sun_strength, 1.0)
        self.horizon = torch.tensor(
            np.array(air.horizon) * warm * air.sky_strength * (0.5 + 0.5 * dusk), device=device, dtype=torch.float32
        )
        # Irradiance of the whole dome, divided by pi: what a white floor gives back.
        self.dome = 1.45 * (0.5 * self.zenith + 0.5 * self.horizon + 0.15 * air.cloud_cover * self.horizon)
        floor = 0.2 * (self.sun_light * height + self.dome)
        self.bounce = floor * torch.tensor([1.04, 1.0, 0.92], device=device)

    def radiance(self, directions: torch.Tensor, *, with_sun: bool = True) -> torch.Tensor:
        """Linear colour `[N, 3]` of unit directions `[N, 3]`; below the horizon it is haze. Without the sun's disc for reflections."""
        up = directions[:, 2]
        towards = (directions @ self.to_sun).clamp(-1, 1)
        mix = torch.exp(-up.clamp(min=0) * 3.2)[:, None]
        colour = self.zenith * (1 - mix) + self.horizon * mix
        near = towards.clamp(min=0)
        glow = 0.10 * near**6 + 0.22 * near**40 + 0.5 * near**400
        colour = colour + (glow * (1 - 0.6 * self.air.cloud_cover))[:, None] * self.sun_light * 0.6
        colour = self._with_clouds(colour, directions, towards)
        if with_sun and self.air.cloud_cover < 0.9:
            colour = colour + ((towards - 0.99990) / 0.00004).clamp(0, 1)[:, None] * self.sun_light * 8
        azimuth = torch.atan2(directions[:, 1], directions[:, 0])
        around = torch.stack([torch.cos(azimuth) * 3, torch.sin(azimuth) * 3], 1)
        ridge = 0.030 + 0.014 * self._noise.at(around, 1.3)[:, 0] + 0.004 * self._noise.at(around, 0.11)[:, 1]
        covered = ((ridge - up) / 0.004).clamp(0, 1)[:, None]
        hills = self.horizon * 0.62 + self.dome * torch.tensor([0.02, 0.04, 0.03], device=up.device)
        return colour * (1 - covered) + hills * covered

    def _with_clouds(self, colour: torch.Tensor, directions: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
        up = directions[:, 2].clamp(min=0.02)
        plane = directions[:, :2] / (up[:, None] + 0.12) * self.air.cloud_scale
        total, wavelength, amplitude = torch.zeros_like(up), 1.1, 1.0
        for octave in range(5):
            total = total + amplitude * self._noise.at(plane + 3.7 * octave, wavelength)[:, octave % 4]
            wavelength, amplitude = wavelength * 0.5, amplitude * 0.56
        threshold = 1.7 - 3.2 * self.air.cloud_cover
        density = ((total - threshold) / 1.3).clamp(0, 1)
        density = density * density * (3 - 2 * density)
        thick = ((total - threshold) / 4.0).clamp(0, 1)
        white = 0.78 * self.horizon.mean() + 0.30 * self.horizon + 0.07 * self.sun_light * (1 + 2.0 * towards.clamp(min=0)[:, None] ** 8)
        clouds = white * (1.0 - 0.42 * thick)[:, None]
        faded = (density * (0.88 * ((directions[:, 2] - 0.02) / 0.2).clamp(0, 1)))[:, None]
        return colour * (1 - faded) + clouds * faded
