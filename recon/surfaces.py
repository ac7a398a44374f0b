"""Where the surfaces lie that a picture shows: its depth along its pixels' rays, of both splat models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.shot import Shot
from splatmend.recon.raster.api import Model
from splatmend.recon.raster.camera_rays import PixelLines
from splatmend.recon.sky import ray_camera_of
from splatmend.recon.transfer import upload_together


@dataclass(frozen=True, kw_only=True)
class PictureRays:
    """The rays of a picture's pixels, from `starts` (one per row, column or picture) along `directions` whose camera z is 1 at the time of
    each row; both are seen from an origin, in the axes of the world."""

    starts: Float[Tensor, "#H #W 3"]
    directions: Float[Tensor, "H W 3"]

    @staticmethod
    def of(shot: Shot, model: Model, device: torch.device, origin_world_m: Float[np.ndarray, "3"]) -> PictureRays:
        """Those of a shot as a splat model draws it."""
        lines = PixelLines.of(ray_camera_of(shot, model), device)
        poses = lines.world_from_line.copy()
        poses[:, :3, 3] -= origin_world_m
        turns, starts = upload_together([poses[:, :3, :3], poses[:, :3, 3]], device)
        sideways = lines.sideways and len(starts) > 1
        return PictureRays(starts=starts[None] if sideways else starts[:, None], directions=lines.turned(turns))

    def at(self, depth_m: Float[Tensor, "H W"]) -> Float[Tensor, "H W 3"]:
        """The places at these depths (camera z at the time of each row)."""
        return self.starts + self.directions * depth_m[..., None]
