"""Synthetic splat-like artefacts on real video, so that any video adds to the pairs that splats give.

What splats do wrong away from their training views: regions blur or lose resolution, double (geometry seen at two depths), thin
needles and soft floaters hang before the scene and move with a parallax of their own, coverage has holes, and parts have another colour
or exposure. All artefacts move coherently over the clip. Random numbers are drawn on the CPU from a given generator, so a clip's
artefacts do not depend on the device.

Shape letters: B batch, T frames, H W pixels, N splats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True, kw_only=True)
class DegradeConfig:
    """How often each artefact appears (probability per clip)."""

    blur: float = 0.7
    low_resolution: float = 0.4
    ghost: float = 0.5
    needles: float = 0.7
    floaters: float = 0.6
    holes: float = 0.35
    colour: float = 0.35
    max_needles: int = 40
    max_floaters: int = 8


class _Draw:
    """Uniform numbers from one CPU generator, handed over on the wanted device."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.generator, self.device = generator, device

    def __call__(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return (low + (high - low) * torch.rand(shape, generator=self.generator)).to(self.device)

    def chance(self, probability: float) -> bool:
        return bool(torch.rand((), generator=self.generator) < probability)

    def one(self, low: float, high: float) -> float:
        return float(low + (high - low) * torch.rand((), generator=self.generator))


@torch.no_grad()
def degrade(clip: torch.Tensor, generator: torch.Generator, config: DegradeConfig | None = None) -> torch.Tensor:
    """Artefacts on clips `[B, 3, T, H, W]` in [-1, 1]; each clip gets its own. `generator` is a CPU generator."""
    config = config or DegradeConfig()
    return torch.stack([_degrade_one(x, _Draw(generator, clip.device), config) for x in clip]).clamp_(-1, 1)


def _degrade_one(x: torch.Tensor, draw: _Draw, config: DegradeConfig) -> torch.Tensor:
    x = x.transpose(0, 1)  # [T, 3, H, W]
    out = x
    if draw.chance(config.blur):
        out = _mix(out, _blur(out, draw.one(0.8, 4.0)), _region(draw, out, draw.one(0.3, 1.0)))
    if draw.chance(config.low_resolution):
        out = _mix(out, _low_resolution(out, draw.one(1.5, 4.0)), _region(draw, out, draw.one(0.3, 1.0)))
    if draw.chance(config.ghost):
        out = _mix(out, _shifted(out, draw), _region(draw, out, draw.one(0.2, 0.7)) * draw.one(0.3, 0.9))
    if draw.chance(config.needles):
        count = int(draw.one(5, config.max_needles + 1))
        out = _splats(out, draw, count, long_px=(0.05, 0.35), thin=(0.02, 0.12), opacity=(0.3, 1.0), colour_jitter=0.4)
    if draw.chance(config.floaters):
        count = int(draw.one(1, config.max_floaters + 1))
        out = _splats(out, draw, count, long_px=(0.05, 0.3), thin=(0.4, 1.0), opacity=(0.15, 0.8), colour_jitter=0.7)
    if draw.chance(config.holes):
        hole = _region(draw, out, draw.one(0.02, 0.15), sharp=12.0)
        out = _mix(out, draw(-1.0, 0.2, 1, 3, 1, 1).expand_as(out), hole)
    if draw.chance(config.colour):
        out = _mix(out, _colour(out, draw), _region(draw, out, draw.one(0.2, 0.6)))
    return out.transpose(0, 1)


def _mix(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return a + mask * (b - a)


def _blur(x: torch.Tensor, sigma_px: float) -> torch.Tensor:
    radius = max(1, min(math.ceil(2.5 * sigma_px), min(x.shape[-2:]) - 1))
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    window = torch.exp(-0.5 * (taps / sigma_px) ** 2)
    window = window / window.sum()
    padded = F.pad(x, (radius,) * 4, mode="reflect")
    rows = window.view(1, 1, -1, 1).expand(3, 1, -1, 1)
    return F.conv2d(F.conv2d(padded, rows, groups=3), rows.transpose(2, 3), groups=3)


def _low_resolution(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Fewer pixels and back by bicubic interpolation without a low-pass: aliasing and ringing."""
    size = tuple(max(4, round(s / factor)) for s in x.shape[-2:])
    small = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
    return F.interpolate(small, size=x.shape[-2:], mode="bicubic", align_corners=False)


def _region(draw: _Draw, x: torch.Tensor, share: float, sharp: float = 4.0) -> torch.Tensor:
    """A smooth mask `[T, 1, H, W]` in [0, 1] over about `share` of the picture, drifting over the clip."""
    frames, _, height, width = x.shape
    cells = int(draw.one(3, 7))
    noise = draw(0.0, 1.0, 1, 1, 2 * cells, 2 * cells)
    step = draw(-0.02, 0.02, 2)
    origin = draw(-0.4, 0.4, 2)
    time = torch.arange(frames, device=x.device, dtype=x.dtype)
    theta = torch.zeros(frames, 2, 3, device=x.device, dtype=x.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = 0.5
    theta[:, :, 2] = origin + time[:, None] * step
    grid = F.affine_grid(theta, [frames, 1, height, width], align_corners=False)
    field = F.grid_sample(noise.expand(frames, -1, -1, -1), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    level = torch.quantile(noise.flatten(), 1.0 - min(share, 1.0))
    return torch.sigmoid((field - level) * sharp * 4)


def _shifted(x: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """The picture warped by a smooth displacement of up to 4 % that changes slowly: the second image of a ghost."""
    frames, _, height, width = x.shape
    cells = int(draw.one(2, 5))
    start, end = draw(-0.08, 0.08, 1, 2, cells, cells), draw(-0.08, 0.08, 1, 2, cells, cells)
    time = torch.linspace(0, 1, frames, device=x.device).view(-1, 1, 1, 1)
    field = F.interpolate(start + time * (end - start) * 0.5, size=(height, width), mode="bicubic", align_corners=True)
    identity = torch.eye(2, 3, device=x.device).expand(frames, 2, 3)
    grid = F.affine_grid(identity, [frames, 1, height, width], align_corners=False) + field.permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _splats(
    x: torch.Tensor,
    draw: _Draw,
    count: int,
    *,
    long_px: tuple[float, float],
    thin: tuple[float, float],
    opacity: tuple[float, float],
    colour_jitter: float,
) -> torch.Tensor:
    """Composite anisotropic Gaussians over the clip. `long_px`: long axis as a share of the height; `thin`: short over long axis."""
    frames, _, height, width = x.shape
    extent = torch.tensor([width, height], device=x.device)
    centre = draw(0.0, 1.0, count, 2) * extent
    # A common motion (the camera's) and each splat's own parallax.
    speed = draw(-0.012, 0.012, 1, 2) * width * draw(0.2, 2.5, count, 1) + draw(-0.003, 0.003, count, 2) * width
    grow = draw(-0.01, 0.01, count)
    angle = draw(0.0, math.pi, count)
    long = draw(*long_px, count) * height * 0.4
    short = (long * draw(*thin, count)).clamp_min(0.4)
    alpha = draw(*opacity, count)
    pixel = torch.minimum(centre.long(), extent - 1)
    colour = x[0][:, pixel[:, 1], pixel[:, 0]].T + draw(-colour_jitter, colour_jitter, count, 3)
    time = torch.arange(frames, device=x.device, dtype=x.dtype)
    out = x
    # Some splats at a time: few kernel launches in bounded memory on a GPU, what the cache holds on a CPU.
    chunk = max(1, (2**24 if x.is_cuda else 2**17) // (frames * height * width))
    for some in torch.arange(count, device=x.device).split(chunk):
        at = centre[some, None] + time[:, None] * speed[some, None]
        size = (1.0 + grow[some, None] * time).clamp_min(0.3)
        dx = torch.arange(width, device=x.device) + 0.5 - at[..., 0].view(-1, frames, 1, 1)
        dy = (torch.arange(height, device=x.device) + 0.5).view(-1, 1) - at[..., 1].view(-1, frames, 1, 1)
        cosine, sine = (f(angle[some]).view(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
        along = (dx * cosine + dy * sine) / (long[some, None] * size).view(-1, frames, 1, 1)
        across = (dy * cosine - dx * sine) / (short[some, None] * size).view(-1, frames, 1, 1)
        covers = along.square_().add_(across.square_()).mul_(-0.5).exp_().mul_(alpha[some].view(-1, 1, 1, 1))
        for cover, tint in zip(covers, colour[some], strict=True):
            out = torch.lerp(out, tint.view(1, 3, 1, 1).expand_as(out), cover.unsqueeze(1).expand_as(out))
    return out


def _colour(x: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """A slight colour cast and an exposure that drifts over the clip, for a part of the picture.

    Nothing in a picture tells of a cast over all of it, so a model that is to undo one learns to shift the colours of good pictures.
    """
    time = torch.linspace(-0.5, 0.5, x.shape[0], device=x.device).view(-1, 1, 1, 1)
    cast = draw(0.93, 1.07, 1, 3, 1, 1)
    exposure = draw(0.9, 1.1, 1, 1, 1, 1) + time * draw(-0.15, 0.15, 1, 1, 1, 1)
    lift = draw(-0.04, 0.04, 1, 3, 1, 1)
    return (x + 1) * cast * exposure - 1 + lift
