"""Where a recorded frame shows the surfaces of another picture, and its colours there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splatmend.datasets.geometry import inverse
from splatmend.datasets.shot import Shot
from splatmend.recon.point_pixels import point_pixels
from splatmend.recon.raster.api import Model
from splatmend.recon.reference_views import RecordedView, Surfaces
from splatmend.recon.surfaces import PictureRays
from splatmend.recon.transfer import upload


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a picture's surfaces lie, seen from its camera's centre `origin_world_m` in the axes of the world; sky lies very far away.
    `bodies` gives for each owner the pose at which it is drawn."""

    xyz: Float[Tensor, "H W 3"]
    origin_world_m: Float[np.ndarray, "3"]
    surfaces: Surfaces
    bodies: Mapping[int, np.ndarray]

    @staticmethod
    def of(shot: Shot, model: Model, surfaces: Surfaces, bodies: Mapping[int, np.ndarray], far: float) -> Places:
        """Those of a shot; bodies that cover no pixel are left out."""
        origin = shot.world_from_camera[:3, 3]
        depth = torch.where(surfaces.sky, far, surfaces.depth_m)
        xyz = PictureRays.of(shot, model, depth.device, origin).at(depth)
        here = set(torch.unique(surfaces.owners).tolist())
        return Places(xyz=xyz, origin_world_m=origin, surfaces=surfaces, bodies={n: pose for n, pose in bodies.items() if n in here})

    def carried(self, bodies: Mapping[int, np.ndarray]) -> Float[Tensor, "H W 3"]:
        """The places with those of bodies where these are at other poses; places of a body that has none are
        no numbers."""
        xyz = self.xyz
        for number, then in self.bodies.items():
            now = bodies.get(number)
            mine = (self.surfaces.owners == number)[..., None]
            if now is None:
                xyz = torch.where(mine, torch.nan, xyz)
            elif not np.array_equal(now, then):
                now_from_then = now @ inverse(then)
                turn = upload(now_from_then[:3, :3], xyz.device)
                shift = now_from_then[:3, :3] @ self.origin_world_m + now_from_then[:3, 3] - self.origin_world_m
                xyz = torch.where(mine, xyz @ turn.T + upload(shift, xyz.device), xyz)
        return xyz


@dataclass(frozen=True, kw_only=True)
class Warp:
    """Per pixel of a picture the pixel (x, y, centres at 0.5) of a recorded frame that shows the same surface, where `seen`."""

    pixels: Float[Tensor, "H W 2"]
    seen: Bool[Tensor, "H W"]


def warp(
    places: Places,
    view: RecordedView,
    model: Model,
    bodies: Mapping[int, np.ndarray],
    *,
    slack: float,
    slack_share: float,
) -> Warp:
    """Where a recorded frame shows the places, bodies moved to their poses at its time. It shows one if its surface there lies at the same
    depth, to `slack_share` of it and `slack`, and has the same owner; sky, if there is sky."""
    shot, shown = view.recorded.shot, view.surfaces
    pixels, z, inside = point_pixels(shot, model, places.carried(bodies), places.origin_world_m)
    width = shown.depth_m.shape[1]
    columns, rows = torch.where(inside[..., None], pixels, 0.0).long().unbind(-1)
    flat = rows * width + columns

    def there(values: Tensor) -> Tensor:
        return values.reshape(-1)[flat]

    near = (z - there(shown.depth_m)).abs() < slack_share * z + slack
    owners = places.surfaces.owners
    sky = places.surfaces.sky
    seen = inside & (owners >= 0) & (there(shown.owners) == owners) & torch.where(sky, there(shown.sky), near & ~there(shown.sky))
    if view.usable is not None:
        seen = seen & there(view.usable)
    return Warp(pixels=pixels, seen=seen)


def sampled(view: RecordedView, pixels: Float[Tensor, "H W 2"]) -> Float[Tensor, "H W 3"]:
    """Colours in [0, 1] of a recorded frame between its pixels, bicubic."""
    height, width = view.rgb.shape[:2]
    grid = torch.stack([pixels[..., 0] / width, pixels[..., 1] / height], dim=-1) * 2 - 1
    picture = view.rgb.permute(2, 0, 1)[None].float() / 255.0
    grid = torch.nan_to_num(grid, nan=-2.0, posinf=2.0, neginf=-2.0)
    colours = torch.nn.functional.grid_sample(picture, grid[None], mode="bicubic", padding_mode="border", align_corners=False)
    return colours[0].permute(1, 2, 0).clamp(0.0, 1.0)
