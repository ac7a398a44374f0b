from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tiny_log import gaussians

from splatmend.datasets.geometry import pose
from splatmend.recon.gaussians import Gaussians, concatenate, left_matrices


def _random(count: int = 7, degree: int = 1) -> Gaussians:
    torch.manual_seed(0)
    return Gaussians(
        means=torch.randn(count, 3),
        quats_wxyz=torch.randn(count, 4),
        log_scales=torch.randn(count, 3),
        opacity_logits=torch.randn(count),
        sh=torch.randn(count, (degree + 1) ** 2, 3),
    )


def _covariances(g: Gaussians) -> np.ndarray:
    rotation = Rotation.from_quat(g.quats_wxyz.numpy()[:, [1, 2, 3, 0]]).as_matrix()
    return np.einsum("nij,nj,nkj->nik", rotation, np.exp(2 * g.log_scales.numpy()), rotation)


def test_rigid_poses_turn_the_centres_and_covariances_of_their_bodies() -> None:
    g, body = _random(), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    turns = Rotation.from_rotvec([[0.3, -1.1, 0.5], [2.0, 0.1, -0.4]]).as_matrix()
    shifts = np.array([[1.0, 2, 3], [-2, 0, 1]])
    moved = g.placed(np.stack([pose(turn, shift) for turn, shift in zip(turns, shifts)]), body)
    for which in (0, 1):
        part, before = moved.select(body == which), g.select(body == which)
        np.testing.assert_allclose(part.means.numpy(), before.means.numpy() @ turns[which].T + shifts[which], atol=1e-5)
        np.testing.assert_allclose(_covariances(part), turns[which] @ _covariances(before) @ turns[which].T, rtol=1e-3, atol=1e-5)
    assert moved.sh is g.sh


def test_left_matrices_make_one_rotation_after_the_other() -> None:
    a, b = Rotation.random(5, random_state=1), Rotation.random(5, random_state=2)
    left, right = (torch.from_numpy(r.as_quat(scalar_first=True)) for r in (a, b))
    product = Rotation.from_quat((left_matrices(left) @ right[:, :, None])[:, :, 0].numpy(), scalar_first=True)
    np.testing.assert_allclose(product.as_matrix(), (a * b).as_matrix(), atol=1e-12)


def _moved(g: Gaussians, body: np.ndarray, axis: int, step: float) -> Gaussians:
    """Gaussians whose body has moved a step along one of the six."""
    twist = np.zeros(6)
    twist[axis] = step
    moved = body @ pose(Rotation.from_rotvec(twist[:3]).as_matrix(), twist[3:]) @ np.linalg.inv(body)
    return g.placed(moved[None], torch.zeros(len(g), dtype=torch.long))


@pytest.mark.parametrize("in_its_frame", [False, True])
def test_a_zero_twist_changes_no_bit_and_takes_the_pose_s_gradient(in_its_frame: bool) -> None:
    g, body = _random(), pose(Rotation.from_rotvec([0.2, 0.4, -0.3]).as_matrix(), np.array([2.0, -1.0, 0.5]))
    twist = torch.zeros(6, requires_grad=True)
    if in_its_frame:
        rows = torch.zeros(len(g), dtype=torch.long)
        before, still = g.placed(body[None], rows), g.placed(body[None], rows, twist[None])
    else:
        before, still = g, g.nudged(body, twist)
    assert torch.equal(still.means, before.means)
    assert torch.equal(still.quats_wxyz, before.quats_wxyz)
    generator = torch.Generator().manual_seed(3)
    weights, quat_weights = torch.randn(g.means.shape, generator=generator), torch.randn(g.quats_wxyz.shape, generator=generator)
    ((still.means * weights).sum() + (still.quats_wxyz * quat_weights).sum()).backward()
    for axis in range(6):
        after = _moved(before, body, axis, 1e-3)
        # A quaternion and its negative are one rotation.
        sign = (after.quats_wxyz * before.quats_wxyz).sum(dim=1, keepdim=True).sign()
        change = (after.means - before.means) * weights
        change_of_turn = (sign * after.quats_wxyz - before.quats_wxyz) * quat_weights
        slope = float((change.double().sum() + change_of_turn.double().sum()) / 1e-3)
        assert float(twist.grad[axis]) == pytest.approx(slope, rel=2e-2, abs=2e-2)


def test_concatenation_keeps_order_and_fills_missing_harmonics_with_zeros() -> None:
    low, high = gaussians(np.zeros((2, 3)), np.full((2, 3), 0.5), 0.1), _random(3, degree=2)
    both = concatenate([low, high])
    assert len(both) == 5
    assert both.sh_degree == 2
    assert (both.sh[:2, 1:] == 0).all()
    torch.testing.assert_close(both.select(torch.tensor([2, 3, 4])).sh, high.sh)
