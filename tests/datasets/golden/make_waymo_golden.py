"""Makes `waymo_official.npz` and `waymo_schemas.json` with Waymo's own tools, from synthetic numbers.

Runs in an environment of its own (Python 3.11: tensorflow-cpu 2.13.1, pyarrow 16.0.0, dask 2023.3.1, pandas 1.5.3, dacite, scikit-learn;
`pip install --no-deps waymo-open-dataset-tf-2-12-0`), never in the test suite: `python make_waymo_golden.py OUTPUT_FOLDER [CHECK_FOLDER]`.
With a folder that splatmend's writer made, the official tools read that one too and the points they find go to `check.npz` beside it.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from waymo_open_dataset import dataset_pb2, v2
from waymo_open_dataset.utils import frame_utils
from waymo_open_dataset.v2 import column_types
from waymo_open_dataset.v2.perception import base, camera_image, context, lidar
from waymo_open_dataset.v2.perception.utils import lidar_utils

SEGMENT = "synthetic_0_000_1_000"
START_US = 1_600_000_000_000_000
POINTS_PER_LIDAR = 200
TAGS = {
    "camera_image": v2.CameraImageComponent,
    "camera_calibration": v2.CameraCalibrationComponent,
    "vehicle_pose": v2.VehiclePoseComponent,
    "lidar": v2.LiDARComponent,
    "lidar_calibration": v2.LiDARCalibrationComponent,
    "lidar_pose": v2.LiDARPoseComponent,
    "lidar_box": v2.LiDARBoxComponent,
    "stats": v2.StatsComponent,
}


def euler_pose(roll: float, pitch: float, yaw: float, x: float, y: float, z: float) -> np.ndarray:
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    out = np.eye(4)
    out[:3, :3] = about_z @ about_y @ about_x
    out[:3, 3] = (x, y, z)
    return out


def vehicle_vector(t_s: float) -> np.ndarray:
    """Roll, pitch, yaw, x, y, z of the synthetic drive: 12 m/s, turning."""
    return np.array([0.01, -0.02 + 0.05 * t_s, 0.6 + 0.2 * t_s, 40 + 12 * t_s, -25 + 5 * t_s, 3.0])


def transform(matrix: np.ndarray) -> Any:
    return column_types.Transform(transform=matrix.reshape(-1).tolist())


def range_image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Values on coarse grids, so that the file packs well; a fifth of the pixels has no return."""
    image = np.zeros((height, width, 4), np.float32)
    image[..., 0] = rng.integers(64, 64 * 70, (height, width)) / 64
    image[..., 1] = rng.integers(0, 64, (height, width)) / 64
    image[..., 0][rng.random((height, width)) < 0.2] = -1
    return image


def components() -> dict[str, list[Any]]:
    """Two frames of two cameras and five LiDARs as official components."""
    rng = np.random.default_rng(7)
    made: dict[str, list[Any]] = {tag: [] for tag in TAGS}
    for number, direction, yaw in ((1, 2, 0.02), (2, 1, 0.8)):
        key = base.SegmentCameraKey(segment_context_name=SEGMENT, camera_name=number)
        intrinsic = context.Intrinsic(f_u=80.0, f_v=81.0, c_u=31.5, c_v=25.0, k1=0.04, k2=-0.03, p1=0.001, p2=-0.0016, k3=0.0025)
        extrinsic = transform(euler_pose(0.01, 0.02, yaw, 1.5, 0.1 * number, 2.1))
        made["camera_calibration"].append(
            v2.CameraCalibrationComponent(
                key=key, intrinsic=intrinsic, extrinsic=extrinsic, width=64, height=48, rolling_shutter_direction=direction
            )
        )
    top = np.cumsum(rng.uniform(0.01, 0.04, 12)) - 0.31
    extrinsics = {
        1: euler_pose(0.004, -0.003, 2.58, 1.43, 0.0, 2.18),
        2: euler_pose(0.0, 0.02, 0.005, 4.07, 0.0, 0.69),
        3: euler_pose(0.02, 0.0, 1.55, 3.2, 1.0, 0.98),
        4: euler_pose(-0.02, 0.01, -1.6, 3.2, -1.0, 0.98),
        5: euler_pose(0.0, 0.0, 3.11, -1.15, 0.0, 0.46),
    }
    for number, extrinsic_matrix in extrinsics.items():
        values = top.tolist() if number == 1 else None
        limits = (-0.32, 0.05) if number == 1 else (-np.pi / 2, np.pi / 6)
        made["lidar_calibration"].append(
            v2.LiDARCalibrationComponent(
                key=base.SegmentLaserKey(segment_context_name=SEGMENT, laser_name=number),
                extrinsic=transform(extrinsic_matrix),
                beam_inclination=context.BeamInclination(min=limits[0], max=limits[1], values=values),
            )
        )
    for frame in range(2):
        stamp = START_US + frame * 100_000
        frame_key = {"segment_context_name": SEGMENT, "frame_timestamp_micros": stamp}
        middle = vehicle_vector(0.1 * frame + 0.05)
        made["vehicle_pose"].append(
            v2.VehiclePoseComponent(key=base.FrameKey(**frame_key), world_from_vehicle=transform(euler_pose(*middle)))
        )
        made["stats"].append(
            v2.StatsComponent(key=base.FrameKey(**frame_key), time_of_day="Day", location="location_synthetic", weather="sunny")
        )
        for number in (1, 2):
            picture = tf.io.encode_jpeg(rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)).numpy()
            pose_s = 0.1 * frame + 0.05
            made["camera_image"].append(
                v2.CameraImageComponent(
                    key=base.CameraKey(**frame_key, camera_name=number),
                    image=picture,
                    pose=transform(euler_pose(*vehicle_vector(pose_s))),
                    velocity=camera_image.Velocity(
                        linear_velocity=column_types.Vec3s(x=12.0, y=5.0, z=0.0),
                        angular_velocity=column_types.Vec3d(x=0.001, y=0.05, z=0.2),
                    ),
                    pose_timestamp=START_US * 1e-6 + pose_s,
                    rolling_shutter_params=camera_image.RollingShutterParams(
                        shutter=0.004,
                        camera_trigger_time=START_US * 1e-6 + pose_s - 0.025,
                        camera_readout_done_time=START_US * 1e-6 + pose_s + 0.021,
                    ),
                )
            )
        for number in extrinsics:
            height, width = (12, 100) if number == 1 else (8, 40)
            image = range_image(rng, height, width)
            second = np.where(rng.random((height, width, 1)) < 0.1, image, np.float32(-1))
            if number == 1:
                columns = np.stack([vehicle_vector(0.1 * frame + 0.1 * (column + 0.5) / width) for column in range(width)])
                pixel = np.broadcast_to(columns.astype(np.float32), (height, width, 6))
                made["lidar_pose"].append(
                    v2.LiDARPoseComponent(
                        key=base.LaserKey(**frame_key, laser_name=number),
                        range_image_return1=lidar.PoseRangeImage(values=pixel.reshape(-1).tolist(), shape=list(pixel.shape)),
                    )
                )
            made["lidar"].append(
                v2.LiDARComponent(
                    key=base.LaserKey(**frame_key, laser_name=number),
                    range_image_return1=lidar.RangeImage(values=image.reshape(-1).tolist(), shape=list(image.shape)),
                    range_image_return2=lidar.RangeImage(values=second.reshape(-1).tolist(), shape=list(second.shape)),
                )
            )
        for name, kind, x, heading in (("car", 1, 12.0, 0.3), ("walker", 2, 7.0, -1.2), ("post", 3, 20.0, 0.0)):
            made["lidar_box"].append(
                v2.LiDARBoxComponent(
                    key=base.LaserLabelKey(**frame_key, laser_object_id=name),
                    box=column_types.Box3d(
                        center=column_types.Vec3d(x=x - frame, y=2.0 - kind, z=0.9),
                        size=column_types.Vec3d(x=4.5 / kind, y=1.9 / kind, z=1.7),
                        heading=heading,
                    ),
                    type=kind,
                    num_lidar_points_in_box=30,
                    num_top_lidar_points_in_box=20,
                    speed=column_types.Vec3d(x=1.0, y=0.5, z=0.0),
                    acceleration=column_types.Vec3d(x=0.0, y=0.0, z=0.0),
                )
            )
    return made


def table(tag: str, rows: list[Any]) -> pa.Table:
    schema = TAGS[tag].schema()
    flat = [row.to_flatten_dict() for row in rows]
    return pa.Table.from_arrays([pa.array([row[field.name] for row in flat], field.type) for field in schema], schema=schema)


def official_points(folder: Path) -> dict[str, np.ndarray]:
    """Points of the first frame in the vehicle's frame, by LiDAR and return, from Parquet files in the published layout."""
    rows = {
        tag: pq.read_table(next((folder / tag).glob("*.parquet"))).to_pylist()
        for tag in ("vehicle_pose", "lidar", "lidar_calibration", "lidar_pose")
    }
    frame_pose = v2.VehiclePoseComponent.from_dict(rows["vehicle_pose"][0])
    calibrations = {row["key.laser_name"]: v2.LiDARCalibrationComponent.from_dict(row) for row in rows["lidar_calibration"]}
    stamp = rows["vehicle_pose"][0]["key.frame_timestamp_micros"]
    poses = {
        row["key.laser_name"]: v2.LiDARPoseComponent.from_dict(row)
        for row in rows["lidar_pose"]
        if row["key.frame_timestamp_micros"] == stamp
    }
    found = {}
    for row in rows["lidar"]:
        if row["key.frame_timestamp_micros"] != stamp:
            continue
        number = row["key.laser_name"]
        pixel = poses[number].range_image_return1 if number in poses else None
        for index, image in enumerate(v2.LiDARComponent.from_dict(row).range_image_returns):
            if image.values is not None:
                found[f"{number}_{index}"] = lidar_utils.convert_range_image_to_point_cloud(
                    image, calibrations[number], pixel, frame_pose if pixel is not None else None
                ).numpy()
    return found


def v1_frame(made: dict[str, list[Any]]) -> Any:
    """The first frame as a v1 message."""
    frame = dataset_pb2.Frame()
    frame.context.name = SEGMENT
    frame.timestamp_micros = START_US
    frame.pose.transform.extend(made["vehicle_pose"][0].world_from_vehicle.transform)
    for item in made["camera_calibration"]:
        message = frame.context.camera_calibrations.add()
        message.name, message.width, message.height = item.key.camera_name, item.width, item.height
        message.rolling_shutter_direction = item.rolling_shutter_direction
        message.intrinsic.extend(getattr(item.intrinsic, name) for name in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3"))
        message.extrinsic.transform.extend(item.extrinsic.transform)
    for item in made["lidar_calibration"]:
        message = frame.context.laser_calibrations.add()
        message.name = item.key.laser_name
        message.beam_inclination_min, message.beam_inclination_max = item.beam_inclination.min, item.beam_inclination.max
        message.beam_inclinations.extend(item.beam_inclination.values or [])
        message.extrinsic.transform.extend(item.extrinsic.transform)
    for item in made["camera_image"][:2]:
        message = frame.images.add()
        message.name, message.image, message.pose_timestamp = item.key.camera_name, item.image, item.pose_timestamp
        message.pose.transform.extend(item.pose.transform)
        linear, angular = item.velocity.linear_velocity, item.velocity.angular_velocity
        message.velocity.v_x, message.velocity.v_y, message.velocity.v_z = linear.x, linear.y, linear.z
        message.velocity.w_x, message.velocity.w_y, message.velocity.w_z = angular.x, angular.y, angular.z
        message.shutter = item.rolling_shutter_params.shutter
        message.camera_trigger_time = item.rolling_shutter_params.camera_trigger_time
        message.camera_readout_done_time = item.rolling_shutter_params.camera_readout_done_time
    for item in made["lidar"][:5]:
        message = frame.lasers.add()
        message.name = item.key.laser_name
        for target, image in zip((message.ri_return1, message.ri_return2), item.range_image_returns):
            if image is not None:
                target.range_image_compressed = packed(dataset_pb2.MatrixFloat, image.values, image.shape)
                target.camera_projection_compressed = packed(
                    dataset_pb2.MatrixInt32, [0] * (len(image.values) // 4 * 6), [*image.shape[:2], 6]
                )
    pixel = made["lidar_pose"][0].range_image_return1
    frame.lasers[0].ri_return1.range_image_pose_compressed = packed(dataset_pb2.MatrixFloat, pixel.values, pixel.shape)
    for item in made["lidar_box"][:3]:
        message = frame.laser_labels.add()
        message.id, message.type = item.key.laser_object_id, item.type
        message.box.center_x, message.box.center_y, message.box.center_z = item.box.center.x, item.box.center.y, item.box.center.z
        message.box.length, message.box.width, message.box.height = item.box.size.x, item.box.size.y, item.box.size.z
        message.box.heading = item.box.heading
    return frame


def packed(kind: Any, values: list[float], shape: list[int]) -> bytes:
    matrix = kind()
    matrix.data.extend(values)
    matrix.shape.dims.extend(shape)
    return zlib.compress(matrix.SerializeToString())


def sampled(points: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """At most 200 points of each LiDAR and return, with their numbers in row-major order and the full count."""
    rng = np.random.default_rng(11)
    out = {}
    for key, xyz in points.items():
        chosen = np.sort(rng.choice(len(xyz), min(POINTS_PER_LIDAR, len(xyz)), replace=False))
        out[f"{prefix}_{key}_index"], out[f"{prefix}_{key}_xyz_vehicle_m"] = chosen.astype(np.int32), xyz[chosen]
        out[f"{prefix}_{key}_count"] = np.array(len(xyz))
    return out


def main(output: Path, check: Path | None) -> None:
    made = components()
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for tag, rows in made.items():
            (folder / tag).mkdir()
            pq.write_table(table(tag, rows), folder / tag / f"{SEGMENT}.parquet", compression="zstd")
            arrays[f"parquet_{tag}"] = np.frombuffer((folder / tag / f"{SEGMENT}.parquet").read_bytes(), np.uint8)
        arrays.update(sampled(official_points(folder), "v2"))
        frame = v1_frame(made)
        with tf.io.TFRecordWriter(str(folder / "v1.tfrecord")) as writer:
            writer.write(frame.SerializeToString())
        arrays["tfrecord"] = np.frombuffer((folder / "v1.tfrecord").read_bytes(), np.uint8)
    ranges, projections, _, top_pose = frame_utils.parse_range_image_and_camera_projection(frame)
    points, _ = frame_utils.convert_range_image_to_point_cloud(frame, ranges, projections, top_pose)
    arrays.update(sampled({f"{number}_0": xyz for number, xyz in zip(range(1, 6), points)}, "v1"))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    (output / "waymo_official.npz").write_bytes(buffer.getvalue())
    schemas = {tag: [[field.name, str(field.type)] for field in kind.schema()] for tag, kind in TAGS.items()}
    comment = (
        "Made by make_waymo_golden.py from synthetic numbers with waymo-open-dataset-tf-2-12-0 1.6.7, "
        f"tensorflow {tf.__version__}, pyarrow {pa.__version__}, numpy {np.__version__}: the components' schema()."
    )
    (output / "waymo_schemas.json").write_text(json.dumps({"comment": comment, "schemas": schemas}, indent=1) + "\n")
    if check is not None:
        np.savez(check / "check.npz", **official_points(check))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
