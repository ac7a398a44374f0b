"""Pixels and world points of shots whose lines (rows, or columns for sideways shutters) are read one after another."""

from __future__ import annotations

import numpy as np

from splatmend.datasets.geometry import inverse, project, transform
from splatmend.datasets.shot import Shot, readout_times_us
from splatmend.datasets.undistort import ideal_from_pixels
from splatmend.recon.raster.api import Model


def as_drawn(model: Model, shot: Shot) -> Shot:
    """The shot as a splat model draws it: `ewa` stands still in the middle of the exposure."""
    return shot if model == "ray" else Shot.still(shot.camera, shot.world_from_camera, shot.mid_us)


def surface_points(shot: Shot, pixels: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
    """World points `[N, 3]` at camera z `depth_m [N]` behind pixels `[N, 2]` (centres at 0.5), each from the pose of its line."""
    rays = np.concatenate([ideal_from_pixels(shot.camera, pixels), np.ones((len(pixels), 1))], axis=1)
    lines = pixels[:, 0 if _sideways(shot) else 1].astype(np.int64)
    return transform(_line_poses(shot)[lines], rays * depth_m[:, None])


def project_by_line(shot: Shot, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels `[..., 2]` and camera z of world points `[..., 3]`, and which lie in front and inside the picture: first with the pose in the
    middle of the exposure, then with the pose of the line that the point fell on."""
    local = transform(inverse(shot.world_from_camera), points)
    pixels, inside = project(shot.camera, local)
    if shot.start_us == shot.end_us or shot.camera.shutter == "global":
        return pixels, local[..., 2], inside
    sideways = _sideways(shot)
    last = (shot.camera.width if sideways else shot.camera.height) - 1
    line = np.clip(np.nan_to_num(pixels[..., 0 if sideways else 1]), 0, last).astype(np.int64)
    local = transform(inverse(_line_poses(shot))[line], points)
    pixels, inside = project(shot.camera, local)
    return pixels, local[..., 2], inside


def _line_poses(shot: Shot) -> np.ndarray:
    """World from camera when each line of the readout is read, `[L, 4, 4]`."""
    return shot.track.at(readout_times_us(shot))


def _sideways(shot: Shot) -> bool:
    return shot.camera.shutter in ("left_to_right", "right_to_left")
