"""Pictures of assets on plain grey, from any side."""

from __future__ import annotations

import math

import numpy as np
import torch

from splatmend.datasets.images import to_uint8
from splatmend.recon.assets.asset import Asset
from splatmend.recon.harmonics import colours
from splatmend.recon.raster import rasterize

_GREY = 0.62
_FOCAL = 2.4
"""Focal length over the picture's height: bodies look as through a long lens."""


def asset_picture(
    asset: Asset, *, azimuth_deg: float = 35.0, elevation_deg: float = 18.0, width: int = 256, height: int = 192
) -> np.ndarray:
    """`[H, W, 3]` uint8: the asset's own colours, seen from an azimuth (0 before it, 90 at its left) and height, filling the picture.

    The default is the three-quarter view of thumbnails.
    """
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    back = np.array([math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)])
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    rotation = np.stack([right, np.cross(-back, right), -back])  # rows: x right, y down, z forward
    corners = 0.5 * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.asarray(asset.size_m)
    turned = corners @ rotation.T
    # As near as the corners of the box allow.
    distance = max(
        float((np.abs(turned[:, i]) * 2.2 * _FOCAL * height / side - turned[:, 2]).max()) for i, side in ((0, width), (1, height))
    )
    gaussians = asset.gaussians
    device = gaussians.device
    camera_from_body = np.eye(4)
    camera_from_body[:3, :3], camera_from_body[2, 3] = rotation, distance
    eye = torch.from_numpy(back * distance).to(gaussians.means)
    with torch.no_grad():
        drawn = rasterize(
            gaussians.means,
            gaussians.quats_wxyz,
            gaussians.scales,
            gaussians.opacities,
            colours(gaussians.sh, gaussians.means - eye),
            torch.from_numpy(camera_from_body).float().to(device),
            torch.tensor([[_FOCAL * height, 0, width / 2], [0, _FOCAL * height, height / 2], [0, 0, 1]], device=device),
            width,
            height,
            background=torch.full((3,), _GREY, device=device),
        )
    return to_uint8(drawn.channels.cpu().numpy())
