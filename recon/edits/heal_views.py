"""What recorded shots saw of places, and what they would see of them without the removed actors.

Shape letters: N points, V views, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from splatmend.datasets.geometry import inverse
from splatmend.datasets.shot import Shot
from splatmend.recon.edits.heal_boxes import RemovedActor
from splatmend.recon.render import Channel, render
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import upload

_MOST_PX = 640
_NEAR_M = 0.3
_BEHIND, _BEHIND_M = 1.06, 0.25
"""A place is behind a surface if it is farther than its depth by this factor and length."""
_SOLID = 0.5
"""Pixels of less opacity are see-through."""
_ACTOR, _AROUND_PX = 0.02, 2
"""Where actors have no more of any pixel around, none of them is before what is seen."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Of points: whether a recorded shot saw them; whether one would see them without the removed actors (`exposed`, only of those
    that none saw); whether such a one shows nothing there (`open`); the colours that
    they were seen in (scene colours, without exposure); the shortest distance that they were seen from."""

    seen: Bool[Tensor, "N"]
    exposed: Bool[Tensor, "N"]
    open: Bool[Tensor, "N"]
    rgb: Float[Tensor, "N 3"]
    distance_m: Float[Tensor, "N"]


@dataclass(frozen=True, kw_only=True)
class _View:
    shot: Shot
    camera_from_level: Float[Tensor, "3 4"]
    eye: Float[Tensor, "3"]
    recorded: Float[Tensor, "1 6 H W"]
    """rgb, depth (infinite where see-through), opacity, and the largest share that actors have around."""
    emptied: Float[Tensor, "1 2 H W"]
    """Depth and opacity without the removed actors."""


class Views:
    """A few recorded shots, drawn as they were and without the removed actors."""

    def __init__(self, scene: Scene, emptied: Scene, actors: Sequence[RemovedActor], shots: Sequence[Shot], level_from_world: np.ndarray):
        self._actors, self._level_from_world = actors, level_from_world
        self._views = [self._drawn(scene, emptied, shot) for shot in shots]

    def emptied_again(self, emptied: Scene) -> None:
        """Draws the scene without the removed actors once more, after something was taken out of it."""
        self._views = [replace(view, emptied=_emptied(emptied, view.shot)) for view in self._views]

    def look_at(self, points: Float[Tensor, "N 3"]) -> Seen:
        """What the views saw of points in level coordinates."""
        count, device = len(points), points.device
        seen, exposed, open_ = (torch.zeros(count, dtype=torch.bool, device=device) for _ in range(3))
        weights, rgb = torch.full((count,), 1e-12, device=device), torch.zeros(count, 3, device=device)
        distance = torch.full((count,), torch.inf, device=device)
        for view in self._views:
            pixels, depth, inside = _projected(view.shot, view.camera_from_level, points)
            drawn = functional.grid_sample(view.recorded, pixels[None, None], mode="nearest", align_corners=False)[0, :, 0]
            empty = functional.grid_sample(view.emptied, pixels[None, None], mode="nearest", align_corners=False)[0, :, 0]
            hidden = torch.zeros(count, dtype=torch.bool, device=device)
            for actor in self._actors:
                pose = actor.pose_at(view.shot.mid_us)
                if pose is not None:
                    hidden |= actor.hides(pose, view.eye, points)
            # Past the corners of a box, where nothing of its actor is drawn, one sees what lies behind.
            hidden &= drawn[5] > _ACTOR
            saw = inside & ~hidden & (depth < drawn[3] * _BEHIND + _BEHIND_M)
            # Pixels of open sky show no place; nothing was drawn there to take a colour from.
            weight = saw * (drawn[4] > _SOLID) * depth.clamp_min(1).pow(-4)
            rgb += weight[:, None] * drawn[:3].T
            weights += weight
            distance = torch.where(saw, torch.minimum(distance, depth), distance)
            seen |= saw
            would = inside & hidden & (depth < empty[0] * _BEHIND + _BEHIND_M)
            exposed |= would
            open_ |= would & (empty[1] < 0.9)
        return Seen(seen=seen, exposed=exposed & ~seen, open=open_ & ~seen, rgb=rgb / weights[:, None], distance_m=distance)

    def _drawn(self, scene: Scene, emptied: Scene, shot: Shot) -> _View:
        shot = _pinhole(shot)
        full = render(scene, shot, ("rgb", "depth", "actors"), exposure=None)
        assert full.rgb is not None
        assert full.depth_m is not None
        around = functional.max_pool2d(full.extra["actors"][None], 2 * _AROUND_PX + 1, stride=1, padding=_AROUND_PX)[0]
        recorded = torch.cat([full.rgb, torch.stack([_depth(full.depth_m, full.opacity), full.opacity, around], dim=2)], dim=2)
        level_from_camera = self._level_from_world @ shot.world_from_camera
        return _View(
            shot=shot,
            camera_from_level=upload(inverse(level_from_camera)[:3], scene.device),
            eye=upload(level_from_camera[:3, 3], scene.device),
            recorded=recorded.permute(2, 0, 1)[None],
            emptied=_emptied(emptied, shot),
        )


def chosen_shots(
    scene: Scene, actors: Sequence[RemovedActor], points: Float[Tensor, "N 3"], level_from_world: np.ndarray, count: int
) -> list[Shot]:
    """Recorded shots that look at some places (level coordinates) from near, past the removed actors, each one for what the others miss."""
    shots = [recorded.shot for recorded in scene.shots]
    value = torch.zeros(len(shots), len(points), device=points.device)
    for number, shot in enumerate(shots):
        shot = _pinhole(shot)
        level_from_camera = level_from_world @ shot.world_from_camera
        _, depth, inside = _projected(shot, upload(inverse(level_from_camera)[:3], points.device), points)
        if not bool(inside.any()):
            continue
        free = inside.clone()
        for actor in actors:
            pose = actor.pose_at(shot.mid_us)
            if pose is not None:
                free &= ~actor.hides(pose, upload(level_from_camera[:3, 3], points.device), points)
        # A place that is in the picture but hidden counts a little: such shots say what the hole is.
        value[number] = (free + 0.1 * (inside & ~free)) / (1 + depth.clamp_min(0) / 10)
    best, chosen = torch.zeros(len(points), device=points.device), []
    for _ in range(min(count, len(shots))):
        gain = (value - best).clamp_min(0).sum(dim=1)
        pick = int(gain.argmax())
        if float(gain[pick]) <= 0:
            break
        best = torch.maximum(best, value[pick])
        chosen.append(pick)
    return [shots[number] for number in sorted(chosen)]


def _emptied(emptied: Scene, shot: Shot) -> Float[Tensor, "1 2 H W"]:
    channels: tuple[Channel, ...] = ("depth",)
    drawn = render(emptied, shot, channels)
    assert drawn.depth_m is not None
    return torch.stack([_depth(drawn.depth_m, drawn.opacity), drawn.opacity])[None]


def _depth(depth_m: Float[Tensor, "H W"], opacity: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    return torch.where(opacity < _SOLID, torch.inf, depth_m)


def _pinhole(shot: Shot) -> Shot:
    """The same view without lens distortion and readout, at a moderate size: enough to see what hides what."""
    camera = shot.camera
    share = min(1.0, _MOST_PX / max(camera.width, camera.height))
    if share < 1:
        camera = camera.resized(max(round(camera.width * share), 8), max(round(camera.height * share), 8))
    plain = replace(camera, distortion_model="none", distortion=(), shutter="global", readout_us=0)
    return Shot.still(plain, shot.world_from_camera, shot.mid_us)


def _projected(shot: Shot, camera_from_level: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places in the picture (-1 to 1), camera z, and whether they are in it."""
    camera = shot.camera
    at = points @ camera_from_level[:, :3].T + camera_from_level[:, 3]
    depth = at[:, 2]
    held = depth.clamp_min(_NEAR_M)
    x = (at[:, 0] / held * camera.focal_px[0] + camera.principal_px[0]) * (2 / camera.width) - 1
    y = (at[:, 1] / held * camera.focal_px[1] + camera.principal_px[1]) * (2 / camera.height) - 1
    inside = (depth > _NEAR_M) & (x.abs() < 1) & (y.abs() < 1)
    return torch.stack([x, y], dim=1), depth, inside
