"""Terms of the fitting loss. Shape letters: H W pixels, P LiDAR points."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splatmend.datasets.image_metrics import structural_similarity


def ssim(picture: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"]) -> Tensor:
    """Mean structural similarity of two pictures in [0, 1]."""
    return structural_similarity(picture.permute(2, 0, 1)[None], truth.permute(2, 0, 1)[None])[0]


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
