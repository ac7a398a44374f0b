"""Writes a drive in the Parquet layout of the Waymo Open Dataset v2.

Column names, types and order are the official ones (`waymo_layout`). Rows are streamed in small row groups, so that memory does not grow
with the drive and any image or sweep can be read without decoding the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from splatmend.datasets.geometry import WAYMO_FROM_OPENCV, inverse
from splatmend.datasets.log import Camera
from splatmend.datasets.waymo_layout import (
    ACTOR_CLASSES,
    CAMERA,
    CAMERA_NAMES,
    LIDAR,
    LIDAR_NAMES,
    OBJECT,
    SCHEMAS,
    SEGMENT,
    SHUTTER_DIRECTIONS,
    TIMESTAMP,
    ActorClass,
    column,
    number_of,
)
from splatmend.datasets.waymo_range_image import inclination_limits

# Rows per row group where rows are large; the other components collect more.
_ROWS_PER_GROUP: Mapping[str, int] = {"camera_image": 5, "lidar": 1, "lidar_pose": 1}
_SMALL_ROWS_PER_GROUP = 1024


@dataclass(frozen=True, kw_only=True)
class WaymoBox:
    """One 3D label. `vehicle_from_box [4, 4]` is the pose of its centre; the format keeps the heading only. Vectors are in the world's
    axes (m/s, m/s^2)."""

    actor_id: str
    actor_class: ActorClass
    size_m: tuple[float, float, float]
    vehicle_from_box: np.ndarray
    speed_m_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
    acceleration_m_s2: tuple[float, float, float] = (0.0, 0.0, 0.0)
    lidar_points: int = 0
    top_lidar_points: int = 0


class WaymoV2Writer:
    """Context manager that writes one drive into `folder/COMPONENT/SEGMENT.parquet`.

    A component's file appears with its first row. `FileExistsError` if this drive already lies in the folder; `ValueError` for names,
    shapes or camera models that the format does not know.
    """

    def __init__(self, folder: Path, segment: str) -> None:
        self._folder = folder
        self._segment = segment
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._pending: dict[str, list[dict[str, Any]]] = {}
        self._beams: dict[str, int] = {}
        for component in SCHEMAS:
            if (existing := self._path(component)).exists():
                raise FileExistsError(f"{existing} exists already")
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> WaymoV2Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Writes what is pending and the files' footers; a file without footer is unreadable."""
        for component in list(self._pending):
            self._flush(component)
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def camera_calibration(self, name: str, camera: Camera, vehicle_from_camera: np.ndarray) -> None:
        """A camera and its pose on the vehicle with OpenCV axes (stored with Waymo's)."""
        if camera.distortion_model == "opencv_fisheye":
            raise ValueError(f"camera {name}: Waymo's layout has no fisheye model")
        distortion = camera.distortion or (0.0,) * 5
        intrinsic = dict(
            zip(("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3"), (*camera.focal_px, *camera.principal_px, *distortion))
        )
        self._add(
            "camera_calibration",
            {CAMERA: number_of(CAMERA_NAMES, name)},
            {
                **{f"intrinsic.{key}": float(value) for key, value in intrinsic.items()},
                "extrinsic.transform": _flat_pose(vehicle_from_camera @ inverse(WAYMO_FROM_OPENCV)),
                "width": camera.width,
                "height": camera.height,
                "rolling_shutter_direction": number_of(SHUTTER_DIRECTIONS, camera.shutter),
            },
        )

    def lidar_calibration(self, name: str, beam_inclinations_rad: np.ndarray, vehicle_from_lidar: np.ndarray) -> None:
        """A LiDAR's rising beam inclinations `[H]` (row 0 of its range images is the last, highest one) and pose on the vehicle."""
        beams = np.asarray(beam_inclinations_rad, dtype=np.float64)
        if beams.ndim != 1 or beams.size == 0 or (np.diff(beams) <= 0).any():
            raise ValueError(f"LiDAR {name}: beam inclinations must be a list that rises")
        self._beams[name] = beams.size
        lowest, highest = inclination_limits(beams)
        self._add(
            "lidar_calibration",
            {LIDAR: number_of(LIDAR_NAMES, name)},
            {
                "extrinsic.transform": _flat_pose(vehicle_from_lidar),
                "beam_inclination.min": lowest,
                "beam_inclination.max": highest,
                "beam_inclination.values": beams,
            },
        )

    def vehicle_pose(self, timestamp_us: int, world_from_vehicle: np.ndarray) -> None:
        """The pose that defines the vehicle's frame of this frame's boxes and of range images without pixel poses."""
        self._add("vehicle_pose", {TIMESTAMP: timestamp_us}, {"world_from_vehicle.transform": _flat_pose(world_from_vehicle)})

    def camera_image(
        self,
        timestamp_us: int,
        name: str,
        encoded: bytes,
        *,
        start_us: int,
        end_us: int,
        world_from_vehicle: np.ndarray,
        pose_us: int,
        linear_velocity_m_s: np.ndarray,
        angular_velocity_rad_s: np.ndarray,
        exposure_us: int = 0,
    ) -> None:
        """An encoded image (JPEG in the genuine data), the times of the middle of the exposure of its first and last row or column,
        and the vehicle's pose and velocities (world axes) at `pose_us`. `exposure_us` is one row's exposure."""
        self._add(
            "camera_image",
            {TIMESTAMP: timestamp_us, CAMERA: number_of(CAMERA_NAMES, name)},
            {
                "image": encoded,
                "pose.transform": _flat_pose(world_from_vehicle),
                **{f"velocity.linear_velocity.{axis}": float(value) for axis, value in zip("xyz", linear_velocity_m_s)},
                **{f"velocity.angular_velocity.{axis}": float(value) for axis, value in zip("xyz", angular_velocity_rad_s)},
                "pose_timestamp": pose_us * 1e-6,
                "rolling_shutter_params.shutter": exposure_us * 1e-6,
                "rolling_shutter_params.camera_trigger_time": (start_us - 0.5 * exposure_us) * 1e-6,
                "rolling_shutter_params.camera_readout_done_time": (end_us + 0.5 * exposure_us) * 1e-6,
            },
        )

    def lidar(
        self,
        timestamp_us: int,
        name: str,
        range_image: np.ndarray,
        pixel_pose: np.ndarray | None,
        second_return: np.ndarray | None = None,
    ) -> None:
        """A sweep that starts at `timestamp_us`: `[H, W, 4]` range (m; 0 or less where nothing came back), intensity, elongation, no-label
        zone; `pixel_pose [H, W, 6]` roll, pitch, yaw, x, y, z of the vehicle at each pixel; `second_return` like `range_image`, by
        default without any return."""
        if name not in self._beams:
            raise ValueError(f"LiDAR {name}: write its calibration first")
        for image, channels in ((range_image, 4), (pixel_pose, 6), (second_return, 4)):
            expected = (self._beams[name], range_image.shape[1], channels)
            if image is not None and image.shape != expected:
                raise ValueError(f"LiDAR {name}: an image of shape {image.shape} where {expected} is needed")
        if second_return is None:
            # Official files hold -1 where nothing came back; a null would be shorter, but not every Arrow writes null lists of fixed size.
            second_return = np.zeros_like(range_image)
            second_return[..., 0] = -1
        keys = {TIMESTAMP: timestamp_us, LIDAR: number_of(LIDAR_NAMES, name)}
        fields = _range_image_fields("range_image_return1", range_image) | _range_image_fields("range_image_return2", second_return)
        self._add("lidar", keys, fields)
        if pixel_pose is not None:
            self._add("lidar_pose", keys, _range_image_fields("range_image_return1", pixel_pose))

    def boxes(self, timestamp_us: int, boxes: Sequence[WaymoBox]) -> None:
        """The labels of one frame, in the vehicle's frame of `vehicle_pose` at the same timestamp."""
        for box in boxes:
            pose = box.vehicle_from_box
            values = {
                **dict(zip((f"box.center.{axis}" for axis in "xyz"), pose[:3, 3].tolist())),
                **dict(zip((f"box.size.{axis}" for axis in "xyz"), box.size_m)),
                "box.heading": float(np.arctan2(pose[1, 0], pose[0, 0])),
                "type": number_of(ACTOR_CLASSES, box.actor_class),
                "num_lidar_points_in_box": box.lidar_points,
                "num_top_lidar_points_in_box": box.top_lidar_points,
                **dict(zip((f"speed.{axis}" for axis in "xyz"), box.speed_m_s)),
                **dict(zip((f"acceleration.{axis}" for axis in "xyz"), box.acceleration_m_s2)),
            }
            self._add("lidar_box", {TIMESTAMP: timestamp_us, OBJECT: box.actor_id}, values)

    def stats(self, timestamp_us: int, *, time_of_day: str, location: str, weather: str) -> None:
        """Where and when a frame was recorded (Waymo's words: Day, Dawn/Dusk, Night; sunny, rain)."""
        self._add("stats", {TIMESTAMP: timestamp_us}, {"time_of_day": time_of_day, "location": location, "weather": weather})

    def _path(self, component: str) -> Path:
        return self._folder / component / f"{self._segment}.parquet"

    def _add(self, component: str, keys: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        row = {SEGMENT: self._segment, **keys, **{column(component, name): value for name, value in fields.items()}}
        if unknown := set(row) - set(SCHEMAS[component].names):
            raise ValueError(f"{component} has no column {sorted(unknown)[0]}")
        pending = self._pending.setdefault(component, [])
        pending.append(row)
        if len(pending) >= _ROWS_PER_GROUP.get(component, _SMALL_ROWS_PER_GROUP):
            self._flush(component)

    def _flush(self, component: str) -> None:
        rows = self._pending.pop(component, [])
        if not rows:
            return
        schema = SCHEMAS[component]
        # A column that a row does not give (difficulty levels, object counts) is null, as in the official files.
        arrays = [pa.array([row.get(field.name) for row in rows], type=field.type) for field in schema]
        if component not in self._writers:
            path = self._path(component)
            path.parent.mkdir(parents=True, exist_ok=True)
            compression = "none" if component == "camera_image" else "zstd"
            self._writers[component] = pq.ParquetWriter(path, schema, compression=compression)
        self._writers[component].write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=len(rows))


def _flat_pose(a_from_b: np.ndarray) -> np.ndarray:
    return np.asarray(a_from_b, dtype=np.float64).reshape(16)


def _range_image_fields(name: str, image: np.ndarray) -> dict[str, Any]:
    return {f"{name}.values": np.asarray(image, dtype=np.float32).reshape(-1), f"{name}.shape": np.asarray(image.shape, dtype=np.int32)}
