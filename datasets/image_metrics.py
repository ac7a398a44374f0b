"""Picture scores, each by a well-kept library: PSNR, SSIM, MS-SSIM, GMSD, HaarPSI (network-free) and LPIPS.

LPIPS needs a network's weights in torch's hub cache; without them it is reported as missing, never as a number.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from splatmend.datasets.ssim import SSIM_SIDE_PX

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

    # The first use of a network must not change what whoever uses it draws next, else a resumed training goes another way.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net=net, verbose=False).eval().to(device)
    return network.requires_grad_(False)


@contextmanager
def float32_convolutions() -> Iterator[None]:
    """CUDA convolutions in full float32 within the block: TF32 keeps ten bits, too few for the differences of squares in SSIM. What was
    set before holds again afterwards."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def dists_available() -> bool:
    """Whether torchmetrics has DISTS (from 1.7 on, with its weights), and VGG-16's weights are on this machine."""
    found = importlib.util.find_spec("torchmetrics.functional.image.dists") is not None
    return found and (hub_checkpoints() / BACKBONE_FILES["vgg"]).is_file()


@functools.lru_cache(maxsize=2)
def dists_network(device: str = "cpu") -> torch.nn.Module:
    """The DISTS network, frozen. Input: two `[B, 3, H, W]` in [0, 1]. Source: Ding et al. 2020, by torchmetrics."""
    from torchmetrics.functional.image.dists import DISTSNetwork

    return DISTSNetwork().eval().to(device).requires_grad_(False)


LPIPS_SIDE_PX, HAARPSI_SIDE_PX = 32, 16
"""Shortest side that pictures need for a score: below it pooling, or a window, leaves nothing."""


def frame_scores(
    picture: torch.Tensor, truth: torch.Tensor, *, usable: torch.Tensor | None = None, lpips_net: LpipsNet | None = "squeeze"
) -> dict[str, float]:
    """Scores of one frame `[H, W, 3]` in [0, 1] against the truth on the same device, where all is reckoned: psnr (dB), and, where pictures
    are large enough, ssim, and lpips where its network is at hand.

    SSIM is torchmetrics' (gaussian window 11, sigma 1.5, data range 1).

    Only pixels that are `usable` (bool `[H, W]`; None: all) are scored. PSNR is of their mean squared error. What looks at windows sees the
    truth in place of the others, and its mean is over the windows around usable pixels; where these are scattered it sees much that is
    right, and scores are too good. Where none is usable there are no scores.
    """
    if usable is not None:
        if not bool(usable.any()):
            return {}
        picture = torch.where(usable[..., None], picture, truth)
    from torchmetrics.functional.image import structural_similarity_index_measure

    a = picture.detach().float().clamp(0, 1).permute(2, 0, 1)[None]
    b = truth.detach().float().clamp(0, 1).permute(2, 0, 1)[None]
    mse = float(torch.mean((a - b) ** 2 if usable is None else ((a - b) ** 2)[..., usable]))
    scores = {"psnr": 10.0 * math.log10(1.0 / max(mse, 1e-10))}
    side = min(a.shape[-2:])
    with float32_convolutions(), torch.no_grad():
        if side >= SSIM_SIDE_PX:
            mean, windows = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
            scores["ssim"] = float(mean if usable is None else windows[..., usable].mean())
        if side >= LPIPS_SIDE_PX and lpips_net is not None and lpips_available(lpips_net):
            scores["lpips"] = lpips_score(lpips_net, a, b, usable)
    return scores


def lpips_score(net: LpipsNet, picture: torch.Tensor, truth: torch.Tensor, usable: torch.Tensor | None = None) -> float:
    """LPIPS of pictures `[1, 3, H, W]` in [0, 1]; where not all pixels are `usable` (`[H, W]`), the mean of its map over those."""
    network = lpips_network(net, str(picture.device))
    if usable is None or bool(usable.all()):
        return float(network(picture * 2 - 1, truth * 2 - 1))
    by_pixel: Any = copy.copy(network)
    by_pixel.spatial = True
    return float(by_pixel(picture * 2 - 1, truth * 2 - 1)[0, 0][usable].mean())


def network_free_scores(picture: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """MS-SSIM, GMSD (lower is better) and HaarPSI of one frame `[H, W, 3]` in [0, 1], by piq, where pictures are large enough."""
    import piq

    a = picture.detach().float().clamp(0, 1).permute(2, 0, 1)[None]
    b = truth.detach().float().clamp(0, 1).permute(2, 0, 1)[None]
    side = min(a.shape[-2:])
    scores: dict[str, float] = {}
    with float32_convolutions(), torch.no_grad():
        if side >= HAARPSI_SIDE_PX:
            scores |= {"gmsd": float(piq.gmsd(a, b, data_range=1.0)), "haarpsi": float(piq.haarpsi(a, b, data_range=1.0))}
        if side > 160:  # five scales of an 11-pixel window
            scores["ms_ssim"] = float(piq.multi_scale_ssim(a, b, data_range=1.0))
    return scores


def mean_scores(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each score over the frames that have it."""
    names = sorted({name for row in rows for name in row})
    return {name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows) for name in names}
