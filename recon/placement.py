"""Nodes' Gaussians on their way to the rasteriser: coloured in the node's own frame, then brought into the scene's.

All bodies go together: what depends on poses is small tables, made on the host with their slopes, so that the work of a picture does not
grow with the number of bodies but with that of their Gaussians.

Shape letters: N Gaussians, M bodies (the background first, then actors).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    own_twists, camera_twist = (None, None) if twists is None else twists.of(tuple(name for name, _, _ in actors))
    poses = [pose for _, _, pose in actors]
    table = _BodyTable.of(poses, scene_from_camera, moved_by_camera=camera_twist is not None, moved_alone=own_twists is not None)
    eyes = np.stack([scene_from_camera[:3, 3], *((inverse(pose) @ scene_from_camera[:, 3])[:3] for pose in poses)])
    uploaded = [inverse(scene_from_camera), eyes, table.motions, *(a for a in (table.by_camera, table.by_actor) if a is not None)]
    camera_from_scene, eye_of, motions, *slopes = upload_together(uploaded, device)
    # Before they are moved: per Gaussian where it lies in its body, and which body that is; the background's first.
    own = [(background.means, background.quats_wxyz)]
    means, quats = own[0]
    directions = [means - eye_of[0]]
    body = None
    if actors:
        body = _bodies(tuple(len(gaussians) for _, gaussians, _ in actors), device)
        own_means = joined([gaussians.means for _, gaussians, _ in actors])
        own_quats = joined([gaussians.quats_wxyz for _, gaussians, _ in actors])
        # A split, not indices: its gradients are one copy each.
        turn, shift, left = motions.index_select(0, body).split(_PARTS, dim=1)
        placed_means = (turn.unflatten(1, (3, 3)) * own_means[:, None, :]).sum(dim=-1) + shift
        placed_quats = (left.unflatten(1, (4, 4)) * own_quats[:, None, :]).sum(dim=-1)
        directions.append(own_means - eye_of[1:].index_select(0, body))
        own.append((own_means, own_quats))
        means, quats = torch.cat([means, placed_means]), torch.cat([quats, placed_quats])
    if slopes:
        by_camera, by_actor = (slopes[0] if camera_twist is not None else None), (slopes[-1] if own_twists is not None else None)
        means, quats = _Twisted.apply(means, quats, camera_twist, own_twists, by_camera, by_actor, body, own)
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


class _Twisted(torch.autograd.Function):
    """Means and quaternions in the scene's frame as they are; going back, the gradients of the twists.

    Twists are zero, so only their slopes count: per body the sums of outer products of what comes back and what was moved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        means: Float[Tensor, "N 3"],
        quats: Float[Tensor, "N 4"],
        camera_twist: Float[Tensor, "6"] | None,
        own_twists: Float[Tensor, "M-1 6"] | None,
        by_camera: Float[Tensor, "M 28 6"] | None,
        by_actor: Float[Tensor, "M-1 6 28"] | None,
        body: Int[Tensor, "n"] | None,
        own: Sequence[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """`own`: means and quaternions before they were moved, of the background and, where there are any, of all actors."""
        ctx.slopes, ctx.body = (by_camera, by_actor), body
        ctx.save_for_backward(*(tensor for pair in own for tensor in pair))
        return means.view_as(means), quats.view_as(quats)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_means: Tensor, g_quats: Tensor) -> tuple[Tensor | None, ...]:
        (by_camera, by_actor), (means, quats, *of_actors) = ctx.slopes, ctx.saved_tensors
        by_numbers = []
        if by_camera is not None:
            g, q = g_means[: len(means)], g_quats[: len(means)]
            by_numbers.append(torch.cat([(g.T @ means).flatten(), g.sum(dim=0), (q.T @ quats).flatten()])[None])
        if of_actors:
            own_means, own_quats = of_actors
            g, q = g_means[len(means) :], g_quats[len(means) :]
            products = (g[:, :, None] * own_means[:, None, :]).flatten(1), g, (q[:, :, None] * own_quats[:, None, :]).flatten(1)
            count = (len(by_camera) - 1) if by_actor is None else len(by_actor)
            by_numbers.append(g.new_zeros(count, sum(_PARTS)).index_add_(0, ctx.body, torch.cat(products, dim=1)))
        of_camera = None if by_camera is None else torch.cat(by_numbers).flatten() @ by_camera.flatten(0, 1)
        alone = None if by_actor is None else (by_actor @ by_numbers[-1][:, :, None]).squeeze(2)
        return g_means, g_quats, of_camera, alone, None, None, None, None


@dataclass(frozen=True, kw_only=True)
class _BodyTable:
    """Per actor the rotation matrix, the shift and the matrix that multiplies quaternions, flattened (9 + 3 + 16); with the slopes of these
    numbers by the camera's twist (of the background's, too) and by the actor's own, where they are wanted."""

    motions: Float[np.ndarray, "M-1 28"]
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
        motions = np.concatenate([rotations[1:].reshape(-1, 9), shifts[1:], lefts[1:].reshape(-1, 16)], axis=1)
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
        return _BodyTable(motions=motions, by_camera=by_camera, by_actor=by_actor)


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
