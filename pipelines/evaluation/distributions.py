"""KID, FID and FVD: how far rendered frames, or stretches of them, are as a set from real ones of other poses.

They look at features of the networks of their papers, which must be on this machine (torch-fidelity's Inception, and for FVD an I3D as
TorchScript, in torch's hub cache); without them they are reported as missing, never as a number.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from splatmend.datasets.image_metrics import float32_convolutions, hub_checkpoints

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
I3D_FILE = "i3d_torchscript.pt"
I3D_FRAMES, I3D_SIDE_PX, I3D_FEATURES = 16, 224, 400
I3D_STRIDE = 8
"""Frames from the start of one stretch to that of the next."""
KID_SUBSETS, KID_SUBSET_SIZE = 100, 50


class FrameSet(Protocol):
    """Gathers real frames once, then the frames of one clip after another. Frames are `[H, W, 3]` uint8."""

    def add_real(self, frame: np.ndarray) -> None: ...

    def add(self, frame: np.ndarray) -> None: ...

    def value(self) -> float | None:
        """The distance of the clip's frames from the real ones, None for fewer than two of either; forgets the clip's."""
        ...


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


def i3d_available() -> bool:
    """Whether FVD's network is on this machine (nothing is downloaded)."""
    return (hub_checkpoints() / I3D_FILE).is_file()


class I3dFeatures(torch.nn.Module):
    """The 400 logits of the I3D network (Kinetics-400) that FVD is defined by; takes stretches `[B, 3, 16, 224, 224]` in [-1, 1].

    The file is the TorchScript one that most code for FVD loads, whose `forward` takes `rescale`, `resize` and `return_features`.
    """

    num_features = I3D_FEATURES

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.network = torch.jit.load(str(path), map_location="cpu").eval()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network(clips, rescale=False, resize=False, return_features=True)
        return features


@functools.lru_cache(maxsize=1)
def i3d() -> I3dFeatures:
    """The network of FVD; see `i3d_available`."""
    return I3dFeatures(hub_checkpoints() / I3D_FILE)


class VideoSet:
    """A `FrameSet` of stretches of 16 frames, half overlapping: FVD (Unterthiner et al. 2019), the distance of FID between features of
    stretches, by torchmetrics. It is biased upwards for few stretches: compare clips of equal lengths only."""

    def __init__(self, features: torch.nn.Module, device: torch.device) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.device = device
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.distance: Any = FrechetInceptionDistance(feature=features, reset_real_features=False).to(device)
        self._held: dict[bool, list[torch.Tensor]] = {True: [], False: []}
        self._stretches = {True: 0, False: 0}

    def add_real(self, frame: np.ndarray) -> None:
        self._add(frame, real=True)

    def add(self, frame: np.ndarray) -> None:
        self._add(frame, real=False)

    def value(self) -> float | None:
        enough = min(self._stretches.values()) >= 2
        value = float(self.distance.compute()) if enough else None
        self._held[False], self._stretches[False] = [], 0
        self.distance.reset()
        return value

    def _add(self, frame: np.ndarray, *, real: bool) -> None:
        held = self._held[real]
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(self.device).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        size = (I3D_SIDE_PX, I3D_SIDE_PX)
        held.append(torch.nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)[0])
        if len(held) == I3D_FRAMES:
            with torch.no_grad():
                self.distance.update(torch.stack(held, dim=1)[None], real=real)
            self._stretches[real] += 1
            del held[:I3D_STRIDE]


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
