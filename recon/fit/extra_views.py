"""Pictures of places where no camera stood, to be fitted beside the log's frames where nothing recorded says better."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from splatmend.datasets.shot import Shot


@dataclass(frozen=True, kw_only=True)
class ExtraView:
    """A picture that no camera took.

    `shot` is where and when it is seen from, as the scene's splat model draws it. `read_rgb` gives `[H, W, 3]` uint8 (sRGB, with the
    exposure that the scene's table has for that camera and time), `read_weight` how much each pixel counts, `[H, W]` uint8: 0 not at
    all, 255 fully.
    """

    shot: Shot
    read_rgb: Callable[[], np.ndarray]
    read_weight: Callable[[], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ExtraSample:
    """An extra view's picture and weights on the device of the fit."""

    rgb: UInt8[Tensor, "H W 3"]
    weight: UInt8[Tensor, "H W"]

    @property
    def nbytes(self) -> int:
        return self.rgb.numel() + self.weight.numel()


class ExtraViews:
    """Extra views by their numbers, read when they are due and kept while they fit into `cache_mib`."""

    def __init__(self, views: Sequence[ExtraView], device: torch.device, cache_mib: int) -> None:
        self.views = tuple(views)
        self.device = device
        self.room = cache_mib * 2**20
        self.held: OrderedDict[int, ExtraSample] = OrderedDict()

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, number: int) -> tuple[Shot, ExtraSample]:
        """A view's shot and what it shows; `ValueError` where the picture is not of the camera's size."""
        view = self.views[number]
        if number in self.held:
            self.held.move_to_end(number)
            return view.shot, self.held[number]
        sample = self._read(view)
        self.held[number] = sample
        self.room -= sample.nbytes
        while self.room < 0 and len(self.held) > 1:
            self.room += self.held.popitem(last=False)[1].nbytes
        return view.shot, sample

    def _read(self, view: ExtraView) -> ExtraSample:
        size = (view.shot.camera.height, view.shot.camera.width)
        rgb, weight = view.read_rgb(), view.read_weight()
        if rgb.shape[:2] != size or weight.shape != size:
            raise ValueError(f"an extra view of {rgb.shape[:2]} pixels with weights of {weight.shape} for a camera of {size}")
        return ExtraSample(
            rgb=torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device),
            weight=torch.from_numpy(np.ascontiguousarray(weight)).to(self.device),
        )
