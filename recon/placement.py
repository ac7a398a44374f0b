"""Nodes' Gaussians on their way to the rasteriser: coloured in the node's own frame, then brought into the scene's.

All bodies go together: what depends on poses is small tables, made on the host with their slopes, so that the work of a picture does not
grow with the number of bodies but with that of their Gaussians.

Shape letters: N Gaussians, M bodies (the background first, then actors).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatmend.datasets.geometry import inverse
from splatmend.recon.gaussians import Gaussians, joined, joined_harmonics
from splatmend.recon.harmonics import colours
from splatmend.recon.transfer import upload_together


@dataclass(frozen=True, kw_only=True)
class PoseTwists:
    """Zeros that take the gradients of poses: rows of `values`, those of `actors` by their ids in this order, then, if `camera`, the
    camera's. A twist is a turn about the body's (or camera's) axes in radians, then a shift along them."""

    values: Float[Tensor, "T 6"]
    actors: tuple[str, ...] = ()
    camera: bool = False

    def of(self, ids: tuple[str, ...]) -> tuple[Float[Tensor, "M-1 6"] | None, Float[Tensor, "6"] | None]:
        """The twists of actors in the order of `ids`, zeros for those that have none (None where none has), and the camera's."""
        own, of_camera = self.values.split([len(self.actors), int(self.camera)])
        camera = of_camera.squeeze(0) if self.camera else None
        if not set(ids) & set(self.actors):
            return None, camera
        if self.actors != ids:
            rows, none = dict(zip(self.actors, own)), own.new_zeros(6)
            own = torch.stack([rows.get(name, none) for name in ids])
        return own, camera


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Gaussians in the scene's frame: activated, with their sRGB (None where it was not asked for) and camera z."""

    means: Float[Tensor, "N 3"]
    quats_wxyz: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, "N"]
    rgb: Float[Tensor, "N 3"] | None
    depths_m: Float[Tensor, "N"]
    directions: Float[Tensor, "N 3"]
    """From the camera's place to the Gaussian, in the axes of its node."""
    camera_from_scene: Float[Tensor, "4 4"]


def place(
    background: Gaussians,
    actors: Sequence[tuple[str, Gaussians, Float[np.ndarray, "4 4"]]],
    scene_from_camera: Float[np.ndarray, "4 4"],
    twists: PoseTwists | None,
    sh_degree: int | None,
    *,
    coloured: bool,
) -> Placed:
    """A scene's Gaussians as a camera sees them.

    Args:
        background: Gaussians that are in the scene's frame already.
        actors: id, Gaussians in its own frame, `scene_from_actor` of each.
        scene_from_camera: the camera's pose; `camera_from_scene` of the result is its inverse.
        twists: they reach the picture through the Gaussians, to first order: values stay the same bits.
        sh_degree: harmonics to use, None for all; colours see no twists.
        coloured: whether colours are wanted.
    """
    device = background.device
    ids = tuple(name for name, _, _ in actors)
    own_twists, camera_twist = (None, None) if twists is None else twists.of(ids)
    poses = [pose for _, _, pose in actors]
    table = _BodyTable.of(poses, scene_from_camera, moved_by_camera=camera_twist is not None, moved_alone=own_twists is not None)
    eyes = np.stack([scene_from_camera[:3, 3], *((inverse(pose) @ scene_from_camera[:, 3])[:3] for pose in poses)])
    uploaded = [inverse(scene_from_camera), eyes, table.values, *(a for a in (table.by_camera, table.by_actor) if a is not None)]
    camera_from_scene, eye_of, values, *slopes = upload_together(uploaded, device)
    if camera_twist is not None:
        values = torch.addmv(values.flatten(), slopes[0].flatten(0, 1), camera_twist).view(values.shape)
    means, quats = background.means, background.quats_wxyz
    directions = [background.means - eye_of[0]]
    # Splits, not indices: their gradients are one copy each.
    of_background, motions = values.split([1, len(actors)])
    if camera_twist is not None:
        # The table holds what is added to the background, so that its own numbers are never rounded by a product.
        turn, shift, left = of_background.split(_PARTS, dim=1)
        means = torch.addmm(means, means, turn.view(3, 3).T) + shift
        quats = torch.addmm(quats, quats, left.view(4, 4).T)
    if actors:
        if own_twists is not None:
            motions = motions + (own_twists[:, None, :] @ slopes[-1]).squeeze(1)
        body = _bodies(tuple(len(gaussians) for _, gaussians, _ in actors), device)
        turn, shift, left = motions.index_select(0, body).split(_PARTS, dim=1)
        own_means = joined([gaussians.means for _, gaussians, _ in actors])
        own_quats = joined([gaussians.quats_wxyz for _, gaussians, _ in actors])
        placed_means = (turn.unflatten(1, (3, 3)) * own_means[:, None, :]).sum(dim=-1) + shift
        placed_quats = (left.unflatten(1, (4, 4)) * own_quats[:, None, :]).sum(dim=-1)
        directions.append(own_means - eye_of[1:].index_select(0, body))
        means, quats = torch.cat([means, placed_means]), torch.cat([quats, placed_quats])
    seen_along = joined(directions)
    parts = [background, *(gaussians for _, gaussians, _ in actors)]
    view = camera_from_scene[2]
    return Placed(
        means=means,
        quats_wxyz=quats,
        scales=joined([part.log_scales for part in parts]).exp(),
        opacities=joined([part.opacity_logits for part in parts]).sigmoid(),
        rgb=colours(joined_harmonics([part.sh for part in parts]), seen_along, sh_degree) if coloured else None,
        depths_m=means @ view[:3] + view[3],
        directions=seen_along,
        camera_from_scene=camera_from_scene,
    )


@dataclass(frozen=True, kw_only=True)
class _BodyTable:
    """Per body the rotation matrix, the shift and the matrix that multiplies quaternions, flattened (9 + 3 + 16), less the identity for
    the background; with the slopes of these numbers by the camera's twist and by the body's own, where they are wanted."""

    values: Float[np.ndarray, "M 28"]
    by_camera: Float[np.ndarray, "M 28 6"] | None
    by_actor: Float[np.ndarray, "M-1 6 28"] | None

    @staticmethod
    def of(poses: Sequence[np.ndarray], scene_from_camera: np.ndarray, *, moved_by_camera: bool, moved_alone: bool) -> _BodyTable:
        count = len(poses) + 1
        scene_from_body = np.stack([np.eye(4), *poses])
        rotations, shifts = scene_from_body[:, :3, :3], scene_from_body[:, :3, 3]
        lefts = np.zeros((count, 4, 4))
        lefts[0] = np.eye(4)
        if poses:
            lefts[1:] = (Rotation.from_matrix(rotations[1:]).as_quat(scalar_first=True) @ _LEFT.reshape(4, 16)).reshape(-1, 4, 4)
        values = np.zeros((count, 28))
        values[1:, :9] = rotations[1:].reshape(-1, 9)
        values[1:, 9:12] = shifts[1:]
        values[1:, 12:] = lefts[1:].reshape(-1, 16)
        by_camera = by_actor = None
        if moved_by_camera:
            # The picture of a camera that turns by a about its axes is that of Gaussians which turn by -a about its place.
            axes, place = scene_from_camera[:3, :3], scene_from_camera[:3, 3]
            turns = (-axes.T @ _CROSS.reshape(3, 9)).reshape(3, 3, 3)  # a matrix for each axis of the camera
            by_camera = np.zeros((count, 6, 28))
            by_camera[:, :3, :9] = (turns @ rotations[:, None]).reshape(count, 3, 9)
            by_camera[:, :3, 9:12] = ((shifts - place) @ turns.reshape(9, 3).T).reshape(count, 3, 3)
            by_camera[:, :3, 12:] = ((-axes.T / 2 @ _LEFT[1:].reshape(3, 16)).reshape(3, 4, 4) @ lefts[:, None]).reshape(count, 3, 16)
            by_camera[:, 3:, 9:12] = -axes.T
            by_camera = by_camera.transpose(0, 2, 1)
        if moved_alone:
            by_actor = np.zeros((count - 1, 6, 28))
            by_actor[:, :3, :9] = (rotations[1:, None] @ _CROSS).reshape(-1, 3, 9)
            by_actor[:, :3, 12:] = (lefts[1:, None] @ (_LEFT[1:] / 2)).reshape(-1, 3, 16)
            by_actor[:, 3:, 9:12] = rotations[1:].transpose(0, 2, 1)
        return _BodyTable(values=values, by_camera=by_camera, by_actor=by_actor)


_PARTS = [9, 3, 16]
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


@functools.lru_cache(maxsize=32)
def _bodies(counts: tuple[int, ...], device: torch.device) -> Int[Tensor, "N"]:
    """Which actor each Gaussian belongs to, where they stand one after the other."""
    return torch.repeat_interleave(torch.arange(len(counts), dtype=torch.int32), torch.tensor(counts)).to(device)
