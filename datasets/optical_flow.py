"""Optical flow between consecutive pictures.

A flow `[H, W, 2]` float32 goes from each pixel of the present picture to where the same point was in the previous one, in pixels (x, y);
`visible [H, W]` bool says where the point could be seen in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np


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
    return Flow(xy_px=back, visible=(mismatch < bound) & stays_inside(back), source="DIS")


def stays_inside(xy: np.ndarray) -> np.ndarray:
    """Where a flow `[H, W, 2]` ends in the picture, `[H, W]` bool."""
    rows, columns = np.mgrid[0 : xy.shape[0], 0 : xy.shape[1]]
    x, y = columns + xy[..., 0], rows + xy[..., 1]
    return (x >= 0) & (y >= 0) & (x <= xy.shape[1] - 1) & (y <= xy.shape[0] - 1)
