"""Terms of the fitting loss. Shape letters: H W pixels, P LiDAR points."""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@functools.lru_cache(maxsize=4)
def _window(channels: int, device: torch.device) -> Tensor:
    """Gaussian of width 11 and sigma 1.5, one copy per channel: `[channels, 1, 11]`."""
    x = torch.arange(-5, 6, dtype=torch.float32, device=device)
    weights = torch.exp(-(x**2) / (2 * 1.5**2))
    return (weights / weights.sum()).expand(channels, 1, 11)


def _blurred(maps: Tensor) -> Tensor:
    """`[C, H, W]` through the window, without padding."""
    window = _window(maps.shape[0], maps.device)
    rows = torch.nn.functional.conv2d(maps[None], window[:, :, :, None], groups=maps.shape[0])
    return torch.nn.functional.conv2d(rows, window[:, :, None, :], groups=maps.shape[0])[0]


def ssim(picture: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"]) -> Tensor:
    """Mean structural similarity of two pictures in [0, 1] over the windows that lie inside (Wang et al. 2004; window 11, sigma 1.5)."""
    x, y = picture.permute(2, 0, 1), truth.permute(2, 0, 1)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blurred(torch.cat([x, y, x * x, y * y, x * y])).split(3)
    variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)).mean()


def photometric(
    picture: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"], valid: Bool[Tensor, "H W"] | None, ssim_share: float
) -> dict[str, Tensor]:
    """Weighted L1 and 1 - SSIM. Pixels that are not valid count as right."""
    if valid is not None:
        picture = torch.where(valid[..., None], picture, truth)
    terms = {"l1": (1 - ssim_share) * (picture - truth).abs().mean()}
    if ssim_share > 0:
        terms["ssim"] = ssim_share * (1 - ssim(picture, truth))
    return terms


def relative_depth(depth_m: Float[Tensor, "P"], target_m: Float[Tensor, "P"]) -> Tensor:
    """Mean of |depth - target| / target, each held to 1 so that a wrong return cannot tear a hole."""
    return ((depth_m - target_m).abs() / target_m).clamp_max(1.0).mean()


def downward_pixels(directions_world: Float[Tensor, "H W 3"], up_world: tuple[float, float, float], degrees: float = 3.0) -> Tensor:
    """Bool `[H, W]`: rays that go down by more than an angle."""
    up = torch.tensor(up_world, device=directions_world.device)
    sine = torch.nn.functional.normalize(directions_world, dim=-1) @ (up / up.norm())
    return sine < -math.sin(math.radians(degrees))
