"""Smaller pictures to begin with: how small those of an iteration are, and what changes with their size.

Which size an iteration has depends on its number alone, so that a fit which goes on after an interruption, and each of several processes,
comes to the same. Splatfacto of nerfstudio does the like: two halvings, each undone after a tenth of its iterations, pictures made smaller
by the mean over the area.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.config import SMALLEST_SIDE, CoarseConfig


class CoarseSchedule:
    """How often the sides of pictures are halved. Several processes take a step of so many iterations, whose pictures are of one kind."""

    def __init__(self, config: CoarseConfig, iterations: int, cameras: Iterable[Camera], processes: int = 1) -> None:
        self.full_from = config.until * iterations
        self.first = min(config.halvings, *(_most_halvings(camera) for camera in cameras))
        self.processes = processes

    def halvings(self, iteration: int) -> int:
        """Of the picture of an iteration."""
        begin = iteration - iteration % self.processes
        if begin >= self.full_from:
            return 0
        return self.first - int(begin * self.first / self.full_from)


def halved(camera: Camera, halvings: int) -> Camera:
    """The camera with pictures whose sides are halved so often, rounded."""
    if halvings == 0:
        return camera
    return camera.resized(*(max(1, round(side * 0.5**halvings)) for side in (camera.width, camera.height)))


def halved_shot(shot: Shot, halvings: int) -> Shot:
    """The shot by a camera that is `halved`."""
    return shot if halvings == 0 else replace(shot, camera=halved(shot.camera, halvings))


def _most_halvings(camera: Camera) -> int:
    found = 0
    while min((small := halved(camera, found + 1)).width, small.height) >= SMALLEST_SIDE:
        found += 1
    return found


def coarser_targets(pixels: np.ndarray, depth_m: np.ndarray, full: Camera, small: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of pixels and their depths `[P]` in a smaller picture of the same camera; of several in one pixel the nearest."""
    rows, columns = np.divmod(pixels.astype(np.int64), full.width)
    # The middle of a pixel lies in this one of the smaller picture.
    rows = ((2 * rows + 1) * small.height) // (2 * full.height)
    columns = ((2 * columns + 1) * small.width) // (2 * full.width)
    flat = rows * small.width + columns
    order = np.lexsort((depth_m, flat))
    first = np.unique(flat[order], return_index=True)[1]
    return flat[order][first].astype(pixels.dtype), depth_m[order][first]
