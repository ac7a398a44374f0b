"""What lies behind every Gaussian: a picture of all directions, looked up by the ray's direction alone.

The map is equirectangular. In the sky's frame z points up; column 0 begins at azimuth -180 degrees (counted from x towards y), row 0 at the
zenith.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.shot import Shot
from splatmend.recon.raster import camera_rays
from splatmend.recon.raster.api import Model
from splatmend.recon.raster.camera_rays import RayCamera
from splatmend.recon.transfer import upload


@dataclass(frozen=True, kw_only=True)
class SkyMap:
    """`logits [H, W, 3]` go through a sigmoid; `sky_from_world [3, 3]` float64 turns directions."""

    logits: Float[Tensor, "H W 3"]
    sky_from_world: np.ndarray

    @classmethod
    def uniform(cls, rgb: tuple[float, float, float], up_world: tuple[float, float, float], height: int = 256) -> SkyMap:
        """One colour everywhere, `height` rows."""
        colour = torch.tensor(rgb, dtype=torch.float32).clamp(0.02, 0.98)
        logits = torch.logit(colour).expand(height, 2 * height, 3).clone()
        return cls(logits=logits, sky_from_world=rotation_to_z(np.asarray(up_world, dtype=np.float64)))

    def with_logits(self, logits: Tensor) -> SkyMap:
        """The same frame with another picture."""
        return SkyMap(logits=logits, sky_from_world=self.sky_from_world)

    def to(self, device: str | torch.device) -> SkyMap:
        """The same map on another device."""
        return self.with_logits(self.logits.to(device))

    def colours(self, directions_world: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
        """sRGB in [0, 1] seen along directions of the world (any length), bilinear, continuous across the seam."""
        turned = directions_world @ self._turn
        return sky_colours(self.logits, torch.nn.functional.normalize(turned, dim=-1))

    @cached_property
    def _turn(self) -> Float[Tensor, "3 3"]:
        """What turns directions of the world, which are rows."""
        return upload(self.sky_from_world.T, self.logits.device)


def sky_colours(logits: Float[Tensor, "S S2 3"], directions_sky: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """What a map shows along unit directions of its own frame; see `SkyMap.colours`."""
    return look_up(logits, directions_sky).sigmoid()


def look_up(panorama: Float[Tensor, "S S2 C"], directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch C"]:
    """Values of a picture of all directions along unit directions of its own frame, bilinear, continuous across the seam."""
    x, y, z = directions.unbind(-1)
    height, width = panorama.shape[:2]
    column = (torch.atan2(y, x) / (2 * math.pi) + 0.5) * width
    row = (0.5 - torch.asin(z.clamp(-1, 1)) / math.pi) * height
    # One column more at each side makes the seam continuous; grid_sample counts from -1 to 1 over the padded width.
    padded = torch.cat([panorama[:, -1:], panorama, panorama[:, :1]], dim=1).permute(2, 0, 1)[None]
    grid = torch.stack([(column + 1.0) / (width + 2) * 2 - 1, row / height * 2 - 1], dim=-1)
    shape = grid.shape[:-1]
    grid = grid.reshape(1, 1, -1, 2) if len(shape) != 2 else grid[None]
    seen = torch.nn.functional.grid_sample(padded, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return seen[0].permute(1, 2, 0).reshape(*shape, panorama.shape[2])


def ray_camera_of(shot: Shot, model: Model) -> RayCamera:
    """How a shot's pixels look: as those of an undistorted camera at mid exposure for `ewa`, of the lens and each row's own time for
    `ray`."""
    if model == "ray":
        return RayCamera.of(shot)
    return RayCamera(camera=shot.camera, world_from_first=shot.world_from_camera, world_from_last=shot.world_from_camera)


def ray_directions(shot: Shot, device: str | torch.device = "cpu", model: Model = "ewa") -> Float[Tensor, "H W 3"]:
    """Directions in the world (not normalised: camera z is 1) through the pixel centres, as `ray_camera_of` says."""
    return camera_rays.ray_directions(ray_camera_of(shot, model), torch.device(device))


def rotation_to_z(up: np.ndarray) -> np.ndarray:
    """The shortest rotation `[3, 3]` that brings a direction to z."""
    up = up / np.linalg.norm(up)
    axis = np.cross(up, [0.0, 0.0, 1.0])
    sine, cosine = np.linalg.norm(axis), up[2]
    if sine < 1e-9:
        return np.diag([1.0, 1.0, 1.0]) if cosine > 0 else np.diag([1.0, -1.0, -1.0])
    x, y, z = axis / sine
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)
