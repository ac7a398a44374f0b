"""What joining leaves out before it registers could not have been joined."""

from __future__ import annotations

import numpy as np
import pytest
from test_movers_parts import car_shell, detection

from splatmend.datasets.geometry import PoseTrack, inverse, transform, yaw_pose
from splatmend.recon.movers.registration import TRUNCATE_M
from splatmend.recon.movers.stitching import LARGEST_STEP_M, LONGEST_GAP_US, _may_meet, _pose_at
from splatmend.recon.movers.tracking import Path


@pytest.mark.parametrize("seed", range(20))
def test_points_that_an_accepted_move_brings_to_the_shape_may_meet_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = transform(yaw_pose(0.0, np.array([*random.uniform(-30, 30, 2), 0.0])), car_shell())
    direction = random.normal(size=2)
    step = 0.999 * LARGEST_STEP_M * direction / np.linalg.norm(direction)
    placed = yaw_pose(random.uniform(-3, 3), np.array([*step, 0.0]))
    off = random.normal(size=3)
    touching = shape[:1] + 0.999 * TRUNCATE_M * off / np.linalg.norm(off)
    far = random.uniform(200, 300, (50, 3))
    # A body's pose `placed` in the points' frame: the move that registration would find is its inverse.
    assert _may_meet(shape, np.concatenate([far, transform(placed, touching)]))
    np.testing.assert_allclose(transform(inverse(placed), transform(placed, touching)), touching, atol=1e-9)
    assert not _may_meet(shape, far)


def test_the_pose_by_two_neighbours_is_that_of_the_whole_path() -> None:
    places = [yaw_pose(0.05 * n**1.5, np.array([0.6 * n, 0.02 * n**2, 0.0])) for n in range(9)]
    path = Path(
        detections=tuple(detection(turn, car_shell(turn)) for turn in (0, 1, 2, 4, 5, 6, 7, 9, 10)),
        world_from_body=np.stack(places),
    )
    whole = PoseTrack(times_us=path.times_us, world_from_body=path.world_from_body).extended(LONGEST_GAP_US)
    for at_us in (0, 40_000, 300_000, 650_000, 999_999, 1_000_000, 1_200_000, 1_500_000):
        np.testing.assert_array_equal(_pose_at(path, at_us), whole.at(at_us))
