"""Layers of references that lie a little aside: what a scene with wrong depth, or wrong poses, gives.

Pairs come from scenes whose geometry is mostly right, so a fusion that has seen them alone believes layers where they lie. Real logs
have facades whose depth is off by pixels.

Shape letters: T frames, H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from splatmend.enhance.train.mixture import smooth_field

_SEEN = 254.5
_SHIFT_ALONE = 0.3


def draw_displacement(rng: np.random.Generator, shape: tuple[int, ...], most_px: float) -> np.ndarray:
    """How far aside each pixel of a layer lies, `[T, H, W, 2]` float32 in pixels (across, down), no longer than `most_px`: in some samples
    one shift for all, in the others a smooth field over picture and clip. `shape`: frames, rows and columns of the clip."""
    most = most_px * float(rng.random())
    if rng.random() < _SHIFT_ALONE:
        angle = 2 * np.pi * float(rng.random())
        shift = np.array([most * np.cos(angle), most * np.sin(angle)], np.float32)
        return np.broadcast_to(shift, (*shape[:3], 2)).copy()
    field = np.concatenate([smooth_field(rng, shape, contrast=(1.0, 2.0), middle=(0.3, 0.7)) for _ in range(2)], axis=-1)
    aside = most * (2.0 * field - 1.0)
    length = np.linalg.norm(aside, axis=-1, keepdims=True)
    return (aside * np.minimum(1.0, most / np.maximum(length, 1e-6))).astype(np.float32)


def displaced(layer: np.ndarray, aside_px: np.ndarray) -> np.ndarray:
    """A layer of references `[T, H, W, 4]` uint8 (0 where alpha is not 255), moved: each pixel shows what lies `aside_px [T, H, W, 2]`
    from it. Seen is what was wholly seen there."""
    _, height, width, _ = layer.shape
    down, across = np.mgrid[:height, :width].astype(np.float32)
    moved = np.zeros_like(layer)
    for number, (frame, aside) in enumerate(zip(layer, aside_px, strict=True)):
        x, y = across + aside[..., 0], down + aside[..., 1]
        # Cubic, so that layers stay sharp; divided by what was seen of the window, since black lies beyond.
        fine = cv2.remap(frame.astype(np.float32), x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
        seen = cv2.remap(frame[..., 3].astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT) > _SEEN
        colours = fine[..., :3] * (255.0 / np.where(seen, fine[..., 3], 255.0))[..., None]
        moved[number, ..., :3] = np.where(seen[..., None], np.rint(np.clip(colours, 0.0, 255.0)), 0.0)
        moved[number, ..., 3] = np.where(seen, 255, 0)
    return moved
