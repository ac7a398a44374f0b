"""World points in one exposure: which pixel sees each of them, rolling shutter included."""

from __future__ import annotations

import numpy as np

from splatmend.datasets.geometry import PoseTrack, inverse, project, transform
from splatmend.datasets.log import Camera, CameraFrame
from splatmend.datasets.shot import Shot

_ROUNDS = 4  # each round shrinks the time error by pixel speed / readout speed, which is well below 0.1


def project_frame(camera: Camera, frame: CameraFrame | Shot, xyz_world_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels `[N, 2]`, depth along the camera's axis `[N]` in metres, and whether `[N]` each point lies in front and in the picture.

    With a rolling shutter every point is seen by the pose of its own row (or column): solved by fixed-point rounds that start at the
    middle of the readout. Points behind the camera have NaN pixels.
    """
    in_camera = transform(inverse(frame.world_from_camera), xyz_world_m)
    pixels, inside = project(camera, in_camera)
    if camera.shutter == "global" or frame.end_us == frame.start_us:
        return pixels, in_camera[:, 2], inside
    track = PoseTrack(
        times_us=np.array([frame.start_us, frame.end_us]),
        world_from_body=np.stack([frame.world_from_camera_start, frame.world_from_camera_end]),
    )
    for _ in range(_ROUNDS):
        in_camera = transform(inverse(track.at(times_read_us(camera, frame, pixels))), xyz_world_m)
        pixels, inside = project(camera, in_camera)
    return pixels, in_camera[:, 2], inside


def times_read_us(camera: Camera, frame: CameraFrame | Shot, pixels: np.ndarray) -> np.ndarray:
    """When an exposure reads pixels `[N, 2]`, int64 `[N]`; for NaN any time of the readout."""
    fraction = readout_fraction(camera, np.nan_to_num(pixels, nan=0.5))
    return frame.start_us + np.round(fraction * (frame.end_us - frame.start_us)).astype(np.int64)


def readout_fraction(camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """How much of the readout has passed (0 to 1) when pixels `[..., 2]` are read; one half for a global shutter."""
    along_x, along_y = pixels[..., 0] / camera.width, pixels[..., 1] / camera.height
    fraction = {
        "global": np.full(pixels.shape[:-1], 0.5),
        "top_to_bottom": along_y,
        "bottom_to_top": 1 - along_y,
        "left_to_right": along_x,
        "right_to_left": 1 - along_x,
    }[camera.shutter]
    return np.clip(fraction, 0.0, 1.0)
