"""Opacity of bodies made of many small Gaussians, for the picture that they are drawn in.

The rasteriser widens every Gaussian by a variance of 0.3 square pixels and leaves its opacity, with which scenes were fitted. Of a mesh
that became Gaussians much smaller than a pixel the widened tails add up to a border of more than a pixel. Each is drawn with its opacity
times the ratio of its area before and after, as in Mip-Splatting's filter (Yu et al. 2024).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from splatmend.datasets.geometry import inverse
from splatmend.datasets.shot import Shot
from splatmend.recon.densify import rotated
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.transfer import upload

_ADDED_PX2 = 0.3
"""What `rasterize` adds to both axes (`eps2d`)."""
_NEAREST_M = 0.05
_FARTHEST_ASIDE = 2.0
"""Slopes of lines of sight that count as no greater."""


def sharp_logits(gaussians: Gaussians, world_from_body: Float[np.ndarray, "4 4"], shot: Shot) -> Float[Tensor, "N"]:
    """Logits of opacities with which Gaussians of a body's frame (metres) look as wide in an `ewa` picture as they are."""
    device = gaussians.device
    camera_from_body = inverse(shot.world_from_camera) @ world_from_body
    # Right and down count in pixels at a distance of a metre, so that one copy brings it all to the device.
    pose = upload(np.diag([*shot.camera.focal_px, 1.0]) @ camera_from_body[:3], device)
    means = gaussians.means @ pose[:, :3].T + pose[:, 3]
    z, widest = means[:, 2:].clamp_min(_NEAREST_M), _FARTHEST_ASIDE * max(shot.camera.focal_px)
    slopes = (means[:, :2] / z).clamp(-widest, widest)
    count = len(gaussians)
    quats = normalize(gaussians.quats_wxyz, dim=1).repeat_interleave(3, dim=0)
    axes = rotated(quats, torch.eye(3, device=device).repeat(count, 1)).view(count, 3, 3) * gaussians.scales[:, :, None]
    # Rows: the three axes of each, as long as their deviations, in the camera's frame; then in the picture.
    turned = axes @ pose[:, :3].T
    across = (turned[:, :, :2] - turned[:, :, 2:] * slopes[:, None]) / z[:, None]
    xx, yy = across.square().sum(dim=1).unbind(dim=1)
    xy2 = across.prod(dim=2).sum(dim=1).square()
    before, after = (xx * yy - xy2).clamp_min(0.0), (xx + _ADDED_PX2) * (yy + _ADDED_PX2) - xy2
    opacity = gaussians.opacities * (before / after).sqrt()
    return torch.logit(opacity, eps=1e-6)
