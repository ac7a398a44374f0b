"""Summaries and overlays of the real samples and of a log made here."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from splatmend.datasets import ActorTrack, Camera, CameraFrame, LidarPoints, LidarSweep, SceneLog, SfmPoints, UserError, open_log
from splatmend.datasets.geometry import BODY_FROM_OPENCV, PoseTrack, pose
from splatmend.datasets.point_projection import project_frame
from splatmend.datasets.summary import lidar_overlay, print_summary, summarise

CAMERA = Camera(name="front", width=160, height=100, focal_px=(120.0, 120.0), principal_px=(80.0, 50.0))


def sweep_of(xyz: np.ndarray, start_us: int) -> LidarSweep:
    count = len(xyz)
    points = LidarPoints(
        xyz_world_m=xyz, time_us=np.full(count, start_us), intensity=np.zeros(count, dtype=np.float32), origin_world_m=np.zeros((count, 3))
    )
    return LidarSweep(sensor="top", timestamp_us=start_us, read_points=lambda: points)


def small_log() -> SceneLog:
    """Three grey frames 0.1 s apart that drive 2 m each along x; a sweep with one point per frame; a car 10 m ahead."""
    poses = [pose(np.eye(3), np.array([2.0 * index, 0, 0])) for index in range(3)]
    frames = tuple(
        CameraFrame(
            camera="front",
            index=index,
            start_us=index * 100_000,
            end_us=index * 100_000,
            world_from_camera_start=poses[index] @ BODY_FROM_OPENCV,
            world_from_camera_end=poses[index] @ BODY_FROM_OPENCV,
            read_image=lambda: np.full((100, 160, 3), 128, dtype=np.uint8),
        )
        for index in range(3)
    )
    times_us = np.arange(3, dtype=np.int64) * 100_000
    car = PoseTrack(times_us=times_us[:1], world_from_body=pose(np.eye(3), np.array([12.0, 1.0, 0.0]))[None])
    return SceneLog(
        log_id="small",
        source="test",
        path=Path("small"),
        cameras={"front": CAMERA},
        frames=frames,
        sweeps=tuple(sweep_of(np.array([[20.0 + index, -3.0, 1.0]]), index * 100_000 - 50_000) for index in range(3)),
        actors=(ActorTrack(actor_id="car", actor_class="vehicle", size_m=(4.0, 2.0, 1.5), track=car),),
        ego=PoseTrack(times_us=times_us, world_from_body=np.stack(poses)),
        metric=True,
        notes=("two things were assumed.",),
    ).validate()


def test_summary_counts() -> None:
    summary = summarise(small_log())
    assert (summary.frames, summary.duration_s, summary.path_length) == (3, pytest.approx(0.2), pytest.approx(4.0))
    assert summary.cameras[0].rate_hz == pytest.approx(10.0)
    assert summary.cameras[0].frames == 3
    assert (summary.lidars[0].sweeps, summary.lidars[0].points_per_sweep) == (3, 1)
    assert summary.lidars[0].rate_hz == pytest.approx(10.0)
    assert summary.actors == {"vehicle": 1}
    assert not summary.has_sparse_points


def test_printed_summary_says_what_matters() -> None:
    text = StringIO()
    print_summary(summarise(replace(small_log(), metric=False)), Console(file=text, width=160))
    for words in ("small", "160x100", "3 frames in 0.20 s", "no metric scale", "1 vehicle", "two things were assumed."):
        assert words in text.getvalue()


def changed(image: np.ndarray) -> np.ndarray:
    return (image != 128).any(axis=-1)


def test_the_running_sweep_is_drawn_where_it_projects() -> None:
    log = replace(small_log(), actors=())
    image = lidar_overlay(log, frame=1)
    # The sweep that started 50 ms before frame 1 holds the point at x = 21; the camera is at x = 2.
    x, y = 80 + 120 * 3 / 19, 50 - 120 * 1 / 19
    rows, columns = np.nonzero(changed(image))
    assert abs(columns.mean() + 0.5 - x) < 1
    assert abs(rows.mean() + 0.5 - y) < 1


def test_boxes_are_drawn_only_while_they_are_labelled() -> None:
    log = replace(small_log(), sweeps=())
    labelled, later = lidar_overlay(log, frame=0), lidar_overlay(log, frame=2)
    rows, columns = np.nonzero(changed(labelled))
    # The near face (10 m ahead, 0 to 2 m to the left, 0.75 m up and down) frames the box.
    assert columns.min() == pytest.approx(80 - 120 * 2 / 10, abs=2)
    assert columns.max() == pytest.approx(80, abs=2)
    assert (rows.min(), rows.max()) == (pytest.approx(50 - 9, abs=2), pytest.approx(50 + 9, abs=2))
    assert not changed(later).any()


def test_nothing_to_draw_and_wrong_names() -> None:
    log = replace(small_log(), sweeps=(), actors=())
    with pytest.raises(UserError, match="no LiDAR sweeps"):
        lidar_overlay(log)
    with pytest.raises(UserError, match="no camera rear; choose one of front"):
        lidar_overlay(log, camera="rear")
    with pytest.raises(UserError, match="no frame 7; choose one from 0 to 2"):
        lidar_overlay(log, frame=7)
    sparse = SfmPoints(xyz_world_m=np.array([[12.0, 0, 0]]), rgb=np.zeros((1, 3), dtype=np.uint8))
    assert changed(lidar_overlay(replace(log, read_sfm_points=lambda: sparse))).any()


def test_rolling_shutter_rows_have_their_own_poses() -> None:
    """The camera slides 1 m to its right during the readout: a point's column depends on its row's time."""
    camera = replace(CAMERA, shutter="top_to_bottom", readout_us=50_000)
    start, end = np.eye(4), pose(np.eye(3), np.array([1.0, 0, 0]))
    frame = replace(small_log().frames[0], end_us=50_000, world_from_camera_start=start, world_from_camera_end=end)
    xyz = np.array([[0.5, -2.0, 6.0], [0.5, 0.0, 6.0], [0.5, 2.0, 6.0]])
    pixels, depth, inside = project_frame(camera, frame, xyz)
    rows = 50 + 120 * xyz[:, 1] / 6
    np.testing.assert_allclose(pixels[:, 1], rows, atol=1e-9)
    np.testing.assert_allclose(pixels[:, 0], 80 + 120 * (0.5 - rows / 100) / 6, atol=1e-3)
    np.testing.assert_allclose(depth, 6.0)
    assert inside.all()


def test_real_sample_summary_and_overlay(shared_data: Path) -> None:
    log = open_log(shared_data / "kitti_raw")
    summary = summarise(log)
    assert (summary.frames, summary.lidars[0].sweeps) == (48, 48)
    assert summary.duration_s == pytest.approx(4.7)
    assert 10_500 < summary.lidars[0].points_per_sweep < 11_500
    plain = log.frames_of("camera_02")[24].read_image()
    drawn = (lidar_overlay(log, frame=24) != plain).any(axis=-1)
    assert drawn[200:].mean() > 3 * drawn[:60].mean()  # the road is covered, the sky is not


def test_numbers_stay_whole_in_80_columns() -> None:
    camera = replace(
        CAMERA,
        name="camera_12",
        width=1920,
        height=1280,
        focal_px=(2055.5, 2055.6),
        principal_px=(939.7, 641.1),
        distortion_model="opencv",
        distortion=(0.0578421, -0.0805099, -0.000980296, 0.00015575, -0.0123456),
        shutter="left_to_right",
        readout_us=23_456,
    )
    log = small_log()
    frames = tuple(replace(frame, camera="camera_12") for frame in log.frames)
    text = StringIO()
    print_summary(summarise(replace(log, cameras={"camera_12": camera}, frames=frames)), Console(file=text, width=80))
    words = (
        "1920x1280",
        "2055.5 2055.6",
        "939.7 641.1",
        "left_to_right 23.5 ms",
        "opencv",
        "0.05784",
        "-0.0009803",
        "0.0001557",
        "-0.01235",
    )
    for word in words:
        assert word in text.getvalue()
