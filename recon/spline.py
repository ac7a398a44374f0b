"""A smooth camera path through poses from a file.

The file is JSON: `{"poses": [{"world_from_camera": [[4x4]], "time_us": 123}, ...], "camera": {...}}`. Poses have OpenCV axes
(x right, y down, z forward). `time_us` (all or none) says when each pose is reached; without it the poses are spread evenly over
the recorded time. `camera` (width, height, focal_px, principal_px) is taken instead of the recorded one, and is needed where the scene has
none; with a `name` of a recorded camera, which is the default, pictures have that camera's exposure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline

from splatmend.datasets.artifact import read_json
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import orthonormal, pose, rotation_fault
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.scene import RecordedShot, Scene

FRAMES_PER_POSE = 10
"""Frames from one given pose to the next where no number of frames is asked for."""
_LATEST_US = 2**62
"""Half of what 64 bits hold, so that differences of times fit too."""


def spline_shots(scene: Scene, recorded: Sequence[RecordedShot], path: Path, frames: int | None, *, camera_is_chosen: bool) -> list[Shot]:
    """Shots evenly spaced in time along cubic curves through the file's positions and rotations, both ends included.

    `recorded` are the shots of the camera that gives calibration and times where the file does not; `camera_is_chosen`: a person named it.

    Raises:
        UserError: where the file is missing or broken, or has a camera although one was named.
    """
    raw = read_json(Path(path))
    poses, times_us = _poses(raw, path)
    camera = _camera(raw, recorded, path)
    if camera_is_chosen and "camera" in raw:
        raise UserError(f"{path}: the file has a `camera`, and {recorded[0].shot.camera.name} is asked for as well; leave one of them out.")
    if times_us is None:
        first, last = (recorded[0].shot.mid_us, recorded[-1].shot.mid_us) if recorded else (scene.ego.start_us, scene.ego.end_us)
        last = max(last, first + len(poses))
        times_us = np.rint(np.linspace(first, last, len(poses))).astype(np.int64)
    count = frames if frames is not None else (len(poses) - 1) * FRAMES_PER_POSE + 1
    seconds = (times_us - times_us[0]) * 1e-6
    at = np.linspace(0.0, seconds[-1], count)
    if len(poses) == 1:
        return [Shot.still(camera, poses[0], int(times_us[0])) for _ in at]
    centres = CubicSpline(seconds, poses[:, :3, 3])(at)
    rotations = RotationSpline(seconds, Rotation.from_matrix(poses[:, :3, :3]))(at).as_matrix()
    return [
        Shot.still(camera, pose(rotation, centre), int(times_us[0] + round(t * 1e6))) for rotation, centre, t in zip(rotations, centres, at)
    ]


def _poses(raw: Any, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        rows = raw["poses"]
        poses = np.asarray([row["world_from_camera"] for row in rows], dtype=np.float64)
        times = [row["time_us"] for row in rows if "time_us" in row]
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise UserError(f"{path}: the poses cannot be read ({fault!r}); give a list `poses` of 4x4 `world_from_camera`.") from None
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise UserError(f"{path}: the poses have the shape {list(poses.shape)}; give at least one 4x4 matrix.")
    if wrong := rotation_fault(poses):
        raise UserError(f"{path}: a pose has {wrong}; give rigid poses with OpenCV axes.")
    if not times:
        return orthonormal(poses), None
    if not all(isinstance(time, int) and abs(time) < _LATEST_US for time in times):
        raise UserError(f"{path}: a `time_us` is no whole number of microseconds; write it without a fraction or quotes.")
    times_us = np.asarray(times, dtype=np.int64)
    if len(times) != len(rows) or (np.diff(times_us) <= 0).any():
        raise UserError(f"{path}: times must rise from pose to pose, and all poses must have one or none; correct `time_us`.")
    return orthonormal(poses), times_us


def _camera(raw: Any, recorded: Sequence[RecordedShot], path: Path) -> Camera:
    """The file's camera, else the recorded one."""
    if "camera" not in raw:
        if not recorded:
            raise UserError(f"{path}: neither the scene nor the file has a camera; add `camera`.")
        return recorded[0].shot.camera
    try:
        values = raw["camera"]
        camera = Camera(
            name=str(values.get("name", recorded[0].shot.camera.name if recorded else "camera")),
            width=int(values["width"]),
            height=int(values["height"]),
            focal_px=(float(values["focal_px"][0]), float(values["focal_px"][1])),
            principal_px=(float(values["principal_px"][0]), float(values["principal_px"][1])),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as fault:
        raise UserError(
            f"{path}: its `camera` cannot be read ({fault!r}); give it width, height, focal_px and principal_px, or leave it out."
        ) from None
    if wrong := camera.fault():
        raise UserError(f"{path}: the camera has {wrong}; correct it.")
    return camera
