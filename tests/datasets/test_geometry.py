from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import PoseTrack, inverse, orthonormal, pose, project, ray_directions, rotation_fault, transform, yaw_pose
from splatmend.datasets.log import Camera


def test_transforms_and_inverses_undo_each_other() -> None:
    rng = np.random.default_rng(0)
    a_from_b = pose(Rotation.random(random_state=1).as_matrix(), rng.normal(size=3))
    points = rng.normal(size=(5, 3))
    np.testing.assert_allclose(transform(inverse(a_from_b), transform(a_from_b, points)), points, atol=1e-12)


def test_a_track_goes_by_slerp_at_epoch_times_and_holds_its_ends() -> None:
    start = 1_700_000_000_000_000
    track = PoseTrack(
        times_us=np.array([start, start + 100_000]), world_from_body=np.stack([yaw_pose(0.0, [0, 0, 0]), yaw_pose(0.4, [2.0, 0, 0])])
    )
    np.testing.assert_allclose(track.at(start + 25_000), yaw_pose(0.1, [0.5, 0, 0]), atol=1e-9)
    np.testing.assert_allclose(track.at(start + 10**9), yaw_pose(0.4, [2.0, 0, 0]), atol=1e-12)
    assert track.at(np.array([[start, start + 1]])).shape == (1, 2, 4, 4)
    with pytest.raises(ValueError, match="rise"):
        PoseTrack(times_us=np.array([2, 1]), world_from_body=np.stack([np.eye(4)] * 2))


def test_what_is_no_rotation_is_said() -> None:
    bad = np.eye(4)
    bad[0, 0] = 1.1
    assert "orthonormal" in str(rotation_fault(bad))
    assert "mirrored" in str(rotation_fault(np.diag([-1.0, 1, 1, 1])))
    assert "finite" in str(rotation_fault(np.full((4, 4), np.nan)))
    assert rotation_fault(orthonormal(bad)) is None


@pytest.mark.parametrize(("model", "values"), [("opencv", (-0.2, 0.05, 1e-3, -2e-3, 0.01)), ("opencv_fisheye", (0.1, -0.02, 0.01, -0.001))])
def test_projection_agrees_with_opencv(model, values) -> None:
    camera = Camera(
        name="c", width=200, height=100, focal_px=(90.0, 95.0), principal_px=(101.0, 49.0), distortion_model=model, distortion=values
    )
    points = np.random.default_rng(2).uniform([-0.8, -0.4, 1.0], [0.8, 0.4, 2.0], size=(40, 3))
    if model == "opencv":
        theirs, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.intrinsics, np.array(values))
    else:
        theirs, _ = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), camera.intrinsics, np.array(values))
    ours, _ = project(camera, points)
    np.testing.assert_allclose(ours, theirs[:, 0] if model == "opencv" else theirs.reshape(-1, 2), atol=1e-6)


def test_points_behind_and_outside_are_not_inside_and_rays_meet_pixel_centres() -> None:
    camera = Camera(name="c", width=20, height=10, focal_px=(15.0, 15.0), principal_px=(10.0, 5.0))
    pixels, inside = project(camera, np.array([[0, 0, -1.0], [100.0, 0, 1.0], [0, 0, 2.0]]))
    assert inside.tolist() == [False, False, True]
    assert np.isnan(pixels[0]).all()
    centres, _ = project(camera, ray_directions(camera))
    np.testing.assert_allclose(centres[3, 7], (7.5, 3.5), atol=1e-9)


@pytest.mark.filterwarnings("error")
def test_absurd_poses_are_faults_without_a_warning() -> None:
    far, huge = np.eye(4), np.eye(4)
    far[0, 3], huge[0, 0] = 1e300, 1e300
    assert rotation_fault(far) == "a place 1e+300 from the origin"
    assert "not orthonormal" in str(rotation_fault(huge))
    assert rotation_fault(pose(np.eye(3), np.array([5e5, 5e6, 0.0]))) is None


def test_a_transposed_pose_is_no_pose() -> None:
    fault = rotation_fault(yaw_pose(0.3, np.array([1.0, 2.0, 3.0])).T)
    assert fault is not None
    assert "bottom row" in fault
