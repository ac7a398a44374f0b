"""KITTI raw: the real sample's counts and geometry, and small drives written here for motion compensation, GPS, boxes and faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from splatmend.datasets import SceneLog, UserError, open_log
from splatmend.datasets.geometry import PoseTrack, inverse, pose, project, transform, yaw_pose
from splatmend.datasets.readers.kitti_shared import camera_from_projection
from splatmend.datasets.readers.velodyne import azimuth_times_us

WIDTH, HEIGHT = 96, 64
PROJECTION = np.array([[80.0, 0, 47.5, 8.0], [0, 80.0, 31.5, 0.4], [0, 0, 1, 0.01]])
VELODYNE_TO_CAMERA = pose(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.array([0.0, -0.08, -0.27]))


def row(values: np.ndarray) -> str:
    return " ".join(f"{value:.12e}" for value in np.asarray(values).ravel())


def write_drive(folder: Path, poses: Sequence[np.ndarray], *, images: Sequence[int] | None = None, sweeps: bool = False) -> Path:
    """A drive of `len(poses)` frames (world_from_velodyne); pictures are random, sweeps three points each."""
    drive = folder / "2011_09_26" / "2011_09_26_drive_0001_sync"
    (drive / "image_02" / "data").mkdir(parents=True)
    (drive.parent / "calib_cam_to_cam.txt").write_text(
        f"calib_time: 09-Jan-2012 13:57:47\nS_rect_02: {WIDTH} {HEIGHT}\nR_rect_00: {row(np.eye(3))}\nP_rect_02: {row(PROJECTION)}\n"
    )
    (drive.parent / "calib_velo_to_cam.txt").write_text(f"R: {row(VELODYNE_TO_CAMERA[:3, :3])}\nT: {row(VELODYNE_TO_CAMERA[:3, 3])}\n")
    (drive / "poses_velodyne.txt").write_text("".join(row(p[:3]) + "\n" for p in poses))
    random = np.random.default_rng(0)
    for index in range(len(poses)) if images is None else images:
        picture = random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        cv2.imwrite(str(drive / "image_02" / "data" / f"{index:010d}.png"), picture)
    if sweeps:
        for index in range(len(poses)):
            write_sweep(drive, index, np.array([[10.0, 0, 0], [0, 5, 1], [-4, -2, 0]]))
    return drive


def write_sweep(drive: Path, index: int, xyz: np.ndarray) -> Path:
    path = drive / "velodyne_points" / "data" / f"{index:010d}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.concatenate([xyz, np.full((len(xyz), 1), 0.5)], axis=1).astype("<f4").tofile(path)
    return path


def straight(count: int, step_m: float = 1.0) -> list[np.ndarray]:
    return [pose(np.eye(3), np.array([step_m * index, 0, 0])) for index in range(count)]


@pytest.fixture(scope="module")
def sample(shared_data: Path) -> SceneLog:
    return open_log(shared_data / "kitti_raw")


def test_sample_counts(sample: SceneLog) -> None:
    assert len(sample.frames) == 48
    assert len(sample.sweeps) == 48
    assert list(sample.cameras) == ["camera_02"]
    assert (sample.cameras["camera_02"].width, sample.cameras["camera_02"].height) == (1242, 375)
    assert sample.metric
    assert any("0.1 s" in note for note in sample.notes)
    assert sample.frames[0].read_image().shape == (375, 1242, 3)
    path_m = np.linalg.norm(np.diff(sample.ego.world_from_body[:, :3, 3], axis=0), axis=1).sum()
    assert path_m == pytest.approx(7.26, abs=0.05)


def test_sample_projection_is_the_formula_of_the_development_kit(sample: SceneLog, shared_data: Path) -> None:
    """x = P_rect R_rect Tr X, half a pixel apart because KITTI counts pixel centres from 0."""
    folder = shared_data / "kitti_raw" / "2011_09_26"
    lines = [line for name in ("cam_to_cam", "velo_to_cam") for line in (folder / f"calib_{name}.txt").read_text().splitlines()]
    entries = dict(line.split(":", 1) for line in lines if ":" in line)
    numbers = {key: np.array(entries[key].split(), dtype=float) for key in ("P_rect_02", "R_rect_00", "R", "T")}
    xyz = np.fromfile(next(folder.glob("*/velodyne_points/data/0000000000.bin")), "<f4").reshape(-1, 4)[:, :3].astype(float)
    rectified = numbers["R_rect_00"].reshape(3, 3) @ (numbers["R"].reshape(3, 3) @ xyz.T + numbers["T"][:, None])
    image = numbers["P_rect_02"].reshape(3, 4) @ np.vstack([rectified, np.ones(len(xyz))])
    frame, camera = sample.frames[0], sample.cameras["camera_02"]
    world = transform(sample.ego.world_from_body[0], xyz)
    pixels, inside = project(camera, transform(inverse(frame.world_from_camera), world))
    assert inside.mean() > 0.25
    np.testing.assert_allclose(pixels[inside], (image[:2] / image[2]).T[inside] + 0.5, atol=2e-3)


def test_sample_camera_looks_forward_and_world_is_upright(sample: SceneLog) -> None:
    for frame in sample.frames:
        assert frame.world_from_camera[:3, 2] @ [1, 0, 0] > 0.99
        assert frame.world_from_camera[:3, 1] @ [0, 0, -1] > 0.99
    heights = sample.sweeps[10].read_points().xyz_world_m[:, 2]
    assert -2.2 < np.percentile(heights, 5) < -1.4  # the scanner sits 1.73 m above the road


def test_every_point_is_placed_at_its_own_time(tmp_path: Path) -> None:
    """A fixed wall is shot from a scanner that drives 20 m/s and turns: each point at the time its azimuth tells."""
    step_us = 100_000
    poses = [yaw_pose(0.05 * index, np.array([2.0 * index, 0.1 * index, 0.0])) for index in range(4)]
    drive = write_drive(tmp_path, poses)
    track = PoseTrack(times_us=np.arange(4, dtype=np.int64) * step_us, world_from_body=np.stack(poses)).extended(step_us)
    random = np.random.default_rng(1)
    wall = np.concatenate([random.uniform((-20, -15, -1), (20, -8, 3), (200, 3)), random.uniform((-20, 8, -1), (20, 15, 3), (200, 3))])
    for index in range(4):
        times_us = np.full(len(wall), index * step_us)
        for _ in range(60):  # the time at which the beam meets the point
            times_us = azimuth_times_us(transform(inverse(track.at(times_us)), wall), index * step_us)
        write_sweep(drive, index, transform(inverse(track.at(times_us)), wall))
    log = open_log(drive)
    for index, sweep in enumerate(log.sweeps):
        points = sweep.read_points()
        assert sweep.timestamp_us == index * step_us - 50_000
        assert points.time_us.min() >= sweep.timestamp_us
        assert points.time_us.max() <= sweep.timestamp_us + 100_000
        np.testing.assert_allclose(points.xyz_world_m, wall, atol=1e-3)
        np.testing.assert_allclose(points.origin_world_m, track.at(points.time_us)[:, :3, 3], atol=1e-9)
    # Without compensation the same points would lie up to half a turn's motion off.
    raw = np.fromfile(drive / "velodyne_points" / "data" / "0000000001.bin", "<f4").reshape(-1, 4)[:, :3]
    assert np.abs(transform(poses[1], raw.astype(float)) - wall).max() > 0.5


def test_scanner_turns_counter_clockwise() -> None:
    forward, left, right = np.array([[5.0, 0, 0]]), np.array([[0.0, 5, 0]]), np.array([[0.0, -5, 0]])
    assert [int(azimuth_times_us(xyz, 1_000_000)[0]) for xyz in (right, forward, left)] == [975_000, 1_000_000, 1_025_000]


def test_timestamps_are_kept_to_the_microsecond(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(3), sweeps=True)
    times = ["2011-09-26 13:02:25.594360375", "2011-09-26 13:02:25.697977344", "2011-09-26 13:02:25.801594125"]
    (drive / "image_02" / "timestamps.txt").write_text("\n".join(times) + "\n")
    log = open_log(drive)
    assert [frame.start_us for frame in log.frames] == [1_317_042_145_594_360, 1_317_042_145_697_977, 1_317_042_145_801_594]
    assert log.notes == ()


def test_gps_packets_give_a_path_in_metres(tmp_path: Path) -> None:
    """10 m north-east, seen by an IMU that looks along its way (yaw counts from east), with the scanner 0.8 m ahead of it."""
    drive = write_drive(tmp_path, straight(3))
    (drive / "poses_velodyne.txt").unlink()
    (drive.parent / "calib_imu_to_velo.txt").write_text(f"R: {row(np.eye(3))}\nT: -0.8 0 0\n")
    (drive / "oxts" / "data").mkdir(parents=True)
    latitude, longitude = 49.0, 8.4
    metres_per_degree = np.pi / 180 * 6378137.0
    for index in range(3):
        east = north = 5.0 * index / np.sqrt(2)
        packet = [
            latitude + north / metres_per_degree,
            longitude + east / (metres_per_degree * np.cos(np.radians(latitude))),
            100.0 + 0.1 * index,
            0.0,
            0.0,
            np.pi / 4,
        ]
        (drive / "oxts" / "data" / f"{index:010d}.txt").write_text(" ".join(f"{value:.12f}" for value in [*packet, *[0.0] * 24]))
    poses = open_log(drive).ego.world_from_body
    ahead = 0.8 / np.sqrt(2)
    np.testing.assert_allclose(poses[0, :3, 3], [ahead, ahead, 0], atol=1e-6)
    np.testing.assert_allclose(poses[2, :3, 3] - poses[0, :3, 3], [10 / np.sqrt(2), 10 / np.sqrt(2), 0.2], atol=1e-3)
    np.testing.assert_allclose(poses[1, :3, 0], [np.sqrt(0.5), np.sqrt(0.5), 0], atol=1e-6)


def test_packets_and_time_stamps_give_the_sun(tmp_path: Path) -> None:
    """At 13:17 in summer time it stands in the south of Karlsruhe, 90 - 49 degrees high less the season's tilt."""
    drive = write_drive(tmp_path, straight(3))
    assert open_log(drive).sun_direction_world is None
    (drive.parent / "calib_imu_to_velo.txt").write_text(f"R: {row(np.eye(3))}\nT: 0 0 0\n")
    (drive / "oxts" / "data").mkdir(parents=True)
    for index in range(3):
        packet = [49.0, 8.4, 100.0, 0.0, 0.0, 0.0, *[0.0] * 24]
        (drive / "oxts" / "data" / f"{index:010d}.txt").write_text(" ".join(map(str, packet)))
    hours = {"noon": "13:17", "night": "02:00"}
    found = {}
    for name, hour in hours.items():
        for stream in ("image_02", "oxts"):
            (drive / stream / "timestamps.txt").write_text("".join(f"2011-09-26 {hour}:25.{index}00000000\n" for index in range(3)))
        found[name] = open_log(drive).sun_direction_world
    assert found["night"] is None
    assert found["noon"] is not None
    east, north, up = found["noon"]
    assert abs(np.degrees(np.arctan2(east, -north))) < 1.0
    assert np.degrees(np.arcsin(up)) == pytest.approx(90 - 49.0 - 1.3, abs=0.3)


def test_tracklets_become_actors(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(4))
    boxes = "".join(f"<item><tx>{20 - index}</tx><ty>3</ty><tz>-1.7</tz><rx>0</rx><ry>0</ry><rz>1.5</rz></item>" for index in range(2))
    (drive / "tracklet_labels.xml").write_text(
        "<?xml version='1.0'?><!DOCTYPE boost_serialization><boost_serialization><tracklets><count>1</count><item_version>1</item_version>"
        "<item><objectType>Van</objectType><h>2</h><w>1.8</w><l>4.5</l><first_frame>1</first_frame>"
        f"<poses><count>2</count><item_version>2</item_version>{boxes}</poses><finished>1</finished></item></tracklets></boost_serialization>"
    )
    (actor,) = open_log(drive).actors
    assert actor.actor_class == "vehicle"
    assert actor.size_m == (4.5, 1.8, 2.0)
    assert actor.track.times_us.tolist() == [100_000, 200_000]
    centre = actor.world_from_actor(100_000)
    np.testing.assert_allclose(centre[:3, 3], [21.0, 3.0, -0.7], atol=1e-9)  # scanner at 1 m; bottom centre plus half the height
    np.testing.assert_allclose(centre[:3, 0], [np.cos(1.5), np.sin(1.5), 0], atol=1e-9)


def test_missing_pictures_and_empty_sweeps_are_left_out_and_counted(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(5), images=[0, 2, 4], sweeps=True)
    (drive / "velodyne_points" / "data" / "0000000003.bin").write_bytes(b"")
    log = open_log(tmp_path / "2011_09_26")
    assert [frame.start_us for frame in log.frames] == [0, 200_000, 400_000]
    assert len(log.sweeps) == 4
    assert any(note.startswith("2 of 5 pictures") for note in log.notes)
    assert any(note.startswith("1 LiDAR sweep") for note in log.notes)


def fault(tmp_path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match):
        open_log(tmp_path)


def test_one_picture_is_too_few(tmp_path: Path) -> None:
    write_drive(tmp_path, straight(3), images=[1])
    fault(tmp_path, "only 1 readable frame")


def test_poses_of_too_few_frames_are_named(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(3))
    poses = drive / "poses_velodyne.txt"
    poses.write_text(poses.read_text().splitlines()[0])
    fault(tmp_path, r"poses_velodyne\.txt: it covers 1 of 3 pictures")


def test_gps_packets_of_other_frames_are_named(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(3))
    (drive.parent / "calib_imu_to_velo.txt").write_text(f"R: {row(np.eye(3))}\nT: -0.8 0 0\n")
    first = drive / "oxts" / "data" / "0000000000.txt"
    first.parent.mkdir(parents=True)
    first.write_text("49 8.4 100 0 0 0")
    fault(tmp_path, r"oxts/data: it covers 1 of 3 pictures")
    first.rename(first.with_name("0000000007.txt"))
    fault(tmp_path, r"oxts/data: no GPS packet is of one of the drive's frames")


def test_truncated_sweep_names_the_file(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(3), sweeps=True)
    path = drive / "velodyne_points" / "data" / "0000000002.bin"
    path.write_bytes(path.read_bytes()[:-5])
    fault(tmp_path, r"0000000002\.bin.*cut short")


def test_truncated_pictures_name_the_file_when_read(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(3))
    folder = drive / "image_02" / "data"
    png = folder / "0000000001.png"
    jpg = folder / "0000000002.jpg"
    cv2.imwrite(str(jpg), np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    (folder / "0000000002.png").unlink()
    for path in (png, jpg):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    log = open_log(drive)
    log.frames[0].read_image()
    for index, path in ((1, png), (2, jpg)):
        with pytest.raises(UserError, match=f"{path.name}.*cut short"):
            log.frames[index].read_image()


@pytest.mark.parametrize(("bad", "match"), [(np.full((3, 4), np.nan), "not finite"), (2 * np.eye(3, 4), "not orthonormal")])
def test_wrong_pose_names_the_line(tmp_path: Path, bad: np.ndarray, match: str) -> None:
    write_drive(tmp_path, [*straight(2), bad])
    fault(tmp_path, rf"poses_velodyne\.txt: the pose in line 3.*{match}")


def test_mirrored_pose_is_refused(tmp_path: Path) -> None:
    write_drive(tmp_path, [*straight(2), np.diag([1.0, -1.0, 1.0, 1.0])])
    fault(tmp_path, "line 3.*mirrored")


def test_calibration_of_other_pictures_is_refused(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(3))
    path = drive.parent / "calib_cam_to_cam.txt"
    path.write_text(path.read_text().replace(f"S_rect_02: {WIDTH}", "S_rect_02: 1242"))
    fault(tmp_path, rf"S_rect_02 is 1242x{HEIGHT} but .*{WIDTH}x{HEIGHT}")


def test_principal_point_outside_is_refused(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(3))
    path = drive.parent / "calib_cam_to_cam.txt"
    path.write_text(path.read_text().replace(f"{47.5:.12e}", "640"))
    fault(tmp_path, "calib_cam_to_cam.txt.*principal point")


def test_missing_calibration_entry_and_poses(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(3))
    path = drive.parent / "calib_cam_to_cam.txt"
    text = path.read_text()
    path.write_text(text.replace("P_rect_02", "P_rect_05"))
    fault(tmp_path, "no entry P_rect_02")
    path.write_text(text)
    (drive / "poses_velodyne.txt").unlink()
    fault(tmp_path, "there are no poses")


def test_several_drives_ask_for_one(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, straight(2))
    (drive.parent / "2011_09_26_drive_0002_sync" / "image_02" / "data").mkdir(parents=True)
    fault(tmp_path / "2011_09_26", "2 drives")


@pytest.mark.parametrize("projection", ["700 0 600 0 0 700 180 0 0 0 0 0", "700 700 600 0 700 700 180 0 0 0 1 0"])
def test_a_projection_without_an_inverse_is_refused(tmp_path: Path, projection: str) -> None:
    values = np.array([float(word) for word in projection.split()]).reshape(3, 4)
    with pytest.raises(UserError, match=r"the projection of image_02 \(700 .*\) is none of a rectified camera"):
        camera_from_projection(tmp_path / "calib.txt", "image_02", values, 1242, 375)
