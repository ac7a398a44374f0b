"""An actor as its recorded views show it, and the light that fell on it then: what its own colours are made of.

It is the inverse of `splatmend.recon.light.relight`, by the same parts, so that an actor lit again by the light it was seen in looks as it
did.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from splatmend.recon.assets.asset import Material
from splatmend.recon.assets.sightings import View
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.harmonics import colours
from splatmend.recon.light.body_light import BodyLight, BodyShape
from splatmend.recon.light.clearing import clear_of_body
from splatmend.recon.light.colour import light_from_picture
from splatmend.recon.light.probe import light_at
from splatmend.recon.light.relight import blurred_highlight, mirrored_surroundings
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.light.scene_sun import SceneSun, recorded_bodies
from splatmend.recon.raster.api import Backend
from splatmend.recon.scene import Scene
from splatmend.recon.transfer import upload

_SKY_DIRECTIONS, _MAP_ROWS = 48, 128
_OWN_BIAS_M, _SCENE_BIAS_M = 0.06, 0.25
_MOST_PLACES = 6
"""Places along the actor's way at which light is worked out; views in between take the nearest."""


@dataclass(frozen=True, kw_only=True)
class LitView:
    """What one view says of N Gaussians: `colour [N, 3]` linear, as seen from there, `weight [N]` how well they are seen,
    `to_eye_world [N, 3]` and `turn [3, 3]` (axes of the actor to those of the world); the `light` around, and the shares of sun and
    environment that reach them."""

    colour: Float[Tensor, "N 3"]
    weight: Float[Tensor, "N"]
    to_eye_world: Float[Tensor, "N 3"]
    turn: Float[Tensor, "3 3"]
    light: SceneLight
    sun_seen: Float[Tensor, "N"]
    sky_seen: Float[Tensor, "N"]

    def diffuse(self, normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """What white matt surfaces with these normals (frame of the actor) would show."""
        return self.light.diffuse(normals @ self.turn.T, self.sun_seen, self.sky_seen)

    def mirrored(self, material: Material) -> Float[Tensor, "N 3"]:
        """What the surfaces mirror towards the eye."""
        normals = material.normals @ self.turn.T
        around = mirrored_surroundings(normals, self.to_eye_world, material, self.light, self.sky_seen)
        return around + blurred_highlight(normals, self.to_eye_world, material, self.light, self.sun_seen)


def lit_views(
    scene: Scene,
    actor_id: str,
    gaussians: Gaussians,
    normals: Float[Tensor, "N 3"],
    views: tuple[View, ...],
    weights: Float[Tensor, "V N"],
    light: SceneLight,
    *,
    backend: Backend | None = None,
) -> tuple[LitView, ...]:
    """The views with the light of their moments: shadows of the actor on itself and of the standing scene on it, and around it what the
    scene shows. `gaussians` and unit `normals` are in the actor's frame, `weights` as `seen_from` gives them."""
    light = light.to(scene.device)
    shape = BodyShape(gaussians, normals, sky_directions=_SKY_DIRECTIONS, rows=_MAP_ROWS, bias_m=_OWN_BIAS_M, backend=backend)
    scene_from_world = np.eye(4)
    scene_from_world[:3, 3] = -scene.origin_world_m
    poses = np.stack([scene_from_world @ view.world_from_actor for view in views])
    size_m = scene.actors[actor_id].track.size_m
    scene = scene.with_gaussians(clear_of_body(scene.background.gaussians, poses, size_m))
    standing = SceneSun(
        scene.background.gaussians,
        poses,
        shape.half_height_m,
        2 * shape.reach_m,
        light,
        bias_m=_SCENE_BIAS_M,
        shading=recorded_bodies(scene),
        backend=backend,
    )
    chosen = _spread_places(poses[:, :3, 3], _MOST_PLACES)
    around = {i: light_at(scene, light, views[i].world_from_actor[:3, 3], views[i].shot.mid_us, backend=backend) for i in chosen}
    reaching: dict[int, tuple[Tensor, Tensor]] = {}
    for i in chosen:
        geometry = standing.geometry_around(upload(poses[i][:3, 3], scene.device), 1.2 * shape.reach_m, _MAP_ROWS)
        moment = BodyLight.of(shape, poses[i], around[i], partial(standing.open_at, geometry=geometry))
        reaching[i] = (moment.sun_on_body(), moment.sky_on_body(normals))
    found = []
    for view, pose, weight in zip(views, poses, weights):
        nearest = chosen[int(np.linalg.norm(poses[chosen, :3, 3] - pose[:3, 3], axis=1).argmin())]
        towards = gaussians.means - upload(view.eye_m, scene.device)
        turn = upload(pose[:3, :3], scene.device)
        found.append(
            LitView(
                colour=light_from_picture(colours(gaussians.sh, towards)),
                weight=weight,
                to_eye_world=normalize(-towards, dim=1) @ turn.T,
                turn=turn,
                light=around[nearest],
                sun_seen=reaching[nearest][0],
                sky_seen=reaching[nearest][1],
            )
        )
    return tuple(found)


def _spread_places(places_m: Float[np.ndarray, "V 3"], count: int) -> list[int]:
    """Indices of a few places that lie apart: the first, then ever the one farthest from those taken, down to a step of a metre."""
    chosen = [0]
    gap = np.linalg.norm(places_m - places_m[0], axis=1)
    while len(chosen) < count and gap.max() > 1.0:
        chosen.append(int(gap.argmax()))
        gap = np.minimum(gap, np.linalg.norm(places_m - places_m[chosen[-1]], axis=1))
    return sorted(chosen)
