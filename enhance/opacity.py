"""Where a render is empty, noise in its latents: a network that always gives the same for the same cannot invent out of nothing.

After the opacity-aware input of ArtiFixer. A latent z whose pixels have the mean opacity o becomes `a z + sqrt(1 - a^2) n` with
`a = 1 - s (1 - o)`, unit noise n and the enhancer's share s (`EnhancerSpec.opacity_noise`): as it was where all is opaque, and, with s = 1,
noise alone where nothing is. Latents are normalised, so their variance stays. Sky has no opacity either: it is drawn behind the scene.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

SEED = 20_211
"""Of the noise that clips are enhanced with; training draws anew in each step."""


def latent_opacity(opacity: torch.Tensor, temporal_factor: int, spatial_factor: int) -> torch.Tensor:
    """The mean opacity `[B, 1, L, h, w]` of what each latent is made of: `[B, 1, T, H, W]` in [0, 1], T = 1 + k * temporal_factor. The
    first frame makes a latent alone, as causal autoencoders have it."""
    small = F.avg_pool3d(opacity.float(), (1, spatial_factor, spatial_factor))
    groups = [small[:, :, :1]]
    if opacity.shape[2] > 1:
        groups.append(F.avg_pool3d(small[:, :, 1:], (temporal_factor, 1, 1)))
    return torch.cat(groups, dim=2)


def group_opacity(opacity: torch.Tensor, spatial_factor: int) -> torch.Tensor:
    """The mean opacity `[B, 1, 1, h, w]` of one group's frames `[B, 1, t, H, W]`: its part of `latent_opacity`."""
    return F.avg_pool3d(opacity.float(), (1, spatial_factor, spatial_factor)).mean(dim=2, keepdim=True)


def with_noise(latents: torch.Tensor, opacity: torch.Tensor, share: float, noise: torch.Tensor) -> torch.Tensor:
    """Latents `[B, C, L, h, w]` mixed with unit noise of the same shape where their opacity `[B, 1, L, h, w]` is below 1."""
    kept = 1.0 - share * (1.0 - opacity.clamp(0.0, 1.0))
    return kept * latents + (1.0 - kept * kept).sqrt() * noise


def fixed_noise(latents: torch.Tensor, numbers: Iterable[int]) -> torch.Tensor:
    """Unit noise for latents `[B, C, L, h, w]` that are those of these numbers in their clip. It follows from number and size alone, so
    that a stream gets what a whole clip does, and a clip the same each time and on every device."""
    shape = (1, latents.shape[1], 1, *latents.shape[3:])
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(SEED + number)) for number in numbers]
    return torch.cat(drawn, dim=2).to(latents.device, latents.dtype).expand_as(latents)
