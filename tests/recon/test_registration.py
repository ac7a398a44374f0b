"""The registration's kernels against plain NumPy with a tree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from splatmend.datasets.geometry import inverse, transform, yaw_pose
from splatmend.recon.movers.registration import _ALONG_SURFACE, _ROUNDS_M, TRUNCATE_M, Shape


def slow_registered(shape: Shape, xyz: np.ndarray, world_from_body: np.ndarray) -> tuple[np.ndarray, float]:
    """`Shape.registered` from one guess, round by round as stacked least squares."""
    tree, body_from_world = cKDTree(shape.xyz_m), inverse(world_from_body)
    for scale_m in _ROUNDS_M:
        body = transform(body_from_world, xyz)
        distance, nearest = tree.query(body)
        weight = (1 + (distance / scale_m) ** 2) ** -2
        offset, normal = body - shape.xyz_m[nearest], shape.normals[nearest]
        centre = body.mean(axis=0)
        by_turn = np.stack([-(body - centre)[:, 1], (body - centre)[:, 0]], axis=1)
        across = np.column_stack([normal[:, :2], (normal[:, :2] * by_turn).sum(axis=1)])
        along = [np.column_stack([np.tile(np.eye(2)[axis], (len(xyz), 1)), by_turn[:, axis]]) for axis in (0, 1)]
        rows = np.concatenate([across, *along])
        left = np.concatenate([(offset * normal).sum(axis=1), offset[:, 0], offset[:, 1]])
        weights = np.concatenate([weight, _ALONG_SURFACE * weight, _ALONG_SURFACE * weight])[:, None]
        damping = np.diag([1e-3, 1e-3, 0.05 * weight.sum() + 1e-3])
        x, y, angle = -np.linalg.solve(rows.T @ (weights * rows) + damping, rows.T @ (weights[:, 0] * left))
        turn = yaw_pose(angle, np.zeros(3))
        turn[:3, 3] = centre - turn[:3, :3] @ centre + [x, y, 0]
        body_from_world = turn @ body_from_world
    left_m = np.minimum(tree.query(transform(body_from_world, xyz))[0], TRUNCATE_M).mean()
    return inverse(body_from_world), float(left_m)


@pytest.mark.parametrize("turned", [0.0, 1.2])
@pytest.mark.parametrize("away_m", [0.2, 3.0, 40.0])
def test_registration_is_that_of_plain_least_squares(turned: float, away_m: float) -> None:
    random = np.random.default_rng(7)
    rear = np.stack([np.full(120, -2.0), random.uniform(-0.9, 0.9, 120), random.uniform(0.3, 1.5, 120)], axis=1)
    side = np.stack([random.uniform(-2, 2, 200), np.full(200, 0.9), random.uniform(0.3, 1.2, 200)], axis=1)
    placed = yaw_pose(turned, np.array([30.0, -8.0, 0.4]))
    shape = Shape(transform(yaw_pose(turned, np.zeros(3)), np.concatenate([rear, side])))
    seen = transform(placed, np.concatenate([rear[::2], side[::3]]) + random.normal(0, 0.02, (127, 3)))
    guess = yaw_pose(0.05, np.array([30.0, -8.0 + away_m, 0.4]))
    found, left_m = shape.registered(seen, [guess])
    expected, expected_left_m = slow_registered(shape, seen, guess)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert left_m == pytest.approx(expected_left_m, abs=1e-9)


def test_of_several_guesses_the_best_counts() -> None:
    random = np.random.default_rng(8)
    xyz = random.uniform([-2, -1, 0], [2, 1, 1.5], (300, 3))
    shape = Shape(xyz)
    far, near = yaw_pose(0.0, np.array([30.0, 0, 0])), yaw_pose(0.0, np.array([0.1, 0, 0]))
    found, left_m = shape.registered(xyz, [far, near])
    alone, alone_m = shape.registered(xyz, [near])
    np.testing.assert_array_equal(found, alone)
    assert left_m == alone_m < 0.1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_shape_may_have_few_points(count: int) -> None:
    xyz = np.random.default_rng(9).uniform(-1, 1, (count, 3))
    shape = Shape(xyz)
    found, left_m = shape.registered(xyz, [np.eye(4)])
    expected, expected_left_m = slow_registered(shape, xyz, np.eye(4))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert left_m == pytest.approx(expected_left_m, abs=1e-9)
