"""A slow rasteriser of the `ray` model in plain torch: the oracle of every fast one.

It evaluates every Gaussian along every ray in float64 by its definition (the greatest density along the line, found by calculus, with the
inverse covariance), knows no tiles and no bounds, and leaves all gradients to autograd. Rays come from OpenCV and from the pose track of
the shot, not from the package.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from raster_oracle import ALPHA_THRESHOLD, STOP, rotation_matrices
from torch import Tensor

from splatmend.datasets.shot import Shot, readout_times_us


@dataclass(frozen=True)
class RayPicture:
    channels: Tensor
    """[H, W, C] float64."""
    opacity: Tensor
    """[H, W] float64."""
    decided: Tensor
    """[H, W] bool: False where some Gaussian lies so near to a threshold that float32 may fall on the other side."""
    reached: Tensor
    """[N] bool: Gaussians that at least one pixel shows."""


def oracle_rays(shot: Shot) -> tuple[Tensor, Tensor]:
    """Origins and directions [H, W, 3] in the world, float64."""
    camera = shot.camera
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 1, 2)
    coefficients = np.asarray(camera.distortion, dtype=np.float64)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-14)
    if camera.distortion_model == "opencv":
        ideal = cv2.undistortPoints(pixels, camera.intrinsics, coefficients, criteria=criteria)
    elif camera.distortion_model == "opencv_fisheye":
        ideal = cv2.fisheye.undistortPoints(pixels, camera.intrinsics, coefficients, criteria=criteria)
    else:
        ideal = (pixels - np.asarray(camera.principal_px)) / np.asarray(camera.focal_px)
    in_camera = np.concatenate([ideal.reshape(camera.height, camera.width, 2), np.ones((camera.height, camera.width, 1))], axis=-1)
    poses = shot.track.at(readout_times_us(shot))
    poses = poses[None] if camera.shutter in ("left_to_right", "right_to_left") else poses[:, None]
    directions = (poses[..., :3, :3] @ in_camera[..., None])[..., 0]
    return torch.from_numpy(np.broadcast_to(poses[..., :3, 3], directions.shape).copy()), torch.from_numpy(directions)


def rasterize_rays(
    means: Tensor,
    quats_wxyz: Tensor,
    scales: Tensor,
    opacities: Tensor,
    channels: Tensor,
    camera_from_world: Tensor,
    origins: Tensor,
    directions: Tensor,
    near_m: float = 0.01,
) -> RayPicture:
    means, quats, scales, opacities, channels, view = (
        t.double() for t in (means, quats_wxyz, scales, opacities, channels, camera_from_world)
    )
    height, width = origins.shape[:2]
    z = means @ view[2, :3] + view[2, 3]
    drawn = (z >= near_m) & (opacities >= ALPHA_THRESHOLD)
    chosen = drawn.nonzero()[:, 0][torch.argsort(z[drawn], stable=True)]
    turns = rotation_matrices(quats)[chosen]
    precision = turns @ torch.diag_embed(scales[chosen] ** -2) @ turns.transpose(1, 2)
    o, d = origins.reshape(-1, 3), directions.reshape(-1, 3)
    offset = o[None] - means[chosen, None]
    along = torch.einsum("pi,nij,pj->np", d, precision, d)
    # The density along o + t d is greatest at t = -(d P offset) / (d P d).
    t = -torch.einsum("pi,nij,npj->np", d, precision, offset) / along
    nearest = offset + t[..., None] * d
    sigma = 0.5 * torch.einsum("npi,nij,npj->np", nearest, precision, nearest)
    raw = opacities[chosen, None] * torch.exp(-sigma)
    alpha = torch.where(raw >= ALPHA_THRESHOLD, raw.clamp(max=0.999), torch.zeros_like(raw))
    light = torch.cumprod(1.0 - alpha, dim=0)
    alpha_drawn = torch.where(light > STOP, alpha, torch.zeros_like(alpha))
    behind = torch.cumprod(1.0 - alpha_drawn, dim=0)
    before = torch.cat([torch.ones(1, len(o), dtype=torch.float64), behind])
    picture = torch.einsum("np,nc->pc", alpha_drawn * before[:-1], channels[chosen])
    near_threshold = ((raw / ALPHA_THRESHOLD - 1.0).abs() < 1e-3) | ((raw / 0.999 - 1.0).abs() < 1e-4)
    near_stop = (light / STOP - 1.0).abs() < 1e-2
    reached = torch.zeros(len(means), dtype=torch.bool)
    reached[chosen[(alpha_drawn > 0).any(dim=1)]] = True
    return RayPicture(
        channels=picture.reshape(height, width, -1),
        opacity=(1.0 - before[-1]).reshape(height, width),
        decided=~(near_threshold | near_stop).any(dim=0).reshape(height, width),
        reached=reached,
    )
