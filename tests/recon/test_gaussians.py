from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tiny_log import gaussians

from splatmend.datasets.geometry import pose
from splatmend.recon.gaussians import Gaussians, concatenate, turned


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


def test_a_rigid_pose_turns_centres_and_covariances() -> None:
    g = _random()
    turn = Rotation.from_rotvec([0.3, -1.1, 0.5]).as_matrix()
    moved = g.transformed(pose(turn, np.array([1.0, 2, 3])))
    np.testing.assert_allclose(moved.means.numpy(), g.means.numpy() @ turn.T + [1, 2, 3], atol=1e-5)
    np.testing.assert_allclose(_covariances(moved), turn @ _covariances(g) @ turn.T, rtol=1e-3, atol=1e-5)
    assert moved.sh is g.sh


def test_a_turn_is_one_rotation_after_the_other() -> None:
    a, b = Rotation.random(random_state=1), Rotation.random(5, random_state=2)
    wxyz = [torch.from_numpy(r.as_quat(scalar_first=True)) for r in (a, b)]
    product = Rotation.from_quat(turned(*wxyz).numpy(), scalar_first=True)
    np.testing.assert_allclose(product.as_matrix(), (a * b).as_matrix(), atol=1e-12)


def test_a_zero_nudge_changes_no_bit_and_takes_the_pose_s_gradient() -> None:
    g, body = _random(), pose(Rotation.from_rotvec([0.2, 0.4, -0.3]).as_matrix(), np.array([2.0, -1.0, 0.5]))
    twist = torch.zeros(6, requires_grad=True)
    still = g.nudged(body, twist)
    assert torch.equal(still.means, g.means)
    assert torch.equal(still.quats_wxyz, g.quats_wxyz)
    weights = torch.randn(g.means.shape, generator=torch.Generator().manual_seed(3))
    (still.means * weights).sum().backward()
    for axis in range(6):
        step = np.zeros(6)
        step[axis] = 1e-4
        moved = body @ pose(Rotation.from_rotvec(step[:3]).as_matrix(), step[3:]) @ np.linalg.inv(body)
        slope = ((g.transformed(moved).means.double() - g.means.double()) * weights).sum() / 1e-4
        assert float(twist.grad[axis]) == pytest.approx(float(slope), rel=2e-2, abs=2e-2)


def test_concatenation_keeps_order_and_fills_missing_harmonics_with_zeros() -> None:
    low, high = gaussians(np.zeros((2, 3)), np.full((2, 3), 0.5), 0.1), _random(3, degree=2)
    both = concatenate([low, high])
    assert len(both) == 5
    assert both.sh_degree == 2
    assert (both.sh[:2, 1:] == 0).all()
    torch.testing.assert_close(both.select(torch.tensor([2, 3, 4])).sh, high.sh)
