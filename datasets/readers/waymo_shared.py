"""What Waymo v1 and v2 have in common: exposures, calibrations, labels and LiDAR frames as parts of a `SceneLog`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import WAYMO_FROM_OPENCV, PoseTrack, orthonormal, rotation_fault
from splatmend.datasets.images import is_cut_short
from splatmend.datasets.log import ActorClass, ActorTrack, Camera, CameraFrame, LidarPoints, ShutterDirection
from splatmend.datasets.waymo_layout import PANOPTIC_DIVISOR, SEMANTIC_CLASSES, SHUTTER_DIRECTIONS
from splatmend.datasets.waymo_range_image import joined_points, points_from_range_image, uniform_inclinations

NO_SWEEP_NOTE = "The range images are empty; there is no LiDAR depth."
SHUTTER_NOTE = "Camera {name} states no readout direction; it is taken as a global shutter in the middle of its readout."
SWEEP_NOTE = "Waymo gives the start of a LiDAR sweep only; point times are spread evenly over 100 ms by range-image column."


@dataclass(frozen=True, kw_only=True)
class WaymoCamera:
    """A calibration: the camera, and its pose on the vehicle with OpenCV axes. `has_direction` is False if the source states none."""

    camera: Camera
    vehicle_from_camera: np.ndarray
    has_direction: bool


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One image's times (seconds since 1970) and the vehicle's pose and velocity (world frame) at `pose_s`."""

    world_from_vehicle: np.ndarray
    pose_s: float
    linear_velocity_m_s: np.ndarray
    angular_velocity_rad_s: np.ndarray
    shutter_s: float
    trigger_s: float
    readout_done_s: float

    def times_us(self, shutter: ShutterDirection) -> tuple[int, int]:
        """Middle of the exposure of the first and of the last row (or column); equal for a global shutter.

        `dataset.proto`: the trigger starts the first exposure, the readout ends after the last, `shutter_s` is one exposure's length.
        """
        first = self.trigger_s + 0.5 * self.shutter_s
        last = self.readout_done_s - 0.5 * self.shutter_s
        if shutter == "global":
            first = last = 0.5 * (first + last)
        return round(first * 1e6), round(last * 1e6)

    def world_from_vehicle_at(self, t_us: int) -> np.ndarray:
        """Vehicle pose `[4, 4]` under constant velocity: r(t) = r + v dt, R(t) = exp(skew(w) dt) R (`dataset.proto`)."""
        seconds = t_us * 1e-6 - self.pose_s
        out = self.world_from_vehicle.copy()
        out[:3, :3] = Rotation.from_rotvec(self.angular_velocity_rad_s * seconds).as_matrix() @ out[:3, :3]
        out[:3, 3] += self.linear_velocity_m_s * seconds
        return out


@dataclass(frozen=True, kw_only=True)
class LidarCalibration:
    """A LiDAR's pose on the vehicle, and its beams: rising inclinations, or limits for equal steps."""

    vehicle_from_lidar: np.ndarray
    values_rad: np.ndarray | None
    limits_rad: tuple[float, float]

    def inclinations_rad(self, height: int) -> np.ndarray:
        """`[H]` rising inclinations; `ValueError` if the stored ones are of another number."""
        if self.values_rad is None:
            return uniform_inclinations(*self.limits_rad, height)
        if self.values_rad.size != height:
            raise ValueError(f"{self.values_rad.size} beam inclinations for {height} rows")
        return self.values_rad

    def points(
        self,
        returns: Iterable[np.ndarray | None],
        world_from_vehicle: np.ndarray,
        *,
        pixel_pose: np.ndarray | None,
        sweep_start_us: int,
        where: str,
    ) -> LidarPoints:
        """Points of all range images of one sweep (None: a return without one), see `points_from_range_image`.

        `UserError` that begins with `where` if an image does not fit the calibration.
        """
        points = []
        for image in returns:
            if image is None:
                continue
            try:
                points.append(
                    points_from_range_image(
                        image,
                        self.inclinations_rad(image.shape[0]),
                        self.vehicle_from_lidar,
                        world_from_vehicle,
                        pixel_pose=pixel_pose,
                        sweep_start_us=sweep_start_us,
                    )
                )
            except ValueError as error:
                raise UserError(f"{where} has {error}; correct the file.") from error
        return joined_points(points)


@dataclass(frozen=True, kw_only=True)
class BoxLabel:
    """One 3D label: box centre's pose in the world at a time."""

    actor_id: str
    actor_class: ActorClass
    time_us: int
    size_m: tuple[float, float, float]
    world_from_box: np.ndarray


@dataclass(kw_only=True)
class LogParts:
    """What a reader gathers before it becomes a log: frames without their index, labels, vehicle poses at image times, notes."""

    frames: list[CameraFrame] = field(default_factory=list)
    labels: list[BoxLabel] = field(default_factory=list)
    ego: list[tuple[int, np.ndarray]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def rigid_poses(values: np.ndarray) -> np.ndarray:
    """Row-major 4x4 matrices as poses `[..., 4, 4]`, rounding of the rotations removed; poses that are none stay, for `validate()`."""
    poses = np.asarray(values, dtype=np.float64).reshape(-1, 4, 4)
    for index, pose in enumerate(poses):
        if rotation_fault(pose) is None:
            poses[index] = orthonormal(pose)
    return poses


def calibrated_camera(
    name: str, *, intrinsic: Iterable[float], width: int, height: int, direction: int, vehicle_from_waymo_camera: np.ndarray
) -> WaymoCamera:
    """A camera from `f_u f_v c_u c_v k1 k2 p1 p2 k3` (OpenCV's model and order) and its pose with Waymo axes.

    Waymo counts pixels from the left edge of the first one, as `Camera` does.
    """
    f_u, f_v, c_u, c_v, *distortion = (float(value) for value in intrinsic)
    camera = Camera(
        name=name,
        width=width,
        height=height,
        focal_px=(f_u, f_v),
        principal_px=(c_u, c_v),
        distortion_model="opencv" if any(distortion) else "none",
        distortion=tuple(distortion) if any(distortion) else (),
        shutter=SHUTTER_DIRECTIONS.get(direction, "global"),
    )
    return WaymoCamera(
        camera=camera,
        vehicle_from_camera=rigid_poses(vehicle_from_waymo_camera)[0] @ WAYMO_FROM_OPENCV,
        has_direction=direction in SHUTTER_DIRECTIONS,
    )


def camera_frame(
    calibration: WaymoCamera,
    exposure: Exposure,
    read_image: Callable[[], np.ndarray],
    masks: Mapping[str, Callable[[], np.ndarray]],
    where: str,
    file: Path,
) -> CameraFrame:
    """A frame (index 0, see `finished_frames`) with its camera posed at the first and last row; `UserError` if a time is not finite."""
    if not np.isfinite([exposure.pose_s, exposure.shutter_s, exposure.trigger_s, exposure.readout_done_s]).all():
        raise UserError(f"{where}: the image of {calibration.camera.name} has a time that is not finite; correct or remove it.")
    start_us, end_us = exposure.times_us(calibration.camera.shutter)
    return CameraFrame(
        camera=calibration.camera.name,
        index=0,
        start_us=start_us,
        end_us=end_us,
        world_from_camera_start=exposure.world_from_vehicle_at(start_us) @ calibration.vehicle_from_camera,
        world_from_camera_end=exposure.world_from_vehicle_at(end_us) @ calibration.vehicle_from_camera,
        read_image=read_image,
        masks=masks,
        file=file,
    )


def finished_frames(frames: Iterable[CameraFrame]) -> tuple[CameraFrame, ...]:
    """Frames in the order of (start, camera), counted per camera."""
    counts: dict[str, int] = {}
    finished = []
    for frame in sorted(frames, key=lambda item: (item.start_us, item.camera)):
        index = counts.get(frame.camera, 0)
        counts[frame.camera] = index + 1
        finished.append(replace(frame, index=index))
    return tuple(finished)


def finished_cameras(calibrations: Iterable[WaymoCamera], frames: Iterable[CameraFrame], notes: list[str]) -> dict[str, Camera]:
    """Cameras that took a frame, with the median readout time of their frames, and a note for each that took none."""
    readouts: dict[str, list[int]] = {}
    for frame in frames:
        readouts.setdefault(frame.camera, []).append(frame.end_us - frame.start_us)
    cameras = {}
    for calibration in calibrations:
        name = calibration.camera.name
        if name in readouts:
            cameras[name] = replace(calibration.camera, readout_us=int(np.median(readouts[name])))
            if not calibration.has_direction:
                notes.append(SHUTTER_NOTE.format(name=name))
        else:
            notes.append(f"Camera {name} has no picture; it is left out.")
    return cameras


def pose_track(samples: Iterable[tuple[int, np.ndarray]]) -> PoseTrack:
    """A track from (time, pose) in any order; of equal times the first stays."""
    by_time: dict[int, np.ndarray] = {}
    for time_us, pose in samples:
        by_time.setdefault(time_us, pose)
    times = sorted(by_time)
    return PoseTrack(times_us=np.array(times, dtype=np.int64), world_from_body=np.stack([by_time[time] for time in times]))


def box_label(
    where: str, *, actor_id: str, kind: ActorClass, time_us: int, center_size_heading: np.ndarray, world_from_vehicle: np.ndarray
) -> BoxLabel:
    """A label from `x y z length width height heading` in the vehicle's frame; `UserError` for a box without size or finite place."""
    center_size_heading = np.asarray(center_size_heading, dtype=np.float64)
    size = center_size_heading[3:6]
    if not np.isfinite(center_size_heading).all() or size.min() <= 0:
        raise UserError(
            f"{where}: the box of object {actor_id} at {time_us} us has centre, size and heading "
            f"{np.round(center_size_heading, 3).tolist()}; give finite values and positive sizes, or remove the label."
        )
    vehicle_from_box = np.eye(4)
    vehicle_from_box[:3, :3] = Rotation.from_euler("z", center_size_heading[6]).as_matrix()
    vehicle_from_box[:3, 3] = center_size_heading[:3]
    return BoxLabel(
        actor_id=actor_id,
        actor_class=kind,
        time_us=time_us,
        size_m=(float(size[0]), float(size[1]), float(size[2])),
        world_from_box=world_from_vehicle @ vehicle_from_box,
    )


def actor_tracks(labels: Iterable[BoxLabel], notes: list[str]) -> tuple[ActorTrack, ...]:
    """One track per object, in the order of ids, with the median of its box sizes. Boxes without an id belong to no object: they are left
    out, with a note."""
    by_actor: dict[str, list[BoxLabel]] = {}
    nameless = 0
    for label in labels:
        if not label.actor_id:
            nameless += 1
            continue
        by_actor.setdefault(label.actor_id, []).append(label)
    if nameless:
        notes.append(f"{nameless} boxes have no id and were left out.")
    tracks = []
    for actor_id in sorted(by_actor):
        seen = by_actor[actor_id]
        length, width, height = np.median([label.size_m for label in seen], axis=0)
        track = pose_track((label.time_us, label.world_from_box) for label in seen)
        kind = seen[0].actor_class
        tracks.append(ActorTrack(actor_id=actor_id, actor_class=kind, size_m=(float(length), float(width), float(height)), track=track))
    return tuple(tracks)


def decode_image(encoded: bytes, camera: Camera, where: str) -> np.ndarray:
    """`[H, W, 3]` uint8 sRGB; `UserError` if the bytes are no image or of another size than the calibration says."""
    image = _decode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None or is_cut_short(encoded):
        raise UserError(f"{where}: the image of {camera.name} cannot be decoded; copy the file again.")
    if image.shape[:2] != (camera.height, camera.width):
        raise UserError(
            f"{where}: the image of {camera.name} is {image.shape[1]}x{image.shape[0]} but its calibration says "
            f"{camera.width}x{camera.height}; correct the calibration."
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_panoptic(encoded: bytes, divisor: int, where: str) -> np.ndarray:
    """`[H, W]` uint16 labels, `semantic class * 1000 + instance`; `UserError` if the bytes are no such label image."""
    label = _decode(encoded, cv2.IMREAD_UNCHANGED)
    if label is None or label.ndim != 2 or divisor <= 0:
        raise UserError(f"{where}: a panoptic label cannot be decoded; copy the file again.")
    semantic, instance = np.divmod(label.astype(np.int32), divisor)
    if instance.max() >= PANOPTIC_DIVISOR or semantic.max() > max(SEMANTIC_CLASSES):
        raise UserError(f"{where}: a panoptic label has a class or instance that Waymo does not define; copy the file again.")
    return (semantic * PANOPTIC_DIVISOR + instance).astype(np.uint16)


def _decode(encoded: bytes, flags: int) -> np.ndarray | None:
    if not encoded:
        return None
    return cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), flags)


def known(names: Mapping[int, str], number: int, path: Path, what: str) -> str:
    """Name of an enumeration's number, or `UserError`."""
    if number not in names:
        raise UserError(f"{path}: {what} number {number} is none that Waymo defines; correct or remove its rows.")
    return names[number]
