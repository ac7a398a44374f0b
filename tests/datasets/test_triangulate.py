"""Points from pictures: a textured wall whose place is known, and the real street."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from splatmend.datasets import Camera, CameraFrame, open_log
from splatmend.datasets.geometry import inverse, pose
from splatmend.datasets.triangulate import TriangulationConfig, triangulated_points

CAMERA = Camera(name="camera", width=320, height=240, focal_px=(260.0, 260.0), principal_px=(160.0, 120.0))
CORNER = pose(cv2.Rodrigues(np.array([0.0, 0.35, 0.0]))[0], np.array([0.0, 0.0, 6.0]))  # the wall's frame: it lies in its x y


def frame(index: int, world_from_camera: np.ndarray, wall: np.ndarray, pixels_per_m: float) -> CameraFrame:
    """The wall seen by a camera, warped by the homography of its plane."""
    camera_from_wall = inverse(world_from_camera) @ CORNER
    wall_from_texture = np.array(
        [[1 / pixels_per_m, 0, -wall.shape[1] / 2 / pixels_per_m], [0, 1 / pixels_per_m, -wall.shape[0] / 2 / pixels_per_m], [0, 0, 1]]
    )
    opencv = CAMERA.intrinsics - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    homography = opencv @ camera_from_wall[:3][:, [0, 1, 3]] @ wall_from_texture
    image = cv2.warpPerspective(wall, homography, (CAMERA.width, CAMERA.height), flags=cv2.INTER_LINEAR)
    return CameraFrame(
        camera="camera",
        index=index,
        start_us=index,
        end_us=index,
        world_from_camera_start=world_from_camera,
        world_from_camera_end=world_from_camera,
        read_image=lambda: image,
    )


def wall_frames() -> list[CameraFrame]:
    random = np.random.default_rng(0)
    wall = cv2.GaussianBlur(random.integers(0, 255, (700, 900, 3), dtype=np.uint8), (0, 0), 2.0)
    wall = np.clip((wall.astype(np.float32) - 127) * 6 + 127, 0, 255).astype(np.uint8)
    return [frame(i, pose(np.eye(3), np.array([0.4 * i - 0.8, 0.05 * i, 0.1 * i])), wall, 100.0) for i in range(5)]


def test_points_lie_on_the_wall() -> None:
    points = triangulated_points({"camera": CAMERA}, wall_frames(), TriangulationConfig(max_features=600))
    assert len(points.xyz_world_m) > 300
    assert points.rgb.shape == points.xyz_world_m.shape
    off_wall_m = np.abs((points.xyz_world_m - CORNER[:3, 3]) @ CORNER[:3, 2])
    assert np.median(off_wall_m) < 0.02
    assert np.percentile(off_wall_m, 99) < 0.3


def test_wrong_poses_give_next_to_nothing() -> None:
    """The same pictures with poses that move up and down instead of aside: matches must not survive the epipolar check."""
    frames = wall_frames()
    wrong = []
    for f in frames:
        moved = pose(np.eye(3), np.array([0.0, 0.4 * f.index, 0.0]))
        wrong.append(replace(f, world_from_camera_start=moved, world_from_camera_end=moved))
    config = TriangulationConfig(max_features=600)
    good = len(triangulated_points({"camera": CAMERA}, frames, config).xyz_world_m)
    assert len(triangulated_points({"camera": CAMERA}, wrong, config).xyz_world_m) < 0.02 * good


def test_a_camera_that_stands_still_has_no_points() -> None:
    still = [wall_frames()[0]] * 3
    assert triangulated_points({"camera": CAMERA}, still, TriangulationConfig(max_features=200)).xyz_world_m.shape == (0, 3)


def test_real_street_lies_around_the_path(shared_data: Path) -> None:
    log = open_log(shared_data / "kitti_odometry")
    points = triangulated_points(log.cameras, log.frames[10:15], TriangulationConfig(max_features=1500))
    assert len(points.xyz_world_m) > 300
    relative = points.xyz_world_m - log.frames[10].world_from_camera[:3, 3]
    assert (relative[:, 0] > 0).all()
    # The camera hangs 1.65 m above the road: hardly anything is seen below that.
    assert (relative[:, 2] < -2.5).mean() < 0.02
    assert np.percentile(relative[:, 2], 5) < -0.8


def test_config_that_cannot_work() -> None:
    with pytest.raises(ValueError, match="no points"):
        TriangulationConfig(neighbours=())
