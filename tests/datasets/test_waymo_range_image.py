"""Range images: which way columns and rows look, when they are shot, and the way back from points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.geometry import pose, yaw_pose
from splatmend.datasets.readers import waymo_v1
from splatmend.datasets.waymo_range_image import (
    column_times_us,
    inclination_limits,
    joined_points,
    points_from_range_image,
    poses_from_vectors,
    range_image_rays,
    uniform_inclinations,
    vectors_from_poses,
)

BEAMS = np.array([-0.3, -0.1, 0.05])


@pytest.mark.parametrize("yaw_rad", [0.0, 2.58, -1.6])
def test_columns_run_clockwise_from_the_rear_whatever_the_sensors_yaw(yaw_rad: float) -> None:
    _, directions = range_image_rays(BEAMS, yaw_pose(yaw_rad, np.array([1.4, 0.0, 2.1])), 4)
    horizontal = directions[1, :, :2] / np.cos(-0.1)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(horizontal, [[-half, half], [half, half], [half, -half], [-half, -half]], atol=1e-12)


def test_first_row_is_the_highest_beam_and_rays_are_unit() -> None:
    _, directions = range_image_rays(BEAMS, np.eye(4), 8)
    np.testing.assert_allclose(directions[:, 0, 2], np.sin(BEAMS[::-1]))
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1.0)


def test_azimuths_are_those_of_the_directions_in_the_sensors_frame() -> None:
    vehicle_from_lidar = yaw_pose(0.7, np.zeros(3))
    azimuth, directions = range_image_rays(BEAMS, vehicle_from_lidar, 16)
    in_lidar = directions @ vehicle_from_lidar[:3, :3]
    np.testing.assert_allclose(np.exp(1j * azimuth), np.exp(1j * np.arctan2(in_lidar[0, :, 1], in_lidar[0, :, 0])), atol=1e-12)


def test_falling_inclinations_are_refused() -> None:
    with pytest.raises(ValueError, match="rises"):
        range_image_rays(BEAMS[::-1], np.eye(4), 4)


def test_equal_steps_survive_their_limits() -> None:
    beams = uniform_inclinations(-1.5, 0.5, 8)
    assert beams[0] == pytest.approx(-1.375)
    np.testing.assert_allclose(uniform_inclinations(*inclination_limits(beams), 8), beams, atol=1e-14)


def test_pose_vectors_are_roll_pitch_yaw_of_the_vehicle() -> None:
    vectors = np.array([[[0.1, -0.2, 3.0, 40.0, -25.0, 3.0], [0.0, 0.0, np.pi / 2, 0.0, 0.0, 0.0]]])
    poses = poses_from_vectors(vectors)
    np.testing.assert_allclose(poses[0, 1, :3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(vectors_from_poses(poses), vectors, atol=1e-12)


def test_points_take_the_pose_and_time_of_their_column() -> None:
    image = np.full((3, 4, 4), -1.0, dtype=np.float32)
    image[1, 1, :2], image[2, 3, :2] = (10.0, 0.25), (20.0, 0.5)
    vehicle_from_lidar = pose(np.eye(3), np.array([1.0, 0.0, 2.0]))
    vectors = np.zeros((3, 4, 6))
    vectors[:, :, 3] = [0.0, 5.0, 10.0, 15.0]
    points = points_from_range_image(image, BEAMS, vehicle_from_lidar, np.eye(4), pixel_pose=vectors, sweep_start_us=1_000_000)
    _, directions = range_image_rays(BEAMS, vehicle_from_lidar, 4)
    np.testing.assert_allclose(points.origin_world_m, [[6.0, 0.0, 2.0], [16.0, 0.0, 2.0]])
    np.testing.assert_allclose(points.xyz_world_m - points.origin_world_m, [directions[1, 1] * 10.0, directions[2, 3] * 20.0])
    assert points.time_us.tolist() == [1_037_500, 1_087_500]
    assert points.intensity.tolist() == [0.25, 0.5]


def test_no_return_gives_no_points() -> None:
    empty = points_from_range_image(np.full((3, 4, 4), -1.0, dtype=np.float32), BEAMS, np.eye(4), np.eye(4))
    assert joined_points([empty]).xyz_world_m.shape == (0, 3)
    assert joined_points([]).time_us.shape == (0,)


def test_returns_that_are_not_finite_are_dropped_and_counted() -> None:
    image = np.full((3, 4, 4), -1.0, dtype=np.float32)
    image[0, :, 0], image[0, :, 1] = [np.nan, np.inf, 10.0, 12.0], [0.5, 0.5, 0.5, np.nan]
    image[1, 0, 1] = np.nan  # of no return
    points = points_from_range_image(image, BEAMS, np.eye(4), np.eye(4))
    assert (len(points.xyz_world_m), points.dropped) == (1, 3)
    assert joined_points([points, points]).dropped == 6


def test_wrong_sizes_and_values_that_are_not_finite_are_refused() -> None:
    image = np.ones((3, 4, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="3x4"):
        points_from_range_image(image, BEAMS[:2], np.eye(4), np.eye(4))
    with pytest.raises(ValueError, match="another size"):
        points_from_range_image(image, BEAMS, np.eye(4), np.eye(4), pixel_pose=np.zeros((3, 5, 6)))
    with pytest.raises(ValueError, match="not finite"):
        points_from_range_image(image, BEAMS, np.eye(4), np.eye(4), pixel_pose=np.full((3, 4, 6), np.nan))
    with pytest.raises(ValueError, match="shape"):
        points_from_range_image(image[..., 0], BEAMS, np.eye(4), np.eye(4))


def test_columns_and_real_cameras_see_a_direction_at_the_same_time(shared_data: Path) -> None:
    """The cameras are synchronised with the TOP LiDAR: the pose time of each agrees with the column that looks its way to 5 ms."""
    log = waymo_v1.read(shared_data / "waymo_v1")
    frame_start_us = log.actors[0].track.start_us
    times = column_times_us(3600, frame_start_us)
    pose_times = dict(zip(("SIDE_LEFT", "FRONT_LEFT", "FRONT", "FRONT_RIGHT", "SIDE_RIGHT"), log.ego.times_us))
    assert len(log.ego.times_us) == 5
    _, directions = range_image_rays(np.array([0.0]), np.eye(4), 3600)
    for frame in log.frames:
        forward = log.ego.world_from_body[0, :3, :3].T @ frame.world_from_camera[:3, 2]
        column = int(np.argmax(directions[0] @ forward))
        assert abs(int(times[column]) - int(pose_times[frame.camera])) < 5_000
