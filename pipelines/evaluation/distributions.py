"""KID and FID: how far rendered frames are, as a set, from real frames of other poses.

Both look at features of the Inception network of their papers, which must be on this machine (torch-fidelity, with its weights in torch's
hub cache); without it they are reported as missing, never as a number.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from typing import Any, Literal

import numpy as np
import torch

from splatmend.datasets.image_metrics import float32_convolutions, hub_checkpoints

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
KID_SUBSETS, KID_SUBSET_SIZE = 100, 50


def inception_available() -> bool:
    """Whether the network and its weights are on this machine (nothing is downloaded)."""
    return importlib.util.find_spec("torch_fidelity") is not None and (hub_checkpoints() / INCEPTION_FILE).is_file()


@functools.lru_cache(maxsize=1)
def inception() -> torch.nn.Module:
    """The network up to its 2048 pooled features; takes `[B, 3, H, W]` uint8."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(hub_checkpoints() / INCEPTION_FILE))
    network.num_features = 2048
    return network


class InceptionSet:
    """A `FrameSet` by torchmetrics. KID is the unbiased squared distance (Binkowski et al. 2018) times 1000, the mean over subsets drawn
    with a fixed seed; FID is Heusel et al. 2017 (biased upwards for clips of few frames: compare equal lengths only)."""

    def __init__(self, kind: Literal["kid", "fid"], features: torch.nn.Module, device: torch.device) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        self.kind, self.device = kind, device
        self.real_count = self.count = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: Any = (
                KernelInceptionDistance(feature=features, subsets=KID_SUBSETS, subset_size=2, reset_real_features=False)
                if kind == "kid"
                else FrechetInceptionDistance(feature=features, reset_real_features=False)
            )
        self.distance: Any = made.to(device)

    def add_real(self, frame: np.ndarray) -> None:
        self._update(frame, real=True)
        self.real_count += 1

    def add(self, frame: np.ndarray) -> None:
        self._update(frame, real=False)
        self.count += 1

    def value(self) -> float | None:
        fewest = min(self.count, self.real_count)
        self.count = 0
        if fewest < 2:
            self.distance.reset()
            return None
        if self.kind == "fid":
            value = float(self.distance.compute())
        else:
            self.distance.subset_size = min(KID_SUBSET_SIZE, fewest)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                value = 1000.0 * float(self.distance.compute()[0])
        self.distance.reset()
        return value

    def _update(self, frame: np.ndarray, *, real: bool) -> None:
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(self.device).permute(2, 0, 1)[None]
        with float32_convolutions():
            self.distance.update(pixels, real=real)
