"""One picture of an edited scene, with what is needed to light it: whose each pixel is, and what is seen behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.geometry import box_corners, inverse, transform
from splatmend.datasets.shot import Shot
from splatmend.recon.edits.apply import EditedScene
from splatmend.recon.raster.api import Backend
from splatmend.recon.render import Channel, RenderOutput, drawn_actors, render
from splatmend.recon.scene import Scene

_CHANNELS: tuple[Channel, ...] = ("rgb", "depth")
_ALONE: tuple[Channel, ...] = ("opacity",)
_MOST_SHARES = 24
"""Actors whose shares are drawn along with the colours; more take passes of their own."""


@dataclass(frozen=True, kw_only=True)
class InsertedFrame:
    """A naive picture, on the scene's device: what was put in shows its own colours and casts no shadow.

    `rgb [H, W, 3]` is sRGB with sky and exposure, not clamped; `depth_m`, `opacity [H, W]` as those of `RenderOutput`; `background_*` are
    the same without what was put in (what was taken out is not there either). `exposure [3, 4]` is the affine map that was applied.
    `shares` has, for each body that was put in and is there, its share of each pixel `[H, W]` in [0, 1], less what is hidden by others;
    `other_shares` likewise for the other actors, where it was asked for. `world_from_actor` are the poses at which all actors were
    drawn.
    """

    shot: Shot
    rgb: Float[Tensor, "H W 3"]
    depth_m: Float[Tensor, "H W"]
    opacity: Float[Tensor, "H W"]
    background_rgb: Float[Tensor, "H W 3"]
    background_depth_m: Float[Tensor, "H W"]
    background_opacity: Float[Tensor, "H W"]
    exposure: Float[Tensor, "3 4"]
    shares: Mapping[str, Float[Tensor, "H W"]]
    other_shares: Mapping[str, Float[Tensor, "H W"]] = field(default_factory=dict)
    world_from_actor: Mapping[str, np.ndarray] = field(default_factory=dict)


def draw_insertion(edited: EditedScene, shot: Shot, *, backend: Backend | None = None, others: bool = False) -> InsertedFrame:
    """Draw an edited scene: one pass with what was put in, one without it (none where it is not in sight). Nothing waits for the device.

    `others` asks for the shares of the other actors too. Errors: those of `render`.
    """
    scene = edited.scene
    there = {name: pose for name, _, pose in drawn_actors(scene, shot)}
    inside = [name for name, pose in there.items() if may_be_seen(scene.actors[name].track.size_m, pose, shot)]
    put_in = [name for name in inside if name in edited.inserted]
    wanted = inside if others else put_in
    exposure = scene.exposure.at(shot.camera.name, shot.mid_us)
    # Found once, and only of what is in sight: with many actors the host would need longer for this than the device for the picture.
    seen = {name: there[name] for name in inside}
    placed = partial(_placed, seen)
    full = render(scene, shot, _CHANNELS, backend=backend, exposure=exposure, actor_poses=placed, shares=wanted[:_MOST_SHARES])
    behind = full
    if put_in:
        gone = tuple(edited.inserted)
        behind = render(scene, shot, _CHANNELS, backend=backend, exposure=exposure, actor_poses=placed, without=gone)
    shares = _named(full, wanted[:_MOST_SHARES])
    for start in range(_MOST_SHARES, len(wanted), _MOST_SHARES):
        some = wanted[start : start + _MOST_SHARES]
        shares |= _named(render(scene, shot, _ALONE, backend=backend, actor_poses=placed, shares=some), some)
    nothing = torch.zeros_like(full.opacity)
    assert full.rgb is not None
    assert full.depth_m is not None
    assert behind.rgb is not None
    assert behind.depth_m is not None
    return InsertedFrame(
        shot=shot,
        rgb=full.rgb,
        depth_m=full.depth_m,
        opacity=full.opacity,
        background_rgb=behind.rgb,
        background_depth_m=behind.depth_m,
        background_opacity=behind.opacity,
        exposure=exposure,
        shares={name: shares.get(name, nothing) for name in there if name in edited.inserted},
        other_shares={name: shares.get(name, nothing) for name in there if name not in edited.inserted} if others else {},
        world_from_actor=there,
    )


def _placed(poses: Mapping[str, np.ndarray], actor_id: str, t_us: int) -> np.ndarray | None:
    return poses.get(actor_id)


def _named(drawn: RenderOutput, names: list[str]) -> dict[str, Tensor]:
    return {name: drawn.extra["shares"][..., index] for index, name in enumerate(names)}


def draw_alone(
    scene: Scene, actor_id: str, world_from_actor: np.ndarray, shot: Shot, *, backend: Backend | None = None
) -> Float[Tensor, "H W"]:
    """The share of each pixel that an actor would have at a pose with nothing in front of it."""
    none = torch.zeros(0, dtype=torch.long, device=scene.device)
    alone = replace(scene.with_gaussians(scene.background.gaussians.select(none)), actors={actor_id: scene.actors[actor_id]}, sky=None)
    return render(alone, shot, _ALONE, backend=backend, actor_poses=lambda _id, _t: world_from_actor).opacity


def may_be_seen(size_m: tuple[float, float, float], world_from_actor: np.ndarray, shot: Shot) -> bool:
    """Whether a box may reach into the picture: not if it is wholly behind the camera or beyond one of the picture's sides. Half as
    much again around the box, since Gaussians reach beyond it and cameras of the `ray` model move while they look."""
    camera = shot.camera
    corners = box_corners((1.5 * size_m[0], 1.5 * size_m[1], 1.5 * size_m[2]))
    x, y, z = transform(inverse(shot.world_from_camera) @ world_from_actor, corners).T
    if (z < 0).all():
        return False
    if camera.distortion_model != "none":
        return True
    (fx, fy), (cx, cy) = camera.focal_px, camera.principal_px
    sides = (
        fx * x + cx * z < 0,
        fx * x + (cx - camera.width) * z > 0,
        fy * y + cy * z < 0,
        fy * y + (cy - camera.height) * z > 0,
    )
    return not any(side.all() for side in sides)
