"""The surfaces that a picture shows, as places and normals: what shadows fall on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splatmend.datasets.shot import Shot
from splatmend.recon.raster.api import Model
from splatmend.recon.surfaces import PictureRays

_LEAST_OPACITY = 0.5


@dataclass(frozen=True, kw_only=True)
class Receivers:
    """Per pixel where its surface lies (metres from `origin_world_m` of the scene, axes of the world) and its unit normal towards the
    camera; `valid` where something is drawn."""

    points: Float[Tensor, "H W 3"]
    normals: Float[Tensor, "H W 3"]
    valid: Bool[Tensor, "H W"]


def receivers(
    shot: Shot,
    model: Model,
    depth_m: Float[Tensor, "H W"],
    opacity: Float[Tensor, "H W"],
    origin_world_m: Float[np.ndarray, "3"],
) -> Receivers:
    """Surfaces of a picture of a scene, from its depth (camera z at the time of each row) and opacity."""
    rays = PictureRays.of(shot, model, depth_m.device, origin_world_m)
    points = rays.at(depth_m)
    valid = (opacity > _LEAST_OPACITY) & (depth_m > 0)
    return Receivers(points=points, normals=_normals(points, rays.directions), valid=valid)


def _normals(points: Float[Tensor, "H W 3"], directions: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """From differences over five pixels of smoothed places, turned towards the camera."""
    smooth = torch.nn.functional.avg_pool2d(points.permute(2, 0, 1)[None], 5, stride=1, padding=2, count_include_pad=False)
    padded = torch.nn.functional.pad(smooth, (2, 2, 2, 2), mode="replicate")[0]
    across = padded[:, 2:-2, 4:] - padded[:, 2:-2, :-4]
    down = padded[:, 4:, 2:-2] - padded[:, :-4, 2:-2]
    normal = torch.nn.functional.normalize(torch.linalg.cross(across, down, dim=0).permute(1, 2, 0), dim=-1)
    return torch.where((normal * directions).sum(dim=-1, keepdim=True) > 0, -normal, normal)
