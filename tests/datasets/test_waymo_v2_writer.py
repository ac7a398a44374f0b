"""The writer against Waymo's own schemas and files, and against the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import WAYMO_FROM_OPENCV, pose, yaw_pose
from splatmend.datasets.log import Camera
from splatmend.datasets.readers import waymo_v2
from splatmend.datasets.waymo_layout import ACTOR_CLASSES, CAMERA_NAMES, LIDAR_NAMES, SCHEMAS, SHUTTER_DIRECTIONS
from splatmend.datasets.waymo_range_image import points_from_range_image, uniform_inclinations, vectors_from_poses
from splatmend.datasets.waymo_v2_writer import WaymoBox, WaymoV2Writer

SEGMENT = "synthetic_0_000_1_000"
START_US = 1_700_000_000_123_456
CAMERA = Camera(
    name="FRONT", width=32, height=24, focal_px=(40.0, 41.0), principal_px=(16.5, 11.5), shutter="left_to_right", readout_us=40_000
)


def rows_of(folder: Path, component: str) -> list[dict[str, Any]]:
    """A component's rows with short column names."""
    table = pq.read_table(folder / component / f"{SEGMENT}.parquet")
    return [{name.split("].")[-1]: value for name, value in row.items()} for row in table.to_pylist()]


def matrix(row: dict[str, Any], name: str) -> np.ndarray:
    return np.array(row[f"{name}.transform"]).reshape(4, 4)


def image_of(row: dict[str, Any], name: str) -> np.ndarray:
    return np.array(row[f"{name}.values"], np.float32).reshape(row[f"{name}.shape"])


def rewrite(official: Path, folder: Path) -> None:
    """The official drive once more, through our writer's own calls."""
    with WaymoV2Writer(folder, SEGMENT) as writer:
        for row in rows_of(official, "camera_calibration"):
            values = [row[f"intrinsic.{name}"] for name in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")]
            camera = Camera(
                name=CAMERA_NAMES[row["key.camera_name"]],
                width=row["width"],
                height=row["height"],
                focal_px=(values[0], values[1]),
                principal_px=(values[2], values[3]),
                distortion_model="opencv",
                distortion=tuple(values[4:]),
                shutter=SHUTTER_DIRECTIONS[row["rolling_shutter_direction"]],
            )
            writer.camera_calibration(camera.name, camera, matrix(row, "extrinsic") @ WAYMO_FROM_OPENCV)
        for row in rows_of(official, "lidar_calibration"):
            beams = row["beam_inclination.values"]
            limits = row["beam_inclination.min"], row["beam_inclination.max"]
            writer.lidar_calibration(
                LIDAR_NAMES[row["key.laser_name"]], np.array(beams or uniform_inclinations(*limits, 8)), matrix(row, "extrinsic")
            )
        for row in rows_of(official, "vehicle_pose"):
            writer.vehicle_pose(row["key.frame_timestamp_micros"], matrix(row, "world_from_vehicle"))
        for row in rows_of(official, "stats"):
            words = {name: row[name] for name in ("time_of_day", "location", "weather")}
            writer.stats(row["key.frame_timestamp_micros"], **words)
        for row in rows_of(official, "camera_image"):
            shutter, trigger, done = (
                row[f"rolling_shutter_params.{name}"] for name in ("shutter", "camera_trigger_time", "camera_readout_done_time")
            )
            writer.camera_image(
                row["key.frame_timestamp_micros"],
                CAMERA_NAMES[row["key.camera_name"]],
                row["image"],
                start_us=round((trigger + shutter / 2) * 1e6),
                end_us=round((done - shutter / 2) * 1e6),
                world_from_vehicle=matrix(row, "pose"),
                pose_us=round(row["pose_timestamp"] * 1e6),
                linear_velocity_m_s=np.array([row[f"velocity.linear_velocity.{axis}"] for axis in "xyz"]),
                angular_velocity_rad_s=np.array([row[f"velocity.angular_velocity.{axis}"] for axis in "xyz"]),
                exposure_us=round(shutter * 1e6),
            )
        pixel_poses = {(row["key.frame_timestamp_micros"], row["key.laser_name"]): row for row in rows_of(official, "lidar_pose")}
        for row in rows_of(official, "lidar"):
            key = (row["key.frame_timestamp_micros"], row["key.laser_name"])
            pixel_pose = image_of(pixel_poses[key], "range_image_return1") if key in pixel_poses else None
            first, second = image_of(row, "range_image_return1"), image_of(row, "range_image_return2")
            writer.lidar(key[0], LIDAR_NAMES[key[1]], first, pixel_pose, second)
        for row in rows_of(official, "lidar_box"):
            heading = row["box.heading"]
            writer.boxes(
                row["key.frame_timestamp_micros"],
                [
                    WaymoBox(
                        actor_id=row["key.laser_object_id"],
                        actor_class=ACTOR_CLASSES[row["type"]],
                        size_m=tuple(row[f"box.size.{axis}"] for axis in "xyz"),
                        vehicle_from_box=yaw_pose(heading, np.array([row[f"box.center.{axis}"] for axis in "xyz"])),
                        speed_m_s=tuple(row[f"speed.{axis}"] for axis in "xyz"),
                        acceleration_m_s2=tuple(row[f"acceleration.{axis}"] for axis in "xyz"),
                        lidar_points=row["num_lidar_points_in_box"],
                        top_lidar_points=row["num_top_lidar_points_in_box"],
                    )
                ],
            )


def test_schemas_are_the_official_ones() -> None:
    golden = json.loads((Path(__file__).parent / "golden" / "waymo_schemas.json").read_text())["schemas"]
    assert {name: [[field.name, str(field.type)] for field in schema] for name, schema in SCHEMAS.items()} == golden


def test_the_official_drive_written_again_is_the_same(official_waymo: Path, tmp_path: Path) -> None:
    rewrite(official_waymo, tmp_path / "again")
    for component, schema in SCHEMAS.items():
        assert pq.read_schema(tmp_path / "again" / component / f"{SEGMENT}.parquet").equals(schema, check_metadata=False)
        official, ours = rows_of(official_waymo, component), rows_of(tmp_path / "again", component)
        assert len(official) == len(ours)
        for expected, found in zip(official, ours):
            for name, value in expected.items():
                if name.startswith("beam_inclination") and expected["key.laser_name"] != 1:
                    continue  # Official equal steps give limits alone; ours also lists the beams.
                if name in ("beam_inclination.min", "beam_inclination.max"):
                    continue  # Of listed beams the limits are free: the reader and the official tool take the list.
                if isinstance(value, float | list):
                    np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-9 if "time" not in name else 5e-7, err_msg=name)
                else:
                    assert found[name] == value, name


def test_a_written_drive_is_read_back(tmp_path: Path) -> None:
    """Cameras with OpenCV axes, a global and a rolling shutter, a moving TOP LiDAR and boxes survive the round trip."""
    rng = np.random.default_rng(3)
    vehicle_from_camera = pose(Rotation.from_euler("xyz", [-1.5, 0.02, -1.6]).as_matrix(), np.array([1.5, 0.1, 2.0]))
    vehicle_from_lidar = yaw_pose(2.6, np.array([1.4, 0.0, 2.2]))
    world_from_vehicle = pose(Rotation.from_euler("ZYX", [0.7, -0.03, 0.01]).as_matrix(), np.array([300.0, -200.0, 12.0]))
    beams = np.sort(rng.uniform(-0.3, 0.04, 6))
    range_image = np.where(rng.random((6, 20, 1)) < 0.7, rng.uniform(2, 60, (6, 20, 4)), -1).astype(np.float32)
    picture = rng.integers(0, 255, (24, 32, 3), np.uint8)
    moving = np.repeat(world_from_vehicle[None], 20, axis=0)
    moving[:, 0, 3] += np.linspace(-0.5, 0.5, 20)
    pixel_pose = np.broadcast_to(vectors_from_poses(moving), (6, 20, 6))
    side = Camera(name="SIDE_LEFT", width=32, height=24, focal_px=(40.0, 40.0), principal_px=(16.0, 12.0))
    with WaymoV2Writer(tmp_path, "street") as writer:
        writer.camera_calibration("FRONT", CAMERA, vehicle_from_camera)
        writer.camera_calibration("SIDE_LEFT", side, vehicle_from_camera)
        writer.lidar_calibration("TOP", beams, vehicle_from_lidar)
        for frame in range(3):
            time_us = START_US + 100_000 * frame
            writer.vehicle_pose(time_us, world_from_vehicle)
            for name, end_us in (("FRONT", time_us + 40_001), ("SIDE_LEFT", time_us + 1)):
                writer.camera_image(
                    time_us,
                    name,
                    cv2.imencode(".png", picture[..., ::-1])[1].tobytes(),
                    start_us=time_us + 1,
                    end_us=end_us,
                    world_from_vehicle=world_from_vehicle,
                    pose_us=time_us + 20_001,
                    linear_velocity_m_s=np.array([8.0, 0.0, 0.0]),
                    angular_velocity_rad_s=np.zeros(3),
                )
            writer.lidar(time_us, "TOP", range_image, pixel_pose)
            box = WaymoBox(actor_id="cat", actor_class="other", size_m=(0.5, 0.2, 0.3), vehicle_from_box=yaw_pose(-3.0, np.ones(3)))
            writer.boxes(time_us, [box])
    assert pq.ParquetFile(tmp_path / "lidar" / "street.parquet").metadata.num_row_groups == 3
    log = waymo_v2.read(tmp_path).validate()
    assert log.cameras == {"FRONT": CAMERA, "SIDE_LEFT": side}
    front = log.frames_of("FRONT")[1]
    assert (front.start_us, front.end_us) == (START_US + 100_001, START_US + 140_001)
    world_from_camera = world_from_vehicle @ vehicle_from_camera
    # float64 seconds since 1970 resolve 0.24 us: 2 um at this speed.
    np.testing.assert_allclose(front.world_from_camera, world_from_camera, atol=1e-5)
    np.testing.assert_allclose(front.world_from_camera_end[0, 3] - world_from_camera[0, 3], 8.0 * 0.02, atol=1e-5)
    np.testing.assert_array_equal(front.read_image(), picture)
    assert log.frames_of("SIDE_LEFT")[0].start_us == log.frames_of("SIDE_LEFT")[0].end_us == START_US + 1
    expected = points_from_range_image(
        range_image, beams, vehicle_from_lidar, world_from_vehicle, pixel_pose=pixel_pose, sweep_start_us=START_US + 200_000
    )
    points = log.sweeps[2].read_points()
    # Pixel poses are stored as float32, as Waymo does: 15 um at 300 m, and as much again from the angles.
    np.testing.assert_allclose(points.xyz_world_m, expected.xyz_world_m, atol=1e-4)
    np.testing.assert_array_equal(points.time_us, expected.time_us)
    np.testing.assert_allclose(points.intensity, expected.intensity)
    (cat,) = log.actors
    assert (cat.actor_class, cat.size_m) == ("other", (0.5, 0.2, 0.3))
    np.testing.assert_allclose(cat.world_from_actor(START_US), world_from_vehicle @ box.vehicle_from_box, atol=1e-12)


def test_a_drive_is_not_written_over(tmp_path: Path) -> None:
    with WaymoV2Writer(tmp_path, "street") as writer:
        writer.vehicle_pose(START_US, np.eye(4))
    with pytest.raises(FileExistsError, match=r"street\.parquet exists already"):
        WaymoV2Writer(tmp_path, "street")
    with WaymoV2Writer(tmp_path, "second") as writer:
        writer.vehicle_pose(START_US, np.eye(4))
    assert waymo_v2.recognises(tmp_path)


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    fisheye = Camera(
        name="FRONT",
        width=32,
        height=24,
        focal_px=(40.0, 40.0),
        principal_px=(16.0, 12.0),
        distortion_model="opencv_fisheye",
        distortion=(0.0,) * 4,
    )
    with WaymoV2Writer(tmp_path, "street") as writer:
        with pytest.raises(ValueError, match="no fisheye"):
            writer.camera_calibration("FRONT", fisheye, np.eye(4))
        with pytest.raises(ValueError, match="'BACK' is none of FRONT"):
            writer.camera_calibration("BACK", CAMERA, np.eye(4))
        with pytest.raises(ValueError, match="rises"):
            writer.lidar_calibration("TOP", np.array([0.1, -0.1]), np.eye(4))
        with pytest.raises(ValueError, match="calibration first"):
            writer.lidar(START_US, "TOP", np.zeros((2, 8, 4)), None)
        writer.lidar_calibration("TOP", np.array([-0.1, 0.1]), np.eye(4))
        with pytest.raises(ValueError, match=r"shape \(3, 8, 4\) where \(2, 8, 4\)"):
            writer.lidar(START_US, "TOP", np.zeros((3, 8, 4)), None)
        with pytest.raises(ValueError, match=r"shape \(2, 7, 6\) where \(2, 8, 6\)"):
            writer.lidar(START_US, "TOP", np.zeros((2, 8, 4)), np.zeros((2, 7, 6)))
