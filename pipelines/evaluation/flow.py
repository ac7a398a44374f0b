"""Optical flow between consecutive true frames: estimated (OpenCV DIS) or exact (depth, poses and tracks of a procedural street).

A flow `[H, W, 2]` float32 goes from each pixel of the present frame to where the same point was in the previous frame, in pixels (x, y);
`visible [H, W]` bool says where the point could be seen in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from splatmend.datasets.shot import Shot
from splatmend.pipelines.evaluation.readout import project_by_line, surface_points


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Flow from the present frame to the previous one; `source` names how it was found."""

    xy_px: np.ndarray
    visible: np.ndarray
    source: Literal["DIS", "exact"]

    def warp(self, previous: np.ndarray) -> np.ndarray:
        """The previous picture `[H, W, 3]` float32 as the present one would see it (bilinear)."""
        rows, columns = np.mgrid[0 : previous.shape[0], 0 : previous.shape[1]].astype(np.float32)
        return cv2.remap(
            previous, columns + self.xy_px[..., 0], rows + self.xy_px[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )


def estimated_flow(previous: np.ndarray, present: np.ndarray) -> Flow:
    """Dense inverse search (Kroeger et al. 2016, OpenCV) between two frames `[H, W, 3]` uint8.

    A pixel is visible where flow there and back agree: |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5 (Sundaram et al. 2010). Of pictures too small
    for the search nothing is visible.
    """
    if max(present.shape[:2]) < 12:  # the search's own limit
        return Flow(xy_px=np.zeros((*present.shape[:2], 2), np.float32), visible=np.zeros(present.shape[:2], bool), source="DIS")
    search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey_previous, grey_present = (cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2GRAY) for x in (previous, present))
    back = search.calc(grey_present, grey_previous, None)
    forth = search.calc(grey_previous, grey_present, None)
    returned = Flow(xy_px=back, visible=np.ones(back.shape[:2], bool), source="DIS").warp(forth)
    mismatch = np.sum((back + returned) ** 2, axis=-1)
    bound = 0.01 * (np.sum(back**2, axis=-1) + np.sum(returned**2, axis=-1)) + 0.5
    return Flow(xy_px=back, visible=(mismatch < bound) & _inside(back), source="DIS")


def exact_flow(
    shot: Shot,
    previous: Shot,
    depth_m: np.ndarray,
    previous_depth_m: np.ndarray,
    previous_from_present: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Flow:
    """Flow of what an oracle sees.

    Args:
        depth_m, previous_depth_m: camera z `[H, W]` in metres, 0 or infinite where there is sky.
        previous_from_present: moves the surface points `[H, W, 3]` (world, metres) of the present frame to where they were before;
            None where nothing moves.

    Sky pixels are not visible. A point is hidden where the previous frame sees something more than 2 % + 5 cm nearer.
    """
    height, width = depth_m.shape
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    surface = np.isfinite(depth_m) & (depth_m > 0)
    points = surface_points(shot, centres.reshape(-1, 2), np.where(surface, depth_m, 1.0).reshape(-1)).reshape(height, width, 3)
    if previous_from_present is not None:
        points = previous_from_present(points)
    pixels, z, _ = project_by_line(previous, points)
    xy = (pixels - centres).astype(np.float32)
    xy = np.nan_to_num(xy, nan=1e6, posinf=1e6, neginf=-1e6)
    seen_depth = np.where(np.isfinite(previous_depth_m) & (previous_depth_m > 0), previous_depth_m, 1e6).astype(np.float32)
    seen = Flow(xy_px=xy, visible=surface, source="exact").warp(seen_depth)
    return Flow(xy_px=xy, visible=surface & (z > 0) & _inside(xy) & (seen > z * 0.98 - 0.05), source="exact")


def _inside(xy: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[0 : xy.shape[0], 0 : xy.shape[1]]
    x, y = columns + xy[..., 0], rows + xy[..., 1]
    return (x >= 0) & (y >= 0) & (x <= xy.shape[1] - 1) & (y <= xy.shape[0] - 1)
