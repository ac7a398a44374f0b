"""Optical flow between consecutive true frames: estimated (OpenCV DIS, `splatmend.datasets.optical_flow`) or exact (depth, poses and tracks
of a procedural street)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from splatmend.datasets.optical_flow import Flow, estimated_flow, stays_inside
from splatmend.datasets.shot import Shot
from splatmend.pipelines.evaluation.readout import project_by_line, surface_points

__all__ = ["Flow", "estimated_flow", "exact_flow"]


def exact_flow(
    shot: Shot,
    previous: Shot,
    depth_m: np.ndarray,
    previous_depth_m: np.ndarray,
    previous_from_present: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Flow:
    """Flow of what an oracle sees.

    Args:
        depth_m, previous_depth_m: camera z `[H, W]` in metres, 0 or infinite where there is sky.
        previous_from_present: moves the surface points `[H, W, 3]` (world, metres) of the present frame to where they were before;
            None where nothing moves.

    Sky pixels are not visible. A point is hidden where the previous frame sees something more than 2 % + 5 cm nearer.
    """
    height, width = depth_m.shape
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    surface = np.isfinite(depth_m) & (depth_m > 0)
    points = surface_points(shot, centres.reshape(-1, 2), np.where(surface, depth_m, 1.0).reshape(-1)).reshape(height, width, 3)
    if previous_from_present is not None:
        points = previous_from_present(points)
    pixels, z, _ = project_by_line(previous, points)
    xy = (pixels - centres).astype(np.float32)
    xy = np.nan_to_num(xy, nan=1e6, posinf=1e6, neginf=-1e6)
    seen_depth = np.where(np.isfinite(previous_depth_m) & (previous_depth_m > 0), previous_depth_m, 1e6).astype(np.float32)
    seen = Flow(xy_px=xy, visible=surface, source="exact").warp(seen_depth)
    return Flow(xy_px=xy, visible=surface & (z > 0) & stays_inside(xy) & (seen > z * 0.98 - 0.05), source="exact")
