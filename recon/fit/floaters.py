"""Floaters: what is drawn before the place where LiDAR met something, looked for picture by picture and taken out.

What a Gaussian has of LiDAR's pixels comes from one pass with channels of zeros: the gradient of a sum over pixels, each with a weight,
by a Gaussian's channel is the sum of its shares of these pixels times their weights. Weights 1, L and L^2, with L the logarithm of a
return's depth, give mean and variance of L over what the Gaussian shows. Where its own depth lies at a distance d before the mean, no
more than variance / (variance + d^2) of that can be at its depth or before it (Cantelli's inequality).

Shape letters: N Gaussians of the background, P pixels with a return.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from splatmend.datasets.shot import Shot
from splatmend.recon.fit.config import FloatersConfig
from splatmend.recon.raster.api import Backend
from splatmend.recon.render import ActorPoses, draw_splats
from splatmend.recon.scene import Scene

_LEAST_WEIGHT = 0.02
"""Pixels' shares that a Gaussian must have of a picture's returns, taken together, for the picture to say anything of it."""
_MIDDLE = math.log(10.0)
"""Logarithms of depths count from here, where float32 keeps the most of their squares."""


@dataclass(frozen=True, kw_only=True)
class LidarView:
    """A picture, and the depths (camera z, metres) that LiDAR gives some of its pixels (flat indices)."""

    shot: Shot
    actor_poses: ActorPoses | None
    pixels: Int[Tensor, "P"]
    depth_m: Float[Tensor, "P"]


def floaters(scene: Scene, views: Iterable[LidarView], config: FloatersConfig, backend: Backend | None = None) -> Bool[Tensor, "N"]:
    """Which Gaussians of the background float before what LiDAR measured, in at least `config.least_views` of the views and in nearly all
    that they show there. What no return looks at says nothing, and stays."""
    scene = _without_graph(scene)
    gaussians = scene.background.gaussians
    size_m = gaussians.scales.amax(dim=1)
    shown, floating = torch.zeros_like(size_m), torch.zeros_like(size_m)
    times = torch.zeros(len(size_m), dtype=torch.int32, device=scene.device)
    for view in views:
        if not len(view.pixels):
            continue
        moments, depths_m = _moments(scene, view, backend)
        share, first, second = moments.unbind(dim=1)
        judged = (share > _LEAST_WEIGHT) & (depths_m > 0) & (depths_m < config.reach_m)
        depths_m = depths_m.clamp_min(1e-3)
        mean = first / share.clamp_min(1e-9)
        variance = (second / share.clamp_min(1e-9) - mean.square()).clamp_min(0)
        # A long Gaussian reaches beyond its middle, by two standard deviations at most.
        ahead = mean - (depths_m.log() - _MIDDLE) - torch.log1p(config.tolerance + 2 * size_m / depths_m)
        at_its_depth = variance / (variance + ahead.square()).clamp_min(1e-12)
        before = judged & (ahead > 0) & (at_its_depth <= config.share)
        shown += torch.where(judged, share, 0)
        floating += torch.where(before, share, 0)
        times += before
    return (times >= config.least_views) & (floating >= (1 - config.share) * shown)


def _moments(scene: Scene, view: LidarView, backend: Backend | None) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N"]]:
    """Sums over the returns of each background Gaussian's shares times 1, L and L^2; and the Gaussians' camera z."""
    drawn = draw_splats(scene, view.shot, (), backend=backend, actor_poses=view.actor_poses, probes=3)
    assert drawn.probes is not None
    logarithms = view.depth_m.log() - _MIDDLE
    weights = torch.stack([torch.ones_like(logarithms), logarithms, logarithms.square()], dim=1)
    at_returns = drawn["probes"].reshape(-1, 3).index_select(0, view.pixels)
    (gradients,) = torch.autograd.grad((at_returns * weights).sum(), drawn.probes)
    count = len(scene.background.gaussians)
    return gradients[:count], drawn.depths_m[:count]


def _without_graph(scene: Scene) -> Scene:
    actors = {name: actor.detached() for name, actor in scene.actors.items()}
    return replace(scene.with_gaussians(scene.background.gaussians.detached()), actors=actors)
