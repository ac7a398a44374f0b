"""One exposure to render: a camera, where it is from the first row to the last, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.log import Camera, CameraFrame


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A camera with its poses `[4, 4]` float64 and times at the start and the end of the readout (direction: `camera.shutter`)."""

    camera: Camera
    world_from_camera_start: np.ndarray
    world_from_camera_end: np.ndarray
    start_us: int
    end_us: int

    @staticmethod
    def still(camera: Camera, world_from_camera: np.ndarray, t_us: int) -> Shot:
        """All rows at one moment, from one pose."""
        return Shot(
            camera=camera, world_from_camera_start=world_from_camera, world_from_camera_end=world_from_camera, start_us=t_us, end_us=t_us
        )

    @staticmethod
    def of(frame: CameraFrame, camera: Camera) -> Shot:
        """The exposure of a recorded frame."""
        return Shot(
            camera=camera,
            world_from_camera_start=frame.world_from_camera_start,
            world_from_camera_end=frame.world_from_camera_end,
            start_us=frame.start_us,
            end_us=frame.end_us,
        )

    def moved(self, old_from_new: np.ndarray) -> Shot:
        """With the camera moved in its own frame by a pose `[4, 4]`, throughout the readout."""
        return replace(
            self,
            world_from_camera_start=self.world_from_camera_start @ old_from_new,
            world_from_camera_end=self.world_from_camera_end @ old_from_new,
        )

    @property
    def mid_us(self) -> int:
        return (self.start_us + self.end_us) // 2

    @cached_property
    def world_from_camera(self) -> np.ndarray:
        """Pose `[4, 4]` half-way through the readout."""
        if self.end_us == self.start_us:
            return self.world_from_camera_start
        return self.track.at(self.mid_us)

    @cached_property
    def track(self) -> PoseTrack:
        """The camera's path during the readout."""
        if self.end_us == self.start_us:
            return PoseTrack(times_us=np.array([self.start_us]), world_from_body=self.world_from_camera_start[None])
        return PoseTrack(
            times_us=np.array([self.start_us, self.end_us]),
            world_from_body=np.stack([self.world_from_camera_start, self.world_from_camera_end]),
        )


def readout_times_us(shot: Shot) -> np.ndarray:
    """When each row `[H]` (or column `[W]`, for sideways shutters) is read, int64; constant for a global shutter."""
    sideways = shot.camera.shutter in ("left_to_right", "right_to_left")
    count = shot.camera.width if sideways else shot.camera.height
    if shot.camera.shutter == "global":
        return np.full(count, shot.mid_us, dtype=np.int64)
    fraction = (np.arange(count) + 0.5) / count
    if shot.camera.shutter in ("bottom_to_top", "right_to_left"):
        fraction = fraction[::-1]
    return shot.start_us + np.rint(fraction * (shot.end_us - shot.start_us)).astype(np.int64)
