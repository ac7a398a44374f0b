"""Boxes of actors in a picture."""

from __future__ import annotations

import cv2
import numpy as np

from splatmend.datasets.geometry import box_corners, transform
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.shot import Shot
from splatmend.pipelines.evaluation.readout import project_by_line

_NEAREST_M = 0.1
_STEPS = 16  # edges as points: distortion and shutters bend them, and the camera's plane may cut them


def outline_px(shot: Shot, world_from_actor: np.ndarray, size_m: tuple[float, float, float]) -> np.ndarray:
    """The convex outline `[N, 2]` float64 of a box in the picture's pixels, which may reach beyond the picture; `[0, 2]` where none of it
    stands before the camera.

    Args:
        world_from_actor: pose `[4, 4]` of the box's centre.
        size_m: length, width and height.
    """
    corners = transform(world_from_actor, box_corners(size_m))
    edges = [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)]
    along = np.linspace(0.0, 1.0, _STEPS)[:, None]
    points = np.concatenate([corners[a] * (1 - along) + corners[b] * along for a, b in edges])
    pixels, depth_m, _ = project_by_line(shot, points)
    usable = np.isfinite(pixels).all(-1) & (depth_m > _NEAREST_M)
    if usable.sum() < 3:
        return np.zeros((0, 2))
    return cv2.convexHull(pixels[usable].astype(np.float32))[:, 0].astype(np.float64)


def actor_outline_px(shot: Shot, actor: ActorTrack) -> np.ndarray:
    """`outline_px` of an actor's box when the picture is taken; `[0, 2]` too where it is not labelled then."""
    if not actor.is_labelled(shot.mid_us):
        return np.zeros((0, 2))
    return outline_px(shot, actor.world_from_actor(shot.mid_us), actor.size_m)


def filled(outline: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels `[H, W]` bool inside an outline `[N, 2]`."""
    mask = np.zeros(shape, np.uint8)
    if len(outline) >= 3:
        height, width = shape
        # Far beyond the picture OpenCV's integers would overflow; so far out the outline's sides look straight all the same.
        ends = np.clip(outline - 0.5, (-8.0 * width, -8.0 * height), (9.0 * width, 9.0 * height))
        cv2.fillConvexPoly(mask, np.rint(ends).astype(np.int32), 1)
    return mask.astype(bool)
