"""From where a scene's recorded shots saw an actor: the views of it, in its own frame, with what stood before it.

Shape letters: V views, P places, N Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.geometry import box_corners, inverse, project, transform
from splatmend.datasets.shot import Shot
from splatmend.recon.nodes import RigidActor
from splatmend.recon.raster.api import Backend
from splatmend.recon.render import Channel, render
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import upload

MOST_VIEWS = 24
_WIDTH_PX = 160
"""Depth is drawn no wider than this."""
_NEAR_BY_M, _NEAR_BY = 0.25, 0.03
"""A place this much behind what is drawn there, in metres and as a share of its distance, still counts as seen."""
_DEPTH: tuple[Channel, ...] = ("depth",)
_GRAZING = 0.1
"""Cosine below which a surface shows nothing of itself."""
WELL_SEEN = 0.5
"""Sum of cosines over views from which on a place counts as seen."""
SEEN_FROM = "seen_from_deg"
"""The fact of an asset that says from where it was seen: see `azimuths_of`."""
_STEP_DEG = 15
_MUCH_OF_IT = 0.2
"""A view that shows less than this share of what the best one shows does not count."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One recorded shot of an actor. `world_from_actor` is its pose then, `eye_m [3]` where the camera stood in the actor's frame,
    `depth_m [h, w]` camera z of what the scene shows (0 where that is see-through)."""

    shot: Shot
    world_from_actor: np.ndarray
    eye_m: np.ndarray
    depth_m: Float[Tensor, "h w"]

    def shows(self, points_m: Float[Tensor, "P 3"]) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"]]:
        """Which places of the actor's frame lie in the picture with nothing before them (1 or 0), and how many of the recorded picture's
        pixels a metre takes there."""
        camera = self.shot.camera
        in_camera = transform(inverse(self.shot.world_from_camera) @ self.world_from_actor, points_m.double().cpu().numpy())
        pixels, inside = project(camera, in_camera)
        rows, columns = self.depth_m.shape
        at = np.nan_to_num(pixels) * (columns / camera.width, rows / camera.height)
        column, row = (np.clip(at[:, i], 0, (columns, rows)[i] - 1).astype(np.int64) for i in (0, 1))
        depth = self.depth_m.cpu().numpy()[row, column]
        z = in_camera[:, 2]
        clear = (depth <= 0) | (z < depth + _NEAR_BY_M + _NEAR_BY * z)
        per_metre = np.where(inside, min(camera.focal_px) / np.maximum(z, 0.1), 0.0)
        return upload(inside & clear, points_m.device), upload(per_metre, points_m.device)


def views_of(scene: Scene, actor_id: str, *, backend: Backend | None = None) -> tuple[View, ...]:
    """The fitted shots that have the actor in their picture, at most 24: those that see it from the most different places."""
    actor = scene.actors[actor_id]
    found = [
        (shot, pose) for shot in (r.shot for r in scene.shots if r.role == "train") if (pose := pose_in_picture(actor, shot)) is not None
    ]
    if not found:
        return ()
    eyes = np.stack([transform(inverse(pose), shot.world_from_camera[:3, 3]) for shot, pose in found])
    return tuple(
        View(shot=found[i][0], world_from_actor=found[i][1], eye_m=eyes[i], depth_m=_depth(scene, found[i][0], backend))
        for i in _most_different(eyes, MOST_VIEWS)
    )


def seen_from(views: tuple[View, ...], points_m: Float[Tensor, "P 3"], normals: Float[Tensor, "P 3"]) -> Float[Tensor, "V P"]:
    """How well each view sees places with unit normals (frame of the actor): the cosine to the eye, 0 where it is hidden or faces away."""
    out = points_m.new_zeros(len(views), len(points_m))
    for i, view in enumerate(views):
        to_eye = torch.nn.functional.normalize(upload(view.eye_m, points_m.device) - points_m, dim=1)
        cosine = (to_eye * normals).sum(dim=1)
        out[i] = torch.where(cosine > _GRAZING, cosine, 0.0) * view.shows(points_m)[0]
    return out


def azimuths_of(views: tuple[View, ...], weights: Float[Tensor, "V P"], *, symmetric: bool) -> list[int]:
    """From where views show much of an actor: azimuths in its frame (0 ahead of it, 90 to its left), degrees, in steps of 15. `weights`
    as `seen_from` gives them; a `symmetric` actor looks the same from the other side."""
    if not views:
        return []
    shown = weights.sum(dim=1)
    good = (shown > _MUCH_OF_IT * shown.max()).tolist()
    azimuths = [np.degrees(np.arctan2(view.eye_m[1], view.eye_m[0])) for view, counts in zip(views, good) if counts]
    steps = {round(azimuth / _STEP_DEG) for azimuth in (*azimuths, *(-azimuth for azimuth in azimuths if symmetric))}
    return sorted({step * _STEP_DEG % 360 for step in steps})


def pose_in_picture(actor: RigidActor, shot: Shot) -> np.ndarray | None:
    """Pose `[4, 4]` of the actor in the world at the time of a shot that has a part of its box in the picture; None where it has none."""
    pose = actor.world_from_node(shot.mid_us)
    if pose is None:
        return None
    corners = np.concatenate([box_corners(actor.track.size_m), np.zeros((1, 3))])
    inside = project(shot.camera, transform(inverse(shot.world_from_camera) @ pose, corners))[1]
    return pose if inside.any() else None


def _most_different(eyes_m: Float[np.ndarray, "S 3"], count: int) -> list[int]:
    """Farthest point after farthest point, by direction and by the logarithm of distance, from the nearest eye on; in the order of time."""
    distance = np.maximum(np.linalg.norm(eyes_m, axis=1), 1e-3)
    place = np.concatenate([eyes_m / distance[:, None], 0.3 * np.log(distance)[:, None]], axis=1)
    chosen = [int(distance.argmin())]
    gap = np.linalg.norm(place - place[chosen[0]], axis=1)
    while len(chosen) < min(count, len(eyes_m)):
        chosen.append(int(gap.argmax()))
        gap = np.minimum(gap, np.linalg.norm(place - place[chosen[-1]], axis=1))
    return sorted(set(chosen))


def _depth(scene: Scene, shot: Shot, backend: Backend | None) -> Float[Tensor, "h w"]:
    """Camera z of what a shot shows, drawn small; 0 where less than half of the pixel is covered."""
    camera = shot.camera
    if camera.width > _WIDTH_PX:
        camera = camera.resized(_WIDTH_PX, max(8, round(camera.height * _WIDTH_PX / camera.width)))
    still = Shot.still(camera, shot.world_from_camera, shot.mid_us)
    with torch.no_grad():
        drawn = render(scene, still, _DEPTH, backend=backend)
    assert drawn.depth_m is not None
    return torch.where(drawn.opacity > 0.5, drawn.depth_m, 0.0)
