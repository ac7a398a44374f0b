"""Terms of the fitting loss. Shape letters: H W pixels, P LiDAR points."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from splatmend.datasets.ssim import structural_similarity


def ssim(picture: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"]) -> Tensor:
    """Mean structural similarity of two pictures in [0, 1]."""
    return structural_similarity(picture.permute(2, 0, 1)[None], truth.permute(2, 0, 1)[None])[0]


def photometric(
    picture: Float[Tensor, "H W 3"],
    truth: Float[Tensor, "H W 3"],
    valid: Bool[Tensor, "H W"] | Float[Tensor, "H W"] | None,
    ssim_share: float,
) -> dict[str, Tensor]:
    """Weighted L1 and 1 - SSIM. Pixels that are not valid count as right; where `valid` is a share in [0, 1], their difference from the
    truth counts by as much."""
    if valid is not None:
        mixed = valid.is_floating_point()
        picture = torch.lerp(truth, picture, valid[..., None]) if mixed else torch.where(valid[..., None], picture, truth)
    terms = {"l1": (1 - ssim_share) * (picture - truth).abs().mean()}
    if ssim_share > 0:
        terms["ssim"] = ssim_share * (1 - ssim(picture, truth))
    return terms


def relative_depth(depth_m: Float[Tensor, "P"], target_m: Float[Tensor, "P"], shares: Float[Tensor, "P"]) -> Tensor:
    """Mean of |depth - target| / target, each held to 1 so that a wrong return cannot tear a hole; `shares` is what each counts."""
    return (((depth_m - target_m).abs() / target_m).clamp_max(1.0) * shares).sum()


def bending(depth_m: Float[Tensor, "H W"], opacity: Float[Tensor, "H W"], truth: Float[Tensor, "H W 3"], edge: float = 10.0) -> Tensor:
    """Mean second difference of the inverse depth along rows and columns, over the inverse depth itself and held to 0.1.

    The inverse depth of a plane is linear in the picture, so surfaces are asked to be flat, whichever way they face. It counts as much as
    the pixel is opaque, and less by exp(-edge * difference) where the photo's colours (in [0, 1]) differ: there a surface may end.
    """
    inverse = 1 / depth_m.clamp_min(0.1)
    weights = opacity.detach()
    total = torch.zeros((), device=depth_m.device)
    for along in (0, 1):
        size = inverse.shape[along] - 2
        before, here, after = (inverse.narrow(along, start, size) for start in (0, 1, 2))
        step = (truth.narrow(along, 2, size) - truth.narrow(along, 0, size)).abs().amax(dim=-1)
        weight = torch.exp(-edge * step) * weights.narrow(along, 1, size)
        total = total + (weight * ((before + after - 2 * here).abs() / here.detach()).clamp_max(0.1)).mean()
    return total


def below_horizon(upwards: Float[Tensor, "H W"], degrees: float = 3.0) -> Bool[Tensor, "H W"]:
    """Rays that go down by more than an angle; `upwards` is the upward part of their unit directions."""
    return upwards < -math.sin(math.radians(degrees))
