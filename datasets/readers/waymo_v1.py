"""Waymo Open Dataset v1: `Frame` messages in a TFRecord file, one drive a file.

Needs the message definitions of the `waymo-open-dataset-tf-2-12-0` package (installed without its dependencies). Images, masks and
range images are read from the file when they are asked for.
"""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import rotation_fault
from splatmend.datasets.log import LidarPoints, LidarSweep, SceneLog
from splatmend.datasets.readers.tfrecord import RecordSpan, index_records, read_record
from splatmend.datasets.readers.waymo_shared import (
    NO_SWEEP_NOTE,
    SWEEP_NOTE,
    Exposure,
    LidarCalibration,
    LogParts,
    WaymoCamera,
    actor_tracks,
    box_label,
    calibrated_camera,
    camera_frame,
    decode_image,
    decode_panoptic,
    finished_cameras,
    finished_frames,
    known,
    pose_track,
    rigid_poses,
)
from splatmend.datasets.waymo_layout import ACTOR_CLASSES, CAMERA_NAMES, LIDAR_NAMES

INSTALL_HINT = "pip install --no-deps waymo-open-dataset-tf-2-12-0"


def recognises(path: Path) -> bool:
    """Whether the path is a TFRecord file or a folder of them."""
    return bool(_record_files(path))


def read(path: Path) -> SceneLog:
    """The log of one TFRecord file (or of a folder that holds one).

    `UserError` if the file is damaged, holds no Waymo frames, or the package with the message definitions is missing.
    """
    files = _record_files(path)
    if not files:
        raise UserError(f"{path}: no TFRecord file here; give a .tfrecord file of the Waymo Open Dataset v1.")
    if len(files) > 1:
        raise UserError(f"{path}: holds {len(files)} TFRecord files; give one of them, such as {files[0]}.")
    return _FileReader(files[0]).log()


def _record_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if ".tfrecord" in path.name else []
    return sorted(file for file in path.glob("*.tfrecord*") if file.is_file()) if path.is_dir() else []


def _messages() -> Any:
    """The module with Waymo's message classes."""
    try:
        from waymo_open_dataset import dataset_pb2
    except ImportError as error:
        raise UserError(f"Waymo v1 needs the message definitions of its package; run: {INSTALL_HINT}") from error
    return dataset_pb2


class _FileReader:
    """Reads one file; the log's closures hold it, and it holds no pixel or point."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._messages = _messages()
        self._cameras: dict[int, WaymoCamera] = {}
        self._lidars: dict[int, LidarCalibration] = {}

    def log(self) -> SceneLog:
        parts, sweeps = LogParts(), []
        name = ""
        empty = 0
        records: dict[int, int] = {}
        for span in index_records(self.path):
            frame = self._frame(span)
            if name and frame.context.name != name:
                raise UserError(f"{self.path}: holds the drives {name} and {frame.context.name}; give one drive per file.")
            if not name:
                name = frame.context.name
                self._read_calibrations(frame.context)
            if (first := records.setdefault(frame.timestamp_micros, span.number)) != span.number:
                raise UserError(
                    f"{self.path}: the records {first} and {span.number} are both of the time {frame.timestamp_micros} us; give a file "
                    "that holds every frame once."
                )
            self._gather(frame, span, parts)
            sweeps += [
                LidarSweep(
                    sensor=known(LIDAR_NAMES, laser.name, self.path, "LiDAR"),
                    timestamp_us=frame.timestamp_micros,
                    read_points=partial(self._read_points, span, laser.name),
                    file=self.path,
                )
                for laser in frame.lasers
                if laser.ri_return1.range_image_compressed
            ]
            empty += sum(not laser.ri_return1.range_image_compressed for laser in frame.lasers)
        if not parts.frames:
            raise UserError(f"{self.path}: no frame holds a camera image; give a file of the camera and LiDAR data set.")
        frames = finished_frames(parts.frames)
        if sweeps and empty:
            parts.notes.append(f"{empty} LiDAR sweep(s) are empty and were left out.")
        parts.notes.append(SWEEP_NOTE if sweeps else NO_SWEEP_NOTE)
        return SceneLog(
            log_id=name,
            source="Waymo v1",
            path=self.path,
            cameras=finished_cameras(self._cameras.values(), frames, parts.notes),
            frames=frames,
            sweeps=tuple(sorted(sweeps, key=lambda sweep: (sweep.timestamp_us, sweep.sensor))),
            actors=actor_tracks(parts.labels, parts.notes),
            ego=pose_track(parts.ego),
            metric=True,
            notes=tuple(parts.notes),
        )

    def _frame(self, span: RecordSpan) -> Any:
        from google.protobuf.message import DecodeError

        frame = self._messages.Frame()
        try:
            frame.ParseFromString(read_record(self.path, span))
        except DecodeError as error:
            raise UserError(f"{self.path}: record {span.number} is no Waymo v1 frame; give a file of the perception data set.") from error
        if not frame.context.name or len(frame.pose.transform) != 16:
            raise UserError(f"{self.path}: record {span.number} is no Waymo v1 frame; give a file of the perception data set.")
        return frame

    def _read_calibrations(self, context: Any) -> None:
        for item in context.camera_calibrations:
            if len(item.intrinsic) != 9 or len(item.extrinsic.transform) != 16:
                raise UserError(f"{self.path}: the calibration of camera number {item.name} is incomplete; correct the file.")
            self._cameras[item.name] = calibrated_camera(
                known(CAMERA_NAMES, item.name, self.path, "camera"),
                intrinsic=item.intrinsic,
                width=item.width,
                height=item.height,
                direction=item.rolling_shutter_direction,
                vehicle_from_waymo_camera=np.array(item.extrinsic.transform),
            )
        for item in context.laser_calibrations:
            if len(item.extrinsic.transform) != 16:
                raise UserError(f"{self.path}: the calibration of LiDAR number {item.name} is incomplete; correct the file.")
            self._lidars[item.name] = LidarCalibration(
                vehicle_from_lidar=rigid_poses(np.array(item.extrinsic.transform))[0],
                values_rad=np.array(item.beam_inclinations) if item.beam_inclinations else None,
                limits_rad=(item.beam_inclination_min, item.beam_inclination_max),
            )

    def _gather(self, frame: Any, span: RecordSpan, parts: LogParts) -> None:
        where = f"{self.path} record {span.number}"
        for image in frame.images:
            if image.name not in self._cameras:
                raise UserError(f"{where}: camera number {image.name} has an image but no calibration; add it.")
            calibration = self._cameras[image.name]
            if len(image.pose.transform) != 16:
                raise UserError(f"{where}: the image of {calibration.camera.name} has no pose; correct the file.")
            exposure = Exposure(
                world_from_vehicle=rigid_poses(np.array(image.pose.transform))[0],
                pose_s=image.pose_timestamp,
                linear_velocity_m_s=np.array([image.velocity.v_x, image.velocity.v_y, image.velocity.v_z], dtype=np.float64),
                angular_velocity_rad_s=np.array([image.velocity.w_x, image.velocity.w_y, image.velocity.w_z]),
                shutter_s=image.shutter,
                trigger_s=image.camera_trigger_time,
                readout_done_s=image.camera_readout_done_time,
            )
            has_panoptic = bool(image.camera_segmentation_label.panoptic_label)
            masks = {"panoptic": partial(self._read_panoptic, span, image.name)} if has_panoptic else {}
            parts.frames.append(camera_frame(calibration, exposure, partial(self._read_image, span, image.name), masks, where, self.path))
            parts.ego.append((round(exposure.pose_s * 1e6), exposure.world_from_vehicle))
        # The frame's pose is that of the middle of the sweep and only defines the labels' frame; the boxes live at the frame's
        # timestamp (docstring of `LiDARCameraSyncedBoxComponent` in the package).
        world_from_vehicle = rigid_poses(np.array(frame.pose.transform))[0]
        if fault := rotation_fault(world_from_vehicle):
            raise UserError(f"{where}: the vehicle pose has {fault}; correct the pose.")
        for label in frame.laser_labels:
            box = label.box
            values = [box.center_x, box.center_y, box.center_z, box.length, box.width, box.height, box.heading]
            parts.labels.append(
                box_label(
                    where,
                    actor_id=label.id,
                    kind=ACTOR_CLASSES.get(label.type, "other"),
                    time_us=frame.timestamp_micros,
                    center_size_heading=np.array(values),
                    world_from_vehicle=world_from_vehicle,
                )
            )

    def _image_message(self, span: RecordSpan, camera: int) -> Any:
        return next(image for image in self._frame(span).images if image.name == camera)

    def _read_image(self, span: RecordSpan, camera: int) -> np.ndarray:
        where = f"{self.path} record {span.number}"
        return decode_image(self._image_message(span, camera).image, self._cameras[camera].camera, where)

    def _read_panoptic(self, span: RecordSpan, camera: int) -> np.ndarray:
        label = self._image_message(span, camera).camera_segmentation_label
        return decode_panoptic(label.panoptic_label, label.panoptic_label_divisor, f"{self.path} record {span.number}")

    def _read_points(self, span: RecordSpan, lidar: int) -> LidarPoints:
        where = f"{self.path} record {span.number}"
        frame = self._frame(span)
        laser = next(item for item in frame.lasers if item.name == lidar)
        if lidar not in self._lidars:
            raise UserError(f"{where}: LiDAR number {lidar} has a range image but no calibration; add it.")
        laser_returns = (laser.ri_return1.range_image_compressed, laser.ri_return2.range_image_compressed)
        return self._lidars[lidar].points(
            (self._matrix(compressed, where) for compressed in laser_returns),
            rigid_poses(np.array(frame.pose.transform))[0],
            pixel_pose=self._matrix(laser.ri_return1.range_image_pose_compressed, where),
            sweep_start_us=frame.timestamp_micros,
            where=f"{where}: LiDAR {LIDAR_NAMES[lidar]}",
        )

    def _matrix(self, compressed: bytes, where: str) -> np.ndarray | None:
        """`[H, W, C]` float32 of a zlib-compressed `MatrixFloat`; None where there is none."""
        if not compressed:
            return None
        from google.protobuf.message import DecodeError

        matrix = self._messages.MatrixFloat()
        try:
            matrix.ParseFromString(zlib.decompress(compressed))
            return np.array(matrix.data, dtype=np.float32).reshape(tuple(matrix.shape.dims))
        except (zlib.error, DecodeError, ValueError) as error:
            raise UserError(f"{where}: a range image cannot be decoded; copy the file again.") from error
