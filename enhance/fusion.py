"""References: a render mended with recorded frames that were warped into its view, before the video model sees it.

A layer of references holds per pixel what a recorded frame shows of the same surface, and whether it saw it. It is as sharp as a photo,
but wrong where the reconstructed depth is, or where something moved. A small network, frame by frame, first shifts each layer by a few
pixels to where it fits the render, then says how much of each layer and of the render itself to take. Taking real frames beside the render
follows image-based rendering (Hedman et al. 2018, "Deep Blending", learned weights) and Difix (arXiv 2503.01774, a reference view).

Shape letters: B batch, K layers, T frames, H W pixels (multiples of 4), N = B T.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

_CHANNELS, _DEEP, _MATCHING = 32, 48, 32
_REACH = 2
"""A layer is shifted by up to so many pixels of half the size, so twice as many of its own."""
_SHIFTS = [(dx, dy) for dy in range(-_REACH, _REACH + 1) for dx in range(-_REACH, _REACH + 1)]
_SEEN = 0.999


class ReferenceFusion(nn.Module):
    """Frames and layers of references -> frames. A fresh one moves each layer to where it differs least and takes the mean of all that is
    there; without references frames stay as they are."""

    steps: torch.Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("steps", torch.tensor(_SHIFTS, dtype=torch.float32), persistent=False)
        # How much a difference counts against a shift, and a shift's length (squared, in pixels of half the size) in itself.
        self.log_sharpness = nn.Parameter(torch.tensor(6.0))
        self.log_reluctance = nn.Parameter(torch.tensor(-2.0))
        self.match = nn.Sequential(
            nn.Conv2d(len(_SHIFTS), _MATCHING, 3, padding=1), nn.SiLU(), nn.Conv2d(_MATCHING, len(_SHIFTS), 3, padding=1)
        )
        self.head = nn.Sequential(nn.Conv2d(4 * (3 + 4 * layers), _CHANNELS, 3, padding=1), _Block(_CHANNELS))
        self.down = nn.Conv2d(_CHANNELS, _DEEP, 3, stride=2, padding=1)
        self.deep = nn.Sequential(_Block(_DEEP), _Block(_DEEP, 2))
        self.up = nn.Conv2d(_DEEP, _CHANNELS, 3, padding=1)
        self.tail = nn.Sequential(_Block(_CHANNELS), nn.SiLU())
        self.shares_out = nn.Conv2d(_CHANNELS, 4 * (layers + 1), 3, padding=1)
        for name, parameter in self.named_parameters():
            if name.startswith(("match.2.", "shares_out.")):
                nn.init.zeros_(parameter)

    def forward(self, frames: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Fused frames `[B, 3, T, H, W]` float32 of frames in [-1, 1].

        Args:
            references: `[B, K * 4, T, H, W]` in [-1, 1], of each layer the colours and 1 where they were seen, -1 where not.
        """
        batch, _, count, height, width = frames.shape
        x = frames.transpose(1, 2).flatten(0, 1).float()
        layers = references.transpose(1, 2).reshape(batch * count, self.layers, 4, height, width).float()
        seen = (layers[:, :, 3:] > 2 * _SEEN - 1).float()
        colours = torch.where(seen > 0, layers[:, :, :3], x[:, None])
        colours, seen = self._shifted(x, colours, seen)
        shares = self._shares(x, colours, seen)
        fused = (shares[:, :1] * x[:, None]).sum(dim=1) + (shares[:, 1:] * colours).sum(dim=1)
        return fused.unflatten(0, (batch, count)).transpose(1, 2)

    def _shifted(self, x: torch.Tensor, colours: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Layers `[N, K, 3, H, W]`, and where they were seen `[N, K, 1, H, W]`, moved to where they fit."""
        height, width = x.shape[-2:]
        moved_px = F.interpolate(2 * self._shifts(x, colours, seen), size=(height, width), mode="bilinear", align_corners=False)
        across = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=x.device)
        down = torch.linspace(-1 + 1 / height, 1 - 1 / height, height, device=x.device)
        here = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], dim=-1)
        scale = torch.stack([torch.full_like(moved_px[:, 0], 2 / width), torch.full_like(moved_px[:, 0], 2 / height)], dim=-1)
        grid = here + moved_px.permute(0, 2, 3, 1) * scale
        sampled = F.grid_sample(colours.flatten(0, 1), grid, mode="bicubic", padding_mode="border", align_corners=False)
        there = F.grid_sample(seen.flatten(0, 1), grid.detach(), mode="bilinear", padding_mode="zeros", align_corners=False)
        return sampled.clamp(-1, 1).view_as(colours), (there > _SEEN).float().view_as(seen)

    def _shifts(self, x: torch.Tensor, colours: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """How far to move each layer, `[N K, 2, H/2, W/2]` in pixels of that size (across, down).

        The mean over all shifts, weighted by how well windows of 5x5 fit (soft argmin, Kendall et al. 2017, arXiv 1703.04309), corrected
        by two convolutions of how they fit.
        """
        given = torch.cat([colours.mean(dim=2), seen[:, :, 0]], dim=1)
        given = F.avg_pool2d(torch.cat([x.mean(dim=1, keepdim=True), given], dim=1), 2)
        grey, layers, there = given.split([1, self.layers, self.layers], dim=1)
        height, width = given.shape[-2:]
        layers, there = (F.pad(part, [_REACH] * 4, mode="replicate") for part in (layers, there))
        costs = []
        for dx, dy in _SHIFTS:
            moved = (slice(None), slice(None), slice(_REACH + dy, _REACH + dy + height), slice(_REACH + dx, _REACH + dx + width))
            costs.append((layers[moved] - grey).square() * there[moved])
        cost = F.avg_pool2d(torch.stack(costs, dim=2).flatten(0, 1), 5, stride=1, padding=2, count_include_pad=False)
        logits = -self.log_sharpness.float().exp() * cost
        logits = logits - (self.log_reluctance.float().exp() * self.steps.float().square().sum(dim=1))[:, None, None]
        logits = logits + self.match((8 * cost).to(self.shares_out.weight.dtype)).float()
        return torch.einsum("nshw,sc->nchw", logits.softmax(dim=1), self.steps.float())

    def _shares(self, x: torch.Tensor, colours: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """What to take of the frame and of each layer, `[N, 1 + K, 1, H, W]`; their sum is 1."""
        fine = self.head(_given(x, colours, seen, fold=2).to(self.shares_out.weight.dtype))
        deep = self.deep(self.down(fine))
        wide = F.interpolate(self.up(F.silu(deep)), size=fine.shape[-2:], mode="nearest")
        logits = F.pixel_shuffle(self.shares_out(self.tail(fine + wide)), 2).float()[:, :, None]
        there = torch.cat([torch.ones_like(seen[:, :1]), seen], dim=1)
        # Bounded, so that no exponential overflows.
        weights = there * torch.exp(8 * torch.tanh(logits / 8))
        return weights / weights.sum(dim=1, keepdim=True)


def fresh_fusion(layers: int, seed: int = 0) -> ReferenceFusion:
    """An untrained fusion on the CPU, the same for the same seed; nobody else's random numbers change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReferenceFusion(layers)


def layers_as_channels(known: np.ndarray | None, layers: int, height: int, width: int) -> np.ndarray:
    """A frame's references `[K, H, W, 4]` uint8 as `[H, W, layers * 4]`: the first layers; what is missing was not seen."""
    channels = np.zeros((height, width, 4 * layers), np.uint8)
    if known is not None:
        taken = np.concatenate(list(known[:layers]), axis=-1)
        channels[..., : taken.shape[-1]] = taken
    return channels


class _Block(nn.Module):
    """Two convolutions beside the identity, the second one spread by `dilation`."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.second(F.silu(self.first(F.silu(x))))
        return y


def _given(x: torch.Tensor, colours: torch.Tensor, seen: torch.Tensor, *, fold: int) -> torch.Tensor:
    """The frame, how each layer differs from it and where that is known, folded into channels."""
    differs = torch.cat([(colours - x[:, None]) * seen, seen], dim=2).flatten(1, 2)
    return F.pixel_unshuffle(torch.cat([x, differs], dim=1), fold)
