"""A street as a log without any file: frames are rendered and LiDAR turns cast when they are read."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from splatmend.datasets.log import CameraFrame, LidarPoints, LidarSweep, SceneLog
from splatmend.datasets.street import lidar
from splatmend.datasets.street.street import Street


def recorded_image(street: Street, camera: str, frame: int) -> np.ndarray:
    """What a camera of the drive recorded, `[H, W, 3]` uint8 sRGB."""
    rgb = street.render(street.shot(camera, frame), supersample=street.config.supersample).rgb
    return np.rint(rgb * 255).astype(np.uint8)


def _points(street: Street, frame: int) -> LidarPoints:
    return street.lidar_turn(frame).points()


def street_log(street: Street) -> SceneLog:
    """The drive as a validated log (`source` "street"). Reading a frame renders it."""
    frames = []
    for index in range(street.config.frame_count):
        for name in street.cameras:
            shot = street.shot(name, index)
            frames.append(
                CameraFrame(
                    camera=name,
                    index=index,
                    start_us=shot.start_us,
                    end_us=shot.end_us,
                    world_from_camera_start=shot.world_from_camera_start,
                    world_from_camera_end=shot.world_from_camera_end,
                    read_image=partial(recorded_image, street, name, index),
                )
            )
    frames.sort(key=lambda frame: (frame.start_us, frame.camera))
    sweeps = tuple(
        LidarSweep(sensor=lidar.NAME, timestamp_us=int(start_us), read_points=partial(_points, street, index))
        for index, start_us in enumerate(street.frame_times_us)
    )
    log = SceneLog(
        log_id=street.log_id,
        source="street",
        path=Path(street.log_id),
        cameras=street.cameras,
        frames=tuple(frames),
        sweeps=sweeps,
        actors=street.actors,
        ego=street.ego,
        metric=True,
        sun_direction_world=street.sun.direction_world,
    )
    return log.validate()
