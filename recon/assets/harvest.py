"""Actors of a scene as assets: cleaned, completed by symmetry, and with materials where the scene's light is known."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from splatmend.datasets.errors import UserError
from splatmend.recon.assets.actor_light import lit_views
from splatmend.recon.assets.asset import Asset
from splatmend.recon.assets.completion import Halves, completed, completed_material, halves
from splatmend.recon.assets.ghost import ghost_of
from splatmend.recon.assets.quality import quality_of
from splatmend.recon.assets.shape_normals import nearest, nearest_distance, outwards, shape_normals
from splatmend.recon.assets.sightings import SEEN_FROM, WELL_SEEN, View, azimuths_of, seen_from, views_of
from splatmend.recon.assets.unlit import unlit_material
from splatmend.recon.densify import rotated
from splatmend.recon.gaussians import Gaussians, concatenate
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.raster.api import Backend
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import file_name

_MARGIN_M, _BELOW_M = 0.15, 0.03
"""How far Gaussians may lie outside the box, and below it, where the road begins."""
_STICKS_OUT_M = 0.4
"""How far out of the box one and a half standard deviations may reach."""
_SEE_THROUGH = 1 / 255
"""Less is never drawn. More may be needed: panels can be many thin layers."""
_LARGEST = 0.25
"""Longest standard deviation over the length of the box; larger ones are haze."""
_LONELY = 6.0
"""A Gaussian whose eighth neighbour is so many times farther than most Gaussians', and than its own size, is a floater."""
_FEWEST = 60
_SYMMETRIC = ("vehicle",)


@torch.no_grad()
def harvest_actor(scene: Scene, actor_id: str, light: SceneLight | None, *, backend: Backend | None = None) -> Asset:
    """An actor of a scene as an asset in the frame of its box, on the scene's device.

    Of one that stood still, what the background holds of it belongs to it (`ghost.ghost_of`). Gaussians outside the box, see-through ones,
    haze and floaters are left out. Of vehicles, places that no recorded shot saw take the
    mirror image of the other side where that was seen (`completion.halves`), colours and all. With a light the asset has a material, which
    keeps the light that those colours show.

    Args:
        scene: a fitted scene; its recorded shots say what was seen.
        actor_id: one of its actors.
        light: the scene's light, or None for an asset without material.
        backend: rasteriser; by default the one of the device.

    Raises:
        UserError: for an unknown actor, one that no shot saw, or one with too few Gaussians to be a body.
    """
    if actor_id not in scene.actors:
        known = ", ".join(sorted(scene.actors)[:8]) or "none"
        raise UserError(f"actor {actor_id}: the scene has no such actor; its actors are {known}{' ...' if len(scene.actors) > 8 else ''}.")
    actor = scene.actors[actor_id]
    size_m, actor_class = actor.track.size_m, actor.track.actor_class
    recorded = actor.gaussians.detached()
    if (ghost := ghost_of(scene, actor)) is not None:
        recorded = concatenate([recorded, ghost])
    body = recorded.select(_belongs(recorded, size_m))
    if len(body) < _FEWEST:
        raise UserError(
            f"actor {actor_id}: only {len(body)} Gaussians are left of it, too few for a body; choose one that was seen better."
        )
    views = views_of(scene, actor_id, backend=backend)
    if not views:
        raise UserError(f"actor {actor_id}: no fitted picture of the scene shows it; choose another actor.")
    normals = _oriented_normals(body, size_m, views)
    weights = seen_from(views, body.means, normals)
    symmetric = actor_class in _SYMMETRIC
    sides = _sides(body, size_m, normals, views, weights) if symmetric else None
    material = None
    whole = body if sides is None else completed(body, sides)
    if light is not None:
        lit = lit_views(scene, actor_id, body, normals, views, weights, light, backend=backend)
        material = unlit_material(body, normals, size_m, lit, nearest(body.means))
        if sides is not None:
            material = completed_material(material, sides)
    per_metre = torch.stack([view.shows(body.means)[1] for view in views]).amax(dim=0)
    quality = quality_of(whole, size_m, views, weights, px_per_m=per_metre, symmetric=symmetric, backend=backend)
    facts: dict[str, Any] = {
        "made_from": "scene",
        "log_id": scene.log_id,
        "actor_id": actor_id,
        "views": len(views),
        "left_out": len(recorded) - len(body),
        "mirrored": 0 if sides is None else int(sides.copied.sum()),
        "coverage": quality.coverage,
        "fineness": quality.fineness,
        "solidity": quality.solidity,
        "px_per_m": quality.px_per_m,
        SEEN_FROM: azimuths_of(views, weights, symmetric=symmetric),
        "light": None if light is None else light.made_by,
    }
    return Asset(
        asset_id=asset_name(scene, actor_id),
        actor_class=actor_class,
        size_m=size_m,
        gaussians=whole,
        material=material,
        quality=quality.score,
        facts=facts,
    )


def asset_name(scene: Scene, actor_id: str) -> str:
    """What an actor is called as an asset."""
    return file_name(f"{scene.log_id}-{actor_id}")


def _belongs(gaussians: Gaussians, size_m: tuple[float, float, float]) -> Bool[Tensor, "N"]:
    """Which Gaussians are part of the body."""
    half = gaussians.means.new_tensor(size_m) / 2
    inside = (gaussians.means.abs() <= half + _MARGIN_M).all(dim=1) & (gaussians.means[:, 2] >= -half[2] - _BELOW_M)
    # What sticks far out of the box is a haze around the body, or its shadow.
    axes = rotated(
        normalize(gaussians.quats_wxyz, dim=1).repeat_interleave(3, dim=0), torch.eye(3, device=half.device).repeat(len(gaussians), 1)
    ).view(-1, 3, 3)
    deviation = (axes * gaussians.scales[:, :, None]).square().sum(dim=1).sqrt()
    inside &= (gaussians.means.abs() + 1.5 * deviation <= half + _STICKS_OUT_M).all(dim=1)
    solid = (gaussians.opacities > _SEE_THROUGH) & (gaussians.scales.amax(dim=1) < _LARGEST * max(size_m))
    keep = inside & solid
    rows = keep.nonzero()[:, 0]
    if len(rows) > 16:
        means = gaussians.means[rows]
        gap = (means[nearest(means, 9)[:, -1]] - means).norm(dim=1)
        keep[rows[(gap > _LONELY * gap.median()) & (gap > _LONELY * gaussians.scales[rows].amax(dim=1))]] = False
    return keep


def _oriented_normals(body: Gaussians, size_m: tuple[float, float, float], views: tuple[View, ...]) -> Float[Tensor, "N 3"]:
    """Normals by shape, their side by the box and by where the cameras stood that had the places before them."""
    towards = torch.zeros_like(body.means)
    for view in views:
        to_eye = normalize(body.means.new_tensor(view.eye_m.tolist()) - body.means, dim=1)
        towards += to_eye * view.shows(body.means)[0][:, None]
    return shape_normals(body, size_m, towards / len(views))


def _sides(
    body: Gaussians,
    size_m: tuple[float, float, float],
    normals: Float[Tensor, "N 3"],
    views: tuple[View, ...],
    weights: Float[Tensor, "V N"],
) -> Halves:
    """Who stays and who is copied to the other side, by looks smoothed over neighbours. Nothing is copied to where seen parts lie."""
    flip = body.means.new_tensor([1.0, -1.0, 1.0])
    near = nearest(body.means, 8)
    seen = weights.sum(dim=0)
    mirror_seen = seen_from(views, body.means * flip, normals * flip).sum(dim=0)
    found = halves(seen[near].mean(dim=1), mirror_seen[near].mean(dim=1))
    beyond = body.means[seen >= WELL_SEEN]
    if not len(beyond):
        return found
    gap = nearest_distance(body.means * flip, beyond)
    # The inside of a far wheel, seen below the floor, is no outside of the near one.
    facing_out = (normals * outwards(body.means, size_m)).sum(dim=1) > 0.2
    usual = (body.means[near[:, -1]] - body.means).norm(dim=1).median()
    return Halves(stays=found.stays, copied=found.copied & (gap > usual) & facing_out)
