"""A log's pictures as given cameras have them: at their sizes, and without distortion where they have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import Camera, CameraFrame, SceneLog
from splatmend.datasets.undistort import resized, undistorted


def log_for_cameras(log: SceneLog, wanted: Mapping[str, Camera], of: str) -> SceneLog:
    """The log with the wanted cameras only, by name, the pictures of each at its size, and undistorted where it has no distortion.

    Args:
        of: what the cameras belong to, for sentences about faults ("the clip").

    Raises:
        UserError: where the log lacks a camera, or has it with another calibration or shape.
    """
    frames: list[CameraFrame] = []
    kept: dict[str, Camera] = {}
    for name, camera in wanted.items():
        if name not in log.cameras:
            raise UserError(f"{log.path}: the log has no camera {name}, which {of} shows; its cameras are {', '.join(log.cameras)}.")
        one = replace(log, cameras={name: log.cameras[name]}, frames=log.frames_of(name))
        if camera.distortion_model == "none":
            one = undistorted(one)
        if one.cameras[name].width != camera.width:
            one = resized(one, width=camera.width)
        found = one.cameras[name]
        if not same_calibration(found, camera):
            raise UserError(
                f"{log.path}: camera {name} has another calibration or shape in {of}; give the log that the scene was fitted to."
            )
        kept[name] = found
        frames.extend(one.frames)
    frames.sort(key=lambda frame: (frame.start_us, frame.camera))
    return replace(log, cameras=kept, frames=tuple(frames))


def same_calibration(a: Camera, b: Camera) -> bool:
    """Whether two cameras have pictures of one size and one distortion, and agree to a twentieth of a pixel (or a thousandth) in the rest
    of what maps rays to pixels."""
    if a.distortion_model != b.distortion_model or not np.allclose(a.distortion, b.distortion, rtol=1e-3, atol=1e-6):
        return False
    own, asked = ((*c.focal_px, *c.principal_px, c.width, c.height) for c in (a, b))
    return bool(np.allclose(own, asked, rtol=1e-3, atol=0.05)) and (a.width, a.height) == (b.width, b.height)
