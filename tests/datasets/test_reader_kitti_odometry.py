"""KITTI odometry: the real sample's counts and geometry, points from its pictures, and small sequences with sweeps and faults."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from splatmend.datasets import SceneLog, UserError, open_log
from splatmend.datasets.geometry import BODY_FROM_OPENCV, inverse, pose, transform

WIDTH, HEIGHT = 96, 64


def row(values: np.ndarray) -> str:
    return " ".join(f"{value:.12e}" for value in np.asarray(values).ravel())


def write_sequence(root: Path, name: str = "07", frames: int = 4) -> Path:
    """A sequence that drives 1 m a frame along the camera's z, in grey stereo."""
    folder = root / "sequences" / name
    random = np.random.default_rng(0)
    for camera in (0, 1):
        (folder / f"image_{camera}").mkdir(parents=True)
        for index in range(frames):
            cv2.imwrite(str(folder / f"image_{camera}" / f"{index:06d}.png"), random.integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint8))
    left = np.array([[80.0, 0, 47.5, 0], [0, 80.0, 31.5, 0], [0, 0, 1, 0]])
    right = left.copy()
    right[0, 3] = -80.0 * 0.5
    velodyne = inverse(BODY_FROM_OPENCV)[:3].copy()
    velodyne[:, 3] = [0, -0.08, -0.27]
    (folder / "calib.txt").write_text(f"P0: {row(left)}\nP1: {row(right)}\nTr: {row(velodyne)}\n")
    (folder / "times.txt").write_text("".join(f"{0.1 * index:.6e}\n" for index in range(frames)))
    (root / "poses").mkdir(exist_ok=True)
    poses = [pose(np.eye(3), np.array([0, 0, float(index)])) for index in range(frames)]
    (root / "poses" / f"{name}.txt").write_text("".join(row(p[:3]) + "\n" for p in poses))
    return folder


@pytest.fixture(scope="module")
def sample(shared_data: Path) -> SceneLog:
    return open_log(shared_data / "kitti_odometry")


def test_sample_counts(sample: SceneLog) -> None:
    assert len(sample.frames) == 51
    assert (sample.cameras["camera_0"].width, sample.cameras["camera_0"].height) == (1226, 370)
    assert sample.cameras["camera_0"].principal_px == pytest.approx((601.8873 + 0.5, 183.1104 + 0.5))
    path_m = np.linalg.norm(np.diff(sample.ego.world_from_body[:, :3, 3], axis=0), axis=1).sum()
    assert path_m == pytest.approx(59.86, abs=0.05)
    assert sample.metric


def test_sample_camera_looks_where_it_drives_and_stands_upright(sample: SceneLog) -> None:
    for before, after in zip(sample.frames, sample.frames[1:]):
        step = after.world_from_camera[:3, 3] - before.world_from_camera[:3, 3]
        assert step @ before.world_from_camera[:3, 2] > 0.98 * np.linalg.norm(step)
        assert before.world_from_camera[:3, 1] @ [0, 0, -1] > 0.99


def test_stereo_axes_and_compensated_sweeps(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path)
    (folder / "velodyne").mkdir()
    xyzi = np.array([[10.0, 2, -1, 0.5], [0, -7, 0, 0.25]], dtype="<f4")
    xyzi.tofile(folder / "velodyne" / "000001.bin")
    log = open_log(folder)
    left, right = log.frames_of("camera_0")[1], log.frames_of("camera_1")[1]
    np.testing.assert_allclose(left.world_from_camera[:3, 3], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(right.world_from_camera[:3, 3], [1, -0.5, 0], atol=1e-9)  # right of the left camera is -y
    np.testing.assert_allclose(log.ego.world_from_body[1], pose(np.eye(3), np.array([1.0, 0, 0])), atol=1e-9)
    points = log.sweeps[0].read_points()
    # The benchmark's sweeps are already compensated: no point is moved by its own time, though the times differ.
    # The scanner sits 0.27 m behind camera 0 and 0.08 m above it.
    np.testing.assert_allclose(points.xyz_world_m, xyzi[:, :3] + [1 - 0.27, 0, 0.08], atol=1e-6)
    assert points.time_us[1] == 75_000
    np.testing.assert_allclose(points.origin_world_m[1], [0.75 - 0.27, 0, 0.08], atol=1e-6)
    assert log.frames[0].read_image().shape == (HEIGHT, WIDTH, 3)


def test_pictures_without_pose_and_poses_without_picture(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path)
    (folder / "image_0" / "000001.png").unlink()
    poses = tmp_path / "poses" / "07.txt"
    poses.write_text("\n".join(poses.read_text().splitlines()[:3]) + "\n")
    log = open_log(tmp_path)
    assert [frame.start_us for frame in log.frames_of("camera_0")] == [0, 200_000]
    assert any(note.startswith("1 of 3 pictures of camera_0") for note in log.notes)
    assert any(note.startswith("2 picture(s) have no pose") for note in log.notes)


@pytest.mark.parametrize("name", ["poses/07.txt", "sequences/07/times.txt"])
def test_poses_or_times_of_too_few_frames_are_named(tmp_path: Path, name: str) -> None:
    write_sequence(tmp_path)
    (tmp_path / name).write_text((tmp_path / name).read_text().splitlines()[0])
    with pytest.raises(UserError, match=f"{name}: it covers 1 of 4 pictures"):
        open_log(tmp_path)


def test_missing_poses_and_times(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path)
    (folder / "times.txt").unlink()
    assert any("0.1 s" in note for note in open_log(tmp_path).notes)
    (tmp_path / "poses" / "07.txt").unlink()
    with pytest.raises(UserError, match=r"poses/07\.txt: the sequence has no poses"):
        open_log(tmp_path)


def test_several_sequences_ask_for_one(tmp_path: Path) -> None:
    write_sequence(tmp_path, "07")
    folder = write_sequence(tmp_path, "08")
    with pytest.raises(UserError, match=r"2 sequences here \(07, 08"):
        open_log(tmp_path)
    assert open_log(folder).log_id == "kitti_odometry_08"


def test_times_that_fall_back_are_refused(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path)
    (folder / "times.txt").write_text("0.0\n0.1\n0.1\n0.2\n")
    with pytest.raises(UserError, match=r"times\.txt: the time in line 3"):
        open_log(tmp_path)


def test_a_camera_frame_is_in_front_of_its_points(tmp_path: Path) -> None:
    """A point 5 m along the camera's z is 5 m along the world's x."""
    log = open_log(write_sequence(tmp_path))
    np.testing.assert_allclose(transform(log.frames[0].world_from_camera, np.array([0.0, 0, 5])), [5, 0, 0], atol=1e-9)
