"""Waymo Open Dataset v2: one Parquet file per component and drive. Needs pyarrow alone.

Tables of numbers are read when the log is opened; images, masks and range images row by row when they are asked for.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.log import Camera, LidarPoints, LidarSweep, SceneLog
from splatmend.datasets.readers.parquet_rows import ParquetBlobs, ParquetRows
from splatmend.datasets.readers.waymo_shared import (
    NO_SWEEP_NOTE,
    SWEEP_NOTE,
    Exposure,
    LidarCalibration,
    LogParts,
    WaymoCamera,
    actor_tracks,
    camera_frame,
    decode_image,
    decode_panoptic,
    finished_cameras,
    finished_frames,
    pose_track,
)
from splatmend.datasets.readers.waymo_v2_files import SegmentFiles, find_segment, is_segment_folder
from splatmend.datasets.readers.waymo_v2_tables import (
    ComponentTable,
    box_labels,
    camera_calibrations,
    lidar_calibrations,
    vehicle_poses,
)
from splatmend.datasets.waymo_layout import CAMERA, LIDAR, LIDAR_NAMES, TIMESTAMP, column

_LINEAR = tuple(f"velocity.linear_velocity.{axis}" for axis in "xyz")
_ANGULAR = tuple(f"velocity.angular_velocity.{axis}" for axis in "xyz")
_TIMES = (
    "pose_timestamp",
    *(f"rolling_shutter_params.{name}" for name in ("shutter", "camera_trigger_time", "camera_readout_done_time")),
)
_RETURNS = ("range_image_return1", "range_image_return2")


def recognises(path: Path) -> bool:
    """Whether the path (a folder, `FOLDER#DRIVE`, or a component's Parquet file) holds Waymo v2 components."""
    return is_segment_folder(path)


def read(path: Path) -> SceneLog:
    """The log of one drive.

    `UserError` if camera_image, camera_calibration or vehicle_pose is missing, if a file is damaged, if the folder holds several drives
    and none is chosen (`FOLDER#DRIVE`), or if a label or pose is none.
    """
    segment = find_segment(path)
    segment.need_all("camera_calibration", "vehicle_pose", "camera_image")
    calibrations = camera_calibrations(segment.need("camera_calibration"))
    poses = vehicle_poses(segment.need("vehicle_pose"))
    parts = LogParts()
    _gather_frames(segment, calibrations, parts)
    if (boxes := segment.find("lidar_box")) is not None:
        parts.labels = box_labels(boxes, poses)
    else:
        parts.notes.append("There is no lidar_box component, so no actor is labelled.")
    sweeps = _sweeps(segment, poses, parts.notes)
    frames = finished_frames(parts.frames)
    return SceneLog(
        log_id=segment.segment,
        source="Waymo v2",
        path=path,
        cameras=finished_cameras(calibrations.values(), frames, parts.notes),
        frames=frames,
        sweeps=sweeps,
        actors=actor_tracks(parts.labels, parts.notes),
        ego=pose_track(parts.ego),
        metric=True,
        notes=tuple(parts.notes),
    )


def read_vehicle_pose(path: Path) -> PoseTrack:
    """The vehicle's poses alone, at the frames' timestamps. `UserError` as in `read`.

    Waymo's frame timestamp starts the LiDAR sweep, its pose is roughly that of the sweep's middle (`dataset.proto`): the shape and speed
    of the path are right, its times are about 50 ms early. A whole log takes the poses at the images' own pose times instead.
    """
    return pose_track(vehicle_poses(find_segment(path).need("vehicle_pose")).items())


def _gather_frames(segment: SegmentFiles, calibrations: dict[int, WaymoCamera], parts: LogParts) -> None:
    path = segment.need("camera_image")
    table = ComponentTable(path, "camera_image", [TIMESTAMP, CAMERA], ["pose.transform", *_LINEAR, *_ANGULAR, *_TIMES])
    poses, linear, angular, times = table.poses("pose.transform"), table.stacked(_LINEAR), table.stacked(_ANGULAR), table.stacked(_TIMES)
    images = ParquetBlobs(path, column("camera_image", "image"))
    panoptic_rows: dict[tuple[int, int], int] = {}
    if (labels := segment.find("camera_segmentation")) is not None:
        panoptic_rows = _rows_by_key(labels, "camera_segmentation", CAMERA)
        names = ("panoptic_label", "panoptic_label_divisor")
        panoptic = ParquetRows(labels, [column("camera_segmentation", name) for name in names])
    seen: set[tuple[int, int]] = set()
    for row, key in enumerate(zip(table.key(TIMESTAMP).tolist(), table.key(CAMERA).tolist())):
        if key in seen:
            raise UserError(f"{path}: camera number {key[1]} has two images at {key[0]} us; download the file again.")
        seen.add(key)
        if key[1] not in calibrations:
            raise UserError(f"{path}: camera number {key[1]} has images but no calibration; add it to camera_calibration.")
        calibration = calibrations[key[1]]
        exposure = Exposure(
            world_from_vehicle=poses[row],
            pose_s=float(times[row, 0]),
            linear_velocity_m_s=linear[row],
            angular_velocity_rad_s=angular[row],
            shutter_s=float(times[row, 1]),
            trigger_s=float(times[row, 2]),
            readout_done_s=float(times[row, 3]),
        )
        masks = {"panoptic": partial(_read_panoptic, panoptic, panoptic_rows[key])} if key in panoptic_rows else {}
        read_image = partial(_read_image, images, row, calibration.camera)
        parts.frames.append(camera_frame(calibration, exposure, read_image, masks, f"{path} at {key[0]} us", path))
        parts.ego.append((round(exposure.pose_s * 1e6), exposure.world_from_vehicle))
    if not parts.frames:
        raise UserError(f"{path}: holds no image; download the file again.")


def _sweeps(segment: SegmentFiles, poses: dict[int, np.ndarray], notes: list[str]) -> tuple[LidarSweep, ...]:
    path = segment.find("lidar")
    if path is None:
        notes.append("There is no lidar component, so there is no LiDAR depth.")
        return ()
    calibrations = lidar_calibrations(segment.need("lidar_calibration"))
    reader = _SweepReader(path, segment.find("lidar_pose"), calibrations, poses)
    if reader.pixel_poses is None:
        notes.append("There is no lidar_pose component: each sweep is placed by one vehicle pose, and is bent where the vehicle moved.")
    sweeps = []
    shapes = ComponentTable(path, "lidar", [], [f"{name}.shape" for name in _RETURNS])
    filled = np.any([[shape is not None and np.prod(shape) > 0 for shape in shapes.lists(f"{name}.shape")] for name in _RETURNS], axis=0)
    if empty := int((~filled).sum()):
        notes.append(f"{empty} LiDAR sweep(s) are empty and were left out.")
    for (timestamp_us, lidar), row in _rows_by_key(path, "lidar", LIDAR).items():
        if lidar not in calibrations:
            raise UserError(f"{path}: LiDAR number {lidar} has range images but no calibration; add it to lidar_calibration.")
        if timestamp_us not in poses:
            raise UserError(f"{path}: has a sweep at {timestamp_us} us, where the vehicle has no pose; use files of the same drive.")
        if not filled[row]:
            continue
        read_points = partial(reader.points, row, timestamp_us, lidar)
        sweeps.append(LidarSweep(sensor=LIDAR_NAMES[lidar], timestamp_us=timestamp_us, read_points=read_points, file=path))
    notes.append(SWEEP_NOTE if sweeps else NO_SWEEP_NOTE)
    return tuple(sorted(sweeps, key=lambda sweep: (sweep.timestamp_us, sweep.sensor)))


def _rows_by_key(path: Path, component: str, sensor: str) -> dict[tuple[int, int], int]:
    """Row numbers by (frame timestamp, sensor number); `UserError` where two rows are of one sensor and time."""
    table = ComponentTable(path, component, [TIMESTAMP, sensor], [])
    rows: dict[tuple[int, int], int] = {}
    for row, key in enumerate(zip(table.key(TIMESTAMP).tolist(), table.key(sensor).tolist())):
        if key in rows:
            what = "LiDAR" if sensor == LIDAR else "camera"
            raise UserError(f"{path}: {what} number {key[1]} has two rows at {key[0]} us; download the file again.")
        rows[key] = row
    return rows


def _read_image(images: ParquetBlobs, row: int, camera: Camera) -> np.ndarray:
    return decode_image(images.value(row), camera, f"{images.path} row {row}")


def _read_panoptic(rows: ParquetRows, row: int) -> np.ndarray:
    values = rows.row(row)
    label, divisor = (values[column("camera_segmentation", name)].as_py() for name in ("panoptic_label", "panoptic_label_divisor"))
    return decode_panoptic(label or b"", divisor or 0, f"{rows.path} row {row}")


class _SweepReader:
    """Turns rows of the lidar and lidar_pose components into points."""

    def __init__(self, path: Path, pose_path: Path | None, calibrations: dict[int, LidarCalibration], poses: dict[int, np.ndarray]) -> None:
        self._images = ParquetRows(path, [column("lidar", f"{name}.{part}") for name in _RETURNS for part in ("values", "shape")])
        self._calibrations = calibrations
        self._poses = poses
        self.pixel_poses: ParquetRows | None = None
        self._pose_rows: dict[tuple[int, int], int] = {}
        if pose_path is not None:
            self.pixel_poses = ParquetRows(pose_path, [column("lidar_pose", f"{_RETURNS[0]}.{part}") for part in ("values", "shape")])
            self._pose_rows = _rows_by_key(pose_path, "lidar_pose", LIDAR)

    def points(self, row: int, timestamp_us: int, lidar: int) -> LidarPoints:
        """Points of all returns of one sweep; `UserError` if its range image does not fit the calibration."""
        pixel_pose = None
        if self.pixel_poses is not None and (timestamp_us, lidar) in self._pose_rows:
            pixel_pose = _image(self.pixel_poses, self._pose_rows[timestamp_us, lidar], "lidar_pose", _RETURNS[0])
        return self._calibrations[lidar].points(
            (_image(self._images, row, "lidar", name) for name in _RETURNS),
            self._poses[timestamp_us],
            pixel_pose=pixel_pose,
            sweep_start_us=timestamp_us,
            where=f"{self._images.path} row {row}: LiDAR {LIDAR_NAMES[lidar]}",
        )


def _image(rows: ParquetRows, row: int, component: str, name: str) -> np.ndarray | None:
    """`[H, W, C]` float32 of one return, None where it is null or empty."""
    columns = rows.row(row)
    values, shape = columns[column(component, f"{name}.values")], columns[column(component, f"{name}.shape")]
    if not values.is_valid or not shape.is_valid:
        return None
    flat = values.values.to_numpy(zero_copy_only=False).astype(np.float32)
    dimensions = tuple(shape.as_py())
    if flat.size != np.prod(dimensions):
        raise UserError(f"{rows.path} row {row}: {flat.size} values for a range image of shape {dimensions}; download the file again.")
    return flat.reshape(dimensions) if flat.size else None
