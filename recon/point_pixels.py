"""Many places in one exposure, on the scene's device: which pixel sees each of them, as a splat model draws the shot.

What `splatmend.datasets.point_projection` says of a few points in float64, for every pixel of a picture.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splatmend.datasets.geometry import inverse, largest_ideal_radius
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.raster.api import Model
from splatmend.recon.raster.camera_rays import PixelLines
from splatmend.recon.sky import ray_camera_of
from splatmend.recon.transfer import upload

_LEAST_Z = 1e-6
_ROUNDS = 4  # as in `point_projection`


def point_pixels(
    shot: Shot, model: Model, xyz: Float[Tensor, "H W 3"], origin_world_m: Float[np.ndarray, "3"]
) -> tuple[Float[Tensor, "H W 2"], Float[Tensor, "H W"], Bool[Tensor, "H W"]]:
    """Pixels (x, y) and camera z, of the time of the row or column that sees each place, and which lie in front and in the picture.

    Args:
        xyz: places from `origin_world_m`, in the axes of the world; those that are no numbers lie nowhere.
    """
    camera = shot.camera
    ray_camera = ray_camera_of(shot, model)
    lines = PixelLines.of(ray_camera, xyz.device)
    world_from_line = lines.world_from_line.copy()
    world_from_line[:, :3, 3] -= origin_world_m
    line_from_world = inverse(world_from_line)
    middle = shot.world_from_camera.copy()
    middle[:3, 3] -= origin_world_m
    in_camera = _moved(xyz, upload(inverse(middle)[:3], xyz.device))
    pixels, front = _lens_pixels(camera, in_camera)
    if ray_camera.rolls:
        table = upload(line_from_world[:, :3], xyz.device)
        for _ in range(_ROUNDS):
            along = torch.nan_to_num(pixels[..., 0 if lines.sideways else 1])
            poses = table[along.clamp(0, len(table) - 1).long()]
            in_camera = (poses[..., :3] * xyz[..., None, :]).sum(dim=-1) + poses[..., 3]
            pixels, front = _lens_pixels(camera, in_camera)
    x, y = pixels.unbind(-1)
    inside = front & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    return pixels, in_camera[..., 2], inside


def _moved(xyz: Float[Tensor, "H W 3"], pose: Float[Tensor, "3 4"]) -> Float[Tensor, "H W 3"]:
    return xyz @ pose[:, :3].T + pose[:, 3]


def _lens_pixels(camera: Camera, in_camera: Float[Tensor, "H W 3"]) -> tuple[Float[Tensor, "H W 2"], Bool[Tensor, "H W"]]:
    """Pixels of places in the camera's frame, and which lie in front, where the lens model holds."""
    z = in_camera[..., 2]
    ideal = in_camera[..., :2] / z.clamp_min(_LEAST_Z)[..., None]
    front = z > _LEAST_Z
    if camera.distortion_model != "none" and math.isfinite(limit := largest_ideal_radius(camera)):
        front = front & (ideal.square().sum(dim=-1) < limit**2)
    focal, principal = (torch.tensor(pair, dtype=torch.float32, device=z.device) for pair in (camera.focal_px, camera.principal_px))
    return distorted(camera, ideal) * focal + principal, front


def distorted(camera: Camera, ideal: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Distorted normalised coordinates of ideal ones; the formulas of `splatmend.datasets.geometry.distort`."""
    if camera.distortion_model == "none":
        return ideal
    if camera.distortion_model == "opencv_fisheye":
        k = camera.distortion
        radius = ideal.norm(dim=-1, keepdim=True)
        theta = radius.atan()
        t2 = theta.square()
        bent = theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))
        return ideal * torch.where(radius > 1e-9, bent / radius.clamp_min(1e-12), 1.0)
    k1, k2, p1, p2, k3 = camera.distortion
    x, y = ideal.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    across = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    down = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return torch.stack([across, down], dim=-1)
