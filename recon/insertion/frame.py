"""One picture of an edited scene, with what is needed to light it: whose each pixel is, and what is seen behind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from splatmend.datasets.geometry import box_corners, inverse, transform
from splatmend.datasets.shot import Shot
from splatmend.recon.edits.apply import EditedScene
from splatmend.recon.exposure import apply_exposure
from splatmend.recon.insertion.sharp import sharp_logits
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

    `rgb [H, W, 3]` is sRGB with sky and exposure, `unexposed_rgb` without the exposure, neither clamped; `depth_m`, `opacity [H, W]` as
    those of `RenderOutput`; `background_*` are the same without what was put in (what was taken out is not there either), drawn together
    when one of them is first asked for. `exposure [3, 4]` is the affine map that `rgb` has. `shares` has, for each body that was put in and
    is there, its share of each pixel `[H, W]` in [0, 1], less what is hidden by others; `other_shares` likewise for the other actors,
    where it was asked for. `world_from_actor` are the poses at which all actors were drawn, `in_sight` names those that may reach into the
    picture. `sharp` has logits of opacities for bodies that were meshes, with which they are as wide in this picture as they are
    (`splatmend.recon.insertion.sharp`).
    """

    edited: EditedScene
    shot: Shot
    unexposed_rgb: Float[Tensor, "H W 3"]
    depth_m: Float[Tensor, "H W"]
    opacity: Float[Tensor, "H W"]
    exposure: Float[Tensor, "3 4"]
    shares: Mapping[str, Float[Tensor, "H W"]]
    other_shares: Mapping[str, Float[Tensor, "H W"]]
    world_from_actor: Mapping[str, np.ndarray]
    in_sight: frozenset[str]
    sharp: Mapping[str, Float[Tensor, "N"]]
    backend: Backend | None

    @cached_property
    def rgb(self) -> Float[Tensor, "H W 3"]:
        return apply_exposure(self.unexposed_rgb, self.exposure)

    @cached_property
    def background_rgb(self) -> Float[Tensor, "H W 3"]:
        return self.rgb if self._nothing_put_in else apply_exposure(self.background_unexposed_rgb, self.exposure)

    @property
    def background_unexposed_rgb(self) -> Float[Tensor, "H W 3"]:
        if self._nothing_put_in:
            return self.unexposed_rgb
        assert self._behind.rgb is not None
        return self._behind.rgb

    @property
    def background_depth_m(self) -> Float[Tensor, "H W"]:
        if self._nothing_put_in:
            return self.depth_m
        assert self._behind.depth_m is not None
        return self._behind.depth_m

    @property
    def background_opacity(self) -> Float[Tensor, "H W"]:
        return self.opacity if self._nothing_put_in else self._behind.opacity

    def draw(self, scene: Scene, channels: Collection[Channel], *, without: Collection[str] = ()) -> RenderOutput:
        """Another picture of the shot, without exposure, of a scene with the same actors, where they are in this one. Errors: those of
        `render`."""
        poses = {name: self.world_from_actor[name] for name in self.in_sight}
        scene = _sharpened(scene, self.sharp)
        return render(scene, self.shot, channels, backend=self.backend, exposure=None, actor_poses=poses, without=without)

    def draw_alone(self, name: str) -> Float[Tensor, "H W"]:
        """The share of each pixel that an actor would have with nothing in front of it."""
        scene = _sharpened(self.edited.scene, self.sharp)
        return draw_alone(scene, name, self.world_from_actor[name], self.shot, backend=self.backend)

    def may_show(self, name: str, radius_m: float) -> bool:
        """Whether something that lies within a radius of an actor's centre may be in the picture."""
        return bool(may_be_seen((2 * radius_m,) * 3, self.world_from_actor[name], self.shot))

    @property
    def _nothing_put_in(self) -> bool:
        """Nothing that was put in reaches into the picture."""
        return self.in_sight.isdisjoint(self.edited.inserted)

    @cached_property
    def _behind(self) -> RenderOutput:
        return self.draw(self.edited.scene, _CHANNELS, without=tuple(self.edited.inserted))


def draw_insertion(edited: EditedScene, shot: Shot, *, backend: Backend | None = None, others: bool = False) -> InsertedFrame:
    """Draw an edited scene, in one pass; nothing waits for the device.

    `others` asks for the shares of the other actors too. Errors: those of `render`.
    """
    there = {name: pose for name, _, pose in drawn_actors(edited.scene, shot)}
    # Found once, and only of what is in sight: with many actors the host would need longer for this than the device for the picture.
    inside = _in_sight(edited.scene, there, shot)
    poses = {name: there[name] for name in inside}
    sharp = {name: sharp_logits(edited.scene.actors[name].gaussians, poses[name], shot) for name in inside if _was_mesh(edited, name)}
    scene = _sharpened(edited.scene, sharp)
    wanted = [name for name in inside if others or name in edited.inserted]
    full = render(scene, shot, _CHANNELS, backend=backend, exposure=None, actor_poses=poses, shares=wanted[:_MOST_SHARES])
    shares = _named(full, wanted[:_MOST_SHARES])
    for start in range(_MOST_SHARES, len(wanted), _MOST_SHARES):
        some = wanted[start : start + _MOST_SHARES]
        shares |= _named(render(scene, shot, _ALONE, backend=backend, actor_poses=poses, shares=some), some)
    nothing = torch.zeros_like(full.opacity)
    assert full.rgb is not None
    assert full.depth_m is not None
    return InsertedFrame(
        edited=edited,
        shot=shot,
        unexposed_rgb=full.rgb,
        depth_m=full.depth_m,
        opacity=full.opacity,
        exposure=scene.exposure.at(shot.camera.name, shot.mid_us),
        shares={name: shares.get(name, nothing) for name in there if name in edited.inserted},
        other_shares={name: shares.get(name, nothing) for name in there if name not in edited.inserted} if others else {},
        world_from_actor=there,
        in_sight=frozenset(inside),
        sharp=sharp,
        backend=backend,
    )


def _was_mesh(edited: EditedScene, name: str) -> bool:
    """Whether an actor is made of Gaussians that no picture was fitted with, and is drawn by the model that widens them."""
    one = edited.inserted.get(name)
    return edited.scene.camera_model == "ewa" and one is not None and one.asset is not None and one.asset.facts.get("made_from") == "mesh"


def _sharpened(scene: Scene, logits: Mapping[str, Float[Tensor, "N"]]) -> Scene:
    if not logits:
        return scene
    bodies = {name: scene.actors[name] for name in logits}
    drawn = {name: replace(body, gaussians=replace(body.gaussians, opacity_logits=logits[name])) for name, body in bodies.items()}
    return replace(scene, actors={**scene.actors, **drawn})


def _named(drawn: RenderOutput, names: list[str]) -> dict[str, Tensor]:
    return {name: drawn.extra["shares"][..., index] for index, name in enumerate(names)}


def draw_alone(
    scene: Scene, actor_id: str, world_from_actor: np.ndarray, shot: Shot, *, backend: Backend | None = None
) -> Float[Tensor, "H W"]:
    """The share of each pixel that an actor would have at a pose with nothing in front of it."""
    none = torch.zeros(0, dtype=torch.long, device=scene.device)
    alone = replace(scene.with_gaussians(scene.background.gaussians.select(none)), actors={actor_id: scene.actors[actor_id]}, sky=None)
    return render(alone, shot, _ALONE, backend=backend, actor_poses={actor_id: world_from_actor}).opacity


def may_be_seen(size_m: ArrayLike, world_from_actor: Float[np.ndarray, "*batch 4 4"], shot: Shot) -> Bool[np.ndarray, "*batch"]:
    """Whether boxes of these sizes `[*batch, 3]` may reach into the picture: not if one is wholly behind the camera or beyond one of the
    picture's sides. Half as much again around each, since Gaussians reach beyond it and cameras of the `ray` model move while they look."""
    camera = shot.camera
    corners = box_corners((1.5, 1.5, 1.5)) * np.asarray(size_m)[..., None, :]
    camera_from_actor = inverse(shot.world_from_camera) @ world_from_actor
    x, y, z = np.moveaxis(transform(camera_from_actor[..., None, :, :], corners), -1, 0)
    before = (z >= 0).any(axis=-1)
    if camera.distortion_model != "none":
        return before
    (fx, fy), (cx, cy) = camera.focal_px, camera.principal_px
    sides = (
        fx * x + cx * z < 0,
        fx * x + (cx - camera.width) * z > 0,
        fy * y + cy * z < 0,
        fy * y + (cy - camera.height) * z > 0,
    )
    return before & ~np.any([side.all(axis=-1) for side in sides], axis=0)


def _in_sight(scene: Scene, world_from_actor: Mapping[str, np.ndarray], shot: Shot) -> list[str]:
    if not world_from_actor:
        return []
    sizes = np.array([scene.actors[name].track.size_m for name in world_from_actor])
    seen = may_be_seen(sizes, np.stack(list(world_from_actor.values())), shot)
    return [name for name, may in zip(world_from_actor, seen) if may]
