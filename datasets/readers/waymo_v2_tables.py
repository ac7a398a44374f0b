"""The small Parquet tables of a Waymo v2 drive: calibrations, vehicle poses and boxes, checked and turned into poses and cameras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import rotation_fault
from splatmend.datasets.readers.parquet_rows import read_table
from splatmend.datasets.readers.waymo_shared import (
    BoxLabel,
    LidarCalibration,
    WaymoCamera,
    box_label,
    calibrated_camera,
    known,
    rigid_poses,
)
from splatmend.datasets.waymo_layout import ACTOR_CLASSES, CAMERA, CAMERA_NAMES, LIDAR, LIDAR_NAMES, OBJECT, TIMESTAMP, column

_INTRINSIC = tuple(f"intrinsic.{name}" for name in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3"))
_BOX = (*(f"box.center.{axis}" for axis in "xyz"), *(f"box.size.{axis}" for axis in "xyz"), "box.heading")


class ComponentTable:
    """Some columns of one component, as numpy arrays without gaps."""

    def __init__(self, path: Path, component: str, keys: Sequence[str], fields: Sequence[str]) -> None:
        self.path = path
        self._component = component
        self._table: pa.Table = read_table(path, [*keys, *(column(component, field) for field in fields)])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def key(self, name: str) -> np.ndarray:
        return self._array(name)

    def numbers(self, field: str) -> np.ndarray:
        return self._array(column(self._component, field))

    def stacked(self, fields: Sequence[str]) -> np.ndarray:
        """`[rows, fields]` float64."""
        return np.stack([self.numbers(field).astype(np.float64) for field in fields], axis=-1)

    def lists(self, field: str) -> list[np.ndarray | None]:
        """One array per row, None for a null."""
        rows = self._table.column(column(self._component, field)).to_pylist()
        return [None if row is None else np.asarray(row, dtype=np.float64) for row in rows]

    def poses(self, field: str) -> np.ndarray:
        """`[rows, 4, 4]` float64 poses; `UserError` for a row that has not 16 numbers."""
        rows = self.lists(field)
        for row in rows:
            if row is None or row.size != 16:
                raise UserError(f"{self.path}: a row of {field} has not the 16 numbers of a transform; download the file again.")
        return rigid_poses(np.array(rows).reshape(-1, 16))

    def _array(self, name: str) -> np.ndarray:
        values = self._table.column(name)
        if values.null_count:
            raise UserError(f"{self.path}: {values.null_count} rows have no {name}; download the file again.")
        return values.to_numpy()


def camera_calibrations(path: Path) -> dict[int, WaymoCamera]:
    """Cameras by their number."""
    fields = [*_INTRINSIC, "extrinsic.transform", "width", "height", "rolling_shutter_direction"]
    table = ComponentTable(path, "camera_calibration", [CAMERA], fields)
    intrinsics, extrinsics = table.stacked(_INTRINSIC), table.poses("extrinsic.transform")
    widths, heights, directions = (table.numbers(field) for field in ("width", "height", "rolling_shutter_direction"))
    return {
        int(number): calibrated_camera(
            known(CAMERA_NAMES, int(number), path, "camera"),
            intrinsic=intrinsics[row],
            width=int(widths[row]),
            height=int(heights[row]),
            direction=int(directions[row]),
            vehicle_from_waymo_camera=extrinsics[row],
        )
        for row, number in enumerate(table.key(CAMERA))
    }


def lidar_calibrations(path: Path) -> dict[int, LidarCalibration]:
    """LiDARs by their number; `UserError` for a pose that is none."""
    fields = ["extrinsic.transform", "beam_inclination.min", "beam_inclination.max", "beam_inclination.values"]
    table = ComponentTable(path, "lidar_calibration", [LIDAR], fields)
    extrinsics, limits = table.poses(fields[0]), table.stacked(fields[1:3])
    values = table.lists(fields[3])
    calibrations = {}
    for row, number in enumerate(table.key(LIDAR)):
        name = known(LIDAR_NAMES, int(number), path, "LiDAR")
        if fault := rotation_fault(extrinsics[row]):
            raise UserError(f"{path}: the pose of LiDAR {name} has {fault}; correct its calibration.")
        beams = values[row]
        calibrations[int(number)] = LidarCalibration(
            vehicle_from_lidar=extrinsics[row],
            values_rad=None if beams is None or beams.size == 0 else beams,
            limits_rad=(float(limits[row, 0]), float(limits[row, 1])),
        )
    return calibrations


def vehicle_poses(path: Path) -> dict[int, np.ndarray]:
    """`world_from_vehicle` by frame timestamp; `UserError` for a pose that is none."""
    table = ComponentTable(path, "vehicle_pose", [TIMESTAMP], ["world_from_vehicle.transform"])
    poses = table.poses("world_from_vehicle.transform")
    by_time = dict(zip(table.key(TIMESTAMP).tolist(), poses))
    if not by_time:
        raise UserError(f"{path}: holds no vehicle pose; download the file again.")
    for time_us, pose in by_time.items():
        if fault := rotation_fault(pose):
            raise UserError(f"{path}: the vehicle pose at {time_us} us has {fault}; correct the pose.")
    return by_time


def box_labels(path: Path, world_from_vehicle: dict[int, np.ndarray]) -> list[BoxLabel]:
    """All 3D labels in the world; `UserError` for one without size, or at a time that has no vehicle pose."""
    table = ComponentTable(path, "lidar_box", [TIMESTAMP, OBJECT], [*_BOX, "type"])
    boxes, kinds, times, actors = table.stacked(_BOX), table.numbers("type"), table.key(TIMESTAMP), table.key(OBJECT)
    labels = []
    for row in range(len(table)):
        time_us = int(times[row])
        if time_us not in world_from_vehicle:
            raise UserError(f"{path}: has boxes at {time_us} us, where the vehicle has no pose; use files of the same drive.")
        labels.append(
            box_label(
                f"{path}",
                actor_id=str(actors[row]),
                kind=ACTOR_CLASSES.get(int(kinds[row]), "other"),
                time_us=time_us,
                center_size_heading=boxes[row],
                world_from_vehicle=world_from_vehicle[time_us],
            )
        )
    return labels
