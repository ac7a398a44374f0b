"""Band-limited random textures, evaluated at surface points; the same on every device since the tables come from numpy."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

_SIZE = 256  # texels of the tile
_PERIODS = 32  # of the dominant wavelength in the tile


class Noise:
    """Four independent channels of band-limited noise (mean 0, deviation 1) and a table of uniform numbers for cells."""

    def __init__(self, seed: int, device: torch.device) -> None:
        generator = np.random.default_rng([seed, 77])
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(_SIZE) * _SIZE, np.fft.fftfreq(_SIZE) * _SIZE))
        band = np.exp(-0.5 * (np.log(np.maximum(frequency, 1e-3) / _PERIODS) / 0.45) ** 2)
        tiles = np.stack([np.fft.ifft2(np.fft.fft2(generator.standard_normal((_SIZE, _SIZE))) * band).real for _ in range(4)])
        tiles /= tiles.std(axis=(1, 2), keepdims=True)
        # One texel more around, so that interpolation wraps.
        self._tile = F.pad(torch.from_numpy(tiles.clip(-3, 3)).float()[None], (1, 1, 1, 1), mode="circular").to(device)
        self._cells = torch.from_numpy(generator.random((4096, 4))).float().to(device)

    def at(self, coordinates: torch.Tensor, wavelength_m: float) -> torch.Tensor:
        """Noise `[N, 4]` at points `[N, 2]` of a surface, features about `wavelength_m` wide."""
        tile = torch.remainder(coordinates / (wavelength_m * _PERIODS), 1.0)
        grid = ((tile * _SIZE + 1.0) / (_SIZE + 2) * 2 - 1)[None, None]
        return F.grid_sample(self._tile, grid, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0].T

    def octaves(
        self, coordinates: torch.Tensor, wavelength_m: float, footprint_m: torch.Tensor, count: int = 3, gain: float = 0.7
    ) -> torch.Tensor:
        """A sum `[N, 4]` of octaves, each about 3.7 times finer than the one before and faded where a pixel's footprint `[N]` covers it."""
        total, amplitude = torch.zeros((len(coordinates), 4), device=coordinates.device), 1.0
        for _ in range(count):
            # Turned and shifted, so that the octaves' tiles never line up.
            turned = torch.stack([coordinates[:, 0] * 0.8 - coordinates[:, 1] * 0.6, coordinates[:, 0] * 0.6 + coordinates[:, 1] * 0.8], 1)
            coordinates = turned + 0.37 * wavelength_m
            total = total + amplitude * self.at(coordinates, wavelength_m) * fade(footprint_m, wavelength_m)[:, None]
            wavelength_m, amplitude = wavelength_m / 3.7, amplitude * gain
        return total

    def cell(self, *indices: torch.Tensor) -> torch.Tensor:
        """Four uniform numbers `[N, 4]` that belong to a cell named by whole numbers `[N]` (any float or integer tensors)."""
        key = torch.zeros(len(indices[0]), dtype=torch.int64, device=indices[0].device)
        for prime, index in zip((73856093, 19349663, 83492791, 2971215073), indices):
            key = key ^ (index.to(torch.int64) * prime)
        return self._cells[(key ^ (key >> 13)) % 4096]


def fade(footprint_m: torch.Tensor, wavelength_m: float) -> torch.Tensor:
    """How much of a pattern's contrast is left when a pixel covers `footprint_m`: 1 below a quarter of the wavelength, 0 above it."""
    x = ((wavelength_m - footprint_m) / (0.75 * wavelength_m)).clamp(0, 1)
    return x * x * (3 - 2 * x)


def band(value: torch.Tensor, low: torch.Tensor | float, high: torch.Tensor | float, footprint: torch.Tensor) -> torch.Tensor:
    """Coverage of an interval by a box filter of the pixel's footprint: 1 inside, 0 outside, between on the edges."""
    half = 0.5 * footprint.clamp(min=1e-4)
    upper = torch.minimum(value + half, torch.as_tensor(high, device=value.device, dtype=value.dtype))
    lower = torch.maximum(value - half, torch.as_tensor(low, device=value.device, dtype=value.dtype))
    return ((upper - lower) / (2 * half)).clamp(0, 1)


def joints(value: torch.Tensor, pitch: torch.Tensor | float, width: float, footprint: torch.Tensor) -> torch.Tensor:
    """Coverage of lines `width` wide around every multiple of `pitch`, box-filtered; far away it goes to the mean coverage."""
    distance = (torch.remainder(value / pitch + 0.5, 1.0) - 0.5) * pitch
    near = band(distance, -0.5 * width, 0.5 * width, footprint)
    share = (footprint / pitch).clamp(0, 1)
    return near * (1 - share) + (width / pitch) * share


def blend(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`a` where `weight [N]` is 0, `b` where it is 1; colours are `[N, 3]` or `[3]`."""
    w = weight[:, None]
    return a * (1 - w) + b * w
