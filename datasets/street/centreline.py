"""The middle of the road: a gently winding, gently rolling line, and coordinates along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splatmend.datasets.geometry import yaw_pose

_STEP_M = 0.5


@dataclass(frozen=True, kw_only=True)
class Centreline:
    """Points every half metre: `s_m [K]` along the road, `xy_m [K, 2]`, `heading_rad [K]`, `z_m [K]`. At s = 0 the line is at the
    world's origin and heads along x."""

    s_m: np.ndarray
    xy_m: np.ndarray
    heading_rad: np.ndarray
    z_m: np.ndarray

    def heading(self, s_m: np.ndarray) -> np.ndarray:
        return np.interp(s_m, self.s_m, self.heading_rad)

    def height(self, s_m: np.ndarray) -> np.ndarray:
        return np.interp(s_m, self.s_m, self.z_m)

    def point(self, s_m: np.ndarray | float, left_m: np.ndarray | float = 0.0, up_m: np.ndarray | float = 0.0) -> np.ndarray:
        """World points `[..., 3]` at `s_m` along, `left_m` to the left of and `up_m` above the line."""
        s, left, up = np.broadcast_arrays(np.asarray(s_m, dtype=np.float64), left_m, up_m)
        heading = self.heading(s)
        x = np.interp(s, self.s_m, self.xy_m[:, 0]) - np.sin(heading) * left
        y = np.interp(s, self.s_m, self.xy_m[:, 1]) + np.cos(heading) * left
        return np.stack([x, y, self.height(s) + up], axis=-1)

    def frame(self, s_m: float, left_m: float, up_m: float = 0.0, *, turn_rad: float = 0.0) -> np.ndarray:
        """World pose `[4, 4]` of an upright body there: x along the road turned by `turn_rad` to the left, z up. Bodies stay level, as
        labels that know a heading only (Waymo's, KITTI's) say."""
        return yaw_pose(float(self.heading(np.asarray(s_m))) + turn_rad, self.point(s_m, left_m, up_m))


def winding_line(generator: np.random.Generator, start_m: float, end_m: float) -> Centreline:
    """A random line from `start_m` (negative) to `end_m`, curving with radii above 120 m and rolling by a few decimetres."""
    s = np.arange(start_m, end_m + _STEP_M, _STEP_M)
    curvature = np.zeros_like(s)
    strength = generator.uniform(0.0, 1.0)
    for length_m in (generator.uniform(90, 160), generator.uniform(180, 320)):
        curvature += strength * generator.uniform(0.0015, 0.0038) * np.sin(2 * np.pi * s / length_m + generator.uniform(0, 2 * np.pi))
    heading = np.cumsum(curvature) * _STEP_M
    roll_m, phase = generator.uniform(0.0, 0.25), generator.uniform(0, 2 * np.pi)
    z = roll_m * np.sin(2 * np.pi * s / generator.uniform(110, 180) + phase)
    zero = int(np.argmin(np.abs(s)))
    heading -= heading[zero]
    x, y = np.cumsum(np.cos(heading)) * _STEP_M, np.cumsum(np.sin(heading)) * _STEP_M
    return Centreline(s_m=s - s[zero], xy_m=np.stack([x - x[zero], y - y[zero]], axis=1), heading_rad=heading, z_m=z - z[zero])
