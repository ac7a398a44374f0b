"""Picture scores, each by a well-kept library: PSNR, SSIM, MS-SSIM, GMSD, HaarPSI (network-free) and LPIPS.

LPIPS needs a network's weights in torch's hub cache; without them it is reported as missing, never as a number.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Literal

import torch

LpipsNet = Literal["squeeze", "alex", "vgg"]
# File names under which torchvision looks for the backbones in the hub cache.
BACKBONE_FILES = {"squeeze": "squeezenet1_1-b8a52dc0.pth", "alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


def hub_checkpoints() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def lpips_available(net: LpipsNet = "squeeze") -> bool:
    """Whether the backbone's weights are on this machine (nothing is downloaded)."""
    return (hub_checkpoints() / BACKBONE_FILES[net]).is_file()


@functools.lru_cache(maxsize=4)
def lpips_network(net: LpipsNet = "squeeze", device: str = "cpu") -> torch.nn.Module:
    """The LPIPS network in evaluation mode, its parameters frozen. Input: `[B, 3, H, W]` in [-1, 1]. Source: Zhang et al. 2018."""
    import warnings

    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net=net, verbose=False).eval().to(device)
    return network.requires_grad_(False)


LPIPS_SIDE_PX, SSIM_SIDE_PX, HAARPSI_SIDE_PX = 32, 11, 16
"""Shortest side that pictures need for a score: below it pooling, or a window, leaves nothing."""


def frame_scores(picture: torch.Tensor, truth: torch.Tensor, *, lpips_net: LpipsNet | None = "squeeze") -> dict[str, float]:
    """Scores of one frame `[H, W, 3]` in [0, 1] against the truth: psnr (dB), and, where pictures are large enough,
    ssim, and lpips where its network is at hand.

    SSIM is torchmetrics' (gaussian window 11, sigma 1.5, data range 1).
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    a = picture.detach().float().clamp(0, 1).permute(2, 0, 1)[None]
    b = truth.detach().float().clamp(0, 1).permute(2, 0, 1)[None]
    mse = float(torch.mean((a - b) ** 2))
    scores = {"psnr": 10.0 * math.log10(1.0 / max(mse, 1e-10))}
    side = min(a.shape[-2:])
    if side >= SSIM_SIDE_PX:
        scores["ssim"] = float(torch.as_tensor(structural_similarity_index_measure(a, b, data_range=1.0)))
    if side >= LPIPS_SIDE_PX and lpips_net is not None and lpips_available(lpips_net):
        with torch.no_grad():
            scores["lpips"] = float(lpips_network(lpips_net, str(a.device))(a * 2 - 1, b * 2 - 1))
    return scores


def structural_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SSIM `[N]` of pictures `[N, C, H, W]` in [0, 1] with gradients, mean over the windows that lie inside (Wang et al. 2004; window 11,
    sigma 1.5). Sides must be at least 11."""
    x = torch.arange(-5, 6, dtype=a.dtype, device=a.device)
    weights = torch.exp(-(x**2) / (2 * 1.5**2))
    with torch.autocast(a.device.type, enabled=False):
        maps = torch.cat([a, b, a * a, b * b, a * b], dim=1)
        window = (weights / weights.sum()).expand(maps.shape[1], 1, 11)
        rows = torch.nn.functional.conv2d(maps, window[:, :, :, None], groups=maps.shape[1])
        blurred = torch.nn.functional.conv2d(rows, window[:, :, None, :], groups=maps.shape[1])
        mean_a, mean_b, mean_aa, mean_bb, mean_ab = blurred.split(a.shape[1], dim=1)
        variance_a, variance_b = mean_aa - mean_a**2, mean_bb - mean_b**2
        covariance = mean_ab - mean_a * mean_b
        c1, c2 = 0.01**2, 0.03**2
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        return (luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)).mean(dim=(1, 2, 3))


def network_free_scores(picture: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """MS-SSIM, GMSD (lower is better) and HaarPSI of one frame `[H, W, 3]` in [0, 1], by piq, where pictures are large enough."""
    import piq

    a = picture.detach().float().clamp(0, 1).permute(2, 0, 1)[None]
    b = truth.detach().float().clamp(0, 1).permute(2, 0, 1)[None]
    side = min(a.shape[-2:])
    scores: dict[str, float] = {}
    if side >= HAARPSI_SIDE_PX:
        scores |= {"gmsd": float(piq.gmsd(a, b, data_range=1.0)), "haarpsi": float(piq.haarpsi(a, b, data_range=1.0))}
    if side > 160:  # five scales of an 11-pixel window
        scores["ms_ssim"] = float(piq.multi_scale_ssim(a, b, data_range=1.0))
    return scores


def mean_scores(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each score over the frames that have it."""
    names = sorted({name for row in rows for name in row})
    return {name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows) for name in names}
