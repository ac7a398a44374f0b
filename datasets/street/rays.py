"""Rays of a shot: where each sub-pixel looks from and to, and at which moment (torch, float32)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot, readout_times_us
from splatmend.datasets.undistort import ideal_from_pixels


@dataclass(frozen=True, kw_only=True)
class Rays:
    """N rays: `origins [N, 3]` and unit `directions [N, 3]` in the world, `moment [N]` int64, an index into `moments_us [M]` int64;
    `spread_rad` is the angle between neighbouring rays (for texture filtering)."""

    origins: torch.Tensor
    directions: torch.Tensor
    moment: torch.Tensor
    moments_us: np.ndarray
    spread_rad: float

    def at(self, index: torch.Tensor) -> Rays:
        """Some of the rays."""
        return replace(self, origins=self.origins[index], directions=self.directions[index], moment=self.moment[index])


def pixel_directions(camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """Viewing directions `[..., 3]` float64 with z = 1 in the camera's frame through pixels `[..., 2]` (x, y), distortion undone."""
    xy = ideal_from_pixels(camera, pixels.reshape(-1, 2))
    return np.concatenate([xy, np.ones((len(xy), 1))], axis=1).reshape(*pixels.shape[:-1], 3)


def shot_rays(shot: Shot, offset_px: tuple[float, float], device: torch.device, spread_px: float = 1.0) -> tuple[Rays, torch.Tensor]:
    """One ray a pixel through `offset_px` (x, y) from each pixel's corner, row by row, and `[N]` the cosine between each ray and the
    camera's axis (distance times it is the camera's z). All sub-rays of a pixel see its row's (or column's) moment. `spread_px` is the
    distance between neighbouring rays in pixels."""
    camera = shot.camera
    x, y = np.meshgrid(np.arange(camera.width) + offset_px[0], np.arange(camera.height) + offset_px[1])
    directions = pixel_directions(camera, np.stack([x, y], axis=-1))
    lengths = np.linalg.norm(directions, axis=-1)
    times = readout_times_us(shot)
    moments_us, line_moment = np.unique(times, return_inverse=True)
    sideways = shot.camera.shutter in ("left_to_right", "right_to_left")
    moment = np.broadcast_to(line_moment[None, :] if sideways else line_moment[:, None], (camera.height, camera.width)).reshape(-1)
    poses = torch.from_numpy(shot.track.at(moments_us)).to(device)
    index = torch.from_numpy(moment.astype(np.int64)).to(device)
    unit = torch.from_numpy((directions / lengths[..., None]).reshape(-1, 3)).to(device)
    if len(moments_us) == 1:
        world = unit @ poses[0, :3, :3].T
        origins = poses[0, :3, 3].expand(len(index), 3)
    else:
        world = (poses[index, :3, :3] @ unit[:, :, None])[:, :, 0]
        origins = poses[index, :3, 3]
    rays = Rays(
        origins=origins.float().contiguous(),
        directions=world.float().contiguous(),
        moment=index,
        moments_us=moments_us,
        spread_rad=spread_px / float(np.mean(camera.focal_px)),
    )
    return rays, torch.from_numpy(1.0 / lengths.reshape(-1)).float().to(device)
