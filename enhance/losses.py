"""Training losses by name and weight.

Pixel terms take frames `[B, 3, t, H, W]` in [-1, 1] (not clamped) and return the **sum over frames** of each frame's mean over batch, so
that one division by the number of valid frames gives the clip's mean, however the frames were grouped. `latent_mse` is on latents.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from splatmend.datasets.errors import UserError
from splatmend.datasets.image_metrics import BACKBONE_FILES, LpipsNet, hub_checkpoints, lpips_available, lpips_network
from splatmend.datasets.ssim import structural_similarity
from splatmend.enhance.flow_loss import Motion, flow_warping
from splatmend.enhance.perceptual import gram_of_frames, lpips_of_frames

PixelTerm = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LATENT_MSE = "latent_mse"
FLOW_WARPING = "flow_warping"
"""Flicker along the target's motion, see `splatmend.enhance.flow_loss`. It needs the target's flow, so trainings ask for it by a setting
of its own."""
_ZOOM = (1.1, 2.2)


def _l1(frames: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (frames - target).abs().mean(dim=(0, 1, 3, 4)).sum()


def _mse(frames: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((frames - target) ** 2).mean(dim=(0, 1, 3, 4)).sum()


def _ssim(frames: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return structural_dissimilarity(_pictures(frames), _pictures(target)).sum() / frames.shape[0]


def _lpips(net: LpipsNet, frames: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return lpips_of_frames(lpips_network(net, str(frames.device)), frames, target) / frames.shape[0]


def _gram(net: LpipsNet, frames: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return gram_of_frames(lpips_network(net, str(frames.device)), frames, target) / frames.shape[0]


def _lpips_views(net: LpipsNet, frames: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    views = random_views(torch.cat([frames, target], dim=2))
    return _lpips(net, *views.split(frames.shape[2], dim=2))


def random_views(clips: torch.Tensor) -> torch.Tensor:
    """Each clip [B, 3, t, H, W] through a magnifying window of its own, the same for all its frames; mirrored or not. Same shape.

    The networks' layers lie on grids of 2, 4 and 8 pixels. Where every picture meets them alike, a model learns to draw what those grids
    take for detail: weaves and stairs of the same periods. Ensembles of random transforms close that way (E-LPIPS, Kettunen et al. 2019,
    arXiv 1906.03973); windows enlarged by 1.1 to 2.2 at any offset put a pattern of one period on no grid for long.
    """
    batch, channels, frames, height, width = clips.shape
    draw = torch.rand(4, batch, device=clips.device)
    share = 1 / (_ZOOM[0] * (_ZOOM[1] / _ZOOM[0]) ** draw[0])
    theta = torch.zeros(batch, 2, 3, device=clips.device)
    theta[:, 0, 0], theta[:, 1, 1] = torch.where(draw[1] < 0.5, share, -share), share
    theta[:, 0, 2], theta[:, 1, 2] = (1 - share) * (2 * draw[2] - 1), (1 - share) * (2 * draw[3] - 1)
    grid = F.affine_grid(theta, [batch, channels, height, width], align_corners=False)
    seen = F.grid_sample(clips.flatten(1, 2), grid.to(clips.dtype), mode="bilinear", padding_mode="border", align_corners=False)
    return seen.unflatten(1, (channels, frames))


PIXEL_TERMS: dict[str, PixelTerm] = {
    "l1": _l1,
    "mse": _mse,
    "ssim": _ssim,
    "lpips_squeeze": functools.partial(_lpips, "squeeze"),
    "lpips_alex": functools.partial(_lpips, "alex"),
    "lpips_vgg": functools.partial(_lpips, "vgg"),
    "lpips_squeeze_views": functools.partial(_lpips_views, "squeeze"),
    "lpips_alex_views": functools.partial(_lpips_views, "alex"),
    "lpips_vgg_views": functools.partial(_lpips_views, "vgg"),
    "gram_squeeze": functools.partial(_gram, "squeeze"),
    "gram_vgg": functools.partial(_gram, "vgg"),
}
"""Add a pixel loss here: name -> function of frames and target that sums over frames."""


def check_losses(weights: Mapping[str, float]) -> None:
    """Raise `UserError` for an unknown loss, a weight that is negative or no number, or no loss at all."""
    known = (LATENT_MSE, *PIXEL_TERMS)
    for name, weight in weights.items():
        if name not in known:
            raise UserError(f"losses: there is no loss named {name}; choose from {', '.join(known)}.")
        if not 0 <= weight < math.inf:
            raise UserError(f"losses: {name} has the weight {weight}; give 0 or more.")
    if not any(weight > 0 for weight in weights.values()):
        raise UserError("losses: no loss has a weight above 0; give at least one.")


def check_networks(weights: Mapping[str, float]) -> None:
    """Raise `UserError` for a perceptual loss whose network's file is missing."""
    for name, weight in weights.items():
        net = name.removeprefix("lpips_").removeprefix("gram_").removesuffix("_views")
        if name.startswith(("lpips_", "gram_")) and weight > 0 and not lpips_available(net):  # type: ignore[arg-type]
            path = hub_checkpoints() / BACKBONE_FILES[net]
            raise UserError(
                f"{path}: the network of loss {name} is missing; put torchvision's {BACKBONE_FILES[net]} there, or train with l1 and ssim."
            )


class PixelLoss:
    """Weighted sum of pixel terms; `parts` gathers each term's detached sum over frames until `take_parts`."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        check_losses({name: weight for name, weight in weights.items() if name != FLOW_WARPING} or {"l1": 1.0})
        check_networks(weights)
        self.weights = {name: weight for name, weight in weights.items() if name != LATENT_MSE and weight > 0}
        self._parts: dict[str, torch.Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self.weights)

    @property
    def needs_flow(self) -> bool:
        """Whether it must be told how the target moves."""
        return FLOW_WARPING in self.weights

    def __call__(self, frames: torch.Tensor, target: torch.Tensor, motion: Motion | None = None) -> torch.Tensor:
        """Scalar float32, the sum over the t frames of `[B, 3, t, H, W]`. `ValueError` where the motion is needed and missing."""
        total = torch.zeros((), device=frames.device)
        for name, weight in self.weights.items():
            # Perceptual networks may run in half precision under autocast; the others are sums where that would lose digits.
            part = self._part(name, frames.float(), target.float(), motion).float()
            total = total + weight * part
            self._parts[name] = self._parts.get(name, torch.zeros_like(part)) + part.detach()
        return total

    def _part(self, name: str, frames: torch.Tensor, target: torch.Tensor, motion: Motion | None) -> torch.Tensor:
        if name != FLOW_WARPING:
            return PIXEL_TERMS[name](frames, target)
        if motion is None:
            raise ValueError(f"the loss {name} needs the motion of the target")
        return flow_warping(frames - target, motion)

    def take_parts(self) -> dict[str, torch.Tensor]:
        """The sums since the last call, name -> scalar, and forget them."""
        parts, self._parts = self._parts, {}
        return parts


def latent_mse(z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of normalised latents, in float32."""
    return F.mse_loss(z.float(), target.float())


def structural_dissimilarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`1 - SSIM` per picture `[N]` of `[N, 3, H, W]` in [-1, 1]."""
    # The luminance term is a ratio of means, so it needs colours in [0, 1].
    return 1 - structural_similarity((a + 1) / 2, (b + 1) / 2)


def _pictures(frames: torch.Tensor) -> torch.Tensor:
    """`[B, C, t, H, W]` -> `[B * t, C, H, W]`."""
    return frames.transpose(1, 2).flatten(0, 1)
