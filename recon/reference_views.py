"""What a shot shows of a scene, as references need it: how far each pixel's surface lies and which moving body it belongs to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from splatmend.datasets.geometry import box_corners, inverse, project, transform
from splatmend.datasets.shot import Shot
from splatmend.recon.nodes import RigidActor
from splatmend.recon.raster.api import Backend
from splatmend.recon.render import ActorPoses, Channel, RenderOutput, drawn_actors, render
from splatmend.recon.scene import RecordedShot, Scene

LEAST_OPACITY = 0.5
"""Pixels with less show the sky."""
MIXED = -1
"""The owner of a pixel that a body shares with what is behind it: its depth is a mean, of neither."""
_OWNED, _TOUCHED = 0.5, 0.2
_TOGETHER = 16
"""Bodies whose shares are drawn in one picture: so many channels of a large one fit into memory."""


@dataclass(frozen=True, kw_only=True)
class Surfaces:
    """`depth_m` is camera z (of each row's own time), `owners` 0 for what stands still, n for the n-th of the bodies that were watched,
    `MIXED` on the border between them."""

    depth_m: Float[Tensor, "H W"]
    opacity: Float[Tensor, "H W"]
    owners: Int[Tensor, "H W"]

    @property
    def sky(self) -> Bool[Tensor, "H W"]:
        return self.opacity < LEAST_OPACITY


@dataclass(frozen=True, kw_only=True)
class RecordedView:
    """A recorded frame: its picture and where that can be trusted, and what the scene shows there."""

    recorded: RecordedShot
    rgb: UInt8[Tensor, "H W 3"]
    usable: Bool[Tensor, "H W"] | None
    surfaces: Surfaces


def drawn_surfaces(
    scene: Scene,
    shot: Shot,
    watched: Sequence[str],
    *,
    backend: Backend | None = None,
    without: Collection[str] = (),
    actor_poses: ActorPoses | None = None,
) -> Surfaces:
    """What a shot shows; the arguments after `watched` (ids of actors) are those of `render`."""
    poses = {actor.actor_id: pose for _, actor, pose in drawn_actors(scene, shot, without, actor_poses)}
    seen = [name for name in watched if name in poses and _may_show(shot, scene.actors[name], poses[name])]
    groups = [seen[first : first + _TOGETHER] for first in range(0, len(seen), _TOGETHER)] or [[]]
    channels: tuple[Channel, ...] = ("depth",)

    def draw(group: Sequence[str]) -> RenderOutput:
        return render(scene, shot, channels, backend=backend, without=without, actor_poses=actor_poses, shares=group)

    drawn = draw(groups[0])
    depth_m, opacity = drawn.depth_m, drawn.opacity
    assert depth_m is not None
    owners = torch.zeros(opacity.shape, dtype=torch.int32, device=opacity.device)
    touched = torch.zeros_like(opacity)
    for number, group in enumerate(groups):
        if not group:
            continue
        shares = (drawn if number == 0 else draw(group)).extra["shares"]
        most, which = shares.max(dim=-1)
        numbers = torch.tensor([watched.index(name) + 1 for name in group], dtype=torch.int32, device=opacity.device)
        owners = torch.where(most > _OWNED, numbers[which], owners)
        touched = touched + shares.sum(dim=-1)
    owners = torch.where((owners == 0) & (touched > _TOUCHED), MIXED, owners)
    return Surfaces(depth_m=depth_m, opacity=opacity, owners=owners)


def _may_show(shot: Shot, actor: RigidActor, world_from_actor: np.ndarray) -> bool:
    """Whether an actor's box may be in the picture: certainly not where all of it is behind the camera, or beside the picture."""
    corners = transform(inverse(shot.world_from_camera) @ world_from_actor, 1.2 * box_corners(actor.track.size_m))
    if not (front := corners[:, 2] > 1e-3).any():
        return False
    if not front.all() or shot.camera.distortion_model != "none":
        return True
    pixels, _ = project(shot.camera, corners)
    size = np.array([shot.camera.width, shot.camera.height])
    return bool((pixels.max(axis=0) > -0.1 * size).all() and (pixels.min(axis=0) < 1.1 * size).all())
