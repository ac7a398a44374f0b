from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatmend.datasets.geometry import inverse, pose
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import colours
from splatmend.recon.placement import Placed, PoseTwists, place

CAMERA = pose(Rotation.from_rotvec([0.2, 0.4, -0.3]).as_matrix(), np.array([2.0, -1.0, 0.5]))
CAR = pose(Rotation.from_rotvec([0.3, -1.1, 0.5]).as_matrix(), np.array([1.0, 2, 3]))
WALKER = pose(Rotation.from_rotvec([2.0, 0.1, -0.4]).as_matrix(), np.array([-2.0, 0, 1]))


def _some(seed: int, count: int = 7, degree: int = 1) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Gaussians(
        means=normal(count, 3),
        quats_wxyz=normal(count, 4),
        log_scales=normal(count, 3),
        opacity_logits=normal(count),
        sh=normal(count, (degree + 1) ** 2, 3),
    )


BODIES = (_some(0, 7), _some(1, 4), _some(2, 5, degree=2))


def _placed(
    twists: PoseTwists | None = None, *, car: np.ndarray = CAR, camera: np.ndarray = CAMERA, order: tuple[int, ...] = (0, 1)
) -> Placed:
    actors = [("car", BODIES[1], car), ("walker", BODIES[2], WALKER)]
    return place(BODIES[0], [actors[number] for number in order], camera, twists, None, coloured=True)


def _matrices(quats_wxyz: Tensor) -> np.ndarray:
    return Rotation.from_quat(quats_wxyz.numpy(), scalar_first=True).as_matrix()


def test_bodies_stand_where_their_poses_say() -> None:
    placed, start = _placed(), 0
    for body, scene_from_body in zip(BODIES, (np.eye(4), CAR, WALKER)):
        rows = slice(start, start := start + len(body))
        turn, shift = scene_from_body[:3, :3], scene_from_body[:3, 3]
        np.testing.assert_allclose(placed.means[rows].numpy(), body.means.numpy() @ turn.T + shift, atol=1e-5)
        np.testing.assert_allclose(_matrices(placed.quats_wxyz[rows]), turn @ _matrices(body.quats_wxyz), atol=1e-5)
        torch.testing.assert_close(placed.scales[rows], body.scales)
        torch.testing.assert_close(placed.opacities[rows], body.opacities)
        eye = (inverse(scene_from_body) @ CAMERA[:, 3])[:3]
        assert placed.rgb is not None
        expected = colours(body.sh, body.means - torch.from_numpy(eye).float())
        torch.testing.assert_close(placed.rgb[rows], expected, atol=1e-5, rtol=1e-5)
    assert start == len(placed.means)
    depths = (placed.means.double().numpy() - CAMERA[:3, 3]) @ CAMERA[:3, 2]
    np.testing.assert_allclose(placed.depths_m.numpy(), depths, atol=1e-5)
    assert torch.equal(placed.means[:7], BODIES[0].means)


ALL = PoseTwists(values=torch.zeros(3, 6), actors=("car", "walker"), camera=True)


@pytest.mark.parametrize(
    "twists", [ALL, PoseTwists(values=torch.zeros(1, 6), camera=True), PoseTwists(values=torch.zeros(1, 6), actors=("car",))]
)
def test_zero_twists_change_no_bit(twists: PoseTwists) -> None:
    plain, twisted = _placed(), _placed(twists)
    for name in ("means", "quats_wxyz", "depths_m", "rgb"):
        assert torch.equal(getattr(plain, name), getattr(twisted, name)), name


def _projected(placed: Placed, weights: tuple[Tensor, Tensor], camera: np.ndarray, like: Tensor) -> float:
    """A sum over the Gaussians in the frame of the camera, with signs of the quaternions as in `like`."""
    turn = torch.from_numpy(camera[:3, :3])
    means = (placed.means.double() - torch.from_numpy(camera[:3, 3])) @ turn
    quats = torch.from_numpy(
        (Rotation.from_matrix(camera[:3, :3]).inv() * Rotation.from_quat(placed.quats_wxyz.double().numpy(), scalar_first=True)).as_quat(
            scalar_first=True
        )
    )
    quats = quats * placed.quats_wxyz.double().norm(dim=1, keepdim=True)
    quats = quats * (quats * like).sum(dim=1, keepdim=True).sign()
    return float((means * weights[0]).sum() + (quats * weights[1]).sum())


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_twists_take_the_gradients_of_poses(row: int, order: tuple[int, ...]) -> None:
    """Rows: car, walker, camera; against moved poses."""
    generator = torch.Generator().manual_seed(3)
    count = sum(map(len, BODIES))
    weights = torch.randn(count, 3, generator=generator).double(), torch.randn(count, 4, generator=generator).double()
    values = torch.zeros(3, 6, requires_grad=True)
    placed = _placed(PoseTwists(values=values, actors=("car", "walker"), camera=True), order=order)
    # The same sum, in the graph: both ways count in the camera's frame where it was.
    turn = torch.from_numpy(CAMERA[:3, :3])
    back = torch.from_numpy(Rotation.from_matrix(CAMERA[:3, :3]).inv().as_quat(scalar_first=True))
    w, x, y, z = back.tolist()
    left = torch.tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]], dtype=torch.float64)
    means = (placed.means.double() - torch.from_numpy(CAMERA[:3, 3])) @ turn
    quats = placed.quats_wxyz.double() @ left.T
    ((means * weights[0]).sum() + (quats * weights[1]).sum()).backward()
    assert values.grad is not None
    with torch.no_grad():
        for axis in range(6):
            sums = []
            for sign in (1, -1):
                step = sign * 1e-3 * np.eye(6)[axis]
                moved = pose(Rotation.from_rotvec(step[:3]).as_matrix(), step[3:])
                car = CAR @ moved if row == 0 else CAR
                camera = CAMERA @ moved if row == 2 else CAMERA
                if row == 1:
                    actors = [("car", BODIES[1], CAR), ("walker", BODIES[2], WALKER @ moved)]
                    there = place(BODIES[0], [actors[n] for n in order], CAMERA, None, None, coloured=False)
                else:
                    there = _placed(car=car, camera=camera, order=order)
                sums.append(_projected(there, weights, camera, quats.detach()))
            assert float(values.grad[row, axis]) == pytest.approx((sums[0] - sums[1]) / 2e-3, rel=5e-3, abs=5e-3)
