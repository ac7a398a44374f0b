"""What a driving log is, once read: cameras, frames, LiDAR sweeps, actors and the ego path.

A `SceneLog` is validated when it is opened (`splatmend.datasets.open_log`); images and points are read when they are asked for.
Conventions are those of `splatmend.datasets.geometry`; times are integer microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, rotation_fault
from splatmend.datasets.lens_check import lens_fault

DistortionModel = Literal["none", "opencv", "opencv_fisheye"]
ShutterDirection = Literal["global", "top_to_bottom", "bottom_to_top", "left_to_right", "right_to_left"]
ActorClass = Literal["vehicle", "pedestrian", "cyclist", "sign", "other"]
TURN_US = 100_000
"""How long a LiDAR takes for a turn, unless its log says otherwise."""
DISTORTION_COUNT: Mapping[str, int] = {"none": 0, "opencv": 5, "opencv_fisheye": 4}


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera's calibration. `distortion` is `k1 k2 p1 p2 k3` ("opencv") or `k1 k2 k3 k4` ("opencv_fisheye").

    `principal_px` counts from the corner of the picture: the first pixel's centre is (0.5, 0.5).
    """

    name: str
    width: int
    height: int
    focal_px: tuple[float, float]
    principal_px: tuple[float, float]
    distortion_model: DistortionModel = "none"
    distortion: tuple[float, ...] = ()
    shutter: ShutterDirection = "global"
    readout_us: int = 0

    @property
    def intrinsics(self) -> np.ndarray:
        """`[3, 3]` float64."""
        return np.array([[self.focal_px[0], 0, self.principal_px[0]], [0, self.focal_px[1], self.principal_px[1]], [0, 0, 1.0]])

    def resized(self, width: int, height: int) -> Camera:
        """The same camera with another number of pixels."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            focal_px=(self.focal_px[0] * sx, self.focal_px[1] * sy),
            principal_px=(self.principal_px[0] * sx, self.principal_px[1] * sy),
        )

    def fault(self) -> str | None:
        """What is wrong with the calibration, in a few words; None if nothing is."""
        values = (*self.focal_px, *self.principal_px, *self.distortion)
        if not np.isfinite(values).all():
            return "a calibration value that is not finite"
        if self.width < 8 or self.height < 8:
            return f"a picture of {self.width}x{self.height} pixels"
        if min(self.focal_px) <= 0:
            return f"a focal length of {min(self.focal_px):g} px"
        if not (0 < self.principal_px[0] < self.width and 0 < self.principal_px[1] < self.height):
            return f"a principal point {self.principal_px} outside its {self.width}x{self.height} picture"
        if len(self.distortion) != DISTORTION_COUNT[self.distortion_model]:
            return f"{len(self.distortion)} coefficients for the {self.distortion_model} distortion model"
        return lens_fault(self)


@dataclass(frozen=True, kw_only=True)
class CameraFrame:
    """One exposure of one camera. `read_image()` gives `[H, W, 3]` uint8 sRGB; each mask `[H, W]` bool, but `panoptic` uint16 labels.

    The first row (or column, see `Camera.shutter`) is read at `start_us`, the last at `end_us`, with the camera at
    `world_from_camera_start` and `world_from_camera_end` (`[4, 4]` float64).
    """

    camera: str
    index: int  # counts this camera's frames from 0
    start_us: int
    end_us: int
    world_from_camera_start: np.ndarray
    world_from_camera_end: np.ndarray
    read_image: Callable[[], np.ndarray]
    masks: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    file: Path | None = None  # where the picture lies
    pose_bridged: bool = False  # the pose is not the log's (see `splatmend.datasets.jumps`)

    @property
    def mid_us(self) -> int:
        return (self.start_us + self.end_us) // 2

    @property
    def world_from_camera(self) -> np.ndarray:
        """Pose `[4, 4]` half-way through the readout."""
        if self.end_us == self.start_us:
            return self.world_from_camera_start
        track = PoseTrack(
            times_us=np.array([self.start_us, self.end_us]),
            world_from_body=np.stack([self.world_from_camera_start, self.world_from_camera_end]),
        )
        return track.at(self.mid_us)


@dataclass(frozen=True, kw_only=True)
class LidarPoints:
    """`xyz_world_m [N, 3]` float64, motion-compensated; `time_us [N]` int64; `intensity [N]` float32; `origin_world_m [N, 3]`
    float64: where the sensor was when it shot each point. `dropped` returns were left out since a value was not finite."""

    xyz_world_m: np.ndarray
    time_us: np.ndarray
    intensity: np.ndarray
    origin_world_m: np.ndarray
    dropped: int = 0


@dataclass(frozen=True, kw_only=True)
class LidarSweep:
    """One turn of one LiDAR; the points are read by `read_points()`."""

    sensor: str
    timestamp_us: int  # start of the turn
    read_points: Callable[[], LidarPoints]
    file: Path | None = None  # where the points lie
    turn_us: int = TURN_US  # how long it takes
    follows_path: bool = False  # whether each return is placed by the poses of the vehicle around its own time, and not all by one

    @property
    def middle_us(self) -> int:
        """When half of the turn is done."""
        return self.timestamp_us + self.turn_us // 2


@dataclass(frozen=True, kw_only=True)
class ActorTrack:
    """A labelled body: box of `size_m` (length, width, height) centred on a timed pose."""

    actor_id: str
    actor_class: ActorClass
    size_m: tuple[float, float, float]
    track: PoseTrack

    def world_from_actor(self, t_us: int) -> np.ndarray:
        """Pose `[4, 4]` of the box's centre at a time."""
        return self.track.at(t_us)

    def is_labelled(self, t_us: int, margin_us: int = 60_000) -> bool:
        """Whether the actor was seen at that time (a track holds its ends still only for the margin)."""
        return self.track.start_us - margin_us <= t_us <= self.track.end_us + margin_us


@dataclass(frozen=True, kw_only=True)
class SfmPoints:
    """Sparse structure-from-motion points: `xyz_world_m [N, 3]` float64, `rgb [N, 3]` uint8."""

    xyz_world_m: np.ndarray
    rgb: np.ndarray


@dataclass(frozen=True, kw_only=True)
class SceneLog:
    """A whole log. `frames` are sorted by (start_us, camera). `metric` says whether a unit is a metre.

    `ego` is the vehicle's path (for photo sets: the first camera's), `up_world` the direction away from the ground.
    `sfm_points_file` is what `read_sfm_points` reads, None where it finds points in the pictures.
    `notes` are sentences a reader wants a person to know (frames skipped, times assumed).
    """

    log_id: str
    source: str
    path: Path
    cameras: Mapping[str, Camera]
    frames: tuple[CameraFrame, ...]
    sweeps: tuple[LidarSweep, ...]
    actors: tuple[ActorTrack, ...]
    ego: PoseTrack
    metric: bool
    read_sfm_points: Callable[[], SfmPoints] | None = None
    sfm_points_file: Path | None = None
    up_world: tuple[float, float, float] = (0.0, 0.0, 1.0)
    sun_direction_world: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()

    def frames_of(self, camera: str) -> tuple[CameraFrame, ...]:
        return tuple(frame for frame in self.frames if frame.camera == camera)

    def validate(self) -> SceneLog:
        """The log itself, or `UserError` with the first fault: fewer than 2 frames, poses that are no rotations, a calibration that is
        not one, boxes without size, times out of order."""
        where = f"{self.path}"
        if len(self.frames) < 2:
            raise UserError(f"{where}: only {len(self.frames)} readable frame(s), and a scene needs at least 2; check the image files.")
        for camera in self.cameras.values():
            if fault := camera.fault():
                raise UserError(f"{where}: camera {camera.name} has {fault}; correct its calibration.")
        for frame in self.frames:
            if frame.camera not in self.cameras:
                raise UserError(f"{where}: frame {frame.index} names camera {frame.camera}, which has no calibration; add it.")
            for world_from_camera in (frame.world_from_camera_start, frame.world_from_camera_end):
                if fault := rotation_fault(world_from_camera):
                    raise UserError(f"{where}: the pose of {frame.camera} frame {frame.index} has {fault}; correct the pose.")
            if frame.end_us < frame.start_us:
                raise UserError(f"{where}: {frame.camera} frame {frame.index} ends before it starts; correct its times.")
        if any(b.start_us < a.start_us for a, b in zip(self.frames, self.frames[1:])):
            raise UserError(f"{where}: frames are not in the order of their times; sort them.")
        for actor in self.actors:
            if not (np.isfinite(actor.size_m).all() and min(actor.size_m) > 0):
                raise UserError(f"{where}: the box of actor {actor.actor_id} has size {actor.size_m}; give every side a positive length.")
            if fault := rotation_fault(actor.track.world_from_body):
                raise UserError(f"{where}: the track of actor {actor.actor_id} has {fault}; correct the labels.")
        if fault := rotation_fault(self.ego.world_from_body):
            raise UserError(f"{where}: the vehicle's path has {fault}; correct the poses.")
        return self
