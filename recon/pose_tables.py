"""What placing a scene's Gaussians needs of poses, as a few small tables that go to the device together.

Shape letters: M bodies (the background first, then actors).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.geometry import inverse
from splatmend.recon.transfer import upload_together

PARTS = [9, 3, 16, 3]
"""Numbers of a row of `PoseTables.motions`: rotation matrix, shift, matrix that multiplies quaternions, and the camera's place in the
body's frame."""
_MOVED = sum(PARTS[:3])


@dataclass(frozen=True, kw_only=True)
class DeviceTables:
    """`PoseTables` on a device, float32."""

    camera_from_scene: Float[Tensor, "4 4"]
    eye: Float[Tensor, "3"]
    motions: Float[Tensor, "M-1 31"]
    by_camera: Float[Tensor, "28 6"] | None


@dataclass(frozen=True, kw_only=True)
class PoseTables:
    """Of a camera, whose place in the scene is `eye`, and of each actor a row of `motions` (see `PARTS`); float64. `by_camera`, where it is
    wanted, is how the first 28 of these numbers change with a twist of the camera, for what lies in the scene's frame already."""

    camera_from_scene: Float[np.ndarray, "4 4"]
    eye: Float[np.ndarray, "3"]
    motions: Float[np.ndarray, "M-1 31"]
    by_camera: Float[np.ndarray, "28 6"] | None

    def to(self, device: torch.device) -> DeviceTables:
        """The tables on a device, by one copy."""
        return self.with_others((), device)[0]

    def with_others(self, others: Sequence[np.ndarray], device: torch.device) -> tuple[DeviceTables, list[Tensor]]:
        """The tables on a device, and other arrays that go there by the same copy."""
        slopes = () if self.by_camera is None else (self.by_camera,)
        camera_from_scene, eye, motions, *rest = upload_together([self.camera_from_scene, self.eye, self.motions, *slopes, *others], device)
        by_camera = rest.pop(0) if slopes else None
        return DeviceTables(camera_from_scene=camera_from_scene, eye=eye, motions=motions, by_camera=by_camera), rest

    @staticmethod
    def of(scene_from_camera: Float[np.ndarray, "4 4"], poses: Sequence[Float[np.ndarray, "4 4"]], *, camera_slopes: bool) -> PoseTables:
        """Those of a camera and the poses `scene_from_actor` of actors."""
        eye = scene_from_camera[:3, 3]
        motions = np.empty((len(poses), sum(PARTS)))
        if len(poses):
            scene_from_actor = np.stack(poses)
            rotations, shifts = scene_from_actor[:, :3, :3], scene_from_actor[:, :3, 3]
            motions[:, :9] = rotations.reshape(-1, 9)
            motions[:, 9:12] = shifts
            motions[:, 12:28] = quaternions(rotations) @ _LEFT.reshape(4, 16)
            motions[:, 28:] = ((eye - shifts)[:, None] @ rotations)[:, 0]
        return PoseTables(
            camera_from_scene=inverse(scene_from_camera),
            eye=eye,
            motions=motions,
            by_camera=_camera_slopes(scene_from_camera) if camera_slopes else None,
        )


def quaternions(rotations: Float[np.ndarray, "B 3 3"]) -> Float[np.ndarray, "B 4"]:
    """Unit quaternions w, x, y, z of rotation matrices (Markley 2008: of the four columns of `4 q q^T` the one that is the longest)."""
    columns = (rotations.reshape(-1, 9) @ _OUTER[:9] + _OUTER[9]).reshape(-1, 4, 4)
    longest = columns.reshape(-1, 16)[:, ::5].argmax(axis=1)
    chosen = columns[np.arange(len(columns)), longest]
    return chosen / np.sqrt((chosen * chosen).sum(axis=1, keepdims=True))


def _camera_slopes(scene_from_camera: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "28 6"]:
    # The picture of a camera that turns by a about its axes is that of Gaussians which turn by -a about its place.
    camera_axes, place = -scene_from_camera[:3, :3].T, scene_from_camera[:3, 3]
    slopes = np.zeros((6, _MOVED))
    turns = camera_axes @ _CROSS.reshape(3, 9)  # a matrix for each axis of the camera
    slopes[:3, :9] = turns
    slopes[:3, 9:12] = -(turns.reshape(9, 3) @ place).reshape(3, 3)
    slopes[:3, 12:] = camera_axes @ _HALF_LEFT
    slopes[3:, 9:12] = camera_axes
    return slopes.T


@functools.lru_cache(maxsize=8)
def own_slopes(device: torch.device) -> Float[Tensor, "28 6"]:
    """How the first 28 numbers of `PARTS` change with a twist of the body, in its own frame: the same for all."""
    slopes = np.zeros((6, _MOVED))
    slopes[:3, :9] = _CROSS.reshape(3, 9)
    slopes[:3, 12:] = _HALF_LEFT
    slopes[3:, 9:12] = np.eye(3)
    return torch.tensor(slopes.T, dtype=torch.float32).to(device)


_CROSS = np.swapaxes(np.cross(np.eye(3)[:, None, :], np.eye(3)), -1, -2)
"""`[3, 3, 3]`: per axis the matrix that makes of a vector v the cross product of the axis with it."""
_LEFT = np.array(
    [
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]],
        [[0, 0, -1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, -1, 0, 0]],
        [[0, 0, 0, -1], [0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 0]],
    ],
    dtype=np.float64,
)
"""`[4, 4, 4]`: per number w, x, y, z of a quaternion what it adds to the matrix that makes of another one their Hamilton product. A turn
by `a` has the quaternion (1, a / 2)."""
_HALF_LEFT = _LEFT[1:].reshape(3, 16) / 2


def _outer_products() -> Float[np.ndarray, "10 16"]:
    """What makes of a flattened rotation matrix, and of one, the matrix `4 q q^T` of its quaternion w, x, y, z."""
    out = np.zeros((10, 4, 4))
    cell = np.arange(9).reshape(3, 3)
    # The trace is 4 w^2 - 1, and a diagonal entry 1 - 2 (the squares of the other two axes).
    for i in range(3):
        out[cell[i, i], 0, 0] = 1
        for axis in range(3):
            out[cell[i, i], 1 + axis, 1 + axis] = 1 if i == axis else -1
    out[9] = np.eye(4)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        for a, b, plus, other, sign in ((0, 1 + i, cell[k, j], cell[j, k], -1), (1 + i, 1 + j, cell[i, j], cell[j, i], 1)):
            for row, column in ((a, b), (b, a)):
                out[plus, row, column], out[other, row, column] = 1, sign
    return out.reshape(10, 16)


_OUTER = _outer_products()
